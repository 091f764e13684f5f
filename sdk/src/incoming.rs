//! A message on its way in: the order of checks from bytes to handler.
//!
//! size → version → strict decode → key id → credential → proof → subject,
//! kind and times → user's token → policy → replay window → claim → handler. The first
//! check that fails ends it, is counted under its own code, and is silent
//! towards the peer until the proof has verified.

use std::sync::Arc;

use bulla_envelope::{
    ErrorCode, Expectation, Kind, LeafHash, OpenedEnvelope, ReplayLimits, ReplayWindow,
    SealedEnvelope, VerifiedCredential,
};
use bulla_identity::{Subject, UnixMillis, reserved};
use bulla_policy::{APPEND_LIFE, Decision, Permit, Replay, Request, Requirements, Verb};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::claims::{self, Claim};
use crate::clock;
use crate::content::ContentType;
use crate::decision_log::{self, DecisionId};
use crate::message::{Facts, Message, Sender};
use crate::not_enforced::NotEnforced;
use crate::refusal::{Refusal, chain};
use crate::shared::Shared;
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
    /// The pattern that the members of this workload's queue group listen to;
    /// nothing where every process gets everything.
    in_group: Option<String>,
    window: Mutex<ReplayWindow>,
    not_before: UnixMillis,
}

/// A message that passed, and what is needed to answer it.
pub(crate) struct Received {
    pub(crate) message: Message<Bytes>,
    pub(crate) answer_to: Option<AnswerTo>,
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
    pub(crate) answer_to: Option<AnswerTo>,
    pub(crate) decision: DecisionId,
    /// What the answer may say.
    pub(crate) code: ErrorCode,
}

impl Opener {
    pub(crate) fn new(
        shared: Arc<Shared>,
        role: Role,
        in_group: Option<String>,
        not_before: UnixMillis,
    ) -> Self {
        let window = ReplayWindow::new(ReplayLimits::default(), shared.options.clock_skew);
        Self {
            shared,
            role,
            in_group,
            window: Mutex::new(window),
            not_before,
        }
    }

    /// Runs every check.
    pub(crate) async fn open(&self, raw: async_nats::Message) -> Result<Received, Refused> {
        let mut progress = Progress::default();
        let subject = raw.subject.clone();
        match self.pass(raw, &mut progress).await {
            Ok(received) => {
                self.shared.stats.count_delivered();
                Ok(received)
            }
            Err(refusal) => Err(self.refuse(&subject, &progress, &refusal)),
        }
    }

    async fn pass(
        &self,
        raw: async_nats::Message,
        progress: &mut Progress,
    ) -> Result<Received, Refusal> {
        let shared = &self.shared;
        let now = clock::now();
        let subject = Subject::parse(&raw.subject).map_err(|_| Refusal::Subject)?;
        let sealed = SealedEnvelope::decode(raw.payload)?;
        let credential = shared.control.credential(sealed.key_id(), now).await?;
        let authentic = sealed.verify_with(&credential, &shared.roots)?;
        progress.sender = Some(Sender {
            workload: authentic.sender().workload.clone(),
            key_id: authentic.sender().key_id,
        });

        let policy = shared.control.policy();
        let leaf = authentic.leaf();
        let requirements = policy.policy().requirements(&subject);
        // What a stream stores passes by here as well: its life until it is
        // stored, and where the stream's word goes to, which is nobody's to answer.
        let is_append = self.is_append(&requirements);
        let checked = authentic.check(&Expectation {
            subject: &raw.subject,
            reply_to: raw.reply.as_deref().filter(|_| !is_append),
            kinds: &[self.role.kind()],
            now,
            skew: shared.options.clock_skew,
            max_age: if is_append {
                requirements.max_age.min(APPEND_LIFE)
            } else {
                requirements.max_age
            },
            not_before: self.not_before,
            request: None,
        })?;
        let answer_to = match checked.reply_to() {
            None => None,
            Some(reply_to) => {
                let inbox = reserved::inbox_peers(checked.sender().workload.tag());
                let own = reply_to
                    .strip_prefix(&inbox)
                    .is_some_and(|rest| rest.starts_with('.'));
                if !own {
                    return Err(Refusal::ForeignInbox);
                }
                let reply_to = Subject::parse(reply_to).map_err(|_| Refusal::ForeignInbox)?;
                Some(AnswerTo {
                    reply_to,
                    request: leaf,
                    requester: Arc::clone(&credential),
                    requirements,
                })
            }
        };
        progress.answer_to.clone_from(&answer_to);
        let opened = shared.unlocker.open(checked, &requirements).await?;
        // Both are refused rather than half obeyed until they are supported.
        if opened.limits().is_some() {
            return Err(Refusal::Limits);
        }
        if opened.message_count() != 1 {
            return Err(Refusal::Frame);
        }

        let user = match opened.token() {
            None => None,
            Some(token) => {
                let token = std::str::from_utf8(&token)
                    .map_err(|_| crate::refusal::UserRefusal::NotText)?;
                Some(shared.users.verify(&shared.control, token, now).await?)
            }
        };
        progress.user.clone_from(&user);

        let permit = self.decide(&opened, &subject, user.as_ref(), now)?;
        let first = opened.first_message();
        self.window.lock().commit(&opened, &first, now)?;
        self.claim(&opened, &first, &permit, now).await?;

        self.log_allow(&opened, &subject, user.as_ref(), &permit);
        let facts = Facts {
            subject,
            sender: Sender {
                workload: opened.sender().workload.clone(),
                key_id: opened.sender().key_id,
            },
            user,
            id: first.id,
            leaf,
            content_type: content_type(&opened),
            headers: own_headers(&opened),
            issued_at: opened.issued_at(),
            traceparent: opened.traceparent(),
            permit,
        };
        Ok(Received {
            message: Message {
                payload: first.body,
                facts: Arc::new(facts),
            },
            answer_to,
        })
    }

    /// Whether an event on such a subject is one that its sender appended.
    fn is_append(&self, requirements: &Requirements) -> bool {
        self.role == Role::Subscriber && requirements.replay == Some(Replay::Stream)
    }

    /// ENV-45: in a queue group, where the subject asks for it, one process of
    /// all has each message. Whatever else comes of the claim is a refusal.
    async fn claim(
        &self,
        opened: &OpenedEnvelope,
        message: &bulla_envelope::Message,
        permit: &Permit,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let Some(pattern) = &self.in_group else {
            return Ok(());
        };
        match permit.requirements().replay_for(true) {
            Replay::Window => return Ok(()),
            // Of what a stream stores the group gets copies: claimed like others.
            Replay::Shared | Replay::Stream => {}
        }
        let shared = &self.shared;
        let (sender, skew) = (opened.sender().key_id, shared.options.clock_skew);
        let life = claims::life_of(opened.expires_at(), skew, now);
        let claimed = shared
            .claims
            .claim_message(shared.own_name(), pattern, sender, message.id, life)
            .await?;
        match claimed {
            Claim::Created => Ok(()),
            Claim::Held => Err(Refusal::ReplayedElsewhere),
        }
    }

    /// The sender may send it, and this process may receive it, for this user.
    fn decide(
        &self,
        opened: &OpenedEnvelope,
        subject: &Subject,
        user: Option<&User>,
        now: UnixMillis,
    ) -> Result<Permit, Refusal> {
        let policy = self.shared.control.policy();
        let user = user.map(User::claims);
        let ask = |workload, verb| {
            policy.policy().decide(&Request {
                workload,
                verb,
                subject,
                user,
                now,
            })
        };
        let sent_by = if self.is_append(&policy.policy().requirements(subject)) {
            Verb::Append
        } else {
            self.role.senders_verb()
        };
        let permit = match ask(&opened.sender().workload, sent_by) {
            Decision::Allow(permit) => permit,
            Decision::Deny(denial) => return Err(Refusal::Policy(Box::new(denial))),
        };
        NotEnforced::check(&permit.requirements())?;
        match ask(&self.shared.options.workload, self.role.own_verb()) {
            Decision::Allow(_) => Ok(permit),
            Decision::Deny(denial) => Err(Refusal::OwnPolicy(Box::new(denial))),
        }
    }

    fn log_allow(
        &self,
        opened: &OpenedEnvelope,
        subject: &Subject,
        user: Option<&User>,
        permit: &Permit,
    ) {
        decision_log::allow(
            decision_log::Subject {
                enforcer: "receiver",
                workload: opened.sender().workload.path(),
                verb: self.role.senders_verb().as_str(),
                subject: subject.as_str(),
                user: user.map(User::principal),
            },
            permit.rule(),
        );
    }

    fn refuse(&self, subject: &str, progress: &Progress, refusal: &Refusal) -> Refused {
        self.shared.stats.count_refused(refusal.code());
        let rule = match refusal {
            Refusal::Policy(denial) | Refusal::OwnPolicy(denial) => denial.rule(),
            _ => None,
        };
        let decision = decision_log::deny(
            decision_log::Subject {
                enforcer: "receiver",
                workload: progress.sender.as_ref().map_or("?", |s| s.workload.path()),
                verb: self.role.senders_verb().as_str(),
                subject,
                user: progress.user.as_ref().map(User::principal),
            },
            rule.unwrap_or_default(),
            &format_args!("{}: {}", refusal.code(), chain(refusal)),
        );
        // A replay is not answered a second time: the first answer stands.
        let answer_to = match refusal {
            Refusal::Replay(_) | Refusal::ReplayedElsewhere => None,
            _ => progress.answer_to.clone(),
        };
        let code = match refusal {
            // Nothing is wrong with the request: it may be sent again.
            Refusal::Claim(_) => ErrorCode::Unavailable,
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
#[derive(Default)]
struct Progress {
    sender: Option<Sender>,
    user: Option<User>,
    answer_to: Option<AnswerTo>,
}

pub(crate) fn content_type(opened: &OpenedEnvelope) -> ContentType {
    opened.content_type().map_or(
        ContentType::Other("application/octet-stream".into()),
        ContentType::parse,
    )
}

pub(crate) fn own_headers(opened: &OpenedEnvelope) -> Vec<(String, String)> {
    opened
        .app_headers()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}
