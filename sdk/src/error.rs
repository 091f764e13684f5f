//! Errors, one enum per operation, grouped by who can do something about it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{SubjectError, WorkloadId};
use bulla_policy::Denial;

use crate::certificate::CertificateFileError;
use crate::connect_proof::TokenFileError;
use crate::content::PayloadError;
use crate::control::Standing;
use crate::decision_log::DecisionId;
use crate::lent::LentError;
use crate::user::MissingScope;

mod buckets;
mod streams;

use crate::vault::EncryptError;
pub use buckets::BucketError;
pub use streams::{AppendError, ConsumeError};

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The seed or root file cannot be used.
    #[error("cannot use the key file")]
    SecretFile(#[from] bulla_process::SecretFileError),
    /// The directory for what is kept cannot be used.
    #[error("cannot use the directory for what is kept")]
    StateDir(#[from] bulla_process::PrivateDirError),
    /// The seed file does not hold a user nkey seed.
    #[error("`{}` does not hold a user nkey seed (`SU…`)", path.display())]
    Seed {
        /// The file.
        path: PathBuf,
    },
    /// The trust root's file cannot be read.
    #[error("cannot read the trust root `{}`", path.display())]
    TrustRoot {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The trust root's file, or the variable in its place, does not hold public
    /// keys of roots alone.
    #[error("no trust root's public key is pinned by `{}` or BULLA_TRUST_ROOT", path.display())]
    TrustRootKey {
        /// The file.
        path: PathBuf,
    },
    /// Not a NATS URL.
    #[error(
        "`{url}` is no NATS URL: write for example `nats://127.0.0.1:4222` or `tls://bus.example`"
    )]
    Url {
        /// What was given, without credentials.
        url: String,
    },
    /// A user or password in the URL.
    #[error(
        "the NATS URL holds credentials: workloads prove themselves with their seed file, remove them"
    )]
    UrlCredentials,
    /// No TLS to a host that is not loopback.
    #[error("`{url}` is neither TLS nor loopback: use `tls://`")]
    Plaintext {
        /// The URL, without credentials.
        url: String,
    },
    /// nats-server cannot be reached.
    #[error("cannot connect to `{url}`")]
    Nats {
        /// The URL, without credentials.
        url: String,
        /// What the NATS client says.
        source: async_nats::ConnectError,
    },
    /// The broker did not let this workload in.
    #[error(
        "`{workload}` was not let in: is its public nkey in the policy, and does a broker run?"
    )]
    Unauthorized {
        /// Who.
        workload: WorkloadId,
    },
    /// Something did not come in time.
    #[error("timed out while waiting for {waiting_for}")]
    Timeout {
        /// What was awaited.
        waiting_for: &'static str,
    },
    /// The control stream gave nothing usable.
    #[error("cannot read the control stream")]
    Control(#[from] ControlError),
    /// No broker issued a credential.
    #[error("no broker issued a message credential")]
    Credential(#[from] CredentialError),
    /// The workload's certificate cannot be used.
    #[error("the workload's certificate cannot be used")]
    Certificate(#[from] CertificateFileError),
    /// The policy lets only a certificate vouch for this workload.
    #[error(
        "the policy lets only a certificate vouch for `{workload}`: set BULLA_CERTIFICATE_FILE and BULLA_CERTIFICATE_KEY_FILE"
    )]
    CertificateNeeded {
        /// Who.
        workload: WorkloadId,
    },
    /// The policy does not know this workload under this seed.
    #[error("the policy has no workload `{workload}` with the nkey `{nkey}`")]
    UnknownWorkload {
        /// Who.
        workload: WorkloadId,
        /// The public nkey of the seed file.
        nkey: bulla_identity::Nkey,
    },
    /// Nothing says how to prove the workload.
    #[error(
        "nothing proves `{workload}`: name its seed (BULLA_SEED_FILE), a token (BULLA_TOKEN_FILE) or a certificate (BULLA_CERTIFICATE_FILE)"
    )]
    NoProof {
        /// Who.
        workload: WorkloadId,
    },
    /// The token cannot be used.
    #[error("the workload's token cannot be used")]
    Token(#[from] TokenFileError),
    /// The policy has no such workload.
    #[error("the policy has no workload `{workload}`")]
    NotInPolicy {
        /// Who.
        workload: WorkloadId,
    },
    /// Nothing that this process has vouches for its messages.
    #[error(
        "the policy lets nothing that this process has vouch for `{workload}`: give it the nkey or certificate that `attest` lists, or say `vouches = true` beside `jwt`"
    )]
    NothingVouches {
        /// Who.
        workload: WorkloadId,
    },
    /// A credential is only kept under a key that is derived from an nkey.
    #[error(
        "`{workload}` has no nkey, under which its credential would be kept: leave BULLA_STATE_DIR out"
    )]
    StateNeedsSeed {
        /// Who.
        workload: WorkloadId,
    },
    /// The connection that was lent cannot be used.
    #[error("the connection that was lent cannot be used")]
    Lent(#[from] LentError),
    /// The connection was lost on the way.
    #[error("the connection to nats-server failed")]
    Link(#[from] LinkError),
}

/// Why trust bundle, policy or a credential could not be had from the control stream.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nothing there.
    #[error("the control stream holds no {what}: does a broker run, and did it publish?")]
    Missing {
        /// What was looked for.
        what: &'static str,
    },
    /// nats-server or the JetStream account did not answer.
    #[error("the control stream cannot be reached")]
    Link(#[from] LinkError),
    /// No recent head says that what is there is the newest: old records, or no
    /// broker that publishes heads.
    #[error("no recent head confirms what the control stream holds ({reason}): does a broker run?")]
    Unconfirmed {
        /// What is wrong with the newest head.
        reason: String,
    },
    /// What is there does not verify.
    #[error("the control stream's {what} does not verify: {reason}")]
    Invalid {
        /// What was looked at.
        what: &'static str,
        /// Why, from the check itself.
        reason: String,
    },
}

/// Why no message credential was issued.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// No broker answered.
    #[error("no broker answered")]
    Link(#[from] LinkError),
    /// The broker refused.
    #[error("the broker refused: {reason}")]
    Refused {
        /// The broker's short reason.
        reason: String,
    },
    /// The workload's certificate cannot be used.
    #[error("the workload's certificate cannot be used")]
    Certificate(#[source] Arc<CertificateFileError>),
    /// The certificate's key did not sign.
    #[error(transparent)]
    Signing(#[from] bulla_keyring::SigningError),
    /// What the broker sent does not verify.
    #[error("the broker's answer does not verify: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
}

/// What can go wrong between this process and nats-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection is down.
    #[error("not connected to nats-server")]
    Disconnected,
    /// Nobody listens there.
    #[error("nobody answers on that subject")]
    NoResponders,
    /// nats-server did not permit it.
    #[error("nats-server refused the subject")]
    Refused,
    /// Somebody answers where nobody may: the accounts are misconfigured.
    #[error("somebody serves the barrier subject: the accounts are misconfigured")]
    BarrierServed,
    /// The connection was lent without ears, and nobody answers what was asked for: a
    /// refusal by nats-server would be heard by nobody. Requests, appends, streams and
    /// reading buckets work without.
    #[error(
        "nobody would hear of a refusal by nats-server on the connection that was lent: make it with `Ears`"
    )]
    Deaf,
}

/// Where an operator looks when no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// At the way to nats-server, and at how busy it is.
    Unanswered,
    /// At what should answer: its stream, or what the accounts import and export.
    NobodyThere,
    /// At what the broker's callout let this workload do.
    NotPermitted,
}

impl LinkError {
    pub(crate) const fn silence(&self) -> Silence {
        match self {
            // Without ears for refusals nothing more is known.
            Self::Timeout | Self::Disconnected | Self::BarrierServed | Self::Deaf => {
                Silence::Unanswered
            }
            Self::NoResponders => Silence::NobodyThere,
            Self::Refused => Silence::NotPermitted,
        }
    }
}

/// What can go wrong before a message leaves. Shared by publish and request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Not a literal subject.
    #[error("`{subject}` is no subject to send to")]
    Subject {
        /// What was given.
        subject: String,
        /// Why.
        source: SubjectError,
    },
    /// The policy says no. Found before anything was sent.
    #[error("the policy denies it ({id}): {denial}")]
    Denied {
        /// The full reason.
        denial: Box<Denial>,
        /// Its name in the decision log.
        id: DecisionId,
    },
    /// The subject asks for encryption, and there is nothing to encrypt under.
    /// Nothing was sent.
    #[error("the message cannot be encrypted, and was not sent")]
    Encrypt(#[from] EncryptError),
    /// A stream stores what is sent there: what was only published would reach
    /// the stream without the id by which copies of it are found, and be refused
    /// by whoever consumes it.
    #[error("`{subject}` is a stream's: append to it instead ({id}); nothing was sent")]
    MustAppend {
        /// The subject.
        subject: String,
        /// The decision's name in the log.
        id: DecisionId,
    },
    /// The client's own token may not go there: the subject is not encrypted, or
    /// leaves the user's token outside, or this workload did not mint the user's
    /// token. Nothing was sent.
    #[error("the client's own token may not go to `{subject}`, and nothing was sent")]
    Original {
        /// The subject.
        subject: String,
    },
    /// The subject says `chain = "proven"`, and the message has no chain to show.
    /// Nothing was sent.
    #[error("`{subject}` asks for a proven chain, and the message was not sent")]
    Chain {
        /// The subject.
        subject: String,
        /// What is missing, and what would mend it.
        source: crate::chains::ProofError,
    },
    /// The payload does not encode.
    #[error("cannot encode the payload")]
    Payload(#[from] PayloadError),
    /// An application header breaks the envelope's rules.
    #[error("an application header cannot be sent")]
    Header(#[from] bulla_envelope::AppHeaderError),
    /// The envelope would not pass nats-server.
    #[error("the sealed message has {actual} bytes; nats-server takes at most {limit}")]
    TooLarge {
        /// The server's `max_payload`.
        limit: usize,
        /// The size of the envelope.
        actual: usize,
    },
    /// The envelope's own limits are broken.
    #[error("cannot seal the message")]
    Seal(#[from] bulla_envelope::SealError),
    /// The user's token is not valid, or not any more.
    #[error("the user's token is refused: {reason}")]
    User {
        /// Why, as a stable code.
        reason: &'static str,
    },
    /// This process may not send at the moment: nobody has confirmed lately that
    /// what it holds is the newest, or it is revoked.
    #[error("nothing is sent: {0}")]
    Standing(#[from] Standing),
    /// This process's credential has run out and no broker renews it.
    #[error("the message credential has expired and no broker has renewed it")]
    CredentialExpired,
    /// The trust bundle dropped the key that signed the policy in force, and no
    /// policy by another key has come.
    #[error("the policy in force is signed by a key that the trust bundle names no more")]
    PolicyUnvouched,
    /// The subject is not open: nothing goes there plain.
    #[error("the policy does not call `{subject}` open: publish it sealed")]
    NotOpen {
        /// The subject.
        subject: String,
    },
    /// Not connected, and what may wait for the connection is full. It was not sent;
    /// what was accepted before goes out once nats-server is back.
    #[error(
        "not connected to nats-server, and no more may wait for it: nothing was sent, try again when it is back"
    )]
    BufferFull,
    /// Not connected, or not with a connection that serves for it: the source says which.
    #[error("the connection to nats-server cannot be used for it")]
    Link(#[from] LinkError),
}

/// Why a publish failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It did not leave.
    #[error(transparent)]
    Send(#[from] SendError),
    /// nats-server refused earlier messages on this subject after it had taken
    /// them: they are lost, and so is this one.
    #[error(
        "nats-server refused {count} earlier message(s) on `{subject}`: they were not delivered, and this one was not sent"
    )]
    EarlierRefused {
        /// The subject.
        subject: String,
        /// How many were lost.
        count: u64,
    },
    /// Earlier messages on this subject were accepted and could not be sealed
    /// or sent: they are lost, and so is this one.
    #[error(
        "{count} earlier message(s) on `{subject}` could not be sent, and this one was not sent either"
    )]
    EarlierUnsent {
        /// The subject.
        subject: String,
        /// How many were lost.
        count: u64,
    },
}

/// Publishes that were lost after they had been accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// Refused subjects, each with the number of messages lost.
    #[error("nats-server refused published messages on {refused:?}")]
    Refused {
        /// By subject.
        refused: std::collections::BTreeMap<String, u64>,
    },
    /// Accepted, and neither sealed nor sent: the credential had run out or the
    /// connection was gone for good.
    #[error("accepted messages could not be sent on {unsent:?}")]
    Unsent {
        /// By subject.
        unsent: std::collections::BTreeMap<String, u64>,
    },
    /// No answer.
    #[error("cannot reach nats-server")]
    Link(#[from] LinkError),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It did not leave.
    #[error(transparent)]
    Send(#[from] SendError),
    /// nats-server says that nobody serves the subject. A hint, not a proof.
    #[error("nobody serves `{subject}` at the moment")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// No sound reply in time. It does not prove that nothing happened.
    #[error("no reply on `{subject}` within {}", humantime(*after))]
    Timeout {
        /// The subject.
        subject: String,
        /// How long was waited.
        after: Duration,
    },
    /// What came in time does not count: it is not signed where a signature is due,
    /// forged, for another request, from who may not serve the subject. Counted and
    /// logged one by one; whoever sent it cannot end the wait, so this comes when a
    /// sound reply has not.
    #[error(
        "no sound reply on `{subject}` within {}: {count} came and were refused, the last for `{reason}`",
        humantime(*after)
    )]
    UnsoundReply {
        /// The subject.
        subject: String,
        /// How long was waited.
        after: Duration,
        /// How many were refused.
        count: u64,
        /// Why the last of them was, as in the metric of refusals.
        reason: &'static str,
    },
    /// Whoever waits for what this request is part of waits no longer, see
    /// [`Context::remaining`](crate::Context::remaining). Nothing was sent.
    #[error("`{subject}` was not asked: the deadline of the request that caused it has passed")]
    DeadlinePassed {
        /// The subject.
        subject: String,
    },
    /// nats-server did not permit the request.
    #[error("nats-server refused the request on `{subject}`")]
    RefusedByServer {
        /// The subject.
        subject: String,
    },
    /// The service answered with an error of its own.
    #[error("the service answered with an error: {0}")]
    Service(ServiceError),
    /// The receiver refused the message; only its operator can tell why.
    #[error("the receiver refused the request (decision {decision})")]
    Refused {
        /// The name of the decision in the receiver's log.
        decision: String,
    },
    /// The service closes without a reply, or sends more than one: ask with
    /// [`Outgoing::request_many`](crate::Outgoing::request_many).
    #[error("`{subject}` is not answered with exactly one reply: use `request_many`")]
    NotOneReply {
        /// The subject.
        subject: String,
    },
    /// Later replies of a stream have come, and one before them has not.
    #[error("reply {index} on `{subject}` is missing after {}", humantime(*after))]
    ReplyMissing {
        /// The subject.
        subject: String,
        /// The number of the reply, from zero.
        index: u64,
        /// How long was waited.
        after: Duration,
    },
    /// The reply's payload is not what was asked for.
    #[error("cannot decode the reply")]
    Payload(#[from] PayloadError),
}

/// Why a service's reply was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// The replies are closed: by a last one, by the end of the handler, or
    /// because there is no number left.
    #[error("the replies to this request are closed")]
    Closed,
    /// The value does not encode.
    #[error("cannot encode the reply")]
    Payload(#[from] PayloadError),
    /// It did not leave.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Why a subscription could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// Not a pattern.
    #[error("`{pattern}` is no subject pattern")]
    Pattern {
        /// What was given.
        pattern: String,
        /// Why.
        source: bulla_identity::PatternError,
    },
    /// The policy grants this workload nothing on it.
    #[error("the policy denies it ({id}): {denial}")]
    Denied {
        /// The full reason.
        denial: Box<Denial>,
        /// Its name in the decision log.
        id: DecisionId,
    },
    /// nats-server did not permit it.
    #[error("nats-server refused the subscription to `{pattern}`")]
    RefusedByServer {
        /// The pattern.
        pattern: String,
    },
    /// The version of a service is none.
    #[error("`{version}` is no version: write it as SemVer does, for example `1.2.0`")]
    Version {
        /// What was given.
        version: String,
    },
    /// No answer, or a connection that does not serve for it: the source says which.
    #[error("the connection to nats-server cannot be used for it")]
    Link(#[from] LinkError),
}

/// Why a subscription gave no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// It was full, and messages were dropped, before what is given next. The
    /// subscription goes on.
    #[error(
        "the subscription was full: at least {at_least} NATS message(s) were dropped; take them faster, or give it more room (`subscription_capacity`)"
    )]
    Lagged {
        /// How many NATS messages, each of which may have carried several events.
        /// It may have been more: of very many at once the NATS client tells a part.
        at_least: u64,
    },
    /// It has ended.
    #[error("the subscription has ended")]
    Ended,
}

/// An error that a handler answers with. Code and message travel to the caller
/// in a signed error reply, so they must not hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ServiceError {
    code: ServiceErrorCode,
    message: String,
}

impl ServiceError {
    /// An error with a stable code and a message for people.
    #[must_use]
    pub fn new(code: ServiceErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// What kind of error it is.
    #[must_use]
    pub fn code(&self) -> ServiceErrorCode {
        self.code
    }

    /// The message for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The kinds of errors that a service tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServiceErrorCode {
    /// The request's content is wrong.
    Invalid,
    /// The thing asked for does not exist.
    NotFound,
    /// The request conflicts with what is there.
    Conflict,
    /// The user may not do this.
    Forbidden,
    /// A dependency is missing at the moment.
    Unavailable,
    /// The service failed.
    Internal,
}

impl ServiceErrorCode {
    const ALL: [Self; 6] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Forbidden,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The code on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// Reads a code; one that this version does not know is `Internal`.
    pub(crate) fn parse(text: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|c| c.as_str() == text)
            .unwrap_or(Self::Internal)
    }
}

impl std::fmt::Display for ServiceErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<PayloadError> for ServiceError {
    fn from(_: PayloadError) -> Self {
        Self::new(
            ServiceErrorCode::Invalid,
            "the payload is not what this service expects",
        )
    }
}

/// A failed request of a handler becomes an unavailable dependency for its own
/// caller: nothing of the inner error travels outward.
/// The caller learns that the user may not, not what is missing.
impl From<MissingScope> for ServiceError {
    fn from(_: MissingScope) -> Self {
        Self::new(ServiceErrorCode::Forbidden, "the user may not do this")
    }
}

impl From<RequestError> for ServiceError {
    fn from(error: RequestError) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a request inside a handler failed"
        );
        Self::new(ServiceErrorCode::Unavailable, "a dependency did not answer")
    }
}

/// A reply that cannot be sent is this service's own failure.
impl From<ReplyError> for ServiceError {
    fn from(error: ReplyError) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a reply could not be sent"
        );
        Self::new(ServiceErrorCode::Internal, "the service failed")
    }
}

impl From<PublishError> for ServiceError {
    fn from(error: PublishError) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a publish inside a handler failed"
        );
        Self::new(
            ServiceErrorCode::Unavailable,
            "an event could not be published",
        )
    }
}

fn humantime(d: Duration) -> String {
    format!("{d:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_unknown_ones_are_internal() {
        for code in ServiceErrorCode::ALL {
            assert_eq!(ServiceErrorCode::parse(code.as_str()), code);
        }
        assert_eq!(
            ServiceErrorCode::parse("teapot"),
            ServiceErrorCode::Internal
        );
    }
}
