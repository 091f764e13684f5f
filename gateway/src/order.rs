//! What a request asks of the bus, and what becomes of the reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_identity::{Subject, UnixMillis};
use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Map, Value};

use crate::breaker::{Breaker, Pass};
use crate::bus::{Bus, BusError, BusMessage, BusReply, ServiceFault};
use crate::cache::{Answer, KeyMaker};
use crate::mapping::{Given, Source};
use crate::problem::Problem;
use crate::refusal::{Refusal, deny, refuse};
use crate::routes::{Mode, Route};
use crate::user::User;
use crate::visit::Visit;
use crate::{exchange, trace};

/// Everything that a message is made of.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) route: &'a Route,
    pub(crate) subject: &'a Subject,
    pub(crate) breaker: Option<&'a Arc<Breaker>>,
    pub(crate) content: &'a Content,
    pub(crate) captures: &'a [(&'a str, &'a str)],
    pub(crate) query: &'a [(String, String)],
    /// The signed headers that the edge names.
    pub(crate) headers: &'a [(String, String)],
    /// The headers of the request.
    pub(crate) request: &'a HeaderMap,
    pub(crate) user: Option<&'a User>,
    pub(crate) now: UnixMillis,
    /// How it is sent, and how long it waits.
    pub(crate) mode: Mode,
    pub(crate) timeout: Duration,
}

impl<B: Bus> Visit<'_, B> {
    /// Sends the message, and waits for what comes of it.
    pub(crate) async fn ask(&self, order: &Order<'_>) -> Result<Answer, Refusal> {
        let Order {
            route,
            subject,
            user,
            ..
        } = order;
        let minted = self.mint(route, subject, *user, order.now).await?;
        let (token, claims) = match minted {
            Some(minted) => (Some(minted.token), minted.claims),
            None => (None, Map::new()),
        };
        check_mapped_claims(route, *user, &claims)?;
        let given = Given {
            captures: order.captures,
            query: order.query,
            headers: order.request,
            claims: &claims,
        };
        let headers = exchange::with_mapped_headers(route, order.headers.to_vec(), &given)?;
        let (payload, content_type) = order.content.payload(route, &given)?;
        let message = BusMessage {
            subject: (*subject).clone(),
            payload,
            content_type,
            headers,
            token,
            original: user.and_then(|user| user.original.clone()),
            traceparent: trace::of_message(order.request),
        };
        let answer = self.send(order, message).await?;
        Ok(match route.cache {
            Some(cache) => answer
                .kept(cache, route.access.is_public())
                .varying(&route.forward_headers),
            None => answer,
        })
    }

    /// The same, or the reply of an earlier time.
    pub(crate) async fn kept(&self, order: &Order<'_>) -> Result<Arc<Answer>, Refusal> {
        let era = match &order.route.invalidation {
            None => 0,
            Some(invalidation) => match invalidation.era() {
                Some(era) => era,
                None => return self.ask(order).await.map(Arc::new),
            },
        };
        let key = self.key(order, era);
        self.loaded.answers.get(key, || self.ask(order)).await
    }

    /// What a kept reply is found by: all that the message says, who may be told, and
    /// since what was changed.
    fn key(&self, order: &Order<'_>, era: u64) -> [u8; 32] {
        let mut key = KeyMaker::default();
        key.part(&era.to_string());
        key.part(&order.route.id);
        key.part(order.subject.as_str());
        key.part(&self.edge.bus.policy_revision().to_string());
        key.pairs(order.captures.iter().copied());
        key.pairs(order.query.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        key.pairs(order.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        for mapping in order.route.headers.iter().chain(&order.route.payload) {
            // Headers of the request that only a mapping looks at.
            if let Source::Header(name) = &mapping.source {
                let values = order.request.get_all(name).iter();
                key.pairs(values.filter_map(|v| Some((name.as_str(), v.to_str().ok()?))));
            }
        }
        if let Some(user) = order.user {
            key.part(user.identity.issuer());
            key.part(user.identity.principal());
            key.part(&user.scopes.join(" "));
            let claims = Value::Object(self.edge.minter.context(&user.identity));
            key.part(&claims.to_string());
        }
        key.key()
    }

    async fn send(&self, order: &Order<'_>, message: BusMessage) -> Result<Answer, Refusal> {
        let pass = order
            .breaker
            .map(|breaker| breaker.pass(Instant::now()))
            .transpose()
            .map_err(|wait| refuse(Problem::Paused(wait), "breaker_open"))?;
        match order.mode {
            Mode::Publish => Box::pin(self.publish(order, message, pass)).await,
            Mode::Request | Mode::Aggregate | Mode::Stream => {
                let outcome = self.edge.bus.request(message, order.timeout).await;
                judge(pass, &outcome);
                self.respond(order.route, outcome?)
            }
        }
    }

    fn respond(&self, route: &Route, reply: BusReply) -> Result<Answer, Refusal> {
        let answer = exchange::response(route, reply, self.loaded.limits.reply).map_err(|problem| {
            tracing::warn!(
                route = route.id,
                "the reply is too large, or asks for a status or header that the route does not allow"
            );
            refuse(problem, "bad_reply")
        })?;
        // The schema of an aggregate is that of the whole.
        if route.mode != Mode::Aggregate {
            self.check_reply(route, &answer)?;
        }
        Ok(answer)
    }

    /// Whether a good reply is what the route's schema says.
    pub(crate) fn check_reply(&self, route: &Route, answer: &Answer) -> Result<(), Refusal> {
        let Some(schema) = &route.response_schema else {
            return Ok(());
        };
        if !answer.status.is_success() || answer.body.is_empty() {
            return Ok(());
        }
        let violations = match serde_json::from_slice(&answer.body) {
            Ok(content) => schema.violations(&content),
            Err(_) => return Err(refuse(Problem::BadReply, "reply_schema")),
        };
        if let Some(first) = violations.first() {
            tracing::warn!(
                route = route.id,
                pointer = first.pointer,
                violated = first.message,
                "the reply is not what the route's schema says"
            );
            return Err(refuse(Problem::BadReply, "reply_schema"));
        }
        Ok(())
    }
}

/// Tells the breaker how sending ended.
pub(crate) fn judge<T>(pass: Option<Pass>, outcome: &Result<T, BusError>) {
    let Some(pass) = pass else { return };
    match outcome {
        Err(
            BusError::NoResponders
            | BusError::Timeout
            | BusError::Service {
                kind: ServiceFault::Unavailable,
                ..
            },
        ) => pass.failed(Instant::now()),
        Ok(_) | Err(BusError::Service { .. } | BusError::BadReply) => pass.succeeded(),
        // It was never sent: that says nothing about who serves it.
        Err(BusError::Denied { .. } | BusError::TooLarge | BusError::Disconnected) => {}
    }
}

/// A claim that the policy calls private is encrypted in the token, and so stands
/// nowhere else.
fn check_mapped_claims(
    route: &Route,
    user: Option<&User>,
    open: &Map<String, Value>,
) -> Result<(), Refusal> {
    let Some(user) = user else { return Ok(()) };
    for mapping in route.headers.iter().chain(&route.payload) {
        if let Source::Claim(name) = &mapping.source
            && user.identity.claims().get(name).is_some()
            && !open.contains_key(name)
        {
            tracing::warn!(route = route.id, claim = name, "the claim is private");
            return Err(deny(Problem::Forbidden, "private_claim_mapped"));
        }
    }
    Ok(())
}

/// What a request says.
pub(crate) enum Content {
    Body(Bytes, String),
    /// There is no body: captures and parameters.
    Parameters(Value),
}

impl Content {
    /// What the message says, and of which type it is.
    fn payload(&self, route: &Route, given: &Given<'_>) -> Result<(Bytes, String), Problem> {
        match self {
            Self::Body(body, content_type) => Ok((body.clone(), content_type.clone())),
            Self::Parameters(object) => {
                let mut object = object.clone();
                for mapping in &route.payload {
                    if let (Some((name, value)), Some(members)) =
                        (mapping.member(given)?, object.as_object_mut())
                    {
                        members.insert(name, value);
                    }
                }
                let json = serde_json::to_vec(&object).map_err(|_| Problem::Internal)?;
                Ok((json.into(), exchange::JSON.to_owned()))
            }
        }
    }
}
