//! `lifeboat evidence`: verify the series, show a record, write pages.

use clap::Subcommand;
use serde_json::json;

use super::arguments::OpenArgs;
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status};
use super::run::CommandContext;
use crate::work::{WorkError, evidence};

/// What can be done with evidence.
#[derive(Debug, Subcommand)]
pub enum EvidenceVerb {
    /// Check every record: signatures, chain, what is missing. Works on a copy of the vault,
    /// offline, with the public key.
    #[command(after_help = "Example:\n  lifeboat evidence verify")]
    Verify {
        #[command(flatten)]
        #[allow(missing_docs, reason = "documented at its type")]
        opening: OpenArgs,
    },
    /// Write pages to look at, and the signed records beside them.
    #[command(
        after_help = "Example:\n  lifeboat evidence export /tmp/evidence && xdg-open /tmp/evidence/index.html"
    )]
    Export {
        /// Where to.
        directory: std::path::PathBuf,
    },
    /// Show one record as it was signed.
    #[command(after_help = "Example:\n  lifeboat evidence show 12 | jq .body.of.verdict")]
    Show {
        /// Its number.
        record: u64,
    },
}

pub(super) async fn run(
    start: &CommandContext,
    verb: EvidenceVerb,
) -> Result<ExitKind, CommandFailure> {
    match verb {
        EvidenceVerb::Verify { opening } => {
            let rig = start.rig(&opening).await?;
            if rig.trusted.is_empty() {
                return Err(WorkError::NotVerified(
                    "no signing key is pinned, so nothing can be verified; give --trust-key"
                        .to_owned(),
                )
                .into());
            }
            let (series, flaws) = evidence::examine(&rig).await?;
            let reports = evidence::reports(&series).len();
            if start.json {
                print::json(
                    &json!({ "records": series.found.len(), "reports": reports, "flaws": flaws }),
                );
            } else {
                for flaw in &flaws {
                    print_output(&format!("FLAW  {flaw}"));
                }
            }
            if !flaws.is_empty() {
                return Err(WorkError::Flawed(flaws).into());
            }
            print_status(&format!(
                "{} records, {reports} of them reports of drills: all signed, none missing, none changed",
                series.found.len()
            ));
            Ok(ExitKind::Done)
        }
        EvidenceVerb::Export { directory } => {
            let rig = start.rig(&OpenArgs::default()).await?;
            let exported = evidence::export(&rig, &directory).await?;
            if start.json {
                print::json(&exported);
            } else {
                exported.pages.iter().for_each(|page| print_output(&page.display().to_string()));
                print_status(&format!(
                    "{} records with their signatures are in {}",
                    exported.records,
                    directory.join("records").display()
                ));
            }
            Ok(ExitKind::Done)
        }
        EvidenceVerb::Show { record } => {
            let rig = start.rig(&OpenArgs::default()).await?;
            let key = crate::domain::layout::evidence(record);
            let Some(bytes) = crate::vault::fetch::document(rig.vault.as_ref(), &key)
                .await
                .map_err(WorkError::from)?
            else {
                return Err(WorkError::Refused {
                    what: format!("record {record}"),
                    why: "there is no such record in the vault".to_owned(),
                    hint: "`lifeboat drill history` shows the records of reports".to_owned(),
                }
                .into());
            };
            if !crate::work::shelf::verify_signature(&rig, &key, &bytes, "the record").await? {
                print_status(super::run::UNVERIFIED);
            }
            print_output(String::from_utf8_lossy(&bytes).trim_end());
            Ok(ExitKind::Done)
        }
    }
}
