//! The sealed envelope: wire format, sealing, opening, replay windows, and the
//! credentials that envelopes are sealed under.
//!
//! Pure: no clock, no randomness, no I/O. The rules are numbered in `SPEC.md`
//! beside this crate; code and tests cite them.
//!
//! ```text
//! Draft ── Sealer::seal ──► Sealed.bytes ══ NATS ══► SealedEnvelope::decode     untrusted
//!                                                        │ verify(&VerifiedCredential), or
//!                                                        │ verify_with(…, &VerifiedRoots)
//!                                                        ▼
//!                                                    AuthenticEnvelope          who sealed it
//!                                                        │ check(&Expectation)
//!                                                        ▼
//!                                                    CheckedEnvelope            here and now
//!                                                        │ open_clear() or decrypt(&OpeningKey)
//!                                                        ▼
//!                                                    OpenedEnvelope             can be read
//!                                                        │ (token, policy: not here)
//!                                                        ▼
//!                                                    ReplayWindow::commit       once
//!
//! root ─signs─► TrustBundle ─names─► issuing key ─signs─► Credential ◄─countersigns─ workload's nkey or certificate
//!                         ├─names─► policy key ──signs─► SignedPolicy, RevocationList
//!                         └─names─► issuing key ─signs─► Head: which of all these are the newest
//! ```
//!
//! What is deliberately absent: user tokens beyond their hash (bulla-token),
//! what a sender may do (bulla-policy), and where credentials come from
//! (bulla-sdk).
//!
//! ```
//! # use std::time::Duration;
//! # use bulla_envelope::*;
//! # use bulla_identity::{NkeyKind, Subject, TrustDomain, UnixMillis, WorkloadId, WorkloadName};
//! # use bulla_keyring::{NkeySeed, SigningKey};
//! let now = UnixMillis::from_secs(1_800_000_000);
//! let (minute, skew) = (Duration::from_secs(60), Duration::from_secs(5));
//! let domain = TrustDomain::parse("acme.example")?;
//! let orders = WorkloadId::new(&domain, &WorkloadName::parse("orders")?);
//!
//! // The offline root names a broker's issuing key.
//! let (root, issuing) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
//! let end = now.saturating_add(minute);
//! let bundle = TrustBundle {
//!     trust_domain: domain.clone(),
//!     version: 1,
//!     issued_at: now,
//!     expires_at: end,
//!     root: *root.verifying_key(),
//!     former_roots: vec![],
//!     issuing: vec![IssuingKey { key: *issuing.verifying_key(), expires_at: end }],
//!     policy_keys: vec![],
//! };
//! let pinned = [*root.verifying_key()];
//! let bundle = TrustBundle::open(&bundle.sign(&root)?, &pinned, &domain, now, skew)?;
//!
//! // A process asks for a credential, its workload's nkey vouches, the broker issues.
//! let nkey = NkeySeed::from_random(NkeyKind::User, &[3; 32])?;
//! let message_key = SigningKey::from_seed(&[4; 32]);
//! let request = RequestDraft {
//!     workload: &orders,
//!     message_key: &message_key,
//!     process_keys: None,
//!     token_key: None,
//!     instance: [5; 16],
//!     challenge: [6; 32],
//!     requested_at: now,
//! };
//! let request = CredentialRequest::decode(&request.sign(Some(&nkey)))?.verify(
//!     &RequestExpectation {
//!         tag: orders.tag(),
//!         challenge: &[6; 32],
//!         anchors: (&[nkey.public()]).into(),
//!         now,
//!         skew,
//!         max_age: minute,
//!     },
//! )?;
//! let terms = Terms { not_before: now, expires_at: end, serial: [7; 16] };
//! let credential = CredentialIssuer::new(issuing).issue(&request, terms)?;
//!
//! // It seals …
//! let sealer = Sealer::new(&credential, message_key, Epoch([8; 8]))?;
//! let subject = Subject::parse("orders.created")?;
//! let sealed = sealer.seal(&Draft::event(&subject, now, end, b"42"), MessageId([9; 16]))?;
//!
//! // … and whoever receives it knows who did, and takes it once.
//! let credential = credential.verify(&bundle, &[nkey.public()], now, skew)?;
//! let opened = SealedEnvelope::decode(sealed.bytes)?.verify(&credential)?.check(&Expectation {
//!     subject: "orders.created",
//!     reply_to: None,
//!     kinds: &[Kind::Event],
//!     now,
//!     skew,
//!     max_age: minute,
//!     not_before: now,
//!     request: None,
//! })?.open_clear()?;
//! assert_eq!(opened.sender().workload, orders);
//! let mut window = ReplayWindow::new(ReplayLimits::default(), skew);
//! let message = opened.first_message();
//! window.commit(&opened, &message, now)?;
//! assert_eq!(message.body, "42");
//! assert_eq!(window.commit(&opened, &message, now), Err(ReplayError::Replayed));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ancestry;
mod app_headers;
mod countersignature;
mod credential;
mod data_key;
mod draft;
mod format;
mod former_root;
mod freshness;
mod head;
mod header;
mod kem_record;
mod limits;
mod names;
mod narrowing;
mod opened;
mod private;
mod reader;
mod replay;
mod request;
mod revocation;
mod roots;
mod sealed;
mod sealer;
mod sha256;
mod signed_policy;
mod trace;
mod tree;
mod trust;
mod writer;

pub use ancestry::{Ancestor, Ancestry, AncestryError, ChainError, Lineage};
pub use app_headers::{AppHeaderError, AppHeaders};
pub use countersignature::CountersignatureError;
pub use credential::{
    Credential, CredentialError, CredentialIssuer, IssueError, MAX_CREDENTIAL_LIFE, Terms,
    VerifiedCredential,
};
pub use data_key::{
    DataKeyDraft, DataKeyError, KeyReference, OpeningKey, Recipient, RecipientSet, SealingKey,
    UnwrapError, wrapped_to,
};
pub use draft::{Draft, Encryption, FrameMessage};
pub use format::{ErrorCode, Field, Kind, ShapeError, Suite};
pub use former_root::{FormerRoot, MAX_FORMER_ROOTS};
pub use freshness::{Bounds, Freshness, Heard, Stale};
pub use head::{Comparison, Head, HeadError, Holdings, MAX_HEAD, Mark};
pub use header::{ErrorReport, ReplyBinding, is_content_type};
pub use kem_record::KemRecord;
pub use limits::{
    MAX_ANCESTORS, MAX_ANCESTRY, MAX_APP_HEADER_NAME, MAX_APP_HEADER_VALUE, MAX_APP_HEADERS,
    MAX_APP_HEADERS_LEN, MAX_BATCH, MAX_CONTENT_TYPE, MAX_ENVELOPE, MAX_FRAME, MAX_HEADER,
    MAX_INLINE_WRAPS, MAX_LIFE, MAX_LIMITS, MAX_RECIPIENTS, MAX_TOKEN,
};
pub use names::{DecisionId, Epoch, LeafHash, MessageId};
pub use narrowing::{Limits, LimitsError};
pub use opened::{
    AuthenticEnvelope, CheckError, CheckedEnvelope, Expectation, Message, OpenError,
    OpenedEnvelope, Sender,
};
pub use private::{ClaimsOf, MAX_PRIVATE_CLAIMS, PrivateClaims};
pub use reader::EncodingError;
pub use replay::{LeafPrefix, ReplayError, ReplayLimits, ReplayWindow};
pub use request::{
    CredentialDecodeError, CredentialRequest, MAX_CREDENTIAL, ProcessKeys, RequestDraft,
    RequestError, RequestExpectation,
};
pub use revocation::{
    MAX_REVOCATION_LIST, MAX_REVOCATION_REASON, MAX_REVOCATIONS, Revocation, RevocationError,
    RevocationList, Revoked,
};
pub use roots::VerifiedRoots;
pub use sealed::{DecodeError, SealedEnvelope, VerifyError};
pub use sealer::{SealError, SealUnit, Sealed, Sealer};
pub use signed_policy::{MAX_COMMENT, MAX_POLICY, PolicyCandidate, SignedPolicy};
pub use trace::TraceParent;
pub use trust::{
    IssuingKey, MAX_BUNDLE, MAX_BUNDLE_KEYS, MAX_ISSUING_LIFE, SuccessionError, TrustBundle,
    TrustError,
};
