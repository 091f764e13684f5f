//! What a token says of a user.

use std::fmt;

use serde_json::{Map, Value};

/// The claims of one user, as a JSON object.
///
/// Holding a `Claims` proves nothing: proof is `Verified<…>` around the token
/// that they came from. `Debug` prints the names of the claims only, because
/// values are personal data.
#[derive(Clone, PartialEq, Default)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Wraps a JSON object.
    #[must_use]
    pub fn from_map(map: Map<String, Value>) -> Self {
        Self(map)
    }

    /// One claim by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The user's name: the JWT `sub` claim, never a NATS subject.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.0.get("sub").and_then(Value::as_str)
    }

    /// The scopes of the space-separated `scope` claim ([RFC 8693 §4.2]);
    /// nothing when it is absent or no string: a missing scope is empty, not all.
    ///
    /// [RFC 8693 §4.2]: https://www.rfc-editor.org/rfc/rfc8693#section-4.2
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0
            .get("scope")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .split(' ')
            .filter(|s| !s.is_empty())
    }

    /// Whether `scope` is among [`Claims::scopes`], compared byte for byte.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|s| s == scope)
    }

    /// The verticals of the `reach` claim, a list of texts; nothing when it is
    /// absent or of another type: a missing reach reaches nothing, not all.
    pub fn reach(&self) -> impl Iterator<Item = &str> {
        self.0
            .get("reach")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter_map(Value::as_str)
    }

    /// Whether `audience` is among [`Claims::reach`], compared byte for byte.
    #[must_use]
    pub fn reaches(&self, audience: &str) -> bool {
        self.reach().any(|name| name == audience)
    }

    /// The JSON object itself.
    #[must_use]
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(v: Value) -> Claims {
        match v {
            Value::Object(map) => Claims::from_map(map),
            _ => panic!("object"),
        }
    }

    #[test]
    fn scopes_are_split_on_single_spaces() {
        let c = claims(json!({"sub": "alice", "scope": "a:read  b:write"}));
        assert_eq!(c.scopes().collect::<Vec<_>>(), ["a:read", "b:write"]);
        assert!(c.has_scope("b:write"));
        assert!(!c.has_scope("b"));
        assert!(!c.has_scope(""));
        assert_eq!(c.principal(), Some("alice"));
    }

    #[test]
    fn a_missing_or_odd_scope_is_empty_not_all() {
        for v in [
            json!({}),
            json!({"scope": null}),
            json!({"scope": ["a"]}),
            json!({"scope": ""}),
        ] {
            assert_eq!(claims(v).scopes().count(), 0);
        }
    }

    #[test]
    fn a_missing_or_odd_reach_reaches_nothing() {
        for v in [
            json!({}),
            json!({"reach": null}),
            json!({"reach": "retail"}),
            json!({"reach": {"retail": true}}),
            json!({"reach": [["retail"], 1, null]}),
        ] {
            assert!(!claims(v).reaches("retail"));
        }
        let c = claims(json!({"reach": [1, "retail"]}));
        assert!(c.reaches("retail") && !c.reaches("retai") && !c.reaches(""));
    }

    #[test]
    fn debug_shows_no_values() {
        let c = claims(json!({"email": "alice@example.com"}));
        assert_eq!(format!("{c:?}"), r#"{"email"}"#);
    }
}
