//! Cross-origin requests of browsers ([Fetch, CORS protocol]): which pages of other
//! origins may read what the edge answers.
//!
//! [Fetch, CORS protocol]: https://fetch.spec.whatwg.org/#http-cors-protocol

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const REQUEST_PRIVATE_NETWORK: &str = "access-control-request-private-network";
const ALLOW_PRIVATE_NETWORK: &str = "access-control-allow-private-network";
/// The most names in `Access-Control-Request-Headers`.
const MAX_REQUESTED_HEADERS: usize = 64;

/// The `[cors]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsConfig {
    /// Which origins.
    pub origins: Vec<OriginPattern>,
    /// Which headers a page may send.
    pub headers: Vec<HeaderName>,
    /// Which headers of an answer a page may read.
    pub expose: Vec<HeaderName>,
    /// Whether browsers send their own credentials along.
    pub credentials: bool,
    /// How long a browser remembers a preflight.
    pub max_age: Option<Duration>,
    /// Whether pages from the internet may ask an edge in a private network.
    pub private_network: bool,
}

/// An origin, a family of hosts, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// Every origin: `*`.
    Any,
    /// This one, byte for byte.
    Exact(String),
    /// `https://*.example`: what stands for the asterisk is one or more labels.
    Wildcard {
        /// What comes before.
        before: String,
        /// What comes after.
        after: String,
    },
}

impl OriginPattern {
    /// Reads `*`, `https://app.example`, or `https://*.app.example:8443`.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (scheme, host) = text
            .split_once("://")
            .ok_or("is no origin such as `https://app.example`")?;
        if !matches!(scheme, "http" | "https") {
            return Err("is no origin of `http` or `https`");
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
        let (before, after) = match host.strip_prefix("*.") {
            Some(rest) => (format!("{scheme}://"), Some(format!(".{rest}"))),
            None => (text.to_owned(), None),
        };
        let fixed = after.as_deref().unwrap_or(host);
        if fixed.is_empty() || fixed == "." || !fixed.chars().all(plain) {
            return Err("is no origin: scheme, host in lower case and port, without a path");
        }
        Ok(match after {
            Some(after) => Self::Wildcard { before, after },
            None => Self::Exact(before),
        })
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == origin,
            Self::Wildcard { before, after } => origin
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(after.as_str()))
                .is_some_and(|labels| {
                    !labels.is_empty()
                        && labels
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
                }),
        }
    }
}

/// Whether a request is a preflight: it asks whether another one would be allowed.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

impl CorsConfig {
    /// The header fields that answer a preflight for a path with these methods. Those of
    /// a refusal say nothing but on what it depends.
    pub(crate) fn preflight(&self, request: &HeaderMap, methods: &[Method]) -> HeaderMap {
        let mut answer = HeaderMap::new();
        let vary = if self.private_network {
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
        } else {
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
        };
        answer.insert(VARY, HeaderValue::from_static(vary));
        let Some(origin) = self.allowed_origin(request) else {
            return answer;
        };
        let method = request.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|asked| {
            methods
                .iter()
                .any(|m| m.as_str().as_bytes() == asked.as_bytes())
        });
        let Some(method) = method else {
            return answer;
        };
        let Some(headers) = self.requested_headers(request) else {
            return answer;
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        if let Ok(names) = HeaderValue::try_from(headers.join(", "))
            && !headers.is_empty()
        {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        if self.credentials {
            answer.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        if let Some(age) = self.max_age {
            answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
        }
        let asks_private = request.get(REQUEST_PRIVATE_NETWORK);
        if self.private_network && asks_private.is_some_and(|v| v.as_bytes() == b"true") {
            answer.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        answer
    }

    /// Adds to any other answer what lets the page read it.
    pub(crate) fn decorate(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        answer.append(VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin.and_then(|origin| self.allowed(origin)) else {
            return;
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            answer.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        let names: Vec<&str> = self.expose.iter().map(HeaderName::as_str).collect();
        if let Ok(names) = HeaderValue::try_from(names.join(", "))
            && !names.is_empty()
        {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }

    /// Whether pages of this origin may ask.
    pub(crate) fn allows(&self, origin: &HeaderValue) -> bool {
        self.allowed(origin).is_some()
    }

    fn allowed_origin(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let mut origins = request.get_all(ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(only), None) => self.allowed(only),
            _ => None,
        }
    }

    /// What `Access-Control-Allow-Origin` says to this origin.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        let text = origin.to_str().ok()?;
        let by = self.origins.iter().find(|pattern| pattern.matches(text))?;
        Some(match by {
            OriginPattern::Any => HeaderValue::from_static("*"),
            OriginPattern::Exact(_) | OriginPattern::Wildcard { .. } => origin.clone(),
        })
    }

    /// The headers that a page wants to send, if all of them may be sent.
    fn requested_headers(&self, request: &HeaderMap) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for value in request.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
            for name in value.to_str().ok()?.split(',') {
                let name = name.trim().to_ascii_lowercase();
                if name.is_empty() {
                    continue;
                }
                let allowed = self.headers.iter().any(|h| h.as_str() == name);
                if !allowed || names.len() == MAX_REQUESTED_HEADERS {
                    return None;
                }
                names.push(name);
            }
        }
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pattern(text: &str) -> OriginPattern {
        OriginPattern::parse(text).unwrap()
    }

    #[test]
    fn an_origin_is_matched_whole() {
        let exact = pattern("https://app.example");
        assert!(exact.matches("https://app.example"));
        for other in [
            "https://app.example.evil",
            "http://app.example",
            "https://app.example:8443",
            "https://evil-app.example",
            "null",
            "",
        ] {
            assert!(!exact.matches(other), "{other}");
        }
        let family = pattern("https://*.app.example");
        assert!(family.matches("https://a.app.example"));
        assert!(family.matches("https://a.b.app.example"));
        for other in [
            "https://app.example",
            "https://.app.example",
            "https://evilapp.example",
            "https://evil.example/.app.example",
            "https://evil.example:1@x.app.example",
            "https://evil.example#.app.example",
            "http://a.app.example",
        ] {
            assert!(!family.matches(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "ftp://app.example",
            "https://*",
            "https://*.",
            "https://a.*.example",
            "https://*.*.example",
            "null",
        ] {
            assert!(OriginPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_origins_are_none() {
        let cors = CorsConfig {
            origins: vec![pattern("https://a.example")],
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: None,
            private_network: false,
        };
        let mut request = HeaderMap::new();
        request.append(ORIGIN, HeaderValue::from_static("https://a.example"));
        request.append(ORIGIN, HeaderValue::from_static("https://b.example"));
        request.insert(
            ACCESS_CONTROL_REQUEST_METHOD,
            HeaderValue::from_static("GET"),
        );
        let answer = cors.preflight(&request, &[Method::GET]);
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    /// The options of another implementation, in our words; `None` if we refuse them.
    fn from_options(options: &Value) -> Option<(CorsConfig, Vec<Method>)> {
        let list = |key: &str| -> Vec<String> {
            let items = options.get(key).and_then(Value::as_array);
            items
                .into_iter()
                .flatten()
                .map(|v| v.as_str().unwrap().to_owned())
                .collect()
        };
        let flag = |key: &str| options.get(key).and_then(Value::as_bool) == Some(true);
        let mut origins = list("AllowedOrigins");
        if origins.is_empty() {
            origins.push("*".into());
        }
        // A browser ignores the pair, so the gateway's configuration refuses it.
        if flag("AllowCredentials") && origins.iter().any(|o| o == "*") {
            return None;
        }
        let mut headers = list("AllowedHeaders");
        // Theirs stands for every header; ours has no such word.
        if headers.iter().any(|h| h == "*") {
            headers = vec!["x-header-1".into(), "x-header-2".into()];
        }
        if headers.is_empty() {
            headers = ["accept", "content-type", "x-requested-with"]
                .map(str::to_owned)
                .to_vec();
        }
        let mut methods = list("AllowedMethods");
        if methods.is_empty() {
            methods = ["GET", "POST", "HEAD"].map(str::to_owned).to_vec();
        }
        let names = |list: Vec<String>| -> Vec<HeaderName> {
            list.iter()
                .map(|h| HeaderName::try_from(h.as_str()).unwrap())
                .collect()
        };
        let age = options.get("MaxAge").and_then(Value::as_i64);
        let config = CorsConfig {
            origins: origins.iter().map(|o| pattern(o)).collect(),
            headers: names(headers),
            expose: names(list("ExposedHeaders")),
            credentials: flag("AllowCredentials"),
            max_age: age.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))),
            private_network: flag("AllowPrivateNetwork"),
        };
        let methods = methods.iter().map(|m| m.parse().unwrap()).collect();
        Some((config, methods))
    }

    /// The elements of all lists of a header, without case, blanks and empty ones.
    fn elements(values: Vec<String>) -> Vec<String> {
        values
            .iter()
            .flat_map(|v| v.split(','))
            .map(|e| e.trim().to_ascii_lowercase())
            .filter(|e| !e.is_empty())
            .collect()
    }

    #[test]
    fn external_cases() {
        let Ok(dir) = std::env::var("BULLA_VECTORS") else {
            println!("external vectors were not run: BULLA_VECTORS is unset");
            return;
        };
        let path = std::path::Path::new(&dir).join("http/cors_cases.json");
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut run = 0;
        for case in all.get("cases").unwrap().as_array().unwrap() {
            let name = case.get("name").unwrap().as_str().unwrap();
            let Some((cors, methods)) = from_options(case.get("options").unwrap()) else {
                continue;
            };
            let mut request = HeaderMap::new();
            for (name, values) in case.get("request_headers").unwrap().as_object().unwrap() {
                for value in values.as_array().unwrap() {
                    request.append(
                        HeaderName::try_from(name.as_str()).unwrap(),
                        HeaderValue::from_str(value.as_str().unwrap()).unwrap(),
                    );
                }
            }
            let method: Method = case
                .get("method")
                .unwrap()
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            let answer = if is_preflight(&method, &request) {
                cors.preflight(&request, &methods)
            } else {
                let mut answer = HeaderMap::new();
                cors.decorate(request.get(ORIGIN), &mut answer);
                answer
            };
            let wanted = case.get("response_headers").unwrap().as_object().unwrap();
            for (header, values) in wanted {
                let texts = |v: &Value| v.as_str().unwrap().to_owned();
                let wanted = values.as_array().unwrap().iter().map(texts).collect();
                let got = answer
                    .get_all(header.as_str())
                    .iter()
                    .map(|v| v.to_str().unwrap().to_owned())
                    .collect();
                assert_eq!(elements(got), elements(wanted), "{name}: {header}");
            }
            let names: Vec<String> = wanted.keys().map(|k| k.to_ascii_lowercase()).collect();
            for header in answer.keys() {
                assert!(
                    names.iter().any(|n| n == header.as_str()),
                    "{name}: {header}"
                );
            }
            run += 1;
        }
        assert_eq!(run, 22);
    }
}
