//! The command line: what it refuses, and in which words.

mod host;
mod refusals;
