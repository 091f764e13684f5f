//! JSON from outside, checked before anybody acts on it: well formed, not too deep, and
//! no member twice, since two readers may not agree on which of the two counts.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The deepest that a configuration may allow; `serde_json` itself stops at 128.
pub(crate) const MAX_DEPTH: usize = 100;

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    #[error("the content is not JSON")]
    Malformed,
    #[error("the JSON is nested too deep")]
    TooDeep,
    #[error("an object of the JSON has a member twice")]
    Repeated,
}

impl JsonError {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_json",
            Self::TooDeep => "json_too_deep",
            Self::Repeated => "json_member_repeated",
        }
    }

    /// What a client reads.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::Malformed => "the content is not JSON",
            Self::TooDeep => "the JSON is nested too deep",
            Self::Repeated => "an object of the JSON has a member twice",
        }
    }
}

/// Whether a content type, in lower case and without parameters, means JSON.
pub(crate) fn is_json(content_type: &str) -> bool {
    content_type == "application/json" || content_type.ends_with("+json")
}

/// Checks a whole text; a scalar has depth 0. Builds nothing: a hostile text costs no
/// more memory than the names of the objects that are open.
pub(crate) fn check(text: &[u8], max_depth: usize) -> Result<(), JsonError> {
    let found = Cell::new(JsonError::Malformed);
    let mut reader = serde_json::Deserializer::from_slice(text);
    Check {
        left: max_depth.min(MAX_DEPTH),
        found: &found,
    }
    .deserialize(&mut reader)
    .and_then(|()| reader.end())
    .map_err(|_| found.get())
}

#[derive(Clone, Copy)]
struct Check<'f> {
    /// How many levels may still open.
    left: usize,
    found: &'f Cell<JsonError>,
}

impl Check<'_> {
    fn fail<E: Error>(self, why: JsonError) -> E {
        self.found.set(why);
        E::custom(why)
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(Self { left, ..self }),
            None => Err(self.fail(JsonError::TooDeep)),
        }
    }
}

#[derive(Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while items.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        let mut names: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(Name(name)) = members.next_key::<Name<'de>>()? {
            if !names.insert(name) {
                return Err(self.fail(JsonError::Repeated));
            }
            members.next_value_seed(deeper)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_json_passes() {
        for good in [
            "0",
            "\"\"",
            "null",
            " [1, 2.5e3, -4, true] ",
            r#"{"a": {"a": [{"a": null}]}, "b": "\u00e9"}"#,
        ] {
            assert_eq!(check(good.as_bytes(), 8), Ok(()), "{good}");
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        for bad in [
            "",
            " ",
            "{",
            "[1,]",
            "{a: 1}",
            "'a'",
            "1 2",
            "{} x",
            "NaN",
            "01",
            "1e999",
            "\"\\ud800\"",
            "// c\n1",
            "\u{feff}1",
        ] {
            assert_eq!(check(bad.as_bytes(), 8), Err(JsonError::Malformed), "{bad}");
        }
        assert_eq!(check(b"\"\xff\"", 8), Err(JsonError::Malformed));
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused_however_it_is_written() {
        for bad in [
            r#"{"a": 1, "a": 2}"#,
            r#"{"a": 1, "\u0061": 2}"#,
            r#"[{"b": {"x": 1, "y": 2, "x": 3}}]"#,
        ] {
            assert_eq!(check(bad.as_bytes(), 8), Err(JsonError::Repeated), "{bad}");
        }
    }

    #[test]
    fn depth_is_counted_in_arrays_and_objects() {
        assert_eq!(check(b"[[1]]", 2), Ok(()));
        assert_eq!(check(b"[[[1]]]", 2), Err(JsonError::TooDeep));
        assert_eq!(check(br#"{"a":{"b":{}}}"#, 2), Err(JsonError::TooDeep));
        assert_eq!(check(b"[]", 0), Err(JsonError::TooDeep));
        let bomb = "[".repeat(1_000_000);
        assert_eq!(check(bomb.as_bytes(), 32), Err(JsonError::TooDeep));
    }

    #[test]
    fn external_json_cases() {
        let Ok(dir) = std::env::var("BULLA_VECTORS") else {
            println!("external vectors were not run: BULLA_VECTORS is unset");
            return;
        };
        let path = std::path::Path::new(&dir).join("encoding/json_test_suite.json");
        let text = std::fs::read(path).unwrap();
        let all: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let mut judged = 0;
        for case in all.get("cases").unwrap().as_array().unwrap() {
            let text = |key: &str| case.get(key).unwrap().as_str().unwrap();
            let (name, expect) = (text("file"), text("expect"));
            let bytes = match case.get("b64").and_then(serde_json::Value::as_str) {
                Some(b64) => data_encoding::BASE64.decode(b64.as_bytes()).unwrap(),
                // Too large to be written out: opening brackets without end.
                None => b"[".repeat(100_000),
            };
            let got = check(&bytes, MAX_DEPTH);
            match expect {
                // The grammar has members that are there twice; we have not.
                "accept" if name.contains("duplicated_key") => {
                    assert_eq!(got, Err(JsonError::Repeated), "{name}");
                }
                "accept" => assert_eq!(got, Ok(()), "{name}"),
                "reject" => assert!(got.is_err(), "{name}"),
                _ => {}
            }
            judged += 1;
        }
        assert!(judged > 300, "{judged}");
    }
}
