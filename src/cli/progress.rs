//! Progress: bars on a terminal, an occasional line elsewhere, always on stderr.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::printable::printable;
use crate::progress::{ProgressReporter, ProgressStage};

const BAR_INTERVAL: Duration = Duration::from_millis(120);
const LINE_INTERVAL: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What is on the screen. Whoever prints something else brings it in order first ([`settle`]).
static SCREEN: Mutex<Option<ProgressDisplay>> = Mutex::new(None);

/// Something that shows progress until it is stopped.
pub struct ShownProgress {
    stop: Option<(tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
}

impl ShownProgress {
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
pub fn show(progress: ProgressReporter, quiet: bool) -> ShownProgress {
    if quiet {
        return ShownProgress { stop: None };
    }
    let (screen, interval) = match std::io::stderr().is_terminal() {
        true => (
            ProgressDisplay::Bars(ProgressBars {
                progress,
                screen: MultiProgress::new(),
                shown: Vec::new(),
                seen: 0,
            }),
            BAR_INTERVAL,
        ),
        false => (
            ProgressDisplay::Lines(ProgressLines { progress, told: 0, since: Instant::now() }),
            LOOK_INTERVAL,
        ),
    };
    if let Ok(mut at) = SCREEN.lock() {
        *at = Some(screen);
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        while tokio::time::timeout(interval, &mut stopped).await.is_err() {
            on_screen(ProgressDisplay::tick);
        }
        settle();
        if let Ok(mut at) = SCREEN.lock() {
            *at = None;
        }
    });
    ShownProgress { stop: Some((stop, task)) }
}

fn on_screen(what: impl FnOnce(&mut ProgressDisplay)) {
    if let Ok(mut at) = SCREEN.lock()
        && let Some(screen) = at.as_mut()
    {
        what(screen);
    }
}

/// Shows what has ended by now and lets go of it, so that what is printed next stands below and is
/// not drawn over.
pub fn settle() {
    on_screen(ProgressDisplay::settle);
}

enum ProgressDisplay {
    Bars(ProgressBars),
    Lines(ProgressLines),
}

impl ProgressDisplay {
    fn tick(&mut self) {
        match self {
            Self::Bars(bars) => bars.tick(),
            Self::Lines(lines) => lines.tick(),
        }
    }
    fn settle(&mut self) {
        match self {
            Self::Bars(bars) => bars.settle(),
            Self::Lines(lines) => lines.tell_ended(),
        }
    }
}

/// Bars on a terminal.
struct ProgressBars {
    progress: ProgressReporter,
    screen: MultiProgress,
    shown: Vec<(Arc<ProgressStage>, ProgressBar)>,
    seen: usize,
}

impl ProgressBars {
    fn add(&mut self, stage: Arc<ProgressStage>) {
        let bar = self.screen.add(ProgressBar::new(stage.total.unwrap_or(0)));
        bar.set_style(style(&stage));
        bar.set_prefix(stage.name.clone());
        self.shown.push((stage, bar));
    }

    fn tick(&mut self) {
        for stage in self.progress.stages().into_iter().skip(self.seen) {
            self.seen += 1;
            self.add(stage);
        }
        self.shown.iter().for_each(|(stage, bar)| update(stage, bar));
    }

    fn settle(&mut self) {
        self.tick();
        let mut going_on = Vec::new();
        for (stage, bar) in self.shown.drain(..) {
            match stage.time().1 {
                true => bar.abandon(),
                false => {
                    bar.finish_and_clear();
                    going_on.push(stage);
                }
            }
        }
        self.screen = MultiProgress::new();
        going_on.into_iter().for_each(|stage| self.add(stage));
    }
}

/// A line for each stage that has ended, and one now and then for those that go on.
struct ProgressLines {
    progress: ProgressReporter,
    told: usize,
    since: Instant,
}

impl ProgressLines {
    fn tick(&mut self) {
        self.tell_ended();
        if self.since.elapsed() >= LINE_INTERVAL {
            self.since = Instant::now();
            self.progress.stages().iter().skip(self.told).for_each(|stage| say(&line(stage)));
        }
    }

    fn tell_ended(&mut self) {
        let stages = self.progress.stages();
        while let Some(stage) = stages.get(self.told).filter(|stage| stage.time().1) {
            say(&line(stage));
            self.told += 1;
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

fn style(stage: &ProgressStage) -> ProgressStyle {
    let template = if stage.total.is_some() {
        "{prefix:>24} {bar:24} {decimal_bytes:>9}/{decimal_total_bytes} {decimal_bytes_per_sec:>11} {eta:>4} {wide_msg}"
    } else {
        "{prefix:>24} {spinner} {decimal_bytes:>9} {decimal_bytes_per_sec:>11} {elapsed:>4} {wide_msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn update(stage: &ProgressStage, bar: &ProgressBar) {
    let (took, ended) = stage.time();
    if bar.is_finished() {
        return;
    }
    bar.set_position(stage.done());
    if ended {
        // A stage through which no bytes passed has no rate to show.
        if stage.done() == 0 {
            bar.set_style(
                ProgressStyle::with_template("{prefix:>24}   {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
        }
        bar.set_message(format!("done in {}", format_duration(took)));
        bar.abandon();
    } else {
        bar.set_message(printable(&stage.current().unwrap_or_default()));
        bar.tick();
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn line(stage: &ProgressStage) -> String {
    let (took, ended) = stage.time();
    let done = stage.done();
    let mut text = format!("{}: ", stage.name);
    if done > 0 {
        let rate = format_bytes((done as f64 / took.as_secs_f64().max(0.001)) as u64);
        let total = stage.total.map(|t| format!(" of {}", format_bytes(t))).unwrap_or_default();
        text.push_str(&format!("{}{total}, {rate}/s, ", format_bytes(done)));
    }
    text.push_str(&if ended {
        format!("done in {}", format_duration(took))
    } else {
        format!("{} so far", format_duration(took))
    });
    match stage.current().filter(|_| !ended) {
        Some(item) => format!("{text}, now {item}"),
        None => text,
    }
}
