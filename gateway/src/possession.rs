//! Tokens that are bound to a key ([RFC 7800]): whoever brings one has to show that he
//! holds it, by a proof with each request ([RFC 9449]) or by the certificate of his
//! connection ([RFC 8705]).
//!
//! [RFC 7800]: https://www.rfc-editor.org/rfc/rfc7800
//! [RFC 9449]: https://www.rfc-editor.org/rfc/rfc9449
//! [RFC 8705]: https://www.rfc-editor.org/rfc/rfc8705

use std::time::Duration;

use bulla_identity::{Claims, UnixMillis};
use bulla_token::{ProofError, ProofExpectation, verify_proof};
use data_encoding::BASE64URL_NOPAD;
use http::HeaderName;
use http::request::Parts;
use serde_json::Value;

use crate::authenticate::Scheme;
use crate::bus::Bus;
use crate::handle::Peer;
use crate::problem::Problem;
use crate::refusal::{Refusal, deny};
use crate::visit::Visit;

/// Where a client brings a proof.
const PROOF: HeaderName = HeaderName::from_static("dpop");
/// By how much the clock of a client may differ.
const WINDOW: Duration = Duration::from_secs(60);
/// Under which kind the bus remembers proofs.
const SEEN: &str = "edge.dpop";

/// What a token is bound to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Binding<'a> {
    /// The thumbprint of a key.
    key: Option<&'a str>,
    /// SHA-256 of a certificate, in base64url.
    certificate: Option<&'a str>,
}

impl<'a> Binding<'a> {
    /// Reads `cnf`; nothing if it asks for something that is not known here.
    fn of(claims: &'a Claims) -> Option<Self> {
        let mut binding = Self::default();
        match claims.get("cnf") {
            None => {}
            Some(Value::Object(members)) => {
                for (name, value) in members {
                    match name.as_str() {
                        "jkt" => binding.key = Some(value.as_str()?),
                        "x5t#S256" => binding.certificate = Some(value.as_str()?),
                        _ => return None,
                    }
                }
                if members.is_empty() {
                    return None;
                }
            }
            Some(_) => return None,
        }
        Some(binding)
    }
}

/// A token as a client brought it.
#[derive(Clone, Copy)]
pub(crate) struct Brought<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) token: &'a str,
    pub(crate) claims: &'a Claims,
    /// Whether its issuer binds every token to a key.
    pub(crate) must_be_bound: bool,
}

impl<B: Bus> Visit<'_, B> {
    /// Whether the client holds what its token is bound to.
    pub(crate) async fn check_possession(
        &self,
        head: &Parts,
        peer: &Peer,
        brought: Brought<'_>,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let invalid = |reason| deny(Problem::InvalidToken, reason);
        let binding = Binding::of(brought.claims).ok_or_else(|| invalid("unknown_confirmation"))?;
        if let Some(certificate) = binding.certificate {
            let shown = peer.certificate.as_ref();
            let shown = shown.map(|shown| BASE64URL_NOPAD.encode(&shown.hash));
            if shown.as_deref() != Some(certificate) {
                return Err(invalid("other_certificate"));
            }
        }
        match (binding.key, brought.scheme) {
            (None, Scheme::Bearer) if brought.must_be_bound && binding.certificate.is_none() => {
                Err(invalid("token_not_bound"))
            }
            (None, Scheme::Bearer) => Ok(()),
            // A bound token that is shown as if it were not: stolen, or a broken client.
            (Some(_), Scheme::Bearer) => Err(invalid("proof_missing")),
            (None, Scheme::Proof) => Err(invalid("token_not_bound")),
            (Some(key), Scheme::Proof) => {
                Box::pin(self.check_proof(head, brought.token, key, now)).await
            }
        }
    }

    async fn check_proof(
        &self,
        head: &Parts,
        token: &str,
        key: &str,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let invalid = |reason| deny(Problem::InvalidProof, reason);
        let mut proofs = head.headers.get_all(PROOF).iter();
        let proof = match (proofs.next(), proofs.next()) {
            (Some(only), None) => only.to_str().map_err(|_| invalid("proof_malformed"))?,
            (None, _) => return Err(invalid("proof_missing")),
            (Some(_), Some(_)) => return Err(invalid("proof_repeated")),
        };
        let origin = self.loaded.presentation.public_url();
        let origin = origin.ok_or_else(|| invalid("proof_without_origin"))?;
        let expected = ProofExpectation {
            method: head.method.as_str(),
            uri: &format!("{origin}{}", head.uri.path()),
            access_token: token,
            thumbprint: key,
            window: WINDOW,
        };
        let jti = verify_proof(proof, &expected, now)
            .map_err(|error: ProofError| invalid(error.code()))?;
        let name: [&[u8]; 2] = [key.as_bytes(), jti.as_bytes()];
        let life = WINDOW.saturating_mul(3);
        match self.edge.bus.agree(SEEN, &name, b"seen", life).await? {
            None => Ok(()),
            Some(_) => Err(invalid("proof_replayed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_binds_a_token_in_a_way_that_nobody_knows_makes_it_useless() {
        let claims = |cnf: Value| {
            let map = json!({ "cnf": cnf });
            Claims::from_map(map.as_object().unwrap().clone())
        };
        let both = claims(json!({"jkt": "a", "x5t#S256": "b"}));
        let binding = Binding::of(&both).unwrap();
        assert_eq!((binding.key, binding.certificate), (Some("a"), Some("b")));
        let none = Claims::from_map(serde_json::Map::new());
        assert_eq!(Binding::of(&none), Some(Binding::default()));
        for bad in [
            json!({}),
            json!(null),
            json!("x"),
            json!({"jkt": 1}),
            json!({"kid": "x"}),
            json!({"jkt": "a", "osc": {}}),
        ] {
            assert_eq!(Binding::of(&claims(bad.clone())), None, "{bad}");
        }
    }
}
