//! A message on its way in: the order of checks from bytes to handler.
//!
//! size → version → strict decode → key id → credential → proof → subject,
//! kind and times → user's token → policy → chain → replay window → claim → handler. The first
//! check that fails ends it, is counted under its own code, and is silent
//! towards the peer until the proof has verified.

use std::sync::Arc;

use bulla_envelope::{
    CheckedEnvelope, DecodeError, ErrorCode, Expectation, Kind, LeafHash, OpenedEnvelope,
    SealedEnvelope, VerifiedCredential,
};
use bulla_identity::{Subject, UnixMillis};
use bulla_keyring::KeyId;
use bulla_policy::{APPEND_LIFE, Chain, Decision, Permit, Replay, Request, Requirements, Verb};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::chains::Hop;
use crate::clock;
use crate::content::ContentType;
use crate::control::AsOf;
use crate::decision_log::{self, DecisionId};
use crate::listened::Listening;
use crate::message::{Facts, Message};
use crate::once::{Once, Share};
use crate::original;
use crate::origins::{Origin, Origins};
use crate::refusal::{Refusal, chain};
use crate::shared::Shared;
use crate::trial;
use crate::unlock::Attempt;
use crate::user::User;

/// What a listener does with messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Subscriber,
    Server,
}

impl Role {
    fn kind(self) -> Kind {
        match self {
            Self::Subscriber => Kind::Event,
            Self::Server => Kind::Request,
        }
    }

    /// What the sender does.
    fn senders_verb(self) -> Verb {
        match self {
            Self::Subscriber => Verb::Publish,
            Self::Server => Verb::Request,
        }
    }

    /// What this process does.
    pub(crate) fn own_verb(self) -> Verb {
        match self {
            Self::Subscriber => Verb::Subscribe,
            Self::Server => Verb::Serve,
        }
    }
}

/// Opens what arrives on one subscription.
pub(crate) struct Opener {
    shared: Arc<Shared>,
    role: Role,
    once: Once,
    origins: Mutex<Origins>,
    listening: Listening,
}

/// A message that passed, and what is needed to answer it.
pub(crate) struct Received {
    pub(crate) message: Message<Bytes>,
    pub(crate) answer_to: Option<Box<AnswerTo>>,
}

/// Where and to what an answer goes.
#[derive(Clone)]
pub(crate) struct AnswerTo {
    pub(crate) reply_to: Subject,
    pub(crate) request: LeafHash,
    /// Whose request it is: replies may be for that process alone.
    pub(crate) requester: Arc<VerifiedCredential>,
    /// What the request's subject demands.
    pub(crate) requirements: Requirements,
}

/// A message that did not pass; `answer_to` only if its sender is proven.
pub(crate) struct Refused {
    pub(crate) answer_to: Option<Box<AnswerTo>>,
    pub(crate) decision: DecisionId,
    /// What the answer may say.
    pub(crate) code: ErrorCode,
}

/// What counts of a message from the bus.
struct Arrived {
    subject: async_nats::Subject,
    reply: Option<async_nats::Subject>,
    payload: Bytes,
}

/// A message from the bus, and how much of it has been given: it may carry
/// several of ours, each of which is decided, taken into the replay window and
/// delivered by itself.
pub(crate) struct Current {
    raw: Arrived,
    /// Decoded, ahead of its turn.
    decoded: Option<SealedEnvelope>,
    /// How many of its messages were given or refused.
    done: usize,
    /// None before it was judged.
    sound: Option<Sound>,
    /// What a member of a queue group has taken of it.
    share: Option<Share>,
    /// Whether it was looked at before its turn, and needs no claim.
    is_seen: bool,
    needs_none: bool,
}

/// An envelope that passed all but the replay window.
struct Sound {
    opened: OpenedEnvelope,
    facts: Arc<Facts>,
    answer_to: Option<Box<AnswerTo>>,
    /// When either of them moves on, it is judged anew, in whole.
    judged: Judged,
}

/// An envelope by a proven sender, for here and now.
struct Proven {
    envelope: CheckedEnvelope,
    answer_to: Option<Box<AnswerTo>>,
}

impl Sound {
    /// One of its messages. There is one at each place that is asked for.
    fn message_at(&self, place: usize) -> bulla_envelope::Message {
        let message = self.opened.message_at(place);
        message.unwrap_or_else(|| self.opened.first_message())
    }
}

/// By which state of policy and trust, and by which time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Judged {
    generation: u64,
    now: UnixMillis,
}

impl Current {
    pub(crate) fn new(raw: async_nats::Message) -> Self {
        Self {
            raw: Arrived {
                subject: raw.subject,
                reply: raw.reply,
                payload: raw.payload,
            },
            decoded: None,
            done: 0,
            sound: None,
            share: None,
            is_seen: false,
            needs_none: false,
        }
    }

    /// Whether nobody has looked at it yet.
    pub(crate) fn is_new(&self) -> bool {
        self.decoded.is_none() && self.sound.is_none()
    }

    fn decode(&mut self) -> Result<SealedEnvelope, DecodeError> {
        match self.decoded.take() {
            Some(decoded) => Ok(decoded),
            None => SealedEnvelope::decode(self.raw.payload.clone()),
        }
    }

    /// Hashes it together with the one before it, whose turn it is, if both say that
    /// they are by the same sender: nobody makes anybody hash what would not be hashed
    /// in its turn. What is wrong with it is found then.
    fn hash_beside(&mut self, before: &mut SealedEnvelope) {
        if before.is_hashed() || !self.is_new() {
            return;
        }
        if let Ok(mut decoded) = self.decode() {
            if decoded.key_id() == before.key_id() {
                before.hash_both(&mut decoded);
            }
            self.decoded = Some(decoded);
        }
    }

    /// Whether all of it was given or refused.
    pub(crate) fn is_done(&self) -> bool {
        let all = self.sound.as_ref().map_or(1, |s| s.opened.message_count());
        self.done >= all
    }
}

/// Its replay memory ends with it.
impl Drop for Opener {
    fn drop(&mut self) {
        self.listening.end_at(self.once.latest());
    }
}

impl Opener {
    pub(crate) fn new(
        shared: Arc<Shared>,
        role: Role,
        in_group: Option<String>,
        listening: Listening,
    ) -> Self {
        Self {
            once: Once::new(Arc::clone(&shared), in_group),
            shared,
            role,
            origins: Mutex::default(),
            listening,
        }
    }

    /// Runs every check on what comes alone, as requests do.
    pub(crate) async fn receive(&self, current: &mut Current) -> Result<Received, Refused> {
        let message = match self.next_at_once(current, None) {
            Some(given) => given?,
            // On the heap, as is all that is seldom waited for: the way of every
            // message is not to be as large as this.
            None => Box::pin(self.next(current)).await?,
        };
        let sound = current.sound.take();
        let answer_to = sound.and_then(|sound| sound.answer_to);
        Ok(Received { message, answer_to })
    }

    /// [`Opener::next`] if nothing has to be waited for. What came after it, if anything
    /// did, is prepared in passing.
    pub(crate) fn next_at_once(
        &self,
        current: &mut Current,
        after: Option<&mut Current>,
    ) -> Option<Result<Message, Refused>> {
        let judged = self.judged();
        let sound = match &current.sound {
            Some(sound) if sound.judged == judged => sound,
            _ => {
                let mut progress = Progress::default();
                match self.pass_at_once(current, after, judged, &mut progress) {
                    Ok(None) => return None,
                    Ok(Some(sound)) => current.sound.insert(sound),
                    Err(refusal) => return Some(Err(self.give_up(current, progress, &refusal))),
                }
            }
        };
        if current.share.is_none() {
            current.share = self.share(sound);
        }
        if current.share.is_some() {
            return None;
        }
        let message = sound.message_at(current.done);
        let taken = self
            .once
            .commit(&sound.opened, &message, judged.now)
            .map(|()| message)
            .map_err(Refusal::from);
        Some(self.give(sound, &mut current.done, taken))
    }

    /// The next message of what came, not to be asked for when all was given.
    ///
    /// Cancel safe: dropped before it ends, it goes on where it was.
    pub(crate) async fn next(&self, current: &mut Current) -> Result<Message, Refused> {
        let judged = self.judged();
        let sound = match &current.sound {
            Some(sound) if sound.judged == judged => sound,
            _ => {
                let mut progress = Progress::default();
                match self.pass(&current.raw, judged, &mut progress).await {
                    Ok(sound) => current.sound.insert(sound),
                    Err(refusal) => return Err(self.give_up(current, progress, &refusal)),
                }
            }
        };
        let place = current.done;
        let taken = self.take_once(sound, place, &mut current.share).await;
        self.give(sound, &mut current.done, taken)
    }

    /// What came is not sound: all that is left of it is refused.
    fn give_up(&self, current: &mut Current, mut progress: Progress, why: &Refusal) -> Refused {
        progress.messages -= current.done.min(progress.messages);
        current.done = usize::MAX;
        self.refuse(&current.raw.subject, &progress, why)
    }

    /// Hands on one message of a sound envelope, or refuses it; the others of its frame are
    /// judged by themselves (ENV-36).
    fn give(
        &self,
        sound: &Sound,
        done: &mut usize,
        taken: Result<bulla_envelope::Message, Refusal>,
    ) -> Result<Message, Refused> {
        if *done == 0 && sound.opened.message_count() > 1 {
            self.shared.stats.count_frame_received();
        }
        *done += 1;
        let message = taken.map_err(|refusal| self.refuse_one(sound, &refusal))?;
        self.log_allow(&sound.facts);
        self.shared.stats.count_delivered();
        Ok(Message {
            payload: message.body,
            id: message.id,
            facts: Arc::clone(&sound.facts),
        })
    }

    /// Takes one message of a sound envelope, once for ever: the last step.
    async fn take_once(
        &self,
        sound: &Sound,
        place: usize,
        share: &mut Option<Share>,
    ) -> Result<bulla_envelope::Message, Refusal> {
        let Sound { opened, judged, .. } = sound;
        let message = sound.message_at(place);
        if share.is_none() {
            *share = self.share(sound);
        }
        match share {
            Some(share) => share.give(place).await?,
            None => self.once.commit(opened, &message, judged.now)?,
        }
        Ok(message)
    }

    /// Whether other processes get what this one does not.
    pub(crate) const fn is_in_group(&self) -> bool {
        self.once.is_in_group()
    }

    fn share(&self, sound: &Sound) -> Option<Share> {
        let requirements = sound.facts.permit.requirements();
        self.once
            .share(&sound.opened, &requirements, sound.judged.now)
    }

    /// Asks for the claim of an envelope before its turn, once. False if it needs
    /// none, or has to wait for something before that is known; what is to be
    /// refused is refused when its turn comes.
    pub(crate) fn claim_ahead(&self, current: &mut Current) -> bool {
        if !current.is_seen {
            current.is_seen = true;
            let judged = self.judged();
            let mut progress = Progress::default();
            match self.pass_at_once(current, None, judged, &mut progress) {
                Ok(Some(sound)) => {
                    current.share = self.share(&sound);
                    current.needs_none = current.share.is_none();
                    current.sound = Some(sound);
                }
                Ok(None) => current.needs_none = true,
                Err(_) => {}
            }
        }
        !current.needs_none
    }

    fn judged(&self) -> Judged {
        Judged {
            // Read before the state that it names, so that a change in between
            // makes what follows stale rather than wrongly fresh.
            generation: self.shared.control.generation(),
            now: clock::now(),
        }
    }

    fn refuse_one(&self, sound: &Sound, refusal: &Refusal) -> Refused {
        let facts = &sound.facts;
        let progress = Progress {
            origin: Some(Arc::clone(&facts.origin)),
            user: facts.user.clone(),
            answer_to: sound.answer_to.clone(),
            messages: 1,
        };
        self.refuse(facts.origin.subject.as_str(), &progress, refusal)
    }

    /// All checks but the replay window.
    async fn pass(
        &self,
        raw: &Arrived,
        judged: Judged,
        progress: &mut Progress,
    ) -> Result<Sound, Refusal> {
        let (shared, now) = (&self.shared, judged.now);
        shared.control.check(now)?;
        let sealed = SealedEnvelope::decode(raw.payload.clone())?;
        let origin = match self.known(sealed.key_id(), &raw.subject, judged) {
            Some(origin) => origin,
            None => self.meet(sealed.key_id(), &raw.subject, now).await?,
        };
        let proven = self.prove(sealed, &origin, raw, judged, progress)?;
        let (envelope, unlocker) = (proven.envelope, &shared.unlocker);
        let opened = unlocker.open(envelope, &origin.requirements).await?;
        let users = &shared.users;
        let user = users.of_message(&shared.control, &opened, now, now).await?;
        progress.user.clone_from(&user);
        let permit = self.decide(&origin, user.as_ref(), now)?;
        let hops = match permit.requirements().chain {
            Chain::Reported => Vec::new(),
            Chain::Proven => {
                let (user, as_of) = (user.as_ref(), AsOf::Now);
                shared.prove_chain(&opened, user, as_of, now).await?
            }
        };
        let facts = self.facts(&opened, origin, judged, user, permit, hops)?;
        Ok(Sound {
            opened,
            facts,
            answer_to: proven.answer_to,
            judged,
        })
    }

    /// The same if nothing has to be looked up, fetched or verified for it that
    /// may have to be waited for; otherwise nothing, and `pass` begins anew.
    fn pass_at_once(
        &self,
        current: &mut Current,
        after: Option<&mut Current>,
        judged: Judged,
        progress: &mut Progress,
    ) -> Result<Option<Sound>, Refusal> {
        let (shared, now) = (&self.shared, judged.now);
        shared.control.check(now)?;
        let mut sealed = current.decode()?;
        let raw = &current.raw;
        let Some(origin) = self.known(sealed.key_id(), &raw.subject, judged) else {
            return Ok(None);
        };
        // A chain may have keys to look up: before anything is verified twice.
        if origin.requirements.chain == Chain::Proven {
            return Ok(None);
        }
        if let Some(after) = after {
            after.hash_beside(&mut sealed);
        }
        let proven = self.prove(sealed, &origin, raw, judged, progress)?;
        let attempt = shared
            .unlocker
            .open_at_once(proven.envelope, &origin.requirements)?;
        let Attempt::Opened(opened) = attempt else {
            return Ok(None);
        };
        let users = &shared.users;
        let Some(user) = users.of_message_at_once(&shared.control, &opened, now) else {
            return Ok(None);
        };
        let user = user?;
        progress.user.clone_from(&user);
        let permit = self.decide(&origin, user.as_ref(), now)?;
        if permit.requirements().chain == Chain::Proven {
            return Ok(None);
        }
        let facts = self.facts(&opened, origin, judged, user, permit, Vec::new())?;
        Ok(Some(Sound {
            opened,
            facts,
            answer_to: proven.answer_to,
            judged,
        }))
    }

    /// Its sender sealed it, for here and now. What is not is met with silence (ENV-35):
    /// where to answer is set last.
    fn prove(
        &self,
        sealed: SealedEnvelope,
        origin: &Arc<Origin>,
        raw: &Arrived,
        judged: Judged,
        progress: &mut Progress,
    ) -> Result<Proven, Refusal> {
        let shared = &self.shared;
        let messages = sealed.messages_unverified();
        let authentic = sealed.verify_with(&origin.credential, &shared.roots)?;
        progress.origin = Some(Arc::clone(origin));
        progress.messages = messages;
        if !origin.is_remembered() {
            self.origins.lock().insert(judged.generation, origin);
        }
        // What a stream stores passes by here as well: its life until it is
        // stored, and where the stream's word goes to, which is nobody's to answer.
        let is_append = self.is_append(&origin.requirements);
        let request = authentic.leaf();
        let envelope = authentic.check(&Expectation {
            subject: &raw.subject,
            reply_to: raw.reply.as_deref().filter(|_| !is_append),
            kinds: &[self.role.kind()],
            now: judged.now,
            skew: shared.options.clock_skew,
            max_age: if is_append {
                origin.requirements.max_age.min(APPEND_LIFE)
            } else {
                origin.requirements.max_age
            },
            not_before: self.listening.not_before(),
            request: None,
        })?;
        let answer_to = match envelope.reply_to() {
            None => None,
            Some(reply_to) if origin.owns_inbox(reply_to) => Some(Box::new(AnswerTo {
                reply_to: Subject::parse(reply_to).map_err(|_| Refusal::ForeignInbox)?,
                request,
                requester: Arc::clone(&origin.credential),
                requirements: origin.requirements,
            })),
            Some(_) => return Err(Refusal::ForeignInbox),
        };
        progress.answer_to.clone_from(&answer_to);
        Ok(Proven {
            envelope,
            answer_to,
        })
    }

    /// What is known of a message that may be handled.
    fn facts(
        &self,
        opened: &OpenedEnvelope,
        origin: Arc<Origin>,
        judged: Judged,
        user: Option<User>,
        permit: Permit,
        hops: Vec<Hop>,
    ) -> Result<Arc<Facts>, Refusal> {
        let (requirements, sender) = (&origin.requirements, &origin.sender.workload);
        let original = original::of_message(opened, requirements, user.as_ref(), sender)?;
        let past = self.shared.past_of(&origin.subject, opened, user.as_ref());
        Ok(Arc::new(Facts {
            original,
            user,
            leaf: opened.leaf(),
            content_type: opened
                .content_type()
                .map_or(ContentType::OctetStream, |text| origin.content_type(text)),
            headers: own_headers(opened),
            issued_at: opened.issued_at(),
            deadline: self.deadline(opened, judged.now),
            traceparent: opened.traceparent(),
            parent: opened.parent(),
            past,
            hops,
            permit,
            origin,
        }))
    }

    /// Until when the sender of a request waits. Its envelope lives for as long;
    /// counted from here where clocks differ, so that it is never cut short by that.
    fn deadline(&self, opened: &OpenedEnvelope, now: UnixMillis) -> Option<UnixMillis> {
        let (issued_at, expires_at) = (opened.issued_at(), opened.expires_at());
        let latest = expires_at.saturating_add(self.shared.options.clock_skew);
        let life = expires_at.saturating_since(issued_at);
        (self.role == Role::Server).then(|| now.saturating_add(life).min(latest))
    }

    /// Whether an event on such a subject is one that its sender appended.
    fn is_append(&self, requirements: &Requirements) -> bool {
        self.role == Role::Subscriber && requirements.replay == Some(Replay::Stream)
    }

    /// What is known already of a sender on a subject.
    fn known(&self, key_id: KeyId, subject: &str, judged: Judged) -> Option<Arc<Origin>> {
        let known = self
            .origins
            .lock()
            .find(judged.generation, key_id, subject)?;
        let earliest_now = judged.now.saturating_sub(self.shared.options.clock_skew);
        // If not, looking it up says why.
        (known.usable_until >= earliest_now).then_some(known)
    }

    /// Looks up who holds a key and what the policy says of the subject.
    async fn meet(
        &self,
        key_id: KeyId,
        subject: &str,
        now: UnixMillis,
    ) -> Result<Arc<Origin>, Refusal> {
        let control = &self.shared.control;
        let subject = Subject::parse(subject).map_err(|_| Refusal::Subject)?;
        let credential = control.credential(key_id, now).await?;
        let requirements = control.policy().policy().requirements(&subject);
        let bundle_ends = control.bundle_expires_at();
        Ok(Arc::new(Origin::new(
            subject,
            credential,
            requirements,
            bundle_ends,
        )))
    }

    /// The sender may send it, and this process may receive it, for this user.
    fn decide(
        &self,
        origin: &Origin,
        user: Option<&User>,
        now: UnixMillis,
    ) -> Result<Permit, Refusal> {
        if let Some(permit) = origin.permit(user.is_some(), now) {
            origin.count_use_again();
            self.note_allowed(permit, origin, user);
            return Ok(permit.clone());
        }
        let control = &self.shared.control;
        let policy = control.policy();
        let ask = |workload, verb| {
            let request = Request {
                workload,
                verb,
                subject: &origin.subject,
                user: user.map(User::claims),
                now,
            };
            control.decide(&policy, &request)
        };
        let sent_by = if self.is_append(&origin.requirements) {
            Verb::Append
        } else {
            self.role.senders_verb()
        };
        let permit = ask(&origin.sender.workload, sent_by);
        let own = || ask(&self.shared.options.workload, self.role.own_verb());
        let permit = match permit {
            Decision::Allow(permit) => permit,
            Decision::Deny(denial) => {
                // It would be received only if both would be allowed.
                if denial.would().is_some() && would_allow(&own()) {
                    let what = self.what(origin, user);
                    trial::denied(&self.shared.stats, &denial, &what);
                }
                return Err(Refusal::Policy(Box::new(denial)));
            }
        };
        let own = match own() {
            Decision::Allow(own) => {
                let (workload, verb) = (&self.shared.options.workload, self.role.own_verb());
                origin.count_use(own.rule(), || {
                    let (decisions, on) = (&self.shared.decisions, &origin.subject);
                    decisions.tally(workload, own.rule(), verb, on)
                });
                own
            }
            Decision::Deny(denial) => {
                if permit.would().is_none() {
                    let what = self.what(origin, user);
                    trial::denied(&self.shared.stats, &denial, &what);
                }
                return Err(Refusal::OwnPolicy(Box::new(denial)));
            }
        };
        let permit = permit.ending_with(&own);
        self.note_allowed(&permit, origin, user);
        origin.remember(user.is_some(), permit.clone());
        Ok(permit)
    }

    fn note_allowed(&self, permit: &Permit, origin: &Origin, user: Option<&User>) {
        trial::allowed(&self.shared.stats, permit, || self.what(origin, user));
    }

    fn what<'a>(&self, origin: &'a Origin, user: Option<&'a User>) -> decision_log::Subject<'a> {
        decision_log::Subject {
            enforcer: "receiver",
            workload: origin.sender.workload.path(),
            verb: self.role.senders_verb().as_str(),
            subject: origin.subject.as_str(),
            user,
        }
    }

    fn log_allow(&self, facts: &Facts) {
        self.shared.decisions.allow(
            decision_log::Subject {
                enforcer: "receiver",
                workload: facts.origin.sender.workload.path(),
                verb: self.role.senders_verb().as_str(),
                subject: facts.origin.subject.as_str(),
                user: facts.user.as_ref(),
            },
            &facts.permit,
            facts.origin.is_due(),
        );
    }

    fn refuse(&self, subject: &str, progress: &Progress, refusal: &Refusal) -> Refused {
        let messages = progress.messages as u64;
        self.shared
            .stats
            .count_refused_many(refusal.code(), messages);
        let origin = progress.origin.as_ref();
        let sender = origin.map_or("?", |origin| origin.sender.workload.path());
        let verb = self.role.senders_verb();
        let (denial, workload, verb) = match refusal {
            Refusal::Policy(denial) => (Some(denial), sender, verb),
            // About this process, not about the sender.
            Refusal::OwnPolicy(denial) => {
                let own = self.shared.options.workload.path();
                (Some(denial), own, self.role.own_verb())
            }
            _ => (None, sender, verb),
        };
        let code = denial.map_or(refusal.code(), |denial| denial.reason().code());
        let decision = self.shared.decisions.deny_beside(
            decision_log::Subject {
                enforcer: "receiver",
                workload,
                verb: verb.as_str(),
                subject,
                user: progress.user.as_ref(),
            },
            denial.and_then(|denial| denial.rule()).unwrap_or_default(),
            denial.and_then(|denial| denial.would()),
            (
                code,
                &format_args!("{}: {}", refusal.code(), chain(refusal)),
            ),
        );
        // A replay is not answered a second time: the first answer stands.
        let answer_to = match refusal {
            Refusal::Replay(_) | Refusal::ReplayedElsewhere => None,
            _ => progress.answer_to.clone(),
        };
        let code = match refusal {
            // Nothing is wrong with the request: it may be sent again.
            Refusal::Claim(_) | Refusal::Standing(_) => ErrorCode::Unavailable,
            _ => ErrorCode::Refused,
        };
        Refused {
            answer_to,
            decision,
            code,
        }
    }
}

/// How far a message got before it was refused.
struct Progress {
    /// Of whom, once that is proven.
    origin: Option<Arc<Origin>>,
    user: Option<User>,
    answer_to: Option<Box<AnswerTo>>,
    /// How many of ours it carries; one while nothing is proven.
    messages: usize,
}

/// Whether a decision would be a yes if all that is in shadow were enforced.
fn would_allow(decision: &Decision) -> bool {
    match decision {
        Decision::Allow(permit) => permit.would().is_none(),
        Decision::Deny(denial) => denial.would().is_some(),
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            origin: None,
            user: None,
            answer_to: None,
            messages: 1,
        }
    }
}

/// How a body is encoded: as its sender says, or as nobody does.
pub(crate) fn content_type(opened: &OpenedEnvelope) -> ContentType {
    opened
        .content_type()
        .map_or(ContentType::OctetStream, ContentType::parse)
}

pub(crate) fn own_headers(opened: &OpenedEnvelope) -> Vec<(String, String)> {
    opened
        .app_headers()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}
