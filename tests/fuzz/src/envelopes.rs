//! Envelopes: as they come, and signed again so that what follows the proof is reached.

use std::sync::LazyLock;
use std::time::Duration;

use bulla_envelope::{
    DataKeyDraft, Draft, Encryption, Epoch, Expectation, FrameMessage, Kind, MessageId, OpenError,
    OpenedEnvelope, OpeningKey, Recipient, ReplayError, ReplayLimits, ReplayWindow, SealedEnvelope,
    Sealer, SealingKey, VerifiedRoots, wrapped_to,
};
use bulla_identity::{Subject, UnixMillis};
use bulla_keyring::{Cipher, CipherSuite, DataKey, NonceLanes, Tag, sha256};
use bytes::Bytes;

use super::canonical;
use super::shop::SHOP;

/// Decodes; whatever is accepted has one encoding, and verifies only if it is genuine.
pub fn decoded(data: &[u8]) {
    let Ok(sealed) = SealedEnvelope::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let value = canonical::assert(data);
    canonical::assert(&canonical::bytes_at(&value, 1));
    if data.first() == Some(&0x96) {
        canonical::assert(&canonical::bytes_at(&value, 4));
    }
    assert!(!sealed.subject_unverified().is_empty());
    let _ = (sealed.key_id(), sealed.id_unverified());
    if sealed.verify(&SHOP.credential).is_ok() {
        assert!(SHOP.is_genuine(data), "a forgery verifies");
    }
}

/// Whatever header, token and body these bytes have, signed by the credential's key.
pub fn resealed(data: &[u8]) {
    let Some(bytes) = sign_again(data) else {
        return;
    };
    let Ok(sealed) = SealedEnvelope::decode(Bytes::from(bytes)) else {
        return;
    };
    let roots = VerifiedRoots::new();
    let first = sealed.clone().verify_with(&SHOP.credential, &roots);
    let second = sealed.clone().verify_with(&SHOP.credential, &roots);
    let (Ok(authentic), Ok(_)) = (&first, &second) else {
        let code = first.as_ref().err().map(|error| error.code());
        assert_eq!(code, second.as_ref().err().map(|error| error.code()));
        assert!(
            !matches!(code, Some("bad_signature" | "not_signed")),
            "it was signed"
        );
        return;
    };
    let kinds = [sealed.kind_unverified()];
    let expected = expectation(sealed.subject_unverified(), &kinds);
    let Ok(checked) = authentic.clone().check(&expected) else {
        return;
    };
    let key = checked.key_reference().zip(checked.inline_wraps());
    let key = key.and_then(|(reference, wraps)| SHOP.unwrap(reference, &wraps));
    let opened = match key {
        Some(key) => checked.decrypt(&key),
        None => checked.open_clear(),
    };
    let Ok(opened) = opened else {
        return;
    };
    let mut window = ReplayWindow::new(ReplayLimits::default(), SHOP.skew);
    assert_eq!(opened.messages().count(), opened.message_count());
    for message in opened.messages() {
        assert_eq!(window.commit(&opened, &message, SHOP.now), Ok(()));
        let again = window.commit(&opened, &message, SHOP.now);
        assert_eq!(again, Err(ReplayError::Replayed));
    }
    check_chain(&opened);
    for (name, value) in opened.app_headers() {
        assert_eq!(opened.app_header(name), Some(value));
    }
    let _ = (
        opened.reply_to(),
        opened.content_type(),
        opened.token(),
        opened.limits(),
        opened.traceparent().map(|trace| trace.to_string()),
    );
}

/// ENV-82: what is shown is linked, whatever it is, and what can be shown on is
/// taken by the one who gets it. Whoever signs the envelope has not signed them.
fn check_chain(opened: &OpenedEnvelope) {
    let mut parent = opened.parent();
    let mut senders = Vec::new();
    let roots = VerifiedRoots::new();
    for ancestor in opened.ancestors() {
        assert_eq!(parent, Some(ancestor.leaf()));
        parent = ancestor.parent();
        senders.extend(ancestor.verify(&SHOP.credential, &roots).ok());
    }
    assert!(opened.ancestors().len() == 0 || parent.is_none());
    let minter = SHOP.credential.workload().as_str();
    let max_age = Duration::from_secs(60);
    let proven = opened.check_chain(&senders, minter, SHOP.skew, |a| a.over_at(max_age));
    if proven.is_ok() {
        assert_eq!(senders.len(), opened.ancestors().len());
        assert!(opened.token().is_some());
    }
    let Ok(ancestry) = opened.lineage().ancestry() else {
        return;
    };
    let subject = Subject::parse("orders.created").expect("a subject");
    let mut draft = Draft::event(&subject, SHOP.now, SHOP.now, b"");
    draft.parent = Some(ancestry.nearest());
    draft.ancestry = Some(&ancestry);
    let sealer = Sealer::new(
        SHOP.credential.credential(),
        SHOP.message_key_again(),
        Epoch([1; 8]),
    )
    .expect("a sealer");
    let next = sealer.seal(&draft, MessageId([2; 16]));
    let next = next.expect("a short event").bytes;
    SealedEnvelope::decode(next).expect("its parent is shown");
}

/// Whatever was encrypted: these bytes, for one message or, behind an odd first
/// byte, for two.
pub fn decrypted(data: &[u8]) {
    let Some((first, plaintext)) = data.split_first() else {
        return;
    };
    let [one, two] = &*LETTERS;
    let letter = if first & 1 == 0 { one } else { two };
    let sealed = SealedEnvelope::decode(letter.with_plaintext(plaintext).into())
        .expect("only the ciphertext is another");
    let checked = sealed
        .verify(&SHOP.credential)
        .expect("it was signed")
        .check(&expectation("orders.created", &[Kind::Event]))
        .expect("it came as it should");
    match checked.decrypt(&letter.key) {
        Ok(opened) => {
            let value = canonical::assert(plaintext);
            let content = canonical::bytes_at(&value, 1);
            if opened.message_count() == 1 {
                assert_eq!(opened.first_message().body, content);
            } else {
                canonical::assert(&content);
            }
            assert_eq!(opened.messages().count(), opened.message_count());
            // The hash in the header is this token's.
            assert_eq!(opened.token().as_deref(), Some(TOKEN));
        }
        Err(OpenError::Content(_) | OpenError::TokenMismatch) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Makes what is measured with nobody's input.
pub fn prepare() {
    LazyLock::force(&LETTERS);
}

const TOKEN: &[u8] = b"header.claims.signature";
const PROCESS: u32 = 1;
const DATA_KEY: [u8; 32] = [0xda; 32];

static LETTERS: LazyLock<[Letter; 2]> = LazyLock::new(|| [Letter::new(1), Letter::new(2)]);

/// An encrypted envelope, and the key that opens it.
struct Letter {
    bytes: Vec<u8>,
    key: OpeningKey,
}

impl Letter {
    fn new(messages: usize) -> Self {
        let secret = SHOP.secrets.first().expect("a key");
        let draft = DataKeyDraft {
            suite: CipherSuite::new(secret.suite(), Cipher::Aes256Gcm),
            trust_domain: &SHOP.domain,
            sender: SHOP.credential.workload(),
            epoch: Epoch([1; 8]),
            expires_at: SHOP.now,
            max_uses: u64::MAX,
            process: PROCESS,
        };
        let reader = Recipient {
            workload: &SHOP.reader,
            key: secret.public(),
        };
        let key = SealingKey::new(&draft, &[reader], &DATA_KEY, || [7; 64]).expect("a data key");
        let subject = Subject::parse("orders.created").expect("a subject");
        let mut draft = Draft::event(&subject, SHOP.now, SHOP.now, b"");
        draft.token = Some(TOKEN);
        draft.encryption = Some(Encryption {
            key: &key,
            inline_wraps: true,
            open_token: false,
            process: PROCESS,
        });
        let message = FrameMessage {
            id: MessageId([1; 16]),
            body: b"",
        };
        let sealer = Sealer::new(
            SHOP.credential.credential(),
            SHOP.message_key_again(),
            Epoch([1; 8]),
        )
        .expect("a sealer");
        let sealed = sealer
            .seal_frame(&draft, &vec![message; messages])
            .expect("an envelope");
        let checked = SealedEnvelope::decode(sealed.bytes.clone())
            .expect("an envelope")
            .verify(&SHOP.credential)
            .expect("a genuine one")
            .check(&expectation("orders.created", &[Kind::Event]))
            .expect("a good one");
        let reference = checked.key_reference().expect("encrypted");
        let wraps = checked.inline_wraps().expect("wraps");
        Self {
            bytes: sealed.bytes.to_vec(),
            key: SHOP.unwrap(reference, &wraps).expect("it is for us"),
        }
    }

    /// The same envelope with something else encrypted.
    fn with_plaintext(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut at = self.bytes.get(2..).expect("an envelope");
        read_bin(&mut at).expect("a header");
        let header_end = self.bytes.len() - at.len();
        let aad = self.bytes.get(..header_end).expect("a header");
        let nonce = NonceLanes::new(PROCESS)
            .lane(PROCESS)
            .and_then(|lane| lane.take(PROCESS))
            .expect("the first nonce");
        let mut body = plaintext.to_vec();
        let tag = DataKey::from_random(Cipher::Aes256Gcm, &DATA_KEY).seal_in_place(
            nonce,
            &[aad],
            &mut body,
        );
        body.extend_from_slice(&tag);
        let mut out = aad.to_vec();
        out.push(0xc0);
        rmp::encode::write_bin(&mut out, &body).expect("a vector takes it");
        sign_again(&out).expect("header, token and body")
    }
}

/// Wrapped data keys.
pub fn wraps(data: &[u8]) {
    if let Ok((_, ids)) = wrapped_to(data) {
        canonical::assert(data);
        assert!(!ids.is_empty() && ids.is_sorted_by(|a, b| a < b));
    }
}

fn expectation<'a>(subject: &'a str, kinds: &'a [Kind]) -> Expectation<'a> {
    Expectation {
        subject,
        reply_to: None,
        kinds,
        now: SHOP.now,
        skew: SHOP.skew,
        max_age: Duration::from_secs(60),
        not_before: UnixMillis::default(),
        request: None,
    }
}

/// Takes all elements before the proof as they are and makes a proof for them.
fn sign_again(data: &[u8]) -> Option<Vec<u8>> {
    let mut at = data;
    let elements = rmp::decode::read_array_len(&mut at).ok()?;
    let _: u64 = rmp::decode::read_int(&mut at).ok()?;
    let header = read_bin(&mut at)?;
    if at.first() == Some(&0xc0) {
        at = at.get(1..)?;
    } else {
        read_bin(&mut at)?;
    }
    let body = read_bin(&mut at)?;
    if elements == 6 {
        read_bin(&mut at)?;
    }
    let kept = data.len() - at.len();

    let len = u32::try_from(header.len()).ok()?.to_be_bytes();
    let leaf = sha256(&[&[0, 1], &len, header, &sha256(&[body])]);
    let signature = SHOP.message_key.sign(
        Tag::Batch,
        &[
            SHOP.credential.credential().hash(),
            &1u32.to_be_bytes(),
            leaf.get(..24)?,
        ],
    );
    let mut out = data.get(..kept)?.to_vec();
    out.extend_from_slice(&[0x94, 0, 1, 0xc4, 0, 0xc4, 64]);
    out.extend_from_slice(signature.as_bytes());
    Some(out)
}

/// An envelope without what it shows of others; anything else as it is.
pub fn signed_part(bytes: &[u8]) -> Vec<u8> {
    let without = |mut at: &[u8]| {
        let elements = rmp::decode::read_array_len(&mut at).ok()?;
        let all = at;
        let _: u64 = rmp::decode::read_int(&mut at).ok()?;
        read_bin(&mut at)?;
        if at.first() == Some(&0xc0) {
            at = at.get(1..)?;
        } else {
            read_bin(&mut at)?;
        }
        read_bin(&mut at)?;
        let before = all.get(..all.len() - at.len())?;
        if elements == 6 {
            read_bin(&mut at)?;
        }
        Some([before, at].concat())
    };
    without(bytes).unwrap_or_else(|| bytes.to_vec())
}

fn read_bin<'a>(at: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(rmp::decode::read_bin_len(at).ok()?).ok()?;
    let (value, rest) = at.split_at_checked(len)?;
    *at = rest;
    Some(value)
}
