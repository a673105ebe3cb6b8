//! Writing a datastore back, the mirror of [`crate::source`].

pub mod postgres;
