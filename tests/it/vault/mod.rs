//! What is stored: the contract of every vault, S3, keys and their rotation, retention, backups
//! that are broken.

pub mod contract;
mod earlier_versions;
mod hostile;
mod keys;
mod museum;
mod parsers;
mod reader;
mod retention;
#[cfg(feature = "aws")]
mod s3;
mod told;
