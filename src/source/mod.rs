//! Reading a datastore. A source yields streams whose successful end must be proven before anything
//! made of them is published.

pub mod postgres;
