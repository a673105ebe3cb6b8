//! A small database, one backup of it, and a drill that can be scripted: `plan "db"`, drill
//! `nightly`, in the sandbox of this host.

use serde_json::Value;

use super::home::Out;
use super::{Cluster, Home, eventually};

/// A source with a small database, a set-up, and one backup of it.
pub struct Rehearsal {
    pub source: Cluster,
    pub home: Home,
}

const TABLES: &str = "CREATE TABLE patients (id int PRIMARY KEY, name text NOT NULL, seen timestamptz DEFAULT now());
    INSERT INTO patients SELECT i, 'patient ' || i FROM generate_series(1, 5000) i;
    CREATE INDEX ON patients (name); CREATE TABLE tiny (v int); INSERT INTO tiny VALUES (1), (2);";

impl Rehearsal {
    pub fn new() -> Self {
        Self::of(Cluster::start(), "")
    }

    /// The same with another server, and more lines in `[postgres]`.
    pub fn of(source: Cluster, postgres: &str) -> Self {
        source.psql("postgres", "CREATE DATABASE d");
        source.psql("d", TABLES);
        let home = Home::of(&source, "d");
        if !postgres.is_empty() {
            home.configure(&format!("\n[postgres]\n{postgres}\n"));
        }
        for directory in ["restore", "drills"] {
            std::fs::create_dir_all(home.path(directory)).unwrap();
        }
        let rehearsal = Self { source, home };
        rehearsal.plan("");
        rehearsal.home.backup();
        rehearsal
    }

    pub fn plan(&self, more: &str) {
        std::fs::write(
            self.home.path("restore/db.toml"),
            format!("[[restore]]\ndatastore = \"db\"\n{more}\n"),
        )
        .unwrap();
    }

    pub fn script(&self, text: &str) {
        let size = if text.contains("[local]") { "" } else { "\n[local]\nsize_mib = 512\n" };
        // Keys of the file's top come before its sections.
        let (top, sections) = text.split_once("\n\n").unwrap_or((text, ""));
        std::fs::write(
            self.home.path("drills/nightly.toml"),
            format!("plan = \"db\"\n{top}\n{size}\n{sections}\n"),
        )
        .unwrap();
    }

    /// Runs the drill and returns its report, whatever its verdict.
    pub fn report(&self, code: i32) -> Value {
        self.report_of(&["drill", "nightly", "--json"], code)
    }

    pub fn report_of(&self, arguments: &[&str], code: i32) -> Value {
        self.reported(&self.home.run(arguments), code)
    }

    /// The report of a drill that has ended with that exit code, and left nothing.
    #[track_caller]
    pub fn reported(&self, out: &Out, code: i32) -> Value {
        assert_eq!(out.code, code, "stdout: {}\nstderr: {}", out.stdout, out.stderr);
        let last: Value = serde_json::from_str(out.stdout.lines().last().unwrap_or_default())
            .unwrap_or_else(|e| panic!("{e}: {out:?}"));
        self.assert_nothing_is_left();
        last["report"].clone()
    }

    /// The directory of the sandbox that is there now.
    pub fn sandbox(&self) -> Option<std::path::PathBuf> {
        Some(std::fs::read_dir(self.home.path("catalog.sandboxes")).ok()?.flatten().next()?.path())
    }

    /// Its lease.
    pub fn lease(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.sandbox()?.join("lease.json")).ok()?).ok()
    }

    /// A drill that has loaded and stands still until the file is written.
    pub fn loaded_and_waiting(&self) -> (std::process::Child, std::path::PathBuf) {
        self.loaded_and_waiting_by(self.home.command(&["drill", "nightly", "--json"]))
    }

    pub fn loaded_and_waiting_by(
        &self,
        mut command: std::process::Command,
    ) -> (std::process::Child, std::path::PathBuf) {
        let (go_on, reached) = (self.home.path("go-on"), self.home.path("go-on.reached"));
        command.env("LIFEBOAT_WAITPOINT", format!("drill-loaded={}", go_on.display()));
        let drill = command.spawn().unwrap();
        eventually("the drill has loaded", || reached.exists());
        (drill, go_on)
    }

    #[track_caller]
    pub fn assert_nothing_is_left(&self) {
        let places = std::fs::read_dir(self.home.path("catalog.sandboxes"))
            .map(|all| all.flatten().map(|e| e.path()).collect::<Vec<_>>());
        assert_eq!(places.unwrap_or_default(), Vec::<std::path::PathBuf>::new());
        assert_eq!(self.processes(), Vec::<String>::new());
    }

    /// Processes that carry the name of one of this set-up's sandboxes in their arguments, or hold
    /// its files.
    fn processes(&self) -> Vec<String> {
        let tag = self.home.path("catalog.sandboxes").display().to_string();
        let all = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
        all.map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&tag))
            .collect()
    }
}
