//! Text from outside, made safe to print: nothing in it controls a terminal.

/// Without what a terminal would act on: control characters of both sets, and those that turn the
/// order of what is shown around. A line's end and a tab stay.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '\u{fffd}' }).collect()
}

fn is_printable(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    matches!(c, '\n' | '\t') || !c.is_control() && !turns
}

/// JSON that a terminal may show: what [`printable`] would replace is escaped, and reads back as it
/// was.
#[must_use]
pub fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match is_printable(c) {
            true => text.push(c),
            false => text.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left_and_json_reads_back() {
        let hostile = "a\u{1b}[2J\u{9b}31m\u{7}\r\u{202e}b\n\tc";
        assert_eq!(printable(hostile), "a\u{fffd}[2J\u{fffd}31m\u{fffd}\u{fffd}\u{fffd}b\n\tc");
        let json = serde_json::to_string(hostile).unwrap_or_default();
        let shown = printable_json(&json);
        assert!(shown.chars().all(is_printable), "{shown:?}");
        assert_eq!(serde_json::from_str::<String>(&shown).ok().as_deref(), Some(hostile));
    }
}
