//! Pages of the evidence: one per report, one for the series. Self-contained, readable on a phone,
//! on paper, in light and dark.
//!
//! Pages are for looking; what counts are the signed records, which are exported beside them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::EvidenceSeries;
use crate::domain::drill::{CheckOutcome, Objective, Verdict};
use crate::domain::evidence::{Certificate, DrillReport, RecordBody, SeriesFlaw};
use crate::domain::human_duration::{format_bytes, format_duration};

/// The pages' style.
pub const STYLE: &str = include_str!("style.css");
/// Size of the plots, in their own units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 92.0;
const BOTTOM: f64 = 22.0;

/// File name of a report's page.
#[must_use]
pub fn page_name(sequence: u64) -> String {
    format!("report-{sequence:08}.html")
}

/// Seconds, for people.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    format_duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

fn page(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    }
    .into_string()
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::NotVerified => "unknown",
    }
}

/// A verdict, with a sign beside its colour.
#[must_use]
pub fn badge(verdict: Verdict) -> Markup {
    // The sign says it too, for whoever does not see colours, and on paper.
    let sign = match verdict {
        Verdict::Pass => "✓",
        Verdict::Fail => "✗",
        Verdict::NotVerified => "?",
    };
    html! { span class={ "badge " (class(verdict)) } { (sign) " " (verdict.name()) } }
}

/// An instant.
#[must_use]
pub fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%Y-%m-%d %H:%M UTC").to_string()) } }
}

fn objective(name: &str, objective: &Objective) -> Markup {
    let (met, word) = match objective.met() {
        Some(true) => ("pass", "met"),
        Some(false) => ("fail", "missed"),
        None => ("unknown", "not measured"),
    };
    let share = objective.measured_seconds.map_or(0.0, |measured| {
        (measured / objective.allowed_seconds.max(0.001) * 100.0).min(100.0)
    });
    html! {
        div.objective {
            div.number { (objective.measured_seconds.map_or_else(|| "–".to_owned(), seconds)) }
            div { strong { (name) } " of " (seconds(objective.allowed_seconds)) ", " span class=(met) { (word) } }
            // No style attribute: a strict content security policy forbids it.
            svg.meter viewBox="0 0 100 2" preserveAspectRatio="none" aria-hidden="true" {
                rect.track width="100" height="2" {}
                rect class=(met) width=(format!("{share:.1}")) height="2" {}
            }
        }
    }
}

fn answer(answer: CheckOutcome) -> Markup {
    let (class, word) = match answer {
        CheckOutcome::Pass => ("pass", "✓ pass"),
        CheckOutcome::Fail => ("fail", "✗ fail"),
        CheckOutcome::CouldNotLook => ("unknown", "? could not look"),
    };
    html! { span class=(class) { (word) } }
}

/// The page of one report.
#[must_use]
pub fn report_page(
    sequence: u64,
    sha256: &str,
    signed: bool,
    report: &DrillReport,
    certificates: &[(u64, &Certificate)],
) -> String {
    let title = format!("Drill {} of {}", report.drill, report.declared.strftime("%Y-%m-%d"));
    let body = html! {
        header {
            p.crumb { a href="index.html" { "All drills" } }
            h1 { (title) }
            p { (badge(report.verdict)) " " (time(report.declared)) " · run " code { (report.run) } }
            @if !report.reasons.is_empty() { ul.reasons { @for reason in &report.reasons { li { (reason) } } } }
        }
        section.objectives { (objective("RTO", &report.rto)) (objective("RPO", &report.rpo)) }
        @if let Some(predicted) = report.rto_predicted_seconds { p.quiet { "Expected from earlier drills: " (seconds(predicted)) "." } }
        @if !report.broken.is_empty() {
            section { h2 { "Broken on purpose" }
                dl { @for (scenario, outcome) in &report.broken { dt { (scenario.story()) } dd { (outcome) } } } }
        }
        section { h2 { "Restored" }
            @for backup in &report.backups {
                p { code { (backup.backup) } " of " strong { (backup.datastore) } " (" (backup.chosen) "), " (format_bytes(backup.plain_bytes))
                    ", snapshot of " (time(backup.snapshot_time)) ", opened with " (backup.opened_with.as_deref().unwrap_or("nothing")) ", manifest "
                    (if backup.signature_verified { "signed by a pinned key" } else { "NOT signed by a pinned key" }) "." }
            }
            @if report.backups.is_empty() { p { "Nothing." } }
        }
        section { h2 { "Steps" } (timeline(report)) }
        section { h2 { "Checks" }
            table { thead { tr { th { "check" } th { "answer" } th { "what was found" } th.right { "took" } } }
                tbody { @for check in &report.checks {
                    tr { td { (check.name) } td { (answer(check.answer)) } td { (check.summary) } td.right { (seconds(check.seconds)) } } } } }
            @if report.checks.is_empty() { p { "None was asked." } }
        }
        section { h2 { "Negative controls" }
            p.quiet { "Damage done on purpose after the checks. One that is not noticed fails the drill." }
            table { thead { tr { th { "damage" } th { "noticed" } th { "how" } th.right { "took" } } }
                tbody { @for control in &report.controls {
                    tr { td { (control.control.name()) }
                        td { @match control.noticed {
                            Some(true) => { span.pass { "✓ noticed" } }
                            Some(false) => { span.fail { "✗ not noticed" } }
                            None => { span.unknown { "? not done" } }
                        } }
                        td { (control.summary) } td.right { (seconds(control.seconds)) } } } } }
        }
        section { h2 { "Isolation" } (isolation(report)) }
        @if let Some(place) = &report.scratch { (super::place::section(place)) }
        section { h2 { "Left behind" }
            @if report.leftovers.is_empty() { p { "Nothing" @if report.scratch.is_none() { ": no process, no file" } @else { " that carries this run's tags, and no grant" } "." } }
            @else { ul { @for leftover in &report.leftovers { li.fail { (leftover) } } } }
        }
        @if !report.notes.is_empty() {
            section { h2 { "Findings" }
                table { thead { tr { th.right { "at" } th { "finding" } th { "owner" } th { "due" } } }
                    tbody { @for note in &report.notes {
                        tr { td.right { (seconds(note.at_seconds)) } td { (note.text) } td { (note.owner.as_deref().unwrap_or("–")) }
                            td { (note.due.map_or_else(|| "–".to_owned(), |due| due.to_string())) } } } } } }
        }
        section { h2 { "Review" }
            @for (number, certificate) in certificates {
                p { "“" (certificate.statement) "” — " (certificate.reviewer)
                    @if !report.reviewers.contains(&certificate.reviewer) { span.unknown { " (not named as a reviewer by the drill)" } } ", record " (number) }
            }
            @if certificates.is_empty() { p { "Nobody has signed that they looked at it" @if !report.reviewers.is_empty() { "; meant for " (report.reviewers.join(", ")) } "." } }
        }
        section { h2 { "Provenance" }
            dl.small {
                dt { "Record" } dd { (sequence) ", " (if signed { "signed by a pinned key" } else { "NOT signed by a pinned key" }) ", SHA-256 " code { (sha256) } }
                dt { "Drill file" } dd { (source(&report.script)) }
                dt { "Restore plan" } dd { (source(&report.plan)) }
                dt { "Sandbox" } dd { (report.sandbox) }
                dt { "lifeboat" } dd { (report.lifeboat_version) ", SHA-256 " code { (report.lifeboat_sha256) } }
            }
        }
    };
    page(&title, &body)
}

fn source(file: &crate::domain::evidence::SourceFile) -> Markup {
    html! {
        @if file.sha256.is_empty() { "none: the plain plan" }
        @else {
            code { (file.file) } ", SHA-256 " code { (file.sha256) } ", "
            @match (&file.git_commit, file.git_dirty) {
                (Some(commit), Some(false)) => { "commit " code { (commit) } }
                (Some(commit), _) => { "commit " code { (commit) } span.unknown { ", with changes that are not committed" } }
                (None, _) => { "not under version control" }
            }
        }
    }
}

fn isolation(report: &DrillReport) -> Markup {
    let list = |key: &str| {
        report.isolation.get(key).and_then(|list| list.as_array()).cloned().unwrap_or_default()
    };
    let probes = list("probes");
    let reached = probes
        .iter()
        .filter(|probe| probe.get("reached").and_then(serde_json::Value::as_bool) != Some(false))
        .count();
    html! {
        ul { @for held in list("holds") { li { (held.as_str().unwrap_or_default()) } } }
        @let gaps: Vec<String> = list("gaps").iter().filter_map(|gap| gap.as_str().map(str::to_owned)).collect();
        @if !gaps.is_empty() { p.unknown { "Not isolated in: " (gaps.join(", ")) ". Accepted by the drill file: "
            (if report.gaps_accepted.is_empty() { "nothing".to_owned() } else { report.gaps_accepted.join(", ") }) "." } }
        @let outside = probes.iter().filter(|probe| probe.get("outside").and_then(serde_json::Value::as_bool) == Some(true)).count();
        @let controls = list("controls");
        p { (probes.len()) " attempts to get out were made from inside; " (reached) " got through."
            @if outside > 0 { " " (outside) " of the same succeeded from beside it, at the same time." }
            @if !controls.is_empty() { " Of " (controls.len()) " things that must be reached, "
                (controls.iter().filter(|probe| probe.get("reached").and_then(serde_json::Value::as_bool) == Some(true)).count()) " were." } }
        details { summary { "All attempts" }
            table { tbody { @for probe in &probes {
                @let tried = probe.get("tried");
                tr { td { (tried.and_then(|t| t.get("kind")).and_then(|k| k.as_str()).unwrap_or_default()) " "
                        (tried.and_then(|t| t.get("of")).and_then(|o| o.as_str()).unwrap_or_default()) }
                    td { (probe.get("detail").and_then(|d| d.as_str()).unwrap_or_default()) } } } } } }
    }
}

/// Steps as bars over the drill's time.
fn timeline(report: &DrillReport) -> Markup {
    let end =
        report.steps.iter().map(|step| step.from_seconds + step.seconds).fold(0.001, f64::max);
    let row = 20.0;
    let height = row * report.steps.len() as f64 + BOTTOM;
    let longest =
        report.steps.iter().map(|step| step.step.chars().count()).max().unwrap_or_default();
    let left = (longest as f64 * 7.2 + 10.0).max(130.0);
    let x = |at: f64| left + at / end * (WIDTH - left - 70.0);
    html! {
        div.plot {
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="Steps of the drill over time" {
                @for (number, step) in report.steps.iter().enumerate() {
                    @let y = row * number as f64;
                    text x="0" y=(format!("{:.0}", y + 14.0)) { (step.step) }
                    rect class=(if step.error.is_some() { "bar-fail" } else { "bar" }) x=(format!("{:.1}", x(step.from_seconds))) y=(format!("{:.0}", y + 3.0))
                        width=(format!("{:.1}", (x(step.from_seconds + step.seconds) - x(step.from_seconds)).max(2.0))) height="13" rx="2" {}
                    text.quiet x=(format!("{:.1}", x(step.from_seconds + step.seconds) + 5.0)) y=(format!("{:.0}", y + 14.0)) { (seconds(step.seconds)) }
                }
            }
        }
        @for step in report.steps.iter().filter(|step| step.error.is_some()) { p.fail { (step.step) ": " (step.error.as_deref().unwrap_or_default()) } }
    }
}

/// The page of the whole series.
#[must_use]
pub fn series_page(series: &EvidenceSeries, flaws: &[SeriesFlaw], now: Timestamp) -> String {
    let mut by_drill: BTreeMap<&str, Vec<(u64, &DrillReport)>> = BTreeMap::new();
    let mut last_pass: BTreeMap<String, Timestamp> = BTreeMap::new();
    for (found, record) in series.believed() {
        if let RecordBody::Report(report) = &record.body {
            by_drill.entry(&report.drill).or_default().push((found.sequence, report));
            for backup in report.backups.iter().filter(|_| report.verdict == Verdict::Pass) {
                last_pass.insert(backup.datastore.to_string(), report.declared);
            }
        }
    }
    let datastores: std::collections::BTreeSet<String> = by_drill
        .values()
        .flatten()
        .flat_map(|(_, report)| report.backups.iter().map(|backup| backup.datastore.to_string()))
        .collect();
    let body = html! {
        header { h1 { "Rehearsed recovery" }
            p { "Vault " code { (series.vault) } ", " (series.found.len()) " records, as of " (time(now)) "." }
            @if flaws.is_empty() { p.pass { "✓ Every record is signed by a pinned key; none is missing, changed or out of order." } }
            @else { p.fail { "✗ The series has flaws:" } ul { @for flaw in flaws { li.fail { (flaw.to_string()) } } } }
        }
        section { h2 { "Datastores" }
            table { thead { tr { th { "datastore" } th { "last passed" } th.right { "age" } } }
                tbody { @for name in &datastores {
                    tr { td { strong { (name) } }
                        @match last_pass.get(name) {
                            Some(at) => { td { (time(*at)) } td.right { (seconds(now.duration_since(*at).as_secs_f64())) } }
                            None => { td.fail { "✗ never" } td {} }
                        } } } } }
            @if datastores.is_empty() { p { "Nothing has been restored in a drill yet." } }
        }
        @for (name, reports) in &by_drill {
            section { h2 { "Drill " (name) }
                div.plots {
                    (plot("RTO", &reports.iter().map(|(_, r)| (r.declared, r.rto, r.verdict)).collect::<Vec<_>>()))
                    (plot("RPO", &reports.iter().map(|(_, r)| (r.declared, r.rpo, r.verdict)).collect::<Vec<_>>()))
                }
                table { thead { tr { th { "declared" } th { "verdict" } th.right { "RTO" } th.right { "RPO" } th { "broken on purpose" } } }
                    tbody { @for (sequence, report) in reports.iter().rev() {
                        tr { td { a href=(page_name(*sequence)) { (time(report.declared)) } } td { (badge(report.verdict)) }
                            td.right { (report.rto.measured_seconds.map_or_else(|| "–".to_owned(), seconds)) }
                            td.right { (report.rpo.measured_seconds.map_or_else(|| "–".to_owned(), seconds)) }
                            td { (report.broken.keys().map(|scenario| scenario.name()).collect::<Vec<_>>().join(", ")) } } } } }
            }
        }
    };
    page("Rehearsed recovery", &body)
}

/// Measured times over the drills, with the objective as a line where it is within reach of them.
#[must_use]
pub fn plot(name: &str, points: &[(Timestamp, Objective, Verdict)]) -> Markup {
    let measured: Vec<(usize, f64, Verdict)> = points
        .iter()
        .enumerate()
        .filter_map(|(number, (_, objective, verdict))| {
            Some((number, objective.measured_seconds?, *verdict))
        })
        .collect();
    let allowed = points.last().map_or(0.0, |(_, objective, _)| objective.allowed_seconds);
    let highest = measured.iter().map(|(_, seconds, _)| *seconds).fold(0.0, f64::max);
    // An objective of hours over seconds measured would press everything to the ground.
    let shown = allowed <= highest * 4.0;
    let top = (if shown { highest.max(allowed) } else { highest }).max(0.001) * 1.15;
    let steps = points.len().saturating_sub(1).max(1) as f64;
    let x = |number: usize| LEFT + 8.0 + number as f64 / steps * (WIDTH - LEFT - 24.0);
    let y = |seconds: f64| (HEIGHT - BOTTOM) - seconds / top * (HEIGHT - BOTTOM - 8.0);
    let line = measured
        .iter()
        .map(|(number, seconds, _)| format!("{:.1},{:.1}", x(*number), y(*seconds)))
        .collect::<Vec<_>>()
        .join(" ");
    let day = |at: &Timestamp| at.strftime("%Y-%m-%d").to_string();
    html! {
        figure {
            figcaption { (name) " measured" @if !shown { ", objective " (seconds(allowed)) " far above" } }
            div.plot { svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(format!("{name} over time")) {
                line.axis x1=(LEFT) y1=(HEIGHT - BOTTOM) x2=(WIDTH) y2=(HEIGHT - BOTTOM) {}
                @for share in [0.0, 0.5, 1.0] {
                    @let at = top / 1.15 * share;
                    text.quiet x=(LEFT - 6.0) y=(format!("{:.1}", y(at) + 4.0)) text-anchor="end" { (seconds(at)) }
                    line.grid x1=(LEFT) y1=(format!("{:.1}", y(at))) x2=(WIDTH) y2=(format!("{:.1}", y(at))) {}
                }
                @if shown { line.limit x1=(LEFT) y1=(format!("{:.1}", y(allowed))) x2=(WIDTH) y2=(format!("{:.1}", y(allowed))) {}
                    text.limit x=(WIDTH - 4.0) y=(format!("{:.1}", y(allowed) - 4.0)) text-anchor="end" { "objective " (seconds(allowed)) } }
                polyline.series points=(line) {}
                @for (number, seconds, verdict) in &measured { circle class=(class(*verdict)) cx=(format!("{:.1}", x(*number))) cy=(format!("{:.1}", y(*seconds))) r="4" {} }
                @if let (Some(first), Some(last)) = (points.first(), points.last()) {
                    text.quiet x=(LEFT) y=(HEIGHT - 4.0) { (day(&first.0)) }
                    @if points.len() > 1 { text.quiet x=(WIDTH) y=(HEIGHT - 4.0) text-anchor="end" { (day(&last.0)) } }
                }
            } }
        }
    }
}
