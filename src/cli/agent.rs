//! `lifeboat agent`: started by the boot of a scratch VPC's instance.

use std::path::Path;

use super::exit::ExitKind;
use super::print::{CommandFailure, print_status};
use super::run::CommandContext;
use crate::config::Config;
use crate::domain::scratch::AgentOrder;
use crate::rig::{self, CommandLineKeys};
use crate::work::WorkError;
use crate::work::drill::agent;

pub(super) async fn run(start: &CommandContext, file: &Path) -> Result<ExitKind, CommandFailure> {
    let read = std::fs::read(file).map_err(|source| WorkError::File {
        what: format!("reading the order {}", file.display()),
        source,
    })?;
    let order = AgentOrder::parse(&read).map_err(WorkError::from)?;
    let directory =
        file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = std::path::absolute(directory).map_err(|source| WorkError::File {
        what: "finding the order's directory".to_owned(),
        source,
    })?;
    let config = Config::load(&agent::lay_out(&order, &directory)?).map_err(WorkError::from)?;
    let extras =
        CommandLineKeys { grant_tokens: order.grant_tokens.clone(), ..CommandLineKeys::default() };
    let rig = rig::assemble(config, extras, start.progress.clone(), start.cancel.clone()).await?;
    let result = agent::run(&rig, &order).await?;
    print_status(&format!("run {}: the result is in the inbox", order.run));
    Ok(if result.halt.is_none() { ExitKind::Done } else { ExitKind::NotVerified })
}
