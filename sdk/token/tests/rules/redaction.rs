//! What is printed of tokens, and of what is made into one, holds none of their bytes, nor
//! what is said of a user.

use std::time::Duration;

use bulla_identity::{Claims, TrustDomain, Verified};
use bulla_token::{
    ExchangeResponse, ProofExpectation, SubjectToken, TokenSigningKey, TransactionClaims,
    UnverifiedTransaction, verify_transaction_token,
};
use serde_json::{Map, Value, json};

use crate::issuer::*;
use crate::spellings::assert_unprinted;

const SEED: [u8; 32] = *b"the seed of the token's own key!";
const SKEW: Duration = Duration::from_secs(5);
const FACT: &str = "walrus-of-a-claim";

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn transaction_tokens_and_their_claims_are_not_printed() {
    let domain = TrustDomain::parse("acme.example").unwrap();
    let key = TokenSigningKey::from_seed(SEED);
    assert_unprinted("TokenSigningKey", &key, &[&SEED]);

    let mut claims = TransactionClaims::new("txn-1", "alice", "spiffe://acme.example/edge");
    claims.context = object(&json!({ "tier": FACT }));
    claims.request_context = object(&json!({ "note": FACT }));
    claims.private = Some(json!({ "c": FACT }));
    (claims.issued, claims.expires) = (NOW, NOW.saturating_add(Duration::from_secs(60)));
    assert_unprinted("TransactionClaims", &claims, &[FACT.as_bytes()]);

    let minted = key.mint("kid", &domain, &claims).unwrap();
    let text = minted.as_str().to_owned();
    let parts: Vec<&[u8]> = text.split('.').map(str::as_bytes).collect();
    let secrets = [&parts[..], &[FACT.as_bytes(), &SEED]].concat();
    assert_unprinted("MintedToken", &minted, &secrets);
    let unverified = UnverifiedTransaction::parse(&text).unwrap();
    assert_unprinted("UnverifiedTransaction", &unverified, &secrets);
    let token = verify_transaction_token(&text, key.public(), &domain, NOW, SKEW).unwrap();
    assert_unprinted("TransactionToken", &token, &secrets);
    let refused =
        verify_transaction_token(&text[..text.len() - 4], key.public(), &domain, NOW, SKEW)
            .unwrap_err();
    assert_unprinted("TokenError", &refused, &secrets);

    let response = ExchangeResponse::new(text.clone(), &claims);
    assert_unprinted("ExchangeResponse", &response, &secrets);
    let visible = Claims::from_map(object(&json!({ "sub": "alice", "tier": FACT })));
    assert_unprinted("Claims", &visible, &[FACT.as_bytes()]);
    let verified = Verified::danger_assert(visible.clone());
    assert_unprinted("Verified", &verified, &[FACT.as_bytes()]);
    let private = json!({ "c": FACT });
    let subject = SubjectToken {
        claims: &visible,
        txn: "txn-1",
        principal: "alice",
        requester: "spiffe://acme.example/edge",
        expires: NOW,
        private: Some(&private),
    };
    assert_unprinted("SubjectToken", &subject, &[FACT.as_bytes()]);
}

#[test]
fn the_access_token_of_a_proof_is_not_printed() {
    let token = "header-of-one.claims-of-it.its-signature";
    let expectation = ProofExpectation {
        method: "GET",
        uri: "https://api.example/v1",
        access_token: token,
        thumbprint: "thumbprint",
        window: Duration::from_secs(60),
    };
    assert_unprinted("ProofExpectation", &expectation, &[token.as_bytes()]);
}
