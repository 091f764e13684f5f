//! What every answer carries, whatever it is: the headers that keep a browser from
//! doing more with it than reading it.

use std::time::Duration;

use http::header::{
    CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The `[security]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityConfig {
    /// For how long browsers come by TLS only; zero says nothing about it.
    pub hsts: Duration,
    /// What a page may do that a service answers with.
    pub content_security_policy: HeaderValue,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self {
            hsts: Duration::from_secs(365 * 86_400),
            content_security_policy: HeaderValue::from_static(
                "default-src 'none'; frame-ancestors 'none'",
            ),
        }
    }
}

impl SecurityConfig {
    /// Adds what is not there. HSTS only over TLS: elsewhere it means nothing
    /// ([RFC 6797 §7.2]).
    ///
    /// [RFC 6797 §7.2]: https://www.rfc-editor.org/rfc/rfc6797#section-7.2
    pub(crate) fn add(&self, tls: bool, headers: &mut HeaderMap) {
        let mut add = |name: HeaderName, value: HeaderValue| {
            headers.entry(name).or_insert(value);
        };
        add(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        add(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        add(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        add(
            CONTENT_SECURITY_POLICY,
            self.content_security_policy.clone(),
        );
        let seconds = self.hsts.as_secs();
        if tls
            && seconds > 0
            && let Ok(value) = HeaderValue::try_from(format!("max-age={seconds}"))
        {
            add(STRICT_TRANSPORT_SECURITY, value);
        }
    }
}
