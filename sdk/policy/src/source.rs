//! A policy's text and the files that it was put together from.
//!
//! A policy of several files is one text: each file stands under a line
//! `#:file NAME`. So there is one thing to sign, to hash, to show and to bring
//! back, and every error still names the file that it is in.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{PolicyErrors, Sink};
use crate::problem::Problem;

/// What a line begins with that names the file that follows.
const MARK: &str = "#:file ";

/// The longest name of a file, in bytes.
const MAX_NAME: usize = 255;

/// One file of a policy.
#[derive(Debug, Clone)]
pub(crate) struct Source<'t> {
    pub(crate) name: Arc<str>,
    /// Where in the whole text it stands.
    pub(crate) span: Range<usize>,
    pub(crate) text: &'t str,
}

/// Where something stands in a policy: in which file, if the policy is made of
/// several, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    pub(crate) file: Option<Arc<str>>,
    pub(crate) line: u32,
}

impl Place {
    /// The file; `None` if the policy has only one.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The line in its file, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for Place {
    /// As `line 7`, or `line 7 of orders.toml`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        match &self.file {
            Some(file) => write!(f, " of {file}"),
            None => Ok(()),
        }
    }
}

/// Puts the files of a policy together to the one text that is signed, in the
/// order of their names, so that the same files always give the same text.
///
/// ```
/// let text = bulla_policy::join_sources(&[
///     ("shop.toml", "version = 1\ntrust_domain = \"acme.example\"\n"),
///     ("orders.toml", "version = 1\n"),
/// ])?;
/// assert!(text.starts_with("#:file orders.toml\nversion = 1\n#:file shop.toml\n"));
/// # Ok::<(), bulla_policy::PolicyErrors>(())
/// ```
///
/// # Errors
/// [`PolicyErrors`] if a name is unfit, stands twice, or a file holds a line
/// that would begin another one.
pub fn join(sources: &[(&str, &str)]) -> Result<String, PolicyErrors> {
    let mut sorted: Vec<_> = sources.to_vec();
    sorted.sort_unstable();
    let mut out = String::with_capacity(sorted.iter().map(|(n, t)| n.len() + t.len() + 9).sum());
    let mut last = None;
    for (name, text) in sorted {
        let refuse = |at: Range<usize>, problem| {
            let mut sink = Sink::new(text);
            sink.report(&at, problem);
            Err(sink.finish(name))
        };
        let sound = !name.trim().is_empty() && name.trim() == name && name.len() <= MAX_NAME;
        if !sound || name.contains(char::is_control) || last == Some(name) {
            let name = name.escape_debug().take(MAX_NAME).collect();
            return refuse(0..0, Problem::SourceName { name });
        }
        if let Some((at, _)) = marks(text).next() {
            return refuse(at, Problem::SourceMark);
        }
        last = Some(name);
        out.push_str(MARK);
        out.push_str(name);
        out.push('\n');
        out.push_str(text);
        if !text.is_empty() && !text.ends_with('\n') {
            out.push('\n');
        }
    }
    Ok(out)
}

/// Refuses two files of one name, and one without.
pub(crate) fn check_names(sources: &[Source<'_>], sink: &mut Sink<'_>) {
    let mut names = HashSet::new();
    for source in sources {
        let marked = source.span.start > 0;
        if !names.insert(&*source.name) || (marked && source.name.is_empty()) {
            let name = source.name.escape_debug().take(MAX_NAME).collect();
            sink.report(
                &(source.span.start..source.span.start),
                Problem::SourceName { name },
            );
        }
    }
}

/// The lines that begin a file: where each is, and the name.
fn marks(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let start = at;
        at += line.len();
        let name = line.strip_prefix(MARK)?.trim();
        Some((start..at, name))
    })
}

/// Takes a text apart into its files. One without marks is one file, `name`,
/// and so is what stands before the first mark if it says anything.
pub(crate) fn split<'t>(name: &str, text: &'t str) -> Vec<Source<'t>> {
    let mut out = Vec::new();
    let mut add = |name: &str, span: Range<usize>| {
        if let Some(text) = text.get(span.clone()) {
            out.push(Source {
                name: name.into(),
                span,
                text,
            });
        }
    };
    let (mut file, mut from) = (None, 0);
    for (mark, next) in marks(text) {
        let before = text.get(from..mark.start).unwrap_or_default();
        match file {
            Some(file) => add(file, from..mark.start),
            None if before.trim().is_empty() => {}
            None => add(name, from..mark.start),
        }
        (file, from) = (Some(next), mark.end);
    }
    add(file.unwrap_or(name), from..text.len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_text_without_marks_is_one_file() {
        let found = split("p.toml", "version = 1\n# :file x\n");
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].name, found[0].span.clone()), ("p.toml", 0..22));
        assert_eq!(split("p.toml", "").len(), 1);
    }

    #[test]
    fn what_stands_before_the_first_mark_is_a_file_too() {
        let found = split("p.toml", "a = 1\n#:file x\nb = 2\n");
        let names: Vec<_> = found.iter().map(|s| (&*s.name, s.text)).collect();
        assert_eq!(names, [("p.toml", "a = 1\n"), ("x", "b = 2\n")]);
    }

    #[test]
    fn unfit_names_and_hidden_marks_are_refused() {
        for (sources, code) in [
            (vec![("", "")], "source_name"),
            (vec![(" a", "")], "source_name"),
            (vec![("a\nb", "")], "source_name"),
            (vec![("a", ""), ("a", "x = 1")], "source_name"),
            (vec![("a", "x = '''\n#:file b\n'''")], "source_mark"),
        ] {
            let errors = join(&sources).unwrap_err();
            assert_eq!(errors.errors()[0].code(), code, "{sources:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_joined_comes_apart_again(
            texts in proptest::collection::btree_map("[a-z]{1,4}\\.toml", "[a-z#:\n ]{0,30}", 1..5),
        ) {
            let sources: Vec<_> = texts.iter().map(|(n, t)| (&**n, &**t)).collect();
            let Ok(joined) = join(&sources) else { return Ok(()) };
            let found = split("whole", &joined);
            prop_assert_eq!(found.len(), texts.len());
            for (source, (name, text)) in found.iter().zip(&texts) {
                prop_assert_eq!(&*source.name, &**name);
                prop_assert_eq!(source.text.trim_end_matches('\n'), text.trim_end_matches('\n'));
            }
        }
    }
}
