//! Reading a datastore. A source hands out streams whose end must be proved before anything made of them is published.

pub mod postgres;
