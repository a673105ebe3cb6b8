//! Roles, memberships, tablespaces and parameter grants, as `pg_dumpall --globals-only` writes
//! them.
//!
//! The script is parsed, not run: every statement must be of a kind that is known, or the whole is
//! refused. That is what lets a restore compare roles that exist, remap tablespaces, and never hand
//! `psql` a script from a vault.

use std::collections::BTreeMap;

use super::archive::readable;
use super::sql::{self, SessionRole, SqlError, SqlStatement, TokenKind};

/// A parsed globals script.
#[derive(Debug, Clone, Default)]
pub struct GlobalsScript {
    /// Encoding of the script's texts, as Postgres names it.
    pub encoding: String,
    /// For each role, the statements that make it what it is, `CREATE ROLE` first.
    pub roles: BTreeMap<String, Vec<Vec<u8>>>,
    /// Memberships.
    pub memberships: Vec<RoleMembership>,
    /// For each tablespace, the statements about it, `CREATE TABLESPACE` first.
    pub tablespaces: BTreeMap<String, Vec<Vec<u8>>>,
    /// Grants on configuration parameters.
    pub parameter_grants: Vec<Vec<u8>>,
}

/// `GRANT role TO member`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleMembership {
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
    lines
        .filter(|line| !line.starts_with(b"\\restrict ") && !line.starts_with(b"\\unrestrict "))
        .flatten()
        .copied()
        .collect()
}

/// The script as one of texts in an encoding, of one that was read as bytes.
#[must_use]
pub fn written_in(script: &[u8], encoding: &str) -> Vec<u8> {
    const BYTES: &[u8] = b"SET client_encoding = 'SQL_ASCII';";
    match memchr::memmem::find(script, BYTES) {
        Some(at) => [
            &script[..at],
            format!("SET client_encoding = '{encoding}';").as_bytes(),
            &script[at + BYTES.len()..],
        ]
        .concat(),
        None => script.to_vec(),
    }
}

/// Parses a script from which [`without_restrict`] has been taken.
///
/// # Errors
/// [`GlobalsError`] for anything that is not known to belong there.
pub fn parse(script: &[u8]) -> Result<GlobalsScript, GlobalsError> {
    let mut globals = GlobalsScript { encoding: "UTF8".to_owned(), ..GlobalsScript::default() };
    let mut speaker = None;
    for statement in sql::statements(script)? {
        match statement.speaker() {
            Some(SessionRole::Is(role)) => speaker = Some(role),
            Some(SessionRole::IsNobody) => speaker = None,
            None if sort_in(&statement, speaker.as_deref(), &mut globals) => {}
            None => {
                // Not quoted whole: an unknown statement may hold a password.
                let head: Vec<u8> = statement.text.iter().copied().take(40).collect();
                return Err(GlobalsError::Unknown(format!("{}…", readable(&head))));
            }
        }
    }
    Ok(globals)
}

/// Files a statement under what it is about. Whoever speaks for somebody else may grant and revoke,
/// and nothing more.
fn sort_in(
    statement: &SqlStatement<'_>,
    speaker: Option<&[u8]>,
    globals: &mut GlobalsScript,
) -> bool {
    let text = statement.text.to_vec();
    if let Some(role) = speaker {
        let grants = statement.begins_with(&["grant"]) || statement.begins_with(&["revoke"]);
        return grants && sort_in_grant(statement, sql::said_by(role, &text), globals);
    }
    let name = |at: usize| statement.name_at(at).map(readable);
    if statement.begins_with(&["set", "client_encoding"]) {
        let value = statement.tokens.last().map(|t| readable(&statement.text[t.at.clone()]));
        globals.encoding = value.unwrap_or_default().trim_matches('\'').to_owned();
        return globals
            .encoding
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    }
    if statement.begins_with(&["set", "standard_conforming_strings"]) {
        // What follows is read as if it were on.
        return statement.tokens.len() == 4 && statement.tokens[3].is_word("on");
    }
    if statement.begins_with(&["set"]) || statement.begins_with(&["select", "pg_catalog"]) {
        let quiet = ["default_transaction_read_only", "escape_string_warning"];
        let second = name(1).unwrap_or_default();
        return quiet.contains(&second.as_str()) || name(3).as_deref() == Some("set_config");
    }
    for (object, at, into) in
        [("role", 2, GlobalObject::Role), ("tablespace", 2, GlobalObject::Tablespace)]
    {
        for verb in ["create", "alter"] {
            if statement.begins_with(&[verb, object]) {
                return file(globals, &into, name(at), text);
            }
        }
        if statement.begins_with(&["comment", "on", object]) {
            return file(globals, &into, name(3), text);
        }
        if statement.begins_with(&["security", "label", "for"])
            && statement.position(object) == Some(5)
        {
            return file(globals, &into, name(6), text);
        }
    }
    if statement.begins_with(&["grant"]) || statement.begins_with(&["revoke"]) {
        return sort_in_grant(statement, text, globals);
    }
    false
}

fn sort_in_grant(statement: &SqlStatement<'_>, text: Vec<u8>, globals: &mut GlobalsScript) -> bool {
    let name = |at: usize| statement.name_at(at).map(readable);
    // Names may be keywords, but only quoted; `position` finds unquoted words.
    match statement.position("on") {
        Some(on)
            if statement
                .tokens
                .get(on + 1)
                .is_some_and(|t| t.kind == TokenKind::Word(b"tablespace".to_vec())) =>
        {
            file(globals, &GlobalObject::Tablespace, name(on + 2), text)
        }
        Some(on)
            if statement
                .tokens
                .get(on + 1)
                .is_some_and(|t| t.kind == TokenKind::Word(b"parameter".to_vec())) =>
        {
            globals.parameter_grants.push(text);
            true
        }
        Some(_) => false,
        None => match (name(1), statement.tokens.get(2).map(|t| &t.kind), name(3)) {
            (Some(role), Some(TokenKind::Word(to)), Some(member)) if to == b"to" => {
                globals.memberships.push(RoleMembership { role, member, statement: text });
                true
            }
            _ => false,
        },
    }
}

enum GlobalObject {
    Role,
    Tablespace,
}

fn file(
    globals: &mut GlobalsScript,
    object: &GlobalObject,
    name: Option<String>,
    text: Vec<u8>,
) -> bool {
    let Some(name) = name else { return false };
    let map = match object {
        GlobalObject::Role => &mut globals.roles,
        GlobalObject::Tablespace => &mut globals.tablespaces,
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
        assert_eq!(
            (globals.memberships[0].role.as_str(), globals.memberships[0].member.as_str()),
            ("app", "we;ird \"one\"")
        );
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
        let error =
            parse(b"CREATE USER MAPPING FOR a SERVER b OPTIONS (password 'hunter2hunter2');")
                .unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    fn texts(statements: &[Vec<u8>]) -> Vec<String> {
        statements.iter().map(|s| readable(s)).collect()
    }

    #[test]
    fn lines_of_restrict_and_unrestrict_go_and_nothing_else_does() {
        let script = b"\\restrict k3y\nSET x = 1;\n-- \\restrict k\n\\restricted\n\\unrestrict k3y\n\\restrict last";
        assert_eq!(without_restrict(script), b"SET x = 1;\n-- \\restrict k\n\\restricted\n");
        assert_eq!(without_restrict(b"\\unrestrict a\n"), b"");
        assert_eq!(without_restrict(b"no newline"), b"no newline");
    }

    #[test]
    fn two_dumps_of_the_same_globals_differ_in_nothing_but_their_restrict_keys() {
        let dump = |key: &str| format!("\\restrict {key}\nCREATE ROLE a;\n\\unrestrict {key}\n");
        assert_eq!(
            without_restrict(dump("abc").as_bytes()),
            without_restrict(dump("xyz").as_bytes())
        );
    }

    #[test]
    fn every_statement_about_a_role_is_kept_with_that_role_in_the_order_of_the_script() {
        let script = "CREATE ROLE a;ALTER ROLE a WITH LOGIN;COMMENT ON ROLE a IS 'on tablespace b';\
                      SECURITY LABEL FOR selinux ON ROLE a IS 'x';ALTER ROLE a IN DATABASE d SET work_mem TO '1';CREATE ROLE b;";
        let globals = parse(script.as_bytes()).unwrap();
        let of_a: Vec<&str> =
            script.split_inclusive(';').map(|s| s.trim_end_matches(';')).take(5).collect();
        assert_eq!(texts(&globals.roles["a"]), of_a);
        assert_eq!(texts(&globals.roles["b"]), ["CREATE ROLE b"]);
        assert_eq!((globals.roles.len(), globals.tablespaces.len()), (2, 0));
    }

    #[test]
    fn every_statement_about_a_tablespace_is_kept_with_that_tablespace() {
        let script = "CREATE TABLESPACE fast OWNER role LOCATION '/a';ALTER TABLESPACE fast SET (seq_page_cost=1);\
                      COMMENT ON TABLESPACE fast IS 'role x';SECURITY LABEL FOR selinux ON TABLESPACE fast IS 'x';\
                      REVOKE ALL ON TABLESPACE fast FROM PUBLIC;GRANT ALL PRIVILEGES ON TABLESPACE fast TO c;\
                      GRANT CREATE ON TABLESPACE fast TO b;CREATE TABLESPACE \"S\" LOCATION '/b';";
        let globals = parse(script.as_bytes()).unwrap();
        let of_fast: Vec<&str> =
            script.split_inclusive(';').map(|s| s.trim_end_matches(';')).take(7).collect();
        assert_eq!(texts(&globals.tablespaces["fast"]), of_fast);
        assert_eq!(texts(&globals.tablespaces["S"]), ["CREATE TABLESPACE \"S\" LOCATION '/b'"]);
        assert_eq!(
            (globals.roles.len(), globals.tablespaces.len(), globals.memberships.len()),
            (0, 2, 0)
        );
    }

    #[test]
    fn memberships_and_grants_on_parameters_are_told_apart_whatever_roles_are_called() {
        let script = r#"GRANT "on" TO "parameter";GRANT a TO b WITH INHERIT TRUE;GRANT SET ON PARAMETER p TO a;REVOKE SET ON PARAMETER p FROM "on";"#;
        let globals = parse(script.as_bytes()).unwrap();
        let of = |role: &str, member: &str, statement: &str| RoleMembership {
            role: role.to_owned(),
            member: member.to_owned(),
            statement: statement.as_bytes().to_vec(),
        };
        let wanted = [
            of("on", "parameter", r#"GRANT "on" TO "parameter""#),
            of("a", "b", "GRANT a TO b WITH INHERIT TRUE"),
        ];
        assert_eq!(globals.memberships, wanted);
        let grants = ["GRANT SET ON PARAMETER p TO a", r#"REVOKE SET ON PARAMETER p FROM "on""#];
        assert_eq!(texts(&globals.parameter_grants), grants);
    }

    #[test]
    fn the_encoding_is_the_scripts_own_and_must_look_like_one() {
        assert_eq!(parse(b"").unwrap().encoding, "UTF8", "what is not said is UTF-8");
        for name in ["LATIN1", "EUC_JP", "windows-1252", "SQL_ASCII"] {
            assert_eq!(
                parse(format!("SET client_encoding = '{name}';").as_bytes()).unwrap().encoding,
                name
            );
        }
        for bad in ["UTF8 ", "a.b", "a;b", "a''b", "UTF8=1"] {
            assert!(parse(format!("SET client_encoding = '{bad}';").as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_settings_that_pg_dumpall_writes_are_accepted_and_change_nothing() {
        let empty = format!(
            "{:?}",
            GlobalsScript { encoding: "UTF8".to_owned(), ..GlobalsScript::default() }
        );
        for good in [
            "SET default_transaction_read_only = off;",
            "SET standard_conforming_strings = on;",
            "SET escape_string_warning = off;",
            "SELECT pg_catalog.set_config('search_path', '', false);",
        ] {
            assert_eq!(format!("{:?}", parse(good.as_bytes()).unwrap()), empty, "{good}");
        }
        for bad in [
            "SET;",
            "SET role = 'postgres';",
            "SELECT set_config('a', 'b', false);",
            "SELECT pg_catalog;",
            "SELECT pg_catalog.lo_import('/etc/passwd');",
            "SELECT escape_string_warning;",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_statement_that_only_begins_like_a_known_one_is_refused() {
        for bad in [
            "CREATE ROLE;",
            "CREATE ROLE 'a';",
            "CREATE TABLE role (a int);",
            "CREATE USER a;",
            "DROP ROLE a;",
            "DROP TABLESPACE a;",
            "ALTER DATABASE role SET x TO 'y';",
            "COMMENT ON DATABASE a IS 'role';",
            "COMMENT ON ROLE 'a';",
            "SECURITY LABEL FOR x ON DATABASE a IS 'role';",
            "SECURITY LABEL ON ROLE a IS 'x';",
            "GRANT;",
            "GRANT a;",
            "GRANT a TO;",
            "GRANT a TO 'b';",
            "GRANT a FROM b;",
            "GRANT a, b TO c;",
            "GRANT 'a' TO b;",
            "REVOKE a FROM b;",
            "GRANT a TO b ON;",
            "GRANT CREATE ON TABLESPACE;",
            "GRANT CREATE ON \"tablespace\" TO a;",
            "GRANT SET ON \"parameter\" TO a;",
            "GRANT ALL ON DATABASE parameter TO a;",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_bad_statement_refuses_the_whole_script_and_is_named_by_its_beginning_only() {
        let error = parse(
            b"CREATE ROLE a; CREATE FUNCTION abcdefghijklmnopqrstuvwxyz_0123456789() LANGUAGE c;",
        )
        .unwrap_err();
        let beginning = "CREATE FUNCTION abcdefghijklmnopqrstuvwx…";
        assert_eq!(
            error.to_string(),
            format!("the globals hold a statement that does not belong there: {beginning}")
        );
        assert!(matches!(parse(b"CREATE ROLE a"), Err(GlobalsError::Sql(_))), "a script cut short");
        assert!(
            matches!(parse(b"CREATE ROLE a;\n\\! sh\n"), Err(GlobalsError::Sql(_))),
            "a psql command"
        );
    }

    #[test]
    fn privileges_that_somebody_else_granted_are_said_by_that_role_and_nothing_else_is() {
        let script = b"CREATE ROLE a;\nCREATE TABLESPACE t OWNER a LOCATION '/t';\nSET SESSION AUTHORIZATION \"a b\";\nGRANT ALL ON TABLESPACE t TO c;\nRESET SESSION AUTHORIZATION;\n\
            SET SESSION AUTHORIZATION a;\nGRANT SET ON PARAMETER work_mem TO c;\nRESET SESSION AUTHORIZATION;\nGRANT a TO c;\n";
        let globals = parse(script).unwrap();
        let said = |role: &str, statement: &str| {
            format!(
                "SET SESSION AUTHORIZATION \"{role}\";\n{statement};\nRESET SESSION AUTHORIZATION"
            )
            .into_bytes()
        };
        assert_eq!(globals.tablespaces["t"][1], said("a b", "GRANT ALL ON TABLESPACE t TO c"));
        assert_eq!(globals.parameter_grants, [said("a", "GRANT SET ON PARAMETER work_mem TO c")]);
        assert_eq!(globals.memberships[0].statement, b"GRANT a TO c");
        for bad in [
            "SET SESSION AUTHORIZATION a; CREATE ROLE b;",
            "SET SESSION AUTHORIZATION a; ALTER ROLE b SUPERUSER;",
            "SET SESSION AUTHORIZATION a; COMMENT ON ROLE b IS 'x';",
            "SET SESSION AUTHORIZATION a b; GRANT SET ON PARAMETER work_mem TO c;",
            "SET standard_conforming_strings = off;",
            "SET standard_conforming_strings = on off;",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
