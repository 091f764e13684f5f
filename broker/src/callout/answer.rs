//! The answer: a user JWT inside a response JWT, both signed by the issuer.

use bulla_identity::UnixMillis;
use bulla_keyring::NkeySeed;
use bulla_policy::Permissions;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};

use super::request::CalloutRequest;

/// What a connection is told that is let in.
pub(super) struct Welcome<'a> {
    /// Under which name nats-server knows the connection.
    pub(super) user: &'a str,
    pub(super) permissions: &'a Permissions,
    /// When the permissions change by time alone.
    pub(super) until: Option<UnixMillis>,
}

/// The answer that lets a connection in, into the account `APP` and no other.
///
/// Where permissions end by time alone, nats-server itself ends the connection
/// then, to the second: it connects again, and is asked about anew.
pub(super) fn allow(
    issuer: &NkeySeed,
    request: &CalloutRequest,
    welcome: &Welcome<'_>,
    now: UnixMillis,
    ids: [[u8; 16]; 2],
) -> String {
    let [inner_id, outer_id] = ids;
    let Welcome {
        user: name,
        permissions,
        until,
    } = welcome;
    let mut user = json!({
            "aud": ACCOUNT,
            "iat": now.as_secs(),
            "iss": issuer.public().to_string(),
            "jti": HEXLOWER.encode(&inner_id),
            "name": name,
            "sub": request.user_nkey.to_string(),
            "nats": {
                "pub": list(&permissions.publish_allow, &permissions.publish_deny),
                "sub": list(&permissions.subscribe_allow, &permissions.subscribe_deny),
                "subs": -1,
                "data": -1,
                "payload": -1,
                "type": "user",
                "version": 2,
            },
    });
    if let (Some(until), Value::Object(user)) = (until, &mut user) {
        user.insert("exp".to_owned(), until.as_millis().div_ceil(1000).into());
    }
    let user = sign(issuer, &user);
    respond(issuer, request, now, outer_id, "jwt", &user)
}

/// The answer that turns a connection away. `text` reaches the server's log;
/// the client is told nothing but that it is not authorized.
pub(super) fn deny(
    issuer: &NkeySeed,
    request: &CalloutRequest,
    text: &str,
    now: UnixMillis,
    id: [u8; 16],
) -> String {
    respond(issuer, request, now, id, "error", text)
}

fn respond(
    issuer: &NkeySeed,
    request: &CalloutRequest,
    now: UnixMillis,
    id: [u8; 16],
    key: &str,
    value: &str,
) -> String {
    sign(
        issuer,
        &json!({
            "aud": request.server.to_string(),
            "iat": now.as_secs(),
            "iss": issuer.public().to_string(),
            "jti": HEXLOWER.encode(&id),
            "sub": request.user_nkey.to_string(),
            "nats": {
                key: value,
                "type": "authorization_response",
                "version": 2,
            },
        }),
    )
}

/// nats-server reads an empty or absent list as *everything*, so a direction
/// without grants is written as a deny of everything.
fn list(allow: &[String], deny: &[String]) -> Value {
    if allow.is_empty() {
        return json!({ "deny": [">"] });
    }
    json!({ "allow": allow, "deny": deny })
}

fn sign(issuer: &NkeySeed, claims: &Value) -> String {
    let mut token = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(HEADER.as_bytes()),
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    );
    let signature = issuer.sign_text(&token);
    token.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_bytes(), &mut token);
    token
}

/// Workloads are placed here and nowhere else.
pub const ACCOUNT: &str = "APP";

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_without_grants_denies_everything() {
        assert_eq!(list(&[], &[]), json!({ "deny": [">"] }));
        assert_eq!(list(&[], &["a".to_owned()]), json!({ "deny": [">"] }));
        assert_eq!(
            list(&["a.b".to_owned()], &[]),
            json!({ "allow": ["a.b"], "deny": [] })
        );
    }
}
