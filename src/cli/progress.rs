//! Progress: bars on a terminal, a line now and then elsewhere, always on stderr.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::print::talk;
use crate::domain::span::{bytes_for_people, for_people};
use crate::report::{Progress, Stage};

const BAR_INTERVAL: Duration = Duration::from_millis(120);
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Something that shows progress until it is stopped.
pub struct Shown {
    stop: Option<(tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
}

impl Shown {
    /// Stops showing, leaving the screen in order.
    pub async fn stop(self) {
        if let Some((stop, task)) = self.stop {
            let _ = stop.send(());
            let _ = task.await;
        }
    }
}

/// Begins to show, unless it is to be quiet.
#[must_use]
pub fn show(progress: Progress, quiet: bool) -> Shown {
    if quiet {
        return Shown { stop: None };
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let task = if std::io::stderr().is_terminal() { tokio::spawn(bars(progress, stopped)) } else { tokio::spawn(lines(progress, stopped)) };
    Shown { stop: Some((stop, task)) }
}

async fn bars(progress: Progress, mut stopped: tokio::sync::oneshot::Receiver<()>) {
    let screen = MultiProgress::new();
    let mut bars: Vec<(Arc<Stage>, ProgressBar)> = Vec::new();
    loop {
        let last = tokio::time::timeout(BAR_INTERVAL, &mut stopped).await.is_ok();
        for stage in progress.stages().into_iter().skip(bars.len()) {
            let bar = screen.add(ProgressBar::new(stage.total.unwrap_or(0)));
            bar.set_style(style(&stage));
            bar.set_prefix(stage.name.clone());
            bars.push((stage, bar));
        }
        for (stage, bar) in &bars {
            update(stage, bar);
            if last {
                bar.abandon();
            }
        }
        if last {
            return;
        }
    }
}

fn style(stage: &Stage) -> ProgressStyle {
    let template = if stage.total.is_some() {
        "{prefix:>24} {bar:24} {decimal_bytes:>9}/{decimal_total_bytes} {decimal_bytes_per_sec:>11} {eta:>4} {wide_msg}"
    } else {
        "{prefix:>24} {spinner} {decimal_bytes:>9} {decimal_bytes_per_sec:>11} {elapsed:>4} {wide_msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn update(stage: &Stage, bar: &ProgressBar) {
    let (took, ended) = stage.time();
    if bar.is_finished() {
        return;
    }
    bar.set_position(stage.done());
    if ended {
        // A stage through which no bytes passed has no rate to show.
        if stage.done() == 0 {
            bar.set_style(ProgressStyle::with_template("{prefix:>24}   {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        bar.set_message(format!("done in {}", for_people(took)));
        bar.abandon();
    } else {
        bar.set_message(stage.current().unwrap_or_default());
        bar.tick();
    }
}

async fn lines(progress: Progress, mut stopped: tokio::sync::oneshot::Receiver<()>) {
    let mut told = 0;
    let mut elapsed = Duration::ZERO;
    loop {
        let interval = Duration::from_millis(250);
        let last = tokio::time::timeout(interval, &mut stopped).await.is_ok();
        elapsed += interval;
        let stages = progress.stages();
        while let Some(stage) = stages.get(told).filter(|stage| stage.time().1) {
            talk(&line(stage));
            told += 1;
        }
        if last {
            return;
        }
        if elapsed >= LINE_INTERVAL {
            elapsed = Duration::ZERO;
            stages.iter().skip(told).for_each(|stage| talk(&line(stage)));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn line(stage: &Stage) -> String {
    let (took, ended) = stage.time();
    let done = stage.done();
    let mut text = format!("{}: ", stage.name);
    if done > 0 {
        let rate = bytes_for_people((done as f64 / took.as_secs_f64().max(0.001)) as u64);
        let total = stage.total.map(|t| format!(" of {}", bytes_for_people(t))).unwrap_or_default();
        text.push_str(&format!("{}{total}, {rate}/s, ", bytes_for_people(done)));
    }
    text.push_str(&if ended { format!("done in {}", for_people(took)) } else { format!("{} so far", for_people(took)) });
    match stage.current().filter(|_| !ended) {
        Some(item) => format!("{text}, now {item}"),
        None => text,
    }
}
