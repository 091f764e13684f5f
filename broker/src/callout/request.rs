//! The question: what nats-server asks about one connection.
//!
//! A JWT in NATS's own dialect: header `{"typ":"JWT","alg":"ed25519-nkey"}`,
//! unpadded base64url, signed by the server's N-key that it names in `iss`.
//! Everything in it is copied from a client that nobody has authenticated yet,
//! except what the server says of itself.

use std::net::IpAddr;

use bulla_identity::{Nkey, NkeyKind, UnixMillis};
use bulla_keyring::{Signature, VerifyingKey};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use zeroize::Zeroizing;

/// A callout request whose signature and shape are right.
///
/// No `Debug`: it holds what the client sent to authenticate.
pub(super) struct CalloutRequest {
    /// The asking server; also the audience of the answer.
    pub(super) server: Nkey,
    /// What its question was verified by.
    pub(super) server_key: VerifyingKey,
    /// The server's key for the encrypted answer.
    pub(super) server_xkey: Option<Nkey>,
    /// The name that the server made up for this connection.
    pub(super) user_nkey: Nkey,
    /// The server's number of the connection.
    pub(super) client_id: u64,
    /// What kind of connection: `Client`, `Leafnode`, …
    pub(super) kind: String,
    /// Over which protocol: `nats`, `mqtt`, `websocket`.
    pub(super) protocol: String,
    /// What the server challenged the client with.
    pub(super) nonce: String,
    /// How the client calls itself, or under which name it was admitted.
    pub(super) user: String,
    /// The nkey that the client claims.
    pub(super) nkey: String,
    /// The client's signature over the nonce.
    pub(super) signature: String,
    /// The token that the client shows.
    pub(super) token: Zeroizing<String>,
    /// Whether the client's TLS connection has a certificate of its own.
    pub(super) has_certificate: bool,
    /// That certificate and those above it, in PEM, up to an authority of the
    /// server's; empty if the server has verified none.
    pub(super) verified_chain: Vec<String>,
    /// From where the server sees it connect, if it said so.
    pub(super) client: Option<IpAddr>,
    /// After this the server no longer listens.
    pub(super) expires_at: UnixMillis,
}

/// Verifies and reads one request. `known` has the key of a server that was seen
/// before, by its name: a key is the name's own bytes, so that this saves the work of
/// reading it and decides nothing.
///
/// # Errors
/// [`RequestError`] says which rule is broken. A message that fails here is
/// from no nats-server, so it is never answered.
pub(super) fn decode(
    token: &[u8],
    known: impl FnOnce(&Nkey) -> Option<VerifyingKey>,
) -> Result<CalloutRequest, RequestError> {
    if token.len() > MAX_REQUEST {
        return Err(RequestError::TooLarge {
            limit: MAX_REQUEST,
            actual: token.len(),
        });
    }
    let token = std::str::from_utf8(token).map_err(|_| RequestError::Malformed)?;
    let (signed, signature) = token.rsplit_once('.').ok_or(RequestError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(RequestError::Malformed)?;
    let header: Header = part(header)?;
    if header.typ != "JWT" || header.alg != "ed25519-nkey" {
        return Err(RequestError::Algorithm);
    }
    let signature: [u8; 64] = BASE64URL_NOPAD
        .decode(signature.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(RequestError::Malformed)?;
    let claims: Claims = part(payload)?;
    let server = nkey(&claims.iss, NkeyKind::Server)?;
    let server_key = match known(&server) {
        Some(key) => key,
        None => VerifyingKey::from_nkey(&server).map_err(|_| RequestError::Nkey)?,
    };
    server_key
        .verify_text(signed, &Signature::from_bytes(signature))
        .map_err(|_| RequestError::Signature)?;

    if claims.aud != "nats-authorization-request" {
        return Err(RequestError::Audience);
    }
    let body = claims.nats;
    if body.kind != "authorization_request" || body.version != 2 {
        return Err(RequestError::Kind);
    }
    if body.server_id.id != claims.iss {
        return Err(RequestError::Server);
    }
    let server_xkey = match body.server_id.xkey.as_str() {
        "" => None,
        text => Some(nkey(text, NkeyKind::Curve)?),
    };
    Ok(CalloutRequest {
        server,
        server_key,
        server_xkey,
        user_nkey: nkey(&body.user_nkey, NkeyKind::User)?,
        client_id: body.client_info.id,
        kind: body.client_info.kind,
        protocol: body.client_info.protocol,
        nonce: body.client_info.nonce,
        user: body.connect_opts.user,
        nkey: body.connect_opts.nkey,
        signature: body.connect_opts.sig,
        token: Zeroizing::new(body.connect_opts.auth_token),
        has_certificate: !body.client_tls.certs.is_empty()
            || !body.client_tls.verified_chains.is_empty(),
        verified_chain: body
            .client_tls
            .verified_chains
            .into_iter()
            .next()
            .unwrap_or_default(),
        client: address(&body.client_info.host),
        expires_at: UnixMillis::from_secs(claims.exp),
    })
}

/// The address, without the zone that one of IPv6 may have.
fn address(host: &str) -> Option<IpAddr> {
    host.split('%').next()?.parse().ok()
}

fn part<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, RequestError> {
    let json = BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| RequestError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| RequestError::Malformed)
}

fn nkey(text: &str, kind: NkeyKind) -> Result<Nkey, RequestError> {
    Nkey::parse(text)
        .ok()
        .filter(|nkey| nkey.kind() == kind)
        .ok_or(RequestError::Nkey)
}

/// Why a message is not a callout request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the request is {actual} bytes long; at most {limit} are allowed")]
    TooLarge { limit: usize, actual: usize },
    #[error("the request is not a JWT")]
    Malformed,
    #[error("the request's header names another algorithm than `ed25519-nkey`")]
    Algorithm,
    #[error("the request's signature does not verify")]
    Signature,
    #[error("the request is meant for another audience")]
    Audience,
    #[error("the token is not an authorization request of version 2")]
    Kind,
    #[error("the request's issuer is not the server that it describes")]
    Server,
    #[error("a key in the request is malformed or of the wrong kind")]
    Nkey,
}

impl RequestError {
    /// A short stable name.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "request_too_large",
            Self::Malformed => "request_malformed",
            Self::Algorithm => "request_algorithm",
            Self::Signature => "request_signature",
            Self::Audience => "request_audience",
            Self::Kind => "request_kind",
            Self::Server => "request_server",
            Self::Nkey => "request_nkey",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
}

// Servers add fields from release to release, so unknown ones are passed over
// below; a known field that appears twice is an error.

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    exp: u64,
    nats: Body,
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "type")]
    kind: String,
    version: u32,
    server_id: ServerId,
    user_nkey: String,
    #[serde(default)]
    client_info: ClientInfo,
    #[serde(default)]
    connect_opts: ConnectOptions,
    #[serde(default)]
    client_tls: ClientTls,
}

#[derive(Deserialize)]
struct ServerId {
    id: String,
    #[serde(default)]
    xkey: String,
}

#[derive(Default, Deserialize)]
struct ClientInfo {
    #[serde(default)]
    id: u64,
    #[serde(default)]
    host: String,
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "type")]
    protocol: String,
    #[serde(default)]
    nonce: String,
}

#[derive(Default, Deserialize)]
struct ConnectOptions {
    #[serde(default)]
    user: String,
    #[serde(default)]
    nkey: String,
    #[serde(default)]
    sig: String,
    #[serde(default)]
    auth_token: String,
}

#[derive(Default, Deserialize)]
struct ClientTls {
    #[serde(default)]
    certs: Vec<String>,
    #[serde(default)]
    verified_chains: Vec<Vec<String>>,
}

/// A CONNECT line is limited to 32 KiB; certificates and the JWT's own text
/// come on top.
const MAX_REQUEST: usize = 256 * 1024;
