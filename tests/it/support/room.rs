//! Drills in a scratch VPC, the whole path: a vault in emulated S3 with one backup, an account of
//! EC2 with production in it, and machines that run what is launched.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::cloud::Cloud;
use super::front::Front;
use super::localstack::Localstack;
use super::machine::{Machines, Settings};
use super::scratch::inventory;
use super::{Cluster, Home};

pub const REGION: &str = "us-east-1";
const TABLES: &str = "CREATE TABLE patients (id int PRIMARY KEY, name text NOT NULL, seen timestamptz DEFAULT now());
    INSERT INTO patients SELECT i, 'patient ' || i FROM generate_series(1, 5000) i;
    CREATE INDEX ON patients (name); CREATE TABLE tiny (v int); INSERT INTO tiny VALUES (1), (2);";

/// The built program without its symbols: what instances fetch.
fn agent() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_lifeboat"));
    let built = program
        .metadata()
        .unwrap()
        .modified()
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let stripped =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("agent-{}", built.as_nanos()));
    if !stripped.exists() {
        let own = stripped.with_extension(std::process::id().to_string());
        let strip =
            std::process::Command::new("strip").arg("-o").arg(&own).arg(&program).status().unwrap();
        assert!(strip.success());
        std::fs::rename(&own, &stripped).unwrap();
    }
    stripped
}

/// A vault in S3 with one backup, an account of EC2 with production in it, and machines that run
/// what is launched.
pub struct Room {
    pub home: Home,
    pub cloud: Arc<Cloud>,
    pub machines: Machines,
    pub front: Front,
    pub stack: Localstack,
    _source: Cluster,
    pub key: String,
    pub foreign: std::collections::BTreeMap<String, String>,
}

impl Room {
    pub fn start() -> Self {
        let (stack, cloud) = (Localstack::in_default_account(), Arc::new(Cloud::start()));
        let front = Front::start(stack.port);
        stack.aws(&["s3api", "create-bucket", "--bucket", &stack.bucket]);
        let key =
            stack.aws(&["kms", "create-key"])["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
        let source = Cluster::start();
        source.psql("postgres", "CREATE DATABASE d");
        source.psql("d", TABLES);
        let mut home = Home::new();
        for (name, value) in stack.credentials() {
            home.set(name, value);
        }
        for (name, value) in cloud.env() {
            home.set(name, &value);
        }
        for (name, value) in [
            ("AWS_REGION", REGION),
            ("AWS_ENDPOINT_URL_S3", &front.endpoint()),
            ("AWS_ENDPOINT_URL_KMS", &front.endpoint()),
        ] {
            home.set(name, value);
        }
        home.reconfigure(
            "directory = \"vault\"",
            &format!("s3 = \"s3://{}/team\"\npath_style = true\npart_mib = 5", stack.bucket),
        );
        home.configure(&format!("\n[keys.home]\nkind = \"aws-kms\"\nkey_id = \"{key}\"\n"));
        home.add_datastore("db", &source.conninfo("d"), "");
        let header = home.path("header");
        home.pin("00112233445566778899aabbccddeeff");
        std::fs::write(
            &header,
            r#"{ "format": "lifeboat.vault/1", "vault": "00112233445566778899aabbccddeeff" }"#,
        )
        .unwrap();
        stack.aws(&[
            "s3api",
            "put-object",
            "--bucket",
            &stack.bucket,
            "--key",
            "team/vault.json",
            "--body",
            header.to_str().unwrap(),
        ]);
        let image = cloud.register_image(REGION, "scratch");
        let firewall = cloud.firewall_group(
            REGION,
            &[(10, "ALLOW", &["*.us-east-1.amazonaws.com."][..]), (20, "BLOCK", &["*."][..])],
        );
        cloud.seed_production(REGION);
        home.configure(&format!(
            r#"
[scratch_vpc]
region = "{REGION}"
account = "123456789012"
cidr = "10.99.0.0/24"
production_cidrs = ["10.0.0.0/16"]
zones = ["us-east-1a", "us-east-1b"]
instance_types = ["m7i.large", "m6i.large"]
image = "{image}"
instance_profile = "arn:aws:iam::123456789012:instance-profile/scratch"
instance_role = "arn:aws:iam::123456789012:role/scratch"
kms_key = "arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-00000000d111"
flow_logs = "arn:aws:s3:::flow-logs/scratch/"
dns_firewall = "{firewall}"
agent = "{}"
poll = "100ms"
settle_within = "20s"
boot_within = "2m"
silent_within = "1m"
"#,
            agent().display()
        ));
        for directory in ["restore", "drills"] {
            std::fs::create_dir_all(home.path(directory)).unwrap();
        }
        std::fs::write(home.path("restore/db.toml"), "[[restore]]\ndatastore = \"db\"\n").unwrap();
        let emulator = format!("127.0.0.1:{}", front.port).parse().unwrap();
        let machines = Machines::start(Arc::clone(&cloud), REGION, emulator, Settings::default());
        let foreign = inventory(&cloud, REGION);
        let room = Self { home, cloud, machines, front, stack, _source: source, key, foreign };
        room.script("");
        room.home.backup();
        room
    }

    pub fn script(&self, more: &str) {
        let text = format!("plan = \"db\"\nsandbox = \"vpc\"\n{more}\n\n[local]\nsize_mib = 512\n");
        std::fs::write(self.home.path("drills/nightly.toml"), text).unwrap();
    }

    /// Runs the drill and returns its report, whatever its verdict; nothing of it may be left, and
    /// nothing else be touched.
    #[track_caller]
    pub fn report(&self, code: i32) -> Value {
        let report = self.report_of(&["drill", "nightly", "--json"], code);
        self.assert_nothing_is_left();
        report
    }

    #[track_caller]
    pub fn report_of(&self, arguments: &[&str], code: i32) -> Value {
        let out = self.home.run(arguments);
        assert_eq!(
            out.code,
            code,
            "stdout: {}\nstderr: {}\nconsoles: {}",
            out.stdout,
            out.stderr,
            self.machines.consoles()
        );
        let last: Value = serde_json::from_str(out.stdout.lines().last().unwrap_or_default())
            .unwrap_or_else(|e| panic!("{e}: {out:?}"));
        last["report"].clone()
    }

    #[track_caller]
    pub fn assert_nothing_is_left(&self) {
        assert_eq!(inventory(&self.cloud, REGION), self.foreign);
        let grants = self.stack.aws(&["kms", "list-grants", "--key-id", &self.key]);
        assert_eq!(grants["Grants"].as_array().map(Vec::len), Some(0), "{grants}");
    }
}
