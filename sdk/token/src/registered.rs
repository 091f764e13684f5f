//! Registered claims, read by type ([RFC 7519 §4.1]).
//!
//! [RFC 7519 §4.1]: https://www.rfc-editor.org/rfc/rfc7519#section-4.1

use std::time::Duration;

use bulla_identity::UnixMillis;
use serde_json::{Map, Value};

use crate::TokenError;

/// The longest name of a user, an issuer or an audience, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 512;
/// The longest `scope`, in bytes.
pub(crate) const MAX_SCOPE_BYTES: usize = 4096;
/// 9999-12-31T23:59:59Z: later dates are nonsense, not patience.
const MAX_DATE_SECS: u64 = 253_402_300_799;

/// A date in whole seconds. Fractions, negative and huge numbers are refused.
pub(crate) fn date(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<UnixMillis>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(secs) if secs <= MAX_DATE_SECS => Ok(Some(UnixMillis::from_secs(secs))),
            _ => Err(TokenError::BadClaim(name)),
        },
    }
}

/// A required date.
pub(crate) fn required_date(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<UnixMillis, TokenError> {
    date(claims, name)?.ok_or(TokenError::MissingClaim(name))
}

/// A non-empty string without control characters.
pub(crate) fn string<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(s)) if is_name(s) => Ok(Some(s)),
        Some(_) => Err(TokenError::BadClaim(name)),
    }
}

/// A required string.
pub(crate) fn required_string<'a>(
    claims: &'a Map<String, Value>,
    name: &'static str,
) -> Result<&'a str, TokenError> {
    string(claims, name)?.ok_or(TokenError::MissingClaim(name))
}

/// `scope`: absent, or a string of space-separated printable ASCII
/// ([RFC 6749 §3.3]).
///
/// [RFC 6749 §3.3]: https://www.rfc-editor.org/rfc/rfc6749#section-3.3
pub(crate) fn scope(claims: &Map<String, Value>) -> Result<&str, TokenError> {
    match claims.get("scope") {
        None => Ok(""),
        Some(Value::String(s)) if is_scope(s) => Ok(s),
        Some(_) => Err(TokenError::BadClaim("scope")),
    }
}

/// Whether `text` can be the name of something.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control)
}

/// Whether `text` can be a `scope`.
pub(crate) fn is_scope(text: &str) -> bool {
    text.len() <= MAX_SCOPE_BYTES && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// `aud` as a list: one string, or a non-empty array of nothing but strings.
pub(crate) fn audiences(claims: &Map<String, Value>) -> Result<Vec<&str>, TokenError> {
    const BAD: TokenError = TokenError::BadClaim("aud");
    match claims.get("aud") {
        None => Err(TokenError::MissingClaim("aud")),
        Some(Value::String(one)) if is_name(one) => Ok(vec![one]),
        Some(Value::Array(many)) if !many.is_empty() => many
            .iter()
            .map(|v| v.as_str().filter(|s| is_name(s)).ok_or(BAD))
            .collect(),
        Some(_) => Err(BAD),
    }
}

/// Refuses what is expired, not valid yet or issued in the future.
pub(crate) fn check_times(
    now: UnixMillis,
    leeway: Duration,
    expires: UnixMillis,
    not_before: Option<UnixMillis>,
    issued: Option<UnixMillis>,
) -> Result<(), TokenError> {
    if now >= expires.saturating_add(leeway) {
        return Err(TokenError::Expired);
    }
    let latest = now.saturating_add(leeway);
    if not_before.is_some_and(|t| t > latest) {
        return Err(TokenError::NotYetValid);
    }
    if issued.is_some_and(|t| t > latest) {
        return Err(TokenError::IssuedInFuture);
    }
    Ok(())
}
