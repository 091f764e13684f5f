//! What an enforcer says of itself: which policy it runs, and how it fares.
//!
//! It is for the operator's eyes and proves nothing. nats-server lets a workload
//! write reports under its own tag alone, so that one which lies, lies about
//! itself; who a report is from is told by its subject, never by what it says.
//!
//! JSON, at most [`MAX_REPORT`] bytes. What a reader does not know it passes over.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest report, in bytes.
pub const MAX_REPORT: usize = 1024;

/// What kind of process it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnforcerKind {
    /// A broker: it admits connections and issues credentials.
    Broker,
    /// An HTTP edge.
    Gateway,
    /// A service.
    Service,
}

impl fmt::Display for EnforcerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broker => "broker",
            Self::Gateway => "gateway",
            Self::Service => "service",
        })
    }
}

/// One report. Times are milliseconds since 1970 by the enforcer's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcerReport {
    /// What it is.
    pub kind: EnforcerKind,
    /// Its program's version.
    pub version: String,
    /// The policy revision that it enforces.
    pub revision: u64,
    /// SHA-256 of that policy's record, in hexadecimal digits.
    pub policy: String,
    /// Since when it enforces it.
    pub since: u64,
    /// The version of its trust bundle.
    pub bundle: u64,
    /// The sequence of its revocation list; 0 if there is none.
    pub revocations: u64,
    /// The number of the candidate that it decides beside the policy; 0 if none.
    #[serde(default)]
    pub candidate: u64,
    /// How many decisions that it allowed the candidate would have denied.
    #[serde(default)]
    pub would_deny: u64,
    /// How many that it denied the candidate would have allowed.
    #[serde(default)]
    pub would_allow: u64,
    /// Why it refuses everything at the moment; empty if it does not.
    #[serde(default)]
    pub standing: String,
    /// When it started.
    pub started: u64,
    /// Whether it says good-bye.
    #[serde(default)]
    pub is_gone: bool,
}

impl EnforcerReport {
    /// The bytes to publish.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // A structure of numbers and texts always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a report that anybody may have written. Texts hold what can be
    /// printed: letters, digits, `.`, `-`, `_` and `+`.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_REPORT {
            return Err(ReportError::TooLong {
                actual: bytes.len(),
            });
        }
        let report: Self = serde_json::from_slice(bytes).map_err(|_| ReportError::Malformed)?;
        let texts = [&report.version, &report.policy, &report.standing];
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
        if texts.into_iter().any(|text| !text.chars().all(plain)) {
            return Err(ReportError::Text);
        }
        Ok(report)
    }
}

/// Why bytes are no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Too long.
    #[error("a report of {actual} bytes, more than {MAX_REPORT}")]
    TooLong {
        /// How long it is.
        actual: usize,
    },
    /// Not JSON, or a member is missing or of another type.
    #[error("the report is malformed")]
    Malformed,
    /// A text that holds what is not to be printed.
    #[error("the report holds a text that is not to be printed")]
    Text,
}

impl ReportError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "report_too_long",
            Self::Malformed => "report_malformed",
            Self::Text => "report_text",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> EnforcerReport {
        EnforcerReport {
            kind: EnforcerKind::Service,
            version: "0.1.0".to_owned(),
            revision: 7,
            policy: "ab".repeat(32),
            since: u64::MAX,
            bundle: u64::MAX,
            revocations: u64::MAX,
            candidate: u64::MAX,
            would_deny: u64::MAX,
            would_allow: u64::MAX,
            standing: "own_workload_revoked".to_owned(),
            started: u64::MAX,
            is_gone: true,
        }
    }

    #[test]
    fn the_longest_report_fits_and_comes_back() {
        let bytes = report().encode();
        assert!(bytes.len() <= MAX_REPORT / 2, "{}", bytes.len());
        assert_eq!(EnforcerReport::decode(&bytes), Ok(report()));
    }

    #[test]
    fn what_a_stranger_writes_is_not_printed() {
        for (bytes, code) in [
            (vec![b' '; 1025], "report_too_long"),
            (b"".to_vec(), "report_malformed"),
            (b"[]".to_vec(), "report_malformed"),
            (b"\xff".to_vec(), "report_malformed"),
            (
                EnforcerReport {
                    version: "\u{1b}[2J".to_owned(),
                    ..report()
                }
                .encode(),
                "report_text",
            ),
            (
                EnforcerReport {
                    standing: "all is well\n".to_owned(),
                    ..report()
                }
                .encode(),
                "report_text",
            ),
        ] {
            assert_eq!(EnforcerReport::decode(&bytes).unwrap_err().code(), code);
        }
    }
}
