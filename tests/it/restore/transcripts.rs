//! Ten nights: what a person types who has `--help` and the runbook, on real servers, and the
//! runbook's own commands.
//!
//! A session is a file in `tests/sessions/`: how the night begins (`##` lines, which nobody sees),
//! what is typed, and what must be true in the end (`#=` lines). With `LIFEBOAT_RECORD=DIR` what
//! the terminal showed is written there; `docs/transcripts/` was made so.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Cluster, Home, files};

struct Night {
    source: Cluster,
    target: Cluster,
    home: Home,
    trust: String,
}

impl Night {
    fn new() -> Self {
        let (source, target) = (Cluster::start(), Cluster::start());
        source.psql("postgres", "CREATE DATABASE chat");
        source.psql(
            "chat",
            "CREATE TABLE people (id int PRIMARY KEY, name text); CREATE TABLE messages (id int PRIMARY KEY, author int REFERENCES people, body text);
             INSERT INTO people SELECT i, 'person ' || i FROM generate_series(1, 200) i;
             INSERT INTO messages SELECT i, 1 + i % 200, md5(i::text) FROM generate_series(1, 10000) i",
        );
        let home = Home::new();
        home.add_datastore("chat", &source.conninfo("chat"), "");
        home.configure("\n[vaults.dr]\ndirectory = \"dr\"\n");
        home.run(&["backup", "chat"]).ok();
        let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
        let trust = text.split("trust = [\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Self { source, target, home, trust }
    }

    fn bash(&self, script: &str) -> std::process::Output {
        let lifeboat = Path::new(env!("CARGO_BIN_EXE_lifeboat")).parent().unwrap();
        let path = format!("{}:{}", lifeboat.display(), std::env::var("PATH").unwrap());
        let server =
            |cluster: &Cluster| format!("host={} user=postgres", cluster.socket().display());
        let mut bash = Command::new("bash");
        bash.args(["-c", script])
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home.path(""))
            .current_dir(self.home.path(""));
        bash.env("LIFEBOAT_CONFIG", self.home.path("lifeboat.toml"))
            .env("DATASTORE", "chat")
            .env("DATABASE", "chat");
        bash.env("TARGET", server(&self.target))
            .env("LIVE", server(&self.source))
            .env("RECOVERY", self.home.recovery());
        bash.env("VAULT", self.home.vault())
            .env("TRUST", &self.trust)
            .env("TRUSTED_KEY", self.home.path("trusted.pem"));
        bash.env("PGHOST", self.target.socket())
            .env("PGUSER", "postgres")
            .env("COLUMNS", "120")
            .output()
            .unwrap()
    }

    /// Runs a session and returns what the terminal showed.
    fn play(&self, text: &str) -> String {
        let lines = |prefix: &str| {
            text.lines()
                .filter_map(|line| line.strip_prefix(prefix))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let begun = self.bash(&format!("set -eu\n{}", lines("## ").join("\n")));
        assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
        let mut script = String::from(
            "say() { printf '\\n$ %s\\n' \"$1\"; eval \"$1\"; local code=$?; [ $code = 0 ] || printf '[exit code %s]\\n' $code; }\nexec 2>&1\n",
        );
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.strip_prefix("# ") {
                Some(thought) => {
                    script.push_str(&format!("printf '\\n# %s\\n' {}\n", quoted(thought)))
                }
                None if line.starts_with('#') => {}
                None => script.push_str(&format!("say {}\n", quoted(line))),
            }
        }
        let shown = String::from_utf8_lossy(&self.bash(&script).stdout).into_owned();
        for truth in lines("#= ") {
            let output = self.bash(&format!("set -euo pipefail\n{truth}"));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{truth} is not so: {said}\n{shown}");
        }
        shown
    }

    /// What the terminal showed, with the places that a reader would expect.
    fn readable(&self, shown: &str) -> String {
        let replace = [
            (
                self.home.path("").display().to_string().trim_end_matches('/').to_owned(),
                "/etc/lifeboat",
            ),
            (self.target.socket().display().to_string(), "/run/new-server"),
            (self.source.socket().display().to_string(), "/run/live-server"),
        ];
        replace.iter().fold(shown.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn root(place: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(place)
}

fn session(number: &str) {
    let all = files(&root("tests/sessions"));
    let file = all
        .iter()
        .find(|file| file.file_name().unwrap().to_str().unwrap().starts_with(number))
        .unwrap();
    let night = Night::new();
    let shown = night.play(&std::fs::read_to_string(file).unwrap());
    assert!(!shown.contains("AGE-SECRET-KEY"), "{shown}");
    if let Some(directory) = std::env::var_os("LIFEBOAT_RECORD") {
        let name = file.file_stem().unwrap().to_str().unwrap();
        std::fs::write(
            Path::new(&directory).join(format!("{name}.txt")),
            night.readable(&shown).trim_start(),
        )
        .unwrap();
    }
}

macro_rules! sessions {
    ($($name:ident = $number:literal),* $(,)?) => {
        $(#[test] fn $name() { session($number); })*
        #[test]
        fn every_session_is_played() {
            assert_eq!(files(&root("tests/sessions")).len(), [$($number),*].len());
            assert_eq!(files(&root("docs/transcripts")).len(), [$($number),*].len(), "record them: LIFEBOAT_RECORD=docs/transcripts");
        }
    };
}

sessions! {
    night_01_the_server_is_gone = "01",
    night_02_a_migration_went_wrong = "02",
    night_03_one_table_was_emptied = "03",
    night_04_the_newest_backup_is_damaged = "04",
    night_05_the_laptop_dies_half_way = "05",
    night_06_the_backup_is_frozen = "06",
    night_07_the_region_is_gone = "07",
    night_08_the_host_is_gone = "08",
    night_09_the_key_is_gone = "09",
    night_10_lifeboat_is_gone = "10",
}

/// The general runbook, block by block, each way from a server that has nothing.
#[test]
fn the_general_runbook_is_followed_to_the_letter() {
    let night = Night::new();
    night.home.run(&["copy", "dr"]).ok();
    // The runbook's "now" is a whole second; the backup must be older.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    std::fs::copy(night.home.path("keys/signing.pub.pem"), night.home.path("trusted.pem")).unwrap();
    let page = std::fs::read_to_string(root("docs/RUNBOOK.md")).unwrap();
    let blocks: Vec<&str> =
        page.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 11, "{} blocks", blocks.len());
    for block in blocks {
        let fresh = block.contains("--check --yes") && !block.contains("_rescue");
        if fresh {
            night.target.psql("postgres", "DROP DATABASE IF EXISTS chat WITH (FORCE)");
        }
        let output = night.bash(&format!("set -euo pipefail\n{block}"));
        assert!(
            output.status.success(),
            "{block}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if fresh {
            assert_eq!(
                night.target.psql("chat", "SELECT count(*) FROM messages"),
                "10000",
                "{block}"
            );
        }
    }
    assert_eq!(night.target.psql("chat_rescue", "SELECT count(*) FROM people"), "200");
}
