//! The access log: one event for each answer, for those who want to count clients and not
//! decisions. Never with a query, a token, a payload or a header but `User-Agent`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{Request, Version};
use time::OffsetDateTime;
use time::macros::format_description;

/// The `tracing` target of its events.
const TARGET: &str = "bulla::access";
/// The longest user agent, in characters.
const MAX_AGENT: usize = 256;

/// How answers are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// Not at all.
    #[default]
    Off,
    /// As fields: objects where the log is JSON.
    Fields,
    /// As a line in the combined log format.
    Combined,
}

/// What is kept of a request until it is answered.
pub(crate) struct Access {
    method: String,
    path: String,
    version: Version,
    agent: String,
}

/// How it was answered.
pub(crate) struct Outcome<'a> {
    pub(crate) client: Option<IpAddr>,
    pub(crate) user: &'a str,
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    pub(crate) decision_id: &'a str,
    pub(crate) at: OffsetDateTime,
}

impl AccessLog {
    /// What has to be kept of this request; nothing if nothing is written.
    pub(crate) fn begin<B>(self, request: &Request<B>) -> Option<Access> {
        if self == Self::Off {
            return None;
        }
        let agent = request.headers().get(USER_AGENT);
        let agent = agent.and_then(|v| v.to_str().ok()).unwrap_or("-");
        Some(Access {
            method: request.method().as_str().to_owned(),
            // Without the query: it may hold what nobody wants in a log.
            path: request.uri().path().to_owned(),
            version: request.version(),
            agent: agent.chars().take(MAX_AGENT).collect(),
        })
    }

    /// Writes an answer down; `access` is none where it answers what was no request.
    pub(crate) fn write(self, access: Option<&Access>, outcome: &Outcome<'_>) {
        let client = outcome
            .client
            .map_or_else(|| "-".to_owned(), |address| address.to_string());
        match self {
            Self::Off => {}
            Self::Fields => tracing::info!(
                target: TARGET,
                client,
                user = outcome.user,
                method = access.map(|access| access.method.as_str()),
                path = access.map(|access| access.path.as_str()),
                route = outcome.route,
                status = outcome.status,
                bytes = outcome.bytes,
                milliseconds = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
                agent = access.map(|access| access.agent.as_str()),
                decision_id = outcome.decision_id,
            ),
            Self::Combined => {
                let line = combined(access, outcome, &client);
                tracing::info!(target: TARGET, "{line}");
            }
        }
    }
}

/// `client - user [time] "request" status bytes "-" "agent"`.
fn combined(access: Option<&Access>, outcome: &Outcome<'_>, client: &str) -> String {
    let format =
        format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
    let at = outcome.at.format(format).unwrap_or_default();
    let user = if outcome.user.is_empty() {
        "-".to_owned()
    } else {
        escaped(outcome.user)
    };
    let mut line = format!("{client} - {user} [{at}] ");
    let (request, agent) = match access {
        Some(access) => {
            let path = escaped(&access.path);
            let request = format!("{} {path} {:?}", access.method, access.version);
            (request, escaped(&access.agent))
        }
        None => ("-".to_owned(), "-".to_owned()),
    };
    let _ = write!(
        line,
        "\"{request}\" {} {} \"-\" \"{agent}\"",
        outcome.status, outcome.bytes,
    );
    line
}

/// Text that neither ends a field nor begins a line.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                safe.push('\\');
                safe.push(c);
            }
            ' ' => safe.push(' '),
            c if c.is_ascii_graphic() => safe.push(c),
            other => {
                let _ = write!(safe, "\\u{{{:x}}}", u32::from(other));
            }
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_with_fields_that_end_where_they_should() {
        let access = Access {
            method: "GET".into(),
            path: "/v1/orders/42".into(),
            version: Version::HTTP_11,
            agent: "curl\" 200 \"\n127.0.0.1".into(),
        };
        let outcome = Outcome {
            client: None,
            user: "al\"ice\u{e9}",
            route: "",
            status: 200,
            bytes: 11,
            took: Duration::ZERO,
            decision_id: "d",
            at: OffsetDateTime::UNIX_EPOCH,
        };
        assert_eq!(
            combined(Some(&access), &outcome, "192.0.2.1"),
            "192.0.2.1 - al\\\"ice\\u{e9} [01/Jan/1970:00:00:00 +0000] \"GET /v1/orders/42 HTTP/1.1\" 200 11 \"-\" \"curl\\\" 200 \\\"\\u{a}127.0.0.1\""
        );
        let unread = Outcome {
            user: "",
            status: 400,
            bytes: 0,
            ..outcome
        };
        assert_eq!(
            combined(None, &unread, "192.0.2.1"),
            "192.0.2.1 - - [01/Jan/1970:00:00:00 +0000] \"-\" 400 0 \"-\" \"-\""
        );
    }
}
