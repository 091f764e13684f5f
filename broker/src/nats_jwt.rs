//! NATS's dialect of JWT: what nats-server reads of operators, accounts and users.
//!
//! Header `{"typ":"JWT","alg":"ed25519-nkey"}`, unpadded base64url, signed by the nkey
//! that `iss` names.

use bulla_identity::{Nkey, UnixMillis};
use bulla_keyring::{NkeySeed, Signature, VerifyingKey, sha256};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};

/// What somebody's JWT says, but for who says it and when.
pub(crate) struct Statement<'a> {
    /// Of whom it is.
    pub(crate) subject: Nkey,
    /// What people call him.
    pub(crate) name: &'a str,
    /// NATS's own part.
    pub(crate) nats: Value,
}

impl Statement<'_> {
    /// As `key` signs it: the text that is held already, if it says exactly this by this
    /// key, so that nothing is written anew that has not changed.
    pub(crate) fn signed_by(&self, key: &NkeySeed, held: Option<&str>, now: UnixMillis) -> String {
        let claims = self.claims(key);
        if let Some(held) = held.map(str::trim)
            && read(held).is_some_and(|said| timeless(said) == claims)
        {
            return held.to_owned();
        }
        dated(key, claims, now.as_secs())
    }

    /// As `key` signs it, at no time: the same bytes each time.
    pub(crate) fn signed_for_ever_by(&self, key: &NkeySeed) -> String {
        dated(key, self.claims(key), 0)
    }

    fn claims(&self, key: &NkeySeed) -> Value {
        json!({
            "iss": key.public().to_string(),
            "sub": self.subject.to_string(),
            "name": self.name,
            "nats": self.nats,
        })
    }
}

fn dated(key: &NkeySeed, mut claims: Value, seconds: u64) -> String {
    let id = HEXLOWER.encode(&sha256(&[claims.to_string().as_bytes()]));
    if let Value::Object(claims) = &mut claims {
        claims.insert("iat".to_owned(), seconds.into());
        claims.insert("jti".to_owned(), id.into());
    }
    sign(key, &claims)
}

fn timeless(mut claims: Value) -> Value {
    if let Value::Object(claims) = &mut claims {
        claims.remove("iat");
        claims.remove("jti");
    }
    claims
}

/// A JWT with these claims, whose `iss` is `key`.
pub(crate) fn sign(key: &NkeySeed, claims: &Value) -> String {
    let mut token = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(HEADER.as_bytes()),
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    );
    let signature = key.sign_text(&token);
    token.push('.');
    BASE64URL_NOPAD.encode_append(signature.as_bytes(), &mut token);
    token
}

/// The claims of a JWT that is signed by whom it names; nothing if it is none.
pub(crate) fn read(token: &str) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    if BASE64URL_NOPAD.decode(header.as_bytes()).ok()? != HEADER.as_bytes() {
        return None;
    }
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
    let signature = Signature::from_bytes(signature.try_into().ok()?);
    let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let issuer = Nkey::parse(claims.get("iss")?.as_str()?).ok()?;
    let key = VerifyingKey::from_nkey(&issuer).ok()?;
    key.verify_text(signed, &signature).ok()?;
    Some(claims)
}

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

    fn statement(name: &str) -> Statement<'_> {
        Statement {
            subject: Nkey::from_bytes(NkeyKind::Account, [7; 32]),
            name,
            nats: json!({ "type": "account" }),
        }
    }

    #[test]
    fn what_has_not_changed_is_not_written_anew() {
        let key = NkeySeed::from_random(NkeyKind::Operator, &[1; 32]).unwrap();
        let other = NkeySeed::from_random(NkeyKind::Operator, &[2; 32]).unwrap();
        let later = NOW.saturating_add(std::time::Duration::from_secs(60));
        let first = statement("A").signed_by(&key, None, NOW);
        assert_eq!(read(&first).unwrap()["iat"], NOW.as_secs());
        let held = format!("{first}\n");
        assert_eq!(statement("A").signed_by(&key, Some(&held), later), first);
        for (name, key) in [("B", &key), ("A", &other)] {
            let new = statement(name).signed_by(key, Some(&held), later);
            assert_eq!(read(&new).unwrap()["iat"], later.as_secs());
        }
        let (signed, _) = first.rsplit_once('.').unwrap();
        let another = statement("B").signed_by(&key, None, NOW);
        let (_, signature) = another.rsplit_once('.').unwrap();
        for signature in [signature, "AAAA", ""] {
            let forged = format!("{signed}.{signature}");
            assert!(read(&forged).is_none(), "{forged}");
            assert_ne!(statement("A").signed_by(&key, Some(&forged), later), forged);
        }
    }
}
