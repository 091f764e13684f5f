//! What of a request goes into the message under a name that the route chooses.

use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value};

use crate::problem::Problem;
use crate::route_fields::is_forwardable;

/// The longest name of a mapped header or member.
const MAX_NAME: usize = 48;
/// The longest value of a mapped header, in bytes.
const MAX_VALUE: usize = 1_024;

/// One name and what stands under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The signed header, or the member of the payload.
    pub name: String,
    /// Where its value comes from.
    pub source: Source,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `path.NAME`: a capture.
    Path(String),
    /// `query.NAME`: a declared query parameter.
    Query(String),
    /// `header.NAME`: a header of the request.
    Header(HeaderName),
    /// `claim.NAME`: a claim that the transaction token carries.
    Claim(String),
}

/// What values may come from.
pub(crate) struct Given<'a> {
    pub(crate) captures: &'a [(&'a str, &'a str)],
    pub(crate) query: &'a [(String, String)],
    pub(crate) headers: &'a HeaderMap,
    /// What the transaction token says openly of the user.
    pub(crate) claims: &'a Map<String, Value>,
}

impl Source {
    /// Reads `path.id`, `query.limit`, `header.accept-language` or `claim.tenant`.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (kind, name) = text
            .split_once('.')
            .filter(|(_, name)| !name.is_empty())
            .ok_or("write `path.NAME`, `query.NAME`, `header.NAME` or `claim.NAME`")?;
        match kind {
            "path" => Ok(Self::Path(name.to_owned())),
            "query" => Ok(Self::Query(name.to_owned())),
            "claim" => Ok(Self::Claim(name.to_owned())),
            "header" => match HeaderName::try_from(name) {
                Ok(header) if is_forwardable(&header) => Ok(Self::Header(header)),
                _ => Err("is a header that never travels on"),
            },
            _ => Err("write `path.NAME`, `query.NAME`, `header.NAME` or `claim.NAME`"),
        }
    }

    fn value(&self, given: &Given<'_>) -> Result<Option<Value>, Problem> {
        Ok(match self {
            Self::Path(name) => given
                .captures
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| Value::from(*v)),
            Self::Query(name) => given
                .query
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| Value::from(v.as_str())),
            Self::Header(name) => single(given.headers, name)?.map(Value::from),
            Self::Claim(name) => given.claims.get(name).cloned(),
        })
    }
}

impl Mapping {
    /// The signed header; `None` if there is no value.
    pub(crate) fn header(&self, given: &Given<'_>) -> Result<Option<(String, String)>, Problem> {
        let Some(value) = self.source.value(given)? else {
            return Ok(None);
        };
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        if text.len() > MAX_VALUE || text.chars().any(char::is_control) {
            return Err(Problem::BadRequest(
                "a value is too long or has control characters",
            ));
        }
        Ok(Some((self.name.clone(), text)))
    }

    /// The member of the payload; `None` if there is no value.
    pub(crate) fn member(&self, given: &Given<'_>) -> Result<Option<(String, Value)>, Problem> {
        let value = self.source.value(given)?;
        Ok(value.map(|value| (self.name.clone(), value)))
    }
}

/// The one value of a header.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let refused = Problem::BadRequest("a header is repeated, too long or not printable");
    match value.to_str() {
        Ok(text) if text.len() <= MAX_VALUE && values.next().is_none() => Ok(Some(text)),
        _ => Err(refused),
    }
}

/// Whether a name may be chosen for a signed header: none that the edge, the bus or the
/// message itself gives a meaning to.
pub(crate) fn is_free_header(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !["bulla-", "nats-", "http-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        && ![
            "content-type",
            "traceparent",
            "tracestate",
            "authorization",
            "cookie",
        ]
        .contains(&name)
}

/// Whether a name may be chosen for a member of the payload.
pub(crate) fn is_free_member(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sources_are_named_by_kind() {
        assert_eq!(Source::parse("path.id"), Ok(Source::Path("id".into())));
        assert_eq!(
            Source::parse("claim.https://a.b/c"),
            Ok(Source::Claim("https://a.b/c".into()))
        );
        for bad in [
            "",
            "id",
            "path.",
            "body.id",
            "header.authorization",
            "header.cookie",
            "header.bulla-user",
            "header.a b",
        ] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_keep_their_type_in_the_payload_and_are_text_in_headers() {
        let claims = json!({"tenant": "t1", "level": 3, "groups": ["a", "b\n"]});
        let headers = HeaderMap::new();
        let query = [("limit".to_owned(), "5".to_owned())];
        let given = Given {
            captures: &[("id", "7")],
            query: &query,
            headers: &headers,
            claims: claims.as_object().unwrap(),
        };
        let mapped = |source: &str| Mapping {
            name: "x".into(),
            source: Source::parse(source).unwrap(),
        };
        let header = |source: &str| mapped(source).header(&given).unwrap().map(|(_, v)| v);
        let member = |source: &str| mapped(source).member(&given).unwrap().map(|(_, v)| v);
        assert_eq!(header("path.id").as_deref(), Some("7"));
        assert_eq!(header("claim.level").as_deref(), Some("3"));
        assert_eq!(header("claim.groups").as_deref(), Some("[\"a\",\"b\\n\"]"));
        assert_eq!(member("claim.level"), Some(json!(3)));
        assert_eq!(member("query.limit"), Some(json!("5")));
        assert_eq!(member("claim.none"), None);
        assert_eq!(header("header.accept"), None);
    }

    #[test]
    fn no_name_that_means_something_can_be_chosen() {
        assert!(is_free_header("tenant") && is_free_header("x-tenant"));
        for bad in [
            "",
            "Tenant",
            "bulla-user",
            "nats-msg-id",
            "http-status",
            "content-type",
            "a b",
        ] {
            assert!(!is_free_header(bad), "{bad}");
        }
    }
}
