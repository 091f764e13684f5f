//! The answer: a user JWT inside a response JWT, both signed by the issuer.

use bulla_identity::{Nkey, UnixMillis};
use bulla_keyring::NkeySeed;
use bulla_policy::Permissions;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::Serialize;

use super::request::CalloutRequest;
use crate::spans;

/// What a connection is told that is let in.
pub(super) struct Welcome<'a> {
    /// Under which name nats-server knows the connection.
    pub(super) user: &'a str,
    pub(super) permissions: &'a Permissions,
    /// In which account.
    pub(super) placement: Placement,
    /// When the permissions change by time alone.
    pub(super) until: Option<UnixMillis>,
}

/// How the account is told in which workloads are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// By its name in the configuration: [`ACCOUNT`].
    #[default]
    Named,
    /// In operator mode by its key, of which the answer's issuer is a signing key.
    Vouched(Nkey),
}

impl Placement {
    /// What nats-server calls the account.
    pub(crate) fn account(self) -> String {
        match self {
            Self::Named => ACCOUNT.to_owned(),
            Self::Vouched(account) => account.to_string(),
        }
    }
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
    let _answering = spans::answering().entered();
    let [inner_id, outer_id] = ids;
    let Welcome {
        user: name,
        permissions,
        placement,
        until,
    } = welcome;
    let (aud, issuer_account) = match placement {
        Placement::Named => (Some(ACCOUNT), None),
        Placement::Vouched(account) => (None, Some(account.to_string())),
    };
    let user = Claims {
        aud,
        exp: until.map(|until| until.as_millis().div_ceil(1000)),
        iat: now.as_secs(),
        iss: issuer.public().to_string(),
        jti: HEXLOWER.encode(&inner_id),
        name: Some(name),
        nats: User {
            publish: Direction::of(&permissions.publish_allow, &permissions.publish_deny),
            subscribe: Direction::of(&permissions.subscribe_allow, &permissions.subscribe_deny),
            subs: -1,
            data: -1,
            payload: -1,
            issuer_account,
            kind: "user",
            version: 2,
        },
        sub: request.user_nkey.to_string(),
    };
    let jwt = sign(issuer, &user);
    let said = Response {
        jwt: Some(&jwt),
        ..Response::default()
    };
    respond(issuer, request, now, outer_id, said)
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
    let _answering = spans::answering().entered();
    let said = Response {
        error: Some(text),
        ..Response::default()
    };
    respond(issuer, request, now, id, said)
}

fn respond(
    issuer: &NkeySeed,
    request: &CalloutRequest,
    now: UnixMillis,
    id: [u8; 16],
    said: Response<'_>,
) -> String {
    let server = request.server.to_string();
    let claims = Claims {
        aud: Some(&server),
        exp: None,
        iat: now.as_secs(),
        iss: issuer.public().to_string(),
        jti: HEXLOWER.encode(&id),
        name: None,
        nats: said,
        sub: request.user_nkey.to_string(),
    };
    sign(issuer, &claims)
}

/// What a JWT says, in NATS's own dialect.
#[derive(Serialize)]
struct Claims<'a, N> {
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    iat: u64,
    iss: String,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    nats: N,
    sub: String,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(rename = "pub")]
    publish: Direction<'a>,
    #[serde(rename = "sub")]
    subscribe: Direction<'a>,
    subs: i8,
    data: i8,
    payload: i8,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer_account: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    version: u8,
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'static str,
    version: u8,
}

impl Default for Response<'_> {
    fn default() -> Self {
        Self {
            jwt: None,
            error: None,
            kind: "authorization_response",
            version: 2,
        }
    }
}

/// What may be published, or subscribed to.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Direction<'a> {
    Listed {
        allow: &'a [String],
        deny: &'a [String],
    },
    Nothing {
        deny: [&'static str; 1],
    },
}

impl<'a> Direction<'a> {
    /// nats-server reads an empty or absent list as *everything*, so a direction
    /// without grants is written as a deny of everything.
    fn of(allow: &'a [String], deny: &'a [String]) -> Self {
        if allow.is_empty() {
            return Self::Nothing { deny: [">"] };
        }
        Self::Listed { allow, deny }
    }
}

#[expect(
    clippy::expect_used,
    reason = "texts and numbers under fixed names can always be written as JSON"
)]
fn sign(issuer: &NkeySeed, claims: &impl Serialize) -> String {
    let claims = serde_json::to_vec(claims).expect("claims");
    let mut token = BASE64URL_NOPAD.encode(HEADER.as_bytes());
    token.push('.');
    BASE64URL_NOPAD.encode_append(&claims, &mut token);
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_direction_without_grants_denies_everything() {
        let json = |allow: &[&str], deny: &[&str]| {
            let owned = |list: &[&str]| -> Vec<String> {
                list.iter().map(|entry| (*entry).to_owned()).collect()
            };
            serde_json::to_value(Direction::of(&owned(allow), &owned(deny))).unwrap()
        };
        assert_eq!(json(&[], &[]), json!({ "deny": [">"] }));
        assert_eq!(json(&[], &["a"]), json!({ "deny": [">"] }));
        assert_eq!(json(&["a.b"], &[]), json!({ "allow": ["a.b"], "deny": [] }));
    }
}
