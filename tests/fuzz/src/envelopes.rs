//! Envelopes: as they come, and signed again so that what follows the proof is reached.

use std::time::Duration;

use bulla_envelope::{
    Expectation, ReplayError, ReplayLimits, ReplayWindow, SealedEnvelope, VerifiedRoots,
};
use bulla_identity::UnixMillis;
use bulla_keyring::{Tag, sha256};
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
        assert_ne!(code, Some("bad_signature"), "it was signed");
        return;
    };
    let expected = Expectation {
        subject: sealed.subject_unverified(),
        reply_to: None,
        kinds: &[sealed.kind_unverified()],
        now: SHOP.now,
        skew: SHOP.skew,
        max_age: Duration::from_secs(60),
        not_before: UnixMillis::default(),
        request: None,
    };
    let Ok(checked) = authentic.clone().check(&expected) else {
        return;
    };
    let Ok(opened) = checked.open_clear() else {
        return;
    };
    let mut window = ReplayWindow::new(ReplayLimits::default(), SHOP.skew);
    assert_eq!(opened.messages().count(), opened.message_count());
    for message in opened.messages() {
        assert_eq!(window.commit(&opened, &message, SHOP.now), Ok(()));
        let again = window.commit(&opened, &message, SHOP.now);
        assert_eq!(again, Err(ReplayError::Replayed));
    }
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

/// Takes the first four elements as they are and makes a proof for them.
fn sign_again(data: &[u8]) -> Option<Vec<u8>> {
    let mut at = data;
    rmp::decode::read_array_len(&mut at).ok()?;
    let _: u64 = rmp::decode::read_int(&mut at).ok()?;
    let header = read_bin(&mut at)?;
    if at.first() == Some(&0xc0) {
        at = at.get(1..)?;
    } else {
        read_bin(&mut at)?;
    }
    let body = read_bin(&mut at)?;
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

fn read_bin<'a>(at: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(rmp::decode::read_bin_len(at).ok()?).ok()?;
    let (value, rest) = at.split_at_checked(len)?;
    *at = rest;
    Some(value)
}
