//! Extensions: their versions, which are in no dump, and every row in their own tables. `pg_dump`
//! has an extension made anew and takes along only such rows as the extension says, so what else
//! was in its tables comes back only if the extension puts it there.

use super::SourceError;
use crate::domain::fingerprint::{ExtensionFacts, ExtensionRows};
use crate::pg::session::estimate;
use crate::pg::sql::quote_identifier;
use crate::pg::{PgSession, SessionError};

/// Tables of extensions that are larger are not read: in bytes, as of the last VACUUM.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

const EXTENSIONS: &str = "SELECT extname, extversion FROM pg_catalog.pg_extension ORDER BY extname";

const TABLES: &str = "SELECT e.extname, n.nspname, c.relname, c.relpages, pg_catalog.current_setting('block_size') FROM pg_catalog.pg_extension e \
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid AND d.deptype = 'e' \
    AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
    JOIN pg_catalog.pg_class c ON c.oid = d.objid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' ORDER BY n.nspname, c.relname";

/// Reads them as the session's transaction sees them.
///
/// # Errors
/// [`SourceError::Session`]; a table that may not be read is told as such.
pub async fn read(session: &mut PgSession) -> Result<Vec<ExtensionFacts>, SourceError> {
    let shape = || SessionError::Shape { what: "the extensions".to_owned() };
    let mut extensions = Vec::new();
    for row in session.ask("the extensions", EXTENSIONS, 2).await? {
        let [Some(name), Some(version)] = row.as_slice() else { return Err(shape().into()) };
        extensions.push(ExtensionFacts {
            name: name.clone(),
            version: version.clone(),
            tables: Vec::new(),
        });
    }
    for row in session.ask("the tables of extensions", TABLES, 5).await? {
        let [Some(extension), Some(schema), Some(table), pages, block_bytes] = row.as_slice()
        else {
            return Err(shape().into());
        };
        let bytes = estimate(pages).saturating_mul(estimate(block_bytes));
        let rows = if bytes > BYTES_MAX { None } else { rows(session, schema, table).await? };
        if let Some(facts) = extensions.iter_mut().find(|facts| &facts.name == extension) {
            facts.tables.push(ExtensionRows { table: format!("{schema}.{table}"), rows });
        }
    }
    Ok(extensions)
}

/// Number and hash of the rows, whatever their order; none if the role may not read them.
async fn rows(
    session: &mut PgSession,
    schema: &str,
    table: &str,
) -> Result<Option<(u64, String)>, SourceError> {
    let question = format!(
        "SELECT pg_catalog.count(*), COALESCE(pg_catalog.sum(('x' || pg_catalog.substr(pg_catalog.md5((t.*)::pg_catalog.text), 1, 15))::pg_catalog.bit(60)::pg_catalog.int8), 0) \
         FROM ONLY {}.{} AS t",
        quote_identifier(schema),
        quote_identifier(table)
    );
    match super::snapshot::optional(session, &question, 2).await?.as_deref() {
        Some([Some(count), Some(sum)]) => Ok(count.parse().ok().map(|count| (count, sum.clone()))),
        _ => Ok(None),
    }
}
