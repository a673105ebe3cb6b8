//! Metrics in the text format of OpenMetrics. The one that matters is the age of the last verified
//! restore.

use std::fmt;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::StatusBoard;
use crate::domain::alarm::AlarmKind;

/// Content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DatastoreLabel {
    datastore: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabel {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    verb: String,
    outcome: String,
}

type DurationHistogram = Gauge<f64, AtomicU64>;

/// Everything that is measured. What never happened has no time: its age is infinite.
///
/// # Errors
/// Never in practice: text is written into memory.
pub fn text(board: &StatusBoard, now: Timestamp) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("lifeboat");
    datastores(&mut registry, board, now);
    let counts = Family::<RunLabels, Counter>::default();
    registry.register(
        "runs",
        "Runs of this host that have ended, by what they did and how",
        counts.clone(),
    );
    if let Ok(ended) = board.ended.lock() {
        for ((verb, outcome), count) in ended.iter() {
            counts
                .get_or_create(&RunLabels { verb: verb.clone(), outcome: (*outcome).to_owned() })
                .inc_by(*count);
        }
    }
    let running: Gauge = Gauge::default();
    running.set(i64::try_from(board.running().len()).unwrap_or(i64::MAX));
    registry.register("running", "Runs that are under way on this host", running);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn datastores(registry: &mut Registry, board: &StatusBoard, now: Timestamp) {
    let Some(status) = board.status() else { return };
    let gauge = |registry: &mut Registry, name: &str, help: &str| {
        let family = Family::<DatastoreLabel, DurationHistogram>::default();
        registry.register(name, help, family.clone());
        family
    };
    let verified =
        gauge(registry, "last_verified_restore_age_seconds", "Age of the last drill that passed");
    let verified_at = gauge(
        registry,
        "last_verified_restore_timestamp_seconds",
        "When the last drill that passed was declared",
    );
    let backup = gauge(
        registry,
        "last_backup_age_seconds",
        "Age of the newest believed backup, by its snapshot",
    );
    let backup_at = gauge(
        registry,
        "last_backup_timestamp_seconds",
        "When the snapshot of the newest believed backup was taken",
    );
    let bytes = gauge(
        registry,
        "last_backup_size_bytes",
        "Bytes of the newest believed backup in the vault",
    );
    let count = gauge(registry, "backups", "Manifests in the vault");
    let rpo = gauge(registry, "rpo_objective_seconds", "How old the newest backup may be");
    let rto = gauge(registry, "rto_objective_seconds", "How long a restore may take");
    let measured = gauge(
        registry,
        "rto_measured_seconds",
        "How long the last drill that restored it took to the first query",
    );
    for health in &status.datastores {
        let label = DatastoreLabel { datastore: health.datastore.to_string() };
        let seconds = |time: Timestamp| time.as_millisecond() as f64 / 1000.0;
        let age =
            |age: Option<std::time::Duration>| age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        verified.get_or_create(&label).set(age(health.drill_age(now)));
        backup.get_or_create(&label).set(age(health.backup_age(now)));
        for (family, time) in
            [(&verified_at, health.last_pass), (&backup_at, health.newest_snapshot)]
        {
            if let Some(time) = time {
                family.get_or_create(&label).set(seconds(time));
            }
        }
        bytes.get_or_create(&label).set(health.newest_bytes as f64);
        count.get_or_create(&label).set(health.backups as f64);
        rpo.get_or_create(&label).set(health.rpo_seconds as f64);
        rto.get_or_create(&label).set(health.rto_seconds as f64);
        let series = board.series();
        let last = series.as_ref().and_then(|series| {
            crate::work::status::drill_reports(series, &health.datastore).next_back()
        });
        if let Some(seconds) = last.and_then(|(_, report)| report.rto.measured_seconds) {
            measured.get_or_create(&label).set(seconds);
        }
    }
    let alarms = Family::<ObjectLabel, Gauge>::default();
    registry.register("alarms", "What is wrong, by kind", alarms.clone());
    for (name, kind) in AlarmKind::ALL {
        let count = status.standing.iter().filter(|standing| standing.alarm.kind == kind).count();
        alarms
            .get_or_create(&ObjectLabel { kind: name.to_owned() })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let undelivered: Gauge = Gauge::default();
    undelivered.set(i64::try_from(status.undelivered.len()).unwrap_or(i64::MAX));
    registry.register(
        "undelivered_messages",
        "Messages whose delivery has failed and not succeeded since",
        undelivered,
    );
}
