use super::*;
use crate::montgomery::SMALL_ORDER_U;
use bulla_identity::{NkeyKind, WorkloadId};

use crate::NkeySeed;

fn data_key() -> DataKey {
    DataKey::from_random(Cipher::Aes256Gcm, &[7; 32])
}

fn random(n: u8) -> [u8; 64] {
    std::array::from_fn(|i| (i as u8).wrapping_mul(17) ^ n)
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn a_wrap_opens_for_its_key_and_context_only() {
    for suite in KemSuite::ALL {
        let secret = KemSecret::from_seed(suite, &[1; 32]);
        let other = KemSecret::from_seed(suite, &[2; 32]);
        let wrapped = secret
            .public()
            .wrap(b"info", &data_key(), &random(1))
            .unwrap();
        assert_eq!(wrapped.len(), suite.wrap_len());
        assert!(secret.unwrap(Cipher::Aes256Gcm, b"info", &wrapped).unwrap() == data_key());
        assert_eq!(
            secret.unwrap(Cipher::Aes256Gcm, b"infa", &wrapped).err(),
            Some(WrapError::DoesNotOpen)
        );
        assert_eq!(
            other.unwrap(Cipher::Aes256Gcm, b"info", &wrapped).err(),
            Some(WrapError::DoesNotOpen)
        );
    }
}

#[test]
fn every_flipped_bit_and_length_fails() {
    for suite in KemSuite::ALL {
        let secret = KemSecret::from_seed(suite, &[1; 32]);
        let wrapped = secret
            .public()
            .wrap(b"info", &data_key(), &random(1))
            .unwrap();
        // Every bit of what is short, every 61st of X-Wing's 9344.
        let step = if suite == KemSuite::XWing { 61 } else { 1 };
        for bit in (0..wrapped.len() * 8).step_by(step) {
            let mut flipped = wrapped.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = secret.unwrap(Cipher::Aes256Gcm, b"info", &flipped).err();
            assert!(
                matches!(
                    error,
                    Some(WrapError::DoesNotOpen | WrapError::UnsoundEncapsulation)
                ),
                "bit {bit}"
            );
        }
        for len in [0, 1, 16, 47, 48, wrapped.len() - 1, wrapped.len() + 1] {
            let mut cut = wrapped.clone();
            cut.resize(len, 0);
            assert_eq!(
                secret.unwrap(Cipher::Aes256Gcm, b"info", &cut).err(),
                Some(WrapError::Length {
                    expected: suite.wrap_len(),
                    actual: len
                })
            );
        }
    }
}

#[test]
fn a_wrap_of_one_suite_is_none_of_the_other() {
    let xwing = KemSecret::from_seed(KemSuite::XWing, &[1; 32]);
    let x25519 = KemSecret::from_seed(KemSuite::X25519, &[1; 32]);
    let wrapped = x25519.public().wrap(b"", &data_key(), &random(1)).unwrap();
    assert!(matches!(
        xwing.unwrap(Cipher::Aes256Gcm, b"", &wrapped).err(),
        Some(WrapError::Length { .. })
    ));
    assert_ne!(xwing.public().id(), x25519.public().id());
}

#[test]
fn all_randomness_is_the_callers() {
    for suite in KemSuite::ALL {
        let public = KemSecret::from_seed(suite, &[1; 32]).public().clone();
        let wrap = |n| public.wrap(b"", &data_key(), &random(n)).unwrap();
        assert_eq!(wrap(1), wrap(1));
        assert_ne!(wrap(1)[..suite.enc_len()], wrap(2)[..suite.enc_len()]);
    }
}

#[test]
fn too_little_randomness_wraps_nothing() {
    let x25519 = KemSecret::from_seed(KemSuite::X25519, &[1; 32]);
    let xwing = KemSecret::from_seed(KemSuite::XWing, &[1; 32]);
    let (PublicKey::X25519(x25519), PublicKey::XWing(xwing)) =
        (&x25519.public.0.key, &xwing.public.0.key)
    else {
        panic!("suites");
    };
    assert_eq!(
        seal::<X25519HkdfSha256>(x25519, b"", &[0; 32], b"", &random(1)[..31]),
        Err(WrapError::Encapsulation)
    );
    assert_eq!(
        seal::<XWing>(xwing, b"", &[0; 32], b"", &random(1)[..63]),
        Err(WrapError::Encapsulation)
    );
}

#[test]
fn long_contexts_are_refused() {
    for suite in KemSuite::ALL {
        let secret = KemSecret::from_seed(suite, &[1; 32]);
        let longest = vec![1; MAX_WRAP_INFO_LEN];
        let wrapped = secret
            .public()
            .wrap(&longest, &data_key(), &random(1))
            .unwrap();
        assert!(secret.unwrap(Cipher::Aes256Gcm, &longest, &wrapped).is_ok());
        let too_long = vec![1; MAX_WRAP_INFO_LEN + 1];
        let refused = Some(WrapError::InfoTooLong {
            limit: MAX_WRAP_INFO_LEN,
            actual: MAX_WRAP_INFO_LEN + 1,
        });
        assert_eq!(
            secret
                .public()
                .wrap(&too_long, &data_key(), &random(1))
                .err(),
            refused
        );
        assert_eq!(
            secret.unwrap(Cipher::Aes256Gcm, &too_long, &wrapped).err(),
            refused
        );
    }
}

#[test]
fn public_keys_are_checked() {
    for suite in KemSuite::ALL {
        let good = KemSecret::from_seed(suite, &[1; 32]).public().clone();
        let bytes = good.as_bytes().to_vec();
        assert_eq!(bytes.len(), suite.public_len());
        assert_eq!(KemPublic::from_bytes(suite, &bytes), Ok(good));
        for len in [0, bytes.len() - 1, bytes.len() + 1] {
            let mut cut = bytes.clone();
            cut.resize(len, 0);
            assert_eq!(
                KemPublic::from_bytes(suite, &cut),
                Err(KemKeyError::Length {
                    suite,
                    expected: suite.public_len(),
                    actual: len
                })
            );
        }
        let at = bytes.len() - 32;
        for u in SMALL_ORDER_U {
            let mut weak = bytes.clone();
            weak[at..].copy_from_slice(&u);
            assert_eq!(
                KemPublic::from_bytes(suite, &weak),
                Err(KemKeyError::SmallOrder)
            );
        }
        let mut high = bytes.clone();
        *high.last_mut().unwrap() |= 0x80;
        assert_eq!(
            KemPublic::from_bytes(suite, &high),
            Err(KemKeyError::NotCanonical)
        );
    }
}

/// FIPS 203 §7.2: each 12-bit coefficient must be below 3329.
#[test]
fn coefficients_above_the_modulus_are_refused() {
    let good = KemSecret::from_seed(KemSuite::XWing, &[1; 32]);
    for at in [0, 3, 600, 1149] {
        let mut bytes = good.public().as_bytes().to_vec();
        bytes[at..at + 3].copy_from_slice(&[0xff, 0xff, 0xff]);
        assert_eq!(
            KemPublic::from_bytes(KemSuite::XWing, &bytes),
            Err(KemKeyError::MlKem),
            "byte {at}"
        );
    }
}

#[test]
fn an_encapsulation_of_small_order_is_refused() {
    for suite in KemSuite::ALL {
        let secret = KemSecret::from_seed(suite, &[1; 32]);
        let wrapped = secret.public().wrap(b"", &data_key(), &random(1)).unwrap();
        let at = suite.enc_len() - 32;
        for u in SMALL_ORDER_U {
            let mut weak = wrapped.clone();
            weak[at..at + 32].copy_from_slice(&u);
            assert_eq!(
                secret.unwrap(Cipher::Aes256Gcm, b"", &weak).err(),
                Some(WrapError::UnsoundEncapsulation)
            );
        }
    }
}

#[test]
fn the_id_is_a_hash_of_suite_and_key() {
    for suite in KemSuite::ALL {
        let secret = KemSecret::from_seed(suite, &[1; 32]);
        let mut whole = b"\xffbulla/v1/kem-key\0".to_vec();
        whole.push(suite.code());
        whole.extend(secret.public().as_bytes());
        let hash = sha256(&[&whole]);
        assert_eq!(secret.public().id().as_bytes()[..], hash[..16]);
        assert_eq!(KemSuite::from_code(suite.code()), Some(suite));
    }
    assert_eq!(KemSuite::from_code(0), None);
    assert_eq!(KemSuite::from_code(3), None);
    assert!(KemSuite::XWing > KemSuite::X25519);
}

#[test]
fn a_workloads_key_depends_on_everything_it_is_derived_from() {
    let workload = |name: &str| WorkloadId::parse(&format!("spiffe://acme/{name}")).unwrap();
    let seed = |n| NkeySeed::from_random(NkeyKind::User, &[n; 32]).unwrap();
    let id = |n, suite, version, name| {
        let secret = seed(n).kem_secret(suite, version, &workload(name));
        secret.public().id()
    };
    for suite in KemSuite::ALL {
        let first = id(1, suite, 1, "a");
        assert_eq!(first, id(1, suite, 1, "a"), "replicas have the same");
        assert_ne!(first, id(2, suite, 1, "a"));
        assert_ne!(first, id(1, suite, 2, "a"));
        assert_ne!(first, id(1, suite, 1, "b"));
    }
    // The two suites' private keys differ too: one is not a part of the other.
    let xwing = seed(1).kem_secret(KemSuite::XWing, 1, &workload("a"));
    let x25519 = seed(1).kem_secret(KemSuite::X25519, 1, &workload("a"));
    let part = &xwing.public().as_bytes()[1184..];
    assert_ne!(part, x25519.public().as_bytes());
}

/// The vectors of RFC 9180 and of the post-quantum HPKE draft for our two
/// suites: private keys as we import them, then through the way that
/// [`KemSecret::unwrap`] takes, which only adds the length of a data key.
#[test]
fn hpke_vectors() {
    let Some(folder) = std::env::var_os("BULLA_VECTORS") else {
        println!("BULLA_VECTORS is not set: the external HPKE vectors were not run");
        return;
    };
    let read = |name: &str| -> serde_json::Value {
        let path = std::path::Path::new(&folder).join("rfc").join(name);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let rfc = read("hpke_x25519_full.json");
    let post_quantum = read("hpke_pq_vectors.json");
    let cases = rfc["cases"].as_array().unwrap().iter();
    let mut seen = [0; 2];
    for case in cases.chain(post_quantum.as_array().unwrap()) {
        let number = |name: &str| case[name].as_u64().unwrap();
        let suite = match number("kem_id") {
            0x0020 => KemSuite::X25519,
            0x647a => KemSuite::XWing,
            _ => continue,
        };
        if number("mode") != 0 || number("aead_id") != 3 {
            continue;
        }
        let bytes = |name: &str| hex(case[name].as_str().unwrap());
        let seed: [u8; 32] = bytes("skRm").try_into().unwrap();
        let secret = KemSecret::from_seed(suite, &seed);
        assert_eq!(secret.public().as_bytes(), bytes("pkRm"));
        if number("kdf_id") != 1 {
            continue;
        }
        let (enc, info) = (bytes("enc"), bytes("info"));
        // The single shot is the first message of a context.
        let first = &case["encryptions"][0];
        let part = |name: &str| hex(first[name].as_str().unwrap());
        let (text, aad) = (part("ct"), part("aad"));
        let mut plain = vec![0; text.len() - 16];
        match &secret.key {
            SecretKey::X25519(key) => {
                open_into::<X25519HkdfSha256>(key, &enc, &info, &text, &aad, &mut plain)
            }
            SecretKey::XWing(key) => open_into::<XWing>(key, &enc, &info, &text, &aad, &mut plain),
        }
        .unwrap();
        assert_eq!(plain, part("pt"));
        // With its randomness we make the same bytes.
        let random = bytes("ikmE");
        let wrapped = match &secret.public.0.key {
            PublicKey::X25519(to) => seal::<X25519HkdfSha256>(to, &info, &plain, &aad, &random),
            PublicKey::XWing(to) => seal::<XWing>(to, &info, &plain, &aad, &random),
        };
        assert_eq!(wrapped, Ok([enc, text].concat()));
        seen[usize::from(suite.code()) - 1] += 1;
    }
    assert!(seen.iter().all(|seen| *seen > 0), "{seen:?} of each suite");
}
