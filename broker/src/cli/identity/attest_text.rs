//! Changes of the `attest` lists in a policy's text, which leave everything else
//! as it was written: comments, order, spaces.
//!
//! An nkey stands once in a policy, in quotes, within the braces of its attestor.
//! Whoever changes a text this way reads it again as a policy before he relies on
//! it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bulla_identity::{Nkey, WorkloadName};

/// Why a text was not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    #[error("no file of `{}` names the key `{nkey}`", path.display())]
    NoFile { path: PathBuf, nkey: Nkey },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the key `{nkey}` does not stand as `{{ nkey = \"…\" }}` in the policy: change its `attest` by hand"
    )]
    Shape { nkey: Nkey },
    #[error("the policy would not say what is meant: change the workload's `attest` by hand")]
    Elsewhere,
}

/// What a policy says of a new workload.
pub(super) fn section(name: &WorkloadName, nkey: &Nkey) -> String {
    format!("[workload.{name}]\nattest = [{{ nkey = \"{nkey}\" }}]\n")
}

/// The text with a section at its end.
pub(super) fn append(text: &str, section: &str) -> String {
    let end = match text {
        "" => "",
        _ if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    format!("{text}{end}{section}")
}

/// The file of a policy that names this key, and its text.
pub(super) fn file_of(path: &Path, nkey: &Nkey) -> Result<(PathBuf, String), EditError> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|source| EditError::Read {
            path: path.to_owned(),
            source,
        })?;
        files = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|end| end == "toml"))
            .collect();
    }
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|source| EditError::Read {
            path: file.clone(),
            source,
        })?;
        if text.contains(&quoted(nkey)) {
            return Ok((file, text));
        }
    }
    Err(EditError::NoFile {
        path: path.to_owned(),
        nkey: *nkey,
    })
}

/// The text with another key behind `beside`.
pub(super) fn with(text: &str, beside: &Nkey, nkey: &Nkey) -> Result<String, EditError> {
    let at = attestor(text, beside).ok_or(EditError::Shape { nkey: *beside })?;
    let (before, after) = text.split_at(at.end);
    Ok(format!("{before}, {{ nkey = \"{nkey}\" }}{after}"))
}

/// The text without this key.
pub(super) fn without(text: &str, nkey: &Nkey) -> Result<String, EditError> {
    let at = attestor(text, nkey).ok_or(EditError::Shape { nkey: *nkey })?;
    let (before, after) = (text.get(..at.start), text.get(at.end..));
    let (Some(before), Some(after)) = (before, after) else {
        return Err(EditError::Shape { nkey: *nkey });
    };
    // One comma goes with it: the one behind it, or that before the last one.
    if let Some(rest) = after.trim_start().strip_prefix(',') {
        return Ok(format!("{before}{}", rest.trim_start_matches([' ', '\t'])));
    }
    let before = before.trim_end();
    let before = before.strip_suffix(',').unwrap_or(before);
    Ok(format!("{before}{after}"))
}

/// From the brace before the key to the one behind it.
fn attestor(text: &str, nkey: &Nkey) -> Option<Range<usize>> {
    let quoted = quoted(nkey);
    let at = text.find(&quoted)?;
    let start = text.get(..at)?.rfind(['{', '}', '\n'])?;
    if !text.get(start..)?.starts_with('{') {
        return None;
    }
    let behind = at + quoted.len();
    let end = behind + text.get(behind..)?.find(['{', '}', '\n'])?;
    text.get(end..)?.starts_with('}').then_some(start..end + 1)
}

fn quoted(nkey: &Nkey) -> String {
    format!("\"{nkey}\"")
}

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;

    fn nkey(byte: u8) -> Nkey {
        Nkey::from_bytes(NkeyKind::User, [byte; 32])
    }

    #[test]
    fn one_joins_and_one_leaves_and_the_rest_stays() {
        let one = format!(
            "# ours\nattest = [{{ nkey = \"{}\" }}]   # the key\n",
            nkey(1)
        );
        let two = with(&one, &nkey(1), &nkey(2)).unwrap();
        assert_eq!(
            two,
            format!(
                "# ours\nattest = [{{ nkey = \"{}\" }}, {{ nkey = \"{}\" }}]   # the key\n",
                nkey(1),
                nkey(2)
            )
        );
        assert_eq!(without(&two, &nkey(2)).unwrap(), one);
        let second = without(&two, &nkey(1)).unwrap();
        assert_eq!(
            second,
            format!(
                "# ours\nattest = [{{ nkey = \"{}\" }}]   # the key\n",
                nkey(2)
            )
        );
    }

    #[test]
    fn lists_over_several_lines_keep_their_form() {
        let text = format!(
            "attest = [\n  {{ nkey = \"{}\", vouches = false }},\n  {{ x509 = \"mesh\" }},\n]\n",
            nkey(1)
        );
        let two = with(&text, &nkey(1), &nkey(2)).unwrap();
        assert!(two.contains(&format!("}}, {{ nkey = \"{}\" }},\n  {{ x509", nkey(2))));
        assert_eq!(without(&two, &nkey(2)).unwrap().matches('{').count(), 2);
        let left = without(&two, &nkey(1)).unwrap();
        assert!(!left.contains("vouches"), "{left}");
    }

    #[test]
    fn other_shapes_are_left_to_people() {
        for text in [
            format!("[[workload.orders.attest]]\nnkey = \"{}\"\n", nkey(1)),
            format!("attest = [{{\n nkey = \"{}\" }}]", nkey(1)),
            String::new(),
        ] {
            assert!(with(&text, &nkey(1), &nkey(2)).is_err(), "{text}");
            assert!(without(&text, &nkey(1)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_section_is_appended_after_a_line_of_its_own() {
        assert_eq!(append("", "s\n"), "s\n");
        assert_eq!(append("a\n", "s\n"), "a\n\ns\n");
        assert_eq!(append("a", "s\n"), "a\n\ns\n");
    }
}
