//! Roles, memberships, tablespaces and parameter grants, as `pg_dumpall --globals-only` writes them.
//!
//! The script is parsed, not run: every statement must be of a kind that is known, or the whole is refused. That is what
//! lets a restore compare roles that exist, remap tablespaces, and never hand `psql` a script from a vault.

use std::collections::BTreeMap;

use super::archive::readable;
use super::sql::{self, Kind, SqlError, Statement};

/// A parsed globals script.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    /// Encoding of the script's texts, as Postgres names it.
    pub encoding: String,
    /// For each role, the statements that make it what it is, `CREATE ROLE` first.
    pub roles: BTreeMap<String, Vec<Vec<u8>>>,
    /// Memberships.
    pub memberships: Vec<Membership>,
    /// For each tablespace, the statements about it, `CREATE TABLESPACE` first.
    pub tablespaces: BTreeMap<String, Vec<Vec<u8>>>,
    /// Grants on configuration parameters.
    pub parameter_grants: Vec<Vec<u8>>,
}

/// `GRANT role TO member`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The role that is granted.
    pub role: String,
    /// The role it is granted to.
    pub member: String,
    /// The statement.
    pub statement: Vec<u8>,
}

/// Why a globals script is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum GlobalsError {
    /// It cannot be cut into statements.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A statement of a kind that does not belong into globals.
    #[error("the globals hold a statement that does not belong there: {0}")]
    Unknown(String),
}

/// Drops what differs between two dumps of the same globals: the random keys of `\restrict`.
#[must_use]
pub fn without_restrict(script: &[u8]) -> Vec<u8> {
    let lines = script.split_inclusive(|c| *c == b'\n');
    lines.filter(|line| !line.starts_with(b"\\restrict ") && !line.starts_with(b"\\unrestrict ")).flatten().copied().collect()
}

/// Parses a script from which [`without_restrict`] has been taken.
///
/// # Errors
/// [`GlobalsError`] for anything that is not known to belong there.
pub fn parse(script: &[u8]) -> Result<Globals, GlobalsError> {
    let mut globals = Globals { encoding: "UTF8".to_owned(), ..Globals::default() };
    for statement in sql::statements(script)? {
        if !sort_in(&statement, &mut globals) {
            // Not quoted whole: an unknown statement may hold a password.
            let head: Vec<u8> = statement.text.iter().copied().take(40).collect();
            return Err(GlobalsError::Unknown(format!("{}…", readable(&head))));
        }
    }
    Ok(globals)
}

fn sort_in(statement: &Statement<'_>, globals: &mut Globals) -> bool {
    let text = statement.text.to_vec();
    let name = |at: usize| statement.name_at(at).map(readable);
    if statement.begins_with(&["set", "client_encoding"]) {
        let value = statement.tokens.last().map(|t| readable(&statement.text[t.at.clone()]));
        globals.encoding = value.unwrap_or_default().trim_matches('\'').to_owned();
        return globals.encoding.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    }
    if statement.begins_with(&["set"]) || statement.begins_with(&["select", "pg_catalog"]) {
        let quiet = ["default_transaction_read_only", "standard_conforming_strings", "escape_string_warning"];
        let second = name(1).unwrap_or_default();
        return quiet.contains(&second.as_str()) || name(3).as_deref() == Some("set_config");
    }
    for (object, at, into) in [("role", 2, Object::Role), ("tablespace", 2, Object::Tablespace)] {
        for verb in ["create", "alter"] {
            if statement.begins_with(&[verb, object]) {
                return file(globals, &into, name(at), text);
            }
        }
        if statement.begins_with(&["comment", "on", object]) {
            return file(globals, &into, name(3), text);
        }
        if statement.begins_with(&["security", "label", "for"]) && statement.position(object) == Some(5) {
            return file(globals, &into, name(6), text);
        }
    }
    if statement.begins_with(&["grant"]) || statement.begins_with(&["revoke"]) {
        return sort_in_grant(statement, text, globals);
    }
    false
}

fn sort_in_grant(statement: &Statement<'_>, text: Vec<u8>, globals: &mut Globals) -> bool {
    let name = |at: usize| statement.name_at(at).map(readable);
    // Names may be keywords, but only quoted; `position` finds unquoted words.
    match statement.position("on") {
        Some(on) if statement.tokens.get(on + 1).is_some_and(|t| t.kind == Kind::Word(b"tablespace".to_vec())) => {
            file(globals, &Object::Tablespace, name(on + 2), text)
        }
        Some(on) if statement.tokens.get(on + 1).is_some_and(|t| t.kind == Kind::Word(b"parameter".to_vec())) => {
            globals.parameter_grants.push(text);
            true
        }
        Some(_) => false,
        None => match (name(1), statement.tokens.get(2).map(|t| &t.kind), name(3)) {
            (Some(role), Some(Kind::Word(to)), Some(member)) if to == b"to" => {
                globals.memberships.push(Membership { role, member, statement: text });
                true
            }
            _ => false,
        },
    }
}

enum Object {
    Role,
    Tablespace,
}

fn file(globals: &mut Globals, object: &Object, name: Option<String>, text: Vec<u8>) -> bool {
    let Some(name) = name else { return false };
    let map = match object {
        Object::Role => &mut globals.roles,
        Object::Tablespace => &mut globals.tablespaces,
    };
    map.entry(name).or_default().push(text);
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"
--
-- PostgreSQL database cluster dump
--
\restrict abc
SET default_transaction_read_only = off;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
CREATE ROLE "we;ird ""one""";
ALTER ROLE "we;ird ""one""" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:x$y:z';
ALTER ROLE "we;ird ""one""" SET search_path TO 'a', 'b';
COMMENT ON ROLE app IS 'x; DROP';
CREATE ROLE app;
GRANT app TO "we;ird ""one""" WITH ADMIN OPTION GRANTED BY postgres;
CREATE TABLESPACE fast OWNER app LOCATION '/mnt/fast';
GRANT CREATE ON TABLESPACE fast TO app;
GRANT SET ON PARAMETER log_statement TO app;
\unrestrict abc
"#;

    #[test]
    fn every_kind_of_statement_is_sorted_in() {
        let globals = parse(&without_restrict(SCRIPT.as_bytes())).unwrap();
        assert_eq!(globals.roles["we;ird \"one\""].len(), 3);
        assert_eq!(globals.roles["app"].len(), 2);
        assert_eq!((globals.memberships[0].role.as_str(), globals.memberships[0].member.as_str()), ("app", "we;ird \"one\""));
        assert_eq!(globals.tablespaces["fast"].len(), 2);
        assert_eq!(globals.parameter_grants.len(), 1);
        assert_eq!(globals.encoding, "UTF8");
    }

    #[test]
    fn a_statement_that_does_not_belong_there_is_refused_without_its_secrets() {
        for bad in [
            "DROP TABLE x;",
            "SET log_statement = 'none';",
            "COPY t FROM PROGRAM 'sh';",
            "GRANT ALL ON SCHEMA public TO x;",
            "SELECT 1;",
            "SELECT pg_catalog.pg_read_file('x');",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let error = parse(b"CREATE USER MAPPING FOR a SERVER b OPTIONS (password 'hunter2hunter2');").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
