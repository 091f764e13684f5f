//! The one format of a policy's text.

use std::fmt::Write as _;

use toml::Table;
use toml_parser::Source;
use toml_parser::lexer::{Token, TokenKind};

/// Lists that would be wider than this many characters stand on several lines.
pub const WIDTH: usize = 100;

const INDENT: &str = "    ";

/// Why a text is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read at all.
    #[error("the text is not TOML: {message}")]
    NotToml {
        /// The TOML parser's words.
        message: String,
        /// Where, in bytes from the start.
        at: usize,
    },
    /// The formatted text would mean something else: a defect of the formatter.
    #[error("the text would not mean the same when formatted; please report it")]
    Changed,
}

impl FormatError {
    /// A stable name for the kind of error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotToml { .. } => "not_toml",
            Self::Changed => "changed",
        }
    }
}

/// Gives a policy's text its one format (POL-140): comments and the order of
/// everything stay, and so does the meaning, which is compared before the text
/// is given out. What is formatted already stays as it is.
///
/// The text need not be a policy that loads, only TOML.
///
/// ```
/// # use bulla_policy_tools::format;
/// let text = "version=1 # ours\ntrust_domain =   'acme.example'\n[group]\nweb=['a',\n'b']";
/// assert_eq!(
///     format(text)?,
///     "version = 1 # ours\ntrust_domain = \"acme.example\"\n\n[group]\nweb = [\"a\", \"b\"]\n"
/// );
/// # Ok::<(), bulla_policy_tools::FormatError>(())
/// ```
///
/// # Errors
/// [`FormatError::NotToml`] for what cannot be read.
pub fn format(text: &str) -> Result<String, FormatError> {
    let before = parse(text)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let out = Printer::new(text).document();
    match parse(&out) {
        Ok(after) if after == before => Ok(out),
        _ => Err(FormatError::Changed),
    }
}

fn parse(text: &str) -> Result<Table, FormatError> {
    text.parse()
        .map_err(|e: toml::de::Error| FormatError::NotToml {
            message: e.message().to_owned(),
            at: e.span().map_or(0, |span| span.start),
        })
}

/// A value, or the list or inline table that it is.
#[derive(Debug)]
enum Value {
    Plain(String),
    List(Vec<Piece>),
    Fields(Vec<Piece>),
}

/// What stands on a line of its own where a list is broken.
#[derive(Debug)]
enum Piece {
    Comment(String),
    Item {
        /// `key` in an inline table.
        key: Option<String>,
        value: Value,
        /// What was written beside it.
        comment: Option<String>,
    },
}

impl Value {
    fn has_comments(&self) -> bool {
        let (Self::List(pieces) | Self::Fields(pieces)) = self else {
            return false;
        };
        pieces.iter().any(|piece| match piece {
            Piece::Comment(_) => true,
            Piece::Item { value, comment, .. } => comment.is_some() || value.has_comments(),
        })
    }

    fn flat(&self) -> String {
        let (pieces, open, close) = match self {
            Self::Plain(text) => return text.clone(),
            Self::List(pieces) => (pieces, "[", "]"),
            Self::Fields(pieces) if pieces.is_empty() => (pieces, "{", "}"),
            Self::Fields(pieces) => (pieces, "{ ", " }"),
        };
        let items = pieces.iter().filter_map(|piece| match piece {
            Piece::Comment(_) => None,
            Piece::Item { key, value, .. } => Some(match key {
                Some(key) => format!("{key} = {}", value.flat()),
                None => value.flat(),
            }),
        });
        format!("{open}{}{close}", items.collect::<Vec<_>>().join(", "))
    }

    /// Writes it where `room` characters are left on the line; only lists are
    /// broken for want of room, because older readers know inline tables on one
    /// line alone.
    fn write(&self, out: &mut String, room: usize, depth: usize) {
        let comments = self.has_comments();
        let flat = self.flat();
        let wide = matches!(self, Self::List(_)) && flat.chars().count() > room;
        let (Self::List(pieces) | Self::Fields(pieces)) = self else {
            out.push_str(&flat);
            return;
        };
        if !comments && !wide {
            out.push_str(&flat);
            return;
        }
        let (open, close) = match self {
            Self::Fields(_) => ('{', '}'),
            _ => ('[', ']'),
        };
        let inner = INDENT.repeat(depth + 1);
        out.push(open);
        for piece in pieces {
            out.push('\n');
            out.push_str(&inner);
            match piece {
                Piece::Comment(text) => out.push_str(text),
                Piece::Item {
                    key,
                    value,
                    comment,
                } => {
                    let mut used = inner.len() + 1;
                    if let Some(key) = key {
                        used += key.chars().count() + 3;
                        // Writing to a string does not fail.
                        let _ = write!(out, "{key} = ");
                    }
                    value.write(out, WIDTH.saturating_sub(used), depth + 1);
                    out.push(',');
                    beside(out, comment.as_deref());
                }
            }
        }
        out.push('\n');
        out.push_str(&INDENT.repeat(depth));
        out.push(close);
    }
}

fn beside(out: &mut String, comment: Option<&str>) {
    if let Some(comment) = comment {
        out.push(' ');
        out.push_str(comment);
    }
}

/// Reads the tokens of a sound text once, and writes as it reads.
struct Printer<'t> {
    source: Source<'t>,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    out: String,
}

impl<'t> Printer<'t> {
    fn new(text: &'t str) -> Self {
        let source = Source::new(text);
        Self {
            source,
            tokens: source.lex().into_vec().into_iter().peekable(),
            out: String::with_capacity(text.len() + 64),
        }
    }

    fn document(mut self) -> String {
        // Comments without a blank line after them so far: perhaps a table's.
        let mut comments = String::new();
        // Line ends since the last thing that was written.
        let mut ends = 0usize;
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::Eof => break,
                TokenKind::Whitespace => {
                    self.tokens.next();
                }
                TokenKind::Newline => {
                    self.tokens.next();
                    ends += 1;
                    if ends > 1 {
                        self.out.push_str(&std::mem::take(&mut comments));
                        self.blank();
                    }
                }
                TokenKind::Comment => {
                    let text = self.comment();
                    comments.push_str(&text);
                    comments.push('\n');
                    ends = 0;
                }
                TokenKind::LeftSquareBracket => {
                    self.blank();
                    self.out.push_str(&std::mem::take(&mut comments));
                    self.header();
                    ends = 1;
                }
                _ => {
                    self.out.push_str(&std::mem::take(&mut comments));
                    self.entry();
                    ends = 1;
                }
            }
        }
        self.out.push_str(&comments);
        self.out.truncate(self.out.trim_end().len());
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out
    }

    /// One blank line, if there is anything above.
    fn blank(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    fn header(&mut self) {
        while let Some(token) = self.tokens.next_if(|t| !ends_line(t.kind())) {
            if token.kind() != TokenKind::Whitespace {
                let word = self.word(token);
                self.out.push_str(&word);
            }
        }
        self.line_end();
    }

    fn entry(&mut self) {
        let key = self.key();
        let used = key.chars().count() + 3;
        let value = self.value();
        let _ = write!(self.out, "{key} = ");
        let mut text = String::new();
        value.write(&mut text, WIDTH.saturating_sub(used), 0);
        self.out.push_str(&text);
        self.line_end();
    }

    fn line_end(&mut self) {
        self.space();
        if self.peek() == Some(TokenKind::Comment) {
            let comment = self.comment();
            beside(&mut self.out, Some(&comment));
        }
        if self.peek() == Some(TokenKind::Newline) {
            self.tokens.next();
        }
        self.out.push('\n');
    }

    /// A key up to and with its `=`.
    fn key(&mut self) -> String {
        let mut key = String::new();
        while let Some(token) = self.tokens.next() {
            match token.kind() {
                TokenKind::Equals | TokenKind::Eof => break,
                TokenKind::Whitespace => {}
                _ => key.push_str(&self.word(token)),
            }
        }
        key
    }

    fn value(&mut self) -> Value {
        self.space();
        match self.peek() {
            Some(TokenKind::LeftSquareBracket) => {
                self.tokens.next();
                Value::List(self.pieces(false))
            }
            Some(TokenKind::LeftCurlyBracket) => {
                self.tokens.next();
                Value::Fields(self.pieces(true))
            }
            _ => {
                // A number or a time is several tokens.
                let mut text = String::new();
                while let Some(token) = self.tokens.next_if(|t| !ends_value(t.kind())) {
                    text.push_str(&self.word(token));
                }
                Value::Plain(text.trim_end().to_owned())
            }
        }
    }

    /// What stands between brackets, and the bracket that closes it.
    fn pieces(&mut self, keyed: bool) -> Vec<Piece> {
        let mut out: Vec<Piece> = Vec::new();
        // Whether the last item began on this line, so that a comment is its.
        let mut same_line = false;
        while let Some(kind) = self.peek() {
            match kind {
                TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                    self.tokens.next();
                    break;
                }
                TokenKind::Eof => break,
                TokenKind::Whitespace | TokenKind::Comma => {
                    self.tokens.next();
                }
                TokenKind::Newline => {
                    self.tokens.next();
                    same_line = false;
                }
                TokenKind::Comment => {
                    let text = self.comment();
                    match out.last_mut() {
                        Some(Piece::Item { comment, .. }) if same_line && comment.is_none() => {
                            *comment = Some(text);
                        }
                        _ => out.push(Piece::Comment(text)),
                    }
                }
                _ => {
                    let key = keyed.then(|| self.key());
                    let value = self.value();
                    out.push(Piece::Item {
                        key,
                        value,
                        comment: None,
                    });
                    same_line = true;
                }
            }
        }
        out
    }

    fn peek(&mut self) -> Option<TokenKind> {
        self.tokens.peek().map(Token::kind)
    }

    fn space(&mut self) {
        while self
            .tokens
            .next_if(|t| t.kind() == TokenKind::Whitespace)
            .is_some()
        {}
    }

    fn comment(&mut self) -> String {
        let token = self.tokens.next();
        let text = token.map(|token| self.word(token)).unwrap_or_default();
        text.trim_end().to_owned()
    }

    /// A token as it is written: `'text'` becomes `"text"` where nothing in it
    /// would have to be escaped.
    fn word(&self, token: Token) -> String {
        let text = self.source.get(token).map(|raw| raw.as_str());
        let text = text.unwrap_or_default();
        let inner = text.strip_prefix('\'').and_then(|w| w.strip_suffix('\''));
        match (token.kind(), inner) {
            (TokenKind::LiteralString, Some(inner)) if !inner.contains(['"', '\\', '\t']) => {
                format!("\"{inner}\"")
            }
            _ => text.to_owned(),
        }
    }
}

fn ends_line(kind: TokenKind) -> bool {
    matches!(
        kind,
        TokenKind::Newline | TokenKind::Comment | TokenKind::Eof
    )
}

fn ends_value(kind: TokenKind) -> bool {
    ends_line(kind)
        || matches!(
            kind,
            TokenKind::Comma | TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WILD: &str = "\u{feff}# The shop.\r\nversion=1\r\ntrust_domain='shop.example'   # ours\r\n\r\n\r\n\r\n[workload.a]\r\n# its key\r\nattest=[{nkey=\"U\"}]\n# before b\n[workload.b]\nattest = [\n  { nkey = 'V' }, # the old one\n  { nkey = 'W' }]\n\n\n# stands alone\n\n# belongs to the rule\n[[allow]]\nid='x'\nwho=['a',\n'b']\nmay=['request']\non=['orders.a.long.subject.number.one','orders.a.long.subject.number.two','orders.a.long.subject.number.three']\nuser={scope='x',n={min=1}}\npath = 'C:\\x'";

    #[test]
    fn pol_140_one_format_with_every_comment() {
        let want = "# The shop.\nversion = 1\ntrust_domain = \"shop.example\" # ours\n\n[workload.a]\n# its key\nattest = [{ nkey = \"U\" }]\n\n# before b\n[workload.b]\nattest = [\n    { nkey = \"V\" }, # the old one\n    { nkey = \"W\" },\n]\n\n# stands alone\n\n# belongs to the rule\n[[allow]]\nid = \"x\"\nwho = [\"a\", \"b\"]\nmay = [\"request\"]\non = [\n    \"orders.a.long.subject.number.one\",\n    \"orders.a.long.subject.number.two\",\n    \"orders.a.long.subject.number.three\",\n]\nuser = { scope = \"x\", n = { min = 1 } }\npath = 'C:\\x'\n";
        assert_eq!(format(WILD).unwrap(), want);
        assert_eq!(format(want).unwrap(), want);
    }

    #[test]
    fn what_is_no_toml_is_left_alone() {
        for bad in ["a = ", "[a", "a = 1\na = 2", "\u{1}", "x = [1, 2"] {
            let error = format(bad).unwrap_err();
            assert_eq!(error.code(), "not_toml", "{bad:?}");
        }
        assert_eq!(format("").unwrap(), "");
        assert_eq!(format("\n\n# only this").unwrap(), "# only this\n");
    }

    /// What `bulla dev` starts with.
    #[test]
    fn the_first_policy_that_people_see_is_formatted() {
        let text = include_str!("../../../broker/src/dev/templates/policy.toml");
        assert_eq!(format(text).unwrap(), text);
    }

    /// Pieces of a policy, each sound wherever it stands, with comments and
    /// spaces where a person might leave them.
    fn text() -> impl Strategy<Value = String> {
        let gap = prop_oneof![
            Just("\n"),
            Just("\n\n\n\n"),
            Just("  # c\n"),
            Just("\n# c 'x' [y]\n"),
            Just("\r\n"),
            Just("\n\n # c\n\n"),
            Just("\n#\n#[z]\n"),
            Just("   \n\t\n"),
        ];
        let value = prop_oneof![
            Just("'a'".to_owned()),
            Just("\"a # b\"".to_owned()),
            Just("'a\"b'".to_owned()),
            Just("'''a\n[b]\n\n\n# c'''".to_owned()),
            Just("\"\"\"\n[x]\ny=1\"\"\"".to_owned()),
            Just("[]".to_owned()),
            Just("[1,2 , 3,]".to_owned()),
            Just("[ # c\n 'a',\n\n\n 'b' # d\n,\n# e\n]".to_owned()),
            Just("{a='b',c = [1]}".to_owned()),
            Just("{ }".to_owned()),
            Just("-1_000".to_owned()),
            Just("0x1F".to_owned()),
            Just("1.5".to_owned()),
            Just("2026-01-01T00:00:00Z".to_owned()),
            Just("[{nkey='U'},{nkey='V'}]".to_owned()),
            "[a-z.]{60,140}".prop_map(|s| format!("['{s}', '{s}']")),
            "[ -~&&[^'\\\\]]{0,20}".prop_map(|s| format!("'{s}'")),
        ];
        let key = prop_oneof![Just(""), Just("x."), Just("'q r'."), Just("\"s.{t}\".")];
        let entry = (
            key,
            value,
            gap.clone(),
            prop_oneof![Just("="), Just(" =  ")],
        );
        let table = (any::<bool>(), proptest::collection::vec(entry, 0..4), gap);
        proptest::collection::vec(table, 0..5).prop_map(|tables| {
            let mut out = String::new();
            for (i, (array, entries, gap)) in tables.into_iter().enumerate() {
                if i > 0 {
                    match array {
                        true => out.push_str("[[ rule ]]"),
                        false => out.push_str(&format!("[ t{i} . 'u.v' ]")),
                    }
                    out.push_str(gap);
                }
                for (j, (key, value, gap, eq)) in entries.into_iter().enumerate() {
                    out.push_str(&format!("{key}k{j}{eq}{value}{gap}"));
                }
            }
            out
        })
    }

    proptest! {
        #[test]
        fn pol_140_formatting_stands_still_and_changes_nothing(text in text()) {
            let before: Table = text.parse().unwrap();
            let once = format(&text).unwrap();
            prop_assert_eq!(&before, &once.parse::<Table>().unwrap());
            prop_assert_eq!(format(&once).unwrap(), once.clone());
            let comments = |t: &str| t.matches("# c").count();
            prop_assert_eq!(comments(&once), comments(&text));
            let multi = once.contains("'''") || once.contains("\"\"\"");
            prop_assert!(multi || !once.lines().any(|line| line.ends_with([' ', '\t'])));
            prop_assert!(multi || !once.contains("\n\n\n"));
        }

        #[test]
        fn any_text_is_formatted_or_refused(text in "\\PC{0,60}") {
            let _ = format(&text);
        }
    }
}
