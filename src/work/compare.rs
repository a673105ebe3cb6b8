//! Comparing a restored database with the fingerprint of its backup: the database is dumped again
//! with the same settings, through the code that computes fingerprints, and the two are compared.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use super::back_up::ArchiveTap;
use super::{WorkContext, WorkError};
use crate::destination::postgres::load::LoadOptions;
use crate::domain::fingerprint::{
    ArchiveObject, ExtensionFacts, FORMAT_1, Fingerprint, OmittedKind, TableRows,
};
use crate::pg::archive::{TableOfContents, readable};
use crate::pg::objects;
use crate::pg::rows::{RowFingerprinter, assemble, qualified};
use crate::pg::{PgConnection, PgSession, PgTools};
use crate::source::postgres::{dump, extensions, snapshot};

/// What came of a comparison. *Could not look* is never a pass.
#[derive(Debug, Default, Serialize)]
pub struct FingerprintComparison {
    /// Tables compared, row by row.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// Whether objects could be compared.
    pub objects_compared: bool,
    /// What differs, in sentences.
    pub differences: Vec<String>,
    /// What was not looked at, and why.
    pub not_looked_at: Vec<String>,
}

impl FingerprintComparison {
    /// Whether everything that could be compared is the same.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What a restore has left out on purpose, by the names under which it is recorded.
#[derive(Debug, Clone, Default)]
pub struct OmittedParts {
    objects: HashSet<(String, String, String)>,
    sequences: Vec<String>,
    rows: Vec<(String, String)>,
    owners: bool,
}

impl OmittedParts {
    /// Of an archive.
    #[must_use]
    pub fn of(contents: &TableOfContents, leave: &LoadOptions) -> Self {
        let left =
            || contents.entries.iter().filter(|entry| leave.entries.contains(&entry.dump_id));
        Self {
            objects: left().map(objects::identity).collect(),
            sequences: left()
                .filter(|entry| entry.kind == "SEQUENCE SET")
                .map(|entry| qualified(&entry.schema, &entry.tag))
                .collect(),
            rows: leave
                .rows
                .iter()
                .map(|(schema, table)| (readable(schema), readable(table)))
                .collect(),
            owners: leave.owners,
        }
    }

    /// Takes it out of both sides of a comparison, and says so.
    pub fn take_from(&self, recorded: &mut Fingerprint, found: &mut Fingerprint) -> Vec<String> {
        let mut said = Vec::new();
        if !self.objects.is_empty() {
            let is_left = |object: &ArchiveObject| {
                self.objects.contains(&(
                    object.kind.clone(),
                    object.schema.clone(),
                    object.name.clone(),
                ))
            };
            recorded.named.retain(|object| !is_left(object));
            found.named.retain(|object| !is_left(object));
            // Older fingerprints only count them.
            for (kind, ..) in self.objects.iter().filter(|_| recorded.format == FORMAT_1) {
                recorded.objects.remove(kind);
                found.named.retain(|object| object.kind != *kind);
            }
            said.push(format!("{} objects that were left out", self.objects.len()));
        }
        self.sequences.iter().for_each(|name| drop(recorded.sequences.remove(name)));
        if self.owners {
            for object in recorded.named.iter_mut().chain(&mut found.named) {
                object.owner.clear();
            }
            recorded.named.sort();
            found.named.sort();
            said.push("owners of objects".to_owned());
        }
        for (schema, table) in &self.rows {
            let is = |rows: &TableRows| (&rows.schema, &rows.table) == (schema, table);
            recorded.tables.retain(|rows| !is(rows));
            found.tables.retain(|rows| !is(rows));
            said.push(format!("rows of {schema}.{table}, which were left out"));
        }
        said
    }
}

/// Dumps a database and computes its fingerprint with the recorded key and column order.
///
/// # Errors
/// [`WorkError`] if the database cannot be read whole.
pub async fn fingerprint_of(
    rig: &WorkContext,
    tools: &PgTools,
    connection: &PgConnection,
    recorded: &Fingerprint,
) -> Result<Fingerprint, WorkError> {
    let mut session = PgSession::open(tools, connection).await.map_err(|e| unreadable(&e))?;
    // One transaction, as for the backup.
    session
        .run("a transaction", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .await
        .map_err(|e| unreadable(&e))?;
    let server = snapshot::server(&mut session).await.map_err(|e| unreadable(&e))?;
    let extensions = extensions::read(&mut session).await.map_err(|e| unreadable(&e))?;
    drop(session);
    let stream = dump::whole(tools, connection).await.map_err(|e| unreadable(&e))?;
    let found = read_back(rig, tools, stream, recorded).await?;
    Ok(Fingerprint { server_major: server.major(), extensions: Some(extensions), ..found })
}

/// Compares one table, as [`fingerprint_of`] and [`compare`] do with all; the answer says what
/// differs.
///
/// # Errors
/// [`WorkError`] if the database cannot be read.
pub async fn compare_table(
    rig: &WorkContext,
    tools: &PgTools,
    connection: &PgConnection,
    recorded: &Fingerprint,
    table: &TableRows,
) -> Result<Vec<String>, WorkError> {
    let stream = dump::one_table(tools, connection, &table.schema, &table.table)
        .await
        .map_err(|e| unreadable(&e))?;
    let found = read_back(rig, tools, stream, recorded).await?;
    let only = Fingerprint { tables: vec![table.clone()], ..recorded.clone() };
    let mut comparison = FingerprintComparison::default();
    compare_tables(&only, &found, &mut comparison);
    Ok(comparison.differences)
}

fn unreadable(source: &dyn std::error::Error) -> WorkError {
    WorkError::NotVerified(format!("the restored database could not be read back: {source}"))
}

async fn read_back(
    rig: &WorkContext,
    tools: &PgTools,
    stream: dump::DumpStream,
    recorded: &Fingerprint,
) -> Result<Fingerprint, WorkError> {
    let stage = rig.progress.begin("compare", None);
    let tap = ArchiveTap::new(RowFingerprinter::like(recorded), std::sync::Arc::clone(&stage));
    let tally = stream.read(tap, &rig.cancel).await;
    if rig.cancel.is_cancelled() {
        return Err(WorkError::Interrupted);
    }
    stage.end();
    let tally = tally.map_err(|error| unreadable(&error))?;
    Ok(assemble(recorded.key.clone(), tools.major(), tally, []))
}

/// Holds what is against what was recorded, except for the rows of tables that the plan leaves out.
#[must_use]
pub fn compare(
    recorded: &Fingerprint,
    found: &Fingerprint,
    without_rows_of: &[(String, String)],
) -> FingerprintComparison {
    let mut comparison = FingerprintComparison::default();
    let left_out = |table: &TableRows| {
        without_rows_of.iter().any(|(schema, name)| (schema, name) == (&table.schema, &table.table))
    };
    let mut expected = recorded.clone();
    // Such a table must be there and say nothing of its rows.
    for table in expected.tables.iter_mut().filter(|table| left_out(table)) {
        if let Some(is) =
            found.tables.iter().find(|is| (&is.schema, &is.table) == (&table.schema, &table.table))
        {
            (table.rows, table.sum) = (is.rows, is.sum);
        }
        comparison
            .not_looked_at
            .push(format!("rows of {}.{}, which the plan leaves out", table.schema, table.table));
    }
    compare_tables(&expected, found, &mut comparison);
    let (was, is) = (&recorded.large_objects, &found.large_objects);
    if was != is {
        let what = if was.count == is.count {
            "their content or owners differ".to_owned()
        } else {
            format!("{} were recorded, {} found", was.count, is.count)
        };
        comparison.differences.push(format!("large objects: {what}"));
    }
    // Older fingerprints do not quote names of sequences.
    let unquoted = |name: &String| {
        if recorded.format == FORMAT_1 { name.replace('"', "") } else { name.clone() }
    };
    let sequences: BTreeMap<String, &String> =
        found.sequences.iter().map(|(name, is)| (unquoted(name), is)).collect();
    for (name, was) in &recorded.sequences {
        match sequences.get(name) {
            Some(is) if *is == was => {}
            Some(is) => {
                comparison.differences.push(format!("sequence {name}: recorded {was}, found {is}"))
            }
            None => comparison.differences.push(format!("sequence {name}: missing")),
        }
    }
    for name in sequences.keys().filter(|name| !recorded.sequences.contains_key(*name)) {
        comparison.differences.push(format!("sequence {name}: was not there at backup time"));
    }
    compare_objects(recorded, found, &mut comparison);
    if !recorded.materialized_views.is_empty() {
        let names = recorded.materialized_views.join(", ");
        comparison.not_looked_at.push(format!(
            "contents of materialized views, which a restore computes anew: {names}"
        ));
    }
    comparison
}

/// Holds the tables that were restored against what was recorded of them, and nothing else.
#[must_use]
pub fn compare_some(
    recorded: &Fingerprint,
    found: &Fingerprint,
    restored: impl Fn(&str, &str) -> bool,
    without_rows_of: &[(String, String)],
) -> FingerprintComparison {
    let only = |all: &Fingerprint| Fingerprint {
        tables: all
            .tables
            .iter()
            .filter(|table| restored(&table.schema, &table.table))
            .cloned()
            .collect(),
        sequences: BTreeMap::new(),
        ..recorded.clone()
    };
    let mut comparison = compare(&only(recorded), &only(found), without_rows_of);
    comparison.objects_compared = false;
    comparison.not_looked_at.push("everything but the tables that were restored".to_owned());
    comparison
}

fn by_name(fingerprint: &Fingerprint) -> BTreeMap<(&str, &str), &TableRows> {
    fingerprint.tables.iter().map(|t| ((t.schema.as_str(), t.table.as_str()), t)).collect()
}

fn compare_tables(
    recorded: &Fingerprint,
    found: &Fingerprint,
    comparison: &mut FingerprintComparison,
) {
    let (was, mut is) = (by_name(recorded), by_name(found));
    for ((schema, table), was) in was {
        let name = format!("table {schema}.{table}");
        let Some(is) = is.remove(&(schema, table)) else {
            comparison.differences.push(format!("{name}: missing"));
            continue;
        };
        comparison.tables += 1;
        comparison.rows += is.rows;
        if was.columns != is.columns {
            comparison.differences.push(format!(
                "{name}: columns ({}) were recorded, ({}) found",
                was.columns.join(", "),
                is.columns.join(", ")
            ));
        } else if was.rows != is.rows {
            comparison
                .differences
                .push(format!("{name}: {} rows were recorded, {} found", was.rows, is.rows));
        } else if was.sum != is.sum {
            comparison
                .differences
                .push(format!("{name}: the number of rows is the same, their content is not"));
        }
    }
    // Rows that a standby does not have are not in the dump; their table is.
    let unlogged = |schema: &str, table: &str| {
        let name = format!("{schema}.{table}");
        recorded
            .omitted
            .iter()
            .any(|omitted| omitted.kind == OmittedKind::UnloggedRows && omitted.name == name)
    };
    for (schema, table) in is.keys().filter(|(schema, table)| !unlogged(schema, table)) {
        comparison
            .differences
            .push(format!("table {schema}.{table}: was not there at backup time"));
    }
}

fn compare_objects(
    recorded: &Fingerprint,
    found: &Fingerprint,
    comparison: &mut FingerprintComparison,
) {
    if recorded.pg_dump_major != found.pg_dump_major {
        comparison.not_looked_at.push(format!(
            "objects: pg_dump {} listed them then and pg_dump {} now, and two majors list them differently",
            recorded.pg_dump_major, found.pg_dump_major
        ));
        return;
    }
    comparison.objects_compared = true;
    if recorded.named.is_empty() {
        compare_counts(recorded, found, comparison);
        return;
    }
    let same_server = recorded.server_major == found.server_major || found.server_major == 0;
    if !same_server {
        comparison.not_looked_at.push(format!(
            "definitions of objects: PostgreSQL {} and {} write them differently; names and owners are compared",
            recorded.server_major, found.server_major
        ));
    }
    let (was, mut is) = (by_identity(recorded), by_identity(found));
    for (identity, was) in was {
        let name = named(&identity);
        let Some(is) = is.remove(&identity) else {
            comparison.differences.push(format!("{name}: missing"));
            continue;
        };
        let owners = |objects: &[&ArchiveObject]| {
            objects.iter().map(|object| object.owner.clone()).collect::<Vec<_>>().join(", ")
        };
        if was.len() != is.len() {
            comparison.differences.push(format!(
                "{name}: {} of them were recorded, {} found",
                was.len(),
                is.len()
            ));
        } else if owners(&was) != owners(&is) {
            comparison.differences.push(format!(
                "{name}: its owner was {}, and is {}",
                owners(&was),
                owners(&is)
            ));
        } else if same_server && was != is {
            comparison.differences.push(format!("{name}: is not as it was recorded"));
        }
    }
    comparison.differences.extend(
        is.keys().map(|identity| format!("{}: was not there at backup time", named(identity))),
    );
    if let (Some(was), Some(is)) = (&recorded.extensions, &found.extensions) {
        compare_extensions(was, is, comparison);
    }
}

/// Older fingerprints count objects, some of which are compared by what they hold.
fn compare_counts(
    recorded: &Fingerprint,
    found: &Fingerprint,
    comparison: &mut FingerprintComparison,
) {
    const NOT_NAMED: [&str; 5] =
        ["SEQUENCE SET", "STATISTICS DATA", "ENCODING", "STDSTRINGS", "SEARCHPATH"];
    let (was, is) = (recorded.counts(), found.counts());
    let kinds: BTreeSet<&str> =
        was.keys().chain(is.keys()).copied().filter(|kind| !NOT_NAMED.contains(kind)).collect();
    for kind in kinds {
        let count = |counts: &BTreeMap<&str, u64>| counts.get(kind).copied().unwrap_or_default();
        if count(&was) != count(&is) {
            comparison.differences.push(format!(
                "objects of kind {kind}: {} were recorded, {} found",
                count(&was),
                count(&is)
            ));
        }
    }
}

/// Kind, schema and name.
type ObjectIdentity<'a> = (&'a str, &'a str, &'a str);

/// Names are not unique in a table of contents: operators stand there without their arguments.
fn by_identity(fingerprint: &Fingerprint) -> BTreeMap<ObjectIdentity<'_>, Vec<&ArchiveObject>> {
    let mut objects: BTreeMap<ObjectIdentity<'_>, Vec<&ArchiveObject>> = BTreeMap::new();
    for object in &fingerprint.named {
        objects.entry((&object.kind, &object.schema, &object.name)).or_default().push(object);
    }
    objects
}

fn named((kind, schema, name): &ObjectIdentity<'_>) -> String {
    let kind = match *kind {
        "ACL" => "privileges on".to_owned(),
        "DEFAULT ACL" => "default privileges".to_owned(),
        "COMMENT" => "comment on".to_owned(),
        "SECURITY LABEL" => "security label on".to_owned(),
        "DATABASE PROPERTIES" => "settings of".to_owned(),
        "DATABASE" => "encoding and locale of".to_owned(),
        other => other.to_lowercase(),
    };
    match schema.is_empty() || *schema == "-" {
        true => format!("{kind} {name}"),
        false => format!("{kind} {schema}.{name}"),
    }
}

fn compare_extensions(
    was: &[ExtensionFacts],
    is: &[ExtensionFacts],
    comparison: &mut FingerprintComparison,
) {
    for was in was {
        // One that is missing is an object that is missing.
        let Some(is) = is.iter().find(|is| is.name == was.name) else { continue };
        if was.version != is.version {
            comparison.not_looked_at.push(format!(
                "what extension {} itself brings: it was version {} and is {}, as the server offers it",
                was.name, was.version, is.version
            ));
            continue;
        }
        for table in &was.tables {
            let now = is.tables.iter().find(|now| now.table == table.table).map(|now| &now.rows);
            match (&table.rows, now) {
                (Some((rows, _)), Some(Some((now, _)))) if rows != now => {
                    let what = &table.table;
                    comparison.differences.push(format!("table {what} of extension {}: {rows} rows were recorded, {now} found", was.name));
                }
                (Some(rows), Some(Some(now))) if rows != now => comparison
                    .differences
                    .push(format!("table {} of extension {}: the number of rows is the same, their content is not", table.table, was.name)),
                (Some(_), Some(Some(_))) => {}
                _ => comparison.not_looked_at.push(format!("rows that extension {} itself has in {}", was.name, table.table)),
            }
        }
    }
}
