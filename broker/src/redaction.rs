//! What is printed of a broker's secrets holds none of their bytes.

use std::path::Path;

use bulla_identity::NkeyKind;
use bulla_keyring::{AuthorityRole, AuthoritySeed, CurveSeed, NkeySeed, sha256};

use crate::callout::Callout;
use crate::spellings::assert_unprinted;
use crate::trust_dir::Signer;
use crate::{BrokerKeys, BusUser, IssuingKeys};

fn random(n: u8) -> [u8; 32] {
    sha256(&[&[n]])
}

fn nkey(kind: NkeyKind, n: u8) -> NkeySeed {
    NkeySeed::from_random(kind, &random(n)).unwrap()
}

fn write(path: &Path, role: AuthorityRole, n: u8) -> AuthoritySeed {
    let seed = AuthoritySeed::from_random(role, &random(n));
    bulla_process::secret_file::create(path, seed.to_secret_text().as_bytes()).unwrap();
    seed
}

#[test]
fn the_keys_of_a_broker_are_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuing.key");
    let issuing = write(&path, AuthorityRole::Issuing, 6).to_secret_text();
    let keys = BrokerKeys {
        issuer: nkey(NkeyKind::Account, 1),
        xkey: CurveSeed::from_random(&random(2)),
        auth: BusUser::of(nkey(NkeyKind::User, 3)),
        js: BusUser::of(nkey(NkeyKind::User, 4)),
        sys: BusUser::of(nkey(NkeyKind::User, 5)),
        issuing: IssuingKeys::read(&path).unwrap(),
    };
    let seeds: Vec<[u8; 32]> = (1..=6).map(random).collect();
    let mut secrets: Vec<&[u8]> = seeds.iter().map(<[u8; 32]>::as_slice).collect();
    let texts = [
        keys.issuer.to_seed_text(),
        keys.xkey.to_seed_text(),
        keys.js.seed().to_seed_text(),
        issuing,
    ];
    // What they begin with is their kind.
    secrets.extend(texts.iter().map(|text| &text.as_bytes()[text.len() - 40..]));
    assert_unprinted("BrokerKeys", &keys, &secrets);
    assert_unprinted("BusUser", &keys.js, &secrets);
    assert_unprinted("IssuingKeys", &keys.issuing, &secrets);
    let callout = Callout::new(keys.issuer, keys.xkey);
    assert_unprinted("Callout", &callout, &secrets);
}

#[test]
fn the_key_of_a_signer_is_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.key");
    let seed = write(&path, AuthorityRole::Root, 1);
    let signer = Signer::from_file(&path, seed.public()).unwrap();
    let text = seed.to_secret_text();
    let digits = &text.as_bytes()[text.len() - 40..];
    assert_unprinted("Signer", &signer, &[&random(1), digits]);
}
