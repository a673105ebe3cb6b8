//! Taking backups: the whole way and back, the roles and servers it reads from, and what goes wrong
//! on the way.

mod faults;
mod frozen_objects;
mod omitted;
mod privileges;
mod round_trip;
mod settings;
mod sources;
mod strange_catalogs;
mod waits;
