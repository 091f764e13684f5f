//! From a sealed question to a sealed answer, without I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bulla_identity::{Nkey, NkeyKind, UnixMillis, WorkloadName};
use bulla_keyring::{CurveBox, CurveSeed, NkeySeed, sha256};
use bulla_policy::Circumstances;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;

use super::admissions::{Admissions, MARK, Standing};
use super::answer::{self, Placement};
use super::attest::Attested;
use super::deny_reason::DenyReason;
use super::joining::{self, AskInviters, JOINING};
use super::nonces::{NonceUse, Nonces, RecentRequests};
use super::request::{self, CalloutRequest, RequestError};
use super::servers::Servers;
use super::ticket::{Ticket, Tickets};
use super::token_keys::TokenKeys;
use crate::buckets::{self, Served};
use crate::control::Inviters;
use crate::decision::{Decision, Decisions};
use crate::invitation::{Invitation, InvitationError, Shown};
use crate::kick::Outcasts;
use crate::seen::Seen;
use crate::spans;
use crate::trial::Trial;

/// Everything that answering needs, in memory.
#[derive(Debug)]
pub struct Callout {
    issuer: NkeySeed,
    servers: Servers,
    placement: Placement,
    /// In operator mode, where connections are asked about again.
    tickets: Option<Tickets>,
    admissions: ArcSwapOption<Admissions>,
    outcasts: ArcSwap<BTreeSet<WorkloadName>>,
    /// Who may not write to the audit log for now.
    silent: ArcSwap<BTreeSet<WorkloadName>>,
    seen: Option<Arc<Seen>>,
    trial: Arc<Trial>,
    token_keys: Arc<TokenKeys>,
    inviters: Option<AskInviters>,
    served: Served,
    recent: Mutex<RecentRequests>,
    nonces: Mutex<Nonces>,
    decisions: Decisions,
    /// How long nats-server waits for answers, in milliseconds; 0 if it has not asked.
    patience: AtomicU64,
}

impl Callout {
    /// Not ready yet: silent until [`Callout::admit`] is called.
    #[must_use]
    pub fn new(issuer: NkeySeed, xkey: CurveSeed) -> Self {
        Self {
            issuer,
            servers: Servers::new(xkey, SERVER_CAPACITY),
            placement: Placement::default(),
            tickets: None,
            admissions: ArcSwapOption::empty(),
            outcasts: ArcSwap::default(),
            silent: ArcSwap::default(),
            seen: None,
            trial: Arc::default(),
            token_keys: Arc::default(),
            inviters: None,
            served: Served::default(),
            recent: Mutex::new(RecentRequests::new(RECENT_CAPACITY)),
            nonces: Mutex::new(Nonces::new(NONCE_CAPACITY)),
            decisions: Decisions::untold("callout"),
            patience: AtomicU64::new(0),
        }
    }

    /// Places workloads there.
    #[must_use]
    pub fn placing(mut self, placement: Placement) -> Self {
        self.placement = placement;
        let is_vouched = matches!(placement, Placement::Vouched(_));
        self.tickets = is_vouched.then(|| Tickets::of(&self.issuer));
        self
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

    /// Verifies tokens by these keys, which follow what it is told to admit.
    pub(crate) fn with_token_keys(mut self, keys: Arc<TokenKeys>) -> Self {
        self.token_keys = keys;
        self
    }

    /// Lets hosts in that these have invited.
    pub(crate) fn inviting(mut self, ask: impl Fn() -> Inviters + Send + Sync + 'static) -> Self {
        self.inviters = Some(AskInviters::new(ask));
        self
    }

    /// Tells its decisions there.
    pub(crate) fn telling(mut self, decisions: Decisions) -> Self {
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

    /// From now on these have no right to write to the audit log.
    pub(crate) fn silence(&self, silent: BTreeSet<WorkloadName>) {
        self.silent.store(Arc::new(silent));
    }

    /// From now on these may connect, and nobody else. Requests that are being
    /// answered see the earlier ones or these, never a mixture.
    pub fn admit(&self, admissions: Admissions) {
        let admissions = match self.admissions.load_full() {
            Some(before) => admissions.after(&before),
            None => admissions,
        };
        self.token_keys.follow(&admissions.key_sources());
        self.admissions.store(Some(Arc::new(admissions)));
    }

    /// How a connection stands that somebody admitted under the name `user`, and
    /// that nats-server sees coming from `client`.
    pub(crate) fn standing(&self, user: &str, client: Option<IpAddr>, now: UnixMillis) -> Standing {
        let name = user.split(MARK).next().unwrap_or_default();
        if name == JOINING {
            // nats-server ends it soon.
            return Standing::Current;
        }
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
        let is_silent = self
            .silent
            .load()
            .iter()
            .any(|silent| silent.as_str() == name);
        admissions.standing(user, is_silent, &circumstances, &self.served.load())
    }

    /// From now on nobody is answered: there is no policy to go by.
    pub(crate) fn fall_silent(&self) {
        self.admissions.store(None);
    }

    /// A question that waits for longer than this is not listened for any more: the
    /// longest that a server was seen to wait, less what an answer takes on its way.
    pub(super) fn patience(&self) -> Duration {
        match self.patience.load(Ordering::Relaxed) {
            0 => LONGEST_WAIT,
            seen => Duration::from_millis(seen).saturating_sub(NEAR_EXPIRY),
        }
    }

    /// The answer to one message at this moment, or nothing: for measuring and for who
    /// replays what was recorded. `sender` is the header in which the server names its
    /// xkey.
    #[must_use]
    pub fn answer_at(
        &self,
        sealed: &[u8],
        sender: Option<&str>,
        now: UnixMillis,
    ) -> Option<Vec<u8>> {
        let random = Random::fresh().ok()?;
        self.answer(sealed, sender, now, &random).ok()
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
        // Every question comes twice to a broker in both groups. The name of the key
        // is part of it: a copy under another name must not stand in for the question.
        let digest = sha256(&[sender.bytes().as_slice(), sealed]);
        if !self.recent.lock().is_new(digest) {
            return Err(Silence::SameRequest);
        }
        let question = Question {
            sealed,
            sender,
            digest,
        };
        let span = spans::connecting().entered();
        let answer = self.answer_once(&admissions, &question, now, random);
        if let Err(silence) = &answer {
            spans::failed(&span, silence.code());
        }
        answer
    }

    /// The same for a question that was not asked before.
    fn answer_once(
        &self,
        admissions: &Admissions,
        question: &Question<'_>,
        now: UnixMillis,
        random: &Random,
    ) -> Result<Vec<u8>, Silence> {
        let Question {
            sealed,
            sender,
            digest,
        } = *question;
        let deciding = spans::deciding().entered();
        let server = self.servers.by_xkey(&sender);
        let server = server.map_err(|_| Silence::DoesNotOpen)?;
        let token = server.shared.open(sealed);
        let token = token.map_err(|_| Silence::DoesNotOpen)?;
        let request = request::decode(&token, |name| server.key_of(name))?;
        if request.server_xkey != Some(sender) {
            return Err(Silence::ForeignSender);
        }
        if now.saturating_add(NEAR_EXPIRY) >= request.expires_at {
            return Err(Silence::TooLate);
        }
        if request.expires_at > now.saturating_add(LONGEST_WAIT) {
            return Err(Silence::FarExpiry);
        }
        self.servers
            .remember(&server, request.server, request.server_key);
        let patience = request.expires_at.saturating_since(now).as_millis();
        let patience = u64::try_from(patience).unwrap_or(u64::MAX);
        self.patience.fetch_max(patience, Ordering::Relaxed);
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
        if Shown::is_one(&request.token) {
            let joined = self.join(&request, digest, now)?;
            drop(deciding);
            let answer = match joined {
                Ok(invitation) => {
                    let (permissions, until) = joining::rights(&invitation, now);
                    decision(invitation.workload.as_str()).allow(&self.decisions);
                    let welcome = answer::Welcome {
                        user: &format!("{JOINING}{MARK}{}", invitation.workload),
                        permissions: &permissions,
                        placement: self.placement,
                        until: Some(until),
                    };
                    answer::allow(&self.issuer, &request, &welcome, now, random.token_ids)
                }
                Err(reason) => {
                    let decision = decision(reason.workload());
                    self.refuse(&decision, &reason, &request, now, random)
                }
            };
            return seal(&answer, &server.shared, random);
        }
        let ticket = self
            .tickets
            .as_ref()
            .and_then(|tickets| tickets.read(&request));
        let again = ticket.as_ref();
        let decided = self.decide(admissions, &request, again, digest, now)?;
        let who = match &decided {
            Ok(attested) => attested.admission.workload.as_str(),
            Err(reason) => reason.workload(),
        };
        let is_allowed = decided.is_ok();
        self.trial.note(who, is_allowed, |candidate| {
            let attested = match again {
                Some(ticket) => candidate.attest_again(&request, ticket, now),
                None => candidate.attest(&request, &self.token_keys, now),
            };
            match attested {
                // Keys are fetched for the policy in force: nothing is known of this.
                Err(DenyReason::NoIssuerKeys) if is_allowed => Ok(()),
                other => other.map(drop),
            }
        });
        let decided = decided.and_then(|attested| {
            let admission = attested.admission;
            match admission.permissions(&circumstances) {
                Ok((permissions, until)) => {
                    let proven = attested.until;
                    let until = [until, proven].into_iter().flatten().min();
                    Ok((admission, permissions, until, proven))
                }
                Err(_) => Err(DenyReason::NoPermissions(admission.workload.clone())),
            }
        });
        drop(deciding);
        let answer = match decided {
            Ok((admission, permissions, until, proven)) => {
                let workload = admission.workload.as_str();
                decision(workload).allow(&self.decisions);
                let served = self.served.load();
                let is_silent = self.silent.load().contains(&admission.workload);
                let permissions = if is_silent {
                    admission.silenced(&permissions)
                } else {
                    permissions
                };
                let permissions =
                    buckets::only_served(&permissions, &admissions.buckets, &served.served);
                let mut user = admission.user(&permissions);
                if let Some(tickets) = &self.tickets {
                    user = tickets.issue(&request, &user, admission.proof(), proven);
                }
                answer::allow(
                    &self.issuer,
                    &request,
                    &answer::Welcome {
                        user: &user,
                        permissions: &permissions,
                        placement: self.placement,
                        until,
                    },
                    now,
                    random.token_ids,
                )
            }
            Err(reason) => {
                let decision = decision(reason.workload());
                self.refuse(&decision, &reason, &request, now, random)
            }
        };
        seal(&answer, &server.shared, random)
    }

    fn refuse(
        &self,
        decision: &Decision<'_>,
        reason: &DenyReason,
        request: &CalloutRequest,
        now: UnixMillis,
        random: &Random,
    ) -> String {
        decision.deny(&self.decisions, reason.code(), &reason.to_string());
        let [id, _] = random.token_ids;
        // One text for every reason: it lands in the server's log.
        let text = format!("refused, decision {}", HEXLOWER.encode(&random.decision));
        answer::deny(&self.issuer, request, &text, now, id)
    }

    /// Who is let in to join, if anybody is.
    fn join(
        &self,
        request: &CalloutRequest,
        digest: [u8; 32],
        now: UnixMillis,
    ) -> Result<Result<Invitation, DenyReason>, Silence> {
        let Some(inviters) = &self.inviters else {
            return Ok(Err(InvitationError::Foreign.into()));
        };
        let invitation = match inviters.attest(request, now) {
            Ok(invitation) => invitation,
            Err(reason) => return Ok(Err(reason)),
        };
        let workload = || invitation.workload.clone();
        if self.outcasts.load().contains(&invitation.workload) {
            return Ok(Err(DenyReason::Revoked(workload())));
        }
        Ok(match self.use_nonce(request, digest, now)? {
            Ok(()) => Ok(invitation),
            Err(why) => Err(why(workload())),
        })
    }

    fn decide<'a>(
        &self,
        admissions: &'a Admissions,
        request: &CalloutRequest,
        again: Option<&Ticket>,
        digest: [u8; 32],
        now: UnixMillis,
    ) -> Result<Result<Attested<'a>, DenyReason>, Silence> {
        let attested = match again {
            Some(ticket) => admissions.attest_again(request, ticket, now),
            None => admissions.attest(request, &self.token_keys, now),
        };
        let attested = match attested {
            Ok(attested) => attested,
            // Another broker may have them; this one cannot know.
            Err(DenyReason::NoIssuerKeys) => return Err(Silence::NoIssuerKeys),
            Err(reason) => return Ok(Err(reason)),
        };
        let workload = || attested.admission.workload.clone();
        if self.outcasts.load().contains(&attested.admission.workload) {
            return Ok(Err(DenyReason::Revoked(workload())));
        }
        // A token is good until it ends, and a handshake makes its own challenge.
        if !attested.answers_challenge {
            return Ok(Ok(attested));
        }
        Ok(match self.use_nonce(request, digest, now)? {
            Ok(()) => Ok(attested),
            Err(why) => Err(why(workload())),
        })
    }

    /// Uses up the challenge; why not, for the workload that answered it.
    fn use_nonce(
        &self,
        request: &CalloutRequest,
        digest: [u8; 32],
        now: UnixMillis,
    ) -> Result<Result<(), WhyNot>, Silence> {
        let used = self.nonces.lock().admit(
            (request.server, request.client_id, &request.nonce),
            digest,
            now,
            request.expires_at,
        );
        match used {
            NonceUse::First => Ok(Ok(())),
            NonceUse::SameRequest => Err(Silence::SameRequest),
            NonceUse::Replayed => Ok(Err(DenyReason::NonceReplayed)),
            NonceUse::Full => Ok(Err(DenyReason::NoncesFull)),
        }
    }
}

/// What was asked, sealed.
struct Question<'a> {
    sealed: &'a [u8],
    /// The server's xkey.
    sender: Nkey,
    digest: [u8; 32],
}

fn seal(answer: &str, shared: &CurveBox, random: &Random) -> Result<Vec<u8>, Silence> {
    let sealed = shared.seal(answer.as_bytes(), random.box_nonce);
    sealed.map_err(|_| Silence::DoesNotOpen)
}

/// A reason that names the workload.
type WhyNot = fn(WorkloadName) -> DenyReason;

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
    #[error("no keys of the token's issuer are held (`issuer_keys_missing`)")]
    NoIssuerKeys,
    #[error("the request was answered already, through the other queue group")]
    SameRequest,
}

impl Silence {
    /// A short stable name.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::NoIssuerKeys => "issuer_keys_missing",
            Self::Stale => "state_stale",
            Self::NotEncrypted => "not_encrypted",
            Self::DoesNotOpen => "does_not_open",
            Self::ForeignSender => "foreign_sender",
            Self::Request(error) => error.code(),
            Self::TooLate => "too_late",
            Self::FarExpiry => "far_expiry",
            Self::SameRequest => "same_request",
        }
    }
}

/// Less than this before its expiry a request is dropped: the client would
/// time out before the answer arrives, and working off such a queue starves
/// those behind it.
const NEAR_EXPIRY: Duration = Duration::from_millis(100);

/// Authorization time-outs are seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(90);

/// Requests that may come between the two deliveries of one.
const RECENT_CAPACITY: usize = 4_096;

/// Servers that are known at once.
const SERVER_CAPACITY: usize = 1_024;

/// Connections that may be remembered at once.
const NONCE_CAPACITY: usize = 65_536;
#[cfg(test)]
mod tests;
