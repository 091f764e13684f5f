//! What an edge on a test's bus needs: its file, an issuer's keys on a socket, and tokens.

use bulla_keyring::SigningKey;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::Bus;

/// The id of an issuer's only key.
pub const KID: &str = "k1";

/// A `gateway.toml` beside a `routes.toml`: an edge that is this workload on the bus, listens
/// there, and takes tokens of one issuer. Further sections can follow.
#[must_use]
pub fn gateway_file(bus: &Bus, workload: &str, listen: &str, issuer: &str) -> String {
    format!(
        r#"
routes = "routes.toml"
[bus]
url = "{}"
workload = "{}"
seed_file = "{}"
trust_root_file = "{}"
[listen]
address = "{listen}"
[[issuer]]
issuer = "{issuer}"
jwks_url = "{issuer}/jwks.json"
"#,
        bus.nats_url(),
        bus.workload(workload),
        bus.seed_file(workload).display(),
        bus.root_file().display(),
    )
}

/// The key set of an issuer that has this key alone.
#[must_use]
pub fn key_set(key: &SigningKey) -> Value {
    json!({"keys": [{
        "kty": "OKP", "crv": "Ed25519", "kid": KID, "alg": "EdDSA", "use": "sig",
        "x": BASE64URL_NOPAD.encode(key.verifying_key().as_bytes()),
    }]})
}

/// Serves a key set on a socket, whatever is asked, for as long as the runtime lives. Returns
/// its URL, which is the issuer's name.
pub async fn serve_keys(key_set: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = key_set.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 2_048]).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    url
}

/// The part of a token that is signed.
#[must_use]
pub fn signing_input(header: &Value, claims: &Value) -> String {
    let encode = |v: &Value| BASE64URL_NOPAD.encode(v.to_string().as_bytes());
    format!("{}.{}", encode(header), encode(claims))
}

/// A token of an issuer with these claims, by the key that [`key_set`] shows.
#[must_use]
pub fn access_token(key: &SigningKey, claims: &Value) -> String {
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": KID});
    let input = signing_input(&header, claims);
    let signature = key.sign_text(&input);
    format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
}
