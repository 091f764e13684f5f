//! What an attacker builds: envelopes sealed by hand, under credentials that
//! are genuine, home-made, or issued by a broker that lies.

use std::time::Duration;

use bulla_envelope::{
    Credential, CredentialIssuer, CredentialRequest, Draft, Epoch, LeafHash, MessageId,
    ReplyBinding, RequestDraft, RequestExpectation, Sealer, Terms,
};
use bulla_identity::{Nkey, NkeyKind, Subject, UnixMillis, reserved};
use bulla_keyring::{AuthorityRole, AuthoritySeed, NkeySeed, SigningKey, sha256};
use bulla_sdk::broker_protocol::{Challenge, Issued};
use bytes::Bytes;

use crate::Bus;

/// Seals what the SDK would never seal.
#[derive(Debug)]
pub struct Forger {
    sealer: Sealer,
    credential: Credential,
}

impl Forger {
    /// Holds a genuine credential of `workload`, asked for with its nkey.
    pub async fn genuine(bus: &Bus, workload: &str) -> Self {
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
        let key = SigningKey::from_seed(&random());
        let request = RequestDraft {
            workload: &id,
            message_key: &key,
            process_keys: None,
            token_key: None,
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
                Self::new(Credential::decode(&bytes).expect("a credential"), key)
            }
            Issued::Refused(reason) => panic!("no credential for `{workload}`: {reason}"),
        }
    }

    /// Holds a credential for `workload` by an authority of the attacker's own.
    #[must_use]
    pub fn self_made(bus: &Bus, workload: &str) -> Self {
        Self::issued_by(
            &CredentialIssuer::new(SigningKey::from_seed(&random())),
            bus,
            workload,
        )
    }

    /// Holds a credential for `workload` under the true issuing key, as a
    /// stolen broker would make it: without that workload's own nkey.
    #[must_use]
    pub fn by_lying_broker(bus: &Bus, workload: &str) -> Self {
        let path = bus.provision().path("keys/issuing.key");
        let text = bulla_process::secret_file::read_line(&path).expect("the issuing key");
        let seed = AuthoritySeed::parse(AuthorityRole::Issuing, &text).expect("an issuing key");
        Self::issued_by(
            &CredentialIssuer::new(seed.into_signing_key()),
            bus,
            workload,
        )
    }

    fn issued_by(issuer: &CredentialIssuer, bus: &Bus, workload: &str) -> Self {
        let id = bus.workload(workload);
        let key = SigningKey::from_seed(&random());
        let own = NkeySeed::from_random(NkeyKind::User, &random()).expect("a seed");
        let challenge = random();
        let anchors: [Nkey; 1] = [own.public()];
        let request = RequestDraft {
            workload: &id,
            message_key: &key,
            process_keys: None,
            token_key: None,
            instance: random(),
            challenge,
            requested_at: now(),
        };
        let request = CredentialRequest::decode(&request.sign(Some(&own)))
            .expect("a request")
            .verify(&RequestExpectation {
                tag: id.tag(),
                challenge: &challenge,
                anchors: &anchors,
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
        Self::new(issuer.issue(&request, terms).expect("a credential"), key)
    }

    fn new(credential: Credential, key: SigningKey) -> Self {
        let sealer = Sealer::new(&credential, key, Epoch(random())).expect("the credential's key");
        Self { sealer, credential }
    }

    /// The sealer.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
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

    /// A request as of `at`.
    #[must_use]
    pub fn request(&self, subject: &str, reply_to: &str, at: UnixMillis, body: &[u8]) -> Bytes {
        let (subject, reply_to) = (parsed(subject), parsed(reply_to));
        let expires = at.saturating_add(Duration::from_secs(20));
        let mut draft = Draft::request(&subject, &reply_to, at, expires, body);
        draft.content_type = Some("application/msgpack");
        self.seal(&draft)
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

    fn seal(&self, draft: &Draft<'_>) -> Bytes {
        let sealed = self.sealer.seal(draft, MessageId(random()));
        sealed.expect("a sealed envelope").bytes
    }
}

/// The leaf of an envelope, computed from its bytes as the specification says.
#[must_use]
pub fn leaf_of(envelope: &[u8]) -> LeafHash {
    let mut rest = envelope.get(2..).expect("an array and a version");
    let header = take_bin(&mut rest).expect("a header");
    let _token = take_bin(&mut rest);
    let body = take_bin(&mut rest).expect("a body");
    let len = u32::try_from(header.len()).expect("a short header");
    LeafHash(sha256(&[
        &[0x00, 1],
        &len.to_be_bytes(),
        header,
        &sha256(&[body]),
    ]))
}

/// Takes a MessagePack nil or binary.
fn take_bin<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, head) = match rest {
        [0xc0, tail @ ..] => {
            *rest = tail;
            return None;
        }
        [0xc4, a, ..] => (usize::from(*a), 2),
        [0xc5, a, b, ..] => (usize::from(u16::from_be_bytes([*a, *b])), 3),
        _ => panic!("neither nil nor short binary"),
    };
    let (bin, tail) = rest.get(head..)?.split_at_checked(len)?;
    *rest = tail;
    Some(bin)
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
