//! What a token says of a user.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Claims that say something fixed about a token, so that no fact about a user may
/// have their names: registered claims ([RFC 7519 §4.1]), those of transaction and
/// access tokens, how a user is bound or delegated, the token's reach and its
/// private claims.
///
/// [RFC 7519 §4.1]: https://www.rfc-editor.org/rfc/rfc7519#section-4.1
const RESERVED: [&str; 18] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "txn",
    "scope",
    "req_wl",
    "tctx",
    "rctx",
    "purp",
    "act",
    "cnf",
    "client_id",
    "reach",
    "private",
];

/// Whether a fact about a user may not have this name.
#[must_use]
pub fn is_reserved_claim(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The claims of one user, as a JSON object.
///
/// Holding a `Claims` proves nothing: proof is `Verified<…>` around the token
/// that they came from. `Debug` prints the names of the claims only, because
/// values are personal data.
#[derive(Clone, PartialEq, Default)]
pub struct Claims {
    map: Map<String, Value>,
    /// As they were before they were narrowed.
    whole: Option<Arc<Claims>>,
}

impl Claims {
    /// Wraps a JSON object.
    #[must_use]
    pub fn from_map(map: Map<String, Value>) -> Self {
        Self { map, whole: None }
    }

    /// What is left when of each of these claims only some texts are kept: of
    /// `scope` those words, of a list those elements. A single value that is none
    /// of them becomes an empty list; a claim that is absent stays absent.
    ///
    /// What the claims were is kept as [`Claims::whole`]: a rule that denies a
    /// user for a claim must not be escaped by narrowing that claim.
    #[must_use]
    pub fn narrowed<'k>(
        &self,
        kept: impl IntoIterator<Item = (&'k str, &'k BTreeSet<String>)>,
    ) -> Self {
        let mut map = self.map.clone();
        for (claim, kept) in kept {
            match map.get_mut(claim) {
                None => {}
                Some(Value::String(scope)) if claim == "scope" => {
                    let left: Vec<_> = scope.split(' ').filter(|s| kept.contains(*s)).collect();
                    *scope = left.join(" ");
                }
                Some(value) => keep(value, kept),
            }
        }
        let whole = self.whole.clone();
        Self {
            map,
            whole: Some(whole.unwrap_or_else(|| Arc::new(self.clone()))),
        }
    }

    /// The claims before anything was taken away; themselves if nothing was.
    #[must_use]
    pub fn whole(&self) -> &Self {
        self.whole.as_deref().unwrap_or(self)
    }

    /// Whether something was taken away.
    #[must_use]
    pub const fn is_narrowed(&self) -> bool {
        self.whole.is_some()
    }

    /// One claim by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// The user's name: the JWT `sub` claim, never a NATS subject.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.map.get("sub").and_then(Value::as_str)
    }

    /// The scopes of the space-separated `scope` claim ([RFC 8693 §4.2]);
    /// nothing when it is absent or no string: a missing scope is empty, not all.
    ///
    /// [RFC 8693 §4.2]: https://www.rfc-editor.org/rfc/rfc8693#section-4.2
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.map
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
        self.map
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
        &self.map
    }
}

/// Takes out of a claim what is not kept. What remains satisfies no test of a
/// policy that the whole claim does not satisfy: so a null, which none can be
/// asked of, stays one, and what is taken away whole is an empty list, which
/// equals nothing and is present as it was before.
fn keep(value: &mut Value, kept: &BTreeSet<String>) {
    match value {
        Value::Null => {}
        Value::Array(list) => list.retain(|v| v.as_str().is_some_and(|text| kept.contains(text))),
        Value::String(text) if kept.contains(text) => {}
        Value::String(_) | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            *value = Value::Array(Vec::new());
        }
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.map.keys()).finish()
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
