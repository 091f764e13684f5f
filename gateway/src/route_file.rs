//! The routes file, read so that every mistake is reported at once.

use std::sync::Arc;
use std::time::Duration;

use bulla_identity::WorkloadName;
use bulla_token::{AccessTokenValidator, MAX_REACH, ValidationPolicy};
use http::{HeaderName, Method, StatusCode};

use crate::config::{IssuerConfig, Limits};
use crate::document::{Located, Section};
use crate::path::PathTemplate;
use crate::routes::{Access, Mode, Route, RouteTable, SubjectTemplate, TokenPolicy};

/// Reads the routes file. `issuers_complete` says whether an issuer that is not
/// there is the route's mistake, or one that has been reported already.
pub(crate) fn read_routes(
    mut root: Section<'_>,
    issuers: &[IssuerConfig],
    issuers_complete: bool,
    limits: &Limits,
) -> Option<RouteTable> {
    let sections = root.sections("route");
    if sections.is_empty() {
        root.problem(&root.span(), "there is no `[[route]]`");
    }
    let mut reader = RouteReader {
        issuers,
        issuers_complete,
        limits,
        policies: Vec::new(),
        policy_keys: Vec::new(),
    };
    let mut routes: Vec<Arc<Route>> = Vec::new();
    let mut complete = true;
    for section in sections {
        let span = section.span();
        let Some(route) = reader.route(section) else {
            complete = false;
            continue;
        };
        let clash = routes
            .iter()
            .find(|r| r.method == route.method && r.path.overlaps(&route.path));
        if let Some(other) = clash {
            root.problem(
                &span,
                format!("`{}` and `{}` match the same requests", other.id, route.id),
            );
        }
        routes.push(Arc::new(route));
    }
    root.finish();
    complete.then_some(RouteTable {
        routes,
        policies: reader.policies,
    })
}

struct RouteReader<'c> {
    issuers: &'c [IssuerConfig],
    issuers_complete: bool,
    limits: &'c Limits,
    policies: Vec<TokenPolicy>,
    policy_keys: Vec<(usize, Vec<String>)>,
}

impl RouteReader<'_> {
    fn route(&mut self, mut s: Section<'_>) -> Option<Route> {
        let method = s
            .required_text("method", "for example `\"GET\"`")
            .and_then(|m| match m.value.as_str() {
                "GET" => Some(Method::GET),
                "POST" => Some(Method::POST),
                "PUT" => Some(Method::PUT),
                "PATCH" => Some(Method::PATCH),
                "DELETE" => Some(Method::DELETE),
                other => {
                    s.problem(
                        &m.span,
                        format!(
                            "`method` is `{other}`: possible are GET, POST, PUT, PATCH, DELETE"
                        ),
                    );
                    None
                }
            });
        let path = s
            .required_text("path", "for example `\"/v1/orders/{id}\"`")
            .and_then(|p| {
                PathTemplate::parse(&p.value)
                    .map_err(|why| s.problem(&p.span, format!("`path`: {why}")))
                    .ok()
            });
        let subject_text = s.required_text("subject", "for example `\"orders.get\"`");
        let subject = match (&subject_text, &path) {
            (Some(text), Some(path)) => SubjectTemplate::parse(&text.value, path)
                .map_err(|why| s.problem(&text.span, format!("`subject`: {why}")))
                .ok(),
            _ => None,
        };
        let mode = s
            .required_text("mode", "`request` or `publish`")
            .and_then(|m| match m.value.as_str() {
                "request" => Some(Mode::Request),
                "publish" => Some(Mode::Publish),
                other => {
                    s.problem(
                        &m.span,
                        format!("`mode` is `{other}`: possible are `request` and `publish`"),
                    );
                    None
                }
            });
        let access = self.access(&mut s);
        let timeout = s
            .duration(
                "timeout",
                Duration::from_millis(10)..Duration::from_secs(300),
            )
            .unwrap_or(self.limits.request_timeout);
        let bodyless = method == Some(Method::GET);
        let body = s.size("body", 0..(64 << 20) + 1);
        let body = body.unwrap_or(if bodyless { 0 } else { self.limits.body });
        let content_types = read_content_types(&mut s);
        let query = read_query(&mut s);
        if let Some(both) = path
            .iter()
            .flat_map(PathTemplate::captures)
            .find(|c| query.iter().any(|q| q == c))
        {
            s.problem(
                &s.span(),
                format!("`{both}` is both a capture of the path and a query parameter"),
            );
        }
        let forward_headers = read_headers(&mut s, "forward_headers", is_forwardable);
        // A message has room for 32 headers.
        let named = path.iter().flat_map(PathTemplate::captures).count()
            + query.len()
            + forward_headers.as_ref().map_or(0, Vec::len);
        if named > 32 {
            s.problem(
                &s.span(),
                "captures, `query` and `forward_headers` are more than 32 together",
            );
        }
        let response_headers = match read_headers(&mut s, "response_headers", is_settable) {
            None => vec![http::header::LOCATION],
            Some(headers) => headers,
        };
        let statuses = read_statuses(&mut s);
        s.finish();
        let (method, path) = (method?, path?);
        Some(Route {
            id: format!("{method} {path}"),
            method,
            path,
            subject: subject?,
            mode: mode?,
            access: access?,
            timeout,
            body,
            content_types,
            query,
            forward_headers: forward_headers.unwrap_or_default(),
            statuses,
            response_headers,
        })
    }

    fn access(&mut self, s: &mut Section<'_>) -> Option<Access> {
        let auth = s.required_text(
            "auth",
            "write `auth = \"jwt\"`, or `auth = \"public\"` if everybody may call it",
        );
        let only_jwt = [
            "issuer",
            "audience",
            "scope",
            "optional_scope",
            "reach",
            "carry",
        ];
        match auth {
            Some(auth) if auth.value == "jwt" => self.jwt(s),
            Some(auth) if auth.value == "public" => {
                let mut clean = true;
                for key in only_jwt {
                    for text in s.texts(key).unwrap_or_default() {
                        s.problem(
                            &text.span,
                            format!("`{key}` means nothing on a public route: remove it, or write `auth = \"jwt\"`"),
                        );
                        clean = false;
                    }
                }
                clean.then_some(Access::Public)
            }
            Some(auth) => {
                s.problem(
                    &auth.span,
                    format!(
                        "`auth` is `{}`: possible are `jwt` and `public`",
                        auth.value
                    ),
                );
                for key in only_jwt {
                    let _ = s.texts(key);
                }
                None
            }
            None => {
                for key in only_jwt {
                    let _ = s.texts(key);
                }
                None
            }
        }
    }

    fn jwt(&mut self, s: &mut Section<'_>) -> Option<Access> {
        let named = s.required_texts("issuer", "whose tokens are taken here");
        let audiences = s.required_texts(
            "audience",
            "what `aud` must contain: without it tokens for other services would pass",
        );
        let scopes = read_scopes(s, "scope");
        let optional_scopes = read_scopes(s, "optional_scope");
        let reach = read_reach(s);
        let carry = s.text("carry");
        if let Some(other) = carry.as_ref().filter(|carry| carry.value != "original") {
            s.problem(
                &other.span,
                format!(
                    "`carry` is `{}`: possible is `original`, or leave it out",
                    other.value
                ),
            );
        }
        let (named, audiences) = (named?, audiences?);
        if let Some(empty) = audiences.iter().find(|a| a.value.is_empty()) {
            s.problem(&empty.span, "`audience` is empty");
            return None;
        }
        if named.is_empty() || audiences.is_empty() {
            s.problem(&s.span(), "`issuer` and `audience` name at least one each");
            return None;
        }
        let audiences: Vec<String> = audiences.into_iter().map(|a| a.value).collect();
        let mut policies = Vec::new();
        for name in &named {
            match self.issuers.iter().position(|i| i.issuer == name.value) {
                Some(issuer) => policies.push(self.policy(s, name, issuer, &audiences)?),
                None if self.issuers_complete => {
                    s.problem(
                        &name.span,
                        format!(
                            "issuer `{}` is not among the `[[issuer]]`s of the gateway",
                            name.value
                        ),
                    );
                    return None;
                }
                None => return None,
            }
        }
        Some(Access::Jwt {
            policies,
            scopes,
            optional_scopes,
            reach,
            carries_original: carry.is_some(),
        })
    }

    /// The token policy for an issuer and these audiences; routes that agree share
    /// one, and with it the cache of validated tokens.
    fn policy(
        &mut self,
        s: &Section<'_>,
        name: &Located<String>,
        issuer: usize,
        audiences: &[String],
    ) -> Option<usize> {
        let key = (issuer, audiences.to_vec());
        if let Some(known) = self.policy_keys.iter().position(|k| *k == key) {
            return Some(known);
        }
        let config = self.issuers.get(issuer)?;
        let mut policy = ValidationPolicy::new(config.issuer.clone(), String::new());
        policy.audiences = audiences.to_vec();
        policy.algorithms = config.algorithms.iter().copied().collect();
        policy.leeway = config.leeway;
        policy.typ = config.typ;
        match AccessTokenValidator::new(policy) {
            Ok(validator) => {
                self.policy_keys.push(key);
                self.policies.push(TokenPolicy {
                    issuer,
                    validator: Arc::new(validator),
                });
                Some(self.policies.len() - 1)
            }
            Err(e) => {
                s.problem(&name.span, e.to_string());
                None
            }
        }
    }
}

fn read_scopes(s: &mut Section<'_>, key: &'static str) -> Vec<String> {
    let mut scopes = Vec::new();
    for text in s.texts(key).unwrap_or_default() {
        for scope in text.value.split(' ') {
            let printable = scope
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
            if scope.is_empty() || !printable {
                s.problem(
                    &text.span,
                    format!("`{key}` has an empty or malformed scope"),
                );
            } else {
                scopes.push(scope.to_owned());
            }
        }
    }
    scopes
}

/// Names of audiences, spelt as in a policy.
fn read_reach(s: &mut Section<'_>) -> Option<Vec<String>> {
    let texts = s.texts("reach")?;
    if texts.len() > MAX_REACH {
        s.problem(
            &s.span(),
            format!("`reach` names more than {MAX_REACH} audiences"),
        );
    }
    let mut reach = Vec::new();
    for text in texts {
        match WorkloadName::parse(&text.value) {
            Ok(_) => reach.push(text.value),
            Err(why) => s.problem(&text.span, format!("`reach`: {why}")),
        }
    }
    Some(reach)
}

fn read_content_types(s: &mut Section<'_>) -> Vec<String> {
    match s.texts("content_types") {
        None => vec!["application/json".to_owned()],
        Some(types) => types
            .into_iter()
            .filter_map(|t| {
                let lower = t.value.to_ascii_lowercase();
                let token = |part: &str| {
                    !part.is_empty()
                        && part
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
                };
                let good = lower
                    .split_once('/')
                    .is_some_and(|(a, b)| token(a) && token(b));
                if !good {
                    s.problem(
                        &t.span,
                        format!(
                            "`{}` is no content type such as `application/json`",
                            t.value
                        ),
                    );
                }
                good.then_some(lower)
            })
            .collect(),
    }
}

fn read_query(s: &mut Section<'_>) -> Vec<String> {
    s.texts("query")
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| {
            let plain = !name.value.is_empty()
                && name.value.len() <= 48
                && name
                    .value
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            if !plain {
                s.problem(
                    &name.span,
                    format!(
                        "`{}` is no parameter of letters, digits, `_` and `-`",
                        name.value
                    ),
                );
            } else if name.value == "access_token" {
                s.problem(&name.span, "a token does not travel in the query");
                return None;
            }
            plain.then_some(name.value)
        })
        .collect()
}

fn read_headers(
    s: &mut Section<'_>,
    key: &'static str,
    possible: fn(&HeaderName) -> bool,
) -> Option<Vec<HeaderName>> {
    let names = s.texts(key)?;
    let mut headers = Vec::new();
    for name in names {
        match HeaderName::try_from(name.value.as_str()) {
            Ok(header) if possible(&header) && header.as_str().len() <= 48 => headers.push(header),
            _ => s.problem(
                &name.span,
                format!("header `{}` cannot be in `{key}`", name.value),
            ),
        }
    }
    Some(headers)
}

/// Whether a client's header may travel with the message.
fn is_forwardable(name: &HeaderName) -> bool {
    const NEVER: [&str; 19] = [
        "authorization",
        "cookie",
        "set-cookie",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "expect",
        "traceparent",
        "tracestate",
    ];
    !NEVER.contains(&name.as_str()) && !is_internal(name)
}

/// Whether a header belongs to the bus: never taken from a client, never given to one.
fn is_internal(name: &HeaderName) -> bool {
    let name = name.as_str();
    ["bulla-", "nats-", "http-"]
        .iter()
        .any(|p| name.starts_with(p))
}

/// Whether a service may set a header of the response.
fn is_settable(name: &HeaderName) -> bool {
    [
        "location",
        "etag",
        "last-modified",
        "cache-control",
        "content-language",
        "content-disposition",
        "retry-after",
        "link",
    ]
    .contains(&name.as_str())
}

fn read_statuses(s: &mut Section<'_>) -> Vec<StatusCode> {
    const DEFAULT: [StatusCode; 10] = [
        StatusCode::OK,
        StatusCode::CREATED,
        StatusCode::ACCEPTED,
        StatusCode::NO_CONTENT,
        StatusCode::BAD_REQUEST,
        StatusCode::NOT_FOUND,
        StatusCode::CONFLICT,
        StatusCode::GONE,
        StatusCode::PRECONDITION_FAILED,
        StatusCode::UNPROCESSABLE_ENTITY,
    ];
    let Some(numbers) = s.integers("statuses") else {
        return DEFAULT.to_vec();
    };
    numbers
        .into_iter()
        .filter_map(|n| {
            let status = u16::try_from(n.value)
                .ok()
                .and_then(|v| StatusCode::from_u16(v).ok())
                .filter(|v| v.is_success() || v.is_client_error())
                // These are the edge's own to say.
                .filter(|v| !matches!(v.as_u16(), 401 | 407 | 408 | 421 | 426 | 431));
            if status.is_none() {
                s.problem(
                    &n.span,
                    format!(
                        "a service cannot answer with {}: possible are 2xx and most of 4xx",
                        n.value
                    ),
                );
            }
            status
        })
        .collect()
}
