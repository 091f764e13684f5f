//! The schema of policies for editors.

use bulla_policy::LintCode;
use serde_json::{Value, json};

/// The JSON Schema (draft 7) of a policy's TOML (POL-145): keys, their types and
/// words with a sentence about each. What one part says against another is
/// `bulla policy check`'s.
#[must_use]
pub fn schema() -> Value {
    // A test reads it; nothing is left of it only if the file is damaged.
    let mut schema: Value =
        serde_json::from_str(include_str!("policy.schema.json")).unwrap_or_default();
    let codes: Vec<Value> = LintCode::ALL
        .iter()
        .map(|code| json!({ "const": code.as_str(), "description": code.summary() }))
        .collect();
    if let Some(items) = schema.pointer_mut("/definitions/lint_codes/items") {
        *items = json!({ "type": "string", "oneOf": codes });
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_policy::{Policy, Problem, Verb};
    use jsonschema::Validator;

    fn validator() -> Validator {
        jsonschema::draft7::new(&schema()).unwrap()
    }

    /// A TOML text as the editors' plugin hands it to a schema.
    fn json(text: &str) -> Value {
        fn value(toml: &toml::Value) -> Value {
            match toml {
                toml::Value::Datetime(date) => json!(date.to_string()),
                toml::Value::Array(list) => list.iter().map(value).collect(),
                toml::Value::Table(table) => {
                    let fields = table.iter().map(|(k, v)| (k.clone(), value(v)));
                    Value::Object(fields.collect())
                }
                plain => serde_json::to_value(plain).unwrap(),
            }
        }
        value(&toml::Value::Table(text.parse().unwrap()))
    }

    fn complaints(text: &str) -> Vec<String> {
        let validator = validator();
        let json = json(text);
        validator
            .iter_errors(&json)
            .map(|e| e.to_string())
            .collect()
    }

    const KEY: &str = "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6";

    /// What the parser says is allowed where `zzz` stands in a text.
    fn accepted(text: &str) -> Vec<String> {
        let errors = Policy::parse("p", text).unwrap_err();
        let allowed = errors
            .errors()
            .iter()
            .find_map(|error| match error.problem() {
                Problem::UnknownKey { key, allowed, .. } if key == "zzz" => Some(*allowed),
                _ => None,
            });
        let mut keys: Vec<String> = allowed.unwrap().iter().map(|k| (*k).to_owned()).collect();
        keys.sort();
        keys
    }

    #[test]
    fn pol_145_every_key_that_the_parser_accepts_is_in_the_schema() {
        let schema = schema();
        for (text, pointer) in [
            ("zzz = 1", "/properties"),
            ("[x509.a]\nzzz = 1", "/definitions/authority/properties"),
            ("[jwt.a]\nzzz = 1", "/definitions/issuer/properties"),
            ("[workload.a]\nzzz = 1", "/definitions/workload/properties"),
            (
                "[workload.a]\nattest = [{ zzz = 1 }]",
                "/definitions/attestor/properties",
            ),
            (
                "[workload.a]\nstarts = { zzz = 1 }",
                "/definitions/starts/properties",
            ),
            (
                "[claims.a]\nzzz = 1",
                "/definitions/private_claim/properties",
            ),
            ("[subject.a]\nzzz = 1", "/definitions/subject/properties"),
            ("[stream.A]\nzzz = 1", "/definitions/stream/properties"),
            ("[bucket.A]\nzzz = 1", "/definitions/bucket/properties"),
            ("[[allow]]\nzzz = 1", "/definitions/rule/properties"),
            ("[[deny]]\nzzz = 1", "/definitions/rule/properties"),
            (
                "[[allow]]\ntime = { zzz = 1 }",
                "/definitions/window/properties",
            ),
            (
                "[[allow]]\nuser = { a = { zzz = 1 } }",
                "/definitions/test/anyOf/1/properties",
            ),
            ("[lint]\nzzz = 1", "/properties/lint/properties"),
        ] {
            let known = schema
                .pointer(pointer)
                .unwrap_or_else(|| panic!("{pointer}"));
            let mut keys: Vec<String> = known.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            assert_eq!(keys, accepted(text), "{text}");
        }
        let verbs = &schema["definitions"]["rule"]["properties"]["may"]["items"]["enum"];
        let all: Vec<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
        assert_eq!(*verbs, json!(all));
    }

    /// The words of a key, one by one, as the parser takes them.
    #[test]
    fn pol_145_the_words_of_the_schema_are_the_parsers() {
        let schema = schema();
        for table in ["subject", "stream", "bucket"] {
            let properties = schema["definitions"][table]["properties"]
                .as_object()
                .unwrap();
            for (key, property) in properties {
                let Some(words) = property["enum"].as_array() else {
                    continue;
                };
                let of = |word: &str| {
                    let text = format!("[{table}.a]\n{key} = \"{word}\"");
                    let errors = Policy::parse("p", &text).unwrap_err();
                    let mut errors = errors.errors().iter();
                    errors.any(|e| matches!(e.problem(), Problem::UnknownValue { .. }))
                };
                for word in words {
                    assert!(!of(word.as_str().unwrap()), "{key} {word}");
                }
                assert!(of("zzz"), "{key}");
            }
        }
    }

    /// Every policy of the repository, and every one in its documents.
    #[test]
    fn pol_145_the_repositorys_policies_fit() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut seen = 0;
        for file in [
            "broker/src/dev/templates/policy.toml",
            "sdk/policy/SPEC.md",
            "README.md",
        ] {
            let Ok(text) = std::fs::read_to_string(root.join(file)) else {
                continue;
            };
            let blocks: Vec<&str> = match file.ends_with(".md") {
                true => text
                    .split("```toml\n")
                    .skip(1)
                    .filter_map(|t| t.split("```").next())
                    .collect(),
                false => vec![&text],
            };
            for block in blocks
                .iter()
                .filter(|block| block.contains("version = 1\ntrust"))
            {
                // The nkeys of documents are cut short, those of a template not there yet.
                let mut whole = (*block).to_owned();
                for word in ["UB…", "UC…", "@billing@", "@gateway@", "@orders@"] {
                    whole = whole.replace(word, KEY);
                }
                assert_eq!(complaints(&whole), Vec::<String>::new(), "{file}");
                seen += 1;
            }
        }
        assert_eq!(seen, 3);
    }

    #[test]
    fn pol_145_what_a_schema_can_refuse_it_refuses() {
        let good = format!(
            "version = 1\ntrust_domain = \"a.b\"\n[workload.a]\nattest = [{{ nkey = \"{KEY}\" }}]\n[subject.\"x.*\"]\nmax_age = \"30s\"\nallow_lint = [\"unused_subject\"]\n[[allow]]\nid = \"r\"\nwho = [\"group:g\"]\nmay = [\"publish\"]\non = [\"x.{{t}}\"]\nexpires = 2030-01-01T00:00:00Z\nuser = {{ scope = \"w\", n = {{ min = 1 }} }}\n"
        );
        assert_eq!(complaints(&good), Vec::<String>::new());
        for (from, to) in [
            ("version = 1", "version = 2"),
            ("version = 1\n", ""),
            ("a.b", "A"),
            ("workload.a", "workload.A"),
            ("nkey = \"U", "nkey = \"A"),
            ("nkey", "nkye"),
            ("max_age = \"30s\"", "max_age = 30"),
            ("30s", "30 s"),
            ("max_age = \"30s\"", "protect = \"secret\""),
            ("unused_subject", "unused_subjects"),
            ("id = \"r\"\n", ""),
            ("[\"group:g\"]", "\"a\""),
            ("[\"publish\"]", "[]"),
            ("publish", "publsh"),
            ("\"x.{t}\"", "\"$SYS.x\""),
            ("min = 1", "min = \"1\""),
            ("min = 1", "least = 1"),
            ("expires", "expire"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert_ne!(complaints(&bad), Vec::<String>::new(), "{from} -> {to}");
        }
    }
}
