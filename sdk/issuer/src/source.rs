//! Where an issuer's keys are, and who is believed when it answers.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

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
