//! The contract of volumes, run on every adapter. Ten lines per adapter, one suite.

use std::path::Path;
use std::time::Duration;

use lifeboat::domain::volumes::{
    BLOCK_BYTES, LockKind, ResourceTags, SnapshotId, SnapshotInfo, SnapshotLock, SnapshotProgress,
    VolumeId, VolumeInfo, VolumeSelection, tag,
};
use lifeboat::volumes::{BlockPage, NewVolume, SnapshotRequest, VolumeStore, VolumesError};

/// What the suite works on: a volume under `key` with block 1 and block 4 written, and what writes
/// further blocks.
struct Subject<'a> {
    home: &'a dyn VolumeStore,
    elsewhere: &'a dyn VolumeStore,
    volume: VolumeId,
    key: String,
    other_key: String,
    zone: String,
    write: &'a dyn Fn(u32, &[u8]),
}

fn cut_of(subject: &Subject<'_>, tags: &ResourceTags) -> SnapshotRequest {
    SnapshotRequest {
        instance: None,
        volumes: vec![subject.volume.clone()],
        left_out: Vec::new(),
        without_boot: false,
        still: true,
        tags: tags.clone(),
        description: "the contract".to_owned(),
    }
}

async fn settled(place: &dyn VolumeStore, id: &SnapshotId) -> SnapshotInfo {
    for _ in 0..200 {
        let found = place.snapshots(std::slice::from_ref(id)).await.unwrap().pop().unwrap();
        if !matches!(found.progress, SnapshotProgress::Pending(_) | SnapshotProgress::Recovering) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{id} stays pending");
}

async fn volume(
    place: &dyn VolumeStore,
    tags: &ResourceTags,
    is: impl Fn(&VolumeInfo) -> bool,
) -> VolumeInfo {
    for _ in 0..200 {
        if let Some(found) = place.volumes(tags).await.unwrap().into_iter().find(&is) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no volume with {tags:?} becomes what it should");
}

async fn blocks(place: &dyn VolumeStore, id: &SnapshotId, since: Option<&SnapshotId>) -> Vec<u32> {
    let (mut found, mut page) = (Vec::new(), None);
    loop {
        let BlockPage { blocks, next } = place.blocks(id, since, page.as_deref()).await.unwrap();
        for block in blocks {
            let bytes = if block.token.is_some() {
                Some(place.read(id, &block).await.unwrap())
            } else {
                None
            };
            assert!(bytes.is_none_or(|bytes| bytes.len() == BLOCK_BYTES));
            found.push(block.index);
        }
        match next {
            Some(next) => page = Some(next),
            None => return found,
        }
    }
}

/// Everything [`VolumeStore`] promises.
async fn keeps_its_contract(subject: Subject<'_>) {
    let (home, elsewhere) = (subject.home, subject.elsewhere);
    let tags = ResourceTags::from([
        (tag::VAULT.to_owned(), "v".to_owned()),
        (tag::BACKUP.to_owned(), "b".to_owned()),
    ]);

    // Selected by id, or an error that names what is not there; an empty list is none.
    let found = home.select(&VolumeSelection::Ids(vec![subject.volume.clone()])).await.unwrap();
    assert_eq!(
        (found.len(), found[0].encrypted, found[0].key.as_ref()),
        (1, true, Some(&subject.key))
    );
    let missing =
        home.select(&VolumeSelection::Ids(vec!["vol-00000000000000000".parse().unwrap()])).await;
    assert!(
        matches!(&missing, Err(VolumesError::Missing { what, .. }) if what.contains("vol-00000000000000000")),
        "{missing:?}"
    );
    assert!(
        home.select(&VolumeSelection::Tags(ResourceTags::from([(
            "no".to_owned(),
            "body".to_owned()
        )])))
        .await
        .unwrap()
        .is_empty()
    );

    // Cut: tagged from the beginning, whole only later, under its volume's key.
    let first = home.cut(&cut_of(&subject, &tags)).await.unwrap();
    assert_eq!((first.len(), first[0].volume.as_ref()), (1, Some(&subject.volume)));
    assert_eq!(home.tagged(&tags).await.unwrap()[0].id, first[0].id);
    for _ in 0..2 {
        home.name(std::slice::from_ref(&first[0].id)).await.unwrap();
    }
    let first = settled(home, &first[0].id).await;
    assert_eq!(
        (first.progress, first.encrypted, first.key.as_ref()),
        (SnapshotProgress::Completed, true, Some(&subject.key))
    );
    assert_eq!(first.tags.get(tag::VOLUME), Some(&subject.volume.to_string()));
    let nobody: SnapshotId = "snap-00000000000000000".parse().unwrap();
    assert_eq!(
        home.snapshots(&[nobody.clone(), first.id.clone()]).await.unwrap().len(),
        1,
        "what is not there is left out"
    );

    // Blocks: ascending, as they were at the cut, and only what differs.
    assert_eq!(blocks(home, &first.id, None).await, [1, 4]);
    (subject.write)(2, b"more");
    let second = home.cut(&cut_of(&subject, &tags)).await.unwrap().remove(0);
    let second = settled(home, &second.id).await;
    assert_eq!(
        (blocks(home, &first.id, None).await, blocks(home, &second.id, None).await),
        (vec![1, 4], vec![1, 2, 4])
    );
    assert_eq!(blocks(home, &second.id, Some(&first.id)).await, [2]);

    // A copy: in the other place, under its key, the same blocks.
    let copy = elsewhere.copy(home, &second.id, &subject.other_key, &tags).await.unwrap();
    let copy = settled(elsewhere, &copy).await;
    assert_eq!(
        (copy.progress, copy.key.as_ref()),
        (SnapshotProgress::Completed, Some(&subject.other_key))
    );
    assert_eq!(blocks(elsewhere, &copy.id, None).await, [1, 2, 4]);
    assert_eq!(elsewhere.tagged(&tags).await.unwrap()[0].id, copy.id);

    // Volumes: made once for one token, found by tags, attached and let go.
    let of_restore = ResourceTags::from([(tag::RESTORE.to_owned(), "r".to_owned())]);
    let wanted = NewVolume {
        snapshot: second.id.clone(),
        zone: subject.zone.clone(),
        class: "gp3".to_owned(),
        iops: None,
        throughput: None,
        key: subject.key.clone(),
        initialization_rate: None,
        token: "the-same-wish".to_owned(),
        tags: of_restore.clone(),
    };
    let made = home.create(&wanted).await.unwrap();
    assert_eq!(home.create(&wanted).await.unwrap(), made);
    let there = volume(home, &of_restore, |one| one.state == "available").await;
    assert_eq!(
        (there.id.clone(), there.key, home.volumes(&of_restore).await.unwrap().len()),
        (made.clone(), Some(subject.key.clone()), 1)
    );
    if let Some(at) = found[0].attached.clone() {
        home.attach(&made, &at.instance, "/dev/sdp").await.unwrap();
        let attached = volume(home, &of_restore, |one| one.arrived).await.attached.unwrap();
        assert_eq!(
            (attached.instance, attached.device.as_str()),
            (at.instance.clone(), "/dev/sdp")
        );
        assert!(home.delete_volume(&made).await.is_err(), "it is attached");
        home.detach(&made).await.unwrap();
        volume(home, &of_restore, |one| one.attached.is_none()).await;
        home.detach(&made).await.unwrap();
    }
    home.delete_volume(&made).await.unwrap();
    home.delete_volume(&made).await.unwrap();

    // The archive tier: nothing is read until it is brought back.
    home.archive(&first.id).await.unwrap();
    for _ in 0..200 {
        if settled(home, &first.id).await.progress == SnapshotProgress::Archived {
            break;
        }
    }
    assert_eq!(settled(home, &first.id).await.progress, SnapshotProgress::Archived);
    assert!(home.blocks(&first.id, None, None).await.is_err());
    home.recover(&first.id, 1).await.unwrap();
    for _ in 0..200 {
        if settled(home, &first.id).await.progress == SnapshotProgress::Completed {
            break;
        }
    }
    assert_eq!(blocks(home, &first.id, None).await, [1, 4]);

    // A lock holds; it is not shortened; what is not there is deleted already.
    let lock = |days| SnapshotLock { kind: LockKind::Governance, days, cooling_off_hours: 0 };
    let held = home.lock(&second.id, &lock(5)).await.unwrap();
    assert!(home.lock(&second.id, &lock(1)).await.unwrap().until >= held.until);
    assert!(matches!(home.delete(&second.id).await, Err(VolumesError::Held { .. })));
    home.delete(&first.id).await.unwrap();
    home.delete(&first.id).await.unwrap();
    assert_eq!(home.tagged(&tags).await.unwrap().len(), 1);
}

fn write(file: &Path, index: u32, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(bytes, u64::from(index) * BLOCK_BYTES as u64 + 100).unwrap();
}

#[tokio::test]
async fn files_keep_the_contract() {
    use lifeboat::volumes::local::LocalVolumes;
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home/volumes/vol-1");
    std::fs::create_dir_all(&home).unwrap();
    let facts = r#"{"zone": "local-a", "class": "gp3", "encrypted": true, "key": "k", "attached": {"instance": "i-1", "device": "/dev/sdf", "boot": false}}"#;
    std::fs::write(home.join("volume.json"), facts).unwrap();
    let disk = home.join("disk");
    std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    for index in [1, 4] {
        write(&disk, index, b"something");
    }
    let subject = Subject {
        home: &LocalVolumes::new(&directory.path().join("home")),
        elsewhere: &LocalVolumes::new(&directory.path().join("elsewhere")),
        volume: "vol-1".parse().unwrap(),
        key: "k".to_owned(),
        other_key: "other".to_owned(),
        zone: "local-a".to_owned(),
        write: &|index, bytes| write(&disk, index, bytes),
    };
    keeps_its_contract(subject).await;
}

/// The SDK takes endpoints from its environment, which a test cannot change for itself: it runs
/// itself again.
#[cfg(feature = "ec2")]
#[test]
fn ebs_keeps_the_contract() {
    use crate::support::cloud::Cloud;
    const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111";
    let cloud = Cloud::start();
    let instance = cloud.instance("eu-west-1", "eu-west-1a");
    let volume = cloud.volume("eu-west-1", "eu-west-1a", 8 << 20, Some(KEY), &[]);
    cloud.attach("eu-west-1", &volume, &instance, "/dev/sdf");
    let disk = cloud.image(&volume);
    for index in [1, 4] {
        write(&disk, index, b"something");
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again
        .args(["--exact", "volumes::contract::ebs_within", "--ignored", "--nocapture"])
        .envs(cloud.env());
    let output =
        again.env("CONTRACT_VOLUME", &volume).env("CONTRACT_DISK", &disk).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[cfg(feature = "ec2")]
#[tokio::test]
#[ignore = "run by ebs_keeps_the_contract, in an environment that names the emulator"]
async fn ebs_within() {
    use lifeboat::domain::volumes::SetPlace;
    use lifeboat::volumes::ebs::EbsVolumes;
    let place = |region: &str| SetPlace::Ebs { region: region.to_owned(), role: None };
    let disk = std::path::PathBuf::from(std::env::var("CONTRACT_DISK").unwrap());
    let subject = Subject {
        home: &EbsVolumes::new(&place("eu-west-1")).await.unwrap(),
        elsewhere: &EbsVolumes::new(&place("eu-central-1")).await.unwrap(),
        volume: std::env::var("CONTRACT_VOLUME").unwrap().parse().unwrap(),
        key: "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111"
            .to_owned(),
        other_key: "arn:aws:kms:eu-central-1:123456789012:key/22222222-2222-2222-2222-222222222222"
            .to_owned(),
        zone: "eu-west-1a".to_owned(),
        write: &|index, bytes| write(&disk, index, bytes),
    };
    keeps_its_contract(subject).await;
}
