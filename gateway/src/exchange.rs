//! From an HTTP request to a message, and from a reply to an HTTP response.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::bus::BusReply;
use crate::cache::Answer;
use crate::mapping::Given;
use crate::path::PathTemplate;
use crate::problem::Problem;
use crate::routes::Route;

/// The content type of the object that stands for a request without a body.
pub(crate) const JSON: &str = "application/json";
/// The reply header with which a service chooses the status.
const STATUS_HEADER: &str = "http-status";
/// The longest value of a query parameter or a forwarded header, in bytes.
const MAX_VALUE: usize = 1_024;
/// The most bytes that all headers of a message have together.
const MAX_HEADERS: usize = 8 * 1_024;

/// The query parameters that the route declares; anything else is refused.
pub(crate) fn query_parameters(
    route: &Route,
    query: Option<&str>,
) -> Result<Vec<(String, String)>, Problem> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    let query = query.unwrap_or_default();
    if !has_valid_percents(query) {
        return Err(Problem::BadRequest(
            "the query has an invalid percent encoding",
        ));
    }
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !route.query.iter().any(|known| *known == name) {
            return Err(Problem::BadRequest("the query has an unknown parameter"));
        }
        if parameters.iter().any(|(known, _)| *known == name) {
            return Err(Problem::BadRequest("the query repeats a parameter"));
        }
        let clean = !value
            .chars()
            .any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER);
        if value.len() > MAX_VALUE || !clean {
            return Err(Problem::BadRequest(
                "a query parameter is too long or has control characters",
            ));
        }
        parameters.push((name.into_owned(), value.into_owned()));
    }
    Ok(parameters)
}

fn has_valid_percents(text: &str) -> bool {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().is_some_and(|d| d.is_ascii_hexdigit());
            if !(digit() && digit()) {
                return false;
            }
        }
    }
    true
}

/// The content type of a body, without its parameters, if the route takes it.
pub(crate) fn content_type(route: &Route, headers: &HeaderMap) -> Result<String, Problem> {
    let unsupported = || Problem::UnsupportedMediaType(route.content_types.clone());
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = match (values.next(), values.next()) {
        (Some(only), None) => only.to_str().map_err(|_| unsupported())?,
        _ => return Err(unsupported()),
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if route.content_types.contains(&essence) {
        Ok(essence)
    } else {
        Err(unsupported())
    }
}

/// The signed application headers of the message: `http-path-…` for captures,
/// `http-query-…` for parameters, `http-header-…` for headers that the route forwards.
pub(crate) fn message_headers(
    route: &Route,
    captures: &[(&str, &str)],
    query: &[(String, String)],
    headers: &HeaderMap,
) -> Result<Vec<(String, String)>, Problem> {
    let mut message: Vec<(String, String)> = Vec::new();
    for (name, value) in captures {
        message.push((format!("http-path-{name}"), (*value).to_owned()));
    }
    for (name, value) in query {
        message.push((format!("http-query-{name}"), value.clone()));
    }
    for name in &route.forward_headers {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        let text = value
            .to_str()
            .ok()
            .filter(|t| t.len() <= MAX_VALUE && !t.contains('\t') && values.next().is_none())
            .ok_or(Problem::BadRequest(
                "a header is repeated, too long or not printable",
            ))?;
        message.push((format!("http-header-{name}"), text.to_owned()));
    }
    Ok(message)
}

/// Adds the headers that the route names itself, and checks that they all fit.
pub(crate) fn with_mapped_headers(
    route: &Route,
    mut message: Vec<(String, String)>,
    given: &Given<'_>,
) -> Result<Vec<(String, String)>, Problem> {
    for mapping in &route.headers {
        message.extend(mapping.header(given)?);
    }
    let bytes: usize = message.iter().map(|(n, v)| n.len() + v.len()).sum();
    if bytes > MAX_HEADERS {
        return Err(Problem::BadRequest(
            "parameters and headers are too long together",
        ));
    }
    Ok(message)
}

/// What a request without a body becomes: an object of its captures and parameters.
pub(crate) fn parameters_object(captures: &[(&str, &str)], query: &[(String, String)]) -> Value {
    let mut object: Map<String, Value> = captures
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    object.extend(query.iter().map(|(n, v)| (n.clone(), v.as_str().into())));
    Value::Object(object)
}

/// The captures of a path with their names.
pub(crate) fn named_captures<'a>(
    path: &'a PathTemplate,
    values: &[&'a str],
) -> Vec<(&'a str, &'a str)> {
    path.captures().zip(values.iter().copied()).collect()
}

/// The answer that a reply makes.
///
/// # Errors
///
/// [`Problem::BadReply`] if the reply is too large, or asks for a status or a header
/// value that the route does not allow.
pub(crate) fn response(
    route: &Route,
    reply: BusReply,
    max_reply: usize,
) -> Result<Answer, Problem> {
    if reply.payload.len() > max_reply {
        return Err(Problem::BadReply);
    }
    let status = match header(&reply, STATUS_HEADER)? {
        None => StatusCode::OK,
        Some(text) => StatusCode::from_bytes(text.as_bytes())
            .ok()
            .filter(|status| route.statuses.contains(status))
            .ok_or(Problem::BadReply)?,
    };
    let bodyless = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
    if bodyless && !reply.payload.is_empty() {
        return Err(Problem::BadReply);
    }
    // With room for what every answer carries.
    let mut headers = HeaderMap::with_capacity(16);
    if !reply.payload.is_empty() {
        let value = HeaderValue::from_str(&reply.content_type).map_err(|_| Problem::BadReply)?;
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for name in &route.response_headers {
        let Some(text) = header(&reply, name.as_str())? else {
            continue;
        };
        if name == LOCATION && !is_local_path(text) {
            return Err(Problem::BadReply);
        }
        let value = HeaderValue::from_str(text).map_err(|_| Problem::BadReply)?;
        headers.insert(name.clone(), value);
    }
    Ok(Answer::new(status, headers, reply.payload))
}

/// One header of a reply; twice is a malformed reply.
fn header<'r>(reply: &'r BusReply, name: &str) -> Result<Option<&'r str>, Problem> {
    let mut found = reply
        .headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.as_str());
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Problem::BadReply),
    }
}

/// A path on this host: `Location` never sends a client elsewhere.
fn is_local_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_stay_on_this_host() {
        for good in ["/", "/v1/orders/42", "/a?b=c"] {
            assert!(is_local_path(good), "{good}");
        }
        for bad in [
            "",
            "//evil.example",
            "https://evil.example",
            "/\\evil",
            "/a b",
            "/a\r\nx: y",
        ] {
            assert!(!is_local_path(bad), "{bad}");
        }
    }

    #[test]
    fn percents_in_a_query_are_checked() {
        assert!(has_valid_percents("a=%41&b=%2f"));
        for bad in ["%", "a=%4", "a=%zz", "%%41"] {
            assert!(!has_valid_percents(bad), "{bad}");
        }
    }
}
