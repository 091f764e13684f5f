//! KEM keys, exchange keys and data keys of the small trust domain.

use std::collections::BTreeMap;

use bulla_envelope::{
    DataKeyDraft, Draft, Encryption, ProcessKeys, Recipient, RecipientSet, SealingKey,
};
use bulla_identity::WorkloadId;
use bulla_keyring::{
    Cipher, CipherSuite, DataKey, DataKeyId, ExchangeSecret, KemKeyId, KemSecret, KemSuite, MacKey,
    NonceLanes, Tag,
};

use super::file::{KemKey, Key, hex};
use super::people::*;
use super::raw::{Raw, array, bin, string, uint};

pub const KEMS: [KemSuite; 2] = [KemSuite::XWing, KemSuite::X25519];
/// What most vectors are encrypted with.
pub const X25519: CipherSuite = CipherSuite::new(KemSuite::X25519, Cipher::ChaCha20Poly1305);
/// The workloads that most data keys are wrapped to.
pub const READERS: [&str; 2] = ["billing", "gateway"];
/// When data keys expire.
pub const KEY_LIFE: i64 = 600_000;
const PROCESS: u32 = 1;

/// A workload's key, derived from its nkey.
pub fn kem(name: &str, suite: KemSuite) -> KemSecret {
    nkey(&format!("{name} nkey")).kem_secret(suite, 1, &workload(name))
}

pub fn process_kem(name: &str, suite: KemSuite) -> KemSecret {
    KemSecret::from_seed(suite, &process_seed(name, suite))
}

fn process_seed(name: &str, suite: KemSuite) -> [u8; 32] {
    seed(&format!("{name} process {suite}"))
}

pub fn exchange(name: &str) -> ExchangeSecret {
    ExchangeSecret::from_seed(&seed(&format!("{name} exchange key")))
}

pub fn process_keys(name: &str) -> ProcessKeys {
    ProcessKeys {
        xwing: process_kem(name, KemSuite::XWing).public().clone(),
        x25519: process_kem(name, KemSuite::X25519).public().clone(),
        exchange: *exchange(name).public(),
    }
}

/// The key of codes by which `billing` answers `orders`.
pub fn code_key() -> MacKey {
    exchange("billing")
        .mac_key(
            exchange("orders").public(),
            keyed(billing()).credential().hash(),
            keyed(orders()).credential().hash(),
        )
        .unwrap()
}

pub fn exchange_keys() -> BTreeMap<String, Key> {
    ["orders", "billing"]
        .map(|name| {
            let key = Key {
                seed: hex(&seed(&format!("{name} exchange key"))),
                public: hex(exchange(name).public().as_bytes()),
                nkey: None,
            };
            (format!("{name} with process keys"), key)
        })
        .into()
}

pub fn kem_keys() -> Vec<KemKey> {
    let mut keys = Vec::new();
    for suite in KEMS {
        for name in ["billing", "gateway", "mail"] {
            keys.push(KemKey {
                reader: name.to_owned(),
                workload: workload(name).as_str().to_owned(),
                suite: suite.to_string(),
                version: Some(1),
                nkey: Some(format!("{name} nkey")),
                secret: hex(&derived(name, suite)),
                public: hex(kem(name, suite).public().as_bytes()),
                id: hex(&kem(name, suite).public().id().0),
            });
        }
        let public = process_kem("orders", suite).public().clone();
        keys.push(KemKey {
            reader: "orders process".to_owned(),
            workload: workload("orders").as_str().to_owned(),
            suite: suite.to_string(),
            version: None,
            nkey: None,
            secret: hex(&process_seed("orders", suite)),
            public: hex(public.as_bytes()),
            id: hex(&public.id().0),
        });
    }
    keys
}

/// The secret of a workload's key, by the formula of ENV-77.
fn derived(name: &str, suite: KemSuite) -> [u8; 32] {
    let hmac = |key: &[u8], parts: &[&[u8]]| {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        let pad = |byte: u8| block.map(|b| b ^ byte);
        let inside = pad(0x36);
        let inner = [&[&inside[..]], parts].concat();
        bulla_keyring::sha256(&[&pad(0x5c), &bulla_keyring::sha256(&inner)])
    };
    let extracted = hmac(
        Tag::WorkloadKem.as_bytes(),
        &[&seed(&format!("{name} nkey"))],
    );
    let secret = hmac(
        &extracted,
        &[
            &[suite.code()],
            &1u64.to_be_bytes(),
            workload(name).as_str().as_bytes(),
            &[1],
        ],
    );
    let again = KemSecret::from_seed(suite, &secret);
    assert_eq!(again.public(), kem(name, suite).public());
    secret
}

/// A data key of `orders`; its bytes are [`data_key`]'s.
pub fn sealing_key(suite: CipherSuite, readers: &[&str], name: &str) -> SealingKey {
    sealing_key_until(suite, readers, name, KEY_LIFE)
}

pub fn sealing_key_until(suite: CipherSuite, readers: &[&str], name: &str, end: i64) -> SealingKey {
    let keys: Vec<(WorkloadId, KemSecret)> = readers
        .iter()
        .map(|reader| (workload(reader), kem(reader, suite.kem)))
        .collect();
    wrapped_for(&orders(), suite, &keys, name, end)
}

pub fn wrapped_for(
    sender: &Process,
    suite: CipherSuite,
    readers: &[(WorkloadId, KemSecret)],
    name: &str,
    end: i64,
) -> SealingKey {
    let recipients: Vec<Recipient<'_>> = readers
        .iter()
        .map(|(workload, secret)| Recipient {
            workload,
            key: secret.public(),
        })
        .collect();
    let draft = DataKeyDraft {
        suite,
        trust_domain: &domain(),
        sender: &sender.workload,
        epoch: epoch(),
        expires_at: at(end),
        max_uses: 1 << 20,
        process: PROCESS,
    };
    let mut wraps = 0;
    SealingKey::new(&draft, &recipients, &data_key(name), || {
        wraps += 1;
        filler(&format!("wrap {wraps} of {name}"))
    })
    .unwrap()
}

pub fn data_key(name: &str) -> [u8; 32] {
    filler(&format!("data key {name}"))
}

pub fn encryption(key: &SealingKey) -> Encryption<'_> {
    Encryption {
        key,
        inline_wraps: true,
        open_token: false,
        process: PROCESS,
    }
}

/// An encrypted event of `orders` with a token, read by [`READERS`].
pub fn encrypted_event(suite: CipherSuite, name: &str) -> Raw {
    let to = subject(SUBJECT);
    let key = sealing_key(suite, &READERS, name);
    let mut draft = event(&to, b"the body");
    draft.token = Some(b"header.claims.signature");
    draft.encryption = Some(encryption(&key));
    sealed(&draft, name)
}

pub fn sealed(draft: &Draft<'_>, name: &str) -> Raw {
    Raw::of(&orders().sealer().seal(draft, id(name)).unwrap().bytes)
}

/// The plaintext of ENV-16.
pub fn plaintext(token: Option<&[u8]>, content: &[u8]) -> Vec<u8> {
    array(&[token.map_or(vec![0xc0], bin), bin(content)])
}

impl Raw {
    /// Encrypts again, for the header as it now is, and signs as `orders`.
    pub fn encrypted(self, key: &[u8; 32], plaintext: &[u8]) -> Self {
        let aad = self.additional_data();
        self.encrypted_with(key, &aad, plaintext)
    }

    pub fn encrypted_with(mut self, key: &[u8; 32], aad: &[u8], plaintext: &[u8]) -> Self {
        // The first nonce of the first lane is all zeroes.
        assert_eq!(self.value(24), bin(&[0; 12]));
        let nonce = NonceLanes::new(PROCESS)
            .lane(PROCESS)
            .unwrap()
            .take(PROCESS)
            .unwrap();
        let mut body = plaintext.to_vec();
        let tag = DataKey::from_random(Cipher::ChaCha20Poly1305, key).seal_in_place(
            nonce,
            &[aad],
            &mut body,
        );
        body.extend_from_slice(&tag);
        self.body = body;
        self.signed(&orders())
    }

    /// The envelope's bytes up to the end of the header.
    pub fn additional_data(&self) -> Vec<u8> {
        [&self.head[..], &self.version, &bin(&self.header_bytes())].concat()
    }
}

/// What a wrap is bound to, each element of which can be another.
#[derive(Clone)]
pub struct Info {
    pub elements: Vec<Vec<u8>>,
}

impl Info {
    pub fn of(key: &SealingKey, reader: &str, kem: KemKeyId) -> Self {
        Self {
            elements: vec![
                uint(u64::from(key.suite().code())),
                string(DOMAIN),
                string(orders().workload.as_str()),
                bin(epoch().as_bytes()),
                string(workload(reader).as_str()),
                bin(&kem.0),
                bin(&key.id().0),
                bin(&key.recipients().0),
                uint(key.expires_at().as_millis()),
            ],
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        [Tag::Wrap.as_bytes(), &array(&self.elements)].concat()
    }
}

/// WRAPS of any entries.
pub fn wraps(expires_at: Vec<u8>, entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<Vec<u8>> = entries
        .iter()
        .map(|(id, wrapped)| array(&[bin(id), bin(wrapped)]))
        .collect();
    array(&[expires_at, array(&entries)])
}

pub fn set_of(ids: &[KemKeyId]) -> RecipientSet {
    RecipientSet::of(ids.iter().copied())
}

pub fn data_key_id(key: &[u8; 32], sender: &Process) -> DataKeyId {
    DataKey::from_random(Cipher::ChaCha20Poly1305, key).id(&sender.workload, epoch().as_bytes())
}
