//! Why a policy does not load.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::excerpt::{Excerpt, harmless};
use crate::problem::Problem;
use crate::source::{Place, Source};

/// The most errors that are reported for one policy; the rest is counted.
const MAX_ERRORS: usize = 500;

/// Every error of one policy, in the order of their places.
///
/// `Display` prints them all with the source line and a caret, without colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyErrors {
    file: Arc<str>,
    errors: Vec<PolicyError>,
    omitted: usize,
}

/// One error: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    problem: Problem,
    excerpt: Excerpt,
}

impl PolicyErrors {
    /// The policy's name, as it was given: of its file, or of what its files
    /// are in.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The errors, by place.
    #[must_use]
    pub fn errors(&self) -> &[PolicyError] {
        &self.errors
    }

    /// How many more there were beyond those in [`PolicyErrors::errors`].
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl PolicyError {
    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// A stable name for the kind of error, such as `unknown_key`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.problem.code()
    }

    /// What is wrong, in one sentence. Safe to print: words of the file that
    /// it repeats hold no control characters.
    #[must_use]
    pub fn message(&self) -> String {
        harmless(&self.problem.to_string())
    }

    /// What to do about it, as safe to print.
    #[must_use]
    pub fn remedy(&self) -> String {
        harmless(&self.problem.remedy())
    }

    /// Where it stands in the text.
    #[must_use]
    pub fn excerpt(&self) -> &Excerpt {
        &self.excerpt
    }

    /// The name of the file that it is in.
    #[must_use]
    pub fn file(&self) -> &str {
        self.excerpt.file()
    }

    /// The line in its file, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.excerpt.line()
    }

    /// The column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> u32 {
        self.excerpt.column()
    }

    /// As [`Excerpt::source_line`].
    #[must_use]
    pub fn source_line(&self) -> &str {
        self.excerpt.source_line()
    }

    /// As [`Excerpt::caret`].
    #[must_use]
    pub fn caret(&self) -> (usize, usize) {
        self.excerpt.caret()
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {}", error.message())?;
            let pad = error.excerpt.write(f)?;
            writeln!(f, "{pad} = {}\n", error.remedy())?;
        }
        let total = self.errors.len() + self.omitted;
        let plural = if total == 1 { "" } else { "s" };
        write!(f, "{}: {total} error{plural}", self.file)?;
        if self.omitted > 0 {
            write!(f, ", {} of them not shown", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// Collects the errors of one policy; places are bytes of its whole text.
pub(crate) struct Sink<'t> {
    files: Vec<File<'t>>,
    found: Vec<(usize, usize, Problem)>,
    omitted: usize,
}

struct File<'t> {
    /// `None` if the policy's name is the file's.
    name: Option<Arc<str>>,
    text: &'t str,
    /// Where in the whole text it begins.
    start: usize,
    /// Where each line begins in it, in bytes.
    lines: Vec<usize>,
}

impl<'t> File<'t> {
    fn new(name: Option<Arc<str>>, text: &'t str, start: usize) -> Self {
        let mut lines = vec![0];
        lines.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self {
            name,
            text,
            start,
            lines,
        }
    }

    /// The line of a byte of this file, counted from 1.
    fn line_of(&self, offset: usize) -> u32 {
        let before = self.lines.partition_point(|start| *start <= offset);
        u32::try_from(before.max(1)).unwrap_or(u32::MAX)
    }
}

impl<'t> Sink<'t> {
    /// For a text of one file, which is named as the policy is.
    pub(crate) fn new(text: &'t str) -> Self {
        Self::with(vec![File::new(None, text, 0)])
    }

    /// For a text of these files.
    pub(crate) fn of(sources: &[Source<'t>]) -> Self {
        Self::with(
            sources
                .iter()
                .map(|s| File::new(Some(s.name.clone()), s.text, s.span.start))
                .collect(),
        )
    }

    fn with(files: Vec<File<'t>>) -> Self {
        Self {
            files,
            found: Vec::new(),
            omitted: 0,
        }
    }

    pub(crate) fn report(&mut self, span: &Range<usize>, problem: Problem) {
        if self.found.len() < MAX_ERRORS {
            self.found.push((span.start, span.end, problem));
        } else {
            self.omitted += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Where a byte stands.
    pub(crate) fn place_of(&self, offset: usize) -> Place {
        let file = self.file_of(offset);
        let many = self.files.len() > 1;
        Place {
            file: file.and_then(|f| f.name.clone()).filter(|_| many),
            line: file.map_or(1, |f| f.line_of(offset.saturating_sub(f.start))),
        }
    }

    /// What stands there, to be shown.
    pub(crate) fn excerpt(&self, policy: &Arc<str>, span: Range<usize>) -> Option<Excerpt> {
        let file = self.file_of(span.start)?;
        let name = file.name.as_ref().unwrap_or(policy);
        let start = span.start.saturating_sub(file.start);
        let end = span.end.saturating_sub(file.start);
        Some(file.excerpt(name, start..end))
    }

    fn file_of(&self, offset: usize) -> Option<&File<'t>> {
        let after = self.files.partition_point(|file| file.start <= offset);
        self.files.get(after.saturating_sub(1))
    }

    pub(crate) fn finish(mut self, file: &str) -> PolicyErrors {
        self.found.sort_by_key(|(start, end, _)| (*start, *end));
        let found = std::mem::take(&mut self.found);
        let policy: Arc<str> = file.into();
        let errors = found
            .into_iter()
            .filter_map(|(start, end, problem)| {
                let excerpt = self.excerpt(&policy, start..end)?;
                Some(PolicyError { problem, excerpt })
            })
            .collect();
        PolicyErrors {
            file: policy,
            errors,
            omitted: self.omitted,
        }
    }
}

impl File<'_> {
    fn excerpt(&self, name: &Arc<str>, span: Range<usize>) -> Excerpt {
        let line = self.line_of(span.start);
        let line_start = self
            .lines
            .get(line as usize - 1)
            .copied()
            .unwrap_or_default();
        let source = self
            .text
            .get(line_start..)
            .and_then(|rest| rest.split('\n').next())
            .unwrap_or_default()
            .trim_end_matches('\r');
        let start = span.start.saturating_sub(line_start);
        let end = span.end.saturating_sub(line_start);
        Excerpt::new(name, line, source, start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_survive_the_ends() {
        let text = "a = \"ä\" x\r\nbb";
        let mut sink = Sink::new(text);
        let at = text.find('x').unwrap();
        for span in [
            at..at + 1,
            text.len() - 2..text.len(),
            text.len()..text.len(),
            900..901,
        ] {
            sink.report(&span, Problem::EmptyList { key: "on" });
        }
        let errors = sink.finish("p.toml");
        let places: Vec<_> = errors
            .errors()
            .iter()
            .map(|e| (e.line(), e.column()))
            .collect();
        assert_eq!(places, [(1, 9), (2, 1), (2, 3), (2, 3)]);
        assert_eq!(errors.errors()[0].caret(), (8, 1));
        assert_eq!(errors.errors()[1].source_line(), "bb");
    }

    #[test]
    fn what_is_shown_is_safe_and_short() {
        let text = format!("{}\x1b[31mX{}", "y".repeat(500), "z".repeat(500));
        let mut sink = Sink::new(&text);
        let at = text.find('X').unwrap();
        sink.report(&(at..at + 1), Problem::EmptyList { key: "on" });
        let errors = sink.finish("p.toml");
        let error = &errors.errors()[0];
        assert!(error.source_line().chars().count() <= crate::excerpt::SHOWN);
        assert!(!error.source_line().contains('\x1b'));
        assert_eq!(error.source_line().chars().nth(error.caret().0), Some('X'));
    }

    #[test]
    fn a_flood_of_errors_is_counted_not_kept() {
        let mut sink = Sink::new("x");
        for _ in 0..MAX_ERRORS + 7 {
            sink.report(&(0..1), Problem::EmptyList { key: "on" });
        }
        let errors = sink.finish("p.toml");
        assert_eq!(errors.errors().len(), MAX_ERRORS);
        assert_eq!(errors.omitted(), 7);
    }
}
