//! Subjects and names that Bulla keeps for itself.
//!
//! | subject | who may use it |
//! |---|---|
//! | `$BULLA.CTL.>` | brokers write the control stream, in the account JS only |
//! | `$BULLA.NEWS.>` | its republished copy: every workload may listen |
//! | `$JS.API.DIRECT.GET.BULLA_CTL.…` | its snapshot: every workload may ask |
//! | `$BULLA.BROKER.<tag>.…` | requests of the workload with that tag, of no other |
//! | `$BULLA.KEYS.<tag>.<data-key id>` | that workload writes, once; every workload may ask |
//! | `$BULLA.CLAIMS.<tag>.<claim id>` | that workload writes, once, and asks |
//! | `$BULLA.STATUS.<tag>.<instance>` | that workload's processes write what they run; operators read |
//! | `$BULLA.HISTORY.POLICY.<revision>` | brokers and operators, in the account JS only |
//! | `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`, `$JS.ACK.<stream>.<consumer>.>` | the workload that may consume as that consumer |
//! | `$BULLA.CONSUMER.INFO.<stream>.<consumer>`, `$BULLA.STREAM.INFO.<stream>` | the same: how they are configured |
//! | `$JS.API.DIRECT.GET.<stream>` | the same, if the stream forgets nothing: asks for messages by number |
//! | `$BULLA.TAKEN.<tag>.<claim id>` | the same, if it consumes a stream that forgets ids, and who mints tokens: writes once, and asks |
//! | `$BULLA.AUDIT.<tag>.<instance>` | that workload writes what it decided; nobody but operators reads |
//! | `$KV.<bucket>.<key>` | who may write that key of a bucket of the policy |
//! | `$JS.API.DIRECT.GET.KV_<bucket>.$KV.<bucket>.<key>`, `$BULLA.KV.<bucket>.<key>` | who may read it: asks for its value, hears of its changes |
//! | `$SRV.PING`, `$SRV.INFO`, `$SRV.STATS`, and beneath | who discovers asks, who is discoverable answers: in plain JSON |
//! | `$BULLA.TXN` | every workload asks, the one that exchanges tokens serves; if there is one |
//! | `$BULLA.BARRIER` | every workload may publish, nobody ever listens |
//! | `_INBOX.<tag>.p.>` | that workload listens; its peers may reply there |
//! | `_INBOX.<tag>.s.>` | that workload listens; only nats-server and brokers answer there |

use std::time::Duration;

use crate::nkey::Nkey;
use crate::workload::WorkloadTag;

/// A request here is answered "no responders" by nats-server itself, in order
/// with everything the connection sent before it.
pub const BARRIER: &str = "$BULLA.BARRIER";
/// Where the broker exchanges users' tokens. A workload serves it that the policy
/// lets exchange, and every workload may ask.
pub const EXCHANGE: &str = "$BULLA.TXN";
/// The control stream's name.
pub const CTL_STREAM: &str = "BULLA_CTL";
/// Everything on the control stream.
pub const CTL_ALL: &str = "$BULLA.CTL.>";
/// The signed trust bundle.
pub const CTL_BUNDLE: &str = "$BULLA.CTL.BUNDLE";
/// The signed policy.
pub const CTL_POLICY: &str = "$BULLA.CTL.POLICY";
/// The policy on trial, if there is one.
pub const CTL_CANDIDATE: &str = "$BULLA.CTL.CANDIDATE";
/// The signed revocation list.
pub const CTL_REVOCATIONS: &str = "$BULLA.CTL.REVOCATIONS";
/// The newest head: a broker's statement of what is in force.
pub const CTL_HEAD: &str = "$BULLA.CTL.HEAD";
/// KEM records' republished copies begin so.
pub const NEWS_KEM: &str = "$BULLA.NEWS.KEM.";

/// Workloads' KEM records on the control stream.
pub const CTL_KEM_ALL: &str = "$BULLA.CTL.KEM.>";
/// The control stream, republished.
pub const NEWS_ALL: &str = "$BULLA.NEWS.>";
/// The republished trust bundle.
pub const NEWS_BUNDLE: &str = "$BULLA.NEWS.BUNDLE";
/// The republished policy.
pub const NEWS_POLICY: &str = "$BULLA.NEWS.POLICY";
/// The republished policy on trial.
pub const NEWS_CANDIDATE: &str = "$BULLA.NEWS.CANDIDATE";
/// The republished revocation list.
pub const NEWS_REVOCATIONS: &str = "$BULLA.NEWS.REVOCATIONS";
/// The republished head.
pub const NEWS_HEAD: &str = "$BULLA.NEWS.HEAD";
/// Direct gets on the control stream.
pub const DIRECT_GET_ALL: &str = "$JS.API.DIRECT.GET.BULLA_CTL.$BULLA.CTL.>";
/// The stream of data keys, wrapped to their recipients.
pub const KEYS_STREAM: &str = "BULLA_KEYS";
/// Everything on it: `$BULLA.KEYS.<sender's tag>.<data-key id>`.
pub const KEYS_ALL: &str = "$BULLA.KEYS.*.*";
/// Direct gets of wrapped data keys.
pub const KEYS_DIRECT_GET_ALL: &str = "$JS.API.DIRECT.GET.BULLA_KEYS.$BULLA.KEYS.>";
/// The stream of claims: which message a workload has begun to handle.
pub const CLAIMS_STREAM: &str = "BULLA_CLAIMS";
/// Everything on it: `$BULLA.CLAIMS.<claimant's tag>.<claim id>`.
pub const CLAIMS_ALL: &str = "$BULLA.CLAIMS.*.*";
/// The stream of claims about what other streams stored: under which number a
/// consumer was first given a message.
pub const TAKEN_STREAM: &str = "BULLA_TAKEN";
/// Everything on it: `$BULLA.TAKEN.<claimant's tag>.<claim id>`.
pub const TAKEN_ALL: &str = "$BULLA.TAKEN.*.*";
/// The longest that such a claim stands. It outlives what may be consumed for
/// the longest (30 days), and what clocks may differ.
pub const TAKEN_LIFE: Duration = Duration::from_secs(31 * 24 * 60 * 60);
/// The stream of the audit log.
pub const AUDIT_STREAM: &str = "BULLA_AUDIT";
/// Everything on it: `$BULLA.AUDIT.<writer's tag>.<writer's instance>`.
pub const AUDIT_ALL: &str = "$BULLA.AUDIT.*.*";
/// What was written there, told to brokers without its contents:
/// `$BULLA.AUDITED.<writer's tag>.<writer's instance>`.
pub const AUDITED_ALL: &str = "$BULLA.AUDITED.*.*";
/// Who has used up his share of it, told among brokers: `$BULLA.OVERQUOTA.<tag>`.
pub const OVER_QUOTA_ALL: &str = "$BULLA.OVERQUOTA.*";
/// What stands in the place of a tag where a broker writes: never one, because a
/// tag is 32 hexadecimal digits.
pub const AUDIT_BROKER: &str = "broker";
/// The stream of the policies that were in force.
pub const HISTORY_STREAM: &str = "BULLA_HISTORY";
/// Everything on it: `$BULLA.HISTORY.POLICY.<revision>`.
pub const HISTORY_ALL: &str = "$BULLA.HISTORY.POLICY.*";
/// The stream of what enforcers say of themselves.
pub const STATUS_STREAM: &str = "BULLA_STATUS";
/// Everything on it: `$BULLA.STATUS.<tag>.<instance>`, and brokers'
/// `$BULLA.STATUS.broker.<broker id>`.
pub const STATUS_ALL: &str = "$BULLA.STATUS.*.*";
/// What stands in the place of a tag in brokers' own reports. No tag is written so.
pub const STATUS_BROKER: &str = "broker";
/// Writes to every bucket.
pub const BUCKETS_ALL: &str = "$KV.>";
/// The changes of every bucket's keys, republished.
pub const BUCKET_NEWS_ALL: &str = "$BULLA.KV.>";
/// Direct gets on every stream.
pub const DIRECT_GETS_ALL: &str = "$JS.API.DIRECT.GET.>";
/// Where NATS's own tools ask which services there are (ADR-32); beneath each, of a
/// service of some name, and of one instance of it.
pub const DISCOVERY: [&str; 3] = ["$SRV.PING", "$SRV.INFO", "$SRV.STATS"];
/// Every request to a broker.
pub const BROKER_ALL: &str = "$BULLA.BROKER.>";

/// The longest that a claim stands. It outlives every message that could be
/// claimed again: the longest life of an envelope (15 min) and what clocks may
/// differ.
pub const CLAIM_LIFE: Duration = Duration::from_secs(20 * 60);

/// Requests for messages of a stream.
pub const CONSUMER_NEXT_ALL: &str = "$JS.API.CONSUMER.MSG.NEXT.>";
/// Answers for messages of a stream.
pub const CONSUMER_ACK_ALL: &str = "$JS.ACK.>";
/// JetStream's own subject for questions about consumers. Workloads' account
/// has it under [`CONSUMER_INFO_ALL`]: under its own name nats-server would
/// answer for that account, which has no JetStream.
pub const JS_CONSUMER_INFO_ALL: &str = "$JS.API.CONSUMER.INFO.>";
/// The name for it in the workloads' account.
pub const CONSUMER_INFO_ALL: &str = "$BULLA.CONSUMER.INFO.>";
/// JetStream's own subject for questions about streams.
pub const JS_STREAM_INFO_ALL: &str = "$JS.API.STREAM.INFO.>";
/// The name for it in the workloads' account.
pub const STREAM_INFO_ALL: &str = "$BULLA.STREAM.INFO.>";

/// Whether a stream's name has a meaning already.
#[must_use]
pub fn is_reserved_stream(name: &str) -> bool {
    ["BULLA_", "KV_", "OBJ_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Where a consumer's messages are asked for.
#[must_use]
pub fn consumer_next(stream: &str, consumer: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}")
}

/// How the subjects begin under which a consumer's messages are answered for,
/// without a final dot.
#[must_use]
pub fn consumer_ack(stream: &str, consumer: &str) -> String {
    format!("$JS.ACK.{stream}.{consumer}")
}

/// Where a workload asks how a consumer is configured.
#[must_use]
pub fn consumer_info(stream: &str, consumer: &str) -> String {
    format!("$BULLA.CONSUMER.INFO.{stream}.{consumer}")
}

/// Where a workload asks how a stream is configured.
#[must_use]
pub fn stream_info(stream: &str) -> String {
    format!("$BULLA.STREAM.INFO.{stream}")
}

/// The stream that a bucket lies in.
#[must_use]
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Where a key's values are written.
#[must_use]
pub fn bucket_key(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// The direct-get request for a key's newest value.
#[must_use]
pub fn bucket_direct_get(bucket: &str, key: &str) -> String {
    format!("$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}")
}

/// Direct-get requests for any of a bucket's keys, and for many at once.
#[must_use]
pub fn bucket_direct_gets(bucket: &str) -> String {
    format!("$JS.API.DIRECT.GET.KV_{bucket}")
}

/// Where a key's changes are heard of.
#[must_use]
pub fn bucket_news(bucket: &str, key: &str) -> String {
    format!("$BULLA.KV.{bucket}.{key}")
}

/// Direct-get requests for what a stream of the policy stores.
#[must_use]
pub fn stream_direct_gets(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

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

/// Where the KEM record of the workload with this tag and nkey lies.
#[must_use]
pub fn ctl_kem(tag: WorkloadTag, nkey: &Nkey) -> String {
    format!("$BULLA.CTL.KEM.{tag}.{nkey}")
}

/// Every KEM record of the workload with this tag.
#[must_use]
pub fn ctl_kem_of(tag: WorkloadTag) -> String {
    format!("$BULLA.CTL.KEM.{tag}.*")
}

/// Its republished copy.
#[must_use]
pub fn news_kem(tag: WorkloadTag, nkey: &Nkey) -> String {
    format!("$BULLA.NEWS.KEM.{tag}.{nkey}")
}

/// Where the sender with this tag stores the wraps of a data key (64 hex digits).
#[must_use]
pub fn key_record(tag: WorkloadTag, data_key_id_hex: &str) -> String {
    format!("$BULLA.KEYS.{tag}.{data_key_id_hex}")
}

/// Everything that the sender with this tag may store.
#[must_use]
pub fn key_records_of(tag: WorkloadTag) -> String {
    format!("$BULLA.KEYS.{tag}.>")
}

/// The direct-get request for one of these records.
#[must_use]
pub fn key_direct_get(tag: WorkloadTag, data_key_id_hex: &str) -> String {
    format!("$JS.API.DIRECT.GET.{KEYS_STREAM}.$BULLA.KEYS.{tag}.{data_key_id_hex}")
}

/// Where the workload with this tag claims (32 hex digits).
#[must_use]
pub fn claim(tag: WorkloadTag, claim_hex: &str) -> String {
    format!("$BULLA.CLAIMS.{tag}.{claim_hex}")
}

/// Everything that the workload with this tag may claim.
#[must_use]
pub fn claims_of(tag: WorkloadTag) -> String {
    format!("$BULLA.CLAIMS.{tag}.>")
}

/// The direct-get request for one of its claims.
#[must_use]
pub fn claim_direct_get(tag: WorkloadTag, claim_hex: &str) -> String {
    format!("$JS.API.DIRECT.GET.{CLAIMS_STREAM}.$BULLA.CLAIMS.{tag}.{claim_hex}")
}

/// Direct gets of all its claims.
#[must_use]
pub fn claims_direct_get_of(tag: WorkloadTag) -> String {
    format!("$JS.API.DIRECT.GET.{CLAIMS_STREAM}.$BULLA.CLAIMS.{tag}.>")
}

/// Where the workload with this tag claims what a stream stored (32 hex digits).
#[must_use]
pub fn taken(tag: WorkloadTag, claim_hex: &str) -> String {
    format!("$BULLA.TAKEN.{tag}.{claim_hex}")
}

/// Everything that it may claim so.
#[must_use]
pub fn taken_of(tag: WorkloadTag) -> String {
    format!("$BULLA.TAKEN.{tag}.>")
}

/// The direct-get request for one of these claims.
#[must_use]
pub fn taken_direct_get(tag: WorkloadTag, claim_hex: &str) -> String {
    format!("$JS.API.DIRECT.GET.{TAKEN_STREAM}.$BULLA.TAKEN.{tag}.{claim_hex}")
}

/// Direct gets of all of them.
#[must_use]
pub fn taken_direct_get_of(tag: WorkloadTag) -> String {
    format!("$JS.API.DIRECT.GET.{TAKEN_STREAM}.$BULLA.TAKEN.{tag}.>")
}

/// Where one writer of the audit log writes: `<tag>.<instance>`, or
/// `broker.<instance>`.
#[must_use]
pub fn audit(writer: &str) -> String {
    format!("$BULLA.AUDIT.{writer}")
}

/// Everything that the workload with this tag may write to the audit log.
#[must_use]
pub fn audit_of(tag: WorkloadTag) -> String {
    format!("$BULLA.AUDIT.{tag}.*")
}

/// Where brokers tell each other that this workload has used up its share of the audit
/// log.
#[must_use]
pub fn over_quota(tag: WorkloadTag) -> String {
    format!("$BULLA.OVERQUOTA.{tag}")
}

/// Where the policy with this revision is kept.
#[must_use]
pub fn policy_history(revision: u64) -> String {
    format!("$BULLA.HISTORY.POLICY.{revision}")
}

/// Where one process of the workload with this tag says what it runs (16 hex
/// digits).
#[must_use]
pub fn status(tag: WorkloadTag, instance_hex: &str) -> String {
    format!("$BULLA.STATUS.{tag}.{instance_hex}")
}

/// Where all processes of that workload say so.
#[must_use]
pub fn status_of(tag: WorkloadTag) -> String {
    format!("$BULLA.STATUS.{tag}.*")
}

/// Where a broker says what it runs.
#[must_use]
pub fn status_of_broker(broker_id: &str) -> String {
    format!("$BULLA.STATUS.{STATUS_BROKER}.{broker_id}")
}

/// The NATS header of a request for a credential that shows the token by which the
/// workload connects: where nothing of its own vouches, a broker does, for no longer
/// than the token is good.
pub const WORKLOAD_TOKEN: &str = "Bulla-Workload-Token";

/// Where the workload with this tag hands in its KEM record.
#[must_use]
pub fn broker_kem(tag: WorkloadTag) -> String {
    format!("$BULLA.BROKER.{tag}.kem")
}

/// Where a host that is invited to be the workload with this tag hands in its key.
#[must_use]
pub fn broker_join(tag: WorkloadTag) -> String {
    format!("$BULLA.BROKER.{tag}.join")
}

/// What came of the invitation with this one-time key.
#[must_use]
pub fn ctl_join(one_time: &Nkey) -> String {
    format!("$BULLA.CTL.JOIN.{one_time}")
}

/// What came of all of them.
pub const CTL_JOIN_ALL: &str = "$BULLA.CTL.JOIN.>";

/// Where a host that joins gets its answer, without a final dot.
#[must_use]
pub fn inbox_join(one_time: &Nkey) -> String {
    format!("_INBOX.join.{one_time}")
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
