//! Locating Postgres' client programs. `pg_dump` must be at least as new as the server,
//! `pg_restore` as the archive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::program;

/// A client program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgTool {
    /// `psql`
    Psql,
    /// `pg_dump`
    PgDump,
    /// `pg_dumpall`
    PgDumpall,
    /// `pg_restore`
    PgRestore,
    /// `pg_amcheck`
    PgAmcheck,
    /// `initdb`, of a server's installation
    Initdb,
    /// `postgres`, of a server's installation
    Postgres,
}

impl PgTool {
    const ALL: [Self; 7] = [
        Self::Psql,
        Self::PgDump,
        Self::PgDumpall,
        Self::PgRestore,
        Self::PgAmcheck,
        Self::Initdb,
        Self::Postgres,
    ];

    /// The program's file name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Psql => "psql",
            Self::PgDump => "pg_dump",
            Self::PgDumpall => "pg_dumpall",
            Self::PgRestore => "pg_restore",
            Self::PgAmcheck => "pg_amcheck",
            Self::Initdb => "initdb",
            Self::Postgres => "postgres",
        }
    }
}

/// One installation of the client programs.
#[derive(Debug, Clone)]
pub struct PgTools {
    directory: PathBuf,
    version: String,
    major: u32,
}

/// Why no client programs were found.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// None at all, or none new enough.
    #[error(
        "no pg_dump of version {needed} or newer was found (looked in {looked}; found {found})"
    )]
    NoneFits {
        /// Oldest major that would do.
        needed: u32,
        /// Where was looked.
        looked: String,
        /// What was there.
        found: String,
    },
    /// No server of the major that is needed.
    #[error("no PostgreSQL {major} server is installed here")]
    NoServer {
        /// The major.
        major: u32,
    },
}

impl ToolsError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NoneFits { needed, .. } => {
                format!(
                    "install postgresql-client-{needed} (or newer), or name its directory as pg_bin in lifeboat.toml"
                )
            }
            Self::NoServer { major } => format!(
                "install postgresql-{major}, or name its bin directory as pg_bin in lifeboat.toml"
            ),
        }
    }
}

/// What asking a program for its version may take.
const VERSION_LIMITS: program::ProgramLimits =
    program::ProgramLimits { within: Duration::from_secs(20), output_bytes: 4096 };

/// Groups below are the system's own; Debian's `staff` may write below /usr/local, and is as good
/// as root by its policy.
const GROUPS_OF_PEOPLE: u32 = 100;

/// Why somebody else decides what a program does, if so: it, or a directory on the way to it, can
/// be changed by others. A cron job of root's with an unlucky `PATH` would run it with root's
/// rights.
fn not_ours(directory: &Path) -> Option<String> {
    // Links may stand in it for programs that are elsewhere, each with its own way there.
    let programs =
        PgTool::ALL.into_iter().filter_map(|tool| directory.join(tool.name()).canonicalize().ok());
    let directories = programs.clone().filter_map(|program| Some(program.parent()?.to_owned()));
    let on_the_way = directories.chain(directory.canonicalize().ok()).flat_map(|directory| {
        directory
            .ancestors()
            .enumerate()
            .map(|(steps, place)| (place.to_owned(), steps > 0))
            .collect::<Vec<_>>()
    });
    programs
        .map(|program| (program, false))
        .chain(on_the_way)
        .find_map(|(place, is_above)| changed_by(&place, is_above))
}

/// Who else can change a file or directory. Above a program's own directory the sticky bit keeps
/// others from what is not theirs.
fn changed_by(place: &Path, is_above: bool) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid();
    let facts = std::fs::metadata(place).ok()?;
    let is_sticky = is_above && facts.mode() & 0o1000 != 0;
    let why = match () {
        () if facts.mode() & 0o002 != 0 && !is_sticky => "everybody may write it",
        () if !own.is_root() => return None,
        () if facts.uid() != 0 => "it belongs to another user, and this is root",
        () if facts.mode() & 0o020 != 0 && facts.gid() >= GROUPS_OF_PEOPLE && !is_sticky => {
            "a group may write it, and this is root"
        }
        () => return None,
    };
    Some(format!("{}: {why}", place.display()))
}

const DEBIAN: &str = "/usr/lib/postgresql";

impl PgTools {
    /// Finds programs of at least `major_min`: in `directory` if one is configured, else Debian's
    /// directories (the oldest that fits, so that archives are readable by as many as
    /// possible), else along `PATH`.
    ///
    /// # Errors
    /// [`ToolsError::NoneFits`] naming where was looked and what was found.
    pub async fn find(directory: Option<&Path>, major_min: u32) -> Result<Self, ToolsError> {
        let candidates: Vec<PathBuf> = match directory {
            Some(directory) => vec![directory.to_owned()],
            None => debian_directories().into_iter().chain(path_directories()).collect(),
        };
        let mut found = Vec::new();
        for candidate in &candidates {
            if let Some(tools) = Self::look(candidate).await {
                if tools.major >= major_min {
                    return Ok(tools);
                }
                found.push(tools.version);
            }
        }
        let looked =
            candidates.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        Err(ToolsError::NoneFits { needed: major_min, looked, found })
    }

    /// Finds an installation that holds a server of exactly this major.
    ///
    /// # Errors
    /// [`ToolsError::NoServer`] naming where was looked.
    pub async fn find_server(directory: Option<&Path>, major: u32) -> Result<Self, ToolsError> {
        let candidates: Vec<PathBuf> = directory
            .map(Path::to_owned)
            .into_iter()
            .chain(debian_directories())
            .chain(path_directories())
            .collect();
        for candidate in &candidates {
            if !candidate.join(PgTool::Postgres.name()).exists()
                || !candidate.join(PgTool::Initdb.name()).exists()
            {
                continue;
            }
            if let Some(tools) = Self::look(candidate).await.filter(|tools| tools.major == major) {
                return Ok(tools);
            }
        }
        Err(ToolsError::NoServer { major })
    }

    async fn look(directory: &Path) -> Option<Self> {
        let path = directory.join(PgTool::PgDump.name());
        if let Some(why) = not_ours(directory) {
            tracing::warn!("the programs in {} are passed over: {why}", directory.display());
            return None;
        }
        let mut asked = tokio::process::Command::new(path);
        asked.arg("--version");
        let output = program::run(asked, b"", VERSION_LIMITS).await.ok()?;
        let version = std::str::from_utf8(&output.stdout).ok()?.trim().to_owned();
        let major = parse_major(&version)?;
        Some(Self { directory: directory.to_owned(), version, major })
    }

    /// Where the programs are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
    /// Path of a program.
    #[must_use]
    pub fn path(&self, tool: PgTool) -> PathBuf {
        self.directory.join(tool.name())
    }
    /// What `pg_dump --version` prints.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
    /// Major version of the programs.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }
}

fn parse_major(version: &str) -> Option<u32> {
    let number = version.strip_prefix("pg_dump (PostgreSQL) ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn debian_directories() -> Vec<PathBuf> {
    let mut majors: Vec<u32> = std::fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    majors.sort_unstable();
    majors.into_iter().map(|major| PathBuf::from(format!("{DEBIAN}/{major}/bin"))).collect()
}

fn path_directories() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::parse_major;

    #[test]
    fn majors_are_read_from_released_and_unreleased_versions() {
        assert_eq!(parse_major("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(parse_major("pg_dump (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_major("something else"), None);
    }
}
