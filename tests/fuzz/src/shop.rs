//! The trust domain of the test vectors, with its secrets.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bulla_envelope::{Credential, KeyReference, OpeningKey, TrustBundle, VerifiedCredential};
use bulla_identity::{Nkey, NkeyKind, TrustDomain, UnixMillis, Verified, WorkloadId, WorkloadName};
use bulla_keyring::{
    Anchors, CertificateAuthorities, KemSecret, KemSuite, NkeySeed, SigningKey, sha256,
};
use data_encoding::HEXLOWER;
use serde_json::Value;

use super::envelopes;

pub static SHOP: LazyLock<Shop> = LazyLock::new(Shop::open);

/// Makes it before memory is measured.
pub fn prepare() {
    LazyLock::force(&SHOP);
}

pub struct Shop {
    vectors: Value,
    /// SHA-256 of all that the test vectors hold.
    genuine: HashSet<[u8; 32]>,
    pub now: UnixMillis,
    pub skew: Duration,
    pub domain: TrustDomain,
    pub bundle: Verified<TrustBundle>,
    pub root: SigningKey,
    pub issuing: SigningKey,
    pub policy: SigningKey,
    pub message_key: SigningKey,
    pub token_key: SigningKey,
    pub nkey: NkeySeed,
    nkeys: Vec<Nkey>,
    authorities: Vec<Arc<CertificateAuthorities>>,
    pub credential: VerifiedCredential,
    /// The workload to which some of the test vectors are encrypted.
    pub reader: WorkloadId,
    /// Its keys.
    pub secrets: Vec<KemSecret>,
}

impl Shop {
    fn open() -> Self {
        let vectors: Value =
            serde_json::from_str(include_str!("../../../sdk/envelope/testdata/vectors.json"))
                .expect("JSON");
        let defaults = &vectors["defaults"];
        let millis = |name: &str| defaults[name].as_u64().expect("a number");
        let now = UnixMillis::from_millis(millis("now"));
        let skew = Duration::from_millis(millis("skew"));
        let domain = TrustDomain::parse(defaults["trust_domain"].as_str().expect("text"))
            .expect("a trust domain");
        let key = |name: &str| SigningKey::from_seed(&seed(&vectors, name));
        let root = key("root");
        let bundle = octets(&vectors["bundle"]);
        let bundle = TrustBundle::open(&bundle, &[*root.verifying_key()], &domain, now, skew)
            .expect("a bundle");
        let nkey =
            NkeySeed::from_random(NkeyKind::User, &seed(&vectors, "orders nkey")).expect("a seed");
        let nkeys = vec![nkey.public()];
        let mesh = vectors["authorities"]["mesh"].as_str().expect("text");
        let mesh = CertificateAuthorities::from_pem(mesh).expect("an authority");
        let credential = Credential::decode(&octets(&vectors["credentials"]["orders"]["bytes"]))
            .expect("a credential")
            .verify(&bundle, &nkeys, now, skew)
            .expect("a good one");
        let genuine = seeds(&vectors, |_| true)
            .map(|(_, bytes)| sha256(&[&envelopes::signed_part(&bytes)]))
            .collect();
        let reader = WorkloadName::parse("billing").expect("a name");
        let reader = WorkloadId::new(&domain, &reader);
        let reader_nkey =
            NkeySeed::from_random(NkeyKind::User, &seed(&vectors, "billing nkey")).expect("a seed");
        let secrets = KemSuite::ALL
            .map(|suite| reader_nkey.kem_secret(suite, 1, &reader))
            .into();
        Self {
            reader,
            secrets,
            genuine,
            now,
            skew,
            bundle,
            issuing: key("issuing"),
            policy: key("policy"),
            message_key: key("orders message key"),
            token_key: key("gateway token key"),
            root,
            domain,
            nkey,
            nkeys,
            authorities: vec![Arc::new(mesh)],
            credential,
            vectors,
        }
    }

    /// The workload's nkeys.
    pub fn nkeys(&self) -> &[Nkey] {
        &self.nkeys
    }

    /// What vouches for the workload: its nkey, or a certificate.
    pub fn anchors(&self) -> Anchors<'_> {
        Anchors {
            nkeys: &self.nkeys,
            authorities: &self.authorities,
            brokers: false,
        }
    }

    /// The bytes of all test vectors of these kinds, with their names.
    pub fn seeds(&self, kinds: &[&str]) -> impl Iterator<Item = (&str, Vec<u8>)> {
        seeds(&self.vectors, move |what| kinds.contains(&what))
    }

    /// A sealer takes its key away.
    pub fn message_key_again(&self) -> SigningKey {
        SigningKey::from_seed(&seed(&self.vectors, "orders message key"))
    }

    /// The data key in these wraps, if it is wrapped to the reader.
    pub fn unwrap(&self, reference: KeyReference, wraps: &[u8]) -> Option<OpeningKey> {
        OpeningKey::unwrap(reference, wraps, &self.domain, &self.reader, |id| {
            self.secrets.iter().find(|key| key.public().id() == id)
        })
        .ok()
    }

    /// Whether these are the bytes of a test vector: nothing else was ever
    /// signed by the keys that are not fuzzed with. What an envelope shows of
    /// others is under their signatures (ENV-82).
    pub fn is_genuine(&self, bytes: &[u8]) -> bool {
        let signed = envelopes::signed_part(bytes);
        self.genuine.contains(&sha256(&[&signed]))
    }
}

fn seeds(
    vectors: &Value,
    is_wanted: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (&str, Vec<u8>)> {
    let all = vectors["vectors"].as_array().expect("a list");
    all.iter()
        .filter(move |vector| is_wanted(vector["what"].as_str().unwrap_or_default()))
        .filter(|vector| !vector["bytes"].is_null())
        .map(|vector| {
            let name = vector["name"].as_str().expect("text");
            (name, octets(&vector["bytes"]))
        })
        .filter(|(_, bytes)| bytes.len() <= MAX_SEED)
}

/// One vector is longer than any envelope; that is no seed.
const MAX_SEED: usize = 128 * 1024;

fn seed(vectors: &Value, name: &str) -> [u8; 32] {
    octets(&vectors["keys"][name]["seed"])
        .try_into()
        .expect("32 bytes")
}

/// Hexadecimal digits, or pieces of them and runs of one byte.
fn octets(value: &Value) -> Vec<u8> {
    let hex = |value: &Value| {
        let text = value.as_str().expect("text");
        HEXLOWER
            .decode(text.as_bytes())
            .expect("hexadecimal digits")
    };
    let Some(pieces) = value.as_array() else {
        return hex(value);
    };
    pieces
        .iter()
        .flat_map(|piece| match piece["times"].as_u64() {
            Some(times) => hex(&piece["repeat"]).repeat(usize::try_from(times).expect("fits")),
            None => hex(piece),
        })
        .collect()
}
