//! ENV-4 and ENV-71 to ENV-74: wrapped data keys, in envelopes that are otherwise sound.

use bulla_keyring::{Cipher, DataKey, KemSuite};

use super::file::{Vector, With};
use super::people::*;
use super::raw::{Raw, array_head, bin, string, uint};
use super::secrets::*;

const NAME: &str = "wraps";

type Entry = (Vec<u8>, Vec<u8>);

fn refuse(name: &str, rules: &[&str], about: &str, wraps: &[u8], why: &str) -> Vector {
    let raw = envelope(wraps);
    Vector::refuse(
        name,
        "envelope",
        rules,
        about,
        &raw.bytes(),
        &format!("open/{why}"),
    )
    .with(read_by_billing)
}

fn read_by_billing(with: &mut With) {
    with.reader = Some("billing".to_owned());
}

/// The envelope with other wraps, encrypted and signed again.
fn envelope(wraps: &[u8]) -> Raw {
    let mut raw = encrypted_event(X25519, NAME);
    raw.set(25, bin(wraps));
    raw.encrypted(
        &data_key(NAME),
        &plaintext(Some(b"header.claims.signature"), b"the body"),
    )
}

/// The genuine entries, ascending.
fn entries() -> Vec<Entry> {
    let key = sealing_key(X25519, &READERS, NAME);
    let mut entries: Vec<Entry> = READERS
        .iter()
        .enumerate()
        .map(|(n, reader)| {
            let public = kem(reader, KemSuite::X25519).public().clone();
            let info = Info::of(&key, reader, public.id()).bytes();
            let key = DataKey::from_random(Cipher::ChaCha20Poly1305, &data_key(NAME));
            let random = filler(&format!("entry {n}"));
            (
                public.id().0.to_vec(),
                public.wrap(&info, &key, &random).unwrap(),
            )
        })
        .collect();
    entries.sort();
    entries
}

fn expiry() -> Vec<u8> {
    uint(at(KEY_LIFE).as_millis())
}

/// The entries, of which billing's is wrapped anew.
fn with_billing(wrapped: impl FnOnce(Info) -> Vec<u8>) -> Vec<u8> {
    let key = sealing_key(X25519, &READERS, NAME);
    let id = kem("billing", KemSuite::X25519).public().id();
    let mut entries = entries();
    let own = entries
        .iter_mut()
        .find(|(entry, _)| *entry == id.0)
        .unwrap();
    own.1 = wrapped(Info::of(&key, "billing", id));
    wraps(expiry(), &entries)
}

fn wrap(info: &[u8], key: &[u8; 32]) -> Vec<u8> {
    kem("billing", KemSuite::X25519)
        .public()
        .wrap(
            info,
            &DataKey::from_random(Cipher::ChaCha20Poly1305, key),
            &filler("wrapped anew"),
        )
        .unwrap()
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(encodings());
    out.extend(sets());
    out.extend(bindings());
    out.extend(many());
    out
}

fn encodings() -> Vec<Vector> {
    let mut out = Vec::new();
    let genuine = wraps(expiry(), &entries());
    out.push(
        Vector::accept(
            "wraps",
            "envelope",
            &["73", "74"],
            "wrapped by hand",
            &envelope(&genuine).bytes(),
        )
        .with(read_by_billing),
    );
    let all = entries();
    let long = [(all[0].0.clone(), vec![0; 1169]), all[1].clone()];
    for (name, about, bytes) in [
        ("wraps-empty", "no bytes", Vec::new()),
        (
            "wraps-and-a-byte",
            "a byte after them",
            [&genuine[..], &[0]].concat(),
        ),
        (
            "wraps-cut-short",
            "a byte less",
            genuine[..genuine.len() - 1].to_vec(),
        ),
        (
            "wraps-wide-array",
            "not in its shortest encoding",
            [&[0xdc, 0, 2][..], &genuine[1..]].concat(),
        ),
        (
            "wraps-of-three",
            "a third element",
            [&[0x93][..], &genuine[1..], &[0xc0]].concat(),
        ),
        (
            "wraps-expiry-nil",
            "no expiry",
            wraps(vec![0xc0], &entries()),
        ),
        ("wraps-entry-of-three", "an entry of three", {
            let mut bytes = [&[0x92][..], &expiry(), &[0x91, 0x93]].concat();
            bytes.extend(bin(&all[0].0));
            bytes.extend(bin(&all[0].1));
            bytes.push(0xc0);
            bytes
        }),
        (
            "wraps-id-of-15",
            "a short id",
            wraps(expiry(), &[(vec![1; 15], all[0].1.clone())]),
        ),
        ("wraps-id-as-text", "an id that is text", {
            let mut bytes = [&[0x92][..], &expiry(), &[0x91, 0x92]].concat();
            bytes.extend(string("0123456789abcdef"));
            bytes.extend(bin(&all[0].1));
            bytes
        }),
        (
            "wraps-of-1169-bytes",
            "longer than any wrap",
            wraps(expiry(), &long),
        ),
        (
            "wraps-of-65535-recipients",
            "more recipients than may be",
            { [&[0x92][..], &expiry(), &array_head(65_535), &[0; 100]].concat() },
        ),
    ] {
        out.push(refuse(name, &["73"], about, &bytes, "wraps_malformed"));
    }
    let twice = [all[0].clone(), all[0].clone(), all[1].clone()];
    let reversed = [all[1].clone(), all[0].clone()];
    for (name, about, entries) in [
        ("wraps-none", "at least one", &[][..]),
        ("wraps-out-of-order", "ids ascend", &reversed),
        ("wraps-twice", "ids ascend strictly", &twice),
    ] {
        out.push(refuse(
            name,
            &["73"],
            about,
            &wraps(expiry(), entries),
            "wraps_order",
        ));
    }
    out
}

/// ENV-72, ENV-73.
fn sets() -> Vec<Vector> {
    let all = entries();
    let mut out = Vec::new();
    let id = kem("billing", KemSuite::X25519).public().id().0;
    let only: Vec<Entry> = all
        .iter()
        .filter(|(entry, _)| *entry == id)
        .cloned()
        .collect();
    out.push(refuse(
        "wraps-for-fewer",
        &["73"],
        "a recipient of the set is left out",
        &wraps(expiry(), &only),
        "recipient_set_mismatch",
    ));
    let mut more = all.clone();
    more.push((
        kem("mail", KemSuite::X25519).public().id().0.to_vec(),
        all[0].1.clone(),
    ));
    more.sort();
    out.push(refuse(
        "wraps-for-more",
        &["73"],
        "a recipient is added to the set",
        &wraps(expiry(), &more),
        "recipient_set_mismatch",
    ));
    let mut raw = encrypted_event(X25519, NAME);
    raw.set(
        22,
        bin(&set_of(&[kem("billing", KemSuite::X25519).public().id()]).0),
    );
    let raw = raw.encrypted(
        &data_key(NAME),
        &plaintext(Some(b"header.claims.signature"), b"the body"),
    );
    out.push(
        Vector::refuse(
            "recipient-set-of-fewer",
            "envelope",
            &["73"],
            "the envelope names fewer recipients than there are wraps",
            &raw.bytes(),
            "open/recipient_set_mismatch",
        )
        .with(read_by_billing),
    );
    out
}

/// ENV-71, ENV-74: a wrap opens for what it was made for.
fn bindings() -> Vec<Vector> {
    let mut out = Vec::new();
    let opens = |name: &str, about: &str, wraps: &[u8]| {
        refuse(name, &["74"], about, wraps, "wrap_does_not_open")
    };
    let others = [
        ("suite", uint(1)),
        ("trust-domain", string("evil.example")),
        ("sender", string(gateway().workload.as_str())),
        ("epoch", bin(&filler::<8>("another epoch"))),
        ("recipient", string(gateway().workload.as_str())),
        (
            "kem-key-id",
            bin(&kem("gateway", KemSuite::X25519).public().id().0),
        ),
        ("data-key-id", bin(&filler::<32>("another data key"))),
        ("recipient-set", bin(&filler::<32>("another set"))),
        ("expiry", uint(at(KEY_LIFE + 1).as_millis())),
    ];
    for (n, (name, value)) in others.into_iter().enumerate() {
        let wraps = with_billing(|mut info| {
            info.elements[n] = value;
            wrap(&info.bytes(), &data_key(NAME))
        });
        out.push(opens(
            &format!("wrapped-for-another-{name}"),
            "one element of the wrap's info is another",
            &wraps,
        ));
    }
    out.push(opens(
        "wrapped-without-info",
        "no info at all",
        &with_billing(|_| wrap(b"", &data_key(NAME))),
    ));
    out.push(opens(
        "wrapped-without-tag",
        "info without its tag",
        &with_billing(|info| {
            let bytes = info.bytes();
            let tag = bulla_keyring::Tag::Wrap.as_bytes().len();
            wrap(&bytes[tag..], &data_key(NAME))
        }),
    ));
    for (name, len) in [("79", 79), ("81", 81)] {
        let wraps = with_billing(|info| {
            let mut wrapped = wrap(&info.bytes(), &data_key(NAME));
            wrapped.resize(len, 0);
            wrapped
        });
        out.push(opens(
            &format!("wrap-of-{name}-bytes"),
            "enc and ct have 80 bytes together",
            &wraps,
        ));
    }
    for (name, at) in [("enc", 0), ("ct", 40), ("tag", 79)] {
        let wraps = with_billing(|info| {
            let mut wrapped = wrap(&info.bytes(), &data_key(NAME));
            wrapped[at] ^= 1;
            wrapped
        });
        out.push(opens(
            &format!("wrap-{name}-flipped"),
            "one bit of the wrap",
            &wraps,
        ));
    }
    let wraps_of_neutral = with_billing(|info| {
        let mut wrapped = wrap(&info.bytes(), &data_key(NAME));
        wrapped[..32].fill(0);
        wrapped
    });
    out.push(opens(
        "wrap-enc-of-small-order",
        "an encapsulated key of small order",
        &wraps_of_neutral,
    ));
    out.push(refuse(
        "another-key-under-the-id",
        &["71"],
        "a wrap of another key: two recipients would read two texts under one id",
        &with_billing(|info| wrap(&info.bytes(), &filler("another key"))),
        "data_key_mismatch",
    ));
    let mut raw = encrypted_event(X25519, NAME);
    raw.set(23, bin(&data_key_id(&data_key(NAME), &gateway()).0));
    let raw = raw.encrypted(
        &data_key(NAME),
        &plaintext(Some(b"header.claims.signature"), b"the body"),
    );
    out.push(
        Vector::refuse(
            "data-key-id-of-another-sender",
            "envelope",
            &["71"],
            "the id that the key would have with another sender",
            &raw.bytes(),
            "open/wrap_does_not_open",
        )
        .with(read_by_billing),
    );
    out
}

/// ENV-4, ENV-76.
fn many() -> Vec<Vector> {
    let mut out = Vec::new();
    for (count, verdict) in [(4, true), (5, false)] {
        let names = ["billing", "gateway", "mail", "stock", "audit"];
        let key = sealing_key(X25519, &names[..count], "many");
        let to = subject(SUBJECT);
        let mut draft = event(&to, b"the body");
        draft.encryption = Some(encryption(&key));
        let name = format!("wraps-of-{count}-inline");
        if verdict {
            let bytes = sealed(&draft, "many").bytes();
            let about = "as many wraps as ride along";
            out.push(
                Vector::accept(&name, "envelope", &["4", "76"], about, &bytes)
                    .with(read_by_billing),
            );
        }
    }
    out
}
