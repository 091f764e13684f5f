//! URLs that keys may come from, and what an issuer says of itself
//! ([OpenID Connect Discovery]). Pure: the fuzz target `issuer_description` runs it over
//! any bytes.
//!
//! [OpenID Connect Discovery]: https://openid.net/specs/openid-connect-discovery-1_0.html

use url::{Host, Url};

/// Why no keys are fetched from a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL.
    #[error("is no URL such as `https://login.example`")]
    NoUrl,
    /// A user or a password.
    #[error("holds credentials, remove them")]
    Credentials,
    /// In the clear over a network.
    #[error("plain `http` is for loopback only, use `https`")]
    PlainHttp,
    /// Neither http nor https.
    #[error("must be `https`")]
    Scheme,
}

/// A URL that keys may be fetched from: https, or http to loopback.
///
/// # Errors
/// [`UrlError`] says what is wrong with it.
pub fn key_url(text: &str) -> Result<Url, UrlError> {
    let url = Url::parse(text).map_err(|_| UrlError::NoUrl)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials);
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(UrlError::PlainHttp),
        _ => Err(UrlError::Scheme),
    }
}

/// Whether a URL's host is this machine.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether a connection to a URL's host ends at this machine whatever a name server says:
/// by more names than those by which plain http is allowed ([RFC 6761 §6.3]).
///
/// [RFC 6761 §6.3]: https://www.rfc-editor.org/rfc/rfc6761#section-6.3
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_unspecified(),
        Some(Host::Ipv6(ip)) => {
            let mapped = ip.to_ipv4_mapped();
            ip.is_loopback()
                || ip.is_unspecified()
                || mapped.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified())
        }
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

/// Where an issuer of this name describes itself; nowhere if it has a query or a fragment,
/// which no issuer's name has ([OpenID Connect Discovery §4.1]).
///
/// [OpenID Connect Discovery §4.1]: https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfigurationRequest
pub(crate) fn description_of(issuer: &Url) -> Option<Url> {
    if issuer.query().is_some() || issuer.fragment().is_some() {
        return None;
    }
    let base = issuer.as_str().trim_end_matches('/');
    Url::parse(&format!("{base}/.well-known/openid-configuration")).ok()
}

/// Why an issuer's description is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DescriptionError {
    /// It is no JSON object.
    #[error("the issuer's description is no JSON object")]
    Malformed,
    /// It is another issuer's.
    #[error("the description is another issuer's")]
    OtherIssuer,
    /// There is no `jwks_uri`.
    #[error("the issuer's description names no `jwks_uri`")]
    NoKeys,
    /// Its `jwks_uri` is none that keys may be fetched from.
    #[error("the `jwks_uri` of the issuer's description {0}")]
    Url(UrlError),
    /// Its `jwks_uri` is this machine, and it came from elsewhere.
    #[error("the `jwks_uri` of the issuer's description is this machine")]
    Here,
}

/// Where a description that came from `asked` says that the keys of `issuer` are. What
/// answers has to call itself by the name under which it was looked for, byte for byte, or
/// one issuer could answer for another.
pub(crate) fn keys_of(
    description: &[u8],
    issuer: &str,
    asked: &Url,
) -> Result<Url, DescriptionError> {
    let description: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(description).map_err(|_| DescriptionError::Malformed)?;
    let text = |name: &str| description.get(name).and_then(serde_json::Value::as_str);
    if text("issuer") != Some(issuer) {
        return Err(DescriptionError::OtherIssuer);
    }
    let keys = text("jwks_uri").ok_or(DescriptionError::NoKeys)?;
    let keys = key_url(keys).map_err(DescriptionError::Url)?;
    // Who is not of this machine must not have it ask itself.
    if is_here(&keys) && !is_loopback(asked) {
        return Err(DescriptionError::Here);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in [
            "https://login.example/keys",
            "http://127.0.0.1:8080/keys",
            "http://[::1]/keys",
            "http://localhost/keys",
        ] {
            assert!(key_url(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("login.example", UrlError::NoUrl),
            ("https://a:b@login.example", UrlError::Credentials),
            ("http://login.example", UrlError::PlainHttp),
            ("http://localhost.evil.example", UrlError::PlainHttp),
            ("file:///etc/passwd", UrlError::Scheme),
        ] {
            assert_eq!(key_url(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn an_issuer_describes_itself_below_its_own_path() {
        for (issuer, at) in [
            (
                "https://a.example",
                "https://a.example/.well-known/openid-configuration",
            ),
            (
                "https://a.example/t/",
                "https://a.example/t/.well-known/openid-configuration",
            ),
        ] {
            let url = description_of(&Url::parse(issuer).unwrap()).unwrap();
            assert_eq!(url.as_str(), at);
        }
        for none in ["https://a.example?t", "https://a.example/t#u"] {
            assert_eq!(description_of(&Url::parse(none).unwrap()), None, "{none}");
        }
    }

    const ISSUER: &str = "https://login.example";

    fn read(issuer: &str, keys: &str, asked: &str) -> Result<String, DescriptionError> {
        let description = serde_json::json!({ "issuer": issuer, "jwks_uri": keys }).to_string();
        let asked = Url::parse(asked).unwrap();
        keys_of(description.as_bytes(), ISSUER, &asked).map(String::from)
    }

    #[test]
    fn a_description_counts_for_its_own_issuer_alone() {
        let keys = "https://login.example/keys";
        assert_eq!(read(ISSUER, keys, ISSUER).as_deref(), Ok(keys));
        for other in ["https://login.example/", "https://LOGIN.example", ""] {
            let refused = Err(DescriptionError::OtherIssuer);
            assert_eq!(read(other, keys, ISSUER), refused, "{other}");
        }
        let asked = Url::parse(ISSUER).unwrap();
        for (description, why) in [
            ("", DescriptionError::Malformed),
            ("[]", DescriptionError::Malformed),
            ("{}", DescriptionError::OtherIssuer),
            (
                r#"{"issuer":["https://login.example"]}"#,
                DescriptionError::OtherIssuer,
            ),
            (
                r#"{"issuer":"https://login.example"}"#,
                DescriptionError::NoKeys,
            ),
            (
                r#"{"issuer":"https://login.example","jwks_uri":7}"#,
                DescriptionError::NoKeys,
            ),
            (
                r#"{"issuer":"https://login.example","jwks_uri":"http://login.example"}"#,
                DescriptionError::Url(UrlError::PlainHttp),
            ),
        ] {
            let read = keys_of(description.as_bytes(), ISSUER, &asked);
            assert_eq!(read, Err(why), "{description}");
        }
    }

    #[test]
    fn an_issuer_elsewhere_has_nothing_asked_of_this_machine() {
        for here in [
            "http://127.0.0.1/keys",
            "https://127.1/keys",
            "https://0.0.0.0/keys",
            "https://[::]/keys",
            "https://[::1]/keys",
            "https://[::ffff:127.0.0.1]/keys",
            "https://localhost/keys",
            "https://localhost./keys",
            "https://a.localhost/keys",
        ] {
            assert_eq!(
                read(ISSUER, here, ISSUER),
                Err(DescriptionError::Here),
                "{here}"
            );
            assert!(read(ISSUER, here, "http://127.0.0.1:9/").is_ok(), "{here}");
        }
        assert!(read(ISSUER, "https://localhost.example/keys", ISSUER).is_ok());
    }
}
