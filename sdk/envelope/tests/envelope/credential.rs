//! Credentials: who may have one, and whose word a receiver takes.

use std::time::Duration;

use bulla_envelope::{
    CountersignatureError, Credential, CredentialError, CredentialIssuer, CredentialRequest,
    IssueError, MAX_CREDENTIAL, MAX_CREDENTIAL_LIFE, RequestDraft, RequestError,
    RequestExpectation, Terms, TrustBundle,
};
use bulla_identity::{Nkey, NkeyKind, TrustDomain, Verified, WorkloadId};
use bulla_keyring::{Anchors, NkeySeed, SigningKey, Tag};

use crate::fixture::*;
use crate::oracle::bin;

fn minting() -> Process {
    Process {
        token_seed: Some([66; 32]),
        ..orders()
    }
}

fn request_verdict(
    process: &Process,
    bytes: &[u8],
    change: impl FnOnce(&mut RequestExpectation<'_>),
) -> Result<(), RequestError> {
    let anchors = process.anchors();
    let mut expected = process.expectation(&anchors);
    change(&mut expected);
    CredentialRequest::decode(bytes)
        .unwrap()
        .verify(&expected)
        .map(drop)
}

#[test]
fn a_credential_survives_the_wire() {
    for process in [orders(), minting()] {
        let issued = process.credential();
        let decoded = Credential::decode(issued.as_bytes()).unwrap();
        assert_eq!(decoded, issued);
        assert_eq!(decoded.id().as_bytes()[..], issued.hash()[..16]);
        assert_eq!(decoded.claimed_workload(), &process.workload);
        assert_eq!(decoded.serial(), &[0x5e; 16]);
        assert_eq!(decoded.request().instance(), &[9; 16]);
        let verified = decoded
            .verify(&bundle(), &process.anchors(), NOW, SKEW)
            .unwrap();
        assert_eq!(verified.workload(), &process.workload);
        let token_key = process
            .token_seed
            .map(|s| *SigningKey::from_seed(&s).verifying_key());
        assert_eq!(verified.token_key().copied(), token_key);
        assert_eq!(verified.expires_at(), after(3600));
    }
}

#[test]
fn every_flipped_bit_of_request_and_credential_fails() {
    let process = minting();
    let anchors = process.anchors();
    let mut bytes = process.request_bytes(Some(&process.nkey));
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let accepted = CredentialRequest::decode(&bytes)
            .is_ok_and(|request| request.verify(&process.expectation(&anchors)).is_ok());
        assert!(!accepted, "bit {bit} of the request");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    let bundle = bundle();
    let mut bytes = process.credential().as_bytes().to_vec();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let accepted = Credential::decode(&bytes)
            .is_ok_and(|credential| credential.verify(&bundle, &anchors, NOW, SKEW).is_ok());
        assert!(!accepted, "bit {bit} of the credential");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..bytes.len() {
        assert!(Credential::decode(&bytes[..len]).is_err());
    }
    bytes.push(0);
    assert_eq!(
        Credential::decode(&bytes).unwrap_err().code(),
        "trailing_bytes"
    );
    let bomb = vec![0; MAX_CREDENTIAL + 1];
    assert_eq!(Credential::decode(&bomb).unwrap_err().code(), "too_large");
}

#[test]
fn a_request_must_fit_place_challenge_and_time() {
    let process = orders();
    let bytes = process.request_bytes(Some(&process.nkey));
    let verdict = |change: &dyn Fn(&mut RequestExpectation<'_>)| {
        request_verdict(&process, &bytes, |expected| change(expected))
    };
    assert_eq!(verdict(&|_| {}), Ok(()));
    assert_eq!(
        verdict(&|e| e.tag = workload("billing").tag()),
        Err(RequestError::WrongWorkload)
    );
    assert_eq!(
        verdict(&|e| e.challenge = &[0; 32]),
        Err(RequestError::WrongChallenge)
    );
    assert_eq!(verdict(&|e| e.now = after(65)), Ok(()));
    assert_eq!(
        verdict(&|e| e.now = after(66)),
        Err(RequestError::NotRecent)
    );
    assert_eq!(verdict(&|e| e.now = after(-5)), Ok(()));
    assert_eq!(
        verdict(&|e| e.now = after(-6)),
        Err(RequestError::NotRecent)
    );
}

#[test]
fn a_request_without_the_workloads_nkey_is_refused() {
    let process = orders();
    let stranger = NkeySeed::from_random(NkeyKind::User, &[99; 32]).unwrap();
    let refused = |error| Err(RequestError::Countersignature(error));
    let unsigned = process.request_bytes(None);
    assert_eq!(
        request_verdict(&process, &unsigned, |_| {}),
        refused(CountersignatureError::Missing)
    );
    let foreign = process.request_bytes(Some(&stranger));
    assert_eq!(
        request_verdict(&process, &foreign, |_| {}),
        refused(CountersignatureError::ForeignNkey)
    );
    let own = process.request_bytes(Some(&process.nkey));
    assert_eq!(
        request_verdict(&process, &own, |expected| expected.anchors =
            Anchors::default()),
        refused(CountersignatureError::NoAnchor)
    );
}

/// The bytes after the statement: proofs and countersignature.
fn with_proofs(process: &Process, message_proof: &[u8], token_proof: Option<&[u8]>) -> Vec<u8> {
    let own = process.request_bytes(Some(&process.nkey));
    let token_len = if process.token_seed.is_some() { 66 } else { 1 };
    let counter_len = 1 + 34 + 66;
    let statement_end = own.len() - counter_len - token_len - 66;
    let mut out = own[..statement_end].to_vec();
    out.extend_from_slice(&bin(message_proof));
    match token_proof {
        Some(proof) => out.extend_from_slice(&bin(proof)),
        None => out.push(0xc0),
    }
    out.extend_from_slice(&own[own.len() - counter_len..]);
    out
}

#[test]
fn both_keys_must_be_held() {
    let process = minting();
    let own = process.request_bytes(Some(&process.nkey));
    // The statement lies behind an array head and a two-byte length.
    let statement = &own[3..own.len() - 66 - 66 - 101];
    let message_key = process.message_key();
    let token_key = SigningKey::from_seed(&process.token_seed.unwrap());
    let message_proof = *message_key
        .sign(Tag::CredentialRequest, &[statement])
        .as_bytes();
    let token_proof = *token_key.sign(Tag::TokenKey, &[statement]).as_bytes();
    assert_eq!(
        with_proofs(&process, &message_proof, Some(&token_proof)),
        own
    );

    let thief = SigningKey::from_seed(&[123; 32]);
    let forged = *thief.sign(Tag::CredentialRequest, &[statement]).as_bytes();
    let bytes = with_proofs(&process, &forged, Some(&token_proof));
    assert_eq!(
        request_verdict(&process, &bytes, |_| {}),
        Err(RequestError::MessageKeyProof)
    );
    for proof in [
        *thief.sign(Tag::TokenKey, &[statement]).as_bytes(),
        // Right key, wrong statement.
        *token_key
            .sign(Tag::CredentialRequest, &[statement])
            .as_bytes(),
    ] {
        let bytes = with_proofs(&process, &message_proof, Some(&proof));
        assert_eq!(
            request_verdict(&process, &bytes, |_| {}),
            Err(RequestError::TokenKeyProof)
        );
    }
    let bytes = with_proofs(&process, &message_proof, None);
    assert_eq!(
        CredentialRequest::decode(&bytes).unwrap_err().code(),
        "token_proof_presence"
    );
    let same = Process {
        token_seed: Some(process.message_seed),
        ..orders()
    };
    let bytes = same.request_bytes(Some(&same.nkey));
    assert_eq!(
        request_verdict(&same, &bytes, |_| {}),
        Err(RequestError::SameKey)
    );
}

#[test]
fn an_issuer_keeps_to_reasonable_terms() {
    let request = orders().verified_request();
    let issuer = CredentialIssuer::new(SigningKey::from_seed(&ISSUING));
    let until = |expires_at| {
        issuer
            .issue(
                &request,
                Terms {
                    expires_at,
                    ..terms()
                },
            )
            .map(drop)
    };
    assert_eq!(until(NOW), Err(IssueError::EmptyLife));
    let end = NOW.saturating_add(MAX_CREDENTIAL_LIFE);
    assert_eq!(until(end), Ok(()));
    assert_eq!(
        until(end.saturating_add(Duration::from_millis(1))),
        Err(IssueError::LifeTooLong)
    );
}

#[test]
fn a_receiver_judges_issuer_anchor_domain_and_time() {
    let process = orders();
    let anchors = process.anchors();
    let verdict = |bundle: &_, anchors: &[Nkey], now| {
        process
            .credential()
            .verify(bundle, anchors, now, SKEW)
            .map(drop)
    };
    assert_eq!(verdict(&bundle(), &anchors, NOW), Ok(()));
    assert_eq!(
        verdict(&bundle(), &[], NOW),
        Err(CountersignatureError::NoAnchor.into())
    );
    assert_eq!(
        verdict(&bundle(), &billing().anchors(), NOW),
        Err(CountersignatureError::ForeignNkey.into())
    );
    assert_eq!(verdict(&bundle(), &anchors, after(-5)), Ok(()));
    assert_eq!(
        verdict(&bundle(), &anchors, after(-6)),
        Err(CredentialError::NotYetValid)
    );
    assert_eq!(verdict(&bundle(), &anchors, after(3605)), Ok(()));
    assert_eq!(
        verdict(&bundle(), &anchors, after(3606)),
        Err(CredentialError::Expired)
    );
    assert_eq!(
        verdict(&bundle(), &anchors, after(31 * 24 * 3600)),
        Err(CredentialError::BundleExpired)
    );
    let mut other = unsigned_bundle();
    other.issuing.clear();
    assert_eq!(
        verdict(&open_bundle(&other), &anchors, NOW),
        Err(CredentialError::UnknownIssuer)
    );
    // A bundle that names another broker's key only.
    other.issuing.push(bulla_envelope::IssuingKey {
        key: *SigningKey::from_seed(&[55; 32]).verifying_key(),
        expires_at: after(5 * 24 * 3600),
    });
    assert_eq!(
        verdict(&open_bundle(&other), &anchors, NOW),
        Err(CredentialError::UnknownIssuer)
    );
    let mut short = unsigned_bundle();
    short.issuing[0].expires_at = after(3599);
    assert_eq!(
        verdict(&open_bundle(&short), &anchors, NOW),
        Err(CredentialError::OutlivesIssuer)
    );
}

/// It stays named for what streams stored; nothing new counts under it.
#[test]
fn an_issuing_key_that_has_ended_counts_for_its_time_alone() {
    let process = orders();
    let anchors = process.anchors();
    let ending = |at| {
        let mut bundle = unsigned_bundle();
        bundle.issuing[0].expires_at = at;
        open_bundle(&bundle)
    };
    let verdict = |bundle: &Verified<TrustBundle>, now| {
        let credential = process.credential();
        credential.verify(bundle, &anchors, now, SKEW).map(drop)
    };
    // The credential ends with its key.
    let ended = ending(after(3600));
    assert_eq!(verdict(&ended, after(3600)), Ok(()), "as of then");
    for now in [3606, 7 * 24 * 3600] {
        let now = verdict(&ended, after(now));
        assert_eq!(now, Err(CredentialError::Expired));
    }
    // Whoever has the key makes no credential with it that goes on.
    let ended = ending(after(3599));
    for now in [0, 3600] {
        let outlives = verdict(&ended, after(now));
        assert_eq!(outlives, Err(CredentialError::OutlivesIssuer));
    }
}

#[test]
fn another_domains_workload_is_refused() {
    let foreign = TrustDomain::parse("evil.example").unwrap();
    let name = bulla_identity::WorkloadName::parse("orders").unwrap();
    let process = Process {
        workload: WorkloadId::new(&foreign, &name),
        ..orders()
    };
    assert_eq!(
        process
            .credential()
            .verify(&bundle(), &process.anchors(), NOW, SKEW)
            .unwrap_err(),
        CredentialError::ForeignDomain
    );
}

/// Attack 29: whoever holds the issuing key alone cannot speak for a workload
/// that has its own nkey.
#[test]
fn a_lying_broker_cannot_speak_for_a_workload() {
    let victim = orders();
    let thief = NkeySeed::from_random(NkeyKind::User, &[99; 32]).unwrap();
    let issuer = CredentialIssuer::new(SigningKey::from_seed(&ISSUING));
    let key = SigningKey::from_seed(&[98; 32]);
    let draft = RequestDraft {
        workload: &victim.workload,
        message_key: &key,
        process_keys: None,
        token_key: None,
        instance: [0; 16],
        challenge: CHALLENGE,
        requested_at: NOW,
    };
    // It countersigns with an nkey of its own, and certifies that.
    let thief_anchors = [thief.public()];
    let request = CredentialRequest::decode(&draft.sign(Some(&thief)))
        .unwrap()
        .verify(&victim.expectation(&thief_anchors))
        .unwrap();
    let credential = issuer.issue(&request, terms()).unwrap();
    assert_eq!(
        credential
            .verify(&bundle(), &victim.anchors(), NOW, SKEW)
            .unwrap_err(),
        CountersignatureError::ForeignNkey.into()
    );
    // It takes the workload's genuine countersignature from another credential.
    let genuine = victim.credential();
    let mut spliced = credential_claims(genuine.as_bytes());
    let own_key = *SigningKey::from_seed(&victim.message_seed)
        .verifying_key()
        .as_bytes();
    let at = spliced.windows(32).position(|w| w == own_key).unwrap();
    spliced[at..at + 32].copy_from_slice(key.verifying_key().as_bytes());
    let signature = SigningKey::from_seed(&ISSUING).sign(Tag::Credential, &[&spliced]);
    let bytes = [&[0x92][..], &bin(&spliced), &bin(signature.as_bytes())].concat();
    assert_eq!(
        Credential::decode(&bytes)
            .unwrap()
            .verify(&bundle(), &victim.anchors(), NOW, SKEW)
            .unwrap_err(),
        CountersignatureError::BadSignature.into()
    );
}

/// An old countersignature, which is public, does not vouch for ever.
#[test]
fn a_countersignature_vouches_for_a_day() {
    let process = orders();
    let genuine = process.credential();
    let mut claims = credential_claims(genuine.as_bytes());
    let old = terms().expires_at.as_millis().to_be_bytes();
    let at = claims.windows(8).position(|w| w == old).unwrap();
    let late = after(24 * 3600 + 1).as_millis().to_be_bytes();
    claims[at..at + 8].copy_from_slice(&late);
    let signature = SigningKey::from_seed(&ISSUING).sign(Tag::Credential, &[&claims]);
    let bytes = [&[0x92][..], &bin(&claims), &bin(signature.as_bytes())].concat();
    assert_eq!(
        Credential::decode(&bytes)
            .unwrap()
            .verify(&bundle(), &process.anchors(), NOW, SKEW)
            .unwrap_err(),
        CredentialError::LifeTooLong
    );
}

/// A nats-server chooses the nonce that an nkey signs at connect.
#[test]
fn a_servers_nonce_is_never_a_countersignature() {
    let process = orders();
    let own = process.request_bytes(None);
    let statement = &own[3..own.len() - 66 - 2];
    let nonce = [Tag::Countersignature.as_bytes(), statement].concat();
    assert!(process.nkey.sign_nonce(&nonce).is_err());
    assert!(std::str::from_utf8(&nonce).is_err());
}

fn credential_claims(bytes: &[u8]) -> Vec<u8> {
    let mut at = &bytes[1..];
    let len = rmp::decode::read_bin_len(&mut at).unwrap() as usize;
    at[..len].to_vec()
}
