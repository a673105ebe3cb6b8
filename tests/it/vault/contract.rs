//! The contract of a vault, run on every adapter. Ten lines per adapter, one suite.

use std::sync::Arc;

use lifeboat::domain::VaultDocument;
use lifeboat::domain::layout::ObjectKey;
use lifeboat::seal::seal_stream::{SealOptions, SealedPart, seal_stream};
use lifeboat::seal::{BackupIdentity, SealProof, SourceEnd};
use lifeboat::vault::directory::DirectoryVault;
use lifeboat::vault::{Vault, VaultError, fetch};

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

/// Sealed parts and their proof: the only way to get any.
async fn sealed(
    plain: Vec<u8>,
    part_bytes: usize,
    parts_per_object_max: usize,
) -> (Vec<SealedPart>, SealProof) {
    let sealing = SealOptions { levels: (1, 1), compressors: 1, part_bytes, parts_per_object_max };
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let pouring = seal_stream(
        std::io::Cursor::new(plain),
        || Some(SourceEnd::of_memory()),
        (),
        &BackupIdentity::generate(),
        sealing,
        sender,
    );
    let mut parts = Vec::new();
    while let Some(part) = receiver.recv().await {
        parts.push(part);
    }
    let (proof, ()) = pouring.outcome().await.unwrap();
    (parts, proof)
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(32))
        .flat_map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes())
        .take(bytes)
        .collect()
}

/// Everything [`Vault`] promises.
pub async fn keeps_its_contract(vault: Arc<dyn Vault>) {
    let text = |text: &str| VaultDocument::restore_guide(text.to_owned());
    let (a, b) = (key("meta/db/a"), key("meta/db/b"));

    // Documents: stored once, repeated without harm, never replaced.
    assert!(vault.find(&a).await.unwrap().is_none());
    vault.put(&a, text("one")).await.unwrap();
    vault.put(&a, text("one")).await.unwrap();
    assert!(matches!(vault.put(&a, text("two")).await, Err(VaultError::Exists { .. })));
    assert_eq!(fetch::document(vault.as_ref(), &a).await.unwrap().unwrap(), "one");
    assert!(fetch::document(vault.as_ref(), &b).await.unwrap().is_none());

    // Uploads: invisible until complete, gone when aborted, found when forgotten.
    let part_bytes = vault.limits().part_bytes;
    let (parts, proof) = sealed(noise(part_bytes * 2 + 12_345), part_bytes, 100).await;
    assert_eq!(parts.len(), 3);
    let payload = key("payloads/db/p");
    let all: Vec<u8> = parts.iter().flat_map(|p| p.bytes.bytes().to_vec()).collect();
    for end in ["abort", "forget", "complete"] {
        let mut upload = vault.begin(&payload).await.unwrap();
        for part in &parts {
            upload.part(part.bytes.clone()).await.unwrap();
        }
        assert!(vault.find(&payload).await.unwrap().is_none());
        assert!(!vault.list("").await.unwrap().iter().any(|facts| facts.key == payload));
        match end {
            "abort" => {
                upload.abort().await.unwrap();
                assert_eq!(vault.unfinished().await.unwrap(), []);
            }
            // A process that died: nothing runs when it is forgotten.
            "forget" => {
                std::mem::forget(upload);
                let left = vault.unfinished().await.unwrap();
                assert_eq!(left.len(), 1);
                assert_eq!(left[0].key, payload.as_str());
                vault.discard(&left[0]).await.unwrap();
                vault.discard(&left[0]).await.unwrap();
                assert_eq!(vault.unfinished().await.unwrap(), []);
            }
            _ => upload.complete(&proof.segments()[0]).await.unwrap(),
        }
    }
    let facts = vault.find(&payload).await.unwrap().unwrap();
    assert_eq!(facts.bytes, all.len() as u64);
    let warm = facts.warm().unwrap();
    assert_eq!(vault.read(&warm, 0, all.len()).await.unwrap(), all);
    assert_eq!(vault.read(&warm, 100, 50).await.unwrap(), &all[100..150]);
    assert_eq!(vault.read(&warm, all.len() as u64 - 10, 50).await.unwrap(), &all[all.len() - 10..]);

    // The same bytes again under the name are no error; others are, and do not replace.
    let mut again = vault.begin(&payload).await.unwrap();
    for part in &parts {
        again.part(part.bytes.clone()).await.unwrap();
    }
    again.complete(&proof.segments()[0]).await.unwrap();
    let (others, other_proof) = sealed(noise(1000), part_bytes, 100).await;
    let mut other = vault.begin(&payload).await.unwrap();
    other.part(others[0].bytes.clone()).await.unwrap();
    assert!(matches!(
        other.complete(&other_proof.segments()[0]).await,
        Err(VaultError::Exists { .. })
    ));
    assert_eq!(vault.find(&payload).await.unwrap().unwrap().bytes, all.len() as u64);

    // What does not tally with the proof does not become visible.
    let short = key("payloads/db/short");
    let mut upload = vault.begin(&short).await.unwrap();
    upload.part(parts[0].bytes.clone()).await.unwrap();
    assert!(matches!(upload.complete(&proof.segments()[0]).await, Err(VaultError::Tally { .. })));
    assert!(vault.find(&short).await.unwrap().is_none());
    for left in vault.unfinished().await.unwrap() {
        vault.discard(&left).await.unwrap();
    }

    // Listing is by prefix and in order; removing twice is removing.
    vault.put(&b, text("b")).await.unwrap();
    let names = |facts: Vec<lifeboat::vault::ObjectFacts>| {
        facts.into_iter().map(|f| f.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(vault.list("meta/db/").await.unwrap()), ["meta/db/a", "meta/db/b"]);
    assert_eq!(names(vault.list("payloads/").await.unwrap()), ["payloads/db/p"]);
    vault.remove(&b).await.unwrap();
    vault.remove(&b).await.unwrap();
    assert_eq!(names(vault.list("meta/").await.unwrap()), ["meta/db/a"]);

    // Sixteen writers of one name: one wins, fifteen learn that they did not.
    let raced = key("meta/db/raced");
    let writers = (0..16).map(|n| {
        let (vault, raced) = (Arc::clone(&vault), raced.clone());
        tokio::spawn(async move {
            vault.put(&raced, VaultDocument::restore_guide(format!("writer {n}"))).await
        })
    });
    let results = futures::future::join_all(writers).await;
    let winners = results.iter().filter(|r| matches!(r, Ok(Ok(())))).count();
    assert_eq!(winners, 1, "{results:?}");

    let abilities = vault.probe(&key("probes/x")).await.unwrap();
    assert!(abilities.answers.iter().all(|a| !a.needed || a.answer == Some(true)), "{abilities:?}");
}

#[tokio::test]
async fn a_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    keeps_its_contract(Arc::new(DirectoryVault::new(&directory.path().join("vault")))).await;
}

#[tokio::test]
async fn hostile_names_in_a_listing_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let vault = DirectoryVault::new(directory.path());
    vault.put(&key("meta/db/good"), VaultDocument::probe()).await.unwrap();
    std::fs::write(directory.path().join("meta/db/bad name"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("meta/db/link")).unwrap();
    assert_eq!(vault.list("").await.unwrap().len(), 1);
    assert!(vault.find(&key("meta/db/link")).await.unwrap().is_none());
}

/// A stream too long for one object goes on in the next, and reads back as one.
#[tokio::test]
async fn a_payload_that_nears_the_limit_of_an_object_goes_on_in_the_next() {
    for extra in [0, 1, 500] {
        let identity = BackupIdentity::generate();
        let sealing = SealOptions {
            levels: (1, 1),
            compressors: 2,
            part_bytes: 1000,
            parts_per_object_max: 3,
        };
        let plain = noise(9_000 + extra);
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let pouring = seal_stream(
            std::io::Cursor::new(plain.clone()),
            || Some(SourceEnd::of_memory()),
            (),
            &identity,
            sealing,
            sender,
        );
        let mut objects: Vec<Vec<u8>> = Vec::new();
        while let Some(part) = receiver.recv().await {
            assert!(part.part <= 3 && part.bytes.len() <= 1000);
            if part.object > objects.len() {
                objects.push(Vec::new());
            }
            objects.last_mut().unwrap().extend_from_slice(part.bytes.bytes());
        }
        let (proof, ()) = pouring.outcome().await.unwrap();
        assert!(objects.len() >= 3 && objects.len() == proof.segments().len());
        let expected = proof
            .segments()
            .iter()
            .map(|s| lifeboat::seal::open::ExpectedObject {
                name: "x".into(),
                bytes: s.bytes,
                sha256: hex::encode(s.sha256),
                in_chunks: false,
            })
            .collect();
        let (chunks, receiver) = tokio::sync::mpsc::channel(objects.len());
        for object in objects {
            chunks.send(Ok(object.into())).await.unwrap();
        }
        drop(chunks);
        let read = tokio::task::spawn_blocking(move || {
            lifeboat::seal::OpenedPayload::new("x", receiver, expected, &identity)
                .unwrap()
                .read_all(1 << 20)
        })
        .await
        .unwrap()
        .unwrap();
        assert_eq!(read, plain);
    }
}

/// The end of a file is a claim; without the proof nothing is closed, and no proof comes out.
#[tokio::test]
async fn end_of_file_without_proof_yields_no_proof() {
    let sealing =
        SealOptions { levels: (1, 1), compressors: 1, part_bytes: 1000, parts_per_object_max: 100 };
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let pouring = seal_stream(
        std::io::Cursor::new(noise(5000)),
        || None,
        (),
        &BackupIdentity::generate(),
        sealing,
        sender,
    );
    while receiver.recv().await.is_some() {}
    assert!(matches!(pouring.outcome().await, Err(lifeboat::seal::SealError::SourceEndedBadly)));
}
