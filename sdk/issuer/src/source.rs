//! Where an issuer's keys are, and who is believed when it answers.

use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

/// Where the keys of one issuer come from, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySource {
    /// What `iss` of its tokens is, byte for byte.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeysAt,
    /// Who vouches for the server that has them.
    pub certificates: CertificateSource,
    /// How often they are fetched.
    pub refresh: Duration,
    /// The shortest time between two fetches that tokens cause.
    pub cooldown: Duration,
    /// How long they are used after the last fetch that succeeded.
    pub max_stale: Duration,
    /// How long one request may take.
    pub timeout: Duration,
    /// Who asks.
    pub user_agent: &'static str,
}

/// Where a key set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysAt {
    /// There.
    Url(Url),
    /// Where the issuer's description says, which is found from its name
    /// ([OpenID Connect Discovery §4.1]). It has to be that issuer's, and names an
    /// https URL, or a loopback one if it came from such a one itself.
    ///
    /// [OpenID Connect Discovery §4.1]: https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfigurationRequest
    Discovered(Url),
}

impl KeysAt {
    pub(crate) const fn first(&self) -> &Url {
        match self {
            Self::Url(url) | Self::Discovered(url) => url,
        }
    }
}

/// Certificate authorities for the server that has the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// Those of the operating system.
    System,
    /// These, in a PEM file.
    File(PathBuf),
    /// These, in PEM.
    Pem(String),
}

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

/// Where an issuer of this name describes itself.
pub(crate) fn description_of(issuer: &Url) -> Option<Url> {
    let base = issuer.as_str().trim_end_matches('/');
    Url::parse(&format!("{base}/.well-known/openid-configuration")).ok()
}

/// Why the client for a key set could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file of certificate authorities cannot be read.
    #[error("cannot read `{file}`")]
    CaFile {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The TLS client cannot be set up.
    #[error("cannot set up the client for `{issuer}`")]
    Client {
        /// Whose keys.
        issuer: String,
        /// Why.
        source: reqwest::Error,
    },
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
    }
}
