//! What the connecting role may do on the target, asked before anything is changed: a restore as
//! somebody who is no superuser works where Postgres lets it, and says beforehand where it does
//! not.

use std::collections::{BTreeMap, BTreeSet};

use super::TargetError;
use crate::pg::archive::{TableOfContents, TocEntry, readable};
use crate::pg::sql::quote_text;
use crate::pg::{PgConnection, PgSession, SessionError};

/// Attributes of the connecting role.
#[derive(Debug, Clone, Default)]
pub struct RoleRights {
    /// The role.
    pub role: String,
    /// Everything.
    pub superuser: bool,
    /// `CREATEROLE`.
    pub create_role: bool,
    /// `CREATEDB`.
    pub create_db: bool,
}

/// Kinds of objects that only superusers make.
const OF_SUPERUSERS: [&str; 9] = [
    "EVENT TRIGGER",
    "SUBSCRIPTION",
    "FOREIGN DATA WRAPPER",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "ACCESS METHOD",
    "SECURITY LABEL",
];

/// Kinds of objects that `pg_restore` gives to their owner.
const OWNED: [&str; 25] = [
    "AGGREGATE",
    "BLOB",
    "COLLATION",
    "CONVERSION",
    "DOMAIN",
    "EVENT TRIGGER",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "FUNCTION",
    "MATERIALIZED VIEW",
    "OPERATOR",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "PROCEDURE",
    "PUBLICATION",
    "SCHEMA",
    "SEQUENCE",
    "SERVER",
    "STATISTICS",
    "SUBSCRIPTION",
    "TABLE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TYPE",
    "VIEW",
];

/// Something that the role may not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRight {
    /// What.
    pub what: String,
    /// What to do about it.
    pub next: String,
}

/// How a server logs while rows are loaded: what it refuses, without the statement and the row.
const QUIET: [(&str, &str); 5] = [
    ("log_error_verbosity", "terse"),
    ("log_min_error_statement", "panic"),
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    // From PostgreSQL 13 on.
    ("log_min_duration_sample", "-1"),
];

/// Settings of sessions that load, so that the server's log quotes no row that it refuses. Only a
/// superuser may make them: for any other role the log stays as the server has it. That of a
/// sandbox is read by nobody but lifeboat.
pub async fn quiet_logs(
    session: &mut PgSession,
    connection: &PgConnection,
) -> Vec<(String, String)> {
    if connection.is_in_sandbox() {
        return Vec::new();
    }
    let names = QUIET.map(|(name, _)| quote_text(name)).join(", ");
    let question = format!(
        "SELECT s.name FROM pg_catalog.pg_settings s, pg_catalog.pg_roles r WHERE r.rolname = session_user AND r.rolsuper AND s.name IN ({names})"
    );
    let known: Vec<String> = session
        .ask("how it logs", &question, 1)
        .await
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    QUIET
        .iter()
        .filter(|(name, _)| known.iter().any(|one| one == name))
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

impl RoleRights {
    /// Asks.
    ///
    /// # Errors
    /// [`SessionError`]
    pub async fn of(session: &mut PgSession) -> Result<Self, SessionError> {
        let question = "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let rows = session.ask("what the role may do", question, 4).await?;
        match rows.first().map(Vec::as_slice) {
            Some([Some(role), Some(superuser), Some(create_role), Some(create_db)]) => Ok(Self {
                role: role.clone(),
                superuser: superuser == "t",
                create_role: create_role == "t",
                create_db: create_db == "t",
            }),
            _ => Err(SessionError::Shape { what: "what the role may do".to_owned() }),
        }
    }

    /// What it may not do of what is to be restored. `made` are roles that the restore makes, and
    /// so may give itself.
    ///
    /// # Errors
    /// [`TargetError::Session`]
    pub async fn lacking(
        &self,
        session: &mut PgSession,
        entries: &[&TocEntry],
        creates: bool,
        made: &BTreeSet<String>,
        gives_away: bool,
    ) -> Result<Vec<MissingRight>, TargetError> {
        if self.superuser {
            return Ok(Vec::new());
        }
        let mut lacks = Vec::new();
        let mut lack =
            |what: String, next: &str| lacks.push(MissingRight { what, next: next.to_owned() });
        if creates && !self.create_db {
            lack(
                "create the database".to_owned(),
                "let somebody create it, empty, or give the role CREATEDB",
            );
        }
        let skip = "leave it out with --skip KIND:NAME, go on without it with --keep-going, or restore as a superuser";
        for entry in entries.iter().filter(|entry| needs_a_superuser(entry)) {
            lack(format!("make {} {}", entry.kind.to_lowercase(), readable(&entry.tag)), skip);
        }
        for entry in entries.iter().filter(|entry| entry.kind == "EXTENSION") {
            let name = readable(&entry.tag);
            let trusted = format!(
                "SELECT count(*) FROM pg_catalog.pg_available_extension_versions v JOIN pg_catalog.pg_available_extensions e ON e.name = v.name \
                 AND e.default_version = v.version WHERE e.name = {} AND v.superuser AND NOT v.trusted {}",
                quote_text(&name),
                // What is installed is told of the database that the session is in.
                if creates { "" } else { "AND e.installed_version IS NULL" }
            );
            if session.ask_one("its extensions", &trusted).await.map_err(TargetError::Session)?
                != "0"
            {
                lack(format!("make extension {name}, which is not trusted"), skip);
            }
        }
        if gives_away {
            for (owner, count) in owners(entries) {
                if made.contains(&owner) || owner == self.role {
                    continue;
                }
                let question = format!(
                    "SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = {} AND rolname <> 'pg_database_owner' AND NOT pg_catalog.pg_has_role(oid, \
                     CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 160000 THEN 'SET' ELSE 'MEMBER' END)",
                    quote_text(&owner)
                );
                if session.ask_one("its roles", &question).await.map_err(TargetError::Session)?
                    != "0"
                {
                    lack(
                        format!("give {count} objects to {owner}, whose member it is not"),
                        "make it a member of that role, or leave owners as they come with --no-owner",
                    );
                }
            }
        }
        Ok(lacks)
    }
}

/// Owners and how many objects each has.
fn owners(entries: &[&TocEntry]) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for entry in entries
        .iter()
        .filter(|entry| !entry.owner.is_empty() && OWNED.contains(&entry.kind.as_str()))
    {
        *owners.entry(readable(&entry.owner)).or_default() += 1;
    }
    owners
}

fn needs_a_superuser(entry: &TocEntry) -> bool {
    // Not within a body.
    let head =
        memchr::memmem::find(&entry.definition, b"\n    AS ").unwrap_or(entry.definition.len());
    let says = |words: &[u8]| memchr::memmem::find(&entry.definition[..head], words).is_some();
    match entry.kind.as_str() {
        "PUBLICATION" => says(b" FOR ALL TABLES"),
        "PUBLICATION TABLES IN SCHEMA" => true,
        "FUNCTION" | "PROCEDURE" => {
            says(b"LANGUAGE c\n")
                || says(b"LANGUAGE c ")
                || says(b"LANGUAGE internal")
                || says(b" LEAKPROOF")
        }
        "PROCEDURAL LANGUAGE" => !says(b" TRUSTED "),
        "ACL" | "DEFAULT ACL" => says(b"SET SESSION AUTHORIZATION"),
        kind => OF_SUPERUSERS.contains(&kind),
    }
}

/// Entries of an archive that somebody has asked to leave out, with all that depends on them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedEntries(Vec<(String, String)>);

impl SkippedEntries {
    /// Parses `KIND:NAME` words, as in `TABLE:public.t` or `EXTENSION:postgis`.
    ///
    /// # Errors
    /// The word that is not one.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let split = |word: &String| match word.split_once(':') {
            Some((kind, name)) if !kind.trim().is_empty() && !name.is_empty() => {
                Ok((kind.trim().to_uppercase(), name.to_owned()))
            }
            _ => Err(format!("{word:?} is not of the form KIND:NAME")),
        };
        words.iter().map(split).collect::<Result<_, _>>().map(Self)
    }

    /// Those of two lists.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether something of a kind and name is to be left out.
    #[must_use]
    pub fn has(&self, kind: &str, name: &str) -> bool {
        self.0.iter().any(|(skipped, its)| skipped == kind && its == name)
    }

    /// As it is written.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(kind, name)| format!("{kind}:{name}"))
    }

    /// Whether what an entry is called is to be left out as something of a kind, with or without
    /// its schema.
    #[must_use]
    pub fn has_entry(&self, kind: &str, entry: &TocEntry) -> bool {
        self.has(kind, &readable(&entry.tag)) || self.has(kind, &entry.name())
    }

    fn names(&self, entry: &TocEntry) -> bool {
        self.has_entry(&entry.kind, entry)
    }

    /// Numbers of the entries that are left out: those that are named, and whatever depends on one
    /// that is.
    ///
    /// # Errors
    /// The first word that names nothing of the archive, and is neither a role nor a tablespace.
    pub fn of(&self, contents: &TableOfContents) -> Result<BTreeSet<i64>, String> {
        for (kind, name) in self.0.iter().filter(|(kind, _)| kind != "ROLE" && kind != "TABLESPACE")
        {
            let only = Self(vec![(kind.clone(), name.clone())]);
            // Rows of a table may stand in another archive.
            let rows = Self(vec![("TABLE".to_owned(), name.clone())]);
            if !contents
                .entries
                .iter()
                .any(|entry| only.names(entry) || (kind == "TABLE DATA" && rows.names(entry)))
            {
                return Err(format!("{kind}:{name}"));
            }
        }
        let mut skipped: BTreeSet<i64> = contents
            .entries
            .iter()
            .filter(|entry| self.names(entry))
            .map(|entry| entry.dump_id)
            .collect();
        loop {
            let depends = |entry: &&TocEntry| {
                !skipped.contains(&entry.dump_id)
                    && entry.dependencies.iter().any(|id| skipped.contains(id))
            };
            let more: Vec<i64> =
                contents.entries.iter().filter(depends).map(|entry| entry.dump_id).collect();
            if more.is_empty() {
                return Ok(skipped);
            }
            skipped.extend(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dump_id: i64, kind: &str, tag: &str, dependencies: &[i64]) -> TocEntry {
        TocEntry {
            dump_id,
            kind: kind.to_owned(),
            schema: b"s".to_vec(),
            tag: tag.into(),
            dependencies: dependencies.to_vec(),
            ..TocEntry::default()
        }
    }

    #[test]
    fn what_depends_on_something_skipped_is_skipped() {
        let entries = vec![
            entry(1, "TABLE", "t", &[]),
            entry(2, "TABLE DATA", "t", &[1]),
            entry(3, "VIEW", "v", &[1]),
            entry(4, "ACL", "VIEW v", &[3]),
            entry(5, "TABLE", "u", &[]),
        ];
        let contents = TableOfContents {
            version: (1, 16),
            database: Vec::new(),
            entries,
            raw: std::sync::Arc::default(),
        };
        let skips = |words: &[&str]| {
            SkippedEntries::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
                .unwrap()
        };
        assert_eq!(skips(&["table:s.t"]).of(&contents), Ok(BTreeSet::from([1, 2, 3, 4])));
        assert_eq!(skips(&["VIEW:v", "ROLE:x"]).of(&contents), Ok(BTreeSet::from([3, 4])));
        assert_eq!(skips(&["VIEW:w"]).of(&contents), Err("VIEW:w".to_owned()));
        for bad in ["TABLE", ":x", "TABLE:", ""] {
            assert!(SkippedEntries::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_only_superusers_make_is_known() {
        let of = |kind: &str, definition: &str| {
            needs_a_superuser(&TocEntry {
                definition: definition.into(),
                ..entry(1, kind, "x", &[])
            })
        };
        for (kind, definition) in [
            ("EVENT TRIGGER", ""),
            ("PUBLICATION", "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert');"),
            ("FUNCTION", "CREATE FUNCTION f() RETURNS int\n    LANGUAGE c STRICT\n    AS 'x';"),
            ("PROCEDURAL LANGUAGE", "CREATE OR REPLACE PROCEDURAL LANGUAGE plpython3u;"),
            ("ACL", "SET SESSION AUTHORIZATION a;\nGRANT SELECT ON TABLE t TO b;"),
        ] {
            assert!(of(kind, definition), "{kind} {definition}");
        }
        for (kind, definition) in [
            ("TABLE", ""),
            ("PUBLICATION", "CREATE PUBLICATION p;"),
            ("FUNCTION", "… LANGUAGE sql …"),
            ("ACL", "GRANT …"),
        ] {
            assert!(!of(kind, definition), "{kind} {definition}");
        }
    }
}
