//! Opening a stream: whose it is, from where on, and over what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulla_identity::{Subject, UnixMillis};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Response};

use crate::body::Answered;
use crate::bus::Bus;
use crate::events::{Events, Opening, StreamConfig};
use crate::problem::Problem;
use crate::refusal::{Refusal, refuse};
use crate::user::User;
use crate::visit::Visit;
use crate::websocket::{self, Handshake};

/// The number of the event that a client saw last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Who wants to listen to what.
pub(crate) struct Listener<'a> {
    pub(crate) config: StreamConfig,
    pub(crate) subject: &'a Subject,
    pub(crate) user: Option<&'a User>,
    /// Whose streams are counted together.
    pub(crate) whose: String,
    pub(crate) now: UnixMillis,
    pub(crate) query: &'a [(String, String)],
}

impl<B: Bus> Visit<'_, B> {
    /// Opens a stream of what comes on the subject, from now on or from where the client
    /// stopped.
    pub(crate) async fn stream(
        &self,
        head: &mut Parts,
        listener: Listener<'_>,
    ) -> Result<Response<Answered>, Refusal> {
        let Listener { config, user, .. } = listener;
        let after = last_event(&head.headers, listener.query)?;
        let handshake = if config.websocket && websocket::is_asked(head) {
            Some(Handshake::read(head, self.loaded)?)
        } else {
            None
        };
        let streams = &self.edge.streams;
        let places = streams
            .all
            .open((), streams.most)
            .zip(streams.by_user.open(listener.whose, config.per_user))
            .ok_or_else(|| refuse(Problem::TooManyStreams, "too_many_streams"))?;
        // Before it begins to listen: a policy that comes meanwhile is another.
        let judged = AtomicU64::new(self.edge.bus.policy_revision());
        let receiver = self.edge.bus.listen(listener.subject, after).await?;
        let edge = Arc::clone(self.edge);
        let (subject, identity) = (listener.subject.clone(), user.map(|u| u.identity.clone()));
        let still_allowed = move || {
            let revision = edge.bus.policy_revision();
            let is_new = judged.swap(revision, Ordering::Relaxed) != revision;
            let may_edge = !is_new || edge.bus.may_listen(&subject);
            may_edge && identity.as_ref().is_none_or(|user| edge.still_allows(user))
        };
        let ends = user.and_then(|u| Some(u.identity.ends()?.saturating_add(u.leeway)));
        let events = Events::open(Opening {
            receiver,
            places,
            config,
            still_allowed: Arc::new(still_allowed),
            lifetime: ends.map(|ends| ends.saturating_since(listener.now)),
            stopping: streams.stopping.clone().cancelled_owned(),
            metrics: self.edge.metrics.clone(),
        });
        Ok(match handshake {
            None => events.response(),
            Some(handshake) => {
                let (response, talk) = handshake.accept(events);
                streams.talks.spawn(talk);
                response
            }
        })
    }
}

/// The parameter that says the same where a browser can set no header. An `EventSource`
/// keeps it when it comes back, and sends the header beside it, which then is newer.
pub(crate) const LAST_EVENT_PARAMETER: &str = "last_event_id";

/// After which event the client goes on: a number that the edge gave it. It is no secret,
/// and what somebody may hear does not depend on it.
pub(crate) fn last_event(
    headers: &HeaderMap,
    query: &[(String, String)],
) -> Result<Option<u64>, Refusal> {
    let unknown = || Problem::BadRequest("`Last-Event-ID` is none that was given here");
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let header = values.next().map(|v| v.to_str().map_err(|_| unknown()));
    if values.next().is_some() {
        return Err(unknown().into());
    }
    let mut parameters = query.iter().filter(|(n, _)| n == LAST_EVENT_PARAMETER);
    let parameter = parameters.next().map(|(_, value)| value.as_str());
    let read = |text: &str| -> Result<Option<u64>, Problem> {
        // A browser that has seen no number says nothing in its place.
        if text.is_empty() {
            return Ok(None);
        }
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.map(Some).ok_or_else(unknown)
    };
    let (header, parameter) = (header.transpose()?, parameter.map(read).transpose()?);
    let header = header.map(read).transpose()?;
    Ok(header.flatten().or(parameter.flatten()))
}
