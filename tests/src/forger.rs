//! What an attacker builds: envelopes sealed by hand, under credentials that
//! are genuine, home-made, or issued by a broker that lies.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{
    Credential, CredentialIssuer, CredentialRequest, DataKeyDraft, Draft, Encryption, Epoch,
    FrameMessage, LeafHash, MessageId, ProcessKeys, Recipient, ReplyBinding, RequestDraft,
    RequestExpectation, Sealer, SealingKey, Terms,
};
use bulla_identity::{NkeyKind, Subject, UnixMillis, WorkloadId, reserved};
use bulla_keyring::{
    Anchors, AuthorityRole, AuthoritySeed, CertificateAuthorities, Cipher, CipherSuite,
    ExchangeSecret, KemSecret, KemSuite, MacKey, NkeySeed, SigningKey, Tag,
};
use bulla_sdk::broker_protocol::{Challenge, Issued};
use bytes::Bytes;

use crate::{Bus, Dissected, Pki};

/// Seals what the SDK would never seal.
pub struct Forger {
    sealer: Sealer,
    credential: Credential,
    /// For what the sealer would not seal.
    key: SigningKey,
    exchange: ExchangeSecret,
    seeds: Seeds,
    epoch: Epoch,
}

/// Shows whose credential it seals under, never a key.
impl fmt::Debug for Forger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forger")
            .field("workload", self.credential.claimed_workload())
            .field("key_id", &self.credential.id())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Forger {
    /// Holds a genuine credential of `workload`, asked for with its nkey.
    pub async fn genuine(bus: &Bus, workload: &str) -> Self {
        Self::asked(bus, workload, true, None).await
    }

    /// The same, with a token key: that of a workload that mints.
    pub async fn genuine_minter(bus: &Bus, workload: &str, token_key: [u8; 32]) -> Self {
        Self::asked(bus, workload, true, Some(token_key)).await
    }

    /// The same, without keys for what is for this process alone.
    pub async fn genuine_without_process_keys(bus: &Bus, workload: &str) -> Self {
        Self::asked(bus, workload, false, None).await
    }

    async fn asked(
        bus: &Bus,
        workload: &str,
        with_keys: bool,
        token_key: Option<[u8; 32]>,
    ) -> Self {
        let raw = bus.raw_client(workload).await;
        let id = bus.workload(workload);
        let ask = async |subject: String, body: Vec<u8>| {
            raw.request(subject, body.into())
                .await
                .expect("the broker's answer")
                .payload
        };
        let answer = ask(reserved::broker_challenge(id.tag()), vec![0x90]).await;
        let challenge = Challenge::decode(&answer).expect("a challenge");
        let seeds = Seeds::random();
        let key = SigningKey::from_seed(&seeds.message);
        let process_keys = with_keys.then(|| seeds.process_keys());
        let token_key = token_key.map(|seed| SigningKey::from_seed(&seed));
        let request = RequestDraft {
            workload: &id,
            message_key: &key,
            process_keys: process_keys.as_ref(),
            token_key: token_key.as_ref(),
            instance: random(),
            challenge: challenge.challenge,
            requested_at: now(),
        };
        let answer = ask(
            reserved::broker_credential(id.tag(), &challenge.broker_id),
            request.sign(Some(&bus.seed(workload))),
        )
        .await;
        match Issued::decode(&answer).expect("a broker's answer") {
            Issued::Credential(bytes) => {
                Self::new(Credential::decode(&bytes).expect("a credential"), &seeds)
            }
            Issued::Refused(reason) => panic!("no credential for `{workload}`: {reason}"),
        }
    }

    /// Holds a credential for `workload` by an authority of the attacker's own.
    #[must_use]
    pub fn self_made(bus: &Bus, workload: &str) -> Self {
        let issuer = CredentialIssuer::new(SigningKey::from_seed(&random()));
        Self::issued_by(&issuer, &bus.workload(workload))
    }

    /// Holds a credential for `workload` under the true issuing key, as a
    /// stolen broker would make it: without that workload's own nkey.
    #[must_use]
    pub fn by_lying_broker(bus: &Bus, workload: &str) -> Self {
        Self::by_lying_broker_for(bus, &bus.workload(workload))
    }

    /// The same for any workload, of any trust domain.
    #[must_use]
    pub fn by_lying_broker_for(bus: &Bus, workload: &WorkloadId) -> Self {
        Self::issued_by(&issuer_of(bus), workload)
    }

    /// The same, where a certificate of the attacker's own authority says that it
    /// is the workload's.
    #[must_use]
    pub fn by_lying_broker_certified(bus: &Bus, workload: &str, own: &Pki) -> Self {
        let id = bus.workload(workload);
        let svid = own.issue(&id, Duration::from_secs(24 * 3600)).certified();
        let authorities = CertificateAuthorities::from_pem(own.pem()).expect("an authority");
        let anchors = Anchors {
            nkeys: &[],
            authorities: &[Arc::new(authorities)],
            brokers: false,
        };
        Self::issued_for(&issuer_of(bus), &id, anchors, |request| {
            request.sign_certified(&svid).expect("a signature")
        })
    }

    fn issued_by(issuer: &CredentialIssuer, id: &WorkloadId) -> Self {
        let own = NkeySeed::from_random(NkeyKind::User, &random()).expect("a seed");
        let anchors = [own.public()];
        Self::issued_for(issuer, id, (&anchors).into(), |request| {
            request.sign(Some(&own))
        })
    }

    fn issued_for(
        issuer: &CredentialIssuer,
        id: &WorkloadId,
        anchors: Anchors<'_>,
        sign: impl FnOnce(&RequestDraft<'_>) -> Vec<u8>,
    ) -> Self {
        let seeds = Seeds::random();
        let key = SigningKey::from_seed(&seeds.message);
        let challenge = random();
        let request = RequestDraft {
            workload: id,
            message_key: &key,
            process_keys: None,
            token_key: None,
            instance: random(),
            challenge,
            requested_at: now(),
        };
        let request = CredentialRequest::decode(&sign(&request))
            .expect("a request")
            .verify(&RequestExpectation {
                tag: id.tag(),
                challenge: &challenge,
                anchors,
                now: now(),
                skew: Duration::from_secs(1),
                max_age: Duration::from_secs(1),
            })
            .expect("a sound request");
        let terms = Terms {
            not_before: now(),
            expires_at: now().saturating_add(Duration::from_secs(3600)),
            serial: random(),
        };
        Self::new(issuer.issue(&request, terms).expect("a credential"), &seeds)
    }

    fn new(credential: Credential, seeds: &Seeds) -> Self {
        Self::with_epoch(credential, seeds, Epoch(random()))
    }

    /// Another process with the same key and epoch, whose counter begins anew:
    /// what it seals first has sequence numbers that were used already.
    #[must_use]
    pub fn twin(&self) -> Self {
        Self::with_epoch(self.credential.clone(), &self.seeds, self.epoch)
    }

    fn with_epoch(credential: Credential, seeds: &Seeds, epoch: Epoch) -> Self {
        let key = || SigningKey::from_seed(&seeds.message);
        let sealer = Sealer::new(&credential, key(), epoch);
        Self {
            sealer: sealer.expect("the credential's key"),
            credential,
            key: key(),
            exchange: ExchangeSecret::from_seed(&seeds.exchange),
            seeds: *seeds,
            epoch,
        }
    }

    /// Signs whatever it is given: a batch of one.
    #[must_use]
    pub fn sign(&self, mut envelope: Dissected) -> Bytes {
        let leaf = envelope.leaf().0;
        let count = 1u32.to_be_bytes();
        let root = leaf.get(..24).expect("a long hash");
        let parts: [&[u8]; 3] = [self.credential.hash(), &count, root];
        let signature = self.key.sign(Tag::Batch, &parts);
        envelope.set_batch_proof(0, 1, &[], signature.as_bytes());
        envelope.assemble()
    }

    /// The sealer.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The seeds of its keys, by what they are for: what nothing may print.
    #[must_use]
    pub fn seeds(&self) -> [(&'static str, [u8; 32]); 3] {
        let Seeds {
            message,
            exchange,
            kem,
        } = self.seeds;
        [
            ("message seed", message),
            ("exchange seed", exchange),
            ("KEM seed", kem),
        ]
    }

    /// The credential that it seals under.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Puts the credential onto the control stream, as a broker would.
    pub async fn publish(&self, bus: &Bus) {
        let context = async_nats::jetstream::new(bus.js_client().await);
        let subject = reserved::ctl_credential(&self.credential.id().to_hex());
        let bytes = self.credential.as_bytes().to_vec();
        context
            .publish(subject, bytes.into())
            .await
            .expect("the control stream")
            .await
            .expect("an acknowledgement");
    }

    /// A data key of this process, made of `secret` and wrapped to a workload.
    #[must_use]
    pub fn data_key(&self, bus: &Bus, recipient: &str, secret: &[u8; 32]) -> SealingKey {
        let (sender, recipient_id) = (self.credential.claimed_workload(), bus.workload(recipient));
        let kem = KemSuite::XWing;
        let draft = DataKeyDraft {
            suite: CipherSuite::new(kem, Cipher::ChaCha20Poly1305),
            trust_domain: bus.policy().trust_domain(),
            sender,
            epoch: self.sealer.epoch(),
            expires_at: now().saturating_add(Duration::from_secs(60)),
            max_uses: 1_000,
            process: std::process::id(),
        };
        let key = bus.seed(recipient).kem_secret(kem, 1, &recipient_id);
        let recipients = [Recipient {
            workload: &recipient_id,
            key: key.public(),
        }];
        SealingKey::new(&draft, &recipients, secret, random).expect("a data key")
    }

    /// A request under a data key that rides along.
    #[must_use]
    pub fn encrypted_request(
        &self,
        subject: &str,
        reply_to: &str,
        body: &[u8],
        key: &SealingKey,
    ) -> Bytes {
        let (subject, reply_to) = (parsed(subject), parsed(reply_to));
        let expires = now().saturating_add(Duration::from_secs(20));
        let mut draft = Draft::request(&subject, &reply_to, now(), expires, body);
        draft.content_type = Some("application/msgpack");
        draft.encryption = Some(Encryption {
            key,
            inline_wraps: true,
            open_token: false,
            process: std::process::id(),
        });
        self.seal(&draft)
    }

    /// An event as of `at`.
    #[must_use]
    pub fn event(&self, subject: &str, at: UnixMillis, body: &[u8]) -> Bytes {
        let subject = parsed(subject);
        let expires = at.saturating_add(Duration::from_secs(20));
        let mut draft = Draft::event(&subject, at, expires, body);
        draft.content_type = Some("application/msgpack");
        self.seal(&draft)
    }

    /// A frame of events as of `at`.
    #[must_use]
    pub fn frame(&self, subject: &str, at: UnixMillis, bodies: &[&[u8]]) -> Bytes {
        let subject = parsed(subject);
        let expires = at.saturating_add(Duration::from_secs(20));
        let mut draft = Draft::event(&subject, at, expires, &[]);
        draft.content_type = Some("application/msgpack");
        let messages: Vec<_> = bodies
            .iter()
            .map(|body| FrameMessage {
                id: MessageId(random()),
                body,
            })
            .collect();
        let sealed = self.sealer.seal_frame(&draft, &messages);
        sealed.expect("a sealed frame").bytes
    }

    /// A request as of `at`.
    #[must_use]
    pub fn request(&self, subject: &str, reply_to: &str, at: UnixMillis, body: &[u8]) -> Bytes {
        let (subject, reply_to) = (parsed(subject), parsed(reply_to));
        let expires = at.saturating_add(Duration::from_secs(20));
        let mut draft = Draft::request(&subject, &reply_to, at, expires, body);
        draft.content_type = Some("application/msgpack");
        self.seal(&draft)
    }

    /// `count` requests under one signature.
    #[must_use]
    pub fn batch(&self, subject: &str, reply_to: &str, count: usize, body: &[u8]) -> Vec<Bytes> {
        let (subject, reply_to) = (parsed(subject), parsed(reply_to));
        let expires = now().saturating_add(Duration::from_secs(20));
        let mut draft = Draft::request(&subject, &reply_to, now(), expires, body);
        draft.content_type = Some("application/msgpack");
        let drafts: Vec<_> = (0..count)
            .map(|_| (draft.clone(), MessageId(random())))
            .collect();
        let sealed = self.sealer.seal_batch(&drafts).expect("a sealed batch");
        sealed.into_iter().map(|sealed| sealed.bytes).collect()
    }

    /// An event with an id and times of its own.
    #[must_use]
    pub fn event_with_id(
        &self,
        subject: &str,
        id: MessageId,
        issued: UnixMillis,
        life: Duration,
        body: &[u8],
    ) -> Bytes {
        let subject = parsed(subject);
        let mut draft = Draft::event(&subject, issued, issued.saturating_add(life), body);
        draft.content_type = Some("application/msgpack");
        let sealed = self.sealer.seal(&draft, id);
        sealed.expect("a sealed envelope").bytes
    }

    /// A request on behalf of the user of `token`.
    #[must_use]
    pub fn request_for_user(
        &self,
        subject: &str,
        reply_to: &str,
        at: UnixMillis,
        body: &[u8],
        token: &str,
    ) -> Bytes {
        let (subject, reply_to) = (parsed(subject), parsed(reply_to));
        let expires = at.saturating_add(Duration::from_secs(20));
        let mut draft = Draft::request(&subject, &reply_to, at, expires, body);
        draft.content_type = Some("application/msgpack");
        draft.token = Some(token.as_bytes());
        self.seal(&draft)
    }

    /// A request on behalf of the user of `token` under these limits.
    #[must_use]
    pub fn limited_request(
        &self,
        subject: &str,
        reply_to: &str,
        body: &[u8],
        token: &str,
        limits: &[u8],
    ) -> Bytes {
        let (subject, reply_to) = (parsed(subject), parsed(reply_to));
        let expires = now().saturating_add(Duration::from_secs(20));
        let mut draft = Draft::request(&subject, &reply_to, now(), expires, body);
        draft.content_type = Some("application/msgpack");
        draft.token = Some(token.as_bytes());
        draft.limits = Some(limits);
        self.seal(&draft)
    }

    /// An encrypted request of the user of `token` with the client's own token.
    #[must_use]
    pub fn request_with_original(
        &self,
        subject: &str,
        reply_to: &str,
        token: &str,
        original: &str,
        key: &SealingKey,
    ) -> Bytes {
        let (subject, reply_to) = (parsed(subject), parsed(reply_to));
        let expires = now().saturating_add(Duration::from_secs(20));
        let mut draft = Draft::request(&subject, &reply_to, now(), expires, b"\xa1x");
        draft.content_type = Some("application/msgpack");
        draft.token = Some(token.as_bytes());
        draft.original = Some(original.as_bytes());
        draft.encryption = Some(Encryption {
            key,
            inline_wraps: true,
            open_token: false,
            process: std::process::id(),
        });
        self.seal(&draft)
    }

    /// An event on behalf of the user of `token`.
    #[must_use]
    pub fn event_for_user(&self, subject: &str, at: UnixMillis, body: &[u8], token: &str) -> Bytes {
        let subject = parsed(subject);
        let expires = at.saturating_add(Duration::from_secs(20));
        let mut draft = Draft::event(&subject, at, expires, body);
        draft.content_type = Some("application/msgpack");
        draft.token = Some(token.as_bytes());
        self.seal(&draft)
    }

    /// The one reply to the request with this leaf.
    #[must_use]
    pub fn reply(&self, reply_to: &str, request: LeafHash, body: &[u8]) -> Bytes {
        let binding = ReplyBinding {
            request,
            index: 0,
            is_final: true,
        };
        self.numbered_reply(reply_to, binding, body)
    }

    /// A reply under any number.
    #[must_use]
    pub fn numbered_reply(&self, reply_to: &str, binding: ReplyBinding, body: &[u8]) -> Bytes {
        let subject = parsed(reply_to);
        let expires = now().saturating_add(Duration::from_secs(5));
        let mut draft = Draft::reply(&subject, binding, now(), expires, body);
        draft.content_type = Some("application/msgpack");
        self.seal(&draft)
    }

    /// A reply with a code instead of a signature.
    #[must_use]
    pub fn coded_reply(
        &self,
        reply_to: &str,
        binding: ReplyBinding,
        body: &[u8],
        key: &MacKey,
    ) -> Bytes {
        let subject = parsed(reply_to);
        let expires = now().saturating_add(Duration::from_secs(5));
        let mut draft = Draft::reply(&subject, binding, now(), expires, body);
        draft.content_type = Some("application/msgpack");
        let sealed = self.sealer.seal_with_mac(&draft, MessageId(random()), key);
        sealed.expect("a sealed envelope").bytes
    }

    /// What this process's exchange key and the one of `peer` agree on, for
    /// replies of the holder of `responder` to the holder of `requester`.
    #[must_use]
    pub fn mac_key(
        &self,
        peer: &Credential,
        responder: &Credential,
        requester: &Credential,
    ) -> MacKey {
        let keys = peer.request().process_keys().expect("keys of a process");
        self.exchange
            .mac_key(&keys.exchange, responder.hash(), requester.hash())
            .expect("a sound key")
    }

    fn seal(&self, draft: &Draft<'_>) -> Bytes {
        let sealed = self.sealer.seal(draft, MessageId(random()));
        sealed.expect("a sealed envelope").bytes
    }
}

/// The secrets of one process. Printed nowhere.
#[derive(Clone, Copy)]
struct Seeds {
    message: [u8; 32],
    exchange: [u8; 32],
    kem: [u8; 32],
}

impl Seeds {
    fn random() -> Self {
        Self {
            message: random(),
            exchange: random(),
            kem: random(),
        }
    }

    fn process_keys(&self) -> ProcessKeys {
        let kem = |suite| KemSecret::from_seed(suite, &self.kem).public().clone();
        ProcessKeys {
            xwing: kem(KemSuite::XWing),
            x25519: kem(KemSuite::X25519),
            exchange: *ExchangeSecret::from_seed(&self.exchange).public(),
        }
    }
}

/// The leaf of an envelope, computed from its bytes as the specification says.
#[must_use]
pub fn leaf_of(envelope: &[u8]) -> LeafHash {
    Dissected::of(envelope).leaf()
}

/// The broker's true issuing key.
fn issuer_of(bus: &Bus) -> CredentialIssuer {
    let path = bus.provision().path("keys/issuing.key");
    let text = bulla_process::secret_file::read_line(&path).expect("the issuing key");
    let seed = AuthoritySeed::parse(AuthorityRole::Issuing, &text).expect("an issuing key");
    CredentialIssuer::new(seed.into_signing_key())
}

/// The wall clock.
#[must_use]
pub fn now() -> UnixMillis {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970");
    UnixMillis::from_millis(u64::try_from(since.as_millis()).expect("a time of this age"))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}

fn parsed(subject: &str) -> Subject {
    Subject::parse(subject).expect("a literal subject")
}
