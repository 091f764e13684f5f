//! A small token issuer for development: the identity provider that a real
//! deployment has elsewhere.
//!
//! It serves its discovery document and its public key; tokens are signed by
//! `bulla dev token` with the key file, for whoever can read that file.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bulla_identity::UnixMillis;
use bulla_keyring::{SigningKey, sha256};
use bulla_process::{CancellationToken, SecretFileError, Zeroizing, secret_file};
use bytes::Bytes;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// The issuer's signing key.
#[derive(Debug)]
pub(super) struct IssuerKey {
    key: SigningKey,
}

impl IssuerKey {
    /// Reads the key file, or makes a new one.
    pub(super) fn read_or_create(path: &Path) -> Result<Self, IssuerError> {
        let text = secret_file::read_or_create::<IssuerError>(path, || {
            let mut seed = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *seed).map_err(IssuerError::Random)?;
            Ok(Zeroizing::new(HEXLOWER.encode(&*seed).into_bytes()))
        })?;
        Self::parse(&text)
    }

    /// Reads the key file.
    pub(super) fn read(path: &Path) -> Result<Self, IssuerError> {
        Self::parse(&secret_file::read(path)?)
    }

    fn parse(text: &[u8]) -> Result<Self, IssuerError> {
        let mut seed = Zeroizing::new([0; 32]);
        let text = text.trim_ascii();
        if text.len() != 64 || HEXLOWER.decode_mut(text, &mut *seed).is_err() {
            return Err(IssuerError::Key);
        }
        Ok(Self {
            key: SigningKey::from_seed(&seed),
        })
    }

    fn key_id(&self) -> String {
        let hash = sha256(&[self.key.verifying_key().as_bytes()]);
        HEXLOWER.encode(hash.get(..8).unwrap_or_default())
    }

    fn key_set(&self) -> Value {
        json!({ "keys": [{
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
            "kid": self.key_id(),
            "x": BASE64URL_NOPAD.encode(self.key.verifying_key().as_bytes()),
        }] })
    }

    /// Signs an access token ([RFC 9068]).
    ///
    /// [RFC 9068]: https://www.rfc-editor.org/rfc/rfc9068
    pub(super) fn sign(&self, grant: &Grant, now: UnixMillis) -> Result<String, IssuerError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(IssuerError::Random)?;
        let mut claims = grant.claims.clone();
        for (name, value) in [
            ("iss", json!(grant.issuer)),
            ("aud", json!(grant.audience)),
            ("sub", json!(grant.subject)),
            ("client_id", json!("bulla-dev")),
            ("iat", json!(now.as_secs())),
            ("exp", json!(now.saturating_add(grant.ttl).as_secs())),
            ("jti", json!(HEXLOWER.encode(&id))),
            ("scope", json!(grant.scopes.join(" "))),
        ] {
            claims.insert(name.to_owned(), value);
        }
        let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": self.key_id() });
        let mut token = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(header.to_string().as_bytes()),
            BASE64URL_NOPAD.encode(Value::Object(claims).to_string().as_bytes())
        );
        let signature = self.key.sign_text(&token);
        token.push('.');
        BASE64URL_NOPAD.encode_append(signature.as_bytes(), &mut token);
        Ok(token)
    }
}

/// What a token is to say.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) subject: String,
    pub(super) scopes: Vec<String>,
    pub(super) claims: Map<String, Value>,
    pub(super) ttl: Duration,
}

/// The issuer's address for a port.
pub(super) fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// Serves discovery document and key set until `stop`.
pub(super) async fn serve(
    port: u16,
    key: &IssuerKey,
    stop: CancellationToken,
) -> Result<(), IssuerError> {
    let issuer = url(port);
    let discovery = Bytes::from(
        json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/jwks.json"),
            "id_token_signing_alg_values_supported": ["EdDSA"],
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
        })
        .to_string(),
    );
    let key_set = Bytes::from(key.key_set().to_string());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| IssuerError::Listen { address, source })?;
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (discovery, key_set) = (discovery.clone(), key_set.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let response = respond(&request, &discovery, &key_set);
                async move { Ok::<_, Infallible>(response) }
            });
            let stop = stop.clone();
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(5))
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = connection => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    });
    Ok(())
}

fn respond(
    request: &Request<Incoming>,
    discovery: &Bytes,
    key_set: &Bytes,
) -> Response<Full<Bytes>> {
    let body = match request.uri().path() {
        "/.well-known/openid-configuration" => discovery,
        "/jwks.json" => key_set,
        _ => return empty(StatusCode::NOT_FOUND),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = empty(StatusCode::METHOD_NOT_ALLOWED);
        refusal
            .headers_mut()
            .insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let mut response = Response::new(Full::new(body.clone()));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("max-age=60"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Why there is no token issuer or no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    /// The key file cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The key file holds something else.
    #[error(
        "the token issuer's key file does not hold 64 hexadecimal digits: delete it, and the next `bulla dev` makes a new one"
    )]
    Key,
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// The port is taken.
    #[error(
        "the token issuer cannot listen on {address}: choose another port with `--issuer-port`"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: std::io::Error,
    },
}

/// What the development gateway expects in `aud`.
pub(super) const AUDIENCE: &str = "https://shop.example";

#[cfg(test)]
mod tests {
    use bulla_token::{AccessTokenValidator, KeySet, ValidationPolicy};

    use super::*;

    #[test]
    fn its_tokens_pass_the_validation_of_the_edge() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer.key");
        let key = IssuerKey::read_or_create(&path).unwrap();
        let again = IssuerKey::read(&path).unwrap();
        let text = std::fs::read(&path).unwrap();
        let seed = HEXLOWER.decode(text.trim_ascii()).unwrap();
        crate::spellings::assert_unprinted("IssuerKey", &key, &[&seed]);
        assert_eq!(key.key_id(), again.key_id());
        let now = UnixMillis::from_secs(1_800_000_000);
        let grant = Grant {
            issuer: url(8081),
            audience: AUDIENCE.to_owned(),
            subject: "alice".to_owned(),
            scopes: vec!["orders:read".to_owned(), "orders:write".to_owned()],
            claims: Map::from_iter([("tenant".to_owned(), json!("acme"))]),
            ttl: Duration::from_secs(300),
        };
        let token = key.sign(&grant, now).unwrap();
        let keys = KeySet::parse(key.key_set().to_string().as_bytes()).unwrap();
        let validator =
            AccessTokenValidator::new(ValidationPolicy::new(url(8081), AUDIENCE)).unwrap();
        let seen = validator.validate(&token, &keys, now).unwrap();
        assert_eq!(seen.principal(), "alice");
        assert!(seen.claims().has_scope("orders:write"));
        assert_eq!(seen.claims().get("tenant"), Some(&json!("acme")));
    }

    #[test]
    fn a_damaged_key_file_is_refused_without_repeating_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuer.key");
        secret_file::create(&path, b"not hexadecimal").unwrap();
        let error = IssuerKey::read(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("not hexadecimal"));
    }
}
