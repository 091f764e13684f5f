//! JSON Schema of what a route takes and gives, compiled when the configuration is read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::json;

/// The most violations that a client is told of.
const MAX_VIOLATIONS: usize = 8;
/// The longest text of one, in characters.
const MAX_TEXT: usize = 200;
/// The largest schema file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A compiled schema and its text.
#[derive(Clone)]
pub struct Schema {
    validator: Arc<Validator>,
    document: Arc<Value>,
}

/// One thing that a schema does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// JSON Pointer to the place in the content.
    pub(crate) pointer: String,
    /// What is wrong there, without the value.
    pub(crate) message: String,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemaError {
    #[error("`{file}` cannot be read: {source}")]
    Unreadable {
        file: String,
        source: std::io::Error,
    },
    #[error("`{file}` is larger than {limit} bytes")]
    TooLarge { file: String, limit: u64 },
    #[error("`{file}`: {why}")]
    NotJson { file: String, why: &'static str },
    #[error("`{file}` is no JSON Schema: {why}")]
    NotSchema { file: String, why: String },
}

impl Schema {
    /// Reads and compiles one file. A reference out of the file is an error: nothing is
    /// fetched. Patterns are matched in linear time.
    pub(crate) fn load(path: &Path) -> Result<Self, SchemaError> {
        let file = path.display().to_string();
        let unreadable = |source| SchemaError::Unreadable {
            file: file.clone(),
            source,
        };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE {
            return Err(SchemaError::TooLarge {
                file,
                limit: MAX_FILE,
            });
        }
        let text = std::fs::read(path).map_err(unreadable)?;
        let not_json = |why| SchemaError::NotJson {
            file: file.clone(),
            why,
        };
        json::check(&text, json::MAX_DEPTH).map_err(|e| not_json(e.detail()))?;
        let document: Value =
            serde_json::from_slice(&text).map_err(|_| not_json("the content is not JSON"))?;
        Self::compile(document).map_err(|why| SchemaError::NotSchema { file, why })
    }

    fn compile(document: Value) -> Result<Self, String> {
        let validator = jsonschema::options()
            .offline()
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .build(&document)
            .map_err(|error| error.to_string())?;
        Ok(Self {
            validator: Arc::new(validator),
            document: Arc::new(document),
        })
    }

    /// The schema as it was written.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// What is wrong with the content, at most [`MAX_VIOLATIONS`]; empty if nothing is.
    pub(crate) fn violations(&self, content: &Value) -> Vec<Violation> {
        // The quick answer first: most content is as it should be.
        if self.validator.is_valid(content) {
            return Vec::new();
        }
        let errors = self.validator.iter_errors(content).take(MAX_VIOLATIONS);
        errors
            .map(|error| Violation {
                pointer: cut(error.instance_path().as_str()),
                message: cut(&error.masked().to_string()),
            })
            .collect()
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn violations_say_where_and_what_but_not_the_value() {
        let schema = Schema::compile(json!({
            "type": "object",
            "required": ["item"],
            "additionalProperties": false,
            "properties": {"item": {"type": "string", "maxLength": 8}}
        }))
        .unwrap();
        assert_eq!(schema.violations(&json!({"item": "tea"})), []);
        let found = schema.violations(&json!({"item": "secret-and-long"}));
        assert_eq!(found.len(), 1);
        let first = found.first().unwrap();
        assert_eq!(first.pointer, "/item");
        assert!(!first.message.contains("secret"), "{}", first.message);
        assert!(first.message.contains('8'), "{}", first.message);
        assert_eq!(schema.violations(&json!([])).len(), 1);
    }

    #[test]
    fn many_violations_are_cut_to_a_few() {
        let schema = Schema::compile(json!({"items": {"type": "string"}})).unwrap();
        let many: Vec<u32> = (0..1_000).collect();
        assert_eq!(schema.violations(&json!(many)).len(), MAX_VIOLATIONS);
    }

    #[test]
    fn what_leads_out_of_the_file_does_not_compile() {
        for bad in [
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "other.json"}),
            json!({"type": "strin"}),
            json!({"pattern": "("}),
            // Would need to go back: not in linear time.
            json!({"pattern": "(a)\\1"}),
        ] {
            assert!(Schema::compile(bad.clone()).is_err(), "{bad}");
        }
        assert!(Schema::compile(json!({"$ref": "#/$defs/a", "$defs": {"a": {}}})).is_ok());
    }
}
