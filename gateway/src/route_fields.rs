//! The keys of a route that are lists, each with its own grammar.

use bulla_identity::WorkloadName;
use bulla_token::MAX_REACH;
use http::{HeaderName, StatusCode};

use crate::admission::Priority;
use crate::section::Section;

pub(crate) fn read_scopes(s: &mut Section<'_>, key: &'static str) -> Vec<String> {
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
pub(crate) fn read_reach(s: &mut Section<'_>) -> Option<Vec<String>> {
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

pub(crate) fn read_content_types(s: &mut Section<'_>) -> Vec<String> {
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

pub(crate) fn read_query(s: &mut Section<'_>) -> Vec<String> {
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

pub(crate) fn read_headers(
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
pub(crate) fn is_forwardable(name: &HeaderName) -> bool {
    const NEVER: [&str; 22] = [
        "authorization",
        "x-api-key",
        "dpop",
        "sec-websocket-protocol",
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
pub(crate) fn is_settable(name: &HeaderName) -> bool {
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

pub(crate) fn read_priority(s: &mut Section<'_>) -> Priority {
    let Some(text) = s.text("priority") else {
        return Priority::default();
    };
    match text.value.as_str() {
        "low" => Priority::Low,
        "normal" => Priority::Normal,
        "high" => Priority::High,
        other => {
            s.problem(
                &text.span,
                format!("`priority` is `{other}`: possible are `low`, `normal` and `high`"),
            );
            Priority::default()
        }
    }
}

pub(crate) fn read_statuses(s: &mut Section<'_>) -> Vec<StatusCode> {
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
