//! A set-up of lifeboat in a temporary directory, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Cluster;

pub struct Home {
    directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Out {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts an exit code and words of the message.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl Home {
    /// Keys, vault and configuration as `lifeboat init` makes them, and a recovery key at
    /// `recovery.txt`.
    pub fn new() -> Self {
        let home = Self { directory: super::directory(), environment: Vec::new() };
        let recovery = home.path("recovery.txt");
        home.run(&[
            "init",
            home.directory.path().to_str().unwrap(),
            "--new-recovery-key",
            recovery.to_str().unwrap(),
        ])
        .ok();
        home
    }

    /// What an earlier version left, from `tests/fixtures`: keys, configuration, vault, volumes,
    /// catalog. The manifest of a set names the directory of its snapshots, so that one is put
    /// where it was, and stays there for other tests; nothing removes from it.
    pub fn of_version(version: &str) -> Self {
        let home = Self { directory: super::directory(), environment: Vec::new() };
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(version)
            .join("boat.tar.zst");
        let unpacked = Command::new("tar")
            .args(["--zstd", "-xf"])
            .arg(fixture)
            .arg("-C")
            .arg(home.directory.path())
            .status()
            .unwrap();
        assert!(unpacked.success());
        let suffix = if version == "0.1.0" { String::new() } else { format!("-{version}") };
        let was = &PathBuf::from(format!("/tmp/lifeboat-fixture{suffix}/boat/volumes"));
        if !was.exists() {
            std::fs::create_dir_all(was.parent().unwrap()).unwrap();
            let copy = was.with_extension(std::process::id().to_string());
            copy_tree(&home.path("volumes"), &copy);
            if std::fs::rename(&copy, was).is_err() {
                std::fs::remove_dir_all(&copy).unwrap();
            }
        }
        home
    }

    /// The same with datastore `db` in a cluster's database.
    pub fn of(cluster: &Cluster, database: &str) -> Self {
        let home = Self::new();
        home.add_datastore("db", &cluster.conninfo(database), "");
        home
    }

    pub fn add_datastore(&self, name: &str, connection: &str, more: &str) {
        self.configure(&format!(
            "\n[datastores.{name}]\nkind = \"postgres\"\nconnection = '''{connection}'''\nlock_wait = \"2s\"\n{more}\n"
        ));
    }

    /// Appends to `lifeboat.toml`.
    pub fn configure(&self, text: &str) {
        let file = self.path("lifeboat.toml");
        let old = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, old + text).unwrap();
    }

    /// Replaces a part of `lifeboat.toml`.
    #[track_caller]
    pub fn reconfigure(&self, from: &str, to: &str) {
        let file = self.path("lifeboat.toml");
        let old = std::fs::read_to_string(&file).unwrap();
        assert!(old.contains(from), "{from:?} is not in {old}");
        std::fs::write(file, old.replace(from, to)).unwrap();
    }

    /// Pins another id of the vault than that which `init` has made.
    pub fn pin(&self, id: &str) {
        let text = std::fs::read_to_string(self.path("lifeboat.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with("id = ")).unwrap();
        self.reconfigure(line, &format!("id = \"{id}\""));
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
    pub fn vault(&self) -> PathBuf {
        self.path("vault")
    }
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.directory.path());
        command
            .env("LIFEBOAT_CONFIG", self.path("lifeboat.toml"))
            .envs(self.environment.iter().cloned());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same by another way: `words` start the program that they end with, in place of the one
    /// of this build.
    pub fn command_by(&self, words: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(arguments)
            .env("LIFEBOAT_CONFIG", self.path("lifeboat.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A copy of the program of this build beside the configuration, for others than its owner, or
    /// to be replaced.
    pub fn program(&self) -> String {
        let program = self.path("lifeboat");
        std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
        program.to_str().unwrap().to_owned()
    }

    pub fn run(&self, arguments: &[&str]) -> Out {
        finish(self.command(arguments))
    }

    pub fn run_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Out {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        finish(command)
    }

    /// Takes a backup of `db` and returns its id.
    #[track_caller]
    pub fn backup(&self) -> String {
        let report = self.run(&["backup", "db", "--json"]).ok().json();
        report[0]["backup"].as_str().unwrap().to_owned()
    }

    /// Restores the newest backup of `db`, compared.
    pub fn restore(&self, to: &str) -> Out {
        self.run(&["restore", "db", "--to", to, "--yes", "--check"])
    }

    pub fn recovery(&self) -> String {
        self.path("recovery.txt").to_str().unwrap().to_owned()
    }

    /// The file of a payload of a backup in the directory vault.
    pub fn payload(&self, backup: &str, name: &str) -> PathBuf {
        self.vault().join(format!("payloads/db/{backup}/{name}.zst.age"))
    }
    pub fn manifest(&self, backup: &str) -> PathBuf {
        self.vault().join(format!("manifests/db/{backup}.json"))
    }
    pub fn meta(&self, backup: &str) -> PathBuf {
        self.vault().join(format!("meta/db/{backup}"))
    }
}

pub fn finish(mut command: Command) -> Out {
    let output = command.output().unwrap();
    out(&output)
}

pub fn out(output: &std::process::Output) -> Out {
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Out { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

pub fn copy_tree(from: &Path, to: &Path) {
    for file in super::files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}
