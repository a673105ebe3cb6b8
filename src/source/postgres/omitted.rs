//! What a database holds and `pg_dump` leaves out: asked of the catalogs, and heard in its own
//! warnings. It exits 0 all the same, so nobody else would tell.

use crate::domain::fingerprint::{OmittedKind, OmittedObject};
use crate::pg::{PgSession, SessionError};

/// Warnings that are kept at most.
const WARNINGS_MAX: usize = 50;
/// Bytes of a warning that are kept.
const WARNING_BYTES_MAX: usize = 300;

/// For each kind the query that names what is left out. Every role may run them.
const QUESTIONS: [(OmittedKind, &str); 9] = [
    (
        OmittedKind::Subscription,
        "SELECT subname FROM pg_catalog.pg_subscription WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
         AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)",
    ),
    (
        // As the view shows them: NULL also where there are none, and then nobody can tell who may
        // not look.
        OmittedKind::UserMapping,
        "SELECT m.usename || ' on ' || m.srvname FROM pg_catalog.pg_user_mappings m JOIN pg_catalog.pg_foreign_server s ON s.oid = m.srvid \
         WHERE m.umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) \
         AND NOT CASE WHEN m.umuser <> 0 THEN m.usename = current_user AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE') OR pg_catalog.has_server_privilege(s.oid, 'USAGE')) \
         ELSE pg_catalog.pg_has_role(s.srvowner, 'USAGE') END",
    ),
    (
        OmittedKind::UnloggedRows,
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery() AND n.nspname !~ '^pg_'",
    ),
    (
        OmittedKind::InvalidIndex,
        "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT ((i.indisvalid OR t.relkind = 'p') AND i.indisready) AND n.nspname !~ '^pg_'",
    ),
    (
        OmittedKind::SettingOfAllRoles,
        "SELECT pg_catalog.split_part(setting, '=', 1) FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS setting WHERE setrole = 0 AND setdatabase = 0",
    ),
    (
        OmittedKind::SystemSchema,
        "SELECT n.nspname || '.' || o.name FROM (SELECT oid, relname AS name, relnamespace AS namespace, 'pg_catalog.pg_class'::pg_catalog.regclass AS catalog \
           FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') UNION ALL \
           SELECT oid, proname, pronamespace, 'pg_catalog.pg_proc'::pg_catalog.regclass FROM pg_catalog.pg_proc) o \
         JOIN pg_catalog.pg_namespace n ON n.oid = o.namespace WHERE o.oid >= 16384 AND n.nspname IN ('pg_catalog', 'information_schema') \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.catalog AND d.objid = o.oid AND d.deptype IN ('e', 'i'))",
    ),
    (
        OmittedKind::ForeignKeysOff,
        "SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE t.tgisinternal AND t.tgenabled <> 'O' AND n.nspname !~ '^pg_'",
    ),
    (
        OmittedKind::PreparedTransaction,
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()",
    ),
    (
        OmittedKind::ReplicationSlot,
        "SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE database = pg_catalog.current_database() AND NOT temporary",
    ),
];

/// What the catalogs tell, ordered.
///
/// # Errors
/// [`SessionError`]
pub async fn asked(session: &mut PgSession) -> Result<Vec<OmittedObject>, SessionError> {
    let mut all = Vec::new();
    for (kind, question) in QUESTIONS {
        let names = session.ask("what a dump leaves out", question, 1).await?;
        all.extend(names.into_iter().flatten().flatten().map(|name| OmittedObject { kind, name }));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// What `pg_dump` has warned of. Its own words, which are English: lifeboat sets its locale.
#[must_use]
pub fn warned(said: &str) -> Vec<OmittedObject> {
    // Foreign keys that refer to each other: lifeboat makes them after all rows, in whatever order
    // those came. And what is asked of the catalogs, by name.
    const KNOWN: [&str; 2] =
        ["there are circular foreign-key constraints", "subscriptions not dumped because"];
    let warnings = said.lines().filter_map(|line| {
        line.strip_prefix("pg_dump: warning: ")
            .or_else(|| line.strip_prefix("pg_dumpall: warning: "))
    });
    let unknown = warnings.filter(|warning| !KNOWN.iter().any(|known| warning.starts_with(known)));
    let cut = |warning: &str| {
        crate::pg::archive::readable(
            &warning.as_bytes()[..warning.floor_char_boundary(WARNING_BYTES_MAX)],
        )
    };
    let mut all: Vec<OmittedObject> = unknown
        .map(|warning| OmittedObject { kind: OmittedKind::Warning, name: cut(warning) })
        .collect();
    all.sort();
    all.dedup();
    all.truncate(WARNINGS_MAX);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_kept_but_for_those_that_lifeboat_knows() {
        let said = "pg_dump: warning: there are circular foreign-key constraints on this table:\npg_dump: detail: t\n\
                    pg_dump: hint: You might not be able to restore the dump without using --disable-triggers\n\
                    pg_dump: warning: subscriptions not dumped because current user is not a superuser\n\
                    pg_dump: warning: could not resolve dependency loop among these items:\nWARNING:  something of the server\n\
                    pg_dump: warning: could not resolve dependency loop among these items:\n";
        let warned = warned(said);
        assert_eq!(
            warned.iter().map(OmittedObject::what).collect::<Vec<_>>(),
            ["warning of pg_dump could not resolve dependency loop among these items:"]
        );
        let long = format!("pg_dump: warning: {}\n", "é".repeat(400)).repeat(3);
        assert_eq!(super::warned(&long)[0].name.len(), WARNING_BYTES_MAX);
    }
}
