//! Subjects and names that Bulla keeps for itself.
//!
//! | subject | who may use it |
//! |---|---|
//! | `$BULLA.CTL.>` | brokers write the control stream, in the account JS only |
//! | `$BULLA.NEWS.>` | its republished copy: every workload may listen |
//! | `$JS.API.DIRECT.GET.BULLA_CTL.…` | its snapshot: every workload may ask |
//! | `$BULLA.BROKER.<tag>.…` | requests of the workload with that tag, of no other |
//! | `$BULLA.BARRIER` | every workload may publish, nobody ever listens |
//! | `_INBOX.<tag>.p.>` | that workload listens; its peers may reply there |
//! | `_INBOX.<tag>.s.>` | that workload listens; only nats-server and brokers answer there |

use crate::workload::WorkloadTag;

/// A request here is answered "no responders" by nats-server itself, in order
/// with everything the connection sent before it.
pub const BARRIER: &str = "$BULLA.BARRIER";
/// The control stream's name.
pub const CTL_STREAM: &str = "BULLA_CTL";
/// Everything on the control stream.
pub const CTL_ALL: &str = "$BULLA.CTL.>";
/// The signed trust bundle.
pub const CTL_BUNDLE: &str = "$BULLA.CTL.BUNDLE";
/// The signed policy.
pub const CTL_POLICY: &str = "$BULLA.CTL.POLICY";
/// The control stream, republished.
pub const NEWS_ALL: &str = "$BULLA.NEWS.>";
/// The republished trust bundle.
pub const NEWS_BUNDLE: &str = "$BULLA.NEWS.BUNDLE";
/// The republished policy.
pub const NEWS_POLICY: &str = "$BULLA.NEWS.POLICY";
/// Direct gets on the control stream.
pub const DIRECT_GET_ALL: &str = "$JS.API.DIRECT.GET.BULLA_CTL.$BULLA.CTL.>";
/// Every request to a broker.
pub const BROKER_ALL: &str = "$BULLA.BROKER.>";

/// Whether a subject or pattern belongs to nats-server or to Bulla: its first
/// token starts with `$`, or is `_INBOX`.
#[must_use]
pub fn is_reserved(subject: &str) -> bool {
    let first = subject.split('.').next().unwrap_or_default();
    first.starts_with('$') || first == "_INBOX"
}

/// Where the credential with this key id (32 hex digits) lies.
#[must_use]
pub fn ctl_credential(key_id_hex: &str) -> String {
    format!("$BULLA.CTL.CRED.{key_id_hex}")
}

/// The direct-get request for one subject of the control stream.
#[must_use]
pub fn direct_get(ctl_subject: &str) -> String {
    format!("$JS.API.DIRECT.GET.{CTL_STREAM}.{ctl_subject}")
}

/// Where the workload with this tag asks for a challenge.
#[must_use]
pub fn broker_challenge(tag: WorkloadTag) -> String {
    format!("$BULLA.BROKER.{tag}.challenge")
}

/// Where it asks the broker that gave the challenge for a credential.
#[must_use]
pub fn broker_credential(tag: WorkloadTag, broker_id: &str) -> String {
    format!("$BULLA.BROKER.{tag}.credential.{broker_id}")
}

/// The half of a workload's inbox space where peers reply, without a final dot.
#[must_use]
pub fn inbox_peers(tag: WorkloadTag) -> String {
    format!("_INBOX.{tag}.p")
}

/// The half where only nats-server and brokers answer, without a final dot.
#[must_use]
pub fn inbox_server(tag: WorkloadTag) -> String {
    format!("_INBOX.{tag}.s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_is_told_by_the_first_token() {
        for yes in ["$SYS.x", "$JS.API.>", "$KV.b.k", "$", "_INBOX.a", "_INBOX"] {
            assert!(is_reserved(yes), "{yes}");
        }
        for no in ["orders.$x", "_INBOXES.a", "a._INBOX"] {
            assert!(!is_reserved(no), "{no}");
        }
    }
}
