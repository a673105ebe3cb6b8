//! Negative controls: damage done on purpose after the real checks, which the same code must
//! detect. A check that passes on damaged data says nothing about sound data either.
//!
//! They are cheap: one row of the smallest table, and the small sealed payload of globals; nothing
//! is restored twice.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::{DrillState, RestoredDatastore, blame, volumes};
use crate::destination::postgres::TargetError;
use crate::domain::ErrorClass;
use crate::domain::drill::{ControlResult, DrillHalt, NegativeControl, Scenario};
use crate::domain::fingerprint::TableRows;
use crate::domain::manifest::{Manifest, Payload, PayloadRole, StoredObject};
use crate::pg::PgSession;
use crate::pg::sql::quote_identifier;
use crate::progress::DrillEvent;
use crate::saga::SagaStep;
use crate::seal::BackupIdentity;
use crate::vault::damaged::{DamagedVault, VaultDamage};
use crate::work::compare::compare_table;
use crate::work::{WorkContext, WorkError, shelf};

/// Does every damage of the drill and asks whether it is noticed.
pub(super) struct RunControls;
no_undo!(RunControls, "negative-controls");

#[async_trait]
impl<'w> SagaStep<DrillState<'w>> for RunControls {
    type Output = usize;
    type Error = DrillHalt;
    async fn act(&self, world: &mut DrillState<'w>) -> Result<usize, DrillHalt> {
        let drill = world.drill;
        let mut results = Vec::new();
        for control in &drill.controls {
            let begun = Instant::now();
            let Some(restored) = world.restored.first() else {
                return Err(DrillHalt::sandbox("nothing is restored".to_owned()));
            };
            let (noticed, summary) = match control {
                NegativeControl::RowsDropped => rows_dropped(&world.rig, restored).await,
                NegativeControl::ByteFlipped if restored.manifest.set.is_some() => {
                    volumes::block_damaged(
                        &world.rig,
                        &restored.manifest,
                        drill.breaks.contains(&Scenario::RegionLost),
                    )
                    .await
                }
                NegativeControl::ByteFlipped => {
                    sealed(&world.rig, &restored.manifest, *control).await
                }
                NegativeControl::PayloadTruncated => {
                    sealed(&world.rig, &restored.manifest, *control).await
                }
                NegativeControl::ForeignEnvelope => {
                    foreign_envelope(&world.rig, &restored.manifest).await
                }
            };
            let fault = if noticed == Some(true) {
                blame::fault_of(world)
            } else {
                blame::settled(world).await
            };
            let (noticed, summary) = match fault {
                Some(fault) => (None, format!("the sandbox is at fault: {fault}")),
                None => (noticed, summary),
            };
            let result = ControlResult {
                control: *control,
                noticed,
                summary,
                seconds: begun.elapsed().as_secs_f64(),
            };
            world.team.tell(&DrillEvent::Controlled { result: result.clone() });
            results.push(result);
        }
        world.found.controls = results;
        Ok(drill.controls.len())
    }
}

/// Whether damage was noticed, and in which words.
type ControlNoticed = (Option<bool>, String);

/// Deletes one row of the smallest table that has any, and compares that table again.
async fn rows_dropped(rig: &WorkContext, restored: &RestoredDatastore) -> ControlNoticed {
    let with_rows =
        restored.recorded.tables.iter().filter(|table| table.rows > 0).filter(|table| {
            !restored
                .without_rows_of
                .iter()
                .any(|(schema, name)| (schema, name) == (&table.schema, &table.table))
        });
    let Some(table) = with_rows.min_by_key(|table| table.bytes) else {
        return (None, "no table of the backup has a row".to_owned());
    };
    // Only a table that agrees before the damage can show that the damage is noticed.
    let before =
        compare_table(rig, &restored.tools, &restored.connection, &restored.recorded, table).await;
    if !before.is_ok_and(|differences| differences.is_empty()) {
        return (None, "the table to be damaged differs already, or could not be read".to_owned());
    }
    if let Err(error) = delete_one(restored, table).await {
        return (None, format!("no row could be deleted: {}", error.class()));
    }
    match compare_table(rig, &restored.tools, &restored.connection, &restored.recorded, table).await
    {
        Ok(differences) if differences.is_empty() => {
            (Some(false), "a row is gone, and the comparison found nothing".to_owned())
        }
        Ok(_) => (Some(true), "a deleted row was noticed by the fingerprint".to_owned()),
        Err(_) => (None, "the damaged table could not be read back".to_owned()),
    }
}

async fn delete_one(restored: &RestoredDatastore, table: &TableRows) -> Result<(), WorkError> {
    let mut session = PgSession::open(&restored.tools, &restored.connection)
        .await
        .map_err(TargetError::Restored)?;
    // Without this, triggers, rules of referential integrity and row security would have their say.
    session
        .run("its own limit", "SET lock_timeout = '60s'")
        .await
        .map_err(TargetError::Restored)?;
    session
        .run("its own triggers", "SET session_replication_role = replica")
        .await
        .map_err(TargetError::Restored)?;
    let name = format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.table));
    let statement = format!(
        "WITH gone AS (DELETE FROM ONLY {name} WHERE ctid = (SELECT min(ctid) FROM ONLY {name}) RETURNING 1) SELECT count(*) FROM gone"
    );
    match session
        .ask_one("the row to delete", &statement)
        .await
        .map_err(TargetError::Restored)?
        .as_str()
    {
        "1" => Ok(()),
        _ => Err(WorkError::NotVerified("no row was deleted".to_owned())),
    }
}

/// Damages the smallest sealed payload and opens it with the backup's own identity.
async fn sealed(
    rig: &WorkContext,
    manifest: &Manifest,
    control: NegativeControl,
) -> ControlNoticed {
    let undone = |error: WorkError| {
        (None, format!("the payload could not be opened as it is: {}", error.class()))
    };
    let identity = match shelf::open_backup(rig, manifest).await {
        Ok(opened) => opened.identity,
        Err(error) => return undone(error),
    };
    let Some(payload) = smallest(manifest) else {
        return (None, "there is no payload to damage".to_owned());
    };
    let Some(StoredObject { key, bytes, .. }) = payload.objects.last() else {
        return (None, "there is no object to damage".to_owned());
    };
    let damage = match control {
        NegativeControl::PayloadTruncated => {
            VaultDamage::CutOff { key: key.clone(), bytes: bytes.saturating_sub(1) }
        }
        _ => {
            VaultDamage::BitTurned { key: key.clone(), at: rand::random::<u64>() % (*bytes).max(1) }
        }
    };
    if let Err(error) = shelf::read_payload(rig, payload, &identity).await {
        return undone(error);
    }
    let mut damaged = rig.clone();
    damaged.vault = Arc::new(DamagedVault::new(Arc::clone(&rig.vault), damage));
    judge(shelf::read_payload(&damaged, payload, &identity).await.map(drop))
}

/// The small payload that every backup of its kind has.
fn smallest(manifest: &Manifest) -> Option<&Payload> {
    manifest
        .payloads
        .iter()
        .filter(|payload| matches!(payload.role, PayloadRole::Globals | PayloadRole::Blocks))
        .min_by_key(|payload| payload.plain_bytes)
}

/// What a damaged copy must meet is a refusal for its damage, and nothing else.
fn judge(opened: Result<(), WorkError>) -> ControlNoticed {
    match opened {
        Ok(()) => (Some(false), "the damaged payload was opened as if it were sound".to_owned()),
        Err(error) if matches!(error.class(), ErrorClass::Integrity | ErrorClass::KeyRefused) => {
            (Some(true), format!("refused: {}", error.class()))
        }
        Err(error) => (None, format!("the vault did not answer: {}", error.class())),
    }
}

/// Lays the envelope of another backup into this one's place; without another backup, a fresh
/// identity is tried on the payload.
async fn foreign_envelope(rig: &WorkContext, manifest: &Manifest) -> ControlNoticed {
    let others = shelf::list_entries(rig, Some(&manifest.datastore)).await.unwrap_or_default();
    let other = others.into_iter().rev().find_map(|entry| {
        (entry.backup != manifest.backup).then_some(entry.manifest.ok()?.manifest)
    });
    match other {
        Some(other) => {
            for sound in [manifest, &other] {
                if let Err(error) = shelf::open_backup(rig, sound).await {
                    return (
                        None,
                        format!("a sound envelope could not be opened: {}", error.class()),
                    );
                }
            }
            let (to, from) = (manifest.place().meta_prefix(), other.place().meta_prefix());
            let mut damaged = rig.clone();
            damaged.vault = Arc::new(DamagedVault::new(
                Arc::clone(&rig.vault),
                VaultDamage::Replaced { to, from },
            ));
            judge(shelf::open_backup(&damaged, manifest).await.map(drop))
        }
        None => {
            let Some(payload) = smallest(manifest) else {
                return (None, "there is no payload".to_owned());
            };
            judge(shelf::read_payload(rig, payload, &BackupIdentity::generate()).await.map(drop))
        }
    }
}
