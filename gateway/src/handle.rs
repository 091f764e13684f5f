//! Every request gets an answer, and every answer what all answers carry.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bulla_identity::Subject;
use bulla_sdk::DecisionId;
use bulla_sdk::decision_log::{Attempt, DecisionLog};
use http::header::{ORIGIN, VARY};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::access_log::Outcome;
use crate::admission::Admission;
use crate::body::Answered;
use crate::bus::Bus;
use crate::certificates::Shown;
use crate::clock;
use crate::connections::Open;
use crate::head::header_count;
use crate::identity::Identity;
use crate::loaded::Loaded;
use crate::metrics::Metrics;
use crate::mint::Minter;
use crate::networks::counted_as;
use crate::problem::Problem;
use crate::rate::Counted;
use crate::routes::Route;
use crate::trace;
use crate::unread::Unread;
use crate::visit::Visit;

/// What every request needs.
pub(crate) struct Edge<B> {
    pub(crate) bus: B,
    pub(crate) loaded: ArcSwap<Loaded>,
    pub(crate) minter: Minter,
    pub(crate) metrics: Metrics,
    /// The short name of this workload, for the decision log.
    pub(crate) workload: String,
    pub(crate) decisions: DecisionLog,
    pub(crate) admission: Arc<Admission>,
    pub(crate) streams: Streams,
    /// How many header fields a request may have.
    pub(crate) most_headers: usize,
}

/// The open streams of this node.
pub(crate) struct Streams {
    pub(crate) all: Arc<Open<()>>,
    pub(crate) by_user: Arc<Open<String>>,
    /// How many there may be.
    pub(crate) most: usize,
    /// Ends all of them.
    pub(crate) stopping: CancellationToken,
    /// Those over WebSocket, whose connections HTTP knows no more.
    pub(crate) talks: TaskTracker,
}

impl Streams {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            all: Arc::default(),
            by_user: Arc::default(),
            most,
            stopping: CancellationToken::new(),
            talks: TaskTracker::new(),
        }
    }
}

/// The connection that a request came over.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its other end, or who that says that it is.
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
    /// The certificate that it showed.
    pub(crate) certificate: Option<Arc<Shown>>,
}

/// What is known of a request so far, for its log line and its answer.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) subject: Option<Subject>,
    pub(crate) identity: Option<Identity>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) counted: Vec<Counted>,
    pub(crate) origin: Option<HeaderValue>,
    pub(crate) preflight: bool,
}

impl Known {
    fn subject(&self) -> &str {
        self.subject.as_ref().map_or("", Subject::as_str)
    }

    fn user(&self) -> &str {
        self.identity.as_ref().map_or("", Identity::principal)
    }

    /// Who asks, for what must be the same each time: the user, or else the address.
    pub(crate) fn requester(&self) -> String {
        let (user, issuer) = (
            self.user(),
            self.identity.as_ref().map_or("", Identity::issuer),
        );
        match self.client {
            Some(address) if user.is_empty() => counted_as(address).to_string(),
            _ => format!("{issuer} {user}"),
        }
    }
}

impl<B: Bus> Edge<B> {
    /// Whether a user may go on with what he began: he is not revoked, nor his token or key,
    /// and his certificate is still listed.
    pub(crate) fn still_allows(&self, user: &Identity) -> bool {
        let loaded = self.loaded.load();
        let proof_is_good = match user {
            Identity::Token(_) => {
                let id = user.token_id();
                !id.is_some_and(|id| self.bus.is_token_revoked(id))
            }
            Identity::Key(key) => {
                let keys = loaded.api_keys.as_ref();
                keys.is_some_and(|keys| keys.is_good(&key.id, clock::now()))
            }
            Identity::Certificate(known) => loaded.certificates.still_allows(known, clock::now()),
        };
        proof_is_good && !self.bus.is_user_revoked(user.principal())
    }

    /// Answers a request. Never fails: what goes wrong is an answer too.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Response<Answered> {
        let started = Instant::now();
        let http1 = request.version() <= Version::HTTP_11;
        let id = DecisionId(rand::random());
        let loaded = self.loaded.load_full();
        let access = loaded.access_log.begin(&request);
        let mut known = Known {
            origin: request.headers().get(ORIGIN).cloned(),
            ..Known::default()
        };
        let outcome = match self.admission.enter() {
            // As the library answers over HTTP/1, which knows of the limit.
            _ if header_count(&request) > self.most_headers => {
                self.metrics.refused("large_head");
                let mut answer = Response::new(Answered::Whole(Full::default()));
                *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                Ok(answer)
            }
            Some(place) => {
                let visit = Visit {
                    edge: &self,
                    loaded: &loaded,
                    id,
                    place,
                };
                let span = trace::entrance(request.method(), request.headers());
                // Where it stands: what is instrumented is moved first, in whole.
                let answer = pin!(visit.answer(request, &peer, &mut known));
                answer.instrument(span).await
            }
            None => {
                self.metrics.shed("requests");
                Err(Problem::Overloaded.into())
            }
        };
        let mut decision = None;
        let mut response = match outcome {
            Ok(response) => response,
            Err(refusal) => {
                if let Some(reason) = refusal.reason {
                    if refusal.decided {
                        self.decisions
                            .deny(self.attempt(&known), reason, &reason, id);
                    }
                    self.metrics.refused(reason);
                }
                let id = refusal.decision.unwrap_or_else(|| id.to_string());
                let answer = refusal.problem.response(&loaded.problem_base, &id, http1);
                decision = Some(id);
                answer.map(Answered::Whole)
            }
        };
        let headers = response.headers_mut();
        loaded.rates.announce(&known.counted, headers);
        if let Some(cors) = loaded.cors.as_ref().filter(|_| !known.preflight) {
            cors.decorate(known.origin.as_ref(), headers);
        }
        if let Some(route) = &known.route {
            route.about.announce(headers);
        }
        if let Some(header) = loaded.presentation.varies() {
            headers.append(VARY, header);
        }
        loaded.security.add(peer.tls, headers);
        let route = known.route.as_deref();
        let status = response.status();
        let took = started.elapsed();
        match route {
            Some(route) => self
                .metrics
                .answered(&route.id, &route.answers, status, took),
            None => self.metrics.answered_nowhere(status, took),
        }
        if let Some(access) = access {
            let named = decision.unwrap_or_else(|| id.to_string());
            let outcome = Outcome {
                client: known.client.or(Some(peer.address.ip().to_canonical())),
                user: known.user(),
                route: route.map_or("", |route| &route.id),
                status: status.as_u16(),
                bytes: response.body().size_hint().lower(),
                took,
                decision_id: &named,
                at: OffsetDateTime::now_utc(),
            };
            loaded.access_log.write(Some(&access), &outcome);
        }
        response
    }

    /// Writes down a head of which no request came. Nothing of it is written: it is not known
    /// which of its bytes are a path, and which are secret.
    pub(crate) fn unread(&self, address: SocketAddr, unread: Unread) {
        let Unread {
            reason,
            status,
            heads,
        } = unread;
        self.metrics.refused_times(reason, heads);
        let client = address.ip().to_canonical();
        let Some(status) = status else {
            tracing::info!(%client, reason, heads, "no request came of what a client sent");
            return;
        };
        self.metrics.answered_unread(status);
        let outcome = Outcome {
            client: Some(client),
            user: "",
            route: "",
            status: status.as_u16(),
            bytes: 0,
            took: Duration::ZERO,
            decision_id: "",
            at: OffsetDateTime::now_utc(),
        };
        self.loaded.load().access_log.write(None, &outcome);
    }

    pub(crate) fn attempt<'a>(&'a self, known: &'a Known) -> Attempt<'a> {
        let route = known.route.as_deref();
        Attempt {
            workload: &self.workload,
            verb: route.map_or("", |r| r.mode.verb()),
            subject: known.subject(),
            user: known.user(),
            rule: route.map_or("", |r| r.id.as_str()),
            ..Attempt::default()
        }
    }
}
