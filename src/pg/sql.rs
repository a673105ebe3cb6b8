//! Just enough SQL lexing to cut scripts into statements and to find identifiers in them, safely.
//!
//! Used on what `pg_dumpall` and `pg_dump` wrote, which a hostile vault may have replaced: anything
//! the lexer does not understand is an error, never a guess. Follows the lexical rules of the
//! PostgreSQL manual, section 4.1.

use std::borrow::Cow;
use std::ops::Range;

/// A token and where it stands in the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlToken {
    /// What it is.
    pub kind: TokenKind,
    /// Its bytes in the script.
    pub at: Range<usize>,
}

/// Kinds of token that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKind {
    /// An unquoted word, folded to lower case: a keyword, a number or an identifier.
    Word(Vec<u8>),
    /// A quoted identifier, unquoted.
    Quoted(Vec<u8>),
    /// A string constant, of any kind.
    Text,
    /// Any other single byte.
    Symbol(u8),
}

/// One statement, without its semicolon.
#[derive(Debug, Clone)]
pub struct SqlStatement<'a> {
    /// The statement's bytes.
    pub text: Cow<'a, [u8]>,
    /// Its tokens, with positions relative to `text`.
    pub tokens: Vec<SqlToken>,
}

impl SqlStatement<'_> {
    /// Whether the statement begins with these keywords.
    #[must_use]
    pub fn begins_with(&self, keywords: &[&str]) -> bool {
        self.tokens.len() >= keywords.len()
            && keywords.iter().zip(&self.tokens).all(|(k, t)| t.is_word(k))
    }
    /// Position of the first token that is this keyword.
    #[must_use]
    pub fn position(&self, keyword: &str) -> Option<usize> {
        self.tokens.iter().position(|t| t.is_word(keyword))
    }
    /// The identifier at a token position.
    #[must_use]
    pub fn name_at(&self, position: usize) -> Option<&[u8]> {
        self.tokens.get(position).and_then(SqlToken::name)
    }
    /// The statement with the identifier at a token position replaced by another name, quoted.
    #[must_use]
    pub fn with_name_at(&self, position: usize, name: &str) -> Vec<u8> {
        match self.tokens.get(position) {
            Some(token) => [
                &self.text[..token.at.start],
                quote_identifier(name).as_bytes(),
                &self.text[token.at.end..],
            ]
            .concat(),
            None => self.text.to_vec(),
        }
    }
    /// What the statement says of who speaks from here on, as `pg_dump` and `pg_dumpall` write it
    /// around privileges that were granted by somebody other than the owner.
    #[must_use]
    pub fn speaker(&self) -> Option<SessionRole> {
        match self.tokens.len() {
            4 if self.begins_with(&["set", "session", "authorization"]) => {
                self.name_at(3).map(|name| SessionRole::Is(name.to_vec()))
            }
            3 if self.begins_with(&["reset", "session", "authorization"]) => {
                Some(SessionRole::IsNobody)
            }
            _ => None,
        }
    }
    /// Where the database's name stands. The word before tells the keyword from a role that is
    /// called `database`.
    #[must_use]
    pub fn database_name_position(&self) -> Option<usize> {
        const BEFORE: [&str; 4] = ["on", "in", "alter", "create"];
        let is = |at: usize, word: &str| self.tokens.get(at).is_some_and(|t| t.is_word(word));
        (1..self.tokens.len())
            .find(|at| is(*at, "database") && BEFORE.iter().any(|word| is(at - 1, word)))
            .map(|at| at + 1)
    }
    /// The statement without `keyword = value`, if that clause stands at or behind a token
    /// position.
    #[must_use]
    pub fn without_clause(&self, keyword: &str, from: usize) -> Self {
        let mut shorter = self.clone();
        let at = (from..self.tokens.len()).find(|at| self.tokens[*at].is_word(keyword));
        if let Some(at) = at
            && let Some(last) = self.tokens.get(at + 2)
        {
            // Tokens behind the clause would have to move; there is nothing to be done to them, so
            // they go from the list.
            shorter.text.to_mut().drain(self.tokens[at].at.start..last.at.end);
            shorter.tokens.truncate(at);
        }
        shorter
    }
}

impl SqlToken {
    /// Whether this is the unquoted keyword.
    #[must_use]
    pub fn is_word(&self, keyword: &str) -> bool {
        matches!(&self.kind, TokenKind::Word(word) if word == keyword.as_bytes())
    }
    /// The identifier this token is, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        match &self.kind {
            TokenKind::Word(name) | TokenKind::Quoted(name) => Some(name),
            _ => None,
        }
    }
}

/// Who speaks from a statement on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionRole {
    /// This role.
    Is(Vec<u8>),
    /// Whoever is connected.
    IsNobody,
}

/// A statement said by a role, as one that is whole or leaves nothing: what it sets is undone with
/// it.
#[must_use]
pub fn said_by(role: &[u8], statement: &[u8]) -> Vec<u8> {
    [
        b"SET SESSION AUTHORIZATION ",
        quote_bytes(role).as_slice(),
        b";\n",
        statement,
        b";\nRESET SESSION AUTHORIZATION",
    ]
    .concat()
}

/// Something the lexer does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the script cannot be cut into statements: {why} at byte {at}")]
pub struct SqlError {
    why: &'static str,
    at: usize,
}

/// A name as a quoted identifier.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name in whatever encoding as a quoted identifier.
#[must_use]
pub fn quote_bytes(name: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in name {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    quoted
}

/// A text as a string constant, whatever `standard_conforming_strings` says.
#[must_use]
pub fn quote_text(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Cuts a script into statements. Comments are dropped; a backslash outside of quotes is an error.
///
/// # Errors
/// [`SqlError`] for an unclosed quote or comment, a `psql` command, or a last statement without
/// semicolon.
pub fn statements(script: &[u8]) -> Result<Vec<SqlStatement<'_>>, SqlError> {
    let mut found = Vec::new();
    let mut tokens: Vec<SqlToken> = Vec::new();
    let mut at = 0;
    while at < script.len() {
        let start = at;
        match script[at] {
            b';' => {
                found.extend(close(script, std::mem::take(&mut tokens)));
                at += 1;
                continue;
            }
            c if c.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' if script[at..].starts_with(b"--") => {
                at += script[at..]
                    .iter()
                    .position(|c| matches!(c, b'\n' | b'\r'))
                    .unwrap_or(script.len() - at);
                continue;
            }
            b'/' if script[at..].starts_with(b"/*") => {
                at = block_comment(script, at)?;
                continue;
            }
            b'\\' => return Err(SqlError { why: "a backslash outside of quotes", at }),
            b'"' => {
                let (name, end) = quoted(script, at, b'"')?;
                at = end;
                tokens.push(SqlToken { kind: TokenKind::Quoted(name), at: start..at });
            }
            // Two constants in a row are one to the server, with the rules of the first: nothing
            // that we read writes that.
            b'\'' if tokens.last().is_some_and(|token| token.kind == TokenKind::Text) => {
                return Err(SqlError { why: "a string constant that goes on in another", at });
            }
            b'\'' => {
                at = text_constant(script, at, escapes(&tokens, start))?;
                tokens.push(SqlToken { kind: TokenKind::Text, at: start..at });
            }
            b'$' => {
                if let Some(end) = dollar_quoted(script, at)? {
                    at = end;
                    tokens.push(SqlToken { kind: TokenKind::Text, at: start..at });
                } else {
                    at += 1;
                    tokens.push(SqlToken { kind: TokenKind::Symbol(b'$'), at: start..at });
                }
            }
            c if is_word(c) => {
                while at < script.len() && (is_word(script[at]) || script[at] == b'$') {
                    at += 1;
                }
                tokens.push(SqlToken {
                    kind: TokenKind::Word(script[start..at].to_ascii_lowercase()),
                    at: start..at,
                });
            }
            symbol => {
                at += 1;
                tokens.push(SqlToken { kind: TokenKind::Symbol(symbol), at: start..at });
            }
        }
    }
    if tokens.is_empty() {
        Ok(found)
    } else {
        Err(SqlError { why: "the last statement has no semicolon", at: script.len() })
    }
}

fn close(script: &[u8], mut tokens: Vec<SqlToken>) -> Option<SqlStatement<'_>> {
    let (from, to) = (tokens.first()?.at.start, tokens.last()?.at.end);
    for token in &mut tokens {
        token.at = token.at.start - from..token.at.end - from;
    }
    Some(SqlStatement { text: Cow::Borrowed(&script[from..to]), tokens })
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80
}

/// Whether the quote at `at` follows an `E` that stands right before it.
fn escapes(tokens: &[SqlToken], at: usize) -> bool {
    tokens.last().is_some_and(|t| t.at.end == at && t.is_word("e"))
}

fn quoted(script: &[u8], from: usize, quote: u8) -> Result<(Vec<u8>, usize), SqlError> {
    let mut name = Vec::new();
    let mut at = from + 1;
    while at < script.len() {
        if script[at] != quote {
            name.push(script[at]);
            at += 1;
        } else if script.get(at + 1) == Some(&quote) {
            name.push(quote);
            at += 2;
        } else {
            return Ok((name, at + 1));
        }
    }
    Err(SqlError { why: "an unclosed quote", at: from })
}

fn text_constant(script: &[u8], from: usize, escapes: bool) -> Result<usize, SqlError> {
    let mut at = from + 1;
    while at < script.len() {
        match script[at] {
            b'\\' if escapes => at += 2,
            b'\'' if script.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return Ok(at + 1),
            _ => at += 1,
        }
    }
    Err(SqlError { why: "an unclosed quote", at: from })
}

fn dollar_quoted(script: &[u8], from: usize) -> Result<Option<usize>, SqlError> {
    let tag = script[from + 1..].iter().take_while(|c| is_word(**c)).count();
    if script.get(from + 1 + tag) != Some(&b'$')
        || script.get(from + 1).is_some_and(u8::is_ascii_digit)
    {
        return Ok(None);
    }
    let fence = &script[from..from + tag + 2];
    let body = from + fence.len();
    match script[body..].windows(fence.len()).position(|window| window == fence) {
        Some(length) => Ok(Some(body + length + fence.len())),
        None => Err(SqlError { why: "an unclosed dollar quote", at: from }),
    }
}

fn block_comment(script: &[u8], from: usize) -> Result<usize, SqlError> {
    let (mut depth, mut at) = (0, from);
    while at < script.len() {
        if script[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if script[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Ok(at);
            }
        } else {
            at += 1;
        }
    }
    Err(SqlError { why: "an unclosed comment", at: from })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statements_are_cut_only_at_semicolons_outside_of_quotes() {
        let script = b"-- c;\nCREATE ROLE \"a;\"\"b\"; /* ; /* ; */ */ SELECT 'it''s;', E'\\';', $x$;$$;$x$;";
        let cut = statements(script).unwrap();
        assert_eq!(cut.len(), 2);
        assert_eq!(cut[0].name_at(2), Some(&b"a;\"b"[..]));
        assert!(cut[1].begins_with(&["select"]));
    }

    #[test]
    fn a_psql_command_is_refused_wherever_it_hides() {
        for bad in [
            &b"\\! rm -rf /\n"[..],
            b"SELECT 1 \\g |sh\n;",
            b"SELECT 'a",
            b"CREATE ROLE \"x",
            b"/* x",
            b"SELECT 1",
        ] {
            assert!(statements(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(statements(b"SELECT '\\! x';").unwrap().len(), 1);
    }

    #[test]
    fn a_name_is_replaced_where_it_stands_and_nowhere_else() {
        let cut = statements(b"COMMENT ON DATABASE old IS 'database old';").unwrap();
        let at = cut[0].position("database").unwrap() + 1;
        assert_eq!(
            cut[0].with_name_at(at, "ne\"w"),
            b"COMMENT ON DATABASE \"ne\"\"w\" IS 'database old'"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_lexer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = statements(&bytes);
        }
        #[test]
        fn quoted_names_read_back(name in "[^\0]{1,30}") {
            let script = format!("CREATE ROLE {};", quote_identifier(&name));
            let cut = statements(script.as_bytes()).unwrap();
            prop_assert_eq!(cut[0].name_at(2), Some(name.as_bytes()));
        }
    }

    fn word(text: &str) -> TokenKind {
        TokenKind::Word(text.as_bytes().to_vec())
    }

    fn name(text: &str) -> TokenKind {
        TokenKind::Quoted(text.as_bytes().to_vec())
    }

    /// The only statement of a script.
    fn only(script: &[u8]) -> SqlStatement<'_> {
        let mut cut = statements(script).unwrap();
        assert_eq!(cut.len(), 1, "{}", String::from_utf8_lossy(script));
        cut.remove(0)
    }

    fn kinds(script: &str) -> Vec<TokenKind> {
        only(script.as_bytes()).tokens.into_iter().map(|t| t.kind).collect()
    }

    fn texts(script: &str) -> Vec<String> {
        statements(script.as_bytes())
            .unwrap()
            .iter()
            .map(|s| String::from_utf8(s.text.to_vec()).unwrap())
            .collect()
    }

    fn error(script: &[u8]) -> String {
        statements(script)
            .unwrap_err()
            .to_string()
            .replace("the script cannot be cut into statements: ", "")
    }

    #[test]
    fn tokens_are_words_in_lower_case_names_texts_and_symbols() {
        for (script, wanted) in [
            ("Create ROLE A_1b;", vec![word("create"), word("role"), word("a_1b")]),
            ("a\"B\"\"c\"'d''e'f;", vec![word("a"), name("B\"c"), TokenKind::Text, word("f")]),
            ("\"\" '' ;", vec![name(""), TokenKind::Text]),
            ("a.b=(1-2)/3*4;", {
                let symbol = |c| TokenKind::Symbol(c);
                let (a, b, one, two, three, four) =
                    (word("a"), word("b"), word("1"), word("2"), word("3"), word("4"));
                let open = [
                    a,
                    symbol(b'.'),
                    b,
                    symbol(b'='),
                    symbol(b'('),
                    one,
                    symbol(b'-'),
                    two,
                    symbol(b')'),
                ];
                [&open[..], &[symbol(b'/'), three, symbol(b'*'), four]].concat()
            }),
            (
                "größe$1 $1 x$;",
                vec![word("größe$1"), TokenKind::Symbol(b'$'), word("1"), word("x$")],
            ),
            ("a\t\r\n\x0cb;", vec![word("a"), word("b")]),
        ] {
            assert_eq!(kinds(script), wanted, "{script}");
        }
        for byte in 0x80..=0xff {
            assert_eq!(
                only(&[byte, b';']).tokens[0].kind,
                TokenKind::Word(vec![byte]),
                "any byte beyond ASCII is part of a word"
            );
        }
    }

    #[test]
    fn a_statements_text_reaches_from_its_first_to_its_last_token_and_positions_are_within_it() {
        let script =
            " ;; /* c */ ALTER ROLE \"a b\" SET x TO 'y' -- c;\n ; -- d\nGRANT $t$;$t$ /* e */;\n";
        assert_eq!(texts(script), ["ALTER ROLE \"a b\" SET x TO 'y'", "GRANT $t$;$t$"]);
        let cut = statements(script.as_bytes()).unwrap();
        let at = |s: &SqlStatement<'_>| {
            s.tokens
                .iter()
                .map(|t| String::from_utf8(s.text[t.at.clone()].to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(at(&cut[0]), ["ALTER", "ROLE", "\"a b\"", "SET", "x", "TO", "'y'"]);
        assert_eq!(at(&cut[1]), ["GRANT", "$t$;$t$"]);
    }

    #[test]
    fn comments_hide_whatever_stands_in_them_and_end_where_they_end() {
        for script in [
            "A --;'\"\\ $$ /*\nB;",
            "A--\nB;",
            "A/*;'\"\\ $$ -- */B;",
            "A/**/B;",
            "A/*/*;*/;*/B;",
            "A/*/**//**/*/B;",
            "A /***/ B;",
            "A B; -- the end ; \\ without a newline",
            "--\nA B;--",
        ] {
            assert_eq!(kinds(script), [word("a"), word("b")], "{script}");
        }
        assert_eq!(texts("-- only a comment"), [""; 0]);
        assert_eq!(texts("A - -B;"), ["A - -B"]);
        for unclosed in ["/*", "/*/", "/* /* */", "/*/* */"] {
            assert_eq!(
                error(format!("A; {unclosed}").as_bytes()),
                "an unclosed comment at byte 3",
                "{unclosed}"
            );
        }
    }

    #[test]
    fn a_backslash_escapes_only_in_text_right_behind_an_e() {
        assert_eq!(texts(r"A E'\';' B;"), [r"A E'\';' B"]);
        assert_eq!(texts(r"A e'\\'; B;"), [r"A e'\\'", "B"]);
        assert_eq!(texts(r"A e'x''\'y;'; B;"), [r"A e'x''\'y;'", "B"]);
        for not_escaping in [r"A '\'; B;", r"A E '\'; B;", r#"A "e"'\'; B;"#, r"A xe'\'; B;"] {
            assert_eq!(texts(not_escaping).len(), 2, "{not_escaping}");
        }
        for unclosed in [r"A E'\'", r"A E'\", "A '''", "A '", r"A E'\';"] {
            assert!(
                error(unclosed.as_bytes()).starts_with("an unclosed quote at byte "),
                "{unclosed}"
            );
        }
    }

    #[test]
    fn dollar_quotes_end_only_at_their_own_tag() {
        for text in [
            "$$;'\"\\--/*$$",
            "$a$;$$;$b$;$a$",
            "$_1$;$_$;$_1$",
            "$ä$;$ä$",
            "$$$$",
            "$a$$a$",
            "$a$ $a $a$",
        ] {
            let script = format!("A {text} B;");
            assert_eq!(kinds(&script), [word("a"), TokenKind::Text, word("b")], "{text}");
            assert_eq!(texts(&script), [format!("A {text} B")]);
        }
        // A tag does not begin with a digit, and what has no second dollar is no tag.
        assert_eq!(kinds("$1$x;").iter().filter(|k| **k == TokenKind::Text).count(), 0);
        assert_eq!(kinds("$ $;"), [TokenKind::Symbol(b'$'), TokenKind::Symbol(b'$')]);
        assert_eq!(kinds("$a;"), [TokenKind::Symbol(b'$'), word("a")]);
        for unclosed in ["$$", "$$ $", "$a$ $A$", "$a$ $$", "$a$ a$"] {
            assert_eq!(
                error(format!("A {unclosed};").as_bytes()),
                "an unclosed dollar quote at byte 2",
                "{unclosed}"
            );
        }
        assert_eq!(error(b"A $"), "the last statement has no semicolon at byte 3");
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_place() {
        for (script, wanted) in [
            (&b"A;\n\\! sh"[..], "a backslash outside of quotes at byte 3"),
            (b"A 'x", "an unclosed quote at byte 2"),
            (b"A; \"x\"\"", "an unclosed quote at byte 3"),
            (b"A; B -- c;", "the last statement has no semicolon at byte 10"),
        ] {
            assert_eq!(error(script), wanted);
        }
    }

    #[test]
    fn keywords_are_found_only_unquoted_and_names_quoted_or_not() {
        let cut = only(b"GRANT \"on\" 'on' . ON x;");
        assert_eq!(
            (cut.position("on"), cut.position("grant"), cut.position("x "), cut.position("to")),
            (Some(4), Some(0), None, None)
        );
        let names: Vec<Option<&[u8]>> = (0..7).map(|at| cut.name_at(at)).collect();
        assert_eq!(
            names,
            [Some(&b"grant"[..]), Some(b"on"), None, None, Some(b"on"), Some(b"x"), None]
        );
        for (keywords, begins) in [
            (&[][..], true),
            (&["grant"], true),
            (&["grant", "on"], false),
            (&["on"], false),
            (&["gran"], false),
        ] {
            assert_eq!(cut.begins_with(keywords), begins, "{keywords:?}");
        }
        let short = only(b"CREATE ROLE;");
        assert!(
            short.begins_with(&["create", "role"]) && !short.begins_with(&["create", "role", "a"])
        );
    }

    #[test]
    fn a_name_that_is_not_there_is_not_replaced() {
        let cut = only(b"ALTER DATABASE \"o\"\"ld\" SET x TO 1;");
        assert_eq!(cut.with_name_at(2, "new"), b"ALTER DATABASE \"new\" SET x TO 1");
        assert_eq!(cut.with_name_at(6, "new"), b"ALTER DATABASE \"o\"\"ld\" SET x TO \"new\"");
        assert_eq!(cut.with_name_at(7, "new"), b"ALTER DATABASE \"o\"\"ld\" SET x TO 1");
    }

    #[test]
    fn a_clause_is_taken_out_whole_and_only_behind_the_name() {
        let script =
            b"CREATE DATABASE tablespace WITH ENCODING = 'UTF8' TABLESPACE = fast LOCALE = 'C';";
        let cut = only(script);
        let shorter = cut.without_clause("tablespace", 3);
        assert_eq!(
            shorter.text.as_ref(),
            b"CREATE DATABASE tablespace WITH ENCODING = 'UTF8'  LOCALE = 'C'"
        );
        assert_eq!(shorter.tokens, cut.tokens[..7], "tokens up to the clause stay where they are");
        assert_eq!(shorter.name_at(2), Some(&b"tablespace"[..]));
        let last = cut.without_clause("locale", 0);
        assert_eq!(
            last.text.as_ref(),
            b"CREATE DATABASE tablespace WITH ENCODING = 'UTF8' TABLESPACE = fast "
        );
        for unchanged in [
            cut.without_clause("tablespace", 8),
            cut.without_clause("owner", 0),
            cut.without_clause("x", 99),
        ] {
            assert_eq!(
                (unchanged.text.as_ref(), unchanged.tokens),
                (cut.text.as_ref(), cut.tokens.clone())
            );
        }
        let cut_off = only(b"CREATE DATABASE a TABLESPACE =;");
        assert_eq!(cut_off.without_clause("tablespace", 3).text, cut_off.text, "not a clause");
    }

    #[test]
    fn names_and_texts_are_quoted_so_that_nothing_in_them_ends_the_quote() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_bytes(b"\"a\xff\""), b"\"\"\"a\xff\"\"\"");
        assert_eq!(quote_bytes(b""), b"\"\"");
        assert_eq!(quote_text("it's"), "'it''s'");
        assert_eq!(quote_text("C:\\it's"), " E'C:\\\\it''s'");
        assert_eq!(quote_text(""), "''");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_quoted_text_is_one_text_whatever_stands_in_it(text in r#"[a';"\\$ /*-]{0,12}"#) {
            let script = format!("SELECT {};", quote_text(&text));
            let found = only(script.as_bytes());
            let last = found.tokens.last().unwrap();
            prop_assert_eq!((&last.kind, last.at.end), (&TokenKind::Text, found.text.len()));
            prop_assert_eq!(found.tokens.len(), if text.contains('\\') { 3 } else { 2 });
        }
        #[test]
        fn quoted_bytes_read_back(bytes in proptest::collection::vec(prop_oneof![Just(b'"'), any::<u8>()], 0..20)) {
            let script = [b"A ", &quote_bytes(&bytes)[..], b";"].concat();
            let found = only(&script);
            prop_assert_eq!(found.name_at(1), Some(&bytes[..]));
        }
    }

    #[test]
    fn what_the_server_would_cut_elsewhere_is_not_guessed_at() {
        // A comment ends at a carriage return, too.
        let cut = statements(
            b"COMMENT ON ROLE a IS --\r'x'; CREATE ROLE evil; COMMENT ON ROLE a IS\n'y';",
        )
        .unwrap();
        assert_eq!(cut.len(), 3);
        assert!(cut[1].begins_with(&["create", "role"]));
        for text in [
            "COMMENT ON ROLE a IS E'x'\n'\\' '; CREATE ROLE evil; --';",
            "SELECT 'a' 'b';",
            "SELECT 'a'\n'b';",
            "SELECT $$a$$ 'b';",
        ] {
            assert!(statements(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(statements(b"SELECT 'a', 'b'; SELECT 'it''s';").unwrap().len(), 2);
    }
}
