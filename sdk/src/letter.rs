//! A message that may leave and is not sealed yet. It owns what it says, so
//! that it can wait for its batch without its sender.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{
    Ancestry, AppHeaders, Draft, Encryption, ErrorReport, LeafHash, MessageId, ReplyBinding,
    Sealer, TraceParent, is_content_type,
};
use bulla_identity::{Subject, UnixMillis};
use bulla_policy::{APPEND_LIFE, Batch, Frames, Replies, Requirements, Verb};
use bytes::Bytes;

use crate::append::Slot;
use crate::content::ContentType;
use crate::context::Context;
use crate::original::OriginalToken;
use crate::routes::Route;
use crate::user::User;
use crate::vault::KeyInUse;

/// What is going to be an envelope.
pub(crate) struct Letter {
    pub(crate) purpose: Purpose,
    pub(crate) to: To,
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<ContentType>,
    pub(crate) user: Option<User>,
    pub(crate) parent: Option<LeafHash>,
    pub(crate) traceparent: Option<TraceParent>,
    /// What few messages have. Every byte of a letter goes from the cache of the
    /// one who sends to the cache of the one who seals.
    extras: Option<Box<Extras>>,
    pub(crate) issued_at: UnixMillis,
    /// At most; the credential's end may be nearer.
    pub(crate) life: Duration,
    /// The credential that it must be sealed under, where that is not the one
    /// in use: all replies to one request are under one key.
    pub(crate) under: Option<Arc<Sealer>>,
    /// Under which it is encrypted, where the subject asks for it.
    pub(crate) key: Option<Arc<KeyInUse>>,
    /// Whether the user token stays readable nevertheless.
    pub(crate) open_token: bool,
    pub(crate) sharing: Sharing,
    id: MessageId,
}

#[derive(Default)]
struct Extras {
    headers: AppHeaders,
    /// The client's own token.
    original: Option<OriginalToken>,
    /// What proves the chain of calls, where the subject asks for it; it goes
    /// with the parent.
    ancestry: Option<Ancestry>,
}

impl Extras {
    /// How many bytes they take, roughly.
    fn len(&self) -> usize {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| name.len() + value.len());
        let original = self.original.as_ref();
        headers.sum::<usize>()
            + original.map_or(0, |token| token.expose().len())
            + self.ancestry.as_ref().map_or(0, Ancestry::len)
    }
}

/// Where it goes.
#[derive(Clone)]
pub(crate) enum To {
    /// A subject that the policy names.
    Route(Arc<Route>),
    /// A reply subject, used once.
    Inbox(Subject),
}

/// What it may share with those that wait at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sharing {
    /// An envelope, with messages to the same subject.
    pub(crate) frame: bool,
    /// A signature, with messages to other subjects.
    pub(crate) batch: bool,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            frame: false,
            batch: true,
        }
    }
}

impl Sharing {
    /// As far as the subject's policy allows.
    pub(crate) fn of(requirements: &Requirements) -> Self {
        Self {
            frame: requirements.frames == Frames::Auto,
            batch: requirements.batch == Batch::Shared,
        }
    }

    /// Of answers to requests on a subject.
    pub(crate) fn of_answers(requirements: &Requirements) -> Self {
        Self {
            frame: false,
            ..Self::of(requirements)
        }
    }
}

/// What it is for.
#[derive(Clone)]
pub(crate) enum Purpose {
    Event,
    /// An event that its sender itself hands to a stream.
    Append(Arc<Slot>),
    Request {
        reply_to: Subject,
    },
    Reply(ReplyBinding),
    Error {
        request: LeafHash,
        index: u32,
        report: ErrorReport,
    },
}

/// What a unit of weight holds, see [`Letter::weight`].
const UNIT: usize = 1_024;
/// More than everything of a plain envelope takes that is not counted in
/// [`Letter::bound`].
const PLAIN: usize = 512;
/// How far apart the messages of a frame may have been issued: they share the
/// time of the first, and none is to lose much of its life by that.
const FRAME_SPREAD: Duration = Duration::from_millis(100);

impl From<Arc<Route>> for To {
    fn from(route: Arc<Route>) -> Self {
        Self::Route(route)
    }
}

impl From<Subject> for To {
    fn from(inbox: Subject) -> Self {
        Self::Inbox(inbox)
    }
}

impl To {
    /// The subject as the NATS client takes it.
    pub(crate) fn nats(&self) -> async_nats::Subject {
        match self {
            Self::Route(route) => route.nats.clone(),
            Self::Inbox(subject) => subject.as_str().into(),
        }
    }

    pub(crate) fn subject(&self) -> &Subject {
        match self {
            Self::Route(route) => &route.subject,
            Self::Inbox(subject) => subject,
        }
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Route(a), Self::Route(b)) if Arc::ptr_eq(a, b) => true,
            _ => self.subject() == other.subject(),
        }
    }
}

impl Letter {
    pub(crate) fn new(
        purpose: Purpose,
        to: impl Into<To>,
        body: Bytes,
        issued_at: UnixMillis,
        life: Duration,
    ) -> Self {
        Self {
            purpose,
            to: to.into(),
            body,
            content_type: None,
            user: None,
            parent: None,
            traceparent: None,
            extras: None,
            issued_at,
            life,
            under: None,
            key: None,
            open_token: false,
            sharing: Sharing::default(),
            id: MessageId(rand::random::<u128>().to_be_bytes()),
        }
    }

    /// An event to a subject of the policy, of which nothing is decided yet, with a
    /// trace if there is one that is nearer than what it is sent because of.
    pub(crate) fn begin(
        route: Arc<Route>,
        content_type: ContentType,
        cause: Option<&Context>,
        trace: Option<TraceParent>,
    ) -> Box<Self> {
        let to = To::Route(route);
        let parent = cause.and_then(|cause| cause.parent);
        let traceparent = trace.or_else(|| cause.and_then(|cause| cause.traceparent));
        let id = MessageId(rand::random::<u128>().to_be_bytes());
        // Where it stays, rather than moved there.
        Box::new(Self {
            purpose: Purpose::Event,
            to,
            body: Bytes::new(),
            content_type: Some(content_type),
            user: None,
            parent,
            traceparent,
            extras: None,
            issued_at: UnixMillis::default(),
            life: Duration::ZERO,
            under: None,
            key: None,
            open_token: false,
            sharing: Sharing::default(),
            id,
        })
    }

    /// Takes on what it is sent because of.
    pub(crate) fn enter(&mut self, context: &Context) {
        self.parent = context.parent;
        self.traceparent = context.traceparent;
    }

    /// What the policy says of it, and from when on it counts.
    pub(crate) fn conclude(&mut self, verb: Verb, requirements: &Requirements, now: UnixMillis) {
        self.issued_at = now;
        // What a stream stores is consumed for as long as `max_age` says, and
        // reaches the stream soon or never.
        self.life = match verb {
            Verb::Append => requirements.max_age.min(APPEND_LIFE),
            _ => requirements.max_age,
        };
        self.open_token = requirements.open_token;
        self.sharing = Sharing::of(requirements);
    }

    /// The application's headers, to be added to.
    pub(crate) fn headers_mut(&mut self) -> &mut AppHeaders {
        &mut self.extras.get_or_insert_default().headers
    }

    /// Hands on the client's own token.
    pub(crate) fn carry(&mut self, original: OriginalToken) {
        self.extras.get_or_insert_default().original = Some(original);
    }

    /// Whether it hands on the client's own token.
    pub(crate) fn carries_original(&self) -> bool {
        self.original().is_some()
    }

    /// Proves the chain of calls, or does not.
    pub(crate) fn show(&mut self, ancestry: Option<Ancestry>) {
        self.parent = ancestry.as_ref().map(Ancestry::nearest);
        if ancestry.is_some() || self.extras.is_some() {
            self.extras.get_or_insert_default().ancestry = ancestry;
        }
    }

    fn headers(&self) -> Option<&AppHeaders> {
        let headers = &self.extras.as_deref()?.headers;
        (!headers.is_empty()).then_some(headers)
    }

    fn original(&self) -> Option<&OriginalToken> {
        self.extras.as_deref()?.original.as_ref()
    }

    fn ancestry(&self) -> Option<&Ancestry> {
        self.extras.as_deref()?.ancestry.as_ref()
    }

    /// The revision of the policy that let it go.
    fn policy_revision(&self) -> Option<u64> {
        match &self.to {
            To::Route(route) => Some(route.revision),
            To::Inbox(_) => None,
        }
    }

    /// Takes an id that somebody chose in place of a random one.
    pub(crate) fn set_id(&mut self, id: MessageId) {
        self.id = id;
    }

    pub(crate) const fn id(&self) -> MessageId {
        self.id
    }

    /// What the sealer is to seal under a credential that ends then.
    /// `process` tells this process, and is only asked where it is going to be encrypted.
    pub(crate) fn draft(
        &self,
        credential_ends: UnixMillis,
        process: impl Fn() -> u32,
    ) -> Draft<'_> {
        let (to, at) = (self.to.subject(), self.issued_at);
        let until = at.saturating_add(self.life).min(credential_ends);
        let mut draft = match &self.purpose {
            Purpose::Event | Purpose::Append(_) => Draft::event(to, at, until, &self.body),
            Purpose::Request { reply_to } => Draft::request(to, reply_to, at, until, &self.body),
            Purpose::Reply(binding) => Draft::reply(to, *binding, at, until, &self.body),
            Purpose::Error {
                request,
                index,
                report,
            } => Draft::error(to, *request, *index, *report, at, until),
        };
        draft.content_type = self.named_content();
        draft.token = self.user.as_ref().map(|user| user.token().as_bytes());
        draft.limits = self.user.as_ref().and_then(User::encoded_limits);
        draft.original = self.original().map(|token| token.expose().as_bytes());
        draft.parent = self.parent;
        draft.ancestry = self.ancestry();
        draft.traceparent = self.traceparent;
        draft.policy_revision = self.policy_revision();
        draft.encryption = self.key.as_ref().map(|in_use| Encryption {
            key: &in_use.key,
            inline_wraps: in_use.inline_wraps(),
            open_token: self.open_token,
            process: process(),
        });
        draft.app_headers = self.headers();
        draft
    }

    /// The content type as the header says it. Who receives an event or a request
    /// without one takes it for bytes; a reply without one may be the end of them all
    /// (ENV-37).
    fn named_content(&self) -> Option<&str> {
        let is_reply = matches!(self.purpose, Purpose::Reply(_) | Purpose::Error { .. });
        match self.content_type.as_ref()? {
            ContentType::OctetStream if !is_reply => None,
            named => Some(named.as_str()),
        }
    }

    /// How replies to it prove themselves.
    pub(crate) fn replies(&self) -> Replies {
        match &self.to {
            To::Route(route) => route.requirements.replies,
            To::Inbox(_) => Replies::Signed,
        }
    }

    pub(crate) fn reply_to(&self) -> Option<&Subject> {
        match &self.purpose {
            Purpose::Request { reply_to } => Some(reply_to),
            _ => None,
        }
    }

    /// Whether it may be a message of the frame that begins with `first`: an
    /// event to the same subject whose header would say the same.
    pub(crate) fn fits_frame_of(&self, first: &Self) -> bool {
        let same_user = match (&self.user, &first.user) {
            (None, None) => true,
            (Some(a), Some(b)) => a.is_same(b),
            _ => false,
        };
        self.sharing.frame
            && first.sharing == self.sharing
            && matches!(self.purpose, Purpose::Event)
            && matches!(first.purpose, Purpose::Event)
            && self.to.is(&first.to)
            && same_user
            && self.policy_revision() == first.policy_revision()
            && self.content_type == first.content_type
            && self.headers() == first.headers()
            && self.original() == first.original()
            && self.parent == first.parent
            && self.ancestry().is_some() == first.ancestry().is_some()
            && self.traceparent == first.traceparent
            && self.life == first.life
            && self.key.as_ref().map(Arc::as_ptr) == first.key.as_ref().map(Arc::as_ptr)
            && self.open_token == first.open_token
            && self.issued_at >= first.issued_at
            && self.issued_at <= first.issued_at.saturating_add(FRAME_SPREAD)
    }

    /// [`Letter::bound`] of a signed event in which nothing can be wrong: no
    /// user, no headers, no cause. Whatever else could be is the policy's.
    pub(crate) fn plain_bound(&self) -> Option<usize> {
        let is_plain = matches!(self.purpose, Purpose::Event)
            && self.user.is_none()
            && self.key.is_none()
            && self
                .content_type
                .as_ref()
                .is_none_or(|text| is_content_type(text.as_str()));
        self.bound().filter(|_| is_plain)
    }

    /// A length that its envelope does not exceed if it is sealed alone, where
    /// that is known without encoding it.
    pub(crate) fn bound(&self) -> Option<usize> {
        // Once they do not ride along they never do again.
        let without_wraps = self.key.as_ref().is_none_or(|key| !key.inline_wraps());
        let without_limits = |user: &User| user.encoded_limits().is_none();
        let is_plain = self.user.as_ref().is_none_or(without_limits)
            && self.ancestry().is_none()
            && self.original().is_none()
            && without_wraps
            && self.headers().is_none();
        let reply_to = self.reply_to().map_or(0, |subject| subject.as_str().len());
        let content_type = self.content_type.as_ref().map_or(0, |t| t.as_str().len());
        let token = self.user.as_ref().map_or(0, |user| user.token().len());
        let lengths = self.to.subject().as_str().len() + reply_to + content_type + token;
        is_plain.then_some(self.body.len() + lengths + PLAIN)
    }

    /// How much room it takes while it waits: one, and one for each KiB of
    /// what an application can make long.
    pub(crate) fn weight(&self) -> u32 {
        let token = self.user.as_ref().map_or(0, |user| user.token().len());
        let limits = self.user.as_ref().and_then(User::encoded_limits);
        let more = limits.map_or(0, <[u8]>::len) + self.extras.as_deref().map_or(0, Extras::len);
        u32::try_from(1 + (self.body.len() + token + more) / UNIT).unwrap_or(u32::MAX)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use bulla_envelope::Limits;

    use crate::testing::{TestBus, TestUser};

    const POLICY: &str = r#"
        version = 1
        trust_domain = "acme.example"
        [workload.gateway]
        attest = [{ nkey = "@gateway@" }]
        mints = true
        [workload.back]
        attest = [{ nkey = "@back@" }]
        [subject."told"]
        protect = "encrypted"
        [[allow]]
        id = "tells"
        who = ["gateway"]
        may = ["publish"]
        on = ["told"]
        [[allow]]
        id = "listens"
        who = ["back"]
        may = ["subscribe"]
        on = ["told"]
    "#;

    /// Whatever an application can make long.
    #[tokio::test]
    async fn all_that_makes_a_message_large_is_weighed() {
        let bus = TestBus::start(POLICY).unwrap();
        let gateway = bus.client("gateway").await.unwrap();
        let _back = bus.client("back").await.unwrap();
        let token = bus.token(&gateway, &TestUser::new("alice")).unwrap();
        let start = || gateway.message("told").user_token(token.clone());
        let weigh = async |outgoing: crate::Outgoing<'_>| {
            let letter = outgoing.address(Verb::Publish).await.unwrap();
            letter.weight()
        };
        let plain = weigh(start()).await;
        let kib = "x".repeat(UNIT);
        assert_eq!(
            weigh(start().bytes(ContentType::Json, kib.clone())).await,
            plain + 1
        );
        let headers = start().header("a", &kib).header("b", &kib);
        assert_eq!(weigh(headers).await, plain + 2);
        assert_eq!(
            weigh(start().original_token(kib.repeat(16))).await,
            plain + 16
        );
        let scopes = (0..100).map(|n| format!("{n:030}"));
        let limits = Limits::none().keep_scopes(scopes);
        assert!(weigh(start().narrow(&limits)).await >= plain + 3);
    }
}
