//! The database itself: check that it is empty, create it if it is missing, apply the properties of
//! the original.

use std::time::Duration;

use super::TargetError;
use super::checkpoint::RestoreCheckpoint;
use crate::pg::archive::{TableOfContents, TocEntry, readable};
use crate::pg::sql::{self, SqlStatement, quote_identifier};
use crate::pg::{PgConnection, PgSession, PgTools, SessionError};

/// Databases to connect to in order to create another.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

/// How long an attempt that was killed may still be making or dropping the database.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// What was found where the restore is to go.
#[derive(Debug)]
pub enum FoundDatabase {
    /// There is no such database.
    Missing {
        /// A session to another one of the same server.
        session: PgSession,
        /// The name it would have.
        name: String,
    },
    /// It exists and is empty.
    Empty(PgSession),
    /// An interrupted restore left it.
    Unfinished(PgSession, RestoreCheckpoint),
    /// It exists and holds something.
    Occupied {
        /// A session to it.
        session: PgSession,
        /// How many.
        count: u64,
        /// One of them.
        example: String,
    },
}

/// Relations, functions, types and schemas that belong to no extension: whatever could have the
/// name of something that is restored.
const OBJECTS: &str = "SELECT count(*), COALESCE(min(o.name), '') FROM ( \
      SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS catalog, c.oid, n.nspname, n.nspname || '.' || c.relname AS name \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') \
      UNION ALL SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, n.nspname, 'function ' || n.nspname || '.' || p.proname \
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
      UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid, n.nspname, 'type ' || n.nspname || '.' || t.typname \
        FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r') \
      UNION ALL SELECT 'pg_catalog.pg_namespace'::pg_catalog.regclass, n.oid, n.nspname, 'schema ' || n.nspname \
        FROM pg_catalog.pg_namespace n WHERE n.nspname <> 'public' \
    ) o WHERE o.nspname <> 'information_schema' AND o.nspname !~ '^pg_' \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.catalog AND d.objid = o.oid AND d.deptype IN ('e', 'i'))";

/// The comment of the database that a session is connected to; empty if there is none.
///
/// # Errors
/// [`TargetError::Session`]
pub async fn comment(session: &mut PgSession) -> Result<String, TargetError> {
    let question = "SELECT COALESCE(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    session.ask_one("the database's comment", question).await.map_err(TargetError::Session)
}

/// Looks at the target, changing nothing.
///
/// # Errors
/// [`TargetError::Session`] if the server cannot be reached.
pub async fn look(
    tools: &PgTools,
    connection: &PgConnection,
) -> Result<FoundDatabase, TargetError> {
    let mut session = match PgSession::open(tools, connection).await {
        Ok(session) => session,
        // Why the server refused stands in its words only, in whatever language it speaks; its
        // catalog tells for certain.
        Err(SessionError::Lost { .. }) => match missing(tools, connection).await? {
            Some(missing) => return Ok(missing),
            // It may have come into being meanwhile.
            None => PgSession::open(tools, connection).await.map_err(TargetError::Session)?,
        },
        Err(error) => return Err(TargetError::Session(error)),
    };
    if let Some(mark) = RestoreCheckpoint::read(&mut session).await? {
        return Ok(FoundDatabase::Unfinished(session, mark));
    }
    let rows =
        session.ask("what the target holds", OBJECTS, 2).await.map_err(TargetError::Session)?;
    let (count, example) = match rows.into_iter().next().as_deref() {
        Some([Some(count), Some(example)]) => (count.parse().unwrap_or(u64::MAX), example.clone()),
        _ => {
            return Err(TargetError::Session(SessionError::Shape {
                what: "what the target holds".to_owned(),
            }));
        }
    };
    Ok(if count == 0 {
        FoundDatabase::Empty(session)
    } else {
        FoundDatabase::Occupied { session, count, example }
    })
}

/// The database is missing if the server can be reached and does not list it.
async fn missing(
    tools: &PgTools,
    connection: &PgConnection,
) -> Result<Option<FoundDatabase>, TargetError> {
    let Ok(mut session) = maintenance(tools, connection).await else { return Ok(None) };
    let name = match connection.database() {
        Some(name) => name.to_owned(),
        None => session
            .ask_one("the user's name", "SELECT session_user")
            .await
            .map_err(TargetError::Session)?,
    };
    settled(&mut session, &name).await?;
    let listed = format!(
        "SELECT count(*) FROM pg_catalog.pg_database WHERE datname = {}",
        sql::quote_text(&name)
    );
    let count =
        session.ask_one("the list of databases", &listed).await.map_err(TargetError::Session)?;
    Ok((count == "0").then_some(FoundDatabase::Missing { session, name }))
}

/// Waits until no attempt that was killed is still making or dropping the database: the server
/// carries out a statement whose client is gone.
async fn settled(session: &mut PgSession, name: &str) -> Result<(), TargetError> {
    let quoted = quote_identifier(name);
    let starts = |verb: &str| {
        format!("pg_catalog.starts_with(query, {})", sql::quote_text(&format!("{verb} {quoted}")))
    };
    let question = format!(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = 'lifeboat' AND state = 'active' AND pid <> pg_catalog.pg_backend_pid() AND ({} OR {})",
        starts("CREATE DATABASE"),
        starts("DROP DATABASE IF EXISTS")
    );
    let begun = tokio::time::Instant::now();
    session.run("the connecting role", "SET ROLE NONE").await.map_err(TargetError::Session)?;
    while session
        .ask_one("what is done to the database", &question)
        .await
        .map_err(TargetError::Session)?
        != "0"
    {
        if begun.elapsed() > SETTLED_WITHIN {
            return Err(TargetError::Busy { database: name.to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    session.run("the connecting role", "RESET ROLE").await.map_err(TargetError::Session)
}

/// A session to a database of the same server that nobody restores into.
///
/// # Errors
/// [`TargetError::Session`] if none of them can be connected to.
pub async fn maintenance(
    tools: &PgTools,
    connection: &PgConnection,
) -> Result<PgSession, TargetError> {
    let mut last = None;
    for name in MAINTENANCE {
        match PgSession::open(tools, &connection.to_database(name)).await {
            Ok(session) => return Ok(session),
            Err(error) => last = Some(error),
        }
    }
    Err(TargetError::Session(
        last.unwrap_or(SessionError::Lost { last_words: "no maintenance database".to_owned() }),
    ))
}

/// The statements of an archive that concern the database itself.
#[derive(Debug, Default)]
pub struct DatabaseProperties {
    /// `CREATE DATABASE`, with the old name.
    create: Vec<u8>,
    /// Owner.
    owner: String,
    /// Comment, privileges, labels, settings, and who says each if not the owner: in the archive's
    /// order.
    rest: Vec<(Option<Vec<u8>>, Vec<u8>)>,
    /// The encoding it was created with.
    pub encoding: String,
}

/// What of a database's properties is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyPart {
    /// `ALTER DATABASE … SET` and `ALTER ROLE … IN DATABASE … SET`.
    Settings,
    /// How many may connect, and whether it is a template: what could keep us out.
    Limits,
    /// Privileges and labels.
    Privileges,
    /// The comment.
    Comment,
}

/// Whether an entry concerns the database itself, whose name a restore may change.
#[must_use]
pub fn is_about_database(entry: &TocEntry) -> bool {
    match entry.kind.as_str() {
        "DATABASE PROPERTIES" => true,
        "ACL" | "COMMENT" | "SECURITY LABEL" => entry.tag.starts_with(b"DATABASE "),
        _ => false,
    }
}

impl DatabaseProperties {
    /// Libraries that every session of the database loads, as quoted strings.
    #[must_use]
    pub fn preloaded(&self) -> Vec<Vec<u8>> {
        const LOCAL: &[u8] = b"local_preload_libraries";
        const SETTINGS: [&[u8]; 2] = [b"session_preload_libraries", LOCAL];
        let mut found = Vec::new();
        for (_, text) in &self.rest {
            let whole = [text, b";".as_slice()].concat();
            for statement in sql::statements(&whole).into_iter().flatten() {
                let Some(at) = statement
                    .position("set")
                    .filter(|_| statement.begins_with(&["alter", "database"]))
                else {
                    continue;
                };
                if statement.name_at(at + 1).is_some_and(|name| SETTINGS.contains(&name)) {
                    let values = statement
                        .tokens
                        .iter()
                        .skip(at + 2)
                        .filter(|token| token.kind == sql::TokenKind::Text);
                    let text = |token: &sql::SqlToken| statement.text[token.at.clone()].to_vec();
                    // Those that anybody may set are looked for in a directory of their own.
                    let is_local = statement.name_at(at + 1) == Some(LOCAL);
                    let place = |library: Vec<u8>| match is_local
                        && library.starts_with(b"'")
                        && !library.contains(&b'/')
                    {
                        true => [b"'$libdir/plugins/", &library[1..]].concat(),
                        false => library,
                    };
                    found.extend(values.map(|token| place(text(token))));
                }
            }
        }
        found.retain(|library| library != b"''" && library != b"'$libdir/plugins/'");
        found
    }

    /// Reads them from an archive's table of contents.
    ///
    /// # Errors
    /// [`TargetError::Content`] if a statement is none that belongs there.
    pub fn of(contents: &TableOfContents) -> Result<Self, TargetError> {
        let mut properties = Self::default();
        for entry in contents.of_kind("DATABASE") {
            properties.create = entry.definition.clone();
            properties.owner = readable(&entry.owner);
            properties.encoding = encoding_of(&entry.definition)?;
        }
        for entry in contents.entries.iter().filter(|e| is_about_database(e)) {
            let mut speaker = None;
            for statement in sql::statements(&entry.definition)? {
                if let Some(who) = statement.speaker() {
                    speaker = if let sql::SessionRole::Is(role) = who { Some(role) } else { None };
                    continue;
                }
                let kinds: [&[&str]; 6] = [
                    &["alter", "database"],
                    &["alter", "role"],
                    &["grant"],
                    &["revoke"],
                    &["comment", "on", "database"],
                    &["security", "label"],
                ];
                let belongs = match &speaker {
                    None => kinds.iter().any(|keywords| statement.begins_with(keywords)),
                    Some(_) => {
                        statement.begins_with(&["grant"]) || statement.begins_with(&["revoke"])
                    }
                };
                if !belongs {
                    return Err(TargetError::Content(
                        format!("not a statement about a database: {}", kind_of(&statement)).into(),
                    ));
                }
                properties.rest.push((speaker.clone(), statement.text.to_vec()));
            }
        }
        Ok(properties)
    }

    /// Whether the database has a comment of its own.
    #[must_use]
    pub fn has_comment(&self) -> bool {
        let says = |(_, text): &(Option<Vec<u8>>, Vec<u8>)| {
            let text = [text.as_slice(), b";"].concat();
            sql::statements(&text).is_ok_and(|statements| {
                statements
                    .iter()
                    .any(|s| s.begins_with(&["comment"]) && !RestoreCheckpoint::is_within(&s.text))
            })
        };
        self.rest.iter().any(says)
    }

    /// Creates the database under another name, with the old one's encoding, locale and, if it is
    /// to be `owned`, owner. The tablespace is left to the server.
    ///
    /// # Errors
    /// [`TargetError::Database`]
    pub async fn create(
        &self,
        session: &mut PgSession,
        name: &str,
        encoding: &str,
        owned: bool,
    ) -> Result<(), TargetError> {
        let failed =
            |source| TargetError::Database { what: format!("the creation of {name:?}"), source };
        // In one statement: whoever dies leaves a database of the right owner, or none.
        let owner = match self.owner.is_empty() || !owned {
            true => String::new(),
            false => format!(" OWNER = {}", quote_identifier(&self.owner)),
        };
        if let Some(statement) = sql::statements(&self.create)?.first() {
            if !statement.begins_with(&["create", "database"]) {
                return Err(TargetError::Content(
                    "the archive's CREATE DATABASE is something else".into(),
                ));
            }
            let text = statement.without_clause("tablespace", 3).with_name_at(2, name);
            session
                .run_opaque(
                    "the new database",
                    &[text.trim_ascii_end(), owner.as_bytes()].concat(),
                    encoding,
                )
                .await
                .map_err(failed)?;
        } else {
            let create =
                format!("CREATE DATABASE {} TEMPLATE template0{owner}", quote_identifier(name));
            session.run("the new database", &create).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Drops a database that a restore made and did not finish.
    ///
    /// # Errors
    /// [`TargetError::Database`]
    pub async fn drop_unfinished(
        tools: &PgTools,
        connection: &PgConnection,
        name: &str,
    ) -> Result<PgSession, TargetError> {
        let mut session = maintenance(tools, connection).await?;
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_identifier(name));
        let done = session.run("the half-loaded database", &drop).await;
        done.map_err(|source| TargetError::Database {
            what: format!("the removal of half-loaded {name:?}"),
            source,
        })?;
        Ok(session)
    }

    /// Applies one part under the target's name. Settings come before the rows, since checks and
    /// generated columns may depend on them, and cannot undo what sessions are pinned to;
    /// privileges come after, since they may take ours away; the comment last, since it says until
    /// then how far the restore is.
    ///
    /// # Errors
    /// [`TargetError::Database`] naming the statement's kind.
    pub async fn apply(
        &self,
        session: &mut PgSession,
        name: &str,
        encoding: &str,
        part: PropertyPart,
        keep_going: bool,
    ) -> Result<Vec<String>, TargetError> {
        let mut refused = Vec::new();
        for (speaker, text) in &self.rest {
            let text = [text.as_slice(), b";"].concat();
            for statement in sql::statements(&text)? {
                let is_of = match (
                    statement.begins_with(&["comment"]),
                    statement.begins_with(&["alter"]),
                ) {
                    (true, _) => PropertyPart::Comment,
                    (_, true)
                        if statement.begins_with(&["alter", "database"])
                            && statement.position("set").is_none() =>
                    {
                        PropertyPart::Limits
                    }
                    (_, true) => PropertyPart::Settings,
                    _ => PropertyPart::Privileges,
                };
                if is_of != part || RestoreCheckpoint::is_within(&statement.text) {
                    continue;
                }
                let Some(at) = statement.database_name_position() else { continue };
                let renamed = statement.with_name_at(at, name);
                let renamed =
                    speaker.as_ref().map_or(renamed.clone(), |role| sql::said_by(role, &renamed));
                match session.run_opaque("a property of the database", &renamed, encoding).await {
                    Ok(()) => {}
                    Err(source @ SessionError::Refused { .. }) if keep_going => {
                        refused.push(format!("{}: {source}", kind_of(&statement)))
                    }
                    Err(source) => {
                        return Err(TargetError::Database { what: kind_of(&statement), source });
                    }
                }
            }
        }
        Ok(refused)
    }
}

/// The first words of a statement: a setting's value may be a secret.
fn kind_of(statement: &SqlStatement<'_>) -> String {
    statement
        .tokens
        .iter()
        .take(3)
        .map(|t| readable(&statement.text[t.at.clone()]))
        .collect::<Vec<_>>()
        .join(" ")
}

fn encoding_of(create: &[u8]) -> Result<String, TargetError> {
    for statement in sql::statements(create)? {
        if let Some(at) = statement.position("encoding")
            && let Some(value) = statement.tokens.get(at + 2)
        {
            return Ok(readable(&statement.text[value.at.clone()]).trim_matches('\'').to_owned());
        }
    }
    Ok("UTF8".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_beside_roles_with_confusing_names() {
        let renamed = |text: &str| {
            let script = format!("{text};");
            let cut = sql::statements(script.as_bytes()).unwrap();
            String::from_utf8(cut[0].with_name_at(cut[0].database_name_position().unwrap(), "new"))
                .unwrap()
        };
        assert_eq!(
            renamed("ALTER ROLE database IN DATABASE old SET a TO 'database'"),
            "ALTER ROLE database IN DATABASE \"new\" SET a TO 'database'"
        );
        assert_eq!(
            renamed("GRANT CONNECT ON DATABASE old TO database"),
            "GRANT CONNECT ON DATABASE \"new\" TO database"
        );
        assert_eq!(
            renamed("ALTER DATABASE database SET x TO 1"),
            "ALTER DATABASE \"new\" SET x TO 1"
        );
    }

    #[test]
    fn a_tablespace_is_left_out_whatever_the_lengths_of_the_names() {
        for (old, new) in [("a", "much_longer"), ("much_longer_than_the_new_one", "b")] {
            let script = format!(
                "CREATE DATABASE {old} WITH TEMPLATE = template0 ENCODING = 'UTF8' TABLESPACE = fast;"
            );
            let cut = sql::statements(script.as_bytes()).unwrap();
            let text = cut[0].without_clause("tablespace", 3).with_name_at(2, new);
            assert_eq!(
                String::from_utf8(text).unwrap().trim_end(),
                format!("CREATE DATABASE \"{new}\" WITH TEMPLATE = template0 ENCODING = 'UTF8'")
            );
        }
    }

    #[test]
    fn the_encoding_is_read_from_the_create_statement() {
        let create =
            b"CREATE DATABASE \"odd \"\"name\" WITH TEMPLATE = template0 ENCODING = 'SQL_ASCII' LOCALE_PROVIDER = libc LOCALE = 'C';\n";
        assert_eq!(encoding_of(create).unwrap(), "SQL_ASCII");
    }
}
