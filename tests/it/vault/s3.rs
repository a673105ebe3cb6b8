//! S3 vaults and KMS keys, against localstack, with a front that adds the unkindness of AWS.

use std::sync::Arc;

use crate::support::front::{Fault, Front, Rule};
use crate::support::localstack::Localstack;
use crate::support::{Cluster, Home};

struct Aws {
    stack: Localstack,
    front: Front,
    envelope_key: String,
    bucket_key: String,
}

impl Aws {
    fn start() -> Self {
        let stack = Localstack::start();
        let front = Front::start(stack.port);
        stack.aws(&[
            "s3api",
            "create-bucket",
            "--bucket",
            &stack.bucket,
            "--object-lock-enabled-for-bucket",
        ]);
        let key =
            || stack.aws(&["kms", "create-key"])["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
        let (envelope_key, bucket_key) = (key(), key());
        Self { front, envelope_key, bucket_key, stack }
    }

    /// A home whose vault is in the bucket, through the front.
    fn home(&self, cluster: &Cluster, more: &str) -> Home {
        let mut home = Home::new();
        for (name, value) in self.stack.credentials() {
            home.set(name, value);
        }
        let vault = format!(
            "s3 = \"s3://{}/{}\"\nendpoint = \"{}\"\npath_style = true\npart_mib = 5\n{more}",
            self.bucket(),
            hex::encode(rand::random::<[u8; 4]>()),
            self.front.endpoint()
        );
        home.reconfigure("directory = \"vault\"", &vault);
        home.configure(&format!(
            "\n[keys.home]\nkind = \"aws-kms\"\nkey_id = \"{}\"\nendpoint = \"{}\"\n",
            self.envelope_key,
            self.front.endpoint()
        ));
        home.add_datastore("db", &cluster.conninfo("d"), "");
        home.pin("00112233445566778899aabbccddeeff");
        // The vault header, as `lifeboat init --vault s3://…` would write it.
        let vault = serde_json::json!({ "format": "lifeboat.vault/1", "vault": "00112233445566778899aabbccddeeff" }).to_string();
        let file = home.path("header");
        std::fs::write(&file, vault).unwrap();
        self.stack.aws(&[
            "s3api",
            "put-object",
            "--bucket",
            self.bucket(),
            "--key",
            &format!("{}vault.json", self.prefix(&home)),
            "--body",
            file.to_str().unwrap(),
        ]);
        home
    }

    fn bucket(&self) -> &str {
        &self.stack.bucket
    }

    fn prefix(&self, home: &Home) -> String {
        let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
        format!(
            "{}/",
            text.split(&format!("s3://{}/", self.bucket()))
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
        )
    }

    fn keys(&self, home: &Home) -> Vec<String> {
        let listed = self.stack.aws(&[
            "s3api",
            "list-objects-v2",
            "--bucket",
            self.bucket(),
            "--prefix",
            &self.prefix(home),
        ]);
        let contents = listed["Contents"].as_array().cloned().unwrap_or_default();
        contents.iter().map(|o| o["Key"].as_str().unwrap().to_owned()).collect()
    }

    /// Lets a KMS key sign; returns its public half and the line that pins the key from before.
    fn sign_with_kms(&self, home: &Home) -> (String, String) {
        let made = self.stack.aws(&[
            "kms",
            "create-key",
            "--key-usage",
            "SIGN_VERIFY",
            "--key-spec",
            "ECC_NIST_P256",
        ]);
        let key = made["KeyMetadata"]["Arn"].as_str().unwrap();
        let public = self.stack.aws(&["kms", "get-public-key", "--key-id", key])["PublicKey"]
            .as_str()
            .unwrap()
            .to_owned();
        let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
        let trust = text.lines().find(|l| l.starts_with("trust")).unwrap().to_owned();
        home.reconfigure(
            "key_file = \"keys/signing.pem\"",
            &format!("kms_key_id = \"{key}\"\nendpoint = \"{}\"", self.front.endpoint()),
        );
        (public, trust)
    }

    fn uploads(&self) -> usize {
        self.stack.aws(&["s3api", "list-multipart-uploads", "--bucket", self.bucket()])["Uploads"]
            .as_array()
            .map_or(0, Vec::len)
    }

    fn head(&self, key: &str) -> serde_json::Value {
        self.stack.aws(&[
            "s3api",
            "head-object",
            "--bucket",
            self.bucket(),
            "--key",
            key,
            "--checksum-mode",
            "ENABLED",
        ])
    }

    #[track_caller]
    fn nothing_is_left(&self, home: &Home) {
        assert_eq!(self.keys(home), [format!("{}vault.json", self.prefix(home))]);
        assert_eq!(self.uploads(), 0);
    }
}

/// A database whose dump seals to several parts of 5 MiB.
fn filled() -> Cluster {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE t AS SELECT i, (SELECT string_agg(sha256((i * 1000 + j)::text::bytea), '') FROM generate_series(1, 40) j) AS x FROM generate_series(1, 12000) i");
    cluster
}

fn kms_error(code: &str) -> Fault {
    Fault::Answer(
        400,
        "application/x-amz-json-1.1",
        format!("{{\"__type\":\"{code}\",\"message\":\"the front says {code}\"}}"),
    )
}

#[test]
fn a_backup_in_s3_is_locked_encrypted_classed_confirmed_and_restores() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let settings = format!(
        "sse_kms_key = \"{}\"\nstorage_class = \"STANDARD_IA\"\nobject_lock = \"2d\"\nobject_lock_mode = \"governance\"\n",
        aws.bucket_key
    );
    let home = aws.home(&source, &settings);
    let check = home.run(&["check"]).ok();
    for answer in [
        "refuses a second object of the same name  ok",
        "Object Lock is on",
        "it refuses a wrong SHA-256",
        "STANDARD_IA",
    ] {
        assert!(check.stdout.contains(answer), "{answer}: {}", check.stdout);
    }
    let id = home.backup();
    assert_eq!(aws.uploads(), 0);
    let keys = aws.keys(&home);
    let main = keys.iter().find(|k| k.ends_with("main.zst.age")).unwrap();
    let head = aws.head(main);
    assert_eq!(head["StorageClass"], "STANDARD_IA");
    assert_eq!(head["SSEKMSKeyId"].as_str().unwrap(), aws.bucket_key);
    assert_eq!(head["ObjectLockMode"], "GOVERNANCE");
    assert!(head["ChecksumSHA256"].as_str().unwrap().contains('-'), "several parts: {head}");
    let manifest = aws.head(keys.iter().find(|k| k.ends_with(&format!("{id}.json"))).unwrap());
    assert!(manifest["StorageClass"].is_null() && manifest["ObjectLockMode"] == "GOVERNANCE");
    assert!(
        !keys.iter().any(|k| k.contains("/probes/")),
        "a probe carries no retention, and is removed"
    );

    // Opened by KMS alone, then by the recovery key alone.
    std::fs::remove_file(home.path("keys/identity.txt")).unwrap();
    let report = home.run(&["verify", &id, "--json"]).ok().json();
    assert_eq!(report[0]["opened_with"], "home");
    home.restore(&target.conninfo("d")).ok();
    aws.stack.aws(&["kms", "disable-key", "--key-id", &aws.envelope_key]);
    home.run(&["verify", &id]).fails(5, &["no key opens backup", "DisabledException"]);
    assert_eq!(
        home.run(&["verify", &id, "--identity", &home.recovery(), "--json"]).ok().json()[0]["opened_with"],
        "recovery"
    );
    home.run(&["backup", "db"]).fails(5, &["refused to wrap an identity", "DisabledException"]);
}

#[test]
fn the_aws_cli_and_stock_tools_open_a_backup_in_s3() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let home = aws.home(&source, "");
    home.backup();
    let guide_key = aws.keys(&home).into_iter().find(|k| k.ends_with("RESTORE.md")).unwrap();
    let file = home.path("RESTORE.md");
    aws.stack.aws(&[
        "s3api",
        "get-object",
        "--bucket",
        aws.bucket(),
        "--key",
        &guide_key,
        file.to_str().unwrap(),
    ]);
    let guide = std::fs::read_to_string(file).unwrap();
    let path = format!(
        "{}:/usr/lib/postgresql/15/bin:/usr/bin:/bin",
        crate::support::tools().join("venv/bin").display()
    );
    let (key, socket, endpoint) =
        (home.path("keys/signing.pub.pem"), target.socket(), aws.stack.endpoint());
    let mut environment = vec![
        ("PATH", path.as_str()),
        ("AWS_ENDPOINT_URL", &endpoint),
        ("TRUSTED_KEY", key.to_str().unwrap()),
        ("PGHOST", socket.to_str().unwrap()),
        ("PGUSER", "postgres"),
    ];
    environment.extend(aws.stack.credentials());
    let commands = crate::support::guide::commands(&guide, "home");
    assert!(commands.contains("aws kms decrypt") && commands.contains("--encryption-context"));
    crate::support::guide::succeeded(&crate::support::guide::run(
        &home.path("by-hand"),
        &commands,
        &environment,
    ));
    let sum = "SELECT count(*) || md5(string_agg(md5(x), '' ORDER BY i)) FROM t";
    assert_eq!(source.psql("d", sum), target.psql("d", sum));
}

#[test]
fn passing_faults_of_s3_and_kms_are_survived() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let upload_part = ["PUT", "partNumber=2"];
    for (what, when, fault, times) in [
        ("throttled", &["PUT"][..], Fault::SlowDown, 2),
        ("a part's answer lost", &upload_part, Fault::LoseAnswer, 1),
        ("a part's checksum wrong", &upload_part, Fault::WrongChecksum, 1),
        ("the manifest's answer lost", &["PUT", "/manifests/", ".json?x-id"], Fault::LoseAnswer, 1),
        ("a completion's answer lost", &["POST", "uploadId=", "main"], Fault::LoseAnswer, 1),
        ("an error in a 200", &["POST", "uploadId=", "main"], Fault::ErrorIn200, 1),
        ("KMS throttled", &["TrentService.Encrypt"], kms_error("ThrottlingException"), 2),
    ] {
        aws.front.fault(when, fault, times);
        let out = home.run(&["backup", "db"]);
        assert_eq!(out.code, 0, "{what}: {}", out.stderr);
        assert_eq!(aws.front.met().len(), times as usize, "{what}: {:?}", aws.front.met());
        assert_eq!(aws.uploads(), 0, "{what}");
    }
    let newest = home.backup();
    for (what, fault) in [
        ("reset in mid-body", Fault::Reset),
        ("slow bytes", Fault::SlowBytes),
        ("throttled", Fault::SlowDown),
    ] {
        aws.front.fault(&["GET", "main.zst.age"], fault, 2);
        assert_eq!(home.run(&["verify", &newest]).code, 0, "{what}");
        assert_eq!(aws.front.met().len(), 2, "{what}");
    }
    aws.front.rules(Vec::new());
    home.run(&["verify", "--all"]).ok();
}

#[test]
fn lasting_faults_leave_nothing_and_say_what_to_do() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "patience = \"2s\"\n");
    let denied = |what: &str| {
        Fault::Answer(
            403,
            "application/xml",
            format!(
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>{what}</Message></Error>"
            ),
        )
    };
    let cases: Vec<(&str, &[&'static str], Fault, i32, &str)> = vec![
        ("throttled for good", &["PUT", "partNumber"], Fault::SlowDown, 6, "SlowDown"),
        (
            "every part arrives wrong",
            &["PUT", "partNumber"],
            Fault::WrongChecksum,
            7,
            "did not arrive whole",
        ),
        ("may not write payloads", &["POST", "uploads"], denied("not you"), 2, "the vault refuses"),
        (
            "the bucket's key refuses",
            &["PUT", "partNumber"],
            denied("not authorized to perform: kms:GenerateDataKey"),
            5,
            "the vault's own encryption refuses",
        ),
        (
            "KMS denies",
            &["TrentService.Encrypt"],
            kms_error("AccessDeniedException"),
            5,
            "refused to wrap an identity",
        ),
        (
            "KMS throttles for good",
            &["TrentService.Encrypt"],
            kms_error("ThrottlingException"),
            6,
            "could not be reached",
        ),
    ];
    for (what, when, fault, code, words) in cases {
        aws.front.fault(when, fault, u32::MAX);
        let out = home.run(&["backup", "db"]);
        aws.front.rules(Vec::new());
        assert_eq!(out.code, code, "{what}: {}", out.stderr);
        assert!(out.stderr.contains(words), "{what}: {}", out.stderr);
        aws.nothing_is_left(&home);
    }
}

#[test]
fn an_outcome_that_cannot_be_learned_is_neither_success_nor_failure() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let denied = Fault::Answer(
        403,
        "application/xml",
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_owned(),
    );
    // The answer to the manifest is lost, and a role that may only write cannot look.
    aws.front.rules(vec![
        Rule {
            when: vec!["PUT", "/manifests/", ".json?x-id"],
            fault: Fault::LoseAnswer,
            times: 9,
            after: 0,
        },
        Rule { when: vec!["HEAD", "/manifests/"], fault: denied, times: 9, after: 0 },
    ]);
    home.run(&["backup", "db"]).fails(6, &["could not be learned"]);
    aws.front.rules(Vec::new());
    // It did take effect: what is listed is whole.
    home.run(&["verify", "--all"]).ok();
}

#[test]
fn a_slot_opens_under_its_own_encryption_context_only() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let id = home.backup();
    let slot = aws.keys(&home).into_iter().find(|k| k.ends_with("0001-home.kms")).unwrap();
    let file = home.path("slot");
    aws.stack.aws(&[
        "s3api",
        "get-object",
        "--bucket",
        aws.bucket(),
        "--key",
        &slot,
        file.to_str().unwrap(),
    ]);
    let decrypt = |backup: &str| {
        let context = serde_json::json!({ "vault": "00112233445566778899aabbccddeeff", "datastore": "db", "backup": backup }).to_string();
        aws.stack
            .command()
            .args([
                "kms",
                "decrypt",
                "--ciphertext-blob",
                &format!("fileb://{}", file.display()),
                "--encryption-context",
                &context,
            ])
            .output()
            .unwrap()
    };
    assert!(decrypt(&id).status.success());
    let other = decrypt("20200101T000000Z-AAAAAA");
    assert!(
        !other.status.success()
            && String::from_utf8_lossy(&other.stderr).contains("InvalidCiphertext"),
        "{other:?}"
    );
}

#[test]
fn a_kms_key_signs_and_openssl_and_lifeboat_verify() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let (public, trust) = aws.sign_with_kms(&home);
    home.run(&["backup", "db"]).fails(2, &["would not be believed", &public]);
    home.reconfigure(&trust, &format!("trust = [\"{public}\"]"));
    // A role that may sign and not tell the public half is enough.
    aws.front.fault(&["TrentService.GetPublicKey"], kms_error("AccessDeniedException"), 99);
    let id = home.backup();
    home.run(&["verify", &id]).ok();
    for (name, file) in [(format!("{id}.json"), "m.json"), (format!("{id}.json.sig"), "m.json.sig")]
    {
        let object = aws.keys(&home).into_iter().find(|k| k.ends_with(&name)).unwrap();
        aws.stack.aws(&[
            "s3api",
            "get-object",
            "--bucket",
            aws.bucket(),
            "--key",
            &object,
            home.path(file).to_str().unwrap(),
        ]);
    }
    let pem = home.path("kms.pub.pem");
    std::fs::write(
        &pem,
        format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n"),
    )
    .unwrap();
    let verified = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-verify"])
        .arg(&pem)
        .arg("-signature")
        .arg(home.path("m.json.sig"))
        .arg(home.path("m.json"))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn init_makes_a_vault_in_s3_once() {
    let aws = Aws::start();
    let mut home = Home::new();
    for (name, value) in aws.stack.credentials() {
        home.set(name, value);
    }
    home.set("AWS_ENDPOINT_URL", &aws.front.endpoint());
    let address = format!("s3://{}/new/one", aws.bucket());
    let (first, second) = (home.path("first"), home.path("second"));
    let made = home.run(&["init", first.to_str().unwrap(), "--vault", &address]).ok();
    assert!(
        made.stderr.contains(&format!("made vault {address}"))
            && made.stderr.contains("add a recovery key"),
        "{}",
        made.stderr
    );
    home.run(&["init", second.to_str().unwrap(), "--vault", &address])
        .fails(2, &["there is a vault already, and it stays as it is", "the vault was not made"]);
    home.run(&["--config", first.join("lifeboat.toml").to_str().unwrap(), "list"]).ok();
}

#[test]
fn a_store_that_cannot_keep_a_promise_is_refused_by_check() {
    let (aws, source) = (Aws::start(), filled());
    let (locking, plain) = (format!("s3://{}/", aws.bucket()), format!("plain-{}", aws.bucket()));
    aws.stack.aws(&["s3api", "create-bucket", "--bucket", &plain]);
    let home = aws.home(&source, "object_lock = \"30d\"\n");
    let prefix = aws.prefix(&home);
    home.reconfigure(&locking, &format!("s3://{plain}/"));
    aws.stack.aws(&[
        "s3api",
        "copy-object",
        "--bucket",
        &plain,
        "--key",
        &format!("{prefix}vault.json"),
        "--copy-source",
        &format!("{}/{prefix}vault.json", aws.bucket()),
    ]);
    let check = home.run(&["check"]);
    assert_eq!(check.code, 2, "{check:?}");
    assert!(check.stdout.contains("the bucket has no Object Lock"), "{}", check.stdout);
    home.configure(&format!(
        "\n[vaults.dr]\ns3 = \"s3://missing-as-well/x\"\nendpoint = \"{}\"\npath_style = true\n",
        aws.front.endpoint()
    ));
    let check = home.run(&["check"]);
    let line = check.stdout.lines().find(|line| line.starts_with("vault dr")).unwrap_or_default();
    assert!(
        line.contains("BAD") && line.contains("there is no bucket missing-as-well"),
        "{}",
        check.stdout
    );
    home.reconfigure(&format!("s3://{plain}/"), "s3://missing-as-can-be/");
    home.run(&["list"]).fails(2, &["there is no bucket missing-as-can-be"]);
}

/// Ceph before Squid and s3rver: what nothing confirms is read back, if the configuration says so,
/// and refused by name if it does not.
#[test]
fn a_store_that_repeats_no_checksums_is_read_back() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let home = aws.home(&source, "");
    let silent = |when: &[&'static str], fault: Fault, times: u32| {
        let rule = |when: &[&'static str], fault: Fault, times: u32| Rule {
            when: when.to_vec(),
            fault,
            times,
            after: 0,
        };
        aws.front
            .rules(vec![rule(when, fault, times), rule(&["/backups-"], Fault::NoEcho, 100_000)]);
    };
    silent(&[], Fault::NoEcho, 0);
    let check = home.run(&["check"]);
    assert!(
        check.code == 2
            && check.stdout.contains("the store does not repeat the checksum it was given"),
        "{check:?}"
    );
    home.run(&["backup", "db"]).fails(
        2,
        &["the store does not repeat the checksum it was given", "confirm = \"read-back\""],
    );
    aws.nothing_is_left(&home);

    home.reconfigure("path_style = true\n", "path_style = true\nconfirm = \"read-back\"\n");
    let check = home.run(&["check"]).ok();
    assert!(
        check.stdout.contains("it is read back: the store does not repeat checksums"),
        "{}",
        check.stdout
    );
    home.backup();
    home.run(&["verify", "--all"]).ok();
    target.psql("postgres", "CREATE DATABASE d");
    home.run(&["restore", "db", "--to", &target.conninfo("d"), "--yes"]).ok();
    assert_eq!(
        source.psql(
            "d",
            "SELECT count(*), sum(length(x)), md5(string_agg(x, NULL ORDER BY i)) FROM t"
        ),
        target.psql(
            "d",
            "SELECT count(*), sum(length(x)), md5(string_agg(x, NULL ORDER BY i)) FROM t"
        )
    );

    // A part and a document that arrive damaged are found, and there is no backup.
    for damaged in [["PUT", "partNumber=2"], ["PUT", "envelope-0001.json?"]] {
        silent(&damaged, Fault::DamagedBody, 1);
        home.run(&["backup", "db"]).fails(7, &["what was read back is not what was sent"]);
        assert_eq!(home.run(&["list", "--json"]).ok().json().as_array().unwrap().len(), 1);
    }
    // An answer that is lost is looked for in the same way.
    silent(&["POST", "main.zst.age", "uploadId"], Fault::LoseAnswer, 1);
    home.backup();
    // A role that may not read is told so.
    let denied = Fault::Answer(
        403,
        "application/xml",
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_owned(),
    );
    silent(&["GET", "main.zst.age"], denied, 9);
    home.run(&["backup", "db"]).fails(6, &["it is to be read back", "AccessDenied"]);

    // One that has confirmed and does not any more is not what it was.
    home.reconfigure("confirm = \"read-back\"\n", "");
    aws.front.fault(&["PUT", "envelope-0001.json?"], Fault::NoEcho, 9);
    home.run(&["backup", "db"])
        .fails(7, &["the store confirmed the checksums of others, and not of this one"]);
    home.reconfigure(
        "path_style = true\n",
        "path_style = true\nconfirm = \"read-back\"\nstorage_class = \"GLACIER\"\n",
    );
    home.run(&["check"]).fails(2, &["what is frozen at once cannot be read back"]);
}

/// What has no list of its chunks is read through first. What is loaded then is held against what
/// was read, though the store gives out something else by now.
#[test]
fn what_is_loaded_is_what_was_read_through() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let home = aws.home(&source, "");
    home.backup();
    for key in aws.keys(&home).iter().filter(|key| key.ends_with(".chunks")) {
        aws.stack.aws(&["s3api", "delete-object", "--bucket", aws.bucket(), "--key", key]);
    }
    let restore =
        |name: &str| home.run(&["restore", "db", "--to", &target.conninfo(name), "--yes"]);
    let reads = |fault: Fault, after: u32| Rule {
        when: vec!["GET", "main.zst.age"],
        fault,
        times: 100_000,
        after,
    };
    aws.front.rules(vec![reads(Fault::NoEcho, 0)]);
    restore("a").ok();
    let count = u32::try_from(aws.front.met().len()).unwrap();
    assert!(count >= 4, "it is read twice: {count}");
    aws.front.rules(vec![reads(Fault::DamagedAnswer, count - 1)]);
    restore("b").fails(7, &["main.zst.age", "bytes"]);
    // The whole of it is not known to be wrong until its end: nothing of the last chunk has reached
    // the server.
    assert!(
        aws.front.met().len() >= 2,
        "a chunk that differs is fetched once more: {:?}",
        aws.front.met()
    );
}

fn signalled(child: &std::process::Child, signal: &str) {
    assert!(
        std::process::Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// An endpoint that accepts and never answers: every verb ends by itself, and at once when it is
/// told to.
#[test]
fn an_endpoint_that_never_answers_keeps_no_verb_for_ever() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let id = home.backup();
    aws.front.fault(&["/backups-"], Fault::Hang, 100_000);
    let to = source.conninfo("x");
    let verbs: [&[&str]; 10] = [
        &["list"],
        &["show", &id],
        &["verify", "--all"],
        &["status"],
        &["check"],
        &["backup", "db"],
        &["restore", "db", "--to", &to, "--plan"],
        &["prune"],
        &["sweep"],
        &["evidence", "verify"],
    ];
    std::thread::scope(|scope| {
        let ended: Vec<_> = verbs
            .iter()
            .map(|verb| {
                let home = &home;
                scope.spawn(move || {
                    let begun = std::time::Instant::now();
                    let out = home.run(verb);
                    (verb, begun.elapsed(), out)
                })
            })
            .collect();
        for ended in ended {
            let (verb, took, out) = ended.join().unwrap();
            eprintln!("{verb:?} ended after {took:?}");
            assert!(
                out.code != 0 && took < std::time::Duration::from_secs(90),
                "{verb:?} took {took:?}: {out:?}"
            );
        }
    });
    std::thread::scope(|scope| {
        for signal in ["TERM", "INT", "HUP"] {
            for verb in [
                vec!["list"],
                vec!["verify", "--all"],
                vec!["backup", "db"],
                vec!["restore", "db", "--to", &to, "--plan"],
                vec!["serve"],
            ] {
                // `serve` reads its files anew, and of three backups of a datastore two would be
                // refused.
                if (signal, verb[0]) == ("HUP", "serve")
                    || (signal != "TERM" && verb[0] == "backup")
                {
                    continue;
                }
                let home = &home;
                scope.spawn(move || {
                    let child = home.command(&verb).spawn().unwrap();
                    std::thread::sleep(std::time::Duration::from_secs(2));
                    let begun = std::time::Instant::now();
                    signalled(&child, signal);
                    let out = crate::support::home::out(&child.wait_with_output().unwrap());
                    assert!(
                        begun.elapsed() < std::time::Duration::from_secs(20),
                        "{signal} {verb:?} took {:?}",
                        begun.elapsed()
                    );
                    assert!(out.code == 130 || verb[0] == "serve", "{signal} {verb:?}: {out:?}");
                });
            }
        }
    });
    // Whoever said `nohup` meant it.
    let mut nohup = std::process::Command::new("nohup");
    let command = home.command(&["list"]);
    nohup
        .arg(command.get_program())
        .args(command.get_args())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    for (name, value) in command.get_envs() {
        nohup.env(name, value.unwrap());
    }
    let child = nohup.current_dir(home.path(".")).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    signalled(&child, "HUP");
    aws.front.rules(Vec::new());
    let out = crate::support::home::out(&child.wait_with_output().unwrap());
    assert!(out.code != 130, "{out:?}");
}

/// A key service that is silent keeps nobody from using the key that is at hand.
#[test]
fn a_key_that_never_answers_is_not_waited_for_where_another_opens() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let id = home.backup();
    aws.front.fault(&["TrentService.Decrypt"], Fault::Hang, 100_000);
    let begun = std::time::Instant::now();
    home.run(&["verify", &id]).ok();
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    // One that cannot wrap here keeps nobody from reading either, and is named by whoever must
    // wrap.
    home.configure(
        "\n[keys.hardware]\nkind = \"age\"\nrecipients = [\"age1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt\"]\n",
    );
    home.run(&["list"]).ok();
    home.run(&["verify", &id]).ok();
    home.run(&["backup", "db"]).fails(5, &["age-plugin-yubikey, which is not in PATH"]);
}

/// The store is away in the middle of an upload, and for one part it never answers.
#[test]
fn writing_is_as_patient_as_reading() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let rule = |when: &[&'static str], fault: Fault, times: u32| Rule {
        when: when.to_vec(),
        fault,
        times,
        after: 0,
    };
    aws.front.rules(vec![
        rule(&["PUT", "partNumber=1"], Fault::SlowDown, 14),
        rule(&["POST", "main.zst.age", "uploadId"], Fault::SlowDown, 6),
        rule(&["PUT", "envelope-0001.json?"], Fault::SlowDown, 6),
        rule(&["PUT", "partNumber=2"], Fault::Hang, 1),
    ]);
    let id = home.backup();
    assert_eq!(aws.front.met().len(), 14 + 6 + 6 + 1, "{:?}", aws.front.met());
    home.run(&["verify", &id]).ok();
    assert_eq!(aws.uploads(), 0);
    // Impatience is a matter of configuration, and says what it left.
    home.reconfigure("path_style = true\n", "path_style = true\npatience = \"1s\"\n");
    aws.front.rules(vec![rule(&["PUT", "partNumber=1"], Fault::SlowDown, 1_000)]);
    home.run(&["backup", "db"]).fails(6, &["SlowDown"]);
    assert_eq!(aws.uploads(), 0);
}

/// TLS before the store, with a certificate of an authority that only `AWS_CA_BUNDLE` knows.
const TLS_FRONT: &str = "
import asyncio, ssl, sys
async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    there = await asyncio.open_connection('127.0.0.1', int(sys.argv[3]))
    await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server = await asyncio.start_server(serve, '127.0.0.1', 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
";

#[test]
fn an_authority_of_ones_own_is_believed_and_an_unknown_one_is_no_outage() {
    use std::io::BufRead;
    let (aws, source) = (Aws::start(), filled());
    let mut home = aws.home(&source, "");
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (home.path("store.pem"), home.path("store.key"));
    std::fs::write(&certificate, authority.cert.pem()).unwrap();
    std::fs::write(&key, authority.signing_key.serialize_pem()).unwrap();
    let mut front = std::process::Command::new("python3");
    front
        .args(["-c", TLS_FRONT])
        .args([&certificate, &key])
        .arg(aws.front.port.to_string())
        .stdout(std::process::Stdio::piped());
    let mut front = front.spawn().unwrap();
    let mut port = String::new();
    std::io::BufReader::new(front.stdout.take().unwrap()).read_line(&mut port).unwrap();
    home.reconfigure(&aws.front.endpoint(), &format!("https://localhost:{}", port.trim()));
    home.run(&["list"]).fails(2, &["certificate"]);
    home.set("AWS_CA_BUNDLE", certificate.to_str().unwrap());
    home.run(&["list"]).ok();
    home.backup();
    front.kill().unwrap();
    front.wait().unwrap();
}

/// A KMS key that is to be deleted cannot be used any more, and a week later nothing of it can be
/// undone.
#[test]
fn a_key_that_kms_will_delete_is_told_of_while_it_can_be_helped() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    home.backup();
    let denied = kms_error("AccessDeniedException");
    aws.front.fault(&["TrentService.DescribeKey"], denied, 9);
    let check = home.run(&["check"]).ok();
    assert!(check.stdout.contains("is not known without kms:DescribeKey"), "{}", check.stdout);
    assert!(!home.run(&["status"]).stdout.contains("DescribeKey"));
    aws.front.rules(Vec::new());
    aws.stack.aws(&[
        "kms",
        "schedule-key-deletion",
        "--key-id",
        &aws.envelope_key,
        "--pending-window-in-days",
        "7",
    ]);
    let (check, status) = (home.run(&["check"]), home.run(&["status"]));
    assert!(check.code == 5 && check.stdout.contains("KMS deletes it at"), "{check:?}");
    assert!(
        status.stdout.contains("key home: KMS deletes it at")
            && status.stdout.contains("cancel-key-deletion"),
        "{status:?}"
    );
    aws.stack.aws(&["kms", "cancel-key-deletion", "--key-id", &aws.envelope_key]);
    assert!(home.run(&["status"]).stdout.contains("key home: KMS says that it is Disabled"));
    aws.stack.aws(&["kms", "enable-key", "--key-id", &aws.envelope_key]);
    assert!(!home.run(&["status"]).stdout.contains("key home"));
}

/// The store was away when everything else was made.
#[test]
fn an_init_that_failed_half_way_is_gone_on_with() {
    let aws = Aws::start();
    let directory = crate::support::directory();
    let at = directory.path().join("boat").display().to_string();
    let run = || {
        let mut home = Home::new();
        for (name, value) in aws.stack.credentials() {
            home.set(name, value);
        }
        home.set("AWS_ENDPOINT_URL", &aws.front.endpoint());
        home.run(&["init", &at, "--vault", &format!("s3://{}/new", aws.bucket())])
    };
    let away = Fault::Answer(
        403,
        "application/xml",
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_owned(),
    );
    aws.front.fault(&["PUT", "vault.json"], away, 1);
    run().fails(2, &["AccessDenied", "the same command goes on"]);
    let written = std::fs::read_to_string(directory.path().join("boat/lifeboat.toml")).unwrap();
    let again = run().ok();
    assert!(
        again.stderr.contains("made vault") && again.stderr.contains("as they were"),
        "{again:?}"
    );
    assert_eq!(
        std::fs::read_to_string(directory.path().join("boat/lifeboat.toml")).unwrap(),
        written
    );
    run().fails(2, &["it exists already"]);
}

impl Aws {
    /// Versions and markers that the bucket keeps of a home.
    fn versions(&self, home: &Home) -> (Vec<serde_json::Value>, Vec<serde_json::Value>) {
        let listed = self.stack.aws(&[
            "s3api",
            "list-object-versions",
            "--bucket",
            self.bucket(),
            "--prefix",
            &self.prefix(home),
        ]);
        let all = |name: &str| listed[name].as_array().cloned().unwrap_or_default();
        (all("Versions"), all("DeleteMarkers"))
    }
}

/// In a bucket that keeps versions, what was never a backup is removed for good, and what may have
/// been one is not touched.
#[test]
fn in_a_versioned_bucket_removed_is_gone_and_hidden_is_told() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    let only_the_header = |home: &Home| {
        let (versions, markers) = aws.versions(home);
        assert!(versions.len() == 1 && markers.is_empty(), "{versions:?} {markers:?}");
    };
    // A backup that fails, and one that is killed.
    let denied = Fault::Answer(
        403,
        "application/xml",
        "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".to_owned(),
    );
    aws.front.fault(&["PUT", "/manifests/", ".json.sig"], denied.clone(), 9);
    home.run(&["backup", "db"]).fails(2, &["AccessDenied"]);
    only_the_header(&home);
    aws.front.rules(Vec::new());
    assert_eq!(
        home.run_with(&[("LIFEBOAT_FAILPOINT", "about-to-publish")], &["backup", "db"]).code,
        137
    );
    // Whoever hid it before has not removed it.
    let payload = aws.keys(&home).into_iter().find(|key| key.ends_with("main.zst.age")).unwrap();
    aws.stack.aws(&["s3api", "delete-object", "--bucket", aws.bucket(), "--key", &payload]);
    aws.front.fault(&["GET", "?versions"], denied, 9);
    home.run(&["sweep", "--older-than", "0s"]).fails(2, &["s3:ListBucketVersions"]);
    aws.front.rules(Vec::new());
    home.run(&["sweep", "--older-than", "0s"]).fails(10, &["left behind"]);
    home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    only_the_header(&home);

    // Markers on every manifest, and no catalog that would know.
    let backups = [home.backup(), home.backup()];
    let before = aws.versions(&home).0.len();
    for key in aws.keys(&home).iter().filter(|key| key.contains("/manifests/")) {
        aws.stack.aws(&["s3api", "delete-object", "--bucket", aws.bucket(), "--key", key]);
    }
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    let swept = home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    for backup in &backups {
        let told = format!(
            "backup {backup} has its manifest behind a delete marker, and no record says that it was removed"
        );
        assert!(swept.stderr.contains(&told), "{}", swept.stderr);
    }
    assert_eq!(aws.versions(&home).0.len(), before);
    let status = home.run(&["status"]);
    assert!(status.code != 0 && status.stdout.contains("delete marker"), "{status:?}");
    for marker in aws.versions(&home).1 {
        let (key, id) = (marker["Key"].as_str().unwrap(), marker["VersionId"].as_str().unwrap());
        aws.stack.aws(&[
            "s3api",
            "delete-object",
            "--bucket",
            aws.bucket(),
            "--key",
            key,
            "--version-id",
            id,
        ]);
    }
    let verified = home.run(&["verify", "--all"]).ok();
    assert!(
        backups.iter().all(|backup| verified.stdout.contains(backup.as_str())),
        "{}",
        verified.stdout
    );

    // What another host may still be writing is left alone.
    assert_eq!(home.run_with(&[("LIFEBOAT_FAILPOINT", "part-sent")], &["backup", "db"]).code, 137);
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    let swept = home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    assert!(
        swept.stderr.contains("1 uploads or backups that this host has not begun are left alone"),
        "{}",
        swept.stderr
    );
    assert_eq!(aws.uploads(), 1);
}

#[test]
fn killed_in_mid_upload_the_parts_are_found_and_swept() {
    let (aws, source) = (Aws::start(), filled());
    let home = aws.home(&source, "");
    assert_eq!(home.run_with(&[("LIFEBOAT_FAILPOINT", "part-sent")], &["backup", "db"]).code, 137);
    assert_eq!(aws.uploads(), 1);
    home.run(&["sweep", "--older-than", "0s"]).fails(10, &["left behind", "--confirm"]);
    home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    aws.nothing_is_left(&home);
    home.backup();
}

#[test]
fn s3_keeps_the_contract_of_a_vault() {
    let stack = Localstack::start();
    stack.aws(&["s3api", "create-bucket", "--bucket", &stack.bucket]);
    // In a process of its own, since the SDK finds its credentials in the environment.
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([
        "--ignored",
        "--exact",
        "vault::s3::contract_in_a_process_of_its_own",
        "--nocapture",
    ]);
    let output = child
        .envs(stack.credentials())
        .env("CONTRACT_ENDPOINT", stack.endpoint())
        .env("CONTRACT_BUCKET", &stack.bucket)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by s3_keeps_the_contract_of_a_vault"]
async fn contract_in_a_process_of_its_own() {
    let config = lifeboat::config::S3Config {
        bucket: std::env::var("CONTRACT_BUCKET").unwrap(),
        prefix: "contract/".to_owned(),
        endpoint: Some(std::env::var("CONTRACT_ENDPOINT").unwrap()),
        path_style: true,
        part_bytes: 5 * 1024 * 1024,
        transfers_max: 3,
        ..Default::default()
    };
    super::contract::keeps_its_contract(Arc::new(lifeboat::vault::s3::S3Vault::new(&config).await))
        .await;
}

#[test]
fn kms_is_gone_and_a_drill_opens_the_backup_with_the_offline_key() {
    let aws = Aws::start();
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    let home = aws.home(&cluster, "object_lock = \"1d\"\n");
    home.backup();
    for directory in ["restore", "drills"] {
        std::fs::create_dir_all(home.path(directory)).unwrap();
    }
    std::fs::write(home.path("restore/db.toml"), "[[restore]]\ndatastore = \"db\"\n").unwrap();
    let script = |text: &str| {
        std::fs::write(
            home.path("drills/nightly.toml"),
            format!("plan = \"db\"\n{text}\n[local]\nsize_mib = 512\n"),
        )
        .unwrap()
    };
    script("break = [\"kms-gone\"]");
    home.run(&["drill", "nightly"]).fails(8, &[]);
    script("break = [\"kms-gone\", \"lifeboat-lost\"]\nrecovery_identity = \"recovery.txt\"");
    aws.front.fault(&["TrentService.Decrypt"], kms_error("AccessDeniedException"), 99);
    let out = home.run(&["drill", "nightly"]).ok();
    assert!(out.stdout.contains("PASS") && out.stdout.contains("opened with recovery"), "{out:?}");
    assert!(out.stderr.contains("fetching with the AWS CLI was not part of it"), "{out:?}");
    home.run(&["evidence", "verify"]).ok();
    let last: serde_json::Value = home.run(&["evidence", "show", "4"]).ok().json();
    let objects = last["body"]["of"]["backups"][0]["objects"].as_object().unwrap();
    assert!(
        objects
            .values()
            .all(|object| object["version"].as_str().is_some_and(|version| version.len() > 4)),
        "{objects:?}"
    );
    // Reports are locked for years, though backups are for a day.
    let keys = aws.keys(&home);
    let until = |end: &str| {
        let head = aws.head(keys.iter().find(|key| key.ends_with(end)).unwrap());
        head["ObjectLockRetainUntilDate"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let years =
        |end: &str| until(end).duration_since(jiff::Timestamp::now()).as_hours() / (24 * 365);
    assert_eq!((years("evidence/00000004.json"), years("main.zst.age")), (6, 0));
}

#[test]
fn a_drill_of_a_frozen_backup_is_warned_of_and_its_report_is_signed_by_a_kms_key() {
    let aws = Aws::start();
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    let home = aws.home(&cluster, "storage_class = \"DEEP_ARCHIVE\"\n");
    let (public, trust) = aws.sign_with_kms(&home);
    home.reconfigure(&trust, &format!("trust = [\"{public}\"]"));
    home.backup();
    for directory in ["restore", "drills"] {
        std::fs::create_dir_all(home.path(directory)).unwrap();
    }
    std::fs::write(home.path("restore/db.toml"), "[[restore]]\ndatastore = \"db\"\n").unwrap();
    std::fs::write(
        home.path("drills/nightly.toml"),
        "plan = \"db\"\n[objectives]\nrto = \"1h\"\n[local]\nsize_mib = 512\n",
    )
    .unwrap();
    let out = home.run(&["drill", "nightly"]);
    assert_eq!(out.code, 8, "{out:?}");
    assert!(
        out.stderr.contains("2 objects are in Glacier Deep Archive and must be thawed")
            && out.stderr.contains("within 12 h")
            && out.stderr.contains("the RTO allows 1h"),
        "{out:?}"
    );
    assert!(
        out.stdout.contains("FAIL") && out.stdout.contains("the restore failed: payloads/"),
        "{out:?}"
    );
    home.run(&["evidence", "verify"]).ok();
}

#[test]
fn retention_respects_locks_and_what_is_paid_for_and_erases_versions() {
    let aws = Aws::start();
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    let with = |more: &str| {
        let home = aws.home(&cluster, more);
        std::fs::create_dir_all(home.path("schedules")).unwrap();
        std::fs::write(
            home.path("schedules/nightly.toml"),
            "cron = \"@daily\"\n[keep]\ndaily = 1\nat_least = 1\n",
        )
        .unwrap();
        (home.backup(), home.backup(), home)
    };
    let (old, _, locked) = with("object_lock = \"1d\"\n");
    let shown = locked.run(&["prune", "--confirm"]).ok();
    assert!(shown.stdout.contains("locked by the store until"), "{shown:?}");
    assert!(aws.keys(&locked).iter().any(|key| key.contains(&old)), "{shown:?}");
    let colder = "storage_class = \"GLACIER_IR\"\n[[vault.colder]]\nafter = \"120d\"\nclass = \"DEEP_ARCHIVE\"\n";
    let (_, _, paid) = with(colder);
    let shown = paid.run(&["prune", "--confirm"]).ok();
    assert!(shown.stdout.contains("its storage class is paid for until"), "{shown:?}");
    // What it prints the store takes.
    let rules = paid.run(&["policy", "lifecycle"]).ok();
    assert!(
        rules.stdout.contains("DEEP_ARCHIVE") && rules.stdout.contains("payloads/"),
        "{rules:?}"
    );
    std::fs::write(paid.path("rules.json"), &rules.stdout).unwrap();
    let file = format!("file://{}", paid.path("rules.json").display());
    aws.stack.aws(&[
        "s3api",
        "put-bucket-lifecycle-configuration",
        "--bucket",
        aws.bucket(),
        "--lifecycle-configuration",
        &file,
    ]);
    paid.reconfigure(
        "after = \"120d\"",
        "after = \"3d\"\nclass = \"STANDARD_IA\"\n[[vault.colder]]\nafter = \"20d\"",
    );
    paid.run(&["policy", "lifecycle"])
        .fails(2, &["STANDARD_IA after 3 days", "30d", "DEEP_ARCHIVE after 20 days"]);
    // In a bucket that keeps versions nothing of a removed backup is left, no marker either.
    let (old, new, free) = with("");
    let done = free.run(&["prune", "--confirm"]).ok();
    assert!(done.stdout.contains("removed 1 backups"), "{done:?}");
    let listed = aws
        .stack
        .aws(&[
            "s3api",
            "list-object-versions",
            "--bucket",
            aws.bucket(),
            "--prefix",
            &aws.prefix(&free),
        ])
        .to_string();
    assert!(!listed.contains(&old) && listed.contains(&new), "{listed}");
}

/// Three connections that break in the middle of what they bring, and a store that says "slow down"
/// for a while: no byte is fetched twice that came, and the restore goes on by itself.
#[test]
fn a_restore_goes_on_at_the_byte_after_connections_break_and_through_an_outage() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let home = aws.home(&source, "patience = \"60s\"\n");
    home.backup();
    let rule =
        |fault, times, after| Rule { when: vec!["GET", "main.zst.age"], fault, times, after };
    aws.front.rules(vec![rule(Fault::Reset, 3, 1), rule(Fault::SlowDown, 14, 0)]);
    let restored = home.restore(&target.conninfo("d")).ok();
    assert!(restored.stdout.contains("all as recorded"), "{}", restored.stdout);
    let met = aws.front.met();
    assert_eq!(met.len(), 17, "{met:#?}");
    // Patience that is over is an error that says how to go on.
    let home = aws.home(&source, "patience = \"1s\"\n");
    home.backup();
    aws.front.rules(vec![rule(Fault::SlowDown, 10_000, 1)]);
    home.restore(&target.conninfo("e"))
        .fails(6, &["could not be fetched", "Please reduce your request rate"]);
    aws.front.rules(Vec::new());
    home.restore(&target.conninfo("e")).ok();
}

/// The whole night: frozen, asked for, three connections cut, one Ctrl-C, a store that is slow for
/// a while; in the end every row is there. `LIFEBOAT_SHOW_ROWS` makes it as large as one likes:
/// 580000 rows are 1.5 GB.
#[test]
fn a_cold_backup_survives_cut_connections_and_ctrl_c() {
    let rows: u64 = std::env::var("LIFEBOAT_SHOW_ROWS")
        .ok()
        .and_then(|rows| rows.parse().ok())
        .unwrap_or(30_000);
    let (aws, source, target) = (Aws::start(), Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", &format!("CREATE TABLE t AS SELECT i, (SELECT string_agg(sha256((i * 1000 + j)::text::bytea), '') FROM generate_series(1, 40) j) AS x FROM generate_series(1, {rows}) i; ALTER TABLE t ADD PRIMARY KEY (i)"));
    let home = aws.home(&source, "storage_class = \"GLACIER\"\nthaw_poll = \"1s\"\n");
    home.backup();
    aws.front.glacier.freeze(std::time::Duration::from_secs(3), false);
    let cut =
        |after| Rule { when: vec!["GET", "main.zst.age"], fault: Fault::Reset, times: 1, after };
    aws.front.rules(vec![cut(2), cut(2), cut(2)]);
    let to = target.conninfo("d");
    let arguments = ["restore", "db", "--to", &to, "--tier", "expedited", "--yes", "--check"];
    let begun = std::time::Instant::now();
    let child = home.command(&arguments).spawn().unwrap();
    let loading =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND datname = 'd'";
    crate::support::eventually("rows are loading", || target.psql("postgres", loading) == "1");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    crate::support::home::out(&child.wait_with_output().unwrap())
        .fails(130, &["The same command goes on from here"]);
    let restored = home.run(&arguments).ok();
    assert!(
        restored.stdout.contains("all as recorded")
            && restored.stdout.contains("done already: schema"),
        "{}",
        restored.stdout
    );
    eprintln!(
        "{} rows, thaw and Ctrl-C included: {:.1} s\n{}",
        rows,
        begun.elapsed().as_secs_f64(),
        restored.stdout
    );
    assert!(aws.front.met().len() == 3, "{:?}", aws.front.met());
    assert_eq!(target.psql("d", "SELECT count(*) FROM t"), rows.to_string());
}

/// The envelope key is replaced: KMS wraps anew what it had wrapped, payloads stay, and the old
/// slots are reported for as long as they are locked.
#[test]
fn a_kms_key_is_rotated_by_re_encryption_and_locked_slots_are_reported() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let home = aws.home(&source, "object_lock = \"2d\"\nobject_lock_mode = \"governance\"\n");
    home.backup();
    home.backup();
    let key =
        aws.stack.aws(&["kms", "create-key"])["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    home.reconfigure(&aws.envelope_key, &key);
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("2 backups: add home, retire home"), "{}", plan.stdout);
    // Nobody opens anything here: a Decrypt would be refused.
    let refused = Rule {
        when: vec!["TrentService.Decrypt"],
        fault: kms_error("AccessDeniedException"),
        times: 2,
        after: 0,
    };
    aws.front.rules(vec![refused]);
    let done = home.run(&["rekey", "--confirm", "--per-second", "100"]).ok();
    assert!(done.stdout.contains("2 backups have a new envelope"), "{}", done.stdout);
    assert!(
        done.stdout.contains(
            "retired slot home still opens 2 backups; the last of its files is locked until"
        ),
        "{}",
        done.stdout
    );
    let plan = home.run(&["rekey"]).ok();
    assert!(
        plan.stdout.contains("2 backups are as lifeboat.toml asks")
            && plan.stdout.contains("still opens 2 backups"),
        "{}",
        plan.stdout
    );
    // The old key dies; the new one opens old backups, alone.
    aws.stack.aws(&["kms", "disable-key", "--key-id", &aws.envelope_key]);
    aws.front.rules(Vec::new());
    std::fs::remove_file(home.path("keys/identity.txt")).unwrap();
    let restored = home.restore(&target.conninfo("d")).ok();
    assert!(restored.stdout.contains("opened with home"), "{}", restored.stdout);
}

/// A fresh laptop with credentials and nothing else: the backup itself names the KMS key that opens
/// it.
#[test]
fn credentials_alone_are_enough_on_a_fresh_laptop() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let home = aws.home(&source, "");
    home.backup();
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let trust = text.split("trust = [\"").nth(1).unwrap().split('"').next().unwrap();
    let vault = format!("s3://{}/{}", aws.bucket(), aws.prefix(&home).trim_end_matches('/'));
    let laptop = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = home.command(arguments);
        command
            .env_remove("LIFEBOAT_CONFIG")
            .env("HOME", laptop.path())
            .env("AWS_ENDPOINT_URL", aws.front.endpoint());
        crate::support::home::finish({
            command.current_dir(laptop.path());
            command
        })
    };
    let base =
        ["restore", "db", "--vault", &vault, "--trust-key", trust, "--to", &target.conninfo("d")];
    let plan = run(&[&base[..], &["--plan"]].concat()).ok();
    assert!(
        plan.stdout.contains("with key slot home") && plan.stdout.contains("signature verified"),
        "{}",
        plan.stdout
    );
    let restored = run(&[&base[..], &["--yes", "--check"]].concat()).ok();
    assert!(restored.stdout.contains("all as recorded"), "{}", restored.stdout);
    let listed = run(&["list", "--vault", &vault, "--trust-key", trust]).ok();
    assert!(listed.stdout.contains("verified"), "{}", listed.stdout);
    // The key is gone as well: then it is the card's turn.
    aws.stack.aws(&["kms", "disable-key", "--key-id", &aws.envelope_key]);
    run(&[&base[..], &["--plan"]].concat()).fails(5, &["no key opens", "--identity FILE"]);
}

/// Credentials that end in the middle are asked for anew where something gives them out.
#[test]
fn credentials_that_expire_midway_are_refreshed() {
    use std::os::unix::fs::PermissionsExt;
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let mut home = aws.home(&source, "patience = \"60s\"\n");
    home.backup();
    let (program, asked) = (home.path("credentials"), home.path("asked"));
    let script = format!(
        "#!/bin/sh\necho x >> {}\ndate -u -d '+6 seconds' '+{{\"Version\":1,\"AccessKeyId\":\"{}\",\"SecretAccessKey\":\"test\",\"SessionToken\":\"t\",\"Expiration\":\"%Y-%m-%dT%H:%M:%SZ\"}}'\n",
        asked.display(),
        aws.stack.access_key
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let profile =
        format!("[default]\ncredential_process = {}\nregion = us-east-1\n", program.display());
    std::fs::write(home.path("profile"), profile).unwrap();
    home.set("AWS_CONFIG_FILE", home.path("profile").to_str().unwrap());
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        home.set(name, "");
    }
    let expired = "<?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
    let fault = Fault::Answer(400, "application/xml", expired.to_owned());
    aws.front.rules(vec![Rule { when: vec!["GET", "main.zst.age"], fault, times: 5, after: 1 }]);
    home.restore(&target.conninfo("d")).ok();
    assert!(
        std::fs::read_to_string(&asked).unwrap().lines().count() > 1,
        "they were asked for again"
    );
}

/// Retrievals that take time, are refused for want of capacity, and are asked for twice.
#[test]
fn a_backup_in_glacier_is_asked_for_waited_for_and_restored() {
    let (aws, source, target) = (Aws::start(), filled(), Cluster::start());
    let home = aws.home(&source, "storage_class = \"GLACIER\"\nthaw_poll = \"1s\"\n");
    let backup = home.backup();
    aws.front.glacier.freeze(std::time::Duration::from_secs(4), true);
    let plan = home.run(&["restore", "db", "--to", &target.conninfo("d"), "--plan"]).ok();
    assert!(
        plan.stdout.contains("Glacier Flexible Retrieval") && plan.stdout.contains("expedited"),
        "{}",
        plan.stdout
    );
    home.run(&["verify", &backup]).fails(6, &["must be thawed before it can be read"]);
    // No capacity: the next tier. Asked again while it is under way: that is all right.
    let asked = home.run(&["thaw", "db", "--tier", "expedited", "--confirm"]).ok();
    assert!(asked.stderr.contains("standard is asked for instead"), "{}", asked.stderr);
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    home.run(&["thaw", "db", "--tier", "standard", "--confirm"]).ok();
    let restored = home
        .run(&[
            "restore",
            "db",
            "--to",
            &target.conninfo("d"),
            "--tier",
            "standard",
            "--yes",
            "--check",
        ])
        .ok();
    assert!(restored.stdout.contains("all as recorded"), "{}", restored.stdout);
    let answers = aws.front.glacier.answers();
    let times = |tier: &str, status: u16| {
        answers.iter().filter(|answer| **answer == (tier.to_owned(), status)).count()
    };
    // Two objects; the SDK itself asks some times before it believes a 503. What is under way is
    // not asked for again.
    assert!(times("Expedited", 503) >= 2, "{answers:?}");
    assert_eq!(
        (times("Standard", 202), answers.len() - times("Expedited", 503)),
        (2, 2),
        "{answers:?}"
    );
}

/// Nothing of it gets better by being tried again: exit code 2, and the reason.
#[test]
fn what_is_set_up_wrongly_is_not_called_temporary() {
    let home = Home::new();
    home.reconfigure("directory = \"vault\"", "s3 = \"s3://nobody-has-this/prefix\"");
    let alone = [
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ];
    home.run_with(&alone, &["list"]).fails(2, &["region"]);
    let region =
        [&alone[..], &[("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")]]
            .concat();
    home.run_with(&region, &["list"]).fails(2, &["credential"]);
    // An address with a password in it stands in guides and errors; it is refused, and not
    // repeated.
    home.reconfigure(
        "s3 = \"s3://nobody-has-this/prefix\"",
        "s3 = \"s3://nobody-has-this/prefix\"\nendpoint = \"http://user:hunter2@127.0.0.1:9\"",
    );
    let refused = home.run(&["list"]).fails(2, &["a secret in an address"]);
    assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
}
