//! Reading TOML so that every mistake is reported at once, each with its file,
//! line and column.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

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

/// Where something stands in a configuration, for what is found out about it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    file: Arc<str>,
    line: usize,
    column: usize,
}

impl Place {
    /// A mistake that stands here.
    pub(crate) fn problem(&self, message: impl Into<String>) -> ConfigProblem {
        ConfigProblem {
            file: self.file.to_string(),
            line: self.line,
            column: self.column,
            message: message.into(),
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

/// TOML files while they are read. Each has its own stretch of one common range of
/// places, so that a place alone says in which file it is.
pub(crate) struct Document<'s> {
    files: Vec<File<'s>>,
    problems: RefCell<Vec<ConfigProblem>>,
    /// Which keys were asked for, by the name of their table.
    learned: RefCell<Keys>,
}

/// Keys and what they hold, by the name of their table.
pub(crate) type Keys = BTreeMap<String, BTreeMap<&'static str, Kind>>;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// A text, or several.
    Texts,
    Flag,
    Number,
    Integers,
    Duration,
    Size,
    /// A table of the same name.
    Table,
    Tables,
}

struct File<'s> {
    name: &'s str,
    text: &'s str,
    /// Where its places begin.
    begin: usize,
}

impl<'s> Document<'s> {
    pub(crate) fn new(name: &'s str, text: &'s str) -> Self {
        Self::of([(name, text)])
    }

    pub(crate) fn of(files: impl IntoIterator<Item = (&'s str, &'s str)>) -> Self {
        let mut begin = 0;
        let files = files.into_iter().map(|(name, text)| {
            let file = File { name, text, begin };
            begin += text.len() + 1;
            file
        });
        Self {
            files: files.collect(),
            problems: RefCell::default(),
            learned: RefCell::default(),
        }
    }

    /// The top level of each file and where its places begin; syntax errors become
    /// problems.
    pub(crate) fn trees(&self) -> Vec<(Spanned<DeTable<'s>>, usize)> {
        let parsed = self.files.iter().map(|file| {
            let (tree, errors) = DeTable::parse_recoverable(file.text);
            for error in errors {
                let at = error.span().unwrap_or(0..0);
                let at = file.begin + at.start..file.begin + at.end;
                self.problem(&at, error.message().to_owned());
            }
            (tree, file.begin)
        });
        parsed.collect()
    }

    /// Remembers that somebody asked for a key.
    pub(crate) fn learn(&self, table: &str, key: &'static str, kind: Kind) {
        let mut learned = self.learned.borrow_mut();
        match learned.get_mut(table) {
            Some(keys) => keys.insert(key, kind),
            None => learned
                .entry(table.to_owned())
                .or_default()
                .insert(key, kind),
        };
    }

    /// Every key that was asked for.
    pub(crate) fn learned(&self) -> Keys {
        self.learned.borrow().clone()
    }

    /// In which file, line and column something stands.
    pub(crate) fn place(&self, at: &Range<usize>) -> Option<Place> {
        let file = self.files.iter().rev().find(|f| f.begin <= at.start)?;
        let before = file.text.get(..at.start - file.begin).unwrap_or(file.text);
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        Some(Place {
            file: file.name.into(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or("").chars().count() + 1,
        })
    }

    /// Tells a mistake, once.
    pub(crate) fn problem(&self, at: &Range<usize>, message: impl Into<String>) {
        let Some(place) = self.place(at) else {
            return;
        };
        let problem = place.problem(message);
        let mut problems = self.problems.borrow_mut();
        // A profile's mistake would come again with each route that has it.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    pub(crate) fn into_problems(self) -> Vec<ConfigProblem> {
        self.problems.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_have_their_place_too() {
        let document = Document::new("x.toml", "a = \nb = 1\n");
        let _ = document.trees();
        let problems = document.into_problems();
        assert_eq!(problems.first().map(|p| p.line), Some(1));
    }
}
