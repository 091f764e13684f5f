//! One TOML table, read key by key: what nobody asked for is a mistake too.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::document::{Document, Kind, Located, Place};
use crate::quantities::{parse_duration, parse_size};

/// A table whose keys are taken one by one; what is left is unknown.
pub(crate) struct Section<'a> {
    document: &'a Document<'a>,
    name: String,
    span: Range<usize>,
    entries: Vec<Entry<'a>>,
    known: Vec<&'static str>,
}

#[derive(Clone)]
struct Entry<'a> {
    key: &'a str,
    value: Value<'a>,
    key_span: Range<usize>,
    taken: bool,
}

/// A value and where the places of its file begin.
#[derive(Clone, Copy)]
struct Value<'a> {
    value: &'a Spanned<DeValue<'a>>,
    begin: usize,
}

impl<'a> Value<'a> {
    fn get(self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    fn span(self) -> Range<usize> {
        shifted(&self.value.span(), self.begin)
    }

    fn item(self, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            value,
            begin: self.begin,
        }
    }
}

fn shifted(span: &Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

impl<'a> Section<'a> {
    /// The top level of a file whose places begin at `begin`.
    pub(crate) fn root(
        document: &'a Document<'a>,
        tree: &'a Spanned<DeTable<'a>>,
        begin: usize,
    ) -> Self {
        Self::new(document, String::new(), begin..begin, tree.get_ref(), begin)
    }

    fn new(
        document: &'a Document<'a>,
        name: String,
        span: Range<usize>,
        table: &'a DeTable<'a>,
        begin: usize,
    ) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref(),
                key_span: shifted(&key.span(), begin),
                value: Value { value, begin },
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

    /// Takes over what another table says and this one does not.
    pub(crate) fn inherit(&mut self, from: &Self) {
        for entry in &from.entries {
            if !self.entries.iter().any(|e| e.key == entry.key) {
                self.entries.push(entry.clone());
            }
        }
    }

    /// The keys of a table that anybody may name as he likes.
    pub(crate) fn names(&self) -> Vec<Located<String>> {
        let names = self.entries.iter().map(|e| Located {
            value: e.key.to_owned(),
            span: e.key_span.clone(),
        });
        names.collect()
    }

    /// The text under a name that is not known beforehand.
    pub(crate) fn named_text(&mut self, name: &str) -> Option<Located<String>> {
        let value = self.named(name)?;
        self.as_text(value, name, "a string")
    }

    /// The table under a name that is not known beforehand.
    pub(crate) fn named_section(&mut self, name: &str) -> Option<Section<'a>> {
        let value = self.named(name)?;
        self.as_section(value, name)
    }

    fn named(&mut self, name: &str) -> Option<Value<'a>> {
        let entry = self.entries.iter_mut().find(|e| e.key == name)?;
        entry.taken = true;
        Some(entry.value)
    }

    fn as_text(&self, value: Value<'_>, key: &str, expected: &str) -> Option<Located<String>> {
        let text = value.get().as_str();
        if text.is_none() {
            self.wrong(value, key, expected);
        }
        text.map(|text| Located {
            value: text.to_owned(),
            span: value.span(),
        })
    }

    fn as_section(&self, value: Value<'a>, name: &str) -> Option<Section<'a>> {
        match value.get().as_table() {
            Some(table) => Some(Section::new(
                self.document,
                name.to_owned(),
                value.span(),
                table,
                value.begin,
            )),
            None => {
                self.wrong(value, name, "a table");
                None
            }
        }
    }

    /// Whether the key is there, whatever it says.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|e| e.key == key)
    }

    /// Where the section begins.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(crate) fn problem(&self, at: &Range<usize>, message: impl Into<String>) {
        self.document.problem(at, message);
    }

    /// In which file, line and column something stands.
    pub(crate) fn place(&self, at: &Range<usize>) -> Option<Place> {
        self.document.place(at)
    }

    fn missing(&self, key: &str, remedy: &str) {
        let place = if self.name.is_empty() {
            String::new()
        } else {
            format!(" in `{}`", self.name)
        };
        self.problem(&self.span, format!("`{key}` is missing{place}: {remedy}"));
    }

    /// Whether the key is there; says that it is missing if not.
    fn require(&mut self, key: &'static str, remedy: &str) -> bool {
        let there = self.has(key);
        if !there {
            self.known.push(key);
            self.missing(key, remedy);
        }
        there
    }

    fn take(&mut self, key: &'static str, kind: Kind) -> Option<Value<'a>> {
        self.document.learn(&self.name, key, kind);
        self.known.push(key);
        self.named(key)
    }

    fn wrong(&self, at: Value<'_>, key: &str, expected: &str) {
        let found = at.get().type_str();
        self.problem(
            &at.span(),
            format!("`{key}` is {found}, {expected} is expected"),
        );
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<Located<String>> {
        let value = self.take(key, Kind::Text)?;
        self.as_text(value, key, "a string")
    }

    pub(crate) fn required_text(
        &mut self,
        key: &'static str,
        remedy: &str,
    ) -> Option<Located<String>> {
        self.require(key, remedy).then(|| self.text(key)).flatten()
    }

    /// A string, or an array of strings.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<Located<String>>> {
        let value = self.take(key, Kind::Texts)?;
        let Some(items) = value.get().as_array() else {
            let only = self.as_text(value, key, "a string or an array of strings");
            return only.map(|text| vec![text]);
        };
        let items = items.iter().map(|item| value.item(item));
        Some(
            items
                .filter_map(|item| self.as_text(item, key, "a string"))
                .collect(),
        )
    }

    pub(crate) fn required_texts(
        &mut self,
        key: &'static str,
        remedy: &str,
    ) -> Option<Vec<Located<String>>> {
        self.require(key, remedy).then(|| self.texts(key)).flatten()
    }

    pub(crate) fn integers(&mut self, key: &'static str) -> Option<Vec<Located<u64>>> {
        let value = self.take(key, Kind::Integers)?;
        let Some(items) = value.get().as_array() else {
            self.wrong(value, key, "an array of numbers");
            return None;
        };
        let mut numbers = Vec::new();
        for item in items.iter().map(|item| value.item(item)) {
            match integer(item.get()) {
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
        let last = range.end.saturating_sub(1);
        self.whole(key, range.start as u64..=last as u64)
            .and_then(|n| usize::try_from(n).ok())
    }

    pub(crate) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key, Kind::Flag)?;
        if value.get().as_bool().is_none() {
            self.wrong(value, key, "`true` or `false`");
        }
        value.get().as_bool()
    }

    pub(crate) fn number(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        self.whole(key, u64::from(*range.start())..=u64::from(*range.end()))
            .and_then(|n| u32::try_from(n).ok())
    }

    /// A whole number within a range.
    fn whole(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key, Kind::Number)?;
        match integer(value.get()) {
            Some(n) if range.contains(&n) => Some(n),
            Some(n) => {
                let (first, last) = (range.start(), range.end());
                let message =
                    format!("`{key}` is {n}, out of range: {first} to {last} is possible");
                self.problem(&value.span(), message);
                None
            }
            None => {
                self.wrong(value, key, "a whole number");
                None
            }
        }
    }

    pub(crate) fn required_number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        remedy: &str,
    ) -> Option<u32> {
        self.require(key, remedy)
            .then(|| self.number(key, range))
            .flatten()
    }

    pub(crate) fn required_duration(
        &mut self,
        key: &'static str,
        range: Range<Duration>,
        remedy: &str,
    ) -> Option<Duration> {
        self.require(key, remedy)
            .then(|| self.duration(key, range))
            .flatten()
    }

    /// A time such as `"250ms"`, `"5s"`, `"2m"`, `"1h"`.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        range: Range<Duration>,
    ) -> Option<Duration> {
        let value = self.take(key, Kind::Duration)?;
        match value.get().as_str().and_then(parse_duration) {
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
        let value = self.take(key, Kind::Size)?;
        let size = match value.get().as_str() {
            Some(text) => parse_size(text),
            None => integer(value.get()).and_then(|n| usize::try_from(n).ok()),
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
        let value = self.take(key, Kind::Table)?;
        self.as_section(value, key)
    }

    pub(crate) fn required_section(
        &mut self,
        key: &'static str,
        remedy: &str,
    ) -> Option<Section<'a>> {
        self.require(key, remedy)
            .then(|| self.section(key))
            .flatten()
    }

    /// An array of tables: `[[key]]`.
    pub(crate) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.take(key, Kind::Tables) else {
            return Vec::new();
        };
        let Some(items) = value.get().as_array() else {
            self.problem(&value.span(), format!("write each as `[[{key}]]`"));
            return Vec::new();
        };
        let items = items.iter().map(|item| value.item(item));
        items
            .filter_map(|item| self.as_section(item, key))
            .collect()
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
    use crate::document::ConfigErrors;

    #[test]
    fn every_problem_has_its_place() {
        let text = "a = 1\nbodyy = 2\n[limits]\n  timeout = \"soon\"\n";
        let document = Document::new("x.toml", text);
        let trees = document.trees();
        let (tree, begin) = trees.first().unwrap();
        let mut root = Section::root(&document, tree, *begin);
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
        let errors = ConfigErrors::new(document.into_problems());
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
}
