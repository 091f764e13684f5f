//! What is printed of drafts, envelopes and keys holds no token, body or key.

use std::fmt::Debug;

use bulla_envelope::{
    AppHeaders, ClaimsOf, CredentialIssuer, DataKeyDraft, Draft, Encryption, Epoch, FrameMessage,
    OpeningKey, PrivateClaims, Recipient, RequestDraft, SealUnit, Sealed, SealedEnvelope,
    SealingKey,
};
use bulla_keyring::{CipherSuite, KemSecret, SigningKey, sha256};

use crate::fixture::*;
use crate::spellings::assert_unprinted;

const TOKEN: &[u8] = b"header-of-one.claims-of-it.its-signature";
const ORIGINAL: &[u8] = b"the-client's-own-token-that-is-handed-on";
const BODY: &[u8] = b"quagmire-at-dawn";
const OTHER_BODY: &[u8] = b"morass-in-the-evening";
const HEADER: &str = "zephyr-in-a-header";
const SECRETS: [&[u8]; 5] = [TOKEN, ORIGINAL, BODY, OTHER_BODY, HEADER.as_bytes()];
const DATA_KEY: [u8; 32] = *b"the data key that nobody may see";
const PROCESS: u32 = 77;

/// Everything that an envelope is on its way from its bytes to its messages.
fn assert_none_on_the_way(what: &str, sealed: &Sealed, key: Option<&OpeningKey>) {
    let unprinted = |stage: &str, shown: &dyn Debug| {
        assert_unprinted(&format!("{what}, {stage}"), shown, &SECRETS)
    };
    unprinted("Sealed", sealed);
    let decoded = SealedEnvelope::decode(sealed.bytes.clone()).unwrap();
    unprinted("SealedEnvelope", &decoded);
    let authentic = decoded.verify(&orders().verified()).unwrap();
    unprinted("AuthenticEnvelope", &authentic);
    let checked = authentic.check(&expect_event("a")).unwrap();
    unprinted("CheckedEnvelope", &checked);
    let opened = match key {
        None => checked.open_clear().unwrap(),
        Some(key) => checked.decrypt(key).unwrap(),
    };
    unprinted("OpenedEnvelope", &opened);
    unprinted("Lineage", &opened.lineage());
    for message in opened.messages() {
        unprinted("Message", &message);
    }
}

fn headers() -> AppHeaders {
    let mut headers = AppHeaders::default();
    headers.insert("colour", HEADER).unwrap();
    headers
}

#[test]
fn what_is_only_signed_is_not_printed() {
    let (to, headers) = (subject("a"), headers());
    let mut draft = Draft::event(&to, NOW, after(30), BODY);
    draft.token = Some(TOKEN);
    draft.app_headers = Some(&headers);
    assert_unprinted("AppHeaders", &headers, &SECRETS);
    assert_unprinted("Draft", &draft, &SECRETS);
    let sealed = orders().sealer().seal(&draft, id(1)).unwrap();
    assert_none_on_the_way("event", &sealed, None);

    let messages = [BODY, OTHER_BODY].map(|body| FrameMessage { id: id(2), body });
    let unit = SealUnit {
        draft: &draft,
        messages: &messages,
    };
    assert_unprinted("SealUnit", &unit, &SECRETS);
    assert_unprinted("FrameMessage", &messages[0], &SECRETS);
    draft.body = &[];
    let sealed = orders().sealer().seal_frame(&draft, &messages).unwrap();
    assert_none_on_the_way("frame", &sealed, None);
}

#[test]
fn what_was_decrypted_is_not_printed_and_neither_is_its_key() {
    for suite in CipherSuite::ALL {
        let (sender, reader) = (orders(), workload("billing"));
        let kem = KemSecret::from_seed(suite.kem, &[3; 32]);
        let recipients = [Recipient {
            workload: &reader,
            key: kem.public(),
        }];
        let draft = DataKeyDraft {
            suite,
            trust_domain: &domain(),
            sender: &sender.workload,
            epoch: Epoch([0xe0; 8]),
            expires_at: after(600),
            max_uses: 8,
            process: PROCESS,
        };
        let key = SealingKey::new(&draft, &recipients, &DATA_KEY, || [5; 64]).unwrap();
        assert_unprinted("DataKeyDraft", &draft, &[&DATA_KEY]);
        assert_unprinted("SealingKey", &key, &[&DATA_KEY]);

        let (to, headers) = (subject("a"), headers());
        let mut draft = Draft::event(&to, NOW, after(30), BODY);
        (draft.token, draft.original) = (Some(TOKEN), Some(ORIGINAL));
        draft.app_headers = Some(&headers);
        let encryption = Encryption {
            key: &key,
            inline_wraps: true,
            open_token: false,
            process: PROCESS,
        };
        draft.encryption = Some(encryption);
        let secrets = [&SECRETS[..], &[&DATA_KEY]].concat();
        assert_unprinted("Encryption", &encryption, &secrets);
        assert_unprinted("Draft", &draft, &secrets);
        let sealed = sender.sealer().seal(&draft, id(1)).unwrap();

        let checked = SealedEnvelope::decode(sealed.bytes.clone())
            .unwrap()
            .verify(&sender.verified())
            .unwrap()
            .check(&expect_event("a"))
            .unwrap();
        let reference = checked.key_reference().unwrap();
        let wraps = checked.inline_wraps().unwrap();
        let opening =
            OpeningKey::unwrap(reference, &wraps, &domain(), &reader, |_| Some(&kem)).unwrap();
        assert_unprinted("OpeningKey", &opening, &[&DATA_KEY, &[3; 32]]);
        assert_none_on_the_way("encrypted", &sealed, Some(&opening));

        let of = ClaimsOf {
            txn: "txn-1",
            principal: "alice",
        };
        let claims = PrivateClaims::seal(&key, PROCESS, &sender.workload, of, BODY).unwrap();
        assert_unprinted("PrivateClaims", &claims, &[BODY, &DATA_KEY]);
        assert_eq!(claims.open(&opening, of).unwrap(), BODY);
    }
}

#[test]
fn those_who_sign_do_not_print_their_keys() {
    let seed = sha256(&[b"a seed"]);
    let mut process = orders();
    process.message_seed = seed;
    let sealer = process.sealer();
    assert_unprinted("Sealer", &sealer, &[&seed]);
    let to = subject("a");
    let draft = Draft::event(&to, NOW, after(30), BODY);
    // Its buffers are used again.
    sealer.seal(&draft, id(1)).unwrap();
    assert_unprinted("Sealer", &sealer, &[&seed, BODY]);
    let issuer = CredentialIssuer::new(SigningKey::from_seed(&seed));
    assert_unprinted("CredentialIssuer", &issuer, &[&seed]);
    let key = SigningKey::from_seed(&seed);
    let request = RequestDraft {
        workload: &process.workload,
        message_key: &key,
        process_keys: None,
        token_key: Some(&key),
        instance: [9; 16],
        challenge: CHALLENGE,
        requested_at: NOW,
    };
    assert_unprinted("RequestDraft", &request, &[&seed]);
}
