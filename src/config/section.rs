//! Walking a TOML file with positions: every key that is asked for is known, every other is
//! reported as an error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::domain::human_duration::HumanDuration;

/// Keys that would hold a secret, in any section. Secrets do not belong into a file under version
/// control.
const SECRET_KEYS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "secret_key",
    "token",
    "access_key",
    "aws_secret_access_key",
    "private_key",
    "identity",
];
const SECRET_INSTEAD: &str = "keep it out of the file: use the environment (PGPASSWORD), ~/.pgpass, a service file, or password_command = [\"…\"]";

/// One thing that is wrong, and what to write instead.
#[derive(Debug, Clone)]
pub struct ConfigFault {
    /// Bytes of the file it concerns.
    pub span: Range<usize>,
    /// Full name of the key, such as `datastores.chat.rpo`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub instead: String,
    /// Whether the value may be shown. Not where it is, or may be, a secret.
    pub shows_value: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file has faults.
    #[error("{}", render(file, text, faults))]
    Faulty {
        /// The file.
        file: PathBuf,
        /// Its text.
        text: String,
        /// What is wrong with it.
        faults: Vec<ConfigFault>,
    },
}

/// The text with the value of the line at `span` left out, and where the key stands: a value may be
/// a secret, and what is printed ends up in mail and journals.
fn without_value(text: &str, span: &Range<usize>) -> (String, Range<usize>) {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
    let line = &text[start..end];
    let key = line.split('=').next().unwrap_or_default().trim_end();
    // A list may go on over several lines; everything behind the key goes.
    let rest = &text[span.end.max(end)..];
    (
        format!("{}{key} = …{}", &text[..start], &rest[rest.find('\n').unwrap_or(rest.len())..]),
        start..start + key.len(),
    )
}

fn render(file: &Path, text: &str, faults: &[ConfigFault]) -> String {
    let renderer = Renderer::plain();
    let path = file.display().to_string();
    let one = |fault: &ConfigFault| {
        let title = format!("{}: {}", fault.key, fault.what);
        let (text, span) = if fault.shows_value {
            (text.to_owned(), fault.span.clone())
        } else {
            without_value(text, &fault.span)
        };
        let snippet =
            Snippet::source(&text).path(&path).annotation(AnnotationKind::Primary.span(span));
        renderer.render(&[
            Level::ERROR.primary_title(title).element(snippet),
            Group::with_title(Level::HELP.secondary_title(fault.instead.clone())),
        ])
    };
    faults.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

type FaultList = Rc<RefCell<Vec<ConfigFault>>>;

/// A parsed file.
pub struct ConfigDocument<'a> {
    file: &'a Path,
    text: &'a str,
    table: Spanned<DeTable<'a>>,
    faults: FaultList,
}

impl<'a> ConfigDocument<'a> {
    /// Parses TOML.
    ///
    /// # Errors
    /// [`ConfigError::Faulty`] if it is not TOML.
    pub fn parse(file: &'a Path, text: &'a str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let fault = ConfigFault {
                span: error.span().unwrap_or(0..0),
                key: "TOML".to_owned(),
                what: error.message().to_owned(),
                instead: "see https://toml.io for how values are written".to_owned(),
                shows_value: false,
            };
            ConfigError::Faulty {
                file: file.to_owned(),
                text: text.to_owned(),
                faults: vec![fault],
            }
        })?;
        Ok(Self { file, text, table, faults: FaultList::default() })
    }

    /// The top of the file.
    #[must_use]
    pub fn root(&self) -> ConfigSection<'_> {
        ConfigSection {
            path: String::new(),
            table: self.table.get_ref(),
            span: 0..0,
            known: BTreeSet::new(),
            faults: Rc::clone(&self.faults),
        }
    }

    /// Fails if anything was wrong.
    ///
    /// # Errors
    /// [`ConfigError::Faulty`] with all faults, in the file's order.
    pub fn verdict(&self) -> Result<(), ConfigError> {
        if self.faults.borrow().is_empty() { Ok(()) } else { Err(self.incomplete()) }
    }

    /// The error that holds all faults.
    #[must_use]
    pub fn incomplete(&self) -> ConfigError {
        let mut faults = self.faults.borrow().clone();
        faults.sort_by_key(|fault| fault.span.start);
        ConfigError::Faulty { file: self.file.to_owned(), text: self.text.to_owned(), faults }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct LocatedValue<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the file.
    pub span: Range<usize>,
}

/// A table of the file.
pub struct ConfigSection<'a> {
    path: String,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    known: BTreeSet<String>,
    faults: FaultList,
}

impl<'a> ConfigSection<'a> {
    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Records a fault of a key; returns `None` so that it can stand where a value is missing.
    pub fn fault<T>(&self, span: Range<usize>, key: &str, what: &str, instead: &str) -> Option<T> {
        // What could not be understood may be a secret in the wrong place.
        let shows_value = !what.contains("secret")
            && !what.contains("password")
            && !what.starts_with("unknown")
            && key != "connection";
        let fault = ConfigFault {
            span,
            key: self.full(key),
            what: what.to_owned(),
            instead: instead.to_owned(),
            shows_value,
        };
        self.faults.borrow_mut().push(fault);
        None
    }

    /// An address, without anybody's password in it: it stands in guides, in reports and in errors.
    pub fn endpoint(&mut self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        let authority = text.value.split_once("://").map_or(text.value.as_str(), |(_, rest)| rest);
        match authority.split(['/', '?', '#']).next().unwrap_or_default().contains('@') {
            true => self.fault(
                text.span,
                key,
                "a secret in an address",
                "write it without user and password; credentials come from the environment",
            ),
            false => Some(text.value),
        }
    }

    /// Records a fault of the section itself.
    pub fn fault_here<T>(&self, what: &str, instead: &str) -> Option<T> {
        let key = if self.path.is_empty() { "this file".to_owned() } else { self.path.clone() };
        self.faults.borrow_mut().push(ConfigFault {
            span: self.span.clone(),
            key,
            what: what.to_owned(),
            instead: instead.to_owned(),
            shows_value: true,
        });
        None
    }

    /// Whether the key is there, of whatever type.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn get(&mut self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.insert(key.to_owned());
        self.table.get(key)
    }

    fn wrong_type<T>(&self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) -> Option<T> {
        let found = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a section",
        };
        self.fault(
            value.span(),
            key,
            &format!("{found} stands where {wanted} belongs"),
            &format!("write {wanted}"),
        )
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Option<LocatedValue<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") => self.fault(
                value.span(),
                key,
                "a secret stands in the file",
                "keep it in a file of its own (mode 600) and name that file; treat this key as exposed",
            ),
            DeValue::String(text) => Some(LocatedValue { value: text.clone().into_owned(), span: value.span() }),
            _ => self.wrong_type(value, key, "a text in quotes"),
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &str, example: &str) -> Option<LocatedValue<String>> {
        if self.has(key) {
            return self.text(key);
        }
        self.known.insert(key.to_owned());
        self.fault_here(&format!("{key} is missing"), &format!("write {example}"))
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &str) -> Option<LocatedValue<Vec<String>>> {
        let value = self.get(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            return self.wrong_type(value, key, "a list of texts, [\"…\"]");
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => texts.push(text.clone().into_owned()),
                _ => return self.wrong_type(item, key, "a text in quotes"),
            }
        }
        Some(LocatedValue { value: texts, span: value.span() })
    }

    /// True or false.
    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(boolean) => Some(*boolean),
            _ => self.wrong_type(value, key, "true or false, without quotes"),
        }
    }

    /// A whole number between two bounds, both allowed.
    pub fn number(&mut self, key: &str, low: usize, high: usize) -> Option<usize> {
        let value = self.get(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            return self.wrong_type(value, key, "a whole number, without quotes");
        };
        match usize::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if (low..=high).contains(&number) => Some(number),
            _ => self.fault(
                value.span(),
                key,
                "the number is out of range",
                &format!("write a number from {low} to {high}"),
            ),
        }
    }

    /// A length of time.
    pub fn span(&mut self, key: &str) -> Option<HumanDuration> {
        let text = self.text(key)?;
        match text.value.parse() {
            Ok(span) => Some(span),
            Err(why) => self.fault(text.span, key, &why, "for example \"24h\""),
        }
    }

    /// A date, with or without quotes.
    pub fn date(&mut self, key: &str) -> Option<jiff::civil::Date> {
        let value = self.get(key)?;
        let text = match value.get_ref() {
            DeValue::Datetime(date) => date.to_string(),
            DeValue::String(text) => text.clone().into_owned(),
            _ => return self.wrong_type(value, key, "a date, 2026-11-24"),
        };
        match text.parse() {
            Ok(date) => Some(date),
            Err(_) => self.fault(value.span(), key, "not a date", "write a date, 2026-11-24"),
        }
    }

    /// One of several words.
    pub fn choice<T: Clone>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(choice.clone());
        }
        let words =
            choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        self.fault(
            text.span,
            key,
            &format!("{:?} is not one of the choices", text.value),
            &format!("write {words}"),
        )
    }

    /// A section below this one.
    pub fn section(&mut self, key: &str) -> Option<ConfigSection<'a>> {
        let value = self.get(key)?;
        self.as_section(key, value)
    }

    fn as_section(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<ConfigSection<'a>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(ConfigSection {
                path: self.full(key),
                table,
                span: value.span(),
                known: BTreeSet::new(),
                faults: Rc::clone(&self.faults),
            }),
            _ => self.wrong_type(value, key, "a section, [name]"),
        }
    }

    /// A section that must be there.
    pub fn required_section(&mut self, key: &str, example: &str) -> Option<ConfigSection<'a>> {
        if self.has(key) {
            return self.section(key);
        }
        self.known.insert(key.to_owned());
        self.fault_here(&format!("section [{key}] is missing"), &format!("write\n{example}"))
    }

    /// All sections below a section, by name.
    pub fn sections(&mut self, key: &str) -> Vec<(String, ConfigSection<'a>)> {
        let Some(mut parent) = self.section(key) else { return Vec::new() };
        let names: Vec<String> =
            parent.table.keys().map(|name| name.get_ref().to_string()).collect();
        names
            .into_iter()
            .filter_map(|name| parent.section(&name).map(|section| (name, section)))
            .collect()
    }

    /// All sections of a list, `[[name]]`.
    pub fn list(&mut self, key: &str) -> Vec<ConfigSection<'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let _ = self.wrong_type::<()>(value, key, &format!("a list of sections, [[{key}]]"));
            return Vec::new();
        };
        items.iter().filter_map(|item| self.as_section(key, item)).collect()
    }

    /// A whole number or one with a point.
    pub fn quantity(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(integer) => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => return self.wrong_type(value, key, "a number, without quotes"),
        };
        match text.parse() {
            Ok(number) => Some(number),
            Err(_) => self.wrong_type(value, key, "a decimal number"),
        }
    }

    /// Pairs of a section below this one: names and texts.
    pub fn pairs(&mut self, key: &str) -> Vec<(String, String)> {
        let Some(mut below) = self.section(key) else { return Vec::new() };
        let names: Vec<String> =
            below.table.keys().map(|name| name.get_ref().to_string()).collect();
        names
            .into_iter()
            .filter_map(|name| below.text(&name).map(|text| (name, text.value)))
            .collect()
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        for (name, value) in self.table {
            let key = name.get_ref().as_ref();
            if self.known.contains(key) {
                continue;
            }
            if SECRET_KEYS.contains(&key.to_ascii_lowercase().as_str()) {
                self.fault::<()>(
                    name.span(),
                    key,
                    "a secret does not belong into this file",
                    SECRET_INSTEAD,
                );
                continue;
            }
            let near = self
                .known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(key, known), known))
                .min();
            let instead = match near {
                Some((distance, known)) if distance <= 1 + key.len() / 4 => {
                    format!("did you mean {known:?}?")
                }
                _ => format!(
                    "known here: {}",
                    self.known.iter().cloned().collect::<Vec<_>>().join(", ")
                ),
            };
            let what = if matches!(value.get_ref(), DeValue::Table(_)) {
                "unknown section"
            } else {
                "unknown key"
            };
            self.fault::<()>(name.span(), key, what, &instead);
        }
    }
}
