//! What lifeboat knows about Postgres: how to reach a server, how to talk to it, how its archives
//! and scripts are written.
//!
//! Knowledge only, no decisions: reading a datastore is in `source`, writing one in `target`.
//! Everything that speaks to a server goes through programs that link libpq (`psql`, `pg_dump`,
//! `pg_restore`), so that passwords files, service files, client certificates and `PG*` variables
//! work here exactly as they do for a person at a shell.

pub mod archive;
pub mod children;
pub mod connection;
pub mod globals;
pub mod objects;
pub mod pins;
pub mod rows;
pub mod session;
pub mod sql;
pub mod tools;

pub use connection::PgConnection;
pub use pins::PinSelection;
pub use session::{PgSession, SessionError};
pub use tools::{PgTool, PgTools};
