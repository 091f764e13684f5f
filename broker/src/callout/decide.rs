//! From a sealed question to a sealed answer, without I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bulla_identity::{Nkey, NkeyKind, UnixMillis, WorkloadName};
use bulla_keyring::{CurveSeed, NkeySeed, sha256};
use bulla_policy::Circumstances;
use bulla_sdk::audit::AuditLog;
use bulla_sdk::decision_log::DecisionLog;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;

use super::answer;
use super::attest::{Admission, Admissions, DenyReason, MARK, Standing};
use super::nonces::{NonceUse, Nonces, RecentRequests};
use super::request::{self, CalloutRequest, RequestError};
use crate::buckets::{self, Served};
use crate::decision::Decision;
use crate::kick::Outcasts;
use crate::seen::Seen;
use crate::trial::Trial;

/// Everything that answering needs, in memory.
#[derive(Debug)]
pub struct Callout {
    issuer: NkeySeed,
    xkey: CurveSeed,
    admissions: ArcSwapOption<Admissions>,
    outcasts: ArcSwap<BTreeSet<WorkloadName>>,
    seen: Option<Arc<Seen>>,
    trial: Arc<Trial>,
    served: Served,
    recent: Mutex<RecentRequests>,
    nonces: Mutex<Nonces>,
    decisions: DecisionLog,
}

impl Callout {
    /// Not ready yet: silent until [`Callout::admit`] is called.
    #[must_use]
    pub fn new(issuer: NkeySeed, xkey: CurveSeed) -> Self {
        Self {
            issuer,
            xkey,
            admissions: ArcSwapOption::empty(),
            outcasts: ArcSwap::default(),
            seen: None,
            trial: Arc::default(),
            served: Served::default(),
            recent: Mutex::new(RecentRequests::new(RECENT_CAPACITY)),
            nonces: Mutex::new(Nonces::new(NONCE_CAPACITY)),
            decisions: DecisionLog::new("callout", AuditLog::off()),
        }
    }

    /// Silent whenever what it goes by was read too long ago.
    pub(crate) fn while_seen(mut self, seen: Arc<Seen>) -> Self {
        self.seen = Some(seen);
        self
    }

    /// Gives rights to these buckets, and to no other.
    pub(crate) fn with_buckets(mut self, served: Served) -> Self {
        self.served = served;
        self
    }

    /// Tells its decisions there.
    pub(crate) fn telling(mut self, decisions: DecisionLog) -> Self {
        self.decisions = decisions;
        self
    }

    /// What is on trial.
    pub(crate) fn trial(&self) -> &Arc<Trial> {
        &self.trial
    }

    /// From now on these are turned away, whatever the policy says.
    pub(crate) fn cast_out(&self, outcasts: Outcasts) {
        self.outcasts.store(outcasts);
    }

    /// From now on these may connect, and nobody else. Requests that are being
    /// answered see the earlier ones or these, never a mixture.
    pub fn admit(&self, admissions: Admissions) {
        let admissions = match self.admissions.load_full() {
            Some(before) => admissions.after(&before),
            None => admissions,
        };
        self.admissions.store(Some(Arc::new(admissions)));
    }

    /// How a connection stands that somebody admitted under the name `user`, and
    /// that nats-server sees coming from `client`.
    pub(crate) fn standing(&self, user: &str, client: Option<IpAddr>, now: UnixMillis) -> Standing {
        let name = user.split(MARK).next().unwrap_or_default();
        let outcasts = self.outcasts.load();
        if outcasts.iter().any(|outcast| outcast.as_str() == name) {
            return Standing::Lost("workload_revoked");
        }
        // Without a policy nobody is admitted, and nobody is ended either: what
        // they send is refused everywhere.
        let Some(admissions) = self.admissions.load_full() else {
            return Standing::Current;
        };
        let circumstances = Circumstances { now, client };
        admissions.standing(user, &circumstances, &self.served.load())
    }

    /// From now on nobody is answered: there is no policy to go by.
    pub(crate) fn fall_silent(&self) {
        self.admissions.store(None);
    }

    /// The answer to one message, or why there is none.
    ///
    /// `sender` is the header in which the server names its xkey.
    pub(super) fn answer(
        &self,
        sealed: &[u8],
        sender: Option<&str>,
        now: UnixMillis,
        random: &Random,
    ) -> Result<Vec<u8>, Silence> {
        let admissions = self.admissions.load_full().ok_or(Silence::NotReady)?;
        if self.seen.as_ref().is_some_and(|seen| !seen.is_recent(now)) {
            return Err(Silence::Stale);
        }
        // In clear everybody in the callout's account could read passwords and
        // tokens; a server with our configuration never does that.
        let sender = sender
            .and_then(|text| Nkey::parse(text).ok())
            .filter(|nkey| nkey.kind() == NkeyKind::Curve)
            .ok_or(Silence::NotEncrypted)?;
        let token = self
            .xkey
            .open(sealed, &sender)
            .map_err(|_| Silence::DoesNotOpen)?;
        let request = request::decode(&token)?;
        if request.server_xkey != Some(sender) {
            return Err(Silence::ForeignSender);
        }
        if now.saturating_add(NEAR_EXPIRY) >= request.expires_at {
            return Err(Silence::TooLate);
        }
        if request.expires_at > now.saturating_add(LONGEST_WAIT) {
            return Err(Silence::FarExpiry);
        }
        let digest = sha256(&[sealed]);
        if !self.recent.lock().is_new(digest) {
            return Err(Silence::SameRequest);
        }
        let decision = |workload| Decision {
            workload,
            verb: "connect",
            id: random.decision,
            client: request.client,
            ..Decision::default()
        };
        let circumstances = Circumstances {
            now,
            client: request.client,
        };
        let decided = self.decide(&admissions, &request, digest, now)?;
        let who = match &decided {
            Ok(admission) => admission.workload.as_str(),
            Err(reason) => reason.workload(),
        };
        self.trial.note(who, decided.is_ok(), |candidate| {
            candidate.attest(&request).map(drop)
        });
        let decided = decided.and_then(|admission| {
            let permissions = admission.permissions(&circumstances);
            match permissions {
                Ok((permissions, until)) => Ok((admission, permissions, until)),
                Err(_) => Err(DenyReason::NoPermissions(admission.workload.clone())),
            }
        });
        let answer = match decided {
            Ok((admission, permissions, until)) => {
                let workload = admission.workload.as_str();
                decision(workload).allow(&self.decisions);
                let served = self.served.load();
                let permissions = buckets::only_served(&permissions, &admissions.buckets, &served);
                answer::allow(
                    &self.issuer,
                    &request,
                    &answer::Welcome {
                        user: &admission.user(&permissions),
                        permissions: &permissions,
                        until,
                    },
                    now,
                    random.token_ids,
                )
            }
            Err(reason) => {
                let decision = decision(reason.workload());
                decision.deny(&self.decisions, reason.code(), &reason.to_string());
                let [id, _] = random.token_ids;
                // One text for every reason: it lands in the server's log.
                let text = format!("refused, decision {}", HEXLOWER.encode(&random.decision));
                answer::deny(&self.issuer, &request, &text, now, id)
            }
        };
        self.xkey
            .seal(answer.as_bytes(), &sender, random.box_nonce)
            .map_err(|_| Silence::DoesNotOpen)
    }

    fn decide<'a>(
        &self,
        admissions: &'a Admissions,
        request: &CalloutRequest,
        digest: [u8; 32],
        now: UnixMillis,
    ) -> Result<Result<&'a Admission, DenyReason>, Silence> {
        let admission = match admissions.attest(request) {
            Ok(admission) => admission,
            Err(reason) => return Ok(Err(reason)),
        };
        let workload = || admission.workload.clone();
        if self.outcasts.load().contains(&admission.workload) {
            return Ok(Err(DenyReason::Revoked(workload())));
        }
        let used = self.nonces.lock().admit(
            (request.server, request.client_id, &request.nonce),
            digest,
            now,
            request.expires_at,
        );
        match used {
            NonceUse::First => Ok(Ok(admission)),
            NonceUse::SameRequest => Err(Silence::SameRequest),
            NonceUse::Replayed => Ok(Err(DenyReason::NonceReplayed(workload()))),
            NonceUse::Full => Ok(Err(DenyReason::NoncesFull(workload()))),
        }
    }
}

/// The random bytes of one answer.
pub(super) struct Random {
    decision: [u8; 16],
    token_ids: [[u8; 16]; 2],
    box_nonce: [u8; 24],
}

impl Random {
    /// From the operating system.
    pub(super) fn fresh() -> Result<Self, getrandom::Error> {
        let mut random = Self {
            decision: [0; 16],
            token_ids: [[0; 16]; 2],
            box_nonce: [0; 24],
        };
        getrandom::fill(&mut random.decision)?;
        getrandom::fill(random.token_ids.as_flattened_mut())?;
        getrandom::fill(&mut random.box_nonce)?;
        Ok(random)
    }
}

/// Why a message is not answered: the client then runs into its time-out,
/// unless another broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Silence {
    #[error("no policy is loaded yet")]
    NotReady,
    #[error("what is in force was read from the control stream too long ago (`state_stale`)")]
    Stale,
    #[error("the request is not encrypted to our xkey")]
    NotEncrypted,
    #[error("the request does not open with our xkey")]
    DoesNotOpen,
    #[error("the request was encrypted by another key than its server's")]
    ForeignSender,
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the request is about to expire: brokers are overloaded, or clocks differ")]
    TooLate,
    #[error("the request expires further ahead than any server waits: do clocks differ?")]
    FarExpiry,
    #[error("the request was answered already, through the other queue group")]
    SameRequest,
}

/// Less than this before its expiry a request is dropped: the client would
/// time out before the answer arrives, and working off such a queue starves
/// those behind it.
const NEAR_EXPIRY: Duration = Duration::from_millis(100);

/// Authorization time-outs are seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(90);

/// Requests that may come between the two deliveries of one.
const RECENT_CAPACITY: usize = 4_096;

/// Connections that may be remembered at once.
const NONCE_CAPACITY: usize = 65_536;

#[cfg(test)]
mod tests {
    use bulla_policy::Policy;
    use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
    use serde_json::{Value, json};

    use super::*;

    const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);
    const NONCE: &str = "PXoWU7zWAMt75FY";

    /// One server, one workload `orders`, one broker.
    struct Scene {
        server: NkeySeed,
        server_xkey: CurveSeed,
        workload: NkeySeed,
        callout: Callout,
    }

    impl Scene {
        fn new() -> Self {
            let workload = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
            let callout = Callout::new(
                NkeySeed::from_random(NkeyKind::Account, &[1; 32]).unwrap(),
                CurveSeed::from_random(&[2; 32]),
            );
            let text = format!(
                r#"
                version = 1
                trust_domain = "acme.example"
                [workload.orders]
                attest = [{{ nkey = "{}" }}]
                [[allow]]
                id = "orders-tell"
                who = ["orders"]
                may = ["publish"]
                on = ["orders.created"]
                "#,
                workload.public()
            );
            let policy = Policy::parse("test.toml", &text).unwrap();
            let admissions = Admissions::from_policy(&Arc::new(policy)).unwrap();
            callout.admit(admissions);
            Self {
                server: NkeySeed::from_random(NkeyKind::Server, &[4; 32]).unwrap(),
                server_xkey: CurveSeed::from_random(&[5; 32]),
                workload,
                callout,
            }
        }

        /// What nats-server would ask about the honest workload.
        fn claims(&self) -> Value {
            let signature = self.workload.sign_text(NONCE);
            json!({
                "iss": self.server.public().to_string(),
                "aud": "nats-authorization-request",
                "iat": NOW.as_secs(),
                "exp": NOW.as_secs() + 2,
                "nats": {
                    "type": "authorization_request",
                    "version": 2,
                    "server_id": {
                        "name": "n1",
                        "id": self.server.public().to_string(),
                        "xkey": self.server_xkey.public().to_string(),
                    },
                    "user_nkey": user_nkey(),
                    "client_info": {
                        "id": 7, "kind": "Client", "type": "nats", "nonce": NONCE,
                    },
                    "connect_opts": {
                        "nkey": self.workload.public().to_string(),
                        "sig": BASE64URL_NOPAD.encode(signature.as_bytes()),
                    },
                },
            })
        }

        fn seal(&self, claims: &Value) -> Vec<u8> {
            let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
            let mut token = format!(
                "{}.{}",
                BASE64URL_NOPAD.encode(header.as_bytes()),
                BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
            );
            let signature = self.server.sign_text(&token);
            token.push('.');
            BASE64URL_NOPAD.encode_append(signature.as_bytes(), &mut token);
            self.seal_text(&token)
        }

        fn seal_text(&self, token: &str) -> Vec<u8> {
            self.server_xkey
                .seal(token.as_bytes(), &self.callout.xkey.public(), [9; 24])
                .unwrap()
        }

        fn ask_sealed(&self, sealed: &[u8]) -> Result<Value, Silence> {
            let sender = self.server_xkey.public().to_string();
            let random = Random::fresh().unwrap();
            let answer = self.callout.answer(sealed, Some(&sender), NOW, &random)?;
            let token = self.server_xkey.open(&answer, &self.callout.xkey.public());
            Ok(read(std::str::from_utf8(&token.unwrap()).unwrap()))
        }

        fn ask(&self, claims: &Value) -> Result<Value, Silence> {
            self.ask_sealed(&self.seal(claims))
        }

        /// The answer must be a refusal whose text names nothing but an id.
        fn refused(&self, claims: &Value) {
            let answer = self.ask(claims).unwrap();
            assert!(answer["nats"].get("jwt").is_none(), "{answer}");
            let text = answer["nats"]["error"].as_str().unwrap();
            let id = text.strip_prefix("refused, decision ").unwrap();
            assert_eq!(id.len(), 32, "{text}");
        }
    }

    fn user_nkey() -> String {
        Nkey::from_bytes(NkeyKind::User, [6; 32]).to_string()
    }

    fn read(token: &str) -> Value {
        let payload = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_registered_workload_is_placed_in_app_with_its_permissions() {
        let scene = Scene::new();
        let answer = scene.ask(&scene.claims()).unwrap();
        assert_eq!(answer["aud"], scene.server.public().to_string());
        assert_eq!(answer["sub"], user_nkey());
        let user = read(answer["nats"]["jwt"].as_str().unwrap());
        assert_eq!(user["aud"], "APP");
        assert_eq!(user["sub"], user_nkey());
        let (name, mark) = user["name"].as_str().unwrap().split_once('~').unwrap();
        assert_eq!((name, mark.len()), ("orders", 16));
        let publish = user["nats"]["pub"]["allow"].as_array().unwrap();
        assert!(publish.contains(&json!("orders.created")), "{publish:?}");
        assert!(!user["nats"]["sub"]["allow"].as_array().unwrap().is_empty());
        assert!(user["nats"].get("resp").is_none());
    }

    #[test]
    fn the_signature_may_be_in_either_alphabet() {
        let scene = Scene::new();
        let mut claims = scene.claims();
        let signature = scene.workload.sign_text(NONCE);
        claims["nats"]["connect_opts"]["sig"] =
            (BASE64_NOPAD.encode(signature.as_bytes()) + "==").into();
        assert!(scene.ask(&claims).unwrap()["nats"]["jwt"].is_string());
    }

    #[test]
    fn what_does_not_prove_the_workload_is_refused() {
        let scene = Scene::new();
        let stranger = NkeySeed::from_random(NkeyKind::User, &[8; 32]).unwrap();
        let encode = |seed: &NkeySeed, text| {
            Value::from(BASE64URL_NOPAD.encode(seed.sign_text(text).as_bytes()))
        };
        let refused = |path: &str, value: Value| {
            let mut claims = scene.claims();
            *claims.pointer_mut(path).unwrap() = value;
            scene.refused(&claims);
        };
        // An unknown nkey, with a right signature of its own.
        let mut claims = scene.claims();
        claims["nats"]["connect_opts"] = json!({
            "nkey": stranger.public().to_string(), "sig": encode(&stranger, NONCE),
        });
        scene.refused(&claims);
        refused("/nats/connect_opts/sig", encode(&stranger, NONCE));
        refused(
            "/nats/connect_opts/sig",
            encode(&scene.workload, "another nonce"),
        );
        refused("/nats/connect_opts/sig", "".into());
        refused("/nats/connect_opts/sig", "AAAA".into());
        refused("/nats/connect_opts/nkey", "".into());
        refused("/nats/connect_opts/nkey", "UNONSENSE".into());
        refused("/nats/client_info/type", "mqtt".into());
        refused("/nats/client_info/kind", "Leafnode".into());
        // The nonce of another connection.
        refused("/nats/client_info/nonce", "another nonce".into());
    }

    #[test]
    fn an_empty_nonce_is_refused_though_its_signature_is_right() {
        let scene = Scene::new();
        let mut claims = scene.claims();
        claims["nats"]["client_info"]["nonce"] = "".into();
        let signature = scene.workload.sign_text("");
        claims["nats"]["connect_opts"]["sig"] = BASE64URL_NOPAD.encode(signature.as_bytes()).into();
        scene.refused(&claims);
    }

    #[test]
    fn a_nonce_is_good_for_one_request() {
        let scene = Scene::new();
        let first = scene.seal(&scene.claims());
        assert!(scene.ask_sealed(&first).is_ok());
        // Its second delivery, through the other queue group.
        assert_eq!(scene.ask_sealed(&first).unwrap_err(), Silence::SameRequest);
        // Replayed about another connection, or about the same one.
        let mut replay = scene.claims();
        replay["nats"]["client_info"]["id"] = 8.into();
        scene.refused(&replay);
        let mut replay = scene.claims();
        replay["jti"] = "another".into();
        scene.refused(&replay);
    }

    #[test]
    fn a_revoked_workload_is_turned_away_until_it_is_not() {
        let scene = Scene::new();
        let orders = WorkloadName::parse("orders").unwrap();
        scene.callout.cast_out(Arc::new([orders].into()));
        scene.refused(&scene.claims());
        scene.callout.cast_out(Outcasts::default());
        let mut claims = scene.claims();
        claims["jti"] = "another".into();
        assert!(scene.ask(&claims).unwrap()["nats"]["jwt"].is_string());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_has_not_read_for_long_is_silent() {
        let mut scene = Scene::new();
        let bound = Duration::from_secs(60);
        let seen = Arc::new(Seen::new(bound, NOW));
        scene.callout = scene.callout.while_seen(Arc::clone(&seen));
        assert!(scene.ask(&scene.claims()).is_ok());
        tokio::time::advance(bound + Duration::from_secs(1)).await;
        assert_eq!(scene.ask(&scene.claims()).unwrap_err(), Silence::Stale);
        seen.mark(NOW);
        let mut claims = scene.claims();
        claims["jti"] = "another".into();
        // The nonce was used; what matters is that there is an answer.
        scene.refused(&claims);
    }

    #[test]
    fn a_broker_without_policy_is_silent() {
        let scene = Scene::new();
        scene.callout.admissions.store(None);
        assert_eq!(scene.ask(&scene.claims()).unwrap_err(), Silence::NotReady);
    }

    #[test]
    fn what_no_nats_server_sends_is_not_answered() {
        let scene = Scene::new();
        let random = Random::fresh().unwrap();
        let sealed = scene.seal(&scene.claims());
        let answer = |sealed: &[u8], sender: Option<&str>| {
            scene
                .callout
                .answer(sealed, sender, NOW, &random)
                .unwrap_err()
        };
        assert_eq!(answer(&sealed, None), Silence::NotEncrypted);
        let other = CurveSeed::from_random(&[11; 32]);
        let name = other.public().to_string();
        assert_eq!(answer(&sealed, Some(&name)), Silence::DoesNotOpen);
        let token = scene
            .callout
            .xkey
            .open(&sealed, &scene.server_xkey.public())
            .unwrap();
        let by_other = other
            .seal(&token, &scene.callout.xkey.public(), [1; 24])
            .unwrap();
        assert_eq!(answer(&by_other, Some(&name)), Silence::ForeignSender);

        let wrong = |path: &str, value: Value| {
            let mut claims = scene.claims();
            *claims.pointer_mut(path).unwrap() = value;
            scene.ask(&claims).unwrap_err()
        };
        let stranger = Nkey::from_bytes(NkeyKind::Server, *scene.workload.public().bytes());
        use RequestError as E;
        assert_eq!(
            wrong("/iss", stranger.to_string().into()),
            Silence::Request(E::Signature)
        );
        assert_eq!(wrong("/iss", user_nkey().into()), Silence::Request(E::Nkey));
        assert_eq!(wrong("/aud", "x".into()), Silence::Request(E::Audience));
        assert_eq!(
            wrong("/nats/server_id/id", stranger.to_string().into()),
            Silence::Request(E::Server)
        );
        assert_eq!(
            wrong("/nats/type", "user".into()),
            Silence::Request(E::Kind)
        );
        assert_eq!(wrong("/exp", NOW.as_secs().into()), Silence::TooLate);
        assert_eq!(
            wrong("/exp", (NOW.as_secs() + 1_000).into()),
            Silence::FarExpiry
        );
        assert_eq!(wrong("/nats", 1.into()), Silence::Request(E::Malformed));

        let token = String::from_utf8(token.to_vec()).unwrap();
        let (header, rest) = token.split_once('.').unwrap();
        let none = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
        let forged = scene.seal_text(&format!("{none}.{rest}"));
        assert_eq!(
            scene.ask_sealed(&forged).unwrap_err(),
            Silence::Request(E::Algorithm)
        );
        for text in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c.d",
            header,
            &format!("{token}A"),
        ] {
            let sealed = scene.seal_text(text);
            assert!(matches!(
                scene.ask_sealed(&sealed).unwrap_err(),
                Silence::Request(E::Malformed)
            ));
        }
    }
}
