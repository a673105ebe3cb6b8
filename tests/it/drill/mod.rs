//! Drills: in the sandbox of this host, and in a scratch VPC.

mod jail;
mod local;
#[cfg(feature = "ec2")]
mod scratch;
#[cfg(feature = "ec2")]
mod scratch_ends;
mod scratch_paper;
#[cfg(feature = "ec2")]
mod scratch_storms;
mod verdicts;
