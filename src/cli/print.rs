//! Output: tables and sentences, or JSON. Results go to standard output, everything else to
//! standard error, and nothing that a terminal would act on gets through.

use std::error::Error;
use std::io::Write;

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;

use crate::domain::printable::{printable, printable_json};
use crate::work::WorkError;

/// A verb's failure, with what the target looks like if something was changed.
#[derive(Debug)]
pub struct CommandFailure {
    /// The error.
    pub error: Box<WorkError>,
    /// The state of what was being changed.
    pub state: Option<String>,
}

impl<E: Into<WorkError>> From<E> for CommandFailure {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), state: None }
    }
}

/// Writes a line of talk to stderr. A reader that is gone is not an error.
pub fn print_status(text: &str) {
    super::progress::settle();
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// Writes data to stdout. A reader that is gone is not an error.
pub fn print_output(text: &str) {
    super::progress::settle();
    let _ = writeln!(std::io::stdout(), "{}", printable(text));
}

/// Writes a value as JSON to stdout.
pub fn json<T: Serialize>(value: &T) {
    print_output(&printable_json(&serde_json::to_string_pretty(value).unwrap_or_default()));
}

/// Writes an error with its causes, the state of the target, and what to do next.
pub fn failure(failure: &CommandFailure) {
    let mut text = failure.error.to_string();
    // Faults of a file are printed as compilers print them, and begin with the word already.
    if !text.starts_with("error: ") {
        text.insert_str(0, "error: ");
    }
    let mut cause = failure.error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(&format!("\n  cause: {}", message.replace('\n', "\n         ")));
        }
        cause = error.source();
    }
    if let Some(state) = &failure.state {
        text.push_str(&format!("\n  {state}"));
    }
    if let Some(hint) = failure.error.hint() {
        text.push_str(&format!("\n  what next: {hint}"));
    }
    print_status(&text);
}

/// A table with a header line and no borders.
#[must_use]
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
