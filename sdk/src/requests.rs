//! Asking: a request leaves, and its reply is waited for, opened and judged.

use bulla_envelope::{ErrorCode, Expectation, Kind, LeafHash, OpenedEnvelope, SealedEnvelope};
use bulla_identity::{Claims, Subject, UnixMillis};
use bulla_policy::{Decision, LONGEST_MAX_AGE, Request, Verb};

use crate::answers::ERROR_HEADER;
use crate::clock;
use crate::connection::Violation;
use crate::decision_log;
use crate::error::{LinkError, RequestError, SendError, ServiceError, ServiceErrorCode};
use crate::incoming::{content_type, own_headers};
use crate::letter::Purpose;
use crate::message::{Response, Sender};
use crate::outgoing::Outgoing;
use crate::refusal::{Refusal, chain};
use crate::shared::Shared;
use crate::user::User;

impl Outgoing<'_> {
    /// Sends it as a request and waits for the verified reply.
    ///
    /// Forged and unsound replies are counted and do not end the wait. The
    /// time-out counts from when the message may leave, and dropping the future
    /// before that keeps it from leaving.
    ///
    /// # Errors
    /// [`RequestError`]; a denial by policy is known before anything is sent.
    pub async fn request(self) -> Result<Response, RequestError> {
        let shared = self.shared;
        let timeout = self.timeout;
        let addressed = self.address(Verb::Request).await?;
        let subject = addressed.subject.as_str().to_owned();
        let mut expected = shared.replies.expect();
        let reply_to = Subject::parse(expected.subject()).map_err(|source| SendError::Subject {
            subject: expected.subject().to_owned(),
            source,
        })?;
        let mut watch = shared.connection.watch();
        let refused = Violation::Publish {
            subject: subject.clone(),
        };
        let user = addressed.user.clone();
        let user = user.as_ref().map(User::claims);
        let asked = addressed.subject.clone();
        let letter = addressed.letter(Purpose::Request { reply_to });
        let wait = async {
            let is_crowded = shared.replies.is_crowded();
            let leaf = shared.signer.post_and_tell(letter, is_crowded).await?;
            loop {
                let Some(raw) = expected.next().await else {
                    return Err(SendError::Link(LinkError::Disconnected).into());
                };
                if raw.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                    return Err(RequestError::NoResponders {
                        subject: subject.clone(),
                    });
                }
                if let Some(outcome) = shared.open_reply(raw, &asked, user, &leaf).await {
                    return outcome;
                }
            }
        };
        tokio::select! {
            outcome = tokio::time::timeout(timeout, wait) => {
                outcome.unwrap_or(Err(RequestError::Timeout { subject: subject.clone(), after: timeout }))
            }
            () = watch.wait_for(&refused) => {
                shared.connection.take_refused_publishes(&subject);
                Err(RequestError::RefusedByServer { subject: subject.clone() })
            }
        }
    }
}

impl Shared {
    /// Opens a reply; nothing if it is unsound, which is counted and ignored.
    pub(crate) async fn open_reply(
        &self,
        raw: async_nats::Message,
        request_subject: &Subject,
        user: Option<&Claims>,
        request: &LeafHash,
    ) -> Option<Result<Response, RequestError>> {
        match self.pass_reply(raw, request_subject, user, request).await {
            Ok(opened) => Some(outcome_of(&opened)),
            Err(refusal) => {
                self.stats.count_refused(refusal.code());
                decision_log::deny(
                    decision_log::Subject {
                        enforcer: "receiver",
                        workload: "?",
                        verb: Verb::Serve.as_str(),
                        subject: request_subject.as_str(),
                        user: None,
                    },
                    "",
                    &format_args!("{}: {}", refusal.code(), chain(&refusal)),
                );
                None
            }
        }
    }

    async fn pass_reply(
        &self,
        raw: async_nats::Message,
        request_subject: &Subject,
        user: Option<&Claims>,
        request: &LeafHash,
    ) -> Result<OpenedEnvelope, Refusal> {
        let now = clock::now();
        let sealed = SealedEnvelope::decode(raw.payload)?;
        let credential = self.control.credential(sealed.key_id(), now).await?;
        let authentic = sealed.verify_with(&credential, &self.roots)?;
        let opened = authentic
            .check(&Expectation {
                subject: &raw.subject,
                reply_to: raw.reply.as_deref(),
                kinds: &[Kind::Reply, Kind::Error],
                now,
                skew: self.options.clock_skew,
                // Bound to a request of our own that is still waiting.
                max_age: LONGEST_MAX_AGE,
                not_before: UnixMillis::default(),
                request: Some(*request),
            })?
            .open_clear()?;
        if opened.limits().is_some() {
            return Err(Refusal::Limits);
        }
        let policy = self.control.policy();
        let workload = &opened.sender().workload;
        match policy.policy().decide(&Request {
            workload,
            verb: Verb::Serve,
            subject: request_subject,
            user,
            now,
        }) {
            Decision::Allow(_) => Ok(opened),
            Decision::Deny(denial) => Err(Refusal::Policy(Box::new(denial))),
        }
    }
}

fn outcome_of(opened: &OpenedEnvelope) -> Result<Response, RequestError> {
    if let Some(report) = opened.error() {
        let decision = report.decision.to_hex();
        return Err(match report.code {
            ErrorCode::Refused => RequestError::Refused { decision },
            ErrorCode::Unavailable => service_error(
                ServiceErrorCode::Unavailable,
                "the service takes no requests now",
            ),
            ErrorCode::Failed => service_error(ServiceErrorCode::Internal, "the service failed"),
            ErrorCode::TooLarge => service_error(
                ServiceErrorCode::Internal,
                "the reply is too large to be sent",
            ),
            ErrorCode::Deadline => service_error(
                ServiceErrorCode::Unavailable,
                "the service did not finish in time",
            ),
        });
    }
    let body = opened.first_message().body;
    if let Some(code) = opened.app_header(ERROR_HEADER) {
        let message = String::from_utf8_lossy(&body).into_owned();
        return Err(RequestError::Service(ServiceError::new(
            ServiceErrorCode::parse(code),
            message,
        )));
    }
    Ok(Response {
        body,
        content_type: content_type(opened),
        headers: own_headers(opened),
        sender: Sender {
            workload: opened.sender().workload.clone(),
            key_id: opened.sender().key_id,
        },
    })
}

fn service_error(code: ServiceErrorCode, message: &str) -> RequestError {
    RequestError::Service(ServiceError::new(code, message))
}
