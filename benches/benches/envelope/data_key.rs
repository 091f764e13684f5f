//! Data keys: made and wrapped to who may read, and had from their wraps.

use std::time::Instant;

use bulla_benches::{Report, Wanted};
use bulla_envelope::{DataKeyDraft, Epoch, KeyReference, OpeningKey, Recipient, SealingKey};
use bulla_identity::{TrustDomain, WorkloadId, WorkloadName};
use bulla_keyring::{Cipher, CipherSuite, DataKey, KemSecret, KemSuite, NonceLanes};

use crate::pair::{MINUTE, NOW, ROUNDS, each};

const EPOCH: Epoch = Epoch([8; 8]);

pub fn run(wanted: &Wanted, report: &mut Report) {
    for count in [1, 100] {
        let readers = Readers::new(count);
        let name = format!("key.wrap.{count}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| wrap(&readers)).collect();
            report.add(name, "ns", rounds);
        }
        let name = format!("key.unwrap.{count}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| unwrap(&readers)).collect();
            report.add(name, "ns", rounds);
        }
        let name = format!("key.bytes.{count}");
        if wanted.wants(&name) {
            report.add(name, "bytes", vec![readers.wrap().wraps().len() as f64]);
        }
    }
    for cipher in Cipher::ALL {
        for len in [64, 1_024] {
            let (seal, open) = (
                format!("cipher.seal.{cipher}.{len}"),
                format!("cipher.open.{cipher}.{len}"),
            );
            if !wanted.wants(&seal) && !wanted.wants(&open) {
                continue;
            }
            let rounds = (0..ROUNDS).map(|_| encrypt(cipher, len));
            let (sealed, opened) = rounds.unzip();
            report.add(seal, "ns", sealed);
            report.add(open, "ns", opened);
        }
    }
}

/// Nanoseconds to encrypt so many bytes beside a header, and to decrypt them.
fn encrypt(cipher: Cipher, len: usize) -> (f64, f64) {
    const TIMES: usize = 4_096;
    let key = DataKey::from_random(cipher, &[9; 32]);
    let process = std::process::id();
    let lane = NonceLanes::new(process).lane(process).unwrap();
    let header = [7; 200];
    let mut texts = vec![vec![0; len]; TIMES];
    let start = Instant::now();
    let sealed: Vec<_> = texts
        .iter_mut()
        .map(|text| {
            let nonce = lane.take(process).unwrap();
            let bytes = *nonce.as_bytes();
            (bytes, key.seal_in_place(nonce, &[&header], text))
        })
        .collect();
    let sealing = each(start, TIMES);
    let start = Instant::now();
    for (text, (nonce, tag)) in texts.iter_mut().zip(&sealed) {
        key.open_in_place(nonce, &[&header], text, tag).unwrap();
    }
    (sealing, each(start, TIMES))
}

/// Who may read what one workload encrypts.
pub struct Readers {
    domain: TrustDomain,
    sender: WorkloadId,
    secrets: Vec<(WorkloadId, KemSecret)>,
}

impl Readers {
    pub fn new(count: u8) -> Self {
        let domain = TrustDomain::parse("bench.example").unwrap();
        let workload = |name: &str| WorkloadId::new(&domain, &WorkloadName::parse(name).unwrap());
        let secrets = (0..count)
            .map(|n| {
                let secret = KemSecret::from_seed(KemSuite::XWing, &[n; 32]);
                (workload(&format!("pong-{n}")), secret)
            })
            .collect();
        Self {
            sender: workload("ping"),
            secrets,
            domain,
        }
    }

    /// A data key that all of them can read.
    pub fn wrap(&self) -> SealingKey {
        let recipients: Vec<_> = self
            .secrets
            .iter()
            .map(|(workload, secret)| Recipient {
                workload,
                key: secret.public(),
            })
            .collect();
        let draft = DataKeyDraft {
            suite: CipherSuite::new(KemSuite::XWing, Cipher::fastest_here()),
            trust_domain: &self.domain,
            sender: &self.sender,
            epoch: EPOCH,
            expires_at: NOW.saturating_add(10 * MINUTE),
            max_uses: u64::MAX,
            process: std::process::id(),
        };
        SealingKey::new(&draft, &recipients, &[9; 32], || [10; 64]).unwrap()
    }

    /// The key as the first of them has it.
    pub fn unwrap(&self, key: &SealingKey) -> OpeningKey {
        let (reader, secret) = self.secrets.first().unwrap();
        let own = secret.public().id();
        OpeningKey::unwrap(
            KeyReference {
                suite: key.suite(),
                sender: self.sender.clone(),
                epoch: EPOCH,
                data_key: key.id(),
                recipients: key.recipients(),
            },
            key.wraps(),
            &self.domain,
            reader,
            |id| (id == own).then_some(secret),
        )
        .unwrap()
    }

    /// How often in a round: wrapping to many takes long.
    fn times(&self) -> usize {
        (256 / self.secrets.len()).max(8)
    }
}

fn wrap(readers: &Readers) -> f64 {
    let times = readers.times();
    let start = Instant::now();
    for _ in 0..times {
        std::hint::black_box(readers.wrap());
    }
    each(start, times)
}

fn unwrap(readers: &Readers) -> f64 {
    const TIMES: usize = 256;
    let key = readers.wrap();
    let start = Instant::now();
    for _ in 0..TIMES {
        std::hint::black_box(readers.unwrap(&key));
    }
    each(start, TIMES)
}
