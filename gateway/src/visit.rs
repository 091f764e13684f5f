//! One request, from its head to its answer. Cheap checks come before dear ones, and
//! nothing is read of a body before the user is known.

use std::sync::Arc;

use bulla_identity::UnixMillis;
use bulla_sdk::DecisionId;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, VARY};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::admission::Place;
use crate::body::Answered;
use crate::bus::Bus;
use crate::cors::is_preflight;
use crate::handle::{Edge, Known, Peer};
use crate::head::check_head;
use crate::json::JsonError;
use crate::listen::Listener;
use crate::loaded::Loaded;
use crate::order::{Content, Order};
use crate::path::CleanPath;
use crate::problem::Problem;
use crate::rate::Requester;
use crate::refusal::{Refusal, deny, refuse};
use crate::routes::{Found, Mode, Route};
use crate::user::User;
use crate::{clock, compress, exchange, json, websocket};

/// A request in work, under one state of the configuration.
pub(crate) struct Visit<'e, B> {
    pub(crate) edge: &'e Arc<Edge<B>>,
    pub(crate) loaded: &'e Loaded,
    pub(crate) id: DecisionId,
    pub(crate) place: Place,
}

impl<B: Bus> Visit<'_, B> {
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
        known: &mut Known,
    ) -> Result<Response<Answered>, Refusal> {
        let now = clock::now();
        let (mut head, body) = request.into_parts();
        check_head(&head, self.loaded.limits.uri)?;
        let clients = &self.loaded.clients;
        known.client = clients.client(peer.address, &head.headers);
        if !clients.networks.admits(known.client) {
            return Err(deny(Problem::Forbidden, "network_denied"));
        }
        let path = CleanPath::parse(&head.uri).map_err(|error| {
            tracing::debug!(%error, "path refused");
            deny(
                Problem::BadRequest("the path is malformed"),
                "malformed_path",
            )
        })?;
        if let Some(answer) = self.preflight(&head, &path, known).await? {
            return Ok(answer.map(Answered::Whole));
        }
        let presentation = &self.loaded.presentation;
        let version = presentation
            .version(&head.headers)
            .ok_or_else(|| deny(Problem::UnknownVersion, "unknown_version"))?;
        // What opens a WebSocket on a connection of HTTP/2 asks for what `GET` would.
        let opens = websocket::is_stream(&head);
        let method = if opens { &Method::GET } else { &head.method };
        let (route, captures) = match self.loaded.routes.find(method, &path, version) {
            // Any other answer would say that there is a WebSocket.
            Found::Route(route, _) if opens && !route.stream.is_some_and(|s| s.websocket) => {
                self.count(&self.loaded.default_rates, None, known, now)
                    .await?;
                let methods = vec![route.method.clone()];
                return Err(deny(Problem::MethodNotAllowed(methods), "unknown_method"));
            }
            Found::Route(route, captures) => (route, captures),
            other => {
                // Whoever looks for routes is counted too.
                self.count(&self.loaded.default_rates, None, known, now)
                    .await?;
                if let Some(answer) = presentation.answer(&head.method, &path, version) {
                    return Ok(answer.map(Answered::Whole));
                }
                return Err(match other {
                    Found::WrongMethod(methods) => {
                        deny(Problem::MethodNotAllowed(methods), "unknown_method")
                    }
                    Found::WrongVersion => deny(Problem::UnknownVersion, "unknown_version"),
                    Found::Nothing | Found::Route(..) => deny(Problem::NotFound, "unknown_route"),
                });
            }
        };
        known.route = Some(Arc::clone(&route));
        let unknown = || deny(Problem::NotFound, "unknown_route");
        let subject = route.subject.expand(&captures).ok_or_else(unknown)?;
        known.subject = Some(subject);
        if !route.networks.admits(known.client) {
            return Err(deny(Problem::Forbidden, "network_denied"));
        }
        if !self.place.admits(route.priority) {
            self.edge.metrics.shed(route.priority.reason());
            return Err(Problem::Overloaded.into());
        }
        self.count(&route.rates, None, known, now).await?;
        let user = self.user(&route, (&head, peer), known, now).await?;
        if let Some(user) = &user {
            self.count(&route.rates, Some(user), known, now).await?;
        }
        let (subject, breaker) = {
            let (template, breaker) = route.destination(|| known.requester());
            (template.expand(&captures).ok_or_else(unknown)?, breaker)
        };
        let captures = exchange::named_captures(&route.path, &captures);
        check_captures(&route, &captures, user.as_ref())?;
        known.subject = Some(subject.clone());
        let attempt = self.edge.attempt(known);
        self.edge.decisions.allow(attempt, self.id);

        let query = exchange::query_parameters(&route, head.uri.query())?;
        if let Some(config) = route.stream {
            let listener = Listener {
                config,
                subject: &subject,
                user: user.as_ref(),
                whose: known.requester(),
                now,
                query: &query,
            };
            return Box::pin(self.stream(&mut head, listener)).await;
        }
        let headers = exchange::message_headers(&route, &captures, &query, &head.headers)?;
        let content = if body.is_end_stream() {
            Content::Parameters(exchange::parameters_object(&captures, &query))
        } else {
            let (body, content_type) = self.read_body(&route, &head, body).await?;
            Content::Body(body, content_type)
        };
        self.check_content(&route, &content)?;
        let order = Order {
            route: &route,
            subject: &subject,
            breaker,
            content: &content,
            captures: &captures,
            query: &query,
            headers: &headers,
            request: &head.headers,
            user: user.as_ref(),
            now,
            mode: route.mode,
            timeout: route.timeout,
        };
        let answer = match &route.cache {
            // On the heap, as is all that few requests do: none holds room for it all.
            _ if route.mode == Mode::Aggregate => Arc::new(Box::pin(self.gather(&order)).await?),
            Some(_) => self.kept(&order).await?,
            None => Arc::new(self.ask(&order).await?),
        };
        let packed = if route.compress {
            compress::pack(&head.headers, &answer.headers, &answer.body).await
        } else {
            None
        };
        let answer = Arc::unwrap_or_clone(answer);
        let mut response = answer.response(&head.headers, packed);
        if route.compress {
            let depends = HeaderValue::from_static("accept-encoding");
            response.headers_mut().append(VARY, depends);
        }
        Ok(response.map(Answered::Whole))
    }

    /// The answer to a browser that asks whether it may ask.
    async fn preflight(
        &self,
        head: &Parts,
        path: &CleanPath,
        known: &mut Known,
    ) -> Result<Option<Response<Full<Bytes>>>, Refusal> {
        let Some(cors) = &self.loaded.cors else {
            return Ok(None);
        };
        if !is_preflight(&head.method, &head.headers) {
            return Ok(None);
        }
        let rates = &self.loaded.default_rates;
        self.count(rates, None, known, clock::now()).await?;
        let methods = self.loaded.routes.methods(path);
        if methods.is_empty() {
            return Err(deny(Problem::NotFound, "unknown_route"));
        }
        known.preflight = true;
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = cors.preflight(&head.headers, &methods);
        Ok(Some(response))
    }

    /// Counts the request in those of `rates` that can be told with or without a user.
    async fn count(
        &self,
        rates: &[usize],
        user: Option<&User>,
        known: &mut Known,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let requester = Requester {
            address: known.client,
            route: known.route.as_ref().map_or("", |route| route.id.as_str()),
            issuer: user.map_or("", |u| u.identity.issuer()),
            user: user.map_or("", |u| u.identity.principal()),
            client: user.map_or("", User::client),
        };
        let all = &self.loaded.rates;
        let mut outcome = all.count(rates, user.is_some(), requester, &mut known.counted);
        if outcome.is_ok() && all.has_shared(rates) {
            let which = (rates, user.is_some());
            let bus = &self.edge.bus;
            let counted = all.count_shared(bus, which, requester, now, &mut known.counted);
            // What nobody can count does not pass.
            outcome = Box::pin(counted)
                .await
                .map_err(|_| refuse(Problem::Unavailable, "quota_unknown"))?;
        }
        outcome.map_err(|wait| {
            let violated = all.violated(&known.counted);
            let violated = violated.into_iter().map(str::to_owned).collect();
            deny(Problem::TooManyRequests { wait, violated }, "rate_limited")
        })
    }

    async fn read_body(
        &self,
        route: &Route,
        head: &Parts,
        body: Incoming,
    ) -> Result<(Bytes, String), Refusal> {
        // A body that says itself that it is too long is not begun.
        if body.size_hint().lower() > route.body as u64 {
            return Err(Problem::ContentTooLarge.into());
        }
        let content_type = exchange::content_type(route, &head.headers)?;
        // Nothing is unpacked here, so nothing that is packed is taken.
        if let Some(encoding) = head.headers.get(CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            let problem = Problem::UnsupportedMediaType(route.content_types.clone());
            return Err(refuse(problem, "content_encoding"));
        }
        let reading = Limited::new(body, route.body).collect();
        match tokio::time::timeout(self.loaded.limits.body_timeout, reading).await {
            Ok(Ok(collected)) => Ok((collected.to_bytes(), content_type)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(Problem::ContentTooLarge.into())
            }
            Ok(Err(_)) => Err(Problem::BadRequest("the body is malformed").into()),
            Err(_) => Err(Problem::RequestTimeout.into()),
        }
    }

    /// JSON is JSON, and what the route's schema says.
    fn check_content(&self, route: &Route, content: &Content) -> Result<(), Refusal> {
        let refused = |why: JsonError| refuse(Problem::MalformedContent(why.detail()), why.code());
        let parsed;
        let value = match content {
            Content::Parameters(object) => object,
            Content::Body(body, content_type) => {
                if json::is_json(content_type) {
                    json::check(body, self.loaded.limits.json_depth).map_err(refused)?;
                }
                if route.request_schema.is_none() {
                    return Ok(());
                }
                parsed = serde_json::from_slice(body).map_err(|_| refused(JsonError::Malformed))?;
                &parsed
            }
        };
        let violations = route
            .request_schema
            .as_ref()
            .map_or_else(Vec::new, |schema| schema.violations(value));
        if violations.is_empty() {
            Ok(())
        } else {
            Err(refuse(
                Problem::SchemaViolated(violations),
                "request_schema",
            ))
        }
    }
}

/// Whether captures are what the token says, where the route asks for it: nobody names
/// somebody else in a path.
fn check_captures(
    route: &Route,
    captures: &[(&str, &str)],
    user: Option<&User>,
) -> Result<(), Refusal> {
    for (name, claim) in &route.require {
        let value = captures.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        let matches = value
            .zip(user)
            .is_some_and(|(value, user)| user.claims(claim, value));
        if !matches {
            return Err(deny(Problem::Forbidden, "capture_mismatch"));
        }
    }
    Ok(())
}
