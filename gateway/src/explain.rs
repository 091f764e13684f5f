//! What the edge would do with a request, without sending it: for `gateway explain`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use serde::Serialize;

use crate::api_keys::KeyError;
use crate::authenticate::AuthError;
use crate::certificates::CertificateError;
use crate::clock;
use crate::config::GatewayConfig;
use crate::loaded::Loaded;
use crate::metrics::Metrics;
use crate::path::CleanPath;
use crate::routes::{Access, Found, Route};

/// What is asked.
#[derive(Clone)]
pub struct Question {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: Uri,
    /// The version that the client asks for.
    pub version: Option<String>,
    /// An access token.
    pub token: Option<String>,
    /// The client's address.
    pub from: Option<IpAddr>,
}

/// Shows what is asked for, never the token.
impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("method", &self.method)
            .field("path", &self.target.path())
            .field("version", &self.version)
            .field("has_token", &self.token.is_some())
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Whether the edge would send a message. The policy is asked after that.
    pub passes: bool,
    /// The status that the client would see if not.
    pub status: Option<u16>,
    /// Why, in the words of the decision log; empty if it passes.
    pub reason: String,
    /// Method and path of the route.
    pub route: Option<String>,
    /// Where the message would go.
    pub subject: Option<String>,
    /// What else holds, for people: a word and a sentence each.
    pub notes: Vec<(String, String)>,
}

impl Explanation {
    fn refused(status: u16, reason: impl Into<String>) -> Self {
        Self {
            passes: false,
            status: Some(status),
            reason: reason.into(),
            route: None,
            subject: None,
            notes: Vec::new(),
        }
    }
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// An issuer cannot be asked at all.
    #[error(transparent)]
    Load(#[from] crate::loaded::LoadError),
}

/// Answers as the edge would, up to the body. With a token it fetches the issuer's keys.
///
/// # Errors
///
/// [`ExplainError`] if the question cannot be answered.
pub async fn explain(
    config: &GatewayConfig,
    question: &Question,
) -> Result<Explanation, ExplainError> {
    let loaded = Loaded::new(config, &Metrics::new())?;
    let Ok(path) = CleanPath::parse(&question.target) else {
        return Ok(Explanation::refused(400, "malformed_path"));
    };
    let version = question
        .version
        .as_deref()
        .or(config.api.default_version.as_deref());
    let (route, captures) = match loaded.routes.find(&question.method, &path, version) {
        Found::Route(route, captures) => (route, captures),
        Found::WrongMethod(_) => return Ok(Explanation::refused(405, "unknown_method")),
        Found::WrongVersion => return Ok(Explanation::refused(400, "unknown_version")),
        Found::Nothing => return Ok(Explanation::refused(404, "unknown_route")),
    };
    let subject = route.subject.expand(&captures);
    let mut answer = Explanation {
        passes: true,
        status: None,
        reason: String::new(),
        route: Some(route.id.clone()),
        subject: subject.map(|s| s.as_str().to_owned()),
        notes: notes(config, &route),
    };
    if let Some((status, reason)) = refusal(config, &loaded, &route, question).await {
        answer.passes = false;
        answer.status = Some(status);
        answer.reason = reason;
    }
    Ok(answer)
}

async fn refusal(
    config: &GatewayConfig,
    loaded: &Loaded,
    route: &Arc<Route>,
    question: &Question,
) -> Option<(u16, String)> {
    if let Some(from) = question.from {
        let peer = SocketAddr::new(from, 0);
        let client = config.clients.client(peer, &HeaderMap::new());
        if !(config.clients.networks.admits(client) && route.networks.admits(client)) {
            return Some((403, "network_denied".to_owned()));
        }
    }
    let query = crate::exchange::query_parameters(route, question.target.query());
    let bad_query = query.err().map(|_| (400, "malformed_query".to_owned()));
    let (policies, scopes) = match &route.access {
        Access::Public => return bad_query,
        // A key is given to the edge and to no command.
        Access::Key(_) => return Some((401, KeyError::Missing.code().to_owned())),
        // It counts with its connection alone.
        Access::Certificate(_) => {
            return Some((403, CertificateError::NotShown.code().to_owned()));
        }
        Access::Jwt {
            policies, rights, ..
        } => (policies, &rights.scopes),
    };
    let Some(token) = &question.token else {
        return Some((401, AuthError::NoToken.code().to_owned()));
    };
    let now = clock::now();
    match loaded.authenticator.validate(token, policies, now).await {
        Err(AuthError::NoKeys) => Some((503, AuthError::NoKeys.code().to_owned())),
        Err(error) => Some((401, error.code().to_owned())),
        Ok(user) => {
            let lacks = scopes.iter().any(|s| !user.claims().has_scope(s));
            if lacks {
                Some((403, "insufficient_scope".to_owned()))
            } else {
                bad_query
            }
        }
    }
}

fn notes(config: &GatewayConfig, route: &Route) -> Vec<(String, String)> {
    let mut notes = Vec::new();
    let mut note = |word: &str, text: String| notes.push((word.to_owned(), text));
    note(
        "mode",
        format!("{}, waits {:?}", route.mode.verb(), route.timeout),
    );
    match &route.access {
        Access::Public => note("who", "everybody, without a user".to_owned()),
        Access::Key(_) => note("who", "whoever brings an API key".to_owned()),
        Access::Certificate(_) => note("who", "whoever shows a listed certificate".to_owned()),
        Access::Jwt { policies, .. } => {
            for policy in policies
                .iter()
                .filter_map(|p| config.routes.policies().get(*p))
                .map(|p| p.validator.policy())
            {
                let audiences = policy.audiences.join(" or ");
                note("who", format!("users of {} for {audiences}", policy.issuer));
            }
        }
    }
    if let Some(rights) = route.access.rights() {
        let mut list = |word: &str, names: &[String]| {
            if !names.is_empty() {
                note(word, names.join(" "));
            }
        };
        list("scope", &rights.scopes);
        list("optional", &rights.optional_scopes);
        list("reach", rights.reach.as_deref().unwrap_or_default());
    }
    if route.access.carries_original() {
        note("carry", "the client's own token travels on".to_owned());
    }
    for rate in route.rates.iter().filter_map(|r| config.rates.get(*r)) {
        note(
            "rate",
            format!(
                "{}: {} in {:?}, {} at once",
                rate.name, rate.quota, rate.window, rate.burst
            ),
        );
    }
    if route.body > 0 {
        let types = route.content_types.join(", ");
        note("body", format!("up to {} bytes of {types}", route.body));
    }
    if !route.query.is_empty() {
        note("query", route.query.join(" "));
    }
    for (word, mappings) in [("header", &route.headers), ("payload", &route.payload)] {
        for mapping in mappings {
            note(word, format!("{} from {:?}", mapping.name, mapping.source));
        }
    }
    for (capture, claim) in &route.require {
        note(
            "require",
            format!("{{{capture}}} is what claim `{claim}` says"),
        );
    }
    if let Some(canary) = &route.canary {
        let percent = canary.weight / 100;
        note("canary", format!("{percent} of 100 go elsewhere"));
    }
    notes
}
