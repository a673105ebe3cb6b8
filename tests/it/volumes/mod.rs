//! Volume sets: the stand-in on files, EBS behind its emulator, and the contract that both keep.

mod contract;
#[cfg(feature = "ec2")]
mod ebs;
mod local;
