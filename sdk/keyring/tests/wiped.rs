//! When a key is dropped, no copy of it is left on the heap.
//!
//! Linux shows a process its own memory as a file, so this needs no `unsafe`.
//! What a function leaves on its stack is not looked at: compilers copy there
//! as they like, and the next call overwrites it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;

use bulla_identity::{NkeyKind, WorkloadId};
use bulla_keyring::{
    AuthorityRole, AuthoritySeed, CertifiedKey, Cipher, CurveSeed, DataKey, ExchangeSecret,
    KemSecret, KemSuite, NkeySeed, NonceLanes, SigningKey, Tag,
};
use zeroize::Zeroizing;

/// Bytes looked at together.
const CHUNK: usize = 32 * 1024;
/// The second half of a secret is looked for: the allocator itself writes into
/// the first 16 bytes of a freed block.
const PATTERN: usize = 16;

/// How often the secret lies in writable memory that is no file's and not this
/// thread's stack. Allocates nothing: it would overwrite what it looks for.
fn copies(secret: &[u8; 32]) -> usize {
    let mut text = [0; 2 * CHUNK];
    let stack = std::ptr::from_ref(&text).addr() as u64;
    let mut maps = File::open("/proc/self/maps").unwrap();
    let mut len = 0;
    loop {
        match maps.read(&mut text[len..]).unwrap() {
            0 => break,
            more => len += more,
        }
    }
    assert!(len < text.len(), "all mappings were read");
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for line in str::from_utf8(&text[..len]).unwrap().lines() {
        // from-to permissions offset device inode [name]
        let mut fields = line.split_whitespace();
        let (from, to) = fields.next().unwrap().split_once('-').unwrap();
        let number = |hex| u64::from_str_radix(hex, 16).unwrap();
        let (mut from, to) = (number(from), number(to));
        let writable = fields.next() == Some("rw-p");
        let name = fields.nth(3).unwrap_or("[heap]");
        let heap = name == "[heap]" || name.starts_with("[anon");
        if !(heap && writable) || (from..to).contains(&stack) {
            continue;
        }
        let mut chunk = [0; CHUNK];
        while from < to {
            let len = CHUNK.min(usize::try_from(to - from).unwrap());
            let chunk = &mut chunk[..len];
            memory.read_exact_at(chunk, from).unwrap();
            found += chunk
                .windows(PATTERN)
                .filter(|window| *window == &secret[32 - PATTERN..])
                .count();
            // The next chunk begins where the last window of this one did.
            from = if from + len as u64 == to {
                to
            } else {
                from + (len - PATTERN + 1) as u64
            };
        }
    }
    found
}

fn assert_wiped<T>(what: &str, secret: &[u8; 32], make: impl FnOnce(&[u8; 32]) -> T) {
    assert_eq!(copies(secret), 0, "{what}: before it is made");
    let key = make(secret);
    assert!(copies(secret) > 0, "{what}: not found while it lives");
    // Moving it must not copy the secret anywhere either.
    let moved = vec![key];
    drop(moved);
    assert_eq!(copies(secret), 0, "{what}: left behind");
}

/// The seed as a key file has it.
fn pkcs8_pem(seed: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let mut der = Zeroizing::new(
        *b"0.\x02\x01\x000\x05\x06\x03+ep\x04\x22\x04\x20________________________________",
    );
    der[16..].copy_from_slice(seed);
    let mut pem = Zeroizing::new(vec![0; 64]);
    data_encoding::BASE64.encode_mut(&*der, &mut pem);
    Zeroizing::new(
        [
            b"-----BEGIN PRIVATE KEY-----\n",
            pem.as_slice(),
            b"\n-----END PRIVATE KEY-----\n",
        ]
        .concat(),
    )
}

/// Signed by the seed's key, for its own public half.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBFjCByaADAgECAhQ/aidEi9Mp2XaP6R9IeaoruKIhkzAFBgMrZXAwADAgFw0y
NjExMjcwNDMxNDlaGA8yMTI2MTEwMzA0MzE0OVowADAqMAUGAytlcAMhAJWK9gPs
yUgRAViAuhbeZy06DHVEEaYcINBjkV8aK0v/o1MwUTAdBgNVHQ4EFgQURJtTMOx3
W/62SgWcOb0Ssnj1k2AwHwYDVR0jBBgwFoAURJtTMOx3W/62SgWcOb0Ssnj1k2Aw
DwYDVR0TAQH/BAUwAwEB/zAFBgMrZXADQQDQAeUw3J/TVFAR7qXUUqriE0rVfzxa
fFf5AjGOLO7C7nX5GxQplclLA8+IuppDsye6fRdZe9xvxXje1+0pcvcC
-----END CERTIFICATE-----
";

/// One test, hence one thread: an allocation that another one frees or makes
/// would lie elsewhere.
#[test]
fn dropped_keys_are_gone_from_the_heap() {
    // As X25519 clamps it, so that every form of the key is these bytes.
    let mut seed: [u8; 32] = std::array::from_fn(|i| (i as u8).wrapping_mul(0x6d) ^ 0xb1);
    seed[0] &= 0xf8;
    seed[31] = seed[31] & 0x7f | 0x40;

    // The scan finds what is not wiped.
    let other = seed.map(|byte| !byte);
    let plain = other.to_vec();
    assert_eq!(copies(&other), 1);
    drop(plain);
    assert_eq!(copies(&other), 1, "an ordinary vector leaves its content");

    assert_wiped("SigningKey", &seed, |seed| {
        let key = SigningKey::from_seed(seed);
        let _ = key.sign(Tag::Batch, &[b"root"]);
        key
    });
    assert_wiped("NkeySeed", &seed, |seed| {
        let key = NkeySeed::from_random(NkeyKind::User, seed).unwrap();
        let _ = key.sign_nonce(b"nonce");
        let parsed = NkeySeed::parse(&key.to_seed_text()).unwrap();
        let workload = WorkloadId::parse("spiffe://acme/a").unwrap();
        for suite in KemSuite::ALL {
            drop(parsed.kem_secret(suite, 1, &workload));
        }
        parsed
    });
    // Its digits are looked for; all but the last 32 lie further ahead.
    let mut digits = [0; 32];
    let text = NkeySeed::from_random(NkeyKind::User, &seed).unwrap();
    digits.copy_from_slice(&text.to_seed_text().as_bytes()[26..]);
    drop(text);
    assert_wiped("SecretString", &digits, |_| {
        let key = NkeySeed::from_random(NkeyKind::User, &seed).unwrap();
        let text = key.to_seed_text();
        assert!(NkeySeed::parse(&text).is_ok());
        text.clone()
    });
    assert_wiped("CertifiedKey", &seed, |seed| {
        let key = pkcs8_pem(seed);
        let certified = CertifiedKey::from_pem(CERTIFICATE.as_bytes(), &key).unwrap();
        let _ = certified.sign(Tag::CertificateCountersignature, &[b"request"]);
        certified
    });
    assert_wiped("CurveSeed", &seed, |seed| {
        let key = CurveSeed::from_random(seed);
        let peer = CurveSeed::from_random(&[9; 32]);
        let sealed = peer.seal(b"request", &key.public(), [1; 24]).unwrap();
        assert!(key.open(&sealed, &peer.public()).is_ok());
        assert!(key.seal(b"answer", &peer.public(), [2; 24]).is_ok());
        key
    });
    // Which X25519 and HSalsa20 make of the two, by another program.
    let mut shared = [0; 32];
    let text = b"20c24bba57453015274c1f085e79698d2f1123c0391379993cc3806af6bfccf5";
    data_encoding::HEXLOWER
        .decode_mut(text, &mut shared)
        .unwrap();
    assert_wiped("CurveBox", &shared, |_| {
        let peer = CurveSeed::from_random(&[9; 32]);
        let both = CurveSeed::from_random(&seed).shared_with(&peer.public());
        let both = both.unwrap();
        let sealed = both.seal(b"answer", [1; 24]).unwrap();
        assert!(both.open(&sealed).is_ok());
        both
    });
    assert_wiped("AuthoritySeed", &seed, |seed| {
        let key = AuthoritySeed::from_random(AuthorityRole::Policy, seed);
        AuthoritySeed::parse(AuthorityRole::Policy, &key.to_secret_text()).unwrap()
    });
    assert_wiped("ExchangeSecret", &seed, |seed| {
        let key = ExchangeSecret::from_seed(seed);
        let peer = *ExchangeSecret::from_seed(&[9; 32]).public();
        let mac = key.mac_key(&peer, &[1; 32], &[2; 32]).unwrap();
        let _ = mac.mac(&[b"leaf"]);
        key
    });
    for cipher in Cipher::ALL {
        assert_wiped("DataKey", &seed, |seed| {
            let key = DataKey::from_random(cipher, seed);
            let nonce = NonceLanes::new(1).lane(1).unwrap().take(1).unwrap();
            let _ = key.seal_in_place(nonce, &[b"header"], &mut [0; 100]);
            key
        });
    }
    for suite in KemSuite::ALL {
        assert_wiped("KemSecret", &seed, |seed| {
            let key = KemSecret::from_seed(suite, seed);
            let data = DataKey::from_random(Cipher::Aes256Gcm, &[5; 32]);
            let wrapped = key.public().wrap(b"", &data, &[6; 64]).unwrap();
            assert!(key.unwrap(Cipher::Aes256Gcm, b"", &wrapped).unwrap() == data);
            key
        });
        assert_wiped("an unwrapped DataKey", &seed, |seed| {
            let kem = KemSecret::from_seed(suite, &[7; 32]);
            let data = DataKey::from_random(Cipher::Aes256Gcm, seed);
            let wrapped = kem.public().wrap(b"", &data, &[6; 64]).unwrap();
            drop(data);
            kem.unwrap(Cipher::Aes256Gcm, b"", &wrapped).unwrap()
        });
    }
}
