//! Who issues workloads' tokens, and which token is whose (POL-180 to POL-187).

use std::sync::Arc;
use std::time::Duration;

use bulla_identity::Claims;
use serde_json::Value;

/// An `[jwt.NAME]`: who issues tokens by which workloads prove themselves when
/// they connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuer {
    pub(crate) name: Box<str>,
    pub(crate) issuer: Box<str>,
    pub(crate) audience: Box<str>,
    pub(crate) keys: IssuerKeys,
    pub(crate) algorithms: Box<[Box<str>]>,
    pub(crate) max_life: Duration,
    pub(crate) ca: Option<Box<str>>,
}

/// Where an issuer's public keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerKeys {
    /// From the URL that the issuer's own description names ([OpenID Connect
    /// Discovery §4](https://openid.net/specs/openid-connect-discovery-1_0.html)).
    Discovered,
    /// From this URL.
    At(Box<str>),
    /// These, a JWKS document in the policy itself. Nothing is fetched.
    Fixed(Box<str>),
}

impl TokenIssuer {
    /// Its name in the policy.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `iss` has to be, byte for byte.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What `aud` has to name.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Where its keys come from.
    #[must_use]
    pub fn keys(&self) -> &IssuerKeys {
        &self.keys
    }

    /// The algorithms that its tokens may be signed with; never empty.
    pub fn algorithms(&self) -> impl Iterator<Item = &str> {
        self.algorithms.iter().map(|name| &**name)
    }

    /// For how long after now a token may be good at most.
    #[must_use]
    pub fn max_life(&self) -> Duration {
        self.max_life
    }

    /// The certificate authorities (PEM) of the server that has the keys, if they
    /// are not those that the operating system trusts.
    #[must_use]
    pub fn ca(&self) -> Option<&str> {
        self.ca.as_deref()
    }
}

/// Which tokens of an issuer prove one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenProof {
    pub(crate) issuer: Arc<TokenIssuer>,
    pub(crate) subject: Box<str>,
    pub(crate) claims: Box<[(Box<str>, Box<str>)]>,
}

impl TokenProof {
    /// Who issues them.
    #[must_use]
    pub fn issuer(&self) -> &Arc<TokenIssuer> {
        &self.issuer
    }

    /// What `sub` has to be, byte for byte.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Further claims, and what each has to be or, where it is a list, to hold;
    /// sorted by name.
    pub fn claims(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.claims.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether a token's claims are those that prove the workload. Issuer, audience,
    /// signature and times are looked at before.
    ///
    /// Texts are compared byte for byte: nothing in a claim is a pattern, and
    /// nothing is normalised.
    #[must_use]
    pub fn fits(&self, claims: &Claims) -> bool {
        claims.principal() == Some(&*self.subject)
            && self
                .claims
                .iter()
                .all(|(name, want)| match claims.get(name) {
                    Some(Value::String(found)) => **found == **want,
                    Some(Value::Array(found)) => found.iter().any(|one| one == &**want),
                    _ => false,
                })
    }
}

/// For how long after now a token may be good where the policy says nothing.
pub(crate) const DEFAULT_MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What the policy may say of it at most.
pub(crate) const LONGEST_MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);

/// The algorithms that there are: all of them with a key pair.
pub(crate) const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
];

/// Over which protocols a workload may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// NATS itself.
    pub nats: bool,
    /// NATS within WebSocket.
    pub websocket: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self {
            nats: true,
            websocket: false,
        }
    }
}
