//! `lifeboat drill NAME --live`: the drill on a full screen, for a team in a room. Steps and checks
//! as they come, time against the objective, a line to write notes and findings into the report,
//! and a pause before anything is broken.

use std::io::Stdout;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::{execute, terminal};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Gauge, List, ListItem, Paragraph, Wrap};
use tokio_util::sync::CancellationToken;

use super::drill::lines;
use super::print::CommandFailure;
use crate::domain::drill::{CheckOutcome, Verdict};
use crate::domain::evidence::DrillNote;
use crate::domain::human_duration::format_duration;
use crate::domain::printable::printable;
use crate::progress::{DrillAudience, DrillEvent};
use crate::work::{WorkContext, WorkError, drill};

/// How often the screen is drawn.
const FRAME: Duration = Duration::from_millis(100);

/// What is on the screen.
struct DrillView {
    drill: String,
    begun: Instant,
    rto_seconds: f64,
    predicted_seconds: Option<f64>,
    restored_seconds: Option<f64>,
    steps: Vec<(String, Option<f64>, bool)>,
    log: Vec<(Color, String)>,
    waiting_for: Option<String>,
    verdict: Option<Verdict>,
    typed: String,
    notes: usize,
}

impl DrillView {
    fn new(drill: &str) -> Self {
        Self {
            drill: drill.to_owned(),
            begun: Instant::now(),
            rto_seconds: 0.0,
            predicted_seconds: None,
            restored_seconds: None,
            steps: Vec::new(),
            log: Vec::new(),
            waiting_for: None,
            verdict: None,
            typed: String::new(),
            notes: 0,
        }
    }

    fn happened(&mut self, happening: &DrillEvent) {
        match happening {
            DrillEvent::Declared { rto_seconds, .. } => {
                self.begun = Instant::now();
                self.rto_seconds = *rto_seconds;
            }
            DrillEvent::Chosen { predicted_seconds, .. } => {
                self.predicted_seconds = *predicted_seconds
            }
            DrillEvent::StepBegan { step, .. } => {
                if step == "examine" {
                    self.restored_seconds = Some(self.begun.elapsed().as_secs_f64());
                }
                self.steps.push((step.clone(), None, false));
                return;
            }
            DrillEvent::StepEnded { step, seconds, error } => {
                if let Some(last) = self.steps.iter_mut().rev().find(|(name, ..)| name == step) {
                    *last = (step.clone(), Some(*seconds), error.is_some());
                }
            }
            DrillEvent::AboutToBreak { story, .. } => {
                self.waiting_for = Some(format!("about to break: {story}"))
            }
            DrillEvent::AboutToSign => {
                self.waiting_for =
                    Some("torn down, about to sign the report: last notes".to_owned())
            }
            DrillEvent::Ended { verdict, reasons } => {
                self.verdict = Some(*verdict);
                self.log.extend(
                    reasons.iter().map(|reason| (Color::Yellow, format!("because {reason}"))),
                );
            }
            DrillEvent::Warned { .. }
            | DrillEvent::Broke { .. }
            | DrillEvent::Checked { .. }
            | DrillEvent::Controlled { .. }
            | DrillEvent::Told { .. }
            | DrillEvent::Worked { .. } => {}
        }
        let color = match happening {
            DrillEvent::Checked { result, .. } if result.answer == CheckOutcome::Pass => {
                Color::Green
            }
            DrillEvent::Checked { result, .. } if result.answer == CheckOutcome::Fail => Color::Red,
            DrillEvent::Checked { .. }
            | DrillEvent::Warned { .. }
            | DrillEvent::Broke { .. }
            | DrillEvent::AboutToBreak { .. } => Color::Yellow,
            DrillEvent::Controlled { result } if result.noticed == Some(true) => Color::Green,
            DrillEvent::Controlled { .. } | DrillEvent::StepEnded { error: Some(_), .. } => {
                Color::Red
            }
            _ => Color::Reset,
        };
        self.log.extend(lines(happening).into_iter().map(|line| (color, printable(line.trim()))));
    }

    fn elapsed(&self) -> f64 {
        self.restored_seconds.unwrap_or_else(|| self.begun.elapsed().as_secs_f64())
    }
}

/// Gives the terminal back, however the view ends.
struct RestoreTerminal {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl RestoreTerminal {
    fn open() -> std::io::Result<Self> {
        terminal::enable_raw_mode()?;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen)?;
        Ok(Self { terminal: Terminal::new(CrosstermBackend::new(std::io::stdout()))? })
    }
}

impl Drop for RestoreTerminal {
    fn drop(&mut self) {
        let _ = terminal::disable_raw_mode();
        let _ = execute!(std::io::stdout(), terminal::LeaveAlternateScreen);
    }
}

/// Runs a drill on a full screen. Returns when the drill is over and somebody has pressed a key.
pub(super) async fn run(
    rig: &WorkContext,
    name: &str,
    cancel: &CancellationToken,
) -> Result<drill::DrillOutcome, CommandFailure> {
    let board = Arc::new(Mutex::new(DrillView::new(name)));
    let told = Arc::clone(&board);
    let team = DrillAudience::new(
        move |happening| {
            if let Ok(mut board) = told.lock() {
                board.happened(happening);
            }
        },
        true,
    );
    let fail = |source| WorkError::File { what: "drawing on the terminal".to_owned(), source };
    let screen = RestoreTerminal::open().map_err(fail)?;
    let over = CancellationToken::new();
    let (drawn, with, stop, ended) =
        (Arc::clone(&board), team.clone(), cancel.clone(), over.clone());
    let drawing =
        tokio::task::spawn_blocking(move || draw_on(screen, &drawn, &with, &stop, &ended));
    let outcome = drill::run(rig, name, &team).await;
    if outcome.is_err() {
        over.cancel();
    }
    let drawn =
        drawing.await.map_err(|_| WorkError::Bug("the thread that draws died".to_owned()))?;
    let outcome = outcome?;
    drawn.map_err(fail)?;
    Ok(outcome)
}

fn draw_on(
    mut screen: RestoreTerminal,
    board: &Mutex<DrillView>,
    team: &DrillAudience,
    cancel: &CancellationToken,
    over: &CancellationToken,
) -> std::io::Result<()> {
    loop {
        if over.is_cancelled() {
            return Ok(());
        }
        if let Ok(board) = board.lock() {
            screen.terminal.draw(|frame| draw(frame, &board))?;
        }
        if !event::poll(FRAME)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && let Ok(mut board) = board.lock()
            && pressed(&mut board, key, team, cancel)
        {
            return Ok(());
        }
    }
}

/// What a key does; whether the view is to end.
fn pressed(
    board: &mut DrillView,
    key: KeyEvent,
    team: &DrillAudience,
    cancel: &CancellationToken,
) -> bool {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
            cancel.cancel();
            team.go_on();
            board.log.push((Color::Yellow, "interrupted: tearing down".to_owned()));
        }
        KeyCode::Char(letter) => board.typed.push(letter),
        KeyCode::Backspace => drop(board.typed.pop()),
        KeyCode::Enter if !board.typed.trim().is_empty() => {
            let note = finding(board.typed.trim(), board.begun.elapsed().as_secs_f64());
            board.log.push((Color::Cyan, format!("noted: {}", note.text)));
            board.notes += 1;
            board.typed.clear();
            team.note(note);
        }
        KeyCode::Enter if board.waiting_for.take().is_some() => team.go_on(),
        KeyCode::Enter | KeyCode::Esc if board.verdict.is_some() => return true,
        _ => {}
    }
    false
}

/// A note as it is typed: `text @owner due 2026-12-01`; owner and date may be left out.
fn finding(typed: &str, at_seconds: f64) -> DrillNote {
    let (mut words, mut owner, mut due) = (Vec::new(), None, None);
    let mut rest = typed.split_whitespace().peekable();
    while let Some(word) = rest.next() {
        let date = rest.peek().and_then(|next| next.parse::<jiff::civil::Date>().ok());
        match (word.strip_prefix('@'), word, date) {
            (Some(name), ..) if !name.is_empty() => owner = Some(name.to_owned()),
            (_, "due", Some(date)) => {
                due = Some(date);
                rest.next();
            }
            _ => words.push(word),
        }
    }
    DrillNote { text: words.join(" "), owner, due, at_seconds }
}

fn draw(frame: &mut ratatui::Frame<'_>, board: &DrillView) {
    let [head, middle, foot] =
        Layout::vertical([Constraint::Length(4), Constraint::Min(5), Constraint::Length(4)])
            .areas(frame.area());
    draw_head(frame, head, board);
    let [steps, log] =
        Layout::horizontal([Constraint::Length(34), Constraint::Min(30)]).areas(middle);
    let items = board.steps.iter().map(|(name, seconds, failed)| {
        let (sign, color) = match (seconds, failed) {
            (None, _) => ("▶", Color::Cyan),
            (Some(_), true) => ("✗", Color::Red),
            (Some(_), false) => ("✓", Color::Green),
        };
        let took = seconds.map(|seconds| format!("{seconds:>7.1} s")).unwrap_or_default();
        ListItem::new(Line::from(vec![
            Span::styled(format!("{sign} "), Style::new().fg(color)),
            Span::raw(format!("{name:<18}{took}")),
        ]))
    });
    frame.render_widget(
        List::new(items).block(Block::new().borders(Borders::ALL).title(" steps ")),
        steps,
    );
    let room = usize::from(log.height.saturating_sub(2));
    let shown = board.log.iter().skip(board.log.len().saturating_sub(room));
    let text: Vec<Line<'_>> =
        shown.map(|(color, line)| Line::styled(line.as_str(), Style::new().fg(*color))).collect();
    let block = Block::new().borders(Borders::ALL).title(" what happens ");
    frame.render_widget(Paragraph::new(text).block(block), log);
    draw_foot(frame, foot, board);
}

fn draw_head(frame: &mut ratatui::Frame<'_>, area: Rect, board: &DrillView) {
    let elapsed = board.elapsed();
    let seconds =
        |seconds: f64| format_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let share = if board.rto_seconds > 0.0 { (elapsed / board.rto_seconds).min(1.0) } else { 0.0 };
    let color = match share {
        0.0..0.7 => Color::Green,
        0.7..1.0 => Color::Yellow,
        _ => Color::Red,
    };
    let expected = board
        .predicted_seconds
        .map(|predicted| format!(", {} expected", seconds(predicted)))
        .unwrap_or_default();
    let verdict = board.verdict.map(|verdict| format!(" — {}", verdict.name())).unwrap_or_default();
    let word = if board.restored_seconds.is_some() { "back after" } else { "elapsed" };
    let title = format!(" drill {}{verdict} ", board.drill);
    let label =
        format!("{word} {} of {} allowed{expected}", seconds(elapsed), seconds(board.rto_seconds));
    let style = match board.verdict {
        Some(Verdict::Pass) => Style::new().fg(Color::Green).add_modifier(Modifier::BOLD),
        Some(_) => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        None => Style::new().add_modifier(Modifier::BOLD),
    };
    let block = Block::new().borders(Borders::ALL).title(Span::styled(title, style));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [text, bar] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(inner);
    frame.render_widget(Paragraph::new(label), text);
    frame.render_widget(
        Gauge::default().ratio(share).label("").gauge_style(Style::new().fg(color)),
        bar,
    );
}

fn draw_foot(frame: &mut ratatui::Frame<'_>, area: Rect, board: &DrillView) {
    let (title, style) = match (&board.waiting_for, board.verdict) {
        (Some(story), _) => (
            format!(" {story} — Enter goes on "),
            Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
        ),
        (None, Some(_)) => (" it is over — Enter closes ".to_owned(), Style::new()),
        (None, None) => (format!(" note or finding ({} so far) ", board.notes), Style::new()),
    };
    let help = Line::styled(
        "text @owner due 2026-12-01, Enter to keep · Ctrl-C tears down",
        Style::new().fg(Color::DarkGray),
    );
    let text = vec![Line::from(format!("> {}▏", board.typed)), help];
    let block = Block::new().borders(Borders::ALL).title(Span::styled(title, style));
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_may_name_an_owner_and_a_date() {
        let note = finding("restore.md lacks the port @meyer due 2026-12-01", 3.5);
        assert_eq!(
            (note.text.as_str(), note.owner.as_deref()),
            ("restore.md lacks the port", Some("meyer"))
        );
        assert_eq!(note.due.map(|due| due.to_string()).as_deref(), Some("2026-12-01"));
        let plain = finding("it is due soon", 0.0);
        assert_eq!((plain.text.as_str(), plain.owner, plain.due), ("it is due soon", None, None));
    }
}
