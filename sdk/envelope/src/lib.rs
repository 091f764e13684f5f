//! The sealed envelope: wire format, sealing, opening, replay windows, and the
//! credentials that envelopes are sealed under.
//!
//! Pure: no clock, no randomness, no I/O. The rules are numbered in `SPEC.md`
//! beside this crate; code and tests cite them.
//!
//! ```text
//! Draft ── Sealer::seal ──► Sealed.bytes ══ NATS ══► SealedEnvelope::decode     untrusted
//!                                                        │ verify(&VerifiedCredential)
//!                                                        ▼
//!                                                    AuthenticEnvelope          who sealed it
//!                                                        │ check(&Expectation)
//!                                                        ▼
//!                                                    OpenedEnvelope             here and now
//!                                                        │ (token, policy: not here)
//!                                                        ▼
//!                                                    ReplayWindow::commit       once
//!
//! root ─signs─► TrustBundle ─names─► issuing key ─signs─► Credential ◄─countersigns─ workload's nkey
//!                         └─names─► policy key ──signs─► SignedPolicy
//! ```
//!
//! What is deliberately absent: user tokens beyond their hash (bulla-token),
//! what a sender may do (bulla-policy), and where credentials come from
//! (bulla-sdk). Encryption suites are reserved in the format and refused.

mod app_headers;
mod credential;
mod format;
mod header;
mod limits;
mod names;
mod opened;
mod reader;
mod replay;
mod sealed;
mod sealer;
mod trace;
mod tree;
mod trust;
mod writer;

pub use app_headers::{AppHeaderError, AppHeaders};
pub use credential::{
    CountersignatureError, Credential, CredentialDecodeError, CredentialError, CredentialIssuer,
    CredentialRequest, IssueError, MAX_CREDENTIAL, MAX_CREDENTIAL_LIFE, RequestDraft, RequestError,
    RequestExpectation, Terms, VerifiedCredential,
};
pub use format::{ErrorCode, Field, Kind, ShapeError};
pub use header::{ErrorReport, ReplyBinding};
pub use limits::{
    MAX_APP_HEADER_NAME, MAX_APP_HEADER_VALUE, MAX_APP_HEADERS, MAX_APP_HEADERS_LEN, MAX_BATCH,
    MAX_CONTENT_TYPE, MAX_ENVELOPE, MAX_FRAME, MAX_HEADER, MAX_LIMITS, MAX_TOKEN,
};
pub use names::{DecisionId, Epoch, LeafHash, MessageId};
pub use opened::{AuthenticEnvelope, CheckError, Expectation, Message, OpenedEnvelope, Sender};
pub use reader::EncodingError;
pub use replay::{ReplayError, ReplayLimits, ReplayWindow};
pub use sealed::{DecodeError, SealedEnvelope, VerifyError};
pub use sealer::{Draft, FrameMessage, SealError, Sealed, Sealer};
pub use trace::TraceParent;
pub use trust::{
    IssuingKey, MAX_BUNDLE, MAX_BUNDLE_KEYS, MAX_ISSUING_LIFE, MAX_POLICY, SignedPolicy,
    SuccessionError, TrustBundle, TrustError,
};
