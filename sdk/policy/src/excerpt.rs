//! A place in a policy's text, as it is shown to people.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The longest piece of a source line that is shown, in characters.
pub(crate) const SHOWN: usize = 110;

/// A place in a policy's text and its line, with carets under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    file: Arc<str>,
    line: u32,
    column: u32,
    shown: String,
    caret_at: usize,
    caret_len: usize,
}

impl Excerpt {
    /// `span` counts bytes in `source`, which is one line.
    pub(crate) fn new(file: &Arc<str>, line: u32, source: &str, span: Range<usize>) -> Self {
        let chars_until = |offset: usize| {
            source
                .char_indices()
                .take_while(|(at, _)| *at < offset)
                .count()
        };
        let from = chars_until(span.start);
        let len = chars_until(span.end).saturating_sub(from);
        let skip = from.saturating_sub(SHOWN / 2);
        let shown: String = source.chars().skip(skip).take(SHOWN).collect();
        let shown = harmless(&shown);
        let caret_at = from - skip;
        let room = shown.chars().count().saturating_sub(caret_at);
        Self {
            file: Arc::clone(file),
            line,
            column: u32::try_from(from + 1).unwrap_or(u32::MAX),
            shown,
            caret_at,
            caret_len: len.min(room).max(1),
        }
    }

    /// The name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line in its file, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> u32 {
        self.column
    }

    /// The source line, or the part of a long one around the place; control
    /// characters are replaced, so that it can be printed on a terminal.
    #[must_use]
    pub fn source_line(&self) -> &str {
        &self.shown
    }

    /// Where in [`Excerpt::source_line`] the caret belongs, in characters from 0,
    /// and how many carets: at least one.
    #[must_use]
    pub fn caret(&self) -> (usize, usize) {
        (self.caret_at, self.caret_len)
    }

    /// Writes it without colour, and returns the indent of what follows.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>) -> Result<String, fmt::Error> {
        let pad = " ".repeat(self.line.to_string().len());
        writeln!(f, "{pad}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{pad} |")?;
        writeln!(f, "{} | {}", self.line, self.shown)?;
        let (indent, carets) = (" ".repeat(self.caret_at), "^".repeat(self.caret_len));
        writeln!(f, "{pad} | {indent}{carets}")?;
        Ok(pad)
    }
}

/// Text as it can go to a terminal, character for character.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}
