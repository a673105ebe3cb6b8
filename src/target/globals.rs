//! Applying globals: what exists is compared and kept, what is missing is made, tablespaces are remapped or left out.

use std::collections::{BTreeMap, BTreeSet};

use super::TargetError;
use crate::pg::Session;
use crate::pg::archive::readable;
use crate::pg::globals::Globals;
use crate::pg::sql;

/// What happened to the globals.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct GlobalsReport {
    /// Roles that were made.
    pub roles_created: Vec<String>,
    /// Roles that existed and are the same as in the backup.
    pub roles_same: Vec<String>,
    /// Roles that existed and differ, and were kept as they are on the target.
    pub roles_kept: Vec<String>,
    /// Memberships that were made.
    pub memberships_created: usize,
    /// Memberships between roles that existed, which the target does not have and were not made.
    pub memberships_left_out: Vec<String>,
    /// Tablespaces that were made.
    pub tablespaces_created: Vec<String>,
    /// Tablespaces that were not made; their contents go to the default tablespace.
    pub tablespaces_left_out: Vec<String>,
}

/// Where the tablespaces of the backup go.
#[derive(Debug, Clone, Default)]
pub struct TablespaceMap(BTreeMap<String, String>);

impl TablespaceMap {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Parses `name=/directory` pairs.
    ///
    /// # Errors
    /// The pair that is not one.
    pub fn parse(pairs: &[String]) -> Result<Self, String> {
        let split = |pair: &String| match pair.split_once('=') {
            Some((name, directory)) if !name.is_empty() && directory.starts_with('/') => Ok((name.to_owned(), directory.to_owned())),
            _ => Err(format!("{pair:?} is not of the form name=/directory")),
        };
        pairs.iter().map(split).collect::<Result<_, _>>().map(Self)
    }
}

/// Makes what is missing on the target. `existing` is what `pg_dumpall --globals-only` says of the target.
///
/// # Errors
/// [`TargetError::Globals`] naming what could not be made; what was made before stays, and a second run goes on from there.
pub async fn apply(
    session: &mut Session,
    wanted: &Globals,
    existing: &Globals,
    tablespaces: &TablespaceMap,
) -> Result<GlobalsReport, TargetError> {
    let mut report = GlobalsReport::default();
    quiet_logs(session).await;
    for (role, statements) in &wanted.roles {
        match existing.roles.get(role) {
            Some(on_target) if same(statements, on_target) => report.roles_same.push(role.clone()),
            Some(_) => report.roles_kept.push(role.clone()),
            None => {
                run_all(session, &format!("role {role:?}"), statements, &wanted.encoding).await?;
                report.roles_created.push(role.clone());
            }
        }
    }
    memberships(session, wanted, existing, &mut report).await?;
    for (name, statements) in &wanted.tablespaces {
        if existing.tablespaces.contains_key(name) {
            continue;
        }
        match tablespaces.0.get(name) {
            Some(directory) => {
                let what = format!("tablespace {name:?}");
                let create = located(&statements[0], directory)?;
                let statements: Vec<Vec<u8>> = [create].into_iter().chain(statements[1..].iter().cloned()).collect();
                run_all(session, &what, &statements, &wanted.encoding).await?;
                report.tablespaces_created.push(name.clone());
            }
            None => report.tablespaces_left_out.push(name.clone()),
        }
    }
    for statement in &wanted.parameter_grants {
        if !existing.parameter_grants.contains(statement) {
            run_all(session, "a grant on a parameter", std::slice::from_ref(statement), &wanted.encoding).await?;
        }
    }
    Ok(report)
}

/// A `CREATE TABLESPACE` with another directory.
fn located(create: &[u8], directory: &str) -> Result<Vec<u8>, TargetError> {
    let text = [create, b";"].concat();
    let other = || TargetError::Content("the globals' CREATE TABLESPACE is something else".into());
    let cut = sql::statements(&text)?;
    let statement = cut.first().filter(|statement| statement.begins_with(&["create", "tablespace"])).ok_or_else(other)?;
    // The name may be the word, too.
    let at = (3..statement.tokens.len()).find(|at| statement.tokens[*at].is_word("location")).ok_or_else(other)?;
    let place = statement.tokens.get(at + 1).filter(|token| token.kind == sql::Kind::Text).ok_or_else(other)?;
    Ok([&statement.text[..place.at.start], sql::quote_text(directory).as_bytes(), &statement.text[place.at.end..]].concat())
}

fn same(a: &[Vec<u8>], b: &[Vec<u8>]) -> bool {
    a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
}

/// A membership is made if either side is new. Between two roles that were there it would change what the target's
/// owner decided, so it is reported instead.
async fn memberships(session: &mut Session, wanted: &Globals, existing: &Globals, report: &mut GlobalsReport) -> Result<(), TargetError> {
    let there: BTreeSet<(&str, &str)> = existing.memberships.iter().map(|m| (m.role.as_str(), m.member.as_str())).collect();
    let old = |role: &str| existing.roles.contains_key(role);
    for membership in &wanted.memberships {
        if there.contains(&(membership.role.as_str(), membership.member.as_str())) {
            continue;
        }
        // A predefined role (pg_monitor) is in neither list; granting it to a role that was there is reported too.
        let role_is_old = old(&membership.role) || !wanted.roles.contains_key(&membership.role);
        if role_is_old && old(&membership.member) {
            report.memberships_left_out.push(format!("{} to {}", membership.role, membership.member));
            continue;
        }
        let what = format!("membership of {:?} in {:?}", membership.member, membership.role);
        run_all(session, &what, std::slice::from_ref(&membership.statement), &wanted.encoding).await?;
        report.memberships_created += 1;
    }
    Ok(())
}

/// Role statements hold password verifiers, which do not belong into the server's log. Only a superuser may say so.
async fn quiet_logs(session: &mut Session) {
    for setting in ["log_statement = 'none'", "log_min_duration_statement = -1", "log_min_error_statement = 'panic'"] {
        if let Err(error) = session.run("quiet logs", &format!("SET {setting}")).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the server's log settings stay as they are");
        }
    }
}

async fn run_all(session: &mut Session, what: &str, statements: &[Vec<u8>], encoding: &str) -> Result<(), TargetError> {
    for statement in statements {
        let done = session.run_opaque(what, statement, encoding).await;
        done.map_err(|source| TargetError::Globals { what: readable(what.as_bytes()), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TablespaceMap, located};

    #[test]
    fn a_tablespace_is_made_elsewhere_with_all_that_is_said_of_it() {
        let made = |create: &str| String::from_utf8(located(create.as_bytes(), "/it's").unwrap()).unwrap();
        assert_eq!(
            made("CREATE TABLESPACE location OWNER \"a b\" LOCATION '/old''s'"),
            "CREATE TABLESPACE location OWNER \"a b\" LOCATION '/it''s'"
        );
        assert_eq!(made("CREATE TABLESPACE t LOCATION '/old' WITH (x = 1)"), "CREATE TABLESPACE t LOCATION '/it''s' WITH (x = 1)");
        assert!(located(b"CREATE ROLE x", "/t").is_err() && located(b"CREATE TABLESPACE t LOCATION x", "/t").is_err());
    }

    #[test]
    fn a_tablespace_map_needs_absolute_directories() {
        assert!(TablespaceMap::parse(&["fast=/mnt/fast".to_owned()]).is_ok());
        for bad in ["fast", "fast=mnt", "=/mnt"] {
            assert!(TablespaceMap::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
