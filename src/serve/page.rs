//! The status page: datastores against their objectives, what runs and what will, drills, alarms.
//! One page, made here, no script.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::RunningJob;
use crate::domain::health::DatastoreHealth;
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::evidence::EvidenceSeries;
use crate::evidence::html::{STYLE, badge, page_name, plot, seconds, time};
use crate::work::status::{JobStatus, SystemStatus, drill_reports};

/// How often a browser asks again: sooner while something runs.
const REFRESH_SECONDS: (u32, u32) = (5, 60);
/// Drills of a datastore that are listed.
const DRILLS_MAX: usize = 10;

/// The page.
#[must_use]
pub fn status_page(
    status: &SystemStatus,
    series: &EvidenceSeries,
    running: &[RunningJob],
    now: Timestamp,
) -> String {
    let refresh = if running.is_empty() { REFRESH_SECONDS.1 } else { REFRESH_SECONDS.0 };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="refresh" content=(refresh);
                title { @if status.is_well() { "✓ lifeboat" } @else { "✗ lifeboat" } }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                header { h1 { "lifeboat" }
                    p { "Vault " code { (status.vault) } ", looked at " (time(status.at)) ". " a href="/evidence/" { "Evidence" } " · " a href="/metrics" { "Metrics" } }
                    (verdict(status))
                }
                (alarms(status, now))
                (datastores(status, now))
                (under_way(running, now))
                (jobs(&status.jobs))
                @for health in &status.datastores { (drills(series, health)) }
                (hosts(status, now))
            } }
        }
    }
    .into_string()
}

fn verdict(status: &SystemStatus) -> Markup {
    html! {
        @if status.is_well() { p.pass { strong { "✓ Every datastore is within its objectives." } } }
        @else { p.fail { strong { "✗ Something needs somebody." } } }
    }
}

fn alarms(status: &SystemStatus, now: Timestamp) -> Markup {
    let unknown = status.alarms.iter().filter(|alarm| {
        !status.standing.iter().any(|standing| standing.alarm.key() == alarm.key())
    });
    html! {
        @if !status.is_well() {
            section { h2 { "What is wrong" }
                ul.reasons {
                    @for standing in &status.standing {
                        li.fail { (standing.alarm.text) " " span.quiet { "since " (time(standing.since)) ", " (seconds(now.duration_since(standing.since).as_secs_f64())) } br; span.quiet { "what next: " (standing.alarm.next_step) } }
                    }
                    @for alarm in unknown { li.fail { (alarm.text) br; span.quiet { "what next: " (alarm.next_step) } } }
                    @for message in &status.undelivered { li.fail { "a message to " (message.channel) " was not delivered in " (message.attempts) " attempts: " (message.error.clone().unwrap_or_default()) } }
                    @for what in &status.not_looked_at { li.fail { "not looked at: " (what) } }
                } }
        }
    }
}

fn datastores(status: &SystemStatus, now: Timestamp) -> Markup {
    // The objective stands under what is measured, so that both are on a phone's first screen.
    let against = |age: Option<std::time::Duration>, word: &str, allowed: u64| {
        let (class, text) = match age {
            None => ("fail", "✗ never".to_owned()),
            Some(age) if age.as_secs() > allowed => ("fail", format!("✗ {}", format_duration(age))),
            Some(age) => ("pass", format!("✓ {}", format_duration(age))),
        };
        let allowed = format_duration(std::time::Duration::from_secs(allowed));
        html! { td { span class=(class) { (text) } br; span.quiet.small { (word) " " (allowed) } } }
    };
    html! {
        section { h2 { "Datastores" }
            table { thead { tr { th { "datastore" } th { "newest backup" } th { "last verified restore" } th.right { "backups" } th.right { "size" } } }
                tbody { @for health in &status.datastores { tr {
                    td { a href=(format!("#{}", health.datastore)) { strong { (health.datastore) } } }
                    (against(health.backup_age(now), "RPO", health.rpo_seconds))
                    (against(health.drill_age(now), "within", health.drilled_within_seconds))
                    td.right { (health.backups) @if health.not_believed > 0 { " " span.fail { "(" (health.not_believed) " not believed)" } } }
                    td.right { (format_bytes(health.newest_bytes)) }
                } } } }
            @for health in &status.datastores { @for what in &health.omitted {
                p { "Not in the newest backup of " (health.datastore) ": " (what) }
            } }
            @if status.datastores.is_empty() { p { "No datastore is configured yet." } }
        }
    }
}

fn under_way(running: &[RunningJob], now: Timestamp) -> Markup {
    html! {
        @if !running.is_empty() {
            section { h2 { "Running on this host" }
                table { thead { tr { th { "what" } th { "scheduled for" } th.right { "for" } th { "stage" } } }
                    tbody { @for run in running { tr {
                        td { (run.job.describe()) @if run.claim.attempt > 1 { " (attempt " (run.claim.attempt) ")" } }
                        td { (run.job.calendar.zone.show(run.claim.tick)) }
                        td.right { (seconds(now.duration_since(run.since).as_secs_f64())) }
                        td { (stages(run)) }
                    } } } } }
        }
    }
}

fn stages(run: &RunningJob) -> Markup {
    let open: Vec<_> = run.progress.stages().into_iter().filter(|stage| !stage.time().1).collect();
    html! {
        @for stage in open {
            div { (stage.name) ", " (format_bytes(stage.done()))
                @if let Some(total) = stage.total.filter(|total| *total > 0) {
                    @let share = (stage.done() as f64 / total as f64 * 100.0).min(100.0);
                    " of " (format_bytes(total))
                    svg.meter viewBox="0 0 100 2" preserveAspectRatio="none" role="img" aria-label=(format!("{share:.0} percent")) {
                        rect.track width="100" height="2" {} rect.accent width=(format!("{share:.1}")) height="2" {} }
                } }
        }
    }
}

fn jobs(jobs: &[JobStatus]) -> Markup {
    html! {
        section { h2 { "Schedule" }
            table { thead { tr { th { "what" } th { "next" } th { "last" } } }
                tbody { @for job in jobs { tr {
                    td { strong { (job.what) } br; span.quiet.small { (job.job) ": " (job.when) } }
                    td { (job.next_local.clone().unwrap_or_else(|| "–".to_owned())) @if !job.why.is_empty() { br; span.quiet.small { (job.why.join(", ")) } } }
                    td { @match &job.last {
                        None => span.quiet { "never" },
                        Some(last) => {
                            @let class = match last.state.as_str() { "done" => "pass", "failed" | "missed" => "fail", _ => "unknown" };
                            @let sign = match class { "pass" => "✓ ", "fail" => "✗ ", _ => "… " };
                            span class=(class) { (sign) (last.state) } " " (time(last.ended.or(last.begun).unwrap_or(last.tick)))
                            @if let Some(outcome) = &last.outcome { br; span.quiet.small { (outcome) } }
                        } } }
                } } } }
            @if jobs.is_empty() { p { "Nothing is scheduled: there is no file in " code { "schedules/" } ", and no drill has a cadence." } }
        }
    }
}

fn drills(series: &EvidenceSeries, health: &DatastoreHealth) -> Markup {
    let reports: Vec<_> = drill_reports(series, &health.datastore).collect();
    html! {
        section id=(health.datastore) { h2 { "Drills of " (health.datastore) }
            @if reports.is_empty() { p.fail { "✗ It was never drilled: nobody knows whether its backups can be restored." } }
            @else {
                div.plots {
                    (plot("RTO", &reports.iter().map(|(_, r)| (r.declared, r.rto, r.verdict)).collect::<Vec<_>>()))
                    (plot("RPO", &reports.iter().map(|(_, r)| (r.declared, r.rpo, r.verdict)).collect::<Vec<_>>()))
                }
                table { thead { tr { th { "declared" } th { "drill" } th { "verdict" } th.right { "RTO" } th.right { "RPO" } } }
                    tbody { @for (record, report) in reports.iter().rev().take(DRILLS_MAX) { tr {
                        td { a href=(format!("/evidence/{}", page_name(*record))) { (time(report.declared)) } } td { (report.drill) } td { (badge(report.verdict)) }
                        td.right { (report.rto.measured_seconds.map_or_else(|| "–".to_owned(), seconds)) }
                        td.right { (report.rpo.measured_seconds.map_or_else(|| "–".to_owned(), seconds)) }
                    } } } }
            }
        }
    }
}

fn hosts(status: &SystemStatus, now: Timestamp) -> Markup {
    html! {
        @if !status.hosts.is_empty() {
            section { h2 { "Hosts" }
                table { thead { tr { th { "host" } th.right { "heard of" } th.right { "clock off by" } th { "lifeboat" } } }
                    tbody { @for host in &status.hosts { tr {
                        td { (host.host) } td.right { (seconds(now.duration_since(host.seen).as_secs_f64())) " ago" }
                        td.right { (host.skew_millis) " ms" } td { (host.version) }
                    } } } } }
        }
    }
}
