//! Unattended: the daemon, its calendar and its catalog, and who is told.

mod catalog;
mod simulation;
mod telling;
mod unattended;
