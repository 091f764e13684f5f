//! Why a request got no further: what the client sees, and what is counted and logged.

use crate::api_keys::KeyError;
use crate::authenticate::AuthError;
use crate::bus::{BusError, ServiceFault};
use crate::certificates::CertificateError;
use crate::problem::Problem;

/// Why a request got no further.
pub(crate) struct Refusal {
    pub(crate) problem: Problem,
    /// Under which reason it is counted.
    pub(crate) reason: Option<&'static str>,
    /// Whether it is a decision, so that it is in the decision log.
    pub(crate) decided: bool,
    /// The decision of another enforcer, if it was one.
    pub(crate) decision: Option<String>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            reason: None,
            decided: false,
            decision: None,
        }
    }
}

/// A decision against somebody: counted and in the decision log.
pub(crate) fn deny(problem: Problem, reason: &'static str) -> Refusal {
    Refusal {
        problem,
        reason: Some(reason),
        decided: true,
        decision: None,
    }
}

/// A refusal that is about the request and not about who sends it: counted.
pub(crate) fn refuse(problem: Problem, reason: &'static str) -> Refusal {
    Refusal {
        problem,
        reason: Some(reason),
        decided: false,
        decision: None,
    }
}

/// Inside precise, outside uniform: a refused token is a refused token.
pub(crate) fn refused_token(error: AuthError) -> Problem {
    match error {
        AuthError::NoToken => Problem::NoToken,
        AuthError::Repeated => Problem::BadAuthorization,
        AuthError::Malformed | AuthError::Token(_) => Problem::InvalidToken,
        AuthError::NoKeys => Problem::Unavailable,
    }
}

/// The same for API keys.
pub(crate) fn refused_key(error: KeyError) -> Problem {
    match error {
        KeyError::Missing => Problem::NoKey,
        KeyError::Repeated
        | KeyError::Malformed
        | KeyError::Unknown
        | KeyError::Wrong
        | KeyError::Revoked
        | KeyError::Expired => Problem::InvalidKey,
        KeyError::Unavailable => Problem::Unavailable,
    }
}

/// The same for certificates.
pub(crate) fn refused_certificate(error: CertificateError) -> Problem {
    match error {
        CertificateError::NotShown => Problem::NoCertificate,
        CertificateError::Expired | CertificateError::Unknown | CertificateError::Ambiguous => {
            Problem::InvalidCertificate
        }
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
            decision,
            ..Self::from(problem)
        }
    }
}
