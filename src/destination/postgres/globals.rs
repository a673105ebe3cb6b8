//! Roles, memberships, tablespaces and parameter grants: existing ones are compared and kept,
//! missing ones are created.
//!
//! First a plan is made ([`GlobalsPlan::of`]), so that it can be shown and refused; then roles and
//! all that belongs to them are created in one transaction, so an interrupted run leaves no
//! half-made role for the next one to mistake for an existing one. Tablespaces are not
//! transactional; they are created once the database carries its checkpoint, which records which of
//! them are this restore's own.

use std::collections::{BTreeMap, BTreeSet};

use super::TargetError;
use super::rights::RoleRights;
use crate::pg::archive::readable;
use crate::pg::globals::GlobalsScript;
use crate::pg::sql::{self, SqlStatement};
use crate::pg::{PgSession, SessionError};

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
    /// Grants on parameters to roles that existed, likewise.
    pub parameter_grants_left_out: Vec<String>,
    /// Tablespaces that were made.
    pub tablespaces_created: Vec<String>,
    /// Tablespaces that existed and differ, and were kept as they are on the target.
    pub tablespaces_kept: Vec<String>,
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
            Some((name, directory)) if !name.is_empty() && directory.starts_with('/') => {
                Ok((name.to_owned(), directory.to_owned()))
            }
            _ => Err(format!("{pair:?} is not of the form name=/directory")),
        };
        pairs.iter().map(split).collect::<Result<_, _>>().map(Self)
    }
}

/// Statements that make one thing.
#[derive(Debug, Clone)]
struct GlobalStatements {
    what: String,
    /// The role that is made, if it is one.
    role: Option<String>,
    statements: Vec<Vec<u8>>,
}

/// How a tablespace is made.
#[derive(Debug, Clone)]
struct TablespaceOptions {
    /// None if only an earlier attempt knows where.
    create: Option<Vec<u8>>,
    /// What else is said of it.
    rest: Vec<Vec<u8>>,
}

/// What is to be done about globals.
#[derive(Debug, Clone, Default)]
pub struct GlobalsPlan {
    /// What will have been done.
    pub report: GlobalsReport,
    /// Roles to make that are superusers, or may replicate or pass over row security.
    pub powerful: Vec<String>,
    /// Roles to make that may log in.
    pub logins: Vec<String>,
    /// What the connecting role may not make.
    pub beyond: Vec<String>,
    roles: Vec<GlobalStatements>,
    tablespaces: BTreeMap<String, TablespaceOptions>,
    encoding: String,
}

impl GlobalsPlan {
    /// Compares. `existing` is what `pg_dumpall --globals-only` says of the target; `skipped` says
    /// which things somebody asked to leave out, by kind and name.
    ///
    /// # Errors
    /// [`TargetError::Content`] if a statement is not what it has to be.
    pub fn of(
        wanted: &GlobalsScript,
        existing: &GlobalsScript,
        directories: &TablespaceMap,
        rights: &RoleRights,
        skipped: impl Fn(&str, &str) -> bool,
    ) -> Result<Self, TargetError> {
        let mut plan = Self { encoding: wanted.encoding.clone(), ..Self::default() };
        let is_old = |role: &str| existing.roles.contains_key(role);
        for (role, statements) in wanted.roles.iter().filter(|(role, _)| !skipped("ROLE", role)) {
            match existing.roles.get(role) {
                Some(on_target) if same(statements, on_target) => {
                    plan.report.roles_same.push(role.clone())
                }
                Some(_) => plan.report.roles_kept.push(role.clone()),
                None => plan.make_role(role, statements, rights)?,
            }
        }
        let made: BTreeSet<&String> = plan.report.roles_created.iter().collect();
        let is_made = |role: &str| made.contains(&role.to_owned());
        let there: BTreeSet<(&str, &str)> =
            existing.memberships.iter().map(|m| (m.role.as_str(), m.member.as_str())).collect();
        let mut memberships = Vec::new();
        for membership in &wanted.memberships {
            let (role, member) = (membership.role.as_str(), membership.member.as_str());
            if existing.memberships.contains(membership) {
                continue;
            }
            // With other options, or by another grantor: that is the target's business too.
            if there.contains(&(role, member)) {
                plan.report
                    .memberships_left_out
                    .push(format!("{role} to {member}, as it is in the backup: there it has other options or another grantor"));
                continue;
            }
            // A predefined role (pg_monitor) is in neither list. Between two roles that were there
            // a membership would change what the target's owner decided, so it is
            // reported instead.
            let known =
                |name: &str| is_made(name) || is_old(name) || !wanted.roles.contains_key(name);
            if !(is_made(role) || is_made(member)) || !known(role) || !known(member) {
                plan.report.memberships_left_out.push(format!("{role} to {member}"));
                continue;
            }
            let statement = if rights.superuser {
                membership.statement.clone()
            } else {
                without_grantor(&membership.statement)?
            };
            memberships.push(GlobalStatements {
                what: format!("membership of {member:?} in {role:?}"),
                role: None,
                statements: vec![statement],
            });
        }
        plan.report.memberships_created = memberships.len();
        plan.roles.extend(memberships);
        for statement in wanted
            .parameter_grants
            .iter()
            .filter(|statement| !existing.parameter_grants.contains(statement))
        {
            let (shown, grantee) = grantee_of(statement)?;
            // As with memberships: what a role may that was there is the target's business.
            match (is_made(&grantee), rights.superuser) {
                (true, true) => plan.roles.push(GlobalStatements {
                    what: "a grant on a parameter".to_owned(),
                    role: None,
                    statements: vec![statement.clone()],
                }),
                (true, false) => plan.beyond.push(shown),
                (false, _) => plan.report.parameter_grants_left_out.push(shown),
            }
        }
        for (name, statements) in
            wanted.tablespaces.iter().filter(|(name, _)| !skipped("TABLESPACE", name))
        {
            match (existing.tablespaces.get(name), directories.0.get(name)) {
                (Some(on_target), _) if !same_but_for_place(statements, on_target) => {
                    plan.report.tablespaces_kept.push(name.clone())
                }
                (Some(_), _) => {}
                (None, Some(_)) if !rights.superuser => {
                    plan.beyond.push(format!("tablespace {name}"))
                }
                (None, Some(directory)) => {
                    let create = located(
                        statements.first().map(Vec::as_slice).unwrap_or_default(),
                        directory,
                    )?;
                    let rest = statements.iter().skip(1).cloned().collect();
                    plan.tablespaces
                        .insert(name.clone(), TablespaceOptions { create: Some(create), rest });
                    plan.report.tablespaces_created.push(name.clone());
                }
                (None, None) => plan.report.tablespaces_left_out.push(name.clone()),
            }
        }
        Ok(plan)
    }

    fn make_role(
        &mut self,
        role: &str,
        statements: &[Vec<u8>],
        rights: &RoleRights,
    ) -> Result<(), TargetError> {
        let mut attributes = BTreeSet::new();
        for text in statements {
            let text = [text.as_slice(), b";"].concat();
            let cut = sql::statements(&text)?;
            for statement in
                cut.iter().filter(|statement| statement.begins_with(&["alter", "role"]))
            {
                attributes.extend(
                    ATTRIBUTES.into_iter().filter(|word| statement.position(word).is_some()),
                );
            }
        }
        let has = |word: &str| attributes.contains(word);
        let powerful = has("superuser") || has("replication") || has("bypassrls");
        if powerful && !rights.superuser {
            self.beyond.push(format!(
                "role {role}, which is a superuser, or may replicate or pass over row security"
            ));
            return Ok(());
        }
        if !rights.superuser && !rights.create_role {
            self.beyond.push(format!("role {role}"));
            return Ok(());
        }
        if powerful {
            self.powerful.push(role.to_owned());
        }
        if has("login") {
            self.logins.push(role.to_owned());
        }
        let statements = match rights.superuser {
            true => statements.to_vec(),
            false => {
                let lesser: Result<Vec<_>, _> = statements
                    .iter()
                    .map(|statement| without_what_is_so_anyway(statement))
                    .collect();
                // Only members may give objects to a role.
                let join = format!("GRANT {} TO CURRENT_USER", sql::quote_identifier(role));
                lesser?.into_iter().chain([join.into_bytes()]).collect()
            }
        };
        self.roles.push(GlobalStatements {
            what: format!("role {role:?}"),
            role: Some(role.to_owned()),
            statements,
        });
        self.report.roles_created.push(role.to_owned());
        Ok(())
    }

    /// Makes roles, memberships and grants on parameters in one transaction; with `keep_going` what
    /// the server refuses is told, and the rest is made.
    ///
    /// # Errors
    /// [`TargetError::Globals`] naming what could not be made; then nothing of it was.
    pub async fn make_roles(
        &mut self,
        session: &mut PgSession,
        keep_going: bool,
    ) -> Result<Vec<String>, TargetError> {
        if self.roles.is_empty() {
            return Ok(Vec::new());
        }
        quiet_logs(session).await;
        let failed =
            |what: &str, source| TargetError::Globals { what: readable(what.as_bytes()), source };
        session
            .run("a transaction", "BEGIN")
            .await
            .map_err(|source| failed("a transaction for roles", source))?;
        let mut not_made = Vec::new();
        for making in &self.roles {
            session
                .run("a savepoint", "SAVEPOINT making")
                .await
                .map_err(|source| failed(&making.what, source))?;
            match run_all(session, making, &self.encoding).await {
                Ok(()) => {}
                Err(source @ SessionError::Refused { .. }) if keep_going => {
                    session
                        .run("a savepoint", "ROLLBACK TO SAVEPOINT making")
                        .await
                        .map_err(|source| failed(&making.what, source))?;
                    not_made.push(format!("{}: {source}", making.what));
                    match &making.role {
                        Some(role) => self.report.roles_created.retain(|made| made != role),
                        None => {
                            self.report.memberships_created =
                                self.report.memberships_created.saturating_sub(1)
                        }
                    }
                }
                Err(source) => {
                    // A session that is lost has rolled back by itself.
                    let _ = session.run("the end of a transaction", "ROLLBACK").await;
                    return Err(failed(&making.what, source));
                }
            }
            crate::failpoint::reach("restore-role");
        }
        session
            .run("a transaction", "COMMIT")
            .await
            .map_err(|source| failed("what was to be made of roles", source))?;
        Ok(not_made)
    }

    /// Names of the tablespaces to make.
    pub fn tablespaces(&self) -> impl Iterator<Item = &String> {
        self.tablespaces.keys()
    }

    /// Makes one of the tablespaces, or what is still missing of one that this restore has begun to
    /// make.
    ///
    /// # Errors
    /// [`TargetError::Globals`]
    pub async fn make_tablespace(
        &self,
        session: &mut PgSession,
        name: &str,
    ) -> Result<(), TargetError> {
        let what = format!("tablespace {name:?}");
        let Some(TablespaceOptions { create, rest }) = self.tablespaces.get(name) else {
            return Ok(());
        };
        let failed = |source| TargetError::Globals { what: readable(what.as_bytes()), source };
        let question = format!(
            "SELECT count(*) FROM pg_catalog.pg_tablespace WHERE spcname = {}",
            sql::quote_text(name)
        );
        if session.ask_one(&what, &question).await.map_err(failed)? == "0" {
            // Where it stood in the backup is no place on this host.
            let Some(create) = create else { return Ok(()) };
            session.run_opaque(&what, create, &self.encoding).await.map_err(failed)?;
        }
        crate::failpoint::reach("restore-tablespace");
        run_all(
            session,
            &GlobalStatements { what: what.clone(), role: None, statements: rest.clone() },
            &self.encoding,
        )
        .await
        .map_err(failed)
    }

    /// The tablespaces of the plan that this restore has begun to make are its own, though they
    /// exist.
    #[must_use]
    pub fn with_own_tablespaces(mut self, wanted: &GlobalsScript, own: &BTreeSet<String>) -> Self {
        for name in own {
            let Some(statements) = wanted.tablespaces.get(name) else { continue };
            self.report.tablespaces_kept.retain(|kept| kept != name);
            self.tablespaces.entry(name.clone()).or_insert_with(|| TablespaceOptions {
                create: None,
                rest: statements.iter().skip(1).cloned().collect(),
            });
        }
        self
    }
}

const ATTRIBUTES: [&str; 4] = ["superuser", "replication", "bypassrls", "login"];

/// `ALTER ROLE` without what a new role is not anyway: only superusers may say it.
fn without_what_is_so_anyway(text: &[u8]) -> Result<Vec<u8>, TargetError> {
    const NOT: [&str; 5] =
        ["nosuperuser", "nocreaterole", "nocreatedb", "noreplication", "nobypassrls"];
    let whole = [text, b";"].concat();
    let cut = sql::statements(&whole)?;
    let Some(statement) = cut.first().filter(|statement| statement.begins_with(&["alter", "role"]))
    else {
        return Ok(text.to_vec());
    };
    let mut without = Vec::new();
    let mut from = 0;
    // The name may be the word, too.
    for token in
        statement.tokens.iter().skip(3).filter(|token| NOT.iter().any(|word| token.is_word(word)))
    {
        without.extend_from_slice(&statement.text[from..token.at.start]);
        from = token.at.end;
    }
    without.extend_from_slice(&statement.text[from..]);
    // `WITH` and nothing behind it would be none.
    let is_empty = statement
        .tokens
        .iter()
        .skip(3)
        .all(|token| token.is_word("with") || NOT.iter().any(|word| token.is_word(word)));
    Ok(if is_empty { statement.text[..statement.tokens[2].at.end].to_vec() } else { without })
}

/// `GRANT role TO member …` without `GRANTED BY`: that it was somebody else only a superuser may
/// say.
fn without_grantor(text: &[u8]) -> Result<Vec<u8>, TargetError> {
    let whole = [text, b";"].concat();
    let cut = sql::statements(&whole)?;
    let at = |statement: &SqlStatement<'_>| {
        let at = statement.tokens.iter().skip(4).find(|token| token.is_word("granted"))?;
        Some(statement.text[..at.at.start].trim_ascii_end().to_vec())
    };
    Ok(cut.first().and_then(at).unwrap_or_else(|| text.to_vec()))
}

/// Whom a grant on a parameter is for, and the grant in short.
fn grantee_of(text: &[u8]) -> Result<(String, String), TargetError> {
    let whole = [text, b";"].concat();
    for statement in sql::statements(&whole)? {
        let to = (1..statement.tokens.len())
            .rev()
            .find(|at| ["to", "from"].iter().any(|word| statement.tokens[*at].is_word(word)));
        if statement.begins_with(&["grant"]) || statement.begins_with(&["revoke"]) {
            let grantee =
                to.and_then(|at| statement.name_at(at + 1)).map(readable).unwrap_or_default();
            return Ok((readable(&statement.text), grantee));
        }
    }
    Err(TargetError::Content("a grant on a parameter is something else".into()))
}

/// A `CREATE TABLESPACE` with another directory.
fn located(create: &[u8], directory: &str) -> Result<Vec<u8>, TargetError> {
    let text = [create, b";"].concat();
    let other = || TargetError::Content("the globals' CREATE TABLESPACE is something else".into());
    let cut = sql::statements(&text)?;
    let statement = cut
        .first()
        .filter(|statement| statement.begins_with(&["create", "tablespace"]))
        .ok_or_else(other)?;
    // The name may be the word, too.
    let at = (3..statement.tokens.len())
        .find(|at| statement.tokens[*at].is_word("location"))
        .ok_or_else(other)?;
    let place = statement
        .tokens
        .get(at + 1)
        .filter(|token| token.kind == sql::TokenKind::Text)
        .ok_or_else(other)?;
    Ok([
        &statement.text[..place.at.start],
        sql::quote_text(directory).as_bytes(),
        &statement.text[place.at.end..],
    ]
    .concat())
}

fn same(a: &[Vec<u8>], b: &[Vec<u8>]) -> bool {
    a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
}

/// The same whatever directory it is in.
fn same_but_for_place(a: &[Vec<u8>], b: &[Vec<u8>]) -> bool {
    let placeless = |statements: &[Vec<u8>]| -> Vec<Vec<u8>> {
        statements.iter().map(|text| located(text, "/").unwrap_or_else(|_| text.clone())).collect()
    };
    same(&placeless(a), &placeless(b))
}

/// Role statements hold password verifiers, which do not belong into the server's log. Only a
/// superuser may say so.
async fn quiet_logs(session: &mut PgSession) {
    for setting in [
        "log_statement = 'none'",
        "log_min_duration_statement = -1",
        "log_min_error_statement = 'panic'",
    ] {
        if let Err(error) = session.run("quiet logs", &format!("SET {setting}")).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the server's log settings stay as they are"
            );
        }
    }
}

async fn run_all(
    session: &mut PgSession,
    making: &GlobalStatements,
    encoding: &str,
) -> Result<(), SessionError> {
    for statement in &making.statements {
        session.run_opaque(&making.what, statement, encoding).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TablespaceMap, located};

    #[test]
    fn a_tablespace_is_made_elsewhere_with_all_that_is_said_of_it() {
        let made =
            |create: &str| String::from_utf8(located(create.as_bytes(), "/it's").unwrap()).unwrap();
        assert_eq!(
            made("CREATE TABLESPACE location OWNER \"a b\" LOCATION '/old''s'"),
            "CREATE TABLESPACE location OWNER \"a b\" LOCATION '/it''s'"
        );
        assert_eq!(
            made("CREATE TABLESPACE t LOCATION '/old' WITH (x = 1)"),
            "CREATE TABLESPACE t LOCATION '/it''s' WITH (x = 1)"
        );
        assert!(
            located(b"CREATE ROLE x", "/t").is_err()
                && located(b"CREATE TABLESPACE t LOCATION x", "/t").is_err()
        );
    }

    #[test]
    fn a_tablespace_map_needs_absolute_directories() {
        assert!(TablespaceMap::parse(&["fast=/mnt/fast".to_owned()]).is_ok());
        for bad in ["fast", "fast=mnt", "=/mnt"] {
            assert!(TablespaceMap::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
