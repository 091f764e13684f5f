//! ENV-16, ENV-17 and ENV-70 to ENV-77: data keys, and what is sealed under them.

use std::sync::atomic::{AtomicU8, Ordering};

use bulla_envelope::{
    CheckedEnvelope, DataKeyDraft, Draft, Encryption, Epoch, Expectation, FrameMessage, KemRecord,
    KeyReference, Kind, LeafHash, MAX_RECIPIENTS, OpenError, OpeningKey, ProcessKeys, Recipient,
    ReplyBinding, SealError, SealedEnvelope, SealingKey, Suite, UnwrapError, VerifiedCredential,
    wrapped_to,
};
use bulla_keyring::{
    Cipher, CipherSuite, ExchangeSecret, KemSecret, KemSuite, MacKey, NkeySeed, Tag, sha256,
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::fixture::*;
use crate::oracle::{Parts, bin, refusal, uint};

const PROCESS: u32 = 77;
const EPOCH: Epoch = Epoch([0xe0; 8]);
const SUITES: [CipherSuite; 4] = CipherSuite::ALL;
const XWING: CipherSuite = CipherSuite::new(KemSuite::XWing, Cipher::ChaCha20Poly1305);
const X25519: CipherSuite = CipherSuite::new(KemSuite::X25519, Cipher::ChaCha20Poly1305);

/// A workload that can be encrypted to.
struct Reader {
    name: &'static str,
    secret: KemSecret,
}

impl Reader {
    fn new(name: &'static str, suite: CipherSuite, n: u8) -> Self {
        Self {
            name,
            secret: KemSecret::from_seed(suite.kem, &[n; 32]),
        }
    }

    fn unwrap(&self, reference: KeyReference, wraps: &[u8]) -> Result<OpeningKey, UnwrapError> {
        let own = workload(self.name);
        OpeningKey::unwrap(reference, wraps, &domain(), &own, |id| {
            (id == self.secret.public().id()).then_some(&self.secret)
        })
    }
}

fn random() -> impl FnMut() -> [u8; 64] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    || [NEXT.fetch_add(1, Ordering::Relaxed); 64]
}

fn key_of(sender: &Process, suite: CipherSuite, readers: &[&Reader], n: u8) -> SealingKey {
    key_with(sender, suite, readers, n, 1 << 20)
}

fn key_with(
    sender: &Process,
    suite: CipherSuite,
    readers: &[&Reader],
    n: u8,
    max_uses: u64,
) -> SealingKey {
    let names: Vec<_> = readers.iter().map(|r| workload(r.name)).collect();
    let recipients: Vec<Recipient<'_>> = readers
        .iter()
        .zip(&names)
        .map(|(reader, workload)| Recipient {
            workload,
            key: reader.secret.public(),
        })
        .collect();
    let draft = DataKeyDraft {
        suite,
        trust_domain: &domain(),
        sender: &sender.workload,
        epoch: EPOCH,
        expires_at: after(600),
        max_uses,
        process: PROCESS,
    };
    SealingKey::new(&draft, &recipients, &[n; 32], random()).unwrap()
}

fn encryption(key: &SealingKey) -> Encryption<'_> {
    Encryption {
        key,
        inline_wraps: true,
        open_token: false,
        process: PROCESS,
    }
}

fn checked(bytes: Bytes, credential: &VerifiedCredential) -> CheckedEnvelope {
    SealedEnvelope::decode(bytes)
        .unwrap()
        .verify(credential)
        .unwrap()
        .check(&expect_event("a"))
        .unwrap()
}

#[test]
fn every_recipient_reads_it_and_nobody_else() {
    for suite in SUITES {
        let sender = orders();
        let readers: Vec<Reader> = ["billing", "stock", "mail"]
            .into_iter()
            .zip(1..)
            .map(|(name, n)| Reader::new(name, suite, n))
            .collect();
        let key = key_of(&sender, suite, &readers.iter().collect::<Vec<_>>(), 9);
        let to = subject("a");
        let mut draft = Draft::event(&to, NOW, after(30), b"the body is secret");
        draft.token = Some(b"the.token.too");
        draft.encryption = Some(encryption(&key));
        let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
        for secret in [&b"secret"[..], b"token"] {
            assert!(!sealed.bytes.windows(secret.len()).any(|w| w == secret));
        }
        let envelope = checked(sealed.bytes, &sender.verified());
        assert_eq!(envelope.suite(), Suite::Encrypted(suite));
        let wraps = envelope.inline_wraps().unwrap();
        let reference = envelope.key_reference().unwrap();
        for reader in &readers {
            let key = reader.unwrap(reference.clone(), &wraps).unwrap();
            let opened = envelope.clone().decrypt(&key).unwrap();
            assert_eq!(opened.first_message().body, "the body is secret");
            assert_eq!(opened.token().unwrap(), "the.token.too");
        }
        let stranger = Reader::new("billing", suite, 77);
        assert_eq!(
            stranger.unwrap(reference, &wraps).unwrap_err(),
            UnwrapError::NotARecipient
        );
        assert_eq!(
            envelope.open_clear().unwrap_err(),
            OpenError::Encrypted,
            "a missing key never means plaintext"
        );
    }
}

#[test]
fn an_open_token_is_read_by_everybody_and_the_body_is_not() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_of(&sender, X25519, &[&reader], 9);
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"secret");
    draft.token = Some(b"open.to.all");
    draft.encryption = Some(Encryption {
        open_token: true,
        ..encryption(&key)
    });
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    assert!(sealed.bytes.windows(11).any(|w| w == b"open.to.all"));
    assert!(!sealed.bytes.windows(6).any(|w| w == b"secret"));
    let envelope = checked(sealed.bytes, &sender.verified());
    let opening = reader
        .unwrap(envelope.key_reference().unwrap(), key.wraps())
        .unwrap();
    let opened = envelope.decrypt(&opening).unwrap();
    assert_eq!(opened.token().unwrap(), "open.to.all");
    assert_eq!(opened.first_message().body, "secret");
}

#[test]
fn frames_and_batches_are_encrypted_too() {
    let sender = orders();
    let reader = Reader::new("billing", XWING, 1);
    let key = key_of(&sender, XWING, &[&reader], 9);
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"");
    draft.encryption = Some(Encryption {
        inline_wraps: false,
        ..encryption(&key)
    });
    let bodies: Vec<Vec<u8>> = (0..64).map(|n| vec![n; usize::from(n)]).collect();
    let messages: Vec<FrameMessage<'_>> = (0..64)
        .zip(&bodies)
        .map(|(n, body)| FrameMessage { id: id(n), body })
        .collect();
    let units: Vec<bulla_envelope::SealUnit<'_>> = (1..=64)
        .map(|count| bulla_envelope::SealUnit {
            draft: &draft,
            messages: &messages[..count],
        })
        .collect();
    let sealed = sender.sealer().seal_units(&units).unwrap();
    let mut opening = None;
    for (sealed, count) in sealed.into_iter().zip(1..) {
        let envelope = checked(sealed.bytes, &sender.verified());
        assert!(envelope.inline_wraps().is_none());
        let reference = envelope.key_reference().unwrap();
        let opening = opening.get_or_insert_with(|| reader.unwrap(reference, key.wraps()).unwrap());
        let opened = envelope.decrypt(opening).unwrap();
        assert_eq!(opened.message_count(), count);
        for (message, body) in opened.messages().zip(&bodies) {
            assert_eq!(message.body, body[..]);
        }
    }
}

/// ENV-16: whatever bit changes, it does not decrypt; also where somebody with a
/// credential of his own signs the changed envelope again (attack 8).
#[test]
fn every_flipped_bit_fails_even_if_it_is_signed_again() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_of(&sender, X25519, &[&reader], 9);
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"x");
    draft.token = Some(b"a.b.c");
    draft.encryption = Some(Encryption {
        inline_wraps: false,
        ..encryption(&key)
    });
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    let opening = reader
        .unwrap(
            checked(sealed.bytes.clone(), &sender.verified())
                .key_reference()
                .unwrap(),
            key.wraps(),
        )
        .unwrap();
    let hash = *sender.credential().hash();
    let genuine = Parts::of(&sealed.bytes);
    let resigned = |parts: Parts| {
        let bytes = parts.sign(&sender.message_key(), &hash).encode();
        SealedEnvelope::decode(bytes)
            .ok()
            .and_then(|sealed| sealed.verify(&sender.verified()).ok())
            .and_then(|authentic| authentic.check(&expect_event("a")).ok())
            .and_then(|checked| checked.decrypt(&opening).ok())
    };
    assert!(resigned(genuine.clone()).is_some());
    let mut parts = genuine.clone();
    for bit in 0..parts.body.len() * 8 {
        parts.body[bit / 8] ^= 1 << (bit % 8);
        assert!(resigned(parts.clone()).is_none(), "bit {bit} of the body");
        parts.body[bit / 8] ^= 1 << (bit % 8);
    }
    for field in 0..genuine.fields.len() {
        let mut parts = genuine.clone();
        for bit in 0..parts.fields[field].1.len() * 8 {
            parts.fields[field].1[bit / 8] ^= 1 << (bit % 8);
            assert!(resigned(parts.clone()).is_none(), "bit {bit} of {field}");
            parts.fields[field].1[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Attacks 7 and 8: neither a reader nor a stranger can pass on a ciphertext as
/// his own, or the sender's as somebody else's.
#[test]
fn a_ciphertext_does_not_move_to_another_sender() {
    let (sender, thief) = (orders(), billing());
    let reader = Reader::new("stock", X25519, 1);
    let key = key_of(&sender, X25519, &[&reader], 9);
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"x");
    draft.encryption = Some(encryption(&key));
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    let mut stolen = Parts::of(&sealed.bytes);
    stolen.set(2, bin(thief.credential().id().as_bytes()));
    let stolen = stolen.sign(&thief.message_key(), thief.credential().hash());
    let envelope = checked(stolen.encode(), &thief.verified());
    let reference = envelope.key_reference().unwrap();
    assert!(matches!(
        reader.unwrap(reference, key.wraps()).unwrap_err(),
        UnwrapError::Wrap(_)
    ));
    // With the right key in hand it does not open either.
    let genuine = checked(sealed.bytes, &sender.verified());
    let opening = reader
        .unwrap(genuine.key_reference().unwrap(), key.wraps())
        .unwrap();
    assert_eq!(envelope.decrypt(&opening).unwrap_err(), OpenError::WrongKey);
}

/// Attack 28: two keys under one id, which the AEAD alone would allow.
#[test]
fn another_key_under_the_same_id_is_refused() {
    let sender = orders();
    let reader = Reader::new("billing", XWING, 1);
    let (key, other) = (
        key_of(&sender, XWING, &[&reader], 9),
        key_of(&sender, XWING, &[&reader], 10),
    );
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"x");
    draft.encryption = Some(Encryption {
        inline_wraps: false,
        ..encryption(&key)
    });
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    let reference = checked(sealed.bytes.clone(), &sender.verified())
        .key_reference()
        .unwrap();
    assert_eq!(reference.data_key, key.id());
    assert!(reader.unwrap(reference.clone(), key.wraps()).is_ok());
    // The wraps of the other key are bound to the other id.
    assert!(reader.unwrap(reference.clone(), other.wraps()).is_err());
    // Somebody who wraps another key under this id, as only the sender could,
    // is found out by the commitment.
    let mut info = Tag::Wrap.as_bytes().to_vec();
    let (expires_at, ids) = wrapped_to(key.wraps()).unwrap();
    rmp::encode::write_array_len(&mut info, 9).unwrap();
    info.extend(uint(1));
    for text in ["acme.example", "spiffe://acme.example/orders"] {
        info.extend(crate::oracle::string(text));
    }
    info.extend(bin(&EPOCH.0));
    info.extend(crate::oracle::string("spiffe://acme.example/billing"));
    info.extend(bin(&ids[0].0));
    info.extend(bin(&key.id().0));
    info.extend(bin(&key.recipients().0));
    info.extend(uint(expires_at.as_millis()));
    let wrap = |bytes: [u8; 32]| {
        let key = bulla_keyring::DataKey::from_random(Cipher::ChaCha20Poly1305, &bytes);
        let wrapped = reader.secret.public().wrap(&info, &key, &[5; 64]).unwrap();
        let mut out = vec![0x92];
        out.extend(uint(expires_at.as_millis()));
        out.extend([0x91, 0x92]);
        out.extend(bin(&ids[0].0));
        out.extend(bin(&wrapped));
        out
    };
    assert!(reader.unwrap(reference.clone(), &wrap([9; 32])).is_ok());
    assert_eq!(
        reader.unwrap(reference, &wrap([11; 32])).unwrap_err(),
        UnwrapError::WrongKey
    );
}

#[test]
fn wraps_are_strict_and_for_the_named_recipients() {
    let sender = orders();
    let readers = [
        Reader::new("billing", X25519, 1),
        Reader::new("stock", X25519, 2),
    ];
    let key = key_of(&sender, X25519, &[&readers[0], &readers[1]], 9);
    let fewer = key_of(&sender, X25519, &[&readers[0]], 9);
    assert_eq!(key.id(), fewer.id());
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"x");
    draft.encryption = Some(encryption(&key));
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    let envelope = checked(sealed.bytes, &sender.verified());
    let reference = envelope.key_reference().unwrap();
    let refused = |wraps: &[u8]| readers[0].unwrap(reference.clone(), wraps).unwrap_err();
    assert_eq!(refused(fewer.wraps()), UnwrapError::RecipientSet);
    assert_eq!(refused(&[0x92, 0, 0x90]), UnwrapError::Order);
    assert_eq!(refused(&[]).code(), "wraps_malformed");
    let mut longer = key.wraps().to_vec();
    longer.push(0xc0);
    assert_eq!(refused(&longer).code(), "wraps_malformed");
    for len in 0..key.wraps().len() {
        assert_eq!(refused(&key.wraps()[..len]).code(), "wraps_malformed");
    }
    // Twice the same, and in the wrong order.
    let head = key.wraps().len() - 2 * (1 + 18 + 2 + 80);
    let (first, second) = key.wraps()[head..].split_at(101);
    let joined = |parts: [&[u8]; 3]| parts.concat();
    let start = &key.wraps()[..head];
    assert_eq!(refused(&joined([start, first, first])), UnwrapError::Order);
    assert_eq!(refused(&joined([start, second, first])), UnwrapError::Order);
    // Changed anywhere, ours does not open, or the key's life is another.
    let mut wraps = key.wraps().to_vec();
    for at in 0..wraps.len() {
        wraps[at] ^= 1;
        let unwrapped = readers[0].unwrap(reference.clone(), &wraps);
        let is_others = readers[1].unwrap(reference.clone(), &wraps).is_err();
        assert!(unwrapped.is_err() || is_others, "byte {at}");
        wraps[at] ^= 1;
    }
}

/// Attack 18: a list of recipients without end costs its own bytes, no more.
#[test]
fn too_many_recipients_are_refused() {
    let sender = orders();
    let secrets: Vec<Reader> = (0..=MAX_RECIPIENTS)
        .map(|n| {
            let seed = sha256(&[&n.to_be_bytes()]);
            Reader {
                name: "billing",
                secret: KemSecret::from_seed(KemSuite::X25519, &seed),
            }
        })
        .collect();
    let own = workload("billing");
    let recipients: Vec<Recipient<'_>> = secrets
        .iter()
        .map(|reader| Recipient {
            workload: &own,
            key: reader.secret.public(),
        })
        .collect();
    let draft = DataKeyDraft {
        suite: X25519,
        trust_domain: &domain(),
        sender: &sender.workload,
        epoch: EPOCH,
        expires_at: after(600),
        max_uses: 1,
        process: PROCESS,
    };
    let make = |count: usize| SealingKey::new(&draft, &recipients[..count], &[1; 32], random());
    assert_eq!(make(0).unwrap_err().code(), "recipients");
    assert_eq!(make(MAX_RECIPIENTS + 1).unwrap_err().code(), "recipients");
    let most = make(MAX_RECIPIENTS).unwrap();
    assert_eq!(wrapped_to(most.wraps()).unwrap().1.len(), MAX_RECIPIENTS);
    let mut bomb = vec![0x92, 0, 0xdd];
    bomb.extend_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(wrapped_to(&bomb).unwrap_err().code(), "wraps_malformed");
}

#[test]
fn a_retired_or_used_up_or_forked_key_seals_nothing() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_with(&sender, X25519, &[&reader], 9, 2);
    let to = subject("a");
    let sealer = sender.sealer();
    let mut draft = Draft::event(&to, NOW, after(30), b"x");
    draft.encryption = Some(encryption(&key));
    assert_eq!(key.reserve(1), 1);
    sealer.seal(&draft, id(1)).unwrap();
    sealer.seal(&draft, id(1)).unwrap();
    assert_eq!(key.reserve(5), 1, "no more than there are");
    assert_eq!(key.reserve(1), 0);

    let mut forked = draft.clone();
    forked.encryption = Some(Encryption {
        process: PROCESS + 1,
        ..encryption(&key)
    });
    let error = sealer.seal(&forked, id(1)).unwrap_err();
    assert_eq!(error.code(), "nonces_forked");

    let mut late = Draft::event(&to, after(601), after(630), b"x");
    late.encryption = Some(encryption(&key));
    assert_eq!(
        sealer.seal(&late, id(1)).unwrap_err(),
        SealError::KeyRetired
    );

    // Another process's key: its epoch is not this sealer's.
    let foreign =
        bulla_envelope::Sealer::new(&sender.credential(), sender.message_key(), Epoch([1; 8]))
            .unwrap();
    assert_eq!(
        foreign.seal(&draft, id(1)).unwrap_err(),
        SealError::ForeignKey
    );
}

/// [ENV-75]
#[test]
fn no_more_is_reserved_than_a_key_may_seal() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_with(&sender, X25519, &[&reader], 9, 10_000);
    let reserved: u64 = std::thread::scope(|scope| {
        let reserve = || {
            let shares = std::iter::repeat_with(|| key.reserve(7));
            shares.take_while(|share| *share > 0).sum::<u64>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(reserve)).collect();
        threads.into_iter().map(|it| it.join().unwrap()).sum()
    });
    assert_eq!(reserved, 10_000);
}

#[test]
fn no_two_envelopes_share_a_nonce() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_of(&sender, X25519, &[&reader], 9);
    let sealer = sender.sealer();
    let nonces: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let to = subject("a");
                    let mut draft = Draft::event(&to, NOW, after(30), b"x");
                    draft.encryption = Some(encryption(&key));
                    let batch = vec![(draft, id(1)); 50];
                    let sealed = sealer.seal_batch(&batch).unwrap();
                    sealed
                        .iter()
                        .map(|sealed| Parts::of(&sealed.bytes).value(24).to_vec())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let joined = threads.into_iter().flat_map(|t| t.join().unwrap());
        joined.collect()
    });
    let distinct: std::collections::HashSet<_> = nonces.iter().collect();
    assert_eq!((nonces.len(), distinct.len()), (200, 200));
}

/// A receiver refuses what was issued after the key's own end.
#[test]
fn what_outlives_its_key_does_not_open() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_of(&sender, X25519, &[&reader], 9);
    let to = subject("a");
    let mut draft = Draft::event(&to, after(600), after(630), b"x");
    draft.encryption = Some(encryption(&key));
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    let hash = *sender.credential().hash();
    let at = |seconds: i64| {
        // The time is in the header, which the ciphertext is bound to: only the
        // sender could do this, by sealing under a retired key.
        let mut parts = Parts::of(&sealed.bytes);
        parts.set(7, uint(after(seconds).as_millis()));
        parts.set(8, uint(after(seconds + 30).as_millis()));
        let bytes = parts.sign(&sender.message_key(), &hash).encode();
        let envelope = SealedEnvelope::decode(bytes)
            .unwrap()
            .verify(&sender.verified())
            .unwrap()
            .check(&Expectation {
                now: after(seconds),
                ..expect_event("a")
            })
            .unwrap();
        let reference = envelope.key_reference().unwrap();
        let opening = reader.unwrap(reference, key.wraps()).unwrap();
        envelope.decrypt(&opening).unwrap_err()
    };
    assert_eq!(at(604), OpenError::BadCiphertext);
    assert_eq!(at(606), OpenError::KeyRetired);
}

#[test]
fn what_was_encrypted_is_read_strictly() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_of(&sender, X25519, &[&reader], 9);
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"x");
    draft.token = Some(b"a.b.c");
    draft.encryption = Some(encryption(&key));
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    let hash = *sender.credential().hash();
    // Encrypted again by somebody who has the key and the credential.
    let secret = bulla_keyring::DataKey::from_random(Cipher::ChaCha20Poly1305, &[9; 32]);
    let lanes = bulla_keyring::NonceLanes::new(1);
    let code_of = |token: Option<&[u8]>, plaintext: &[u8]| {
        let nonce = lanes.lane(1).unwrap().take(1).unwrap();
        let mut parts = Parts::of(&sealed.bytes);
        parts.set(24, bin(nonce.as_bytes()));
        parts.token = token.map(<[u8]>::to_vec);
        let mut prefix = vec![0x95, 0x01];
        prefix.extend(bin(&parts.header()));
        parts.body = plaintext.to_vec();
        let tag = secret.seal_in_place(nonce, &[&prefix], &mut parts.body);
        parts.body.extend_from_slice(&tag);
        let bytes = parts.sign(&sender.message_key(), &hash).encode();
        let envelope = checked(bytes, &sender.verified());
        let reference = envelope.key_reference().unwrap();
        let opening = reader.unwrap(reference, key.wraps()).unwrap();
        match envelope.decrypt(&opening) {
            Ok(_) => "accepted",
            Err(OpenError::Content(error)) => error.code(),
            Err(error) => error.code(),
        }
    };
    let inner = |token: &[u8], rest: &[u8]| [&[0x92][..], token, rest].concat();
    let (token, body) = (bin(b"a.b.c"), bin(b"x"));
    assert_eq!(code_of(None, &inner(&token, &body)), "accepted");
    let other = bin(b"a.b.d");
    assert_eq!(code_of(None, &inner(&other, &body)), "token_mismatch");
    assert_eq!(code_of(None, &inner(&[0xc0], &body)), "token_mismatch");
    let outer = Some(&b"a.b.c"[..]);
    assert_eq!(code_of(outer, &inner(&token, &body)), "token_mismatch");
    assert_eq!(code_of(outer, &inner(&[0xc0], &body)), "accepted");
    let long = [&inner(&token, &body)[..], &[0xc0]].concat();
    assert_eq!(code_of(None, &long), "trailing_bytes");
    assert_eq!(code_of(None, &inner(&token, &[0xa1, b'x'])), "wrong_type");
    assert_eq!(code_of(None, &[0x91, 0xc0]), "wrong_length");
    assert_eq!(code_of(None, b""), "truncated");
    let wide = [&[0xdc, 0, 2][..], &token, &body].concat();
    assert_eq!(code_of(None, &wide), "not_minimal");
}

#[test]
fn fields_of_the_suites_are_as_in_the_table() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let key = key_of(&sender, X25519, &[&reader], 9);
    let to = subject("a");
    let mut draft = Draft::event(&to, NOW, after(30), b"x");
    draft.encryption = Some(encryption(&key));
    let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
    let genuine = Parts::of(&sealed.bytes);
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = genuine.clone();
        change(&mut parts);
        refusal(parts.encode())
    };
    assert_eq!(changed(&|_| {}), "accepted");
    for field in [22, 23, 24] {
        assert_eq!(changed(&|p| p.remove(field)), "missing_field");
    }
    assert_eq!(changed(&|p| p.remove(25)), "accepted");
    // Attack 6: the suite cannot be lowered without the rest.
    assert_eq!(changed(&|p| p.set(0, uint(0))), "unexpected_field");
    assert_eq!(changed(&|p| p.set(0, uint(5))), "unsupported_suite");
    assert_eq!(changed(&|p| p.set(22, bin(&[0; 31]))), "wrong_length");
    assert_eq!(changed(&|p| p.set(24, bin(&[0; 13]))), "wrong_length");
    assert_eq!(changed(&|p| p.body.truncate(15)), "body_too_short");
    assert_eq!(changed(&|p| p.set(1, uint(4))), "unexpected_field");
    assert_eq!(changed(&|p| p.token = Some(vec![1])), "token_presence");
    // An error is never encrypted.
    assert_eq!(changed(&|p| p.set(1, uint(3))), "suite_of_kind");
}

#[test]
fn a_wrapped_key_has_a_record_of_its_own() {
    let sender = orders();
    let reader = Reader::new("billing", XWING, 1);
    let key = key_of(&sender, XWING, &[&reader], 9);
    let place = subject("keys.here");
    let sealer = sender.sealer();
    let draft = Draft::key_wrap(&place, &key, NOW, after(30));
    let sealed = sealer.seal(&draft, id(1)).unwrap();
    let expected = Expectation {
        kinds: &[Kind::KeyWrap],
        ..expect_event("keys.here")
    };
    let envelope = SealedEnvelope::decode(sealed.bytes.clone())
        .unwrap()
        .verify(&sender.verified())
        .unwrap()
        .check(&expected)
        .unwrap();
    let reference = envelope.key_reference().unwrap();
    assert_eq!(reference.data_key, key.id());
    let wraps = envelope.open_clear().unwrap().first_message().body;
    reader.unwrap(reference, &wraps).unwrap();

    let genuine = Parts::of(&sealed.bytes);
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = genuine.clone();
        change(&mut parts);
        refusal(parts.encode())
    };
    assert_eq!(changed(&|_| {}), "accepted");
    assert_eq!(changed(&|p| p.set(0, uint(0))), "suite_of_kind");
    assert_eq!(changed(&|p| p.set(24, bin(&[0; 12]))), "unexpected_field");
    assert_eq!(changed(&|p| p.set(25, bin(&[0; 12]))), "unexpected_field");
    assert_eq!(changed(&|p| p.remove(23)), "missing_field");

    // The kind and the key go together.
    let mut odd = Draft::event(&place, NOW, after(30), b"");
    odd.wrapped = Some(&key);
    assert_eq!(sealer.seal(&odd, id(1)).unwrap_err(), SealError::KeyOfKind);
    let mut odd = Draft::key_wrap(&place, &key, NOW, after(30));
    odd.encryption = Some(encryption(&key));
    assert_eq!(sealer.seal(&odd, id(1)).unwrap_err(), SealError::KeyOfKind);
}

/// ENV-77, attack 28: only the workload's own nkey can speak for its keys.
#[test]
fn a_kem_record_is_believed_only_from_the_workloads_own_nkey() {
    let process = orders();
    let bytes = KemRecord::sign(&process.nkey, &process.workload, 3);
    assert_eq!(
        bytes,
        KemRecord::sign(&process.nkey, &process.workload, 3),
        "every replica makes the same"
    );
    let record = KemRecord::decode(&bytes).unwrap();
    let anchors = process.anchors();
    let proven = record.clone().verify(&process.workload, &anchors).unwrap();
    assert_eq!(proven.version(), 3);
    for suite in KemSuite::ALL {
        let secret = process.nkey.kem_secret(suite, 3, &process.workload);
        assert_eq!(proven.key(suite), secret.public());
    }
    // A broker that puts its own keys there cannot sign for them.
    let thief = NkeySeed::from_random(bulla_identity::NkeyKind::User, &[99; 32]).unwrap();
    let forged = KemRecord::decode(&KemRecord::sign(&thief, &process.workload, 4)).unwrap();
    let code = |record: KemRecord| {
        let verified = record.verify(&process.workload, &anchors);
        verified.map(drop).map_err(|e| e.code())
    };
    assert_eq!(code(forged), Err("foreign_nkey"));
    let other = KemRecord::decode(&KemRecord::sign(&process.nkey, &workload("x"), 3)).unwrap();
    assert_eq!(code(other), Err("foreign_nkey"));
    let mut changed = bytes.clone();
    for at in 0..bytes.len() {
        changed[at] ^= 1;
        let accepted = KemRecord::decode(&changed)
            .is_ok_and(|record| record.verify(&process.workload, &anchors).is_ok());
        assert!(!accepted, "byte {at}");
        changed[at] ^= 1;
    }
}

fn exchange(n: u8) -> ExchangeSecret {
    ExchangeSecret::from_seed(&[n; 32])
}

/// The key that the responder `orders` and the requester `billing` agree on.
fn shared(own: &ExchangeSecret, peer: &ExchangeSecret) -> MacKey {
    let (responder, requester) = (orders().credential(), billing().credential());
    own.mac_key(peer.public(), responder.hash(), requester.hash())
        .unwrap()
}

/// ENV-26.
#[test]
fn a_coded_reply_is_for_one_peer_and_one_request() {
    let responder = orders();
    let (ours, theirs) = (exchange(1), exchange(2));
    let (key, peers_key) = (shared(&ours, &theirs), shared(&theirs, &ours));
    let to = subject("_INBOX.x");
    let binding = ReplyBinding {
        request: LeafHash([7; 32]),
        index: 0,
        is_final: true,
    };
    let draft = Draft::reply(&to, binding, NOW, after(5), b"ok");
    let sealed = responder
        .sealer()
        .seal_with_mac(&draft, id(1), &key)
        .unwrap();
    let envelope = SealedEnvelope::decode(sealed.bytes.clone()).unwrap();
    assert!(envelope.has_mac());
    let credential = responder.verified();
    let opened = envelope
        .clone()
        .verify_mac(&credential, &peers_key)
        .unwrap();
    assert_eq!(opened.leaf(), sealed.leaf);
    // It is no signature, and does not pass for one.
    let code = |verified: Result<_, bulla_envelope::VerifyError>| {
        verified
            .map(|_: bulla_envelope::AuthenticEnvelope| ())
            .map_err(|e| e.code())
    };
    assert_eq!(
        code(envelope.clone().verify(&credential)),
        Err("not_signed")
    );
    // Another pair's key, the other credential, one changed bit.
    let others = shared(&exchange(3), &theirs);
    assert_eq!(
        code(envelope.clone().verify_mac(&credential, &others)),
        Err("bad_mac")
    );
    assert_eq!(
        code(envelope.verify_mac(&billing().verified(), &peers_key)),
        Err("wrong_credential")
    );
    let mut bytes = sealed.bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let accepted = SealedEnvelope::decode(Bytes::copy_from_slice(&bytes))
            .is_ok_and(|sealed| sealed.verify_mac(&credential, &peers_key).is_ok());
        assert!(!accepted, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    // Only answers.
    let event = Draft::event(&to, NOW, after(5), b"");
    let error = responder.sealer().seal_with_mac(&event, id(1), &key);
    assert_eq!(error.unwrap_err(), SealError::MacKind);
    let signed = responder.sealer().seal(&event, id(1)).unwrap();
    let signed = SealedEnvelope::decode(signed.bytes).unwrap();
    assert_eq!(
        code(signed.verify_mac(&credential, &peers_key)),
        Err("not_coded")
    );
    // Nor does one that an attacker puts together get as far as a key.
    let event = responder.sealer().seal(&event, id(1)).unwrap();
    let mut coded = event.bytes[..event.bytes.len() - 71].to_vec();
    coded.extend_from_slice(&[0x91, 0xc4, 32]);
    coded.extend_from_slice(&[0; 32]);
    assert_eq!(refusal(coded.into()), "mac_kind");
}

#[test]
fn process_keys_travel_in_the_credential() {
    let keys = ProcessKeys {
        xwing: KemSecret::from_seed(KemSuite::XWing, &[1; 32])
            .public()
            .clone(),
        x25519: KemSecret::from_seed(KemSuite::X25519, &[2; 32])
            .public()
            .clone(),
        exchange: *exchange(3).public(),
    };
    let mut process = orders();
    assert_eq!(process.verified().process_keys(), None);
    process.process_keys = Some(keys.clone());
    let credential = process.credential();
    let decoded = bulla_envelope::Credential::decode(credential.as_bytes()).unwrap();
    assert_eq!(decoded, credential);
    assert_eq!(process.verified().process_keys(), Some(&keys));
    assert_eq!(keys.kem(KemSuite::XWing), &keys.xwing);
    assert_eq!(keys.kem(KemSuite::X25519), &keys.x25519);
}

/// ENV-74: all keys of a data key's recipients are of its suite.
#[test]
fn suites_do_not_mix() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let own = workload("billing");
    let draft = DataKeyDraft {
        suite: XWING,
        trust_domain: &domain(),
        sender: &sender.workload,
        epoch: EPOCH,
        expires_at: after(600),
        max_uses: 1,
        process: PROCESS,
    };
    let recipient = Recipient {
        workload: &own,
        key: reader.secret.public(),
    };
    let error = SealingKey::new(&draft, &[recipient], &[9; 32], random()).unwrap_err();
    assert_eq!(error.code(), "recipient_suite");

    let key = key_of(&sender, X25519, &[&reader], 9);
    let reference = KeyReference {
        suite: XWING,
        sender: sender.workload.clone(),
        epoch: EPOCH,
        data_key: key.id(),
        recipients: key.recipients(),
    };
    assert_eq!(
        reader.unwrap(reference, key.wraps()).unwrap_err(),
        UnwrapError::NotARecipient
    );
}

/// ENV-11, ENV-70: a key that is held counts for its own cipher alone, even where its
/// sender used the same bytes for both.
#[test]
fn a_key_of_one_cipher_opens_nothing_of_the_other() {
    let sender = orders();
    let reader = Reader::new("billing", X25519, 1);
    let [one, other] = Cipher::ALL.map(|cipher| {
        let suite = CipherSuite::new(KemSuite::X25519, cipher);
        key_of(&sender, suite, &[&reader], 9)
    });
    assert_eq!(
        (one.id(), one.recipients()),
        (other.id(), other.recipients())
    );
    let to = subject("a");
    let [of_one, of_other] = [&one, &other].map(|key| {
        let mut draft = Draft::event(&to, NOW, after(30), b"the body");
        draft.encryption = Some(encryption(key));
        let sealed = sender.sealer().seal(&draft, id(1)).unwrap();
        checked(sealed.bytes, &sender.verified())
    });
    let held = reader
        .unwrap(of_one.key_reference().unwrap(), one.wraps())
        .unwrap();
    assert_eq!(of_other.decrypt(&held).unwrap_err(), OpenError::WrongKey);
    let opened = of_one.decrypt(&held).unwrap();
    assert_eq!(opened.first_message().body, "the body");
    // Nor do the wraps of one count for the other.
    let reference = KeyReference {
        suite: other.suite(),
        ..held.reference().clone()
    };
    let unwrapped = reader.unwrap(reference, one.wraps()).unwrap_err();
    assert_eq!(unwrapped.code(), "wrap_does_not_open");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Every kind that an application sends, in clear and in every suite, alone and as a
    /// frame, with the token inside, beside or absent, the wraps along or not.
    #[test]
    fn open_after_seal_is_identity_for_every_kind_and_suite(
        kind in 0usize..3,
        suite in proptest::option::of(proptest::sample::select(&SUITES[..])),
        inline_wraps in any::<bool>(),
        open_token in any::<bool>(),
        token in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..600)),
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1_500), 1..=64),
        index in any::<u32>(),
        is_final in any::<bool>(),
    ) {
        let sender = orders();
        let (to, inbox) = (subject("a"), subject("b"));
        let binding = ReplyBinding { request: LeafHash([7; 32]), index, is_final };
        let mut draft = match kind {
            0 => Draft::event(&to, NOW, after(30), b""),
            1 => Draft::request(&to, &inbox, NOW, after(30), b""),
            _ => Draft::reply(&to, binding, NOW, after(30), b""),
        };
        let bodies = &bodies[..if kind == 0 { bodies.len() } else { 1 }];
        let token = token.filter(|_| kind < 2);
        draft.token = token.as_deref();
        // Without a content type an empty final reply only closes.
        draft.content_type = Some("application/octet-stream");
        let keys = suite.map(|suite| {
            let reader = Reader::new("billing", suite, 1);
            let key = key_of(&sender, suite, &[&reader], 9);
            (reader, key)
        });
        draft.encryption = keys.as_ref().map(|(_, key)| Encryption {
            inline_wraps,
            open_token,
            ..encryption(key)
        });
        let messages: Vec<FrameMessage<'_>> = (0..)
            .zip(bodies)
            .map(|(n, body)| FrameMessage { id: id(n), body })
            .collect();
        let unit = bulla_envelope::SealUnit { draft: &draft, messages: &messages };
        let sealed = sender.sealer().seal_units(&[unit]).unwrap().remove(0);
        let expected = Expectation {
            reply_to: (kind == 1).then_some("b"),
            kinds: &[[Kind::Event, Kind::Request, Kind::Reply][kind]],
            request: (kind == 2).then_some(binding.request),
            ..expect_event("a")
        };
        let checked = authentic(&sealed, &sender.verified()).check(&expected).unwrap();
        prop_assert_eq!(checked.suite(), suite.map_or(Suite::Signed, Suite::Encrypted));
        let opened = match &keys {
            None => checked.open_clear().unwrap(),
            Some((reader, key)) => {
                prop_assert_eq!(checked.inline_wraps().is_some(), inline_wraps);
                let reference = checked.key_reference().unwrap();
                checked.decrypt(&reader.unwrap(reference, key.wraps()).unwrap()).unwrap()
            }
        };
        prop_assert_eq!(opened.message_count(), bodies.len());
        for ((message, body), n) in opened.messages().zip(bodies).zip(0..) {
            prop_assert_eq!(&message.body[..], &body[..]);
            prop_assert_eq!(message.id, id(n));
        }
        prop_assert_eq!(opened.token().map(|token| token.to_vec()), token);
        prop_assert_eq!(opened.binding(), (kind == 2).then_some(binding));
        prop_assert_eq!(opened.leaf(), sealed.leaf);
    }
}
