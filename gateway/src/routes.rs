//! Routes: which request becomes which message, and what it takes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{Subject, SubjectPattern, reserved};
use bulla_token::{AccessTokenValidator, token_digest};
use http::{HeaderName, Method, StatusCode};

use crate::admission::Priority;
use crate::breaker::Breaker;
use crate::cache::CacheConfig;
use crate::client_address::NetworkRules;
use crate::document::Place;
use crate::events::StreamConfig;
use crate::idempotency::IdempotencyConfig;
use crate::invalidation::Invalidation;
use crate::mapping::Mapping;
use crate::metrics::RouteMetrics;
use crate::path::{CleanPath, PathTemplate, is_capture_value};
use crate::route_extras::About;
use crate::schema::Schema;

/// All routes, no two of which match the same request.
#[derive(Debug, Clone)]
pub struct RouteTable {
    pub(crate) routes: Vec<Arc<Route>>,
    pub(crate) policies: Vec<TokenPolicy>,
    pub(crate) invalidations: Vec<Arc<Invalidation>>,
    /// One for each subject, as routes write it.
    pub(crate) breakers: Vec<Arc<Breaker>>,
}

/// One `[[route]]`.
#[derive(Debug, Clone)]
pub struct Route {
    /// Method and path: the name of the route in logs and metrics.
    pub id: String,
    /// Where its subject is written.
    pub(crate) place: Place,
    /// The method.
    pub method: Method,
    /// The path.
    pub path: PathTemplate,
    /// Where its messages go.
    pub(crate) subject: SubjectTemplate,
    /// What becomes of a request.
    pub mode: Mode,
    /// Who may call it.
    pub access: Access,
    /// How long a request waits for its answer.
    pub timeout: Duration,
    /// The largest body in bytes.
    pub body: usize,
    /// Which content types a body may have.
    pub content_types: Vec<String>,
    /// Which query parameters exist.
    pub query: Vec<String>,
    /// Which headers of the request travel with the message.
    pub forward_headers: Vec<HeaderName>,
    /// Which statuses the service may answer with.
    pub statuses: Vec<StatusCode>,
    /// Which headers the service may set.
    pub response_headers: Vec<HeaderName>,
    /// Which version of what its path names it is; clients say which they mean.
    pub version: Option<String>,
    /// What people read about it.
    pub about: About,
    /// Captures that must be what a claim of the token says, with the claim's name.
    pub require: Vec<(String, String)>,
    /// Signed headers of the message that the route names itself.
    pub headers: Vec<Mapping>,
    /// Members of the payload of a request without a body.
    pub payload: Vec<Mapping>,
    /// How a stream behaves; none of any other mode.
    pub stream: Option<StreamConfig>,
    /// Whether clients can name what they ask for.
    pub idempotency: Option<IdempotencyConfig>,
    /// What an aggregate asks for.
    pub(crate) parts: Vec<Part>,
    /// Part of the requests, that go elsewhere.
    pub(crate) canary: Option<Canary>,
    /// For how long a reply is given again.
    pub cache: Option<CacheConfig>,
    /// What makes it forget kept replies.
    pub(crate) invalidation: Option<Arc<Invalidation>>,
    /// Whether its replies are packed for clients that take it.
    pub compress: bool,
    /// Which rates count its requests.
    pub rates: Vec<usize>,
    /// How important it is when there is too much to do.
    pub priority: Priority,
    /// From where it may be called, beside what holds for all.
    pub networks: NetworkRules,
    /// What the content of a request must be.
    pub request_schema: Option<Schema>,
    /// What the content of a good reply must be.
    pub response_schema: Option<Schema>,
    /// Stops sending to a subject where nobody answers.
    pub(crate) breaker: Option<Arc<Breaker>>,
    /// What counts its answers.
    pub(crate) answers: RouteMetrics,
}

/// One of the requests of an aggregate.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// The member of the answer.
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) subject: SubjectTemplate,
    /// Whether the answer is good without it.
    pub(crate) optional: bool,
    pub(crate) timeout: Duration,
    pub(crate) breaker: Option<Arc<Breaker>>,
}

/// Part of the requests of a route, that go elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Canary {
    pub(crate) place: Place,
    pub(crate) subject: SubjectTemplate,
    /// How many of 10,000.
    pub(crate) weight: u32,
    pub(crate) breaker: Option<Arc<Breaker>>,
}

impl Route {
    /// What breaks where its messages go.
    fn breakers(&mut self) -> impl Iterator<Item = &mut Arc<Breaker>> {
        let canary = self.canary.as_mut().and_then(|c| c.breaker.as_mut());
        let parts = self.parts.iter_mut().filter_map(|p| p.breaker.as_mut());
        self.breaker.as_mut().into_iter().chain(canary).chain(parts)
    }

    /// Whether a client that asks for `version`, or says nothing and there is no
    /// default, means this route.
    pub(crate) fn is_for(&self, version: Option<&str>) -> bool {
        self.version.is_none() || self.version.as_deref() == version
    }

    /// Where a request goes, and what breaks there. The same requester always goes the
    /// same way, so that nobody sees two versions by turns.
    pub(crate) fn destination(
        &self,
        requester: impl FnOnce() -> String,
    ) -> (&SubjectTemplate, Option<&Arc<Breaker>>) {
        if let Some(canary) = &self.canary {
            let requester = requester();
            let [first, second, ..] = token_digest(&format!("{}\n{requester}", self.id));
            let drawn = u32::from(u16::from_be_bytes([first, second])) * 10_000 / 65_536;
            if drawn < canary.weight {
                return (&canary.subject, canary.breaker.as_ref());
            }
        }
        (&self.subject, self.breaker.as_ref())
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A request whose reply is the response.
    Request,
    /// An event: 202 once it is on its way.
    Publish,
    /// Several requests at once, whose replies together are the response.
    Aggregate,
    /// Events as they come.
    Stream,
}

impl Mode {
    /// The policy verb that it is decided under.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Request | Self::Aggregate => "request",
            Self::Publish => "publish",
            Self::Stream => "subscribe",
        }
    }
}

/// Who may call a route.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everybody, without a user.
    Public,
    /// Whoever brings an access token.
    Jwt {
        /// Which token policies, one for each issuer.
        policies: Vec<usize>,
        /// What the token must allow.
        rights: Rights,
        /// Whether the client's own token travels beside the user's.
        carries_original: bool,
    },
    /// Whoever brings an API key.
    Key(Rights),
    /// Whoever shows a certificate that is listed.
    Certificate(Rights),
}

/// What a user must be allowed, and what of it travels on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// The scopes that he must have, all of them.
    pub scopes: Vec<String>,
    /// Scopes that travel on if he has them.
    pub optional_scopes: Vec<String>,
    /// The verticals that his transaction token may be spent in; where nothing is
    /// said, those of the route's own subject.
    pub reach: Option<Vec<String>>,
}

impl Access {
    /// What a user must be allowed; nothing where there is none.
    #[must_use]
    pub fn rights(&self) -> Option<&Rights> {
        match self {
            Self::Public => None,
            Self::Jwt { rights, .. } | Self::Key(rights) | Self::Certificate(rights) => {
                Some(rights)
            }
        }
    }

    /// Whether everybody may call it, without a user.
    #[must_use]
    pub fn is_public(&self) -> bool {
        matches!(self, Self::Public)
    }

    /// Whether the client's own token travels on.
    #[must_use]
    pub fn carries_original(&self) -> bool {
        matches!(
            self,
            Self::Jwt {
                carries_original: true,
                ..
            }
        )
    }
}

/// How tokens of one issuer are validated for one set of audiences.
#[derive(Debug, Clone)]
pub(crate) struct TokenPolicy {
    /// The index of the issuer in the configuration.
    pub(crate) issuer: usize,
    /// Whether every token has to be bound to a key.
    pub(crate) must_be_bound: bool,
    pub(crate) validator: Arc<AccessTokenValidator>,
}

/// What a method and a path lead to.
pub(crate) enum Found<'p> {
    Route(Arc<Route>, Vec<&'p str>),
    /// The path exists under these methods only.
    WrongMethod(Vec<Method>),
    /// It exists in other versions only.
    WrongVersion,
    Nothing,
}

impl RouteTable {
    /// The routes in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(AsRef::as_ref)
    }

    /// The same routes, and where nobody answered under the routes `before`, nobody does
    /// now.
    pub(crate) fn with_breakers_of(mut self, before: &Self) -> Self {
        let keep = |breaker: &mut Arc<Breaker>| {
            if let Some(known) = before.breakers.iter().find(|b| b.is_like(breaker)) {
                *breaker = Arc::clone(known);
            }
        };
        self.breakers.iter_mut().for_each(keep);
        for route in &mut self.routes {
            Arc::make_mut(route).breakers().for_each(keep);
        }
        self
    }

    /// The same routes, for metrics of which nothing was found yet.
    pub(crate) fn counted_anew(mut self) -> Self {
        for route in &mut self.routes {
            Arc::make_mut(route).answers = RouteMetrics::default();
        }
        self
    }

    pub(crate) fn policies(&self) -> &[TokenPolicy] {
        &self.policies
    }

    /// The methods that exist for a path.
    pub(crate) fn methods(&self, path: &CleanPath) -> Vec<Method> {
        let matching = self
            .routes
            .iter()
            .filter(|r| r.path.matches(path).is_some());
        matching.map(|r| r.method.clone()).collect()
    }

    /// Where a request leads. `version` is what the client asks for, or the default.
    pub(crate) fn find<'p>(
        &self,
        method: &Method,
        path: &'p CleanPath,
        version: Option<&str>,
    ) -> Found<'p> {
        let mut others = Vec::new();
        let mut other_versions = false;
        for route in &self.routes {
            if let Some(captures) = route.path.matches(path) {
                if route.method == *method {
                    if route.is_for(version) {
                        return Found::Route(Arc::clone(route), captures);
                    }
                    other_versions = true;
                } else if !others.contains(&route.method) {
                    others.push(route.method.clone());
                }
            }
        }
        if other_versions {
            Found::WrongVersion
        } else if others.is_empty() {
            Found::Nothing
        } else {
            Found::WrongMethod(others)
        }
    }
}

/// A subject in which `{captures}` of the path may stand, each as a whole token.
#[derive(Debug, Clone)]
pub(crate) enum SubjectTemplate {
    Fixed(Subject),
    Tokens(Vec<SubjectToken>),
}

#[derive(Debug, Clone)]
pub(crate) enum SubjectToken {
    Literal(String),
    /// The index of the capture in the path, and its name.
    Capture(usize, String),
}

impl SubjectTemplate {
    pub(crate) fn parse(text: &str, path: &PathTemplate) -> Result<Self, String> {
        let pattern = SubjectPattern::parse(text).map_err(|e| e.to_string())?;
        if reserved::is_reserved(text) {
            return Err("subjects that begin with `$` or `_INBOX` are not for routes".to_owned());
        }
        if pattern.is_literal() {
            return Subject::parse(text)
                .map(Self::Fixed)
                .map_err(|e| e.to_string());
        }
        let captures: Vec<&str> = path.captures().collect();
        let mut tokens = Vec::new();
        for token in text.split('.') {
            if matches!(token, "*" | ">") {
                return Err("a route sends to one subject: no wildcards".to_owned());
            }
            match token.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
                None => tokens.push(SubjectToken::Literal(token.to_owned())),
                Some(name) => match captures.iter().position(|c| *c == name) {
                    Some(index) => tokens.push(SubjectToken::Capture(index, name.to_owned())),
                    None => return Err(format!("the path has no capture `{{{name}}}`")),
                },
            }
        }
        if !matches!(tokens.first(), Some(SubjectToken::Literal(_))) {
            return Err("the first token of a subject is fixed".to_owned());
        }
        Ok(Self::Tokens(tokens))
    }

    /// A subject with captures that no policy names: what holds of it holds of all that
    /// are not named.
    pub(crate) fn sample(&self) -> Option<Subject> {
        let tokens = match self {
            Self::Fixed(subject) => return Some(subject.clone()),
            Self::Tokens(tokens) => tokens,
        };
        let texts = tokens.iter().map(|token| match token {
            SubjectToken::Literal(literal) => literal.as_str(),
            SubjectToken::Capture(..) => "-any-capture-",
        });
        Subject::parse(&texts.collect::<Vec<_>>().join(".")).ok()
    }

    /// The subject for these captures. `None` if a value is not one plain token,
    /// which the path's own grammar has ruled out already.
    pub(crate) fn expand(&self, captures: &[&str]) -> Option<Subject> {
        let tokens = match self {
            Self::Fixed(subject) => return Some(subject.clone()),
            Self::Tokens(tokens) => tokens,
        };
        let mut text = String::new();
        for token in tokens {
            if !text.is_empty() {
                text.push('.');
            }
            match token {
                SubjectToken::Literal(literal) => text.push_str(literal),
                SubjectToken::Capture(index, _) => {
                    text.push_str(captures.get(*index).filter(|v| is_capture_value(v))?);
                }
            }
        }
        Subject::parse(&text).ok()
    }
}

impl fmt::Display for SubjectTemplate {
    /// As the route has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = match self {
            Self::Fixed(subject) => return f.write_str(subject.as_str()),
            Self::Tokens(tokens) => tokens,
        };
        for (i, token) in tokens.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            match token {
                SubjectToken::Literal(literal) => f.write_str(literal)?,
                SubjectToken::Capture(_, name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}
