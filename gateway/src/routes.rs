//! Routes: which request becomes which message, and what it takes.

use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{Subject, SubjectPattern, reserved};
use bulla_token::AccessTokenValidator;
use http::{HeaderName, Method, StatusCode};

use crate::path::{CleanPath, PathTemplate, is_capture_value};

/// All routes, no two of which match the same request.
#[derive(Debug, Clone)]
pub struct RouteTable {
    pub(crate) routes: Vec<Arc<Route>>,
    pub(crate) policies: Vec<TokenPolicy>,
}

/// One `[[route]]`.
#[derive(Debug, Clone)]
pub struct Route {
    /// Method and path: the name of the route in logs and metrics.
    pub id: String,
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
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A request whose reply is the response.
    Request,
    /// An event: 202 once it is on its way.
    Publish,
}

impl Mode {
    /// The policy verb that it is decided under.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Publish => "publish",
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
        /// The scopes that the token must have, all of them.
        scopes: Vec<String>,
        /// Scopes that travel on if the token has them.
        optional_scopes: Vec<String>,
        /// The verticals that the user's token may be spent in; where nothing is
        /// said, those of the route's own subject.
        reach: Option<Vec<String>>,
        /// Whether the client's own token travels beside the user's.
        carries_original: bool,
    },
}

/// How tokens of one issuer are validated for one set of audiences.
#[derive(Debug, Clone)]
pub(crate) struct TokenPolicy {
    /// The index of the issuer in the configuration.
    pub(crate) issuer: usize,
    pub(crate) validator: Arc<AccessTokenValidator>,
}

/// What a method and a path lead to.
pub(crate) enum Found<'p> {
    Route(Arc<Route>, Vec<&'p str>),
    /// The path exists under these methods only.
    WrongMethod(Vec<Method>),
    Nothing,
}

impl RouteTable {
    /// The routes in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(AsRef::as_ref)
    }

    pub(crate) fn policies(&self) -> &[TokenPolicy] {
        &self.policies
    }

    pub(crate) fn find<'p>(&self, method: &Method, path: &'p CleanPath) -> Found<'p> {
        let mut others = Vec::new();
        for route in &self.routes {
            if let Some(captures) = route.path.matches(path) {
                if route.method == *method {
                    return Found::Route(Arc::clone(route), captures);
                }
                if !others.contains(&route.method) {
                    others.push(route.method.clone());
                }
            }
        }
        if others.is_empty() {
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
    /// The index of the capture in the path.
    Capture(usize),
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
                    Some(index) => tokens.push(SubjectToken::Capture(index)),
                    None => return Err(format!("the path has no capture `{{{name}}}`")),
                },
            }
        }
        if !matches!(tokens.first(), Some(SubjectToken::Literal(_))) {
            return Err("the first token of a subject is fixed".to_owned());
        }
        Ok(Self::Tokens(tokens))
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
                SubjectToken::Capture(index) => {
                    text.push_str(captures.get(*index).filter(|v| is_capture_value(v))?);
                }
            }
        }
        Subject::parse(&text).ok()
    }
}
