//! One request, from its head to its answer. Cheap checks come before dear ones, and
//! nothing is read of a body before the user is known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_identity::{Subject, UnixMillis};
use bulla_process::Zeroizing;
use bulla_sdk::DecisionId;
use bulla_sdk::decision_log::{Attempt, DecisionLog};
use bulla_token::ValidatedToken;
use bytes::Bytes;
use http::header::{HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::authenticate::{AuthError, Authenticator, bearer};
use crate::bus::{Bus, BusError, BusMessage, ServiceFault};
use crate::config::Limits;
use crate::exchange;
use crate::metrics::Metrics;
use crate::mint::Minter;
use crate::path::CleanPath;
use crate::problem::Problem;
use crate::routes::{Access, Found, Mode, Route, RouteTable};
use crate::{clock, trace};

/// What every request needs.
pub(crate) struct Edge<B> {
    pub(crate) bus: B,
    pub(crate) routes: RouteTable,
    pub(crate) authenticator: Authenticator,
    pub(crate) minter: Minter,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) problem_base: String,
    /// The short name of this workload, for the decision log.
    pub(crate) workload: String,
    pub(crate) decisions: DecisionLog,
    /// One permit for each request in work.
    pub(crate) in_work: Semaphore,
}

/// What is known of a request so far, for its log line.
#[derive(Default)]
struct Known {
    route: Option<Arc<Route>>,
    subject: String,
    user: String,
}

/// Why a request got no further.
struct Refusal {
    problem: Problem,
    /// The reason for the decision log; None if nothing was decided.
    denied: Option<&'static str>,
    /// The decision of another enforcer, if it was one.
    decision: Option<String>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            denied: None,
            decision: None,
        }
    }
}

fn deny(problem: Problem, reason: &'static str) -> Refusal {
    Refusal {
        problem,
        denied: Some(reason),
        decision: None,
    }
}

impl<B: Bus> Edge<B> {
    /// Answers a request. Never fails: what goes wrong is an answer too.
    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let http1 = request.version() <= Version::HTTP_11;
        let id = DecisionId(random());
        let mut known = Known::default();
        let outcome = match self.in_work.try_acquire() {
            Ok(_permit) => self.answer(request, id, &mut known).await,
            Err(_) => {
                self.metrics.shed("requests");
                Err(Problem::Overloaded.into())
            }
        };
        let response = match outcome {
            Ok(response) => response,
            Err(refusal) => {
                if let Some(reason) = refusal.denied {
                    self.decisions
                        .deny(self.attempt(&known), reason, &reason, id);
                    self.metrics.refused(reason);
                }
                let id = refusal.decision.unwrap_or_else(|| id.to_string());
                refusal.problem.response(&self.problem_base, &id, http1)
            }
        };
        let route = known.route.as_ref().map_or("", |r| r.id.as_str());
        let status = response.status().as_u16();
        self.metrics.answered(route, status, started.elapsed());
        response
    }

    fn attempt<'a>(&'a self, known: &'a Known) -> Attempt<'a> {
        let route = known.route.as_deref();
        Attempt {
            workload: &self.workload,
            verb: route.map_or("", |r| r.mode.verb()),
            subject: &known.subject,
            user: &known.user,
            rule: route.map_or("", |r| r.id.as_str()),
            ..Attempt::default()
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        id: DecisionId,
        known: &mut Known,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let now = clock::now();
        let (head, body) = request.into_parts();
        check_head(&head, self.limits.uri)?;
        let path = CleanPath::parse(&head.uri).map_err(|error| {
            tracing::debug!(%error, "path refused");
            deny(
                Problem::BadRequest("the path is malformed"),
                "malformed_path",
            )
        })?;
        let (route, captures) = match self.routes.find(&head.method, &path) {
            Found::Route(route, captures) => (route, captures),
            Found::WrongMethod(methods) => {
                return Err(deny(Problem::MethodNotAllowed(methods), "unknown_method"));
            }
            Found::Nothing => return Err(deny(Problem::NotFound, "unknown_route")),
        };
        known.route = Some(Arc::clone(&route));
        let subject = route
            .subject
            .expand(&captures)
            .ok_or_else(|| deny(Problem::NotFound, "unknown_route"))?;
        subject.as_str().clone_into(&mut known.subject);

        let user = self.user(&route, &head, known, now).await?;
        self.decisions.allow(self.attempt(known), id);

        let query = exchange::query_parameters(&route, head.uri.query())?;
        let headers = exchange::message_headers(&route, &captures, &query, &head.headers)?;
        let (payload, content_type) = if body.is_end_stream() {
            let object = exchange::parameters_object(&route, &captures, &query);
            (object, exchange::JSON.to_owned())
        } else {
            self.read_body(&route, &head, body).await?
        };
        let token = self.mint(&route, &subject, user.as_ref(), now).await?;
        let message = BusMessage {
            subject,
            payload,
            content_type,
            headers,
            token,
            original: user.as_ref().and_then(|user| user.original.clone()),
            traceparent: trace::next_traceparent(&head.headers),
        };
        self.send(&route, message).await
    }

    /// The user and the scopes that travel on; none on a public route.
    async fn user(
        &self,
        route: &Route,
        head: &Parts,
        known: &mut Known,
        now: UnixMillis,
    ) -> Result<Option<User>, Refusal> {
        let (policies, scopes, optional_scopes, carries_original) = match &route.access {
            Access::Public => return Ok(None),
            Access::Jwt {
                policies,
                scopes,
                optional_scopes,
                carries_original,
                ..
            } => (policies, scopes, optional_scopes, *carries_original),
        };
        let refuse = |error: AuthError| deny(refused_token(error), error.code());
        let token = bearer(&head.headers).map_err(refuse)?;
        let validated = self
            .authenticator
            .validate(token, policies, now)
            .await
            .map_err(refuse)?;
        validated.principal().clone_into(&mut known.user);
        if self.bus.is_user_revoked(validated.principal()) {
            return Err(deny(Problem::Forbidden, "user_revoked"));
        }
        let claims = validated.claims();
        if !scopes.iter().all(|scope| claims.has_scope(scope)) {
            let problem = Problem::InsufficientScope(scopes.join(" "));
            return Err(deny(problem, "insufficient_scope"));
        }
        let kept = scopes
            .iter()
            .chain(optional_scopes.iter().filter(|s| claims.has_scope(s)))
            .cloned()
            .collect();
        let leeway = policies
            .iter()
            .filter_map(|p| self.routes.policies().get(*p))
            .map(|p| p.validator.policy())
            .find(|p| p.issuer == validated.issuer())
            .map_or(Duration::ZERO, |p| p.leeway);
        Ok(Some(User {
            validated,
            scopes: kept,
            leeway,
            original: carries_original.then(|| Zeroizing::new(token.to_owned())),
        }))
    }

    async fn read_body(
        &self,
        route: &Route,
        head: &Parts,
        body: Incoming,
    ) -> Result<(Bytes, String), Problem> {
        // A body that says itself that it is too long is not begun.
        if body.size_hint().lower() > route.body as u64 {
            return Err(Problem::ContentTooLarge);
        }
        let content_type = exchange::content_type(route, &head.headers)?;
        let reading = Limited::new(body, route.body).collect();
        match tokio::time::timeout(self.limits.body_timeout, reading).await {
            Ok(Ok(collected)) => Ok((collected.to_bytes(), content_type)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::ContentTooLarge),
            Ok(Err(_)) => Err(Problem::BadRequest("the body is malformed")),
            Err(_) => Err(Problem::RequestTimeout),
        }
    }

    async fn mint(
        &self,
        route: &Route,
        subject: &Subject,
        user: Option<&User>,
        now: UnixMillis,
    ) -> Result<Option<String>, Refusal> {
        let Some(user) = user else { return Ok(None) };
        let reach = match &route.access {
            Access::Jwt {
                reach: Some(reach), ..
            } => reach.clone(),
            Access::Jwt { reach: None, .. } | Access::Public => self.bus.audiences(subject),
        };
        let key = self.bus.token_key().ok_or(Problem::Unavailable)?;
        let scopes: Vec<&str> = user.scopes.iter().map(String::as_str).collect();
        let refuse = |error| match error {
            // The client's token ends within a second.
            bulla_token::MintError::Lifetime { .. } => deny(Problem::InvalidToken, "token_expired"),
            bulla_token::MintError::BadClaim(_)
            | bulla_token::MintError::ReservedContextName
            | bulla_token::MintError::TooLarge { .. } => {
                tracing::warn!(%error, "no transaction token for a valid access token");
                deny(Problem::Forbidden, "cannot_mint")
            }
        };
        let (minter, validated) = (&self.minter, &user.validated);
        let mut claims = minter
            .claims(validated, &scopes, reach, &key, user.leeway, now)
            .map_err(refuse)?;
        let hidden = self
            .bus
            .hide_claims(&claims.txn, &claims.principal, &mut claims.context);
        claims.private = hidden.await?;
        minter.mint(&claims, &key).map(Some).map_err(refuse)
    }

    async fn send(
        &self,
        route: &Route,
        message: BusMessage,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        match route.mode {
            Mode::Request => {
                let reply = self.bus.request(message, route.timeout).await?;
                exchange::response(route, reply, self.limits.reply).map_err(|problem| {
                    tracing::warn!(
                        route = route.id,
                        "the reply is too large, or asks for a status or header that the route does not allow"
                    );
                    problem.into()
                })
            }
            Mode::Publish => {
                self.bus.publish(message, route.timeout).await?;
                let mut response = Response::new(Full::default());
                *response.status_mut() = http::StatusCode::ACCEPTED;
                Ok(response)
            }
        }
    }
}

/// An id that is not random is still an id; nothing is secured by it.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let _ = getrandom::fill(&mut bytes);
    bytes
}

struct User {
    validated: Arc<ValidatedToken>,
    scopes: Vec<String>,
    leeway: Duration,
    /// The token itself, where the route hands it on.
    original: Option<Zeroizing<String>>,
}

/// What must hold of every head, whatever its route.
fn check_head(head: &Parts, max_uri: usize) -> Result<(), Refusal> {
    let malformed = |why| deny(Problem::BadRequest(why), "malformed_request");
    let target = head.uri.path().len() + head.uri.query().map_or(0, |q| q.len() + 1);
    if target > max_uri {
        return Err(Problem::UriTooLong.into());
    }
    if head.version <= Version::HTTP_11 {
        if head.uri.authority().is_some() {
            return Err(malformed("the request target is not a path"));
        }
        let mut hosts = head.headers.get_all(HOST).iter();
        if hosts.next().is_none() && head.version == Version::HTTP_11 || hosts.next().is_some() {
            return Err(malformed("send one `Host` header"));
        }
        // A `Content-Length` beside it cannot be seen here: hyper goes by the chunks and
        // ends the connection afterwards ([RFC 9112 §6.1]); a test pins that.
        let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(encoding) = encodings.next()
            && (!encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some())
        {
            return Err(malformed("the only transfer encoding is `chunked`"));
        }
    }
    let from_bus = |name: &http::HeaderName| {
        let name = name.as_str();
        name.starts_with("bulla-") || name.starts_with("nats-")
    };
    if head.headers.keys().any(from_bus) {
        return Err(deny(
            Problem::BadRequest("a header is reserved"),
            "internal_header",
        ));
    }
    if head
        .headers
        .get_all(http::header::AUTHORIZATION)
        .iter()
        .count()
        > 1
    {
        return Err(deny(Problem::BadAuthorization, AuthError::Repeated.code()));
    }
    Ok(())
}

/// Inside precise, outside uniform: a refused token is a refused token.
fn refused_token(error: AuthError) -> Problem {
    match error {
        AuthError::NoToken => Problem::NoToken,
        AuthError::Repeated => Problem::BadAuthorization,
        AuthError::Malformed | AuthError::Token(_) => Problem::InvalidToken,
        AuthError::NoKeys => Problem::Unavailable,
    }
}

impl From<BusError> for Refusal {
    fn from(error: BusError) -> Self {
        let decision = match &error {
            BusError::Denied { decision } => decision.clone(),
            _ => None,
        };
        let problem = match error {
            BusError::NoResponders | BusError::Disconnected => Problem::Unavailable,
            BusError::Timeout => Problem::Timeout,
            BusError::Denied { .. } => Problem::Forbidden,
            BusError::TooLarge => Problem::ContentTooLarge,
            BusError::BadReply => Problem::BadReply,
            BusError::Service { kind, message } => match kind {
                ServiceFault::Invalid => Problem::InvalidContent(message),
                ServiceFault::NotFound => Problem::ResourceNotFound(message),
                ServiceFault::Conflict => Problem::Conflict(message),
                ServiceFault::Forbidden => Problem::Forbidden,
                ServiceFault::Unavailable => Problem::Unavailable,
                ServiceFault::Internal => Problem::Internal,
            },
        };
        Self {
            problem,
            denied: None,
            decision,
        }
    }
}
