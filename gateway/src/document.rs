//! Reading TOML so that every mistake is reported at once, each with its file,
//! line and column.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One mistake in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 if the file as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 if the file as a whole is meant.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)
        } else {
            write!(
                f,
                "{}:{}:{}: {}",
                self.file, self.line, self.column, self.message
            )
        }
    }
}

/// Everything that is wrong with a configuration, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigProblem>);

impl ConfigErrors {
    pub(crate) fn new(mut problems: Vec<ConfigProblem>) -> Self {
        // Stable: files stay in the order in which they were read.
        problems.sort_by(|a, b| {
            if a.file == b.file {
                (a.line, a.column).cmp(&(b.line, b.column))
            } else {
                std::cmp::Ordering::Equal
            }
        });
        Self(problems)
    }

    pub(crate) fn whole_file(file: &str, message: impl Into<String>) -> Self {
        Self(vec![ConfigProblem {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message: message.into(),
        }])
    }

    /// The mistakes; never empty.
    #[must_use]
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// One TOML file while it is being read.
pub(crate) struct Document<'s> {
    file: &'s str,
    text: &'s str,
    problems: RefCell<Vec<ConfigProblem>>,
}

impl<'s> Document<'s> {
    pub(crate) fn new(file: &'s str, text: &'s str) -> Self {
        Self {
            file,
            text,
            problems: RefCell::default(),
        }
    }

    /// The file's top level; syntax errors become problems.
    pub(crate) fn tree(&self) -> Spanned<DeTable<'s>> {
        let (tree, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().unwrap_or(0..0);
            self.problem(&at, error.message().to_owned());
        }
        tree
    }

    pub(crate) fn problem(&self, at: &Range<usize>, message: impl Into<String>) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
        self.problems.borrow_mut().push(ConfigProblem {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            message: message.into(),
        });
    }

    pub(crate) fn into_problems(self) -> Vec<ConfigProblem> {
        self.problems.into_inner()
    }
}

/// A table whose keys are taken one by one; what is left is unknown.
pub(crate) struct Section<'a> {
    document: &'a Document<'a>,
    name: String,
    span: Range<usize>,
    entries: Vec<Entry<'a>>,
    known: Vec<&'static str>,
}

struct Entry<'a> {
    key: &'a str,
    key_span: Range<usize>,
    value: &'a Spanned<DeValue<'a>>,
    taken: bool,
}

impl<'a> Section<'a> {
    pub(crate) fn root(document: &'a Document<'a>, tree: &'a Spanned<DeTable<'a>>) -> Self {
        Self::new(document, String::new(), 0..0, tree.get_ref())
    }

    fn new(
        document: &'a Document<'a>,
        name: String,
        span: Range<usize>,
        table: &'a DeTable<'a>,
    ) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref(),
                key_span: key.span(),
                value,
                taken: false,
            })
            .collect();
        Self {
            document,
            name,
            span,
            entries,
            known: Vec::new(),
        }
    }

    /// Where the section begins.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(crate) fn problem(&self, at: &Range<usize>, message: impl Into<String>) {
        self.document.problem(at, message);
    }

    fn missing(&self, key: &str, remedy: &str) {
        let place = if self.name.is_empty() {
            String::new()
        } else {
            format!(" in `{}`", self.name)
        };
        self.problem(&self.span, format!("`{key}` is missing{place}: {remedy}"));
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        let entry = self.entries.iter_mut().find(|e| e.key == key)?;
        entry.taken = true;
        Some(entry.value)
    }

    fn wrong(&self, at: &Spanned<DeValue<'_>>, key: &str, expected: &str) {
        let found = at.get_ref().type_str();
        self.problem(
            &at.span(),
            format!("`{key}` is {found}, {expected} is expected"),
        );
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        let value = self.take(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(Located {
                value: text.to_owned(),
                span: value.span(),
            }),
            None => {
                self.wrong(value, key, "a string");
                None
            }
        }
    }

    pub(crate) fn required_text(
        &mut self,
        key: &'static str,
        remedy: &str,
    ) -> Option<Located<String>> {
        if !self.entries.iter().any(|e| e.key == key) {
            self.known.push(key);
            self.missing(key, remedy);
            return None;
        }
        self.text(key)
    }

    /// A string, or an array of strings.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<Located<String>>> {
        let value = self.take(key)?;
        if let Some(text) = value.get_ref().as_str() {
            return Some(vec![Located {
                value: text.to_owned(),
                span: value.span(),
            }]);
        }
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, key, "a string or an array of strings");
            return None;
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Located {
                    value: text.to_owned(),
                    span: item.span(),
                }),
                None => self.wrong(item, key, "a string"),
            }
        }
        Some(texts)
    }

    pub(crate) fn required_texts(
        &mut self,
        key: &'static str,
        remedy: &str,
    ) -> Option<Vec<Located<String>>> {
        if !self.entries.iter().any(|e| e.key == key) {
            self.known.push(key);
            self.missing(key, remedy);
            return None;
        }
        self.texts(key)
    }

    pub(crate) fn integers(&mut self, key: &'static str) -> Option<Vec<Located<u64>>> {
        let value = self.take(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, key, "an array of numbers");
            return None;
        };
        let mut numbers = Vec::new();
        for item in items.iter() {
            match integer(item.get_ref()) {
                Some(number) => numbers.push(Located {
                    value: number,
                    span: item.span(),
                }),
                None => self.wrong(item, key, "a number"),
            }
        }
        Some(numbers)
    }

    pub(crate) fn count(&mut self, key: &'static str, range: Range<usize>) -> Option<usize> {
        let value = self.take(key)?;
        let number = integer(value.get_ref()).and_then(|n| usize::try_from(n).ok());
        match number {
            Some(n) if range.contains(&n) => Some(n),
            Some(n) => {
                let last = range.end.saturating_sub(1);
                let message = format!("`{key}` is {n}, {} to {last} is possible", range.start);
                self.problem(&value.span(), message);
                None
            }
            None => {
                self.wrong(value, key, "a whole number");
                None
            }
        }
    }

    /// A time such as `"250ms"`, `"5s"`, `"2m"`, `"1h"`.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        range: Range<Duration>,
    ) -> Option<Duration> {
        let value = self.take(key)?;
        match value.get_ref().as_str().and_then(parse_duration) {
            Some(d) if range.contains(&d) => Some(d),
            Some(_) => {
                let message = format!(
                    "`{key}` is out of range: from {:?} to below {:?}",
                    range.start, range.end
                );
                self.problem(&value.span(), message);
                None
            }
            None => {
                self.problem(
                    &value.span(),
                    format!(
                        "`{key}` is no time: write for example `\"250ms\"`, `\"5s\"` or `\"2m\"`"
                    ),
                );
                None
            }
        }
    }

    /// A size such as `65536`, `"64KiB"`, `"1MiB"`.
    pub(crate) fn size(&mut self, key: &'static str, range: Range<usize>) -> Option<usize> {
        let value = self.take(key)?;
        let size = match value.get_ref().as_str() {
            Some(text) => parse_size(text),
            None => integer(value.get_ref()).and_then(|n| usize::try_from(n).ok()),
        };
        match size {
            Some(n) if range.contains(&n) => Some(n),
            Some(_) => {
                let message = format!(
                    "`{key}` is out of range: from {} to below {} bytes",
                    range.start, range.end
                );
                self.problem(&value.span(), message);
                None
            }
            None => {
                self.problem(
                    &value.span(),
                    format!(
                        "`{key}` is no size: write for example `65536`, `\"64KiB\"` or `\"1MiB\"`"
                    ),
                );
                None
            }
        }
    }

    /// A table within this one.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let value = self.take(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(
                self.document,
                key.to_owned(),
                value.span(),
                table,
            )),
            None => {
                self.wrong(value, key, "a table");
                None
            }
        }
    }

    pub(crate) fn required_section(
        &mut self,
        key: &'static str,
        remedy: &str,
    ) -> Option<Section<'a>> {
        if !self.entries.iter().any(|e| e.key == key) {
            self.known.push(key);
            self.missing(key, remedy);
            return None;
        }
        self.section(key)
    }

    /// An array of tables: `[[key]]`.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.problem(&value.span(), format!("write each as `[[{key}]]`"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(
                    self.document,
                    key.to_owned(),
                    item.span(),
                    table,
                )),
                None => self.wrong(item, key, "a table"),
            }
        }
        sections
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(self) {
        for entry in self.entries.iter().filter(|e| !e.taken) {
            let near = self
                .known
                .iter()
                .find(|k| similar(k, entry.key))
                .map_or_else(
                    || format!("possible are {}", self.known.join(", ")),
                    |k| format!("did you mean `{k}`?"),
                );
            self.problem(
                &entry.key_span,
                format!("unknown key `{}`: {near}", entry.key),
            );
        }
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Reads `250ms`, `5s`, `2m` or `1h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: usize = number.parse().ok()?;
    number.checked_mul(match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    })
}

/// Whether two keys differ by no more than two letters.
fn similar(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 2 || a.len() < 3 {
        return false;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = cost.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().is_some_and(|d| *d <= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        for bad in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "1.5s",
            "5d",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        assert_eq!(parse_size("64KiB"), Some(65536));
        assert_eq!(parse_size("10"), Some(10));
        for bad in ["", "KiB", "1GB", "1.5MiB", "-1"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_problem_has_its_place() {
        let text = "a = 1\nbodyy = 2\n[limits]\n  timeout = \"soon\"\n";
        let document = Document::new("x.toml", text);
        let tree = document.tree();
        let mut root = Section::root(&document, &tree);
        assert_eq!(root.text("a").map(|l| l.value), None);
        assert!(root.size("body", 0..10).is_none());
        let mut limits = root.section("limits").unwrap();
        assert!(
            limits
                .duration("timeout", Duration::ZERO..Duration::MAX)
                .is_none()
        );
        limits.finish();
        root.finish();
        let errors = ConfigErrors::new(document.problems.borrow().clone());
        let lines: Vec<String> = errors.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "x.toml:1:5: `a` is integer, a string is expected",
                "x.toml:2:1: unknown key `bodyy`: did you mean `body`?",
                "x.toml:4:13: `timeout` is no time: write for example `\"250ms\"`, `\"5s\"` or `\"2m\"`",
            ]
        );
    }

    #[test]
    fn syntax_errors_have_their_place_too() {
        let document = Document::new("x.toml", "a = \nb = 1\n");
        let _ = document.tree();
        let problems = document.into_problems();
        assert_eq!(problems.first().map(|p| p.line), Some(1));
    }
}
