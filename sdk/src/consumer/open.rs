//! A stored message on its way in: ENV-46 and ENV-47 of the envelope's SPEC.md.
//!
//! Time is the stream's: credential, envelope and user's token are judged as of
//! when the stream stored the message, and for as long after that as the
//! subject's `max_age` says. Trust bundle and policy are those of now, so that a
//! revocation always applies.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{
    CredentialError as VerifyError, Expectation, Kind, MessageId, OpenedEnvelope, SealedEnvelope,
};
use bulla_identity::{Subject, UnixMillis};
use bulla_keyring::KeyId;
use bulla_policy::{APPEND_LIFE, Chain, Decision, Permit, Replay, Request, Requirements, Verb};
use bytes::Bytes;

use super::Consumer;
use super::delivery::Delivered;
use crate::append::{MESSAGE_ID, id_header};
use crate::chains::ChainRefusal;
use crate::claims::ClaimedValue;
use crate::clock;
use crate::control::{AsOf, LookupError};
use crate::decision_log;
use crate::incoming::{content_type, own_headers};
use crate::message::{Facts, Message, Sender};
use crate::original;
use crate::origins::Origin;
use crate::refusal::{Refusal, StoredRefusal, UserRefusal, chain};
use crate::trial;
use crate::unlock::UnlockError;
use crate::user::User;

/// How often a message that something may heal is handed back before it is
/// given up.
pub(super) const PATIENCE: u64 = 6;
/// The first pause after which it comes again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What came of a delivery.
pub(super) enum Outcome {
    Message(Message<Bytes>),
    Refused {
        code: &'static str,
        /// After this time it may come again; nothing if it must not.
        again: Option<Duration>,
    },
}

/// What is known of a message when it is refused.
#[derive(Default)]
struct Progress {
    sender: Option<Sender>,
    user: Option<User>,
}

impl Consumer {
    /// Runs every check.
    pub(super) async fn open(&self, raw: async_nats::Message, delivered: &Delivered) -> Outcome {
        let mut progress = Progress::default();
        let subject = raw.subject.clone();
        match self.pass(raw, delivered, &mut progress).await {
            Ok(message) => Outcome::Message(message),
            Err(refusal) => {
                let again = pause(&refusal, delivered.times);
                self.refuse(&subject, &progress, &refusal, again.is_none());
                Outcome::Refused {
                    code: refusal.code(),
                    again,
                }
            }
        }
    }

    async fn pass(
        &self,
        raw: async_nats::Message,
        delivered: &Delivered,
        progress: &mut Progress,
    ) -> Result<Message<Bytes>, Refusal> {
        let shared = &self.shared;
        let (at, now) = (delivered.stored_at, clock::now());
        let skew = shared.options.clock_skew;
        shared.control.check(now)?;
        let subject = Subject::parse(&raw.subject).map_err(|_| Refusal::Subject)?;
        let policy = shared.control.policy();
        let requirements = policy.policy().requirements(&subject);
        check_place(&requirements)?;
        check_age(at, now, skew, requirements.max_age)?;

        let msg_id = raw.headers.as_ref().and_then(|h| h.get(MESSAGE_ID));
        let msg_id = msg_id.map(|value| value.as_str().to_owned());
        let sealed = SealedEnvelope::decode(raw.payload)?;
        let key_id = sealed.key_id();
        let credential = shared.control.credential_as_of(key_id, at, now).await?;
        let authentic = sealed.verify_with(&credential, &shared.roots)?;
        progress.sender = Some(Sender {
            workload: authentic.sender().workload.clone(),
            key_id: authentic.sender().key_id,
        });
        let leaf = authentic.leaf();
        let checked = authentic.check(&Expectation {
            subject: &raw.subject,
            // What stands there is the duty to answer, and the server's.
            reply_to: None,
            kinds: &[Kind::Event],
            now: at,
            skew,
            max_age: APPEND_LIFE.min(requirements.max_age),
            not_before: UnixMillis::default(),
            request: None,
        })?;
        let opened = shared.unlocker.open(checked, &requirements).await?;
        if opened.message_count() != 1 {
            return Err(Refusal::Frame);
        }
        let first = opened.first_message();
        // Under another id the stream would have taken a copy of it.
        if msg_id.as_deref() != Some(id_header(first.id).as_str()) {
            return Err(StoredRefusal::OtherId.into());
        }

        let users = &shared.users;
        let user = users.of_message(&shared.control, &opened, at, now).await?;
        progress.user.clone_from(&user);
        let permit = self.decide(&opened, &subject, user.as_ref(), at)?;
        let hops = match requirements.chain {
            Chain::Reported => Vec::new(),
            Chain::Proven => {
                let (user, as_of) = (user.as_ref(), AsOf::Stored(at));
                shared.prove_chain(&opened, user, as_of, now).await?
            }
        };
        if self.is_claimed {
            let life = at
                .saturating_add(requirements.max_age)
                .saturating_add(skew.saturating_mul(2))
                .saturating_since(now);
            self.claim(key_id, first.id, delivered.sequence, life)
                .await?;
        }
        let is_due = self.tally.as_ref().is_some_and(|tally| {
            tally.count();
            tally.is_due()
        });
        shared.decisions.allow(
            decision_log::Subject {
                enforcer: "receiver",
                workload: opened.sender().workload.path(),
                verb: Verb::Append.as_str(),
                subject: subject.as_str(),
                user: user.as_ref(),
            },
            &permit,
            is_due,
        );
        let ends = credential.expires_at();
        let sender = &opened.sender().workload;
        let original = original::of_message(&opened, &requirements, user.as_ref(), sender)?;
        let facts = Facts {
            original,
            parent: opened.parent(),
            past: shared.past_of(&subject, &opened, user.as_ref()),
            hops,
            origin: Arc::new(Origin::new(subject, credential, requirements, ends)),
            user,
            leaf,
            content_type: content_type(&opened),
            headers: own_headers(&opened),
            issued_at: opened.issued_at(),
            // Nobody waits for what a stream stores.
            deadline: None,
            traceparent: opened.traceparent(),
            permit,
        };
        Ok(Message {
            payload: first.body,
            id: first.id,
            facts: Arc::new(facts),
        })
    }

    /// Its sender might append it, for this user, when the stream stored it
    /// (POL-107). Whether this workload may consume here was asked before it was
    /// taken.
    fn decide(
        &self,
        opened: &OpenedEnvelope,
        subject: &Subject,
        user: Option<&User>,
        at: UnixMillis,
    ) -> Result<Permit, Refusal> {
        let policy = self.shared.control.policy();
        let request = Request {
            workload: &opened.sender().workload,
            verb: Verb::Append,
            subject,
            user: user.map(User::claims),
            now: at,
        };
        let what = decision_log::Subject {
            enforcer: "consumer",
            workload: opened.sender().workload.path(),
            verb: Verb::Append.as_str(),
            subject: subject.as_str(),
            user,
        };
        match self.shared.control.decide(&policy, &request) {
            Decision::Allow(permit) => {
                trial::allowed(&self.shared.stats, &permit, || what);
                Ok(permit)
            }
            Decision::Deny(denial) => {
                trial::denied(&self.shared.stats, &denial, &what);
                Err(Refusal::Policy(Box::new(denial)))
            }
        }
    }

    /// Of a stream that forgets ids, this consumer remembers under which number
    /// each came first: the same number is a redelivery, another one a copy.
    async fn claim(
        &self,
        sender: KeyId,
        id: MessageId,
        sequence: u64,
        life: Duration,
    ) -> Result<(), Refusal> {
        let claimed = self
            .shared
            .claims
            .claim_stored((&self.stream, &self.name), sender, id, sequence, life)
            .await?;
        match claimed {
            ClaimedValue::Created | ClaimedValue::Equal => Ok(()),
            ClaimedValue::Different => Err(StoredRefusal::Copy.into()),
        }
    }

    fn refuse(&self, subject: &str, progress: &Progress, refusal: &Refusal, is_final: bool) {
        self.shared.stats.count_refused(refusal.code());
        let denial = match refusal {
            Refusal::Policy(denial) => Some(denial),
            _ => None,
        };
        let code = denial.map_or(refusal.code(), |denial| denial.reason().code());
        let fate = if is_final {
            "terminated"
        } else {
            "handed back"
        };
        self.shared.decisions.deny_beside(
            decision_log::Subject {
                enforcer: "receiver",
                workload: progress.sender.as_ref().map_or("?", |s| s.workload.path()),
                verb: Verb::Append.as_str(),
                subject,
                user: progress.user.as_ref(),
            },
            denial.and_then(|denial| denial.rule()).unwrap_or_default(),
            denial.and_then(|denial| denial.would()),
            (
                code,
                &format_args!("{}, {fate}: {}", refusal.code(), chain(refusal)),
            ),
        );
    }
}

/// The policy calls it a stream's subject: elsewhere nothing promises that a
/// copy would be found.
fn check_place(requirements: &Requirements) -> Result<(), StoredRefusal> {
    match requirements.replay {
        Some(Replay::Stream) => Ok(()),
        Some(Replay::Window | Replay::Shared) | None => Err(StoredRefusal::NotStreamed),
    }
}

/// Neither stored in the future nor too long ago.
pub(crate) fn check_age(
    at: UnixMillis,
    now: UnixMillis,
    skew: Duration,
    max_age: Duration,
) -> Result<(), StoredRefusal> {
    if at > now.saturating_add(skew) {
        return Err(StoredRefusal::InFuture);
    }
    if at.saturating_add(max_age) < now.saturating_sub(skew) {
        return Err(StoredRefusal::TooLate);
    }
    Ok(())
}

/// After which time a refused message may come again; nothing if nothing can
/// heal it. What an outage refuses comes until the outage is over; what a
/// credential, a policy, a trust bundle or the record of a data key on its way
/// could heal comes some times.
fn pause(refusal: &Refusal, times: u64) -> Option<Duration> {
    let heals = match refusal {
        Refusal::Credential(lookup)
        | Refusal::User(UserRefusal::Credential(lookup))
        | Refusal::Chain(ChainRefusal::Credential(lookup))
            if is_outage(lookup) =>
        {
            true
        }
        Refusal::Unlock(UnlockError::RecordCredential(lookup)) if is_outage(lookup) => true,
        Refusal::Unlock(UnlockError::Unreachable(_) | UnlockError::Refused)
        | Refusal::Standing(_)
        | Refusal::Claim(_)
        | Refusal::Stored(StoredRefusal::InFuture) => true,
        Refusal::Credential(
            LookupError::Unknown
            | LookupError::UnknownWorkload
            | LookupError::Verify(VerifyError::UnknownIssuer | VerifyError::OutlivesIssuer),
        )
        | Refusal::User(UserRefusal::Credential(_) | UserRefusal::MayNotMint)
        | Refusal::Policy(_)
        | Refusal::Chain(
            ChainRefusal::Credential(_) | ChainRefusal::Sender(_) | ChainRefusal::Receiver,
        )
        | Refusal::Unlock(UnlockError::NoRecord | UnlockError::RecordCredential(_))
        | Refusal::Stored(StoredRefusal::NotStreamed) => times < PATIENCE,
        _ => false,
    };
    let doublings = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX);
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings.min(16)));
    heals.then_some(pause.min(LONGEST_PAUSE))
}

/// Nothing can be told of the credential before somebody mends something that is
/// not about it.
const fn is_outage(lookup: &LookupError) -> bool {
    matches!(
        lookup,
        LookupError::Throttled
            | LookupError::Resting
            | LookupError::Unreachable(_)
            | LookupError::PolicyUnvouched
            | LookupError::Verify(VerifyError::BundleExpired)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LinkError;
    use crate::unlock::RecordFault;

    #[test]
    fn what_was_stored_may_be_consumed_for_the_subjects_max_age() {
        let (skew, age) = (Duration::from_secs(2), Duration::from_secs(60));
        let now = UnixMillis::from_secs(1_000);
        for (at, want) in [
            (1_002, Ok(())),
            (1_003, Err("stored_in_future")),
            (938, Ok(())),
            (937, Err("stored_too_long_ago")),
        ] {
            let got = check_age(UnixMillis::from_secs(at), now, skew, age);
            assert_eq!(got.map_err(|e| e.code()), want, "{at}");
        }
    }

    #[test]
    fn only_what_something_may_heal_comes_again() {
        let unreachable = || Refusal::Credential(LookupError::Unreachable(LinkError::Timeout));
        assert_eq!(pause(&unreachable(), 1), Some(FIRST_PAUSE));
        assert_eq!(pause(&unreachable(), 2), Some(FIRST_PAUSE * 2));
        assert_eq!(pause(&unreachable(), u64::MAX), Some(LONGEST_PAUSE));
        for outage in [
            LookupError::PolicyUnvouched,
            LookupError::Verify(VerifyError::BundleExpired),
        ] {
            for refusal in [
                Refusal::Credential(outage.clone()),
                Refusal::User(UserRefusal::Credential(outage.clone())),
                Refusal::Unlock(UnlockError::RecordCredential(outage.clone())),
            ] {
                let again = pause(&refusal, u64::MAX);
                assert_eq!(again, Some(LONGEST_PAUSE), "{refusal:?}");
            }
        }
        for keys_gone in [
            UnlockError::Unreachable(LinkError::Timeout),
            UnlockError::Unreachable(LinkError::NoResponders),
            UnlockError::Refused,
        ] {
            let again = pause(&Refusal::Unlock(keys_gone), u64::MAX);
            assert_eq!(again, Some(LONGEST_PAUSE));
        }
        let unknown_issuer = || LookupError::Verify(VerifyError::UnknownIssuer);
        for on_its_way in [
            Refusal::Credential(LookupError::Unknown),
            Refusal::Credential(unknown_issuer()),
            Refusal::Credential(LookupError::Verify(VerifyError::OutlivesIssuer)),
            Refusal::User(UserRefusal::Credential(unknown_issuer())),
            Refusal::Unlock(UnlockError::NoRecord),
            Refusal::Unlock(UnlockError::RecordCredential(unknown_issuer())),
        ] {
            let refusal = &on_its_way;
            assert!(pause(refusal, PATIENCE - 1).is_some(), "{refusal:?}");
            assert_eq!(pause(refusal, PATIENCE), None, "{refusal:?}");
        }
        for forged in [
            Refusal::Stored(StoredRefusal::OtherId),
            Refusal::Stored(StoredRefusal::Copy),
            Refusal::Stored(StoredRefusal::TooLate),
            Refusal::Frame,
            Refusal::Credential(LookupError::Verify(VerifyError::BadSignature)),
            Refusal::Credential(LookupError::WorkloadRevoked),
            Refusal::Unlock(UnlockError::Record(RecordFault::Foreign)),
        ] {
            assert_eq!(pause(&forged, 1), None, "{forged:?}");
        }
    }
}
