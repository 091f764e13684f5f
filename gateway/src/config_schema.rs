//! JSON Schemas of the configuration files, for editors that complete and check while one
//! writes. They are made by reading the full example and noting which keys were asked
//! for, so they cannot say anything else than the reader.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::Limits;
use crate::document::{Document, Keys, Kind};
use crate::gateway_file::read_gateway;
use crate::route_file::{RouteFile, Surroundings, route_keys};
use crate::section::Section;

const GATEWAY: &str = include_str!("../examples/full/gateway.toml");
/// What cannot stand beside certificates in files.
const ACME: &str = include_str!("../examples/acme/gateway.toml");
const ROUTES: &str = include_str!("../examples/full/routes.toml");

/// The keys that nobody can leave out, by their table. Of a route everything else may come
/// from its profile.
const REQUIRED: [(&str, &[&str]); 13] = [
    ("", &["routes", "bus", "listen"]),
    ("bus", &["url", "workload", "seed_file", "trust_root_file"]),
    ("listen", &["address"]),
    ("acme", &["directory", "domains", "folder", "accept_terms"]),
    ("admin", &["address"]),
    ("api_keys", &["file"]),
    ("issuer", &["issuer"]),
    ("certificate", &["name", "user"]),
    ("introspection", &["url", "client_id", "client_secret_file"]),
    ("rate", &["name", "by", "quota", "window"]),
    ("cors", &["origins"]),
    ("route", &["method", "path"]),
    ("part", &["name", "subject"]),
];

/// Which file a schema is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ConfigFile {
    /// `gateway.toml`.
    Gateway,
    /// The routes files.
    Routes,
}

/// The schema of one of the files.
#[must_use]
pub fn config_schema(file: ConfigFile) -> Value {
    let base = Path::new("");
    let document = Document::new("gateway.toml", GATEWAY);
    let trees = document.trees();
    let Some((tree, begin)) = trees.first() else {
        return Value::Null;
    };
    let parts = read_gateway(Section::root(&document, tree, *begin), base);
    let (keys, title) = match file {
        ConfigFile::Gateway => {
            let mut keys = document.learned();
            keys.extend(keys_of_acme());
            (keys, "gateway.toml")
        }
        ConfigFile::Routes => {
            let limits = Limits::default();
            let around = Surroundings {
                api: &parts.api,
                claims: &parts.transaction.claims,
                issuers: &parts.issuers,
                issuers_complete: true,
                rates: &parts.rates,
                rates_complete: true,
                default_rates: &[],
                breaker: None,
                has_api_keys: true,
                has_certificates: true,
                limits: &limits,
            };
            let routes = RouteFile {
                name: "routes.toml".to_owned(),
                text: ROUTES.to_owned(),
                base: base.to_owned(),
            };
            (route_keys(&[routes], around), "routes of the gateway")
        }
    };
    let mut schema = table(&keys, "");
    if let Some(object) = schema.as_object_mut() {
        // Several files are read as one: none of them must have everything.
        if file == ConfigFile::Routes {
            object.remove("required");
        }
        let draft = json!("https://json-schema.org/draft/2020-12/schema");
        object.insert("$schema".to_owned(), draft);
        object.insert("title".to_owned(), json!(title));
    }
    schema
}

/// The keys of `[listen.acme]`.
fn keys_of_acme() -> Option<(String, BTreeMap<&'static str, Kind>)> {
    let document = Document::new("gateway.toml", ACME);
    let trees = document.trees();
    let (tree, begin) = trees.first()?;
    read_gateway(Section::root(&document, tree, *begin), Path::new(""));
    document.learned().remove_entry("acme")
}

fn table(keys: &Keys, name: &str) -> Value {
    let properties: Map<String, Value> = keys
        .get(name)
        .into_iter()
        .flatten()
        .map(|(key, kind)| ((*key).to_owned(), value(keys, key, *kind)))
        .collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    let required = REQUIRED.iter().find(|(table, _)| *table == name);
    if let (Some((_, keys)), Some(object)) = (required, schema.as_object_mut()) {
        object.insert("required".to_owned(), json!(keys));
    }
    schema
}

fn value(keys: &Keys, key: &str, kind: Kind) -> Value {
    let text = json!({"type": "string"});
    match kind {
        Kind::Text => text,
        Kind::Texts => json!({"anyOf": [text, {"type": "array", "items": text}]}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Number => json!({"type": "integer", "minimum": 0}),
        Kind::Integers => json!({"type": "array", "items": {"type": "integer"}}),
        Kind::Duration => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}),
        Kind::Size => json!({"anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB)?$"}]}),
        // Names that the writer chooses, each for a text.
        Kind::Table if matches!(key, "headers" | "payload" | "require") => {
            json!({"type": "object", "additionalProperties": text})
        }
        // Names that the writer chooses, each for what a route has.
        Kind::Table if key == "profile" => {
            let mut profile = table(keys, "route");
            if let Some(object) = profile.as_object_mut() {
                object.remove("required");
            }
            json!({"type": "object", "additionalProperties": profile})
        }
        Kind::Table => table(keys, key),
        Kind::Tables => json!({"type": "array", "items": table(keys, key)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TOML value as JSON.
    fn as_json(text: &str) -> Value {
        let value: toml::Value = toml::from_str(text).unwrap();
        serde_json::to_value(value).unwrap()
    }

    fn violations(file: ConfigFile, text: &str) -> Vec<String> {
        let schema = config_schema(file);
        let validator = jsonschema::options().offline().build(&schema).unwrap();
        let instance = as_json(text);
        validator
            .iter_errors(&instance)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect()
    }

    #[test]
    fn the_full_examples_are_what_the_schemas_say_and_use_every_key() {
        for (file, text) in [(ConfigFile::Gateway, GATEWAY), (ConfigFile::Routes, ROUTES)] {
            assert_eq!(violations(file, text), [""; 0]);
            let schema = config_schema(file);
            for key in keys_of(&schema) {
                let used = text.lines().chain(ACME.lines()).any(|line| {
                    let line = line.trim_start_matches(['[', '#', ' ']);
                    line.starts_with(&key)
                        || line.contains(&format!("{{ {key} ="))
                        || line.contains(&format!(", {key} ="))
                        || line.contains(&format!(".{key}]"))
                        || line.contains(&format!("{key}."))
                });
                assert!(used, "`{key}` is not in the example");
            }
        }
    }

    fn keys_of(schema: &Value) -> Vec<String> {
        let mut keys = Vec::new();
        if let Value::Object(members) = schema {
            for (name, member) in members {
                if name == "properties" {
                    keys.extend(member.as_object().unwrap().keys().cloned());
                    for inner in member.as_object().unwrap().values() {
                        keys.extend(keys_of(inner));
                    }
                } else {
                    keys.extend(keys_of(member));
                }
            }
        }
        keys
    }

    #[test]
    fn the_example_of_acme_is_what_the_schema_says() {
        assert_eq!(violations(ConfigFile::Gateway, ACME), [""; 0]);
        let less = ACME.replace("accept_terms = true", "");
        assert_ne!(violations(ConfigFile::Gateway, &less), [""; 0]);
    }

    #[test]
    fn mistakes_are_found_by_the_schemas() {
        let route = "[[route]]\nmethod = \"GET\"\npath = \"/\"\n";
        assert_eq!(violations(ConfigFile::Routes, route), [""; 0]);
        for bad in [
            "[[route]]\npath = \"/\"\n",
            "[[route]]\nmethod = \"GET\"\npath = \"/\"\nauht = \"jwt\"\n",
            "[[route]]\nmethod = \"GET\"\npath = \"/\"\ntimeout = 5\n",
            "[[route]]\nmethod = \"GET\"\npath = \"/\"\ncache = { tll = \"1s\" }\n",
            "[profile.a]\nprioritty = \"low\"\n",
            "x = 1\n",
        ] {
            assert_ne!(violations(ConfigFile::Routes, bad), [""; 0], "{bad}");
        }
    }
}
