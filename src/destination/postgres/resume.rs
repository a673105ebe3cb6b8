//! Resuming an interrupted restore: half-loaded tables are emptied, existing objects are not
//! created again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::TargetError;
use super::load::TableName;
use crate::pg::archive::{TableOfContents, TocEntry, readable};
use crate::pg::sql::{self, quote_identifier};
use crate::pg::{PgSession, SessionError};

/// Kind, schema, what it is on, and name of an object. What has no schema, or is on nothing, has an
/// empty one.
type ObjectName = (String, String, String, String);

/// Every object of the post-data section that a database holds.
const MADE: &str = "SELECT 'INDEX', n.nspname, '', c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I')
UNION ALL SELECT CASE k.contype WHEN 'f' THEN 'FK CONSTRAINT' WHEN 'c' THEN 'CHECK CONSTRAINT' ELSE 'CONSTRAINT' END, n.nspname, c.relname, k.conname
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
UNION ALL SELECT 'CHECK CONSTRAINT', n.nspname, t.typname, k.conname
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_type t ON t.oid = k.contypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
UNION ALL SELECT 'TRIGGER', n.nspname, c.relname, t.tgname
  FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal
UNION ALL SELECT 'RULE', n.nspname, c.relname, r.rulename
  FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
UNION ALL SELECT 'POLICY', n.nspname, c.relname, p.polname
  FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
UNION ALL SELECT 'STATISTICS', n.nspname, '', s.stxname FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace
UNION ALL SELECT 'PUBLICATION', '', '', pubname FROM pg_catalog.pg_publication
UNION ALL SELECT 'PUBLICATION TABLE', n.nspname, p.pubname, c.relname FROM pg_catalog.pg_publication_rel r
  JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
UNION ALL SELECT 'SUBSCRIPTION', '', '', subname FROM pg_catalog.pg_subscription
UNION ALL SELECT 'EVENT TRIGGER', '', '', evtname FROM pg_catalog.pg_event_trigger";

/// Kinds that have no schema.
const NOWHERE: [&str; 3] = ["PUBLICATION", "SUBSCRIPTION", "EVENT TRIGGER"];

/// Numbers of entries of the post-data section that need not be made: a statement is whole or it
/// left nothing.
///
/// # Errors
/// [`TargetError::Database`]
pub async fn made(
    session: &mut PgSession,
    contents: &TableOfContents,
) -> Result<HashSet<i64>, TargetError> {
    let rows = session.ask("what is made already", MADE, 4).await.map_err(failed)?;
    let mut objects: HashSet<ObjectName> = rows
        .into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(kind), Some(schema), Some(on), Some(name)] => {
                Some((kind.clone(), schema.clone(), on.clone(), name.clone()))
            }
            _ => None,
        })
        .collect();
    // Servers before 15 do not know it.
    let schemas = "SELECT n.nspname, p.pubname FROM pg_catalog.pg_publication_namespace r JOIN pg_catalog.pg_publication p ON p.oid = r.pnpubid JOIN pg_catalog.pg_namespace n ON n.oid = r.pnnspid";
    match session.ask("what is published already", schemas, 2).await {
        Ok(rows) => objects.extend(rows.into_iter().filter_map(|row| {
            let (schema, publication) = (row.first()?.clone()?, row.get(1)?.clone()?);
            Some(("PUBLICATION TABLES IN SCHEMA".to_owned(), schema.clone(), publication, schema))
        })),
        Err(SessionError::Refused { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    let tags: HashMap<i64, &[u8]> =
        contents.entries.iter().map(|entry| (entry.dump_id, entry.tag.as_slice())).collect();
    let is_made =
        |entry: &&TocEntry| readings(entry, &tags).iter().all(|object| objects.contains(object));
    Ok(contents.entries.iter().filter(is_made).map(|entry| entry.dump_id).collect())
}

/// What an entry may stand for. A table of contents writes the name of what something is on, a
/// space, and its name, either of which may hold spaces; what an entry is on is among what it
/// depends on. Where two readings are left, it is made only if both are: making it once more fails,
/// loudly.
fn readings(entry: &TocEntry, tags: &HashMap<i64, &[u8]>) -> Vec<ObjectName> {
    let schema = if NOWHERE.contains(&entry.kind.as_str()) {
        String::new()
    } else {
        readable(&entry.schema)
    };
    let object =
        |on: &[u8], name: &[u8]| (entry.kind.clone(), schema.clone(), readable(on), readable(name));
    let on_something = matches!(
        entry.kind.as_str(),
        "CONSTRAINT"
            | "FK CONSTRAINT"
            | "CHECK CONSTRAINT"
            | "TRIGGER"
            | "RULE"
            | "POLICY"
            | "PUBLICATION TABLE"
            | "PUBLICATION TABLES IN SCHEMA"
    );
    if !on_something {
        return vec![object(b"", &entry.tag)];
    }
    // Its definition says what it is called.
    if let Some(name) = name_in(&entry.definition)
        && let Some(on) =
            entry.tag.strip_suffix(name.as_slice()).and_then(|rest| rest.strip_suffix(b" "))
    {
        return vec![object(on, &name)];
    }
    let known: HashSet<&[u8]> =
        entry.dependencies.iter().filter_map(|id| tags.get(id).copied()).collect();
    let spaces = entry.tag.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let splits: Vec<(&[u8], &[u8])> =
        spaces.map(|at| (&entry.tag[..at], &entry.tag[at + 1..])).collect();
    let likely: Vec<ObjectName> = splits
        .iter()
        .filter(|(on, _)| known.contains(on))
        .map(|(on, name)| object(on, name))
        .collect();
    if likely.is_empty() {
        splits.iter().map(|(on, name)| object(on, name)).collect()
    } else {
        likely
    }
}

/// The name that follows `ADD CONSTRAINT`, `CREATE TRIGGER`, `CREATE RULE` or `CREATE POLICY` in
/// the first statement.
fn name_in(definition: &[u8]) -> Option<Vec<u8>> {
    let cut = sql::statements(definition).ok()?;
    let statement = cut.first()?;
    let word = |at: usize, words: &[&str]| {
        statement.tokens.get(at).is_some_and(|token| words.iter().any(|word| token.is_word(word)))
    };
    let at = match statement.begins_with(&["alter", "table"]) {
        true => (2..statement.tokens.len())
            .find(|at| word(*at, &["constraint"]) && word(*at - 1, &["add"]))?,
        false if statement.begins_with(&["alter", "domain"]) => (2..statement.tokens.len())
            .find(|at| word(*at, &["constraint"]) && word(*at - 1, &["add"]))?,
        false => (1..3).find(|at| {
            word(*at, &["trigger", "rule", "policy"]) && (*at == 1 || word(1, &["constraint"]))
        })?,
    };
    statement.name_at(at + 1).map(<[u8]>::to_vec)
}

/// Gives what was made by an earlier attempt to its owner: it is made and given by two statements.
///
/// # Errors
/// [`TargetError::Database`]
pub async fn own(
    session: &mut PgSession,
    contents: &TableOfContents,
    made: &HashSet<i64>,
) -> Result<(), TargetError> {
    let owned = contents
        .entries
        .iter()
        .filter(|entry| made.contains(&entry.dump_id) && !entry.owner.is_empty());
    for entry in
        owned.filter(|entry| entry.kind == "STATISTICS" || NOWHERE.contains(&entry.kind.as_str()))
    {
        let name = quote_identifier(&readable(&entry.tag));
        let name = if entry.kind == "STATISTICS" {
            format!("{}.{name}", quote_identifier(&readable(&entry.schema)))
        } else {
            name
        };
        let give = format!(
            "ALTER {} {name} OWNER TO {}",
            entry.kind,
            quote_identifier(&readable(&entry.owner))
        );
        session
            .run("the owner of what an earlier attempt has made", &give)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Says again what follows the statement that makes something: that a trigger is disabled, that a
/// table is clustered by an index. A script is sent statement by statement, so what is made need
/// not have got the rest. All of it may be said twice.
///
/// # Errors
/// [`TargetError::Database`]
pub async fn complete(
    session: &mut PgSession,
    contents: &TableOfContents,
    made: &HashSet<i64>,
    keep_going: bool,
) -> Result<Vec<String>, TargetError> {
    let encoding = session
        .ask_one("its encoding", "SELECT pg_catalog.getdatabaseencoding()")
        .await
        .map_err(failed)?;
    let mut refused = Vec::new();
    for entry in contents.entries.iter().filter(|entry| made.contains(&entry.dump_id)) {
        let Ok(statements) = sql::statements(&entry.definition) else { continue };
        for statement in
            statements.iter().skip(1).filter(|statement| statement.begins_with(&["alter"]))
        {
            match session
                .run_opaque(
                    "the rest of what an earlier attempt has made",
                    &statement.text,
                    &encoding,
                )
                .await
            {
                Err(source @ SessionError::Refused { .. }) if keep_going => {
                    refused.push(source.to_string())
                }
                done => done.map_err(failed)?,
            }
        }
    }
    Ok(refused)
}

/// How long it is waited for sessions that an attempt has left behind to end.
const ORPHANS_END: Duration = Duration::from_secs(30);

/// Ends sessions that a killed attempt has left at work in the database: `pg_restore` has all it
/// needs in memory, and goes on by itself. Called by whoever has the [turn](super::restore_lock),
/// so none of them is a restore that lives. Their names are that of lifeboat, and they are older
/// than `session`.
///
/// # Errors
/// [`TargetError::Database`] if one of them does not end.
pub async fn end_orphans(session: &mut PgSession) -> Result<(), TargetError> {
    const OLDER: &str = "FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() AND application_name = 'lifeboat' \
        AND backend_start < (SELECT backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid())";
    let begun = tokio::time::Instant::now();
    // As whoever connects: a role that was taken on need not see the sessions of others.
    session.run("the connecting role", "SET ROLE NONE").await.map_err(failed)?;
    loop {
        let end = format!("SELECT count(pg_catalog.pg_terminate_backend(pid)) {OLDER}");
        let left =
            session.ask_one("sessions of an interrupted restore", &end).await.map_err(failed)?;
        if left == "0" {
            return session.run("the connecting role", "RESET ROLE").await.map_err(failed);
        }
        if begun.elapsed() > ORPHANS_END {
            return Err(failed(SessionError::Lost {
                last_words: format!("{left} sessions of an interrupted restore do not end"),
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Deletes what is younger than a moment, the last table of an archive first: what others refer to
/// was loaded first. Triggers and foreign keys of the extension have no say in it, where the role
/// may say so.
async fn take_back(
    session: &mut PgSession,
    tables: impl Iterator<Item = String>,
    moment: u32,
) -> Result<(), SessionError> {
    let what = "half-loaded rows in the tables of an extension";
    session.run(what, "BEGIN").await?;
    session.run(what, "SAVEPOINT triggers").await?;
    if session.run(what, "SET LOCAL session_replication_role = replica").await.is_err() {
        session.run(what, "ROLLBACK TO SAVEPOINT triggers").await?;
    }
    for table in tables {
        let delete = format!(
            "DELETE FROM {table} WHERE pg_catalog.age(xmin) < pg_catalog.age('{moment}'::pg_catalog.xid)"
        );
        session.run(what, &delete).await?;
    }
    session.run(what, "COMMIT").await
}

/// The moment at which the schema was there and no row of ours: a transaction's number, below 2^32
/// as rows carry it.
///
/// # Errors
/// [`TargetError::Database`]
pub async fn moment(session: &mut PgSession) -> Result<u32, TargetError> {
    let what = "the number of a transaction";
    let number = session
        .ask_one(what, "SELECT pg_catalog.txid_current() % 4294967296")
        .await
        .map_err(failed)?;
    number.parse().map_err(|_| failed(SessionError::Shape { what: what.to_owned() }))
}

/// Tables whose rows an archive holds and which it does not make: their extension does, with rows
/// of its own in some of them.
fn of_extensions<'a>(
    contents: &TableOfContents,
    tables: &'a [TableName],
) -> impl Iterator<Item = &'a TableName> {
    let made: HashSet<(&[u8], &[u8])> = contents
        .of_kind("TABLE")
        .map(|entry| (entry.schema.as_slice(), entry.tag.as_slice()))
        .collect();
    tables
        .iter()
        .filter(move |(schema, name)| !made.contains(&(schema.as_slice(), name.as_slice())))
}

/// Takes rows that were half loaded out of their tables, and indexes and constraints that were
/// built ahead for them. Tables that the restore made are emptied; of those that an extension made
/// the rows go that came after `schema_made`.
///
/// # Errors
/// [`TargetError::Database`]
pub async fn reset(
    session: &mut PgSession,
    contents: &TableOfContents,
    tables: &[TableName],
    schema_made: Option<u32>,
) -> Result<(), TargetError> {
    if tables.is_empty() {
        return Ok(());
    }
    let quoted = |(schema, name): &TableName| {
        format!(
            "ONLY {}.{}",
            quote_identifier(&readable(schema)),
            quote_identifier(&readable(name))
        )
    };
    let members: Vec<&TableName> = of_extensions(contents, tables).collect();
    if !members.is_empty() {
        let moment = schema_made.ok_or_else(|| {
            failed(SessionError::Shape { what: "the mark of an unfinished restore".to_owned() })
        })?;
        take_back(session, members.iter().map(|table| quoted(table)).rev(), moment)
            .await
            .map_err(failed)?;
    }
    let tables: Vec<&TableName> = tables.iter().filter(|table| !members.contains(table)).collect();
    if tables.is_empty() {
        return Ok(());
    }
    let concerned: HashSet<i64> = contents
        .of_kind("TABLE")
        .filter(|entry| {
            tables.iter().any(|(schema, name)| (&entry.schema, &entry.tag) == (schema, name))
        })
        .map(|entry| entry.dump_id)
        .collect();
    let built = |kind: &'static str| {
        contents
            .of_kind(kind)
            .filter(|entry| entry.dependencies.iter().any(|id| concerned.contains(id)))
    };
    for entry in built("CONSTRAINT") {
        let tag = readable(&entry.tag);
        let table = contents
            .of_kind("TABLE")
            .find(|table| entry.dependencies.contains(&table.dump_id))
            .map(|table| readable(&table.tag));
        let Some(table) = table else { continue };
        let Some(name) = tag.strip_prefix(&format!("{table} ")) else { continue };
        let drop = format!(
            "ALTER TABLE IF EXISTS ONLY {}.{} DROP CONSTRAINT IF EXISTS {}",
            quote_identifier(&readable(&entry.schema)),
            quote_identifier(&table),
            quote_identifier(name)
        );
        session.run("a constraint that was made ahead", &drop).await.map_err(failed)?;
    }
    for entry in built("INDEX") {
        let drop = format!(
            "DROP INDEX IF EXISTS {}.{}",
            quote_identifier(&readable(&entry.schema)),
            quote_identifier(&readable(&entry.tag))
        );
        session.run("an index that was made ahead", &drop).await.map_err(failed)?;
    }
    let truncate =
        format!("TRUNCATE {}", tables.into_iter().map(quoted).collect::<Vec<_>>().join(", "));
    session.run("emptying half-loaded tables", &truncate).await.map_err(failed)
}

fn failed(source: SessionError) -> TargetError {
    TargetError::Database { what: "what an interrupted restore left".to_owned(), source }
}

/// Whether rows of an archive can be taken back: large objects cannot, and those of an extension's
/// tables only if it is known which were there before ours.
#[must_use]
pub fn can_be_reset(contents: &TableOfContents, schema_made: Option<u32>) -> bool {
    let rows: Vec<TableName> = contents
        .of_kind("TABLE DATA")
        .map(|entry| (entry.schema.clone(), entry.tag.clone()))
        .collect();
    let large_objects = contents.entries.iter().any(|entry| entry.kind.starts_with("BLOB"));
    !large_objects && (schema_made.is_some() || of_extensions(contents, &rows).next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_is_read_by_what_it_depends_on() {
        let tags: HashMap<i64, &[u8]> = HashMap::from([(1, &b"a"[..]), (2, &b"a b"[..])]);
        let of = |dependencies: &[i64]| {
            let entry = TocEntry {
                kind: "CONSTRAINT".to_owned(),
                tag: b"a b c".to_vec(),
                dependencies: dependencies.to_vec(),
                ..TocEntry::default()
            };
            readings(&entry, &tags)
                .into_iter()
                .map(|(_, _, on, name)| format!("{on}|{name}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[1]), ["a|b c"]);
        assert_eq!(of(&[2]), ["a b|c"]);
        assert_eq!(of(&[1, 2]), ["a|b c", "a b|c"]);
        assert_eq!(of(&[]), ["a|b c", "a b|c"]);
        let named = |kind: &str, tag: &str, definition: &str| {
            let entry = TocEntry {
                kind: kind.to_owned(),
                tag: tag.into(),
                definition: definition.into(),
                dependencies: vec![1, 2],
                ..TocEntry::default()
            };
            readings(&entry, &tags)
                .into_iter()
                .map(|(_, _, on, name)| format!("{on}|{name}"))
                .collect::<Vec<_>>()
        };
        let foreign = "ALTER TABLE ONLY s.\"a b\"\n    ADD CONSTRAINT \"a b_fk\" FOREIGN KEY (one) REFERENCES s.a(x);";
        assert_eq!(named("FK CONSTRAINT", "a b a b_fk", foreign), ["a b|a b_fk"]);
        assert_eq!(
            named("TRIGGER", "a b c", "CREATE CONSTRAINT TRIGGER \"b c\" AFTER INSERT ON s.a;"),
            ["a|b c"]
        );
        assert_eq!(named("POLICY", "a b c", "CREATE POLICY c ON s.\"a b\";"), ["a b|c"]);
        let index = TocEntry {
            kind: "INDEX".to_owned(),
            schema: b"s".to_vec(),
            tag: b"a b".to_vec(),
            ..TocEntry::default()
        };
        assert_eq!(
            readings(&index, &tags),
            [("INDEX".to_owned(), "s".to_owned(), String::new(), "a b".to_owned())]
        );
    }
}
