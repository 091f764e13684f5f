//! The path of a request, normalised in one place, and the templates of routes.

use std::fmt;

use http::Uri;

/// The longest value of a capture, in bytes.
const MAX_CAPTURE: usize = 64;
/// The most segments of a path.
const MAX_SEGMENTS: usize = 32;

/// A path whose segments mean what they say: decoded once, no `.`, `..` or empty
/// segment, nothing that decodes to a slash, a backslash or a control character.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CleanPath(Vec<String>);

/// Why a path is refused before any route is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("path does not begin with a slash")]
    NotAbsolute,
    #[error("path has an invalid percent encoding")]
    BadPercent,
    #[error("path has an encoded slash, a backslash or a control character")]
    Forbidden,
    #[error("path has an empty segment or a dot segment")]
    DotSegment,
    #[error("path has too many segments")]
    TooDeep,
}

impl CleanPath {
    /// `/` is the path without segments; a trailing slash elsewhere is an empty
    /// segment and refused.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, PathError> {
        let path = uri.path();
        let rest = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if rest.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let mut segments = Vec::new();
        for raw in rest.split('/') {
            if segments.len() == MAX_SEGMENTS {
                return Err(PathError::TooDeep);
            }
            segments.push(decode_segment(raw)?);
        }
        Ok(Self(segments))
    }

    pub(crate) fn segments(&self) -> &[String] {
        &self.0
    }
}

fn decode_segment(raw: &str) -> Result<String, PathError> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let high = bytes.next().and_then(hex).ok_or(PathError::BadPercent)?;
            let low = bytes.next().and_then(hex).ok_or(PathError::BadPercent)?;
            high << 4 | low
        } else {
            byte
        });
    }
    if decoded
        .iter()
        .any(|b| matches!(b, b'/' | b'\\') || b.is_ascii_control())
    {
        return Err(PathError::Forbidden);
    }
    let text = String::from_utf8(decoded).map_err(|_| PathError::BadPercent)?;
    if text.is_empty() || text == "." || text == ".." {
        return Err(PathError::DotSegment);
    }
    Ok(text)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(String),
    Capture(String),
}

/// The `path` of a route: literal segments and `{captures}`, each a whole segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    segments: Vec<Segment>,
}

impl PathTemplate {
    /// Reads `/v1/orders/{id}`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("a path begins with a slash")?;
        let mut segments: Vec<Segment> = Vec::new();
        if !rest.is_empty() {
            for raw in rest.split('/') {
                let segment = parse_segment(raw)?;
                if let Segment::Capture(name) = &segment
                    && segments.contains(&segment)
                {
                    return Err(format!("capture `{{{name}}}` is there twice"));
                }
                segments.push(segment);
            }
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(format!("a path has at most {MAX_SEGMENTS} segments"));
        }
        Ok(Self {
            text: text.to_owned(),
            segments,
        })
    }

    pub(crate) fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Capture(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether some path matches both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len()
            && self
                .segments
                .iter()
                .zip(&other.segments)
                .all(|pair| match pair {
                    (Segment::Literal(a), Segment::Literal(b)) => a == b,
                    (Segment::Capture(_), Segment::Literal(l))
                    | (Segment::Literal(l), Segment::Capture(_)) => is_capture_value(l),
                    (Segment::Capture(_), Segment::Capture(_)) => true,
                })
    }

    /// The values of the captures, in their order, if the path matches.
    pub(crate) fn matches<'p>(&self, path: &'p CleanPath) -> Option<Vec<&'p str>> {
        if self.segments.len() != path.segments().len() {
            return None;
        }
        let mut values = Vec::new();
        for (segment, text) in self.segments.iter().zip(path.segments()) {
            match segment {
                Segment::Literal(literal) if literal == text => {}
                Segment::Capture(_) if is_capture_value(text) => values.push(text.as_str()),
                Segment::Literal(_) | Segment::Capture(_) => return None,
            }
        }
        Some(values)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a capture takes: letters, digits, `-` and `_`, 1 to 64 of them. That is one
/// literal token of a subject, whatever else a subject might allow.
pub(crate) fn is_capture_value(text: &str) -> bool {
    (1..=MAX_CAPTURE).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn parse_segment(raw: &str) -> Result<Segment, String> {
    if let Some(name) = raw.strip_prefix('{').and_then(|r| r.strip_suffix('}')) {
        let mut bytes = name.bytes();
        let good = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && name.len() <= 32;
        return if good {
            Ok(Segment::Capture(name.to_owned()))
        } else {
            Err(format!(
                "`{{{name}}}` is no capture: a name is of lower-case letters, digits and `_`"
            ))
        };
    }
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    if raw.is_empty() || raw == "." || raw == ".." || !raw.bytes().all(unreserved) {
        return Err(format!(
            "segment `{raw}` is not of letters, digits, `-`, `.`, `_` and `~`, nor a whole `{{capture}}`"
        ));
    }
    Ok(Segment::Literal(raw.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(path: &str) -> Result<Vec<String>, PathError> {
        let uri = Uri::builder().path_and_query(path).build().unwrap();
        CleanPath::parse(&uri).map(|p| p.0)
    }

    #[test]
    fn ordinary_paths_are_split() {
        assert_eq!(
            clean("/v1/orders/42?x=/../"),
            Ok(vec!["v1".into(), "orders".into(), "42".into()])
        );
        assert_eq!(clean("/"), Ok(vec![]));
        assert_eq!(clean("/%76%31"), Ok(vec!["v1".into()]));
    }

    #[test]
    fn encoded_slashes_backslashes_and_controls_are_refused() {
        for path in [
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/a%0d%0ax",
        ] {
            assert_eq!(clean(path), Err(PathError::Forbidden), "{path}");
        }
    }

    #[test]
    fn dot_segments_are_refused_however_they_are_written() {
        for path in [
            "/a/../b",
            "/a/./b",
            "/..",
            "/%2e%2e/b",
            "/.%2e",
            "/%2E",
            "//",
            "/a//b",
            "/a/",
        ] {
            assert_eq!(clean(path), Err(PathError::DotSegment), "{path}");
        }
    }

    #[test]
    fn broken_percent_encodings_are_refused() {
        for path in ["/a%", "/a%2", "/a%zz", "/a%+1", "/a%ff", "/a%c0%af"] {
            assert_eq!(clean(path), Err(PathError::BadPercent), "{path}");
        }
    }

    #[test]
    fn a_double_encoding_is_decoded_once_and_then_matches_nothing() {
        let uri = Uri::from_static("/v1/%252e%252e");
        let path = CleanPath::parse(&uri).unwrap();
        assert_eq!(path.0, ["v1", "%2e%2e"]);
        assert_eq!(
            PathTemplate::parse("/v1/{id}").unwrap().matches(&path),
            None
        );
    }

    #[test]
    fn captures_take_one_subject_token_and_nothing_more() {
        let template = PathTemplate::parse("/v1/orders/{id}").unwrap();
        let value = |v: &str| {
            let path = CleanPath(vec!["v1".into(), "orders".into(), v.into()]);
            template.matches(&path).is_some()
        };
        assert!(value("42") && value("a-B_9") && value(&"x".repeat(64)));
        for bad in [
            "a.b", "*", ">", "a b", "", "é", "$SYS", "a\0", "ａ", "a:b", "a/b", "%41",
        ] {
            assert!(!value(bad), "{bad:?}");
        }
        assert!(!value(&"x".repeat(65)));
    }

    #[test]
    fn templates_are_strict() {
        for good in ["/", "/v1", "/v1/orders/{id}", "/a.b/~c/{x_1}"] {
            assert!(PathTemplate::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "v1", "/v1/", "//", "/a/../b", "/a b", "/{id}x", "/x{id}", "/{}", "/{Id}",
            "/{a}/{a}", "/a?b", "/%41", "/*", "/{a.b}",
        ] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_having_a_path_in_common() {
        let t = |s| PathTemplate::parse(s).unwrap();
        assert!(t("/a/{x}").overlaps(&t("/a/b")));
        assert!(t("/a/{x}").overlaps(&t("/{y}/b")));
        assert!(!t("/a/{x}").overlaps(&t("/b/{x}")));
        assert!(!t("/a/{x}").overlaps(&t("/a/{x}/c")));
        // No value of a capture has a dot.
        assert!(!t("/a/{x}").overlaps(&t("/a/b.json")));
    }
}
