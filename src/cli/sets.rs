//! Volume sets as people see them.

use jiff::Timestamp;

use super::print::table;
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::manifest::Manifest;
use crate::domain::volumes::{LockKind, PostgresCut, SetMember, VolumeSet};
use crate::work::back_up::BackupReport;

/// How consistent a set is, and how that is known.
#[must_use]
pub fn consistency(set: &VolumeSet) -> String {
    let how = match (&set.postgres, set.frozen_millis, set.one_moment) {
        (Some(PostgresCut::OnlineBackup { wal_volume, .. }), ..) => {
            format!(
                "an online backup around {:.1} s of cuts, {wal_volume} with the WAL last",
                seconds(set.cut_millis)
            )
        }
        (Some(PostgresCut::Checkpoint), Some(frozen), _) => {
            format!("a checkpoint, then one moment, frozen for {:.2} s", seconds(frozen))
        }
        (Some(PostgresCut::Checkpoint), None, _) => "a checkpoint, then one moment".to_owned(),
        (None, Some(frozen), _) => format!("one moment, frozen for {:.2} s", seconds(frozen)),
        (None, None, true) => "one moment".to_owned(),
        (None, None, false) => {
            format!("cut within {:.1} s, not at one moment", seconds(set.cut_millis))
        }
    };
    format!("{}: {how}", set.consistency)
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn lock(set: &VolumeSet) -> String {
    let Some(lock) = &set.lock else { return "no".to_owned() };
    let kind = if lock.kind == LockKind::Compliance { "compliance" } else { "governance" };
    let cooling = lock
        .cooling_off_until
        .map(|until| format!(", can be undone until {until}"))
        .unwrap_or_default();
    format!("{kind}, until {}{cooling}", lock.until.strftime("%Y-%m-%d %H:%M:%SZ"))
}

/// How much of a volume changed since the set before.
fn churn(member: &SetMember) -> String {
    match (member.blocks, member.changed) {
        (Some(blocks), Some(changed)) => format!("{changed} of {blocks} blocks changed"),
        (Some(blocks), None) => format!("{blocks} blocks, all read"),
        _ => "not hashed".to_owned(),
    }
}

fn volumes(set: &VolumeSet) -> String {
    let row = |member: &SetMember| {
        let device = member
            .attached
            .as_ref()
            .map_or("-".to_owned(), |at| format!("{} {}", at.instance, at.device));
        let copy = member.copy.as_ref().map_or("-".to_owned(), |copy| copy.snapshot.to_string());
        vec![
            member.volume.to_string(),
            device,
            format_bytes(member.bytes),
            member.snapshot.to_string(),
            copy,
            churn(member),
        ]
    };
    table(
        &["VOLUME", "ATTACHED", "SIZE", "SNAPSHOT", "COPY", "BLOCKS"],
        set.members.iter().map(row).collect(),
    )
}

/// A set that was taken just now.
#[must_use]
pub fn describe_backup(report: &BackupReport) -> String {
    let Some(set) = &report.set else {
        return format!("backup {} of {}", report.backup, report.datastore);
    };
    let copied = set.copied_to.as_ref().map_or("no".to_owned(), |place| format!("to {place}"));
    format!(
        "backup {} of {}\n  protected  {} volumes, {}, in {}\n  consistent {}\n  copied     {copied}\n  locked     {}\n  time       {:.1} s\n  opens with {}\n  manifest   {}\n\n{}",
        report.backup,
        report.datastore,
        set.members.len(),
        format_bytes(set.bytes()),
        set.place,
        consistency(set),
        lock(set),
        report.seconds,
        report.slots.join(", or "),
        report.manifest,
        volumes(set),
    )
}

/// A set as its manifest tells of it.
#[must_use]
pub fn describe_manifest(m: &Manifest, set: &VolumeSet, address: &str) -> String {
    let age = Timestamp::now().duration_since(m.source.snapshot_time);
    let age = std::time::Duration::try_from(age)
        .map_or_else(|_| "in the future".to_owned(), format_duration);
    let keys: std::collections::BTreeSet<&str> =
        set.members.iter().map(|member| member.key.as_str()).collect();
    let copied = set.copied_to.as_ref().map_or("no".to_owned(), |place| {
        let keys: std::collections::BTreeSet<&str> =
            set.members.iter().filter_map(|m| Some(m.copy.as_ref()?.key.as_str())).collect();
        format!("to {place}, under {}", keys.into_iter().collect::<Vec<_>>().join(", "))
    });
    let mut text = format!(
        "backup      {} of {}, number {}\ncut         {} ({age} ago)\nvolumes     {} in {}\nconsistent  {}\nencrypted   under {}\ncopied      {copied}\nlocked      {}\n",
        m.backup,
        m.datastore,
        m.sequence,
        m.source.snapshot_time,
        set.members.len(),
        set.place,
        consistency(set),
        keys.into_iter().collect::<Vec<_>>().join(", "),
        lock(set),
    );
    if m.source.server_version.is_some() {
        text.push_str(&format!("server      PostgreSQL {}\n", m.source.version()));
    }
    text.push_str(&format!(
        "made by     lifeboat {}\nopens with  {}\nby hand     {address}/{}\n\n{}",
        m.tools.lifeboat,
        m.slots
            .iter()
            .map(|s| format!("{} ({})", s.name, s.kind))
            .collect::<Vec<_>>()
            .join(", or "),
        m.place().restore_guide(1),
        volumes(set),
    ));
    text
}
