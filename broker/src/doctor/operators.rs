//! What only users of the accounts `JS` and `SYS` can see.

use std::collections::BTreeSet;
use std::time::Duration;

use bulla_envelope::Head;
use bulla_identity::reserved;
use bulla_policy::{Circumstances, Policy, Retention};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::findings::{self, Finding};
use super::insiders::Insider;
use super::probe::{Bus, Socket};
use super::{Member, State};
use crate::clock;
use crate::trust::CLOCK_SKEW;

/// Brokers say something every two seconds.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long every server of a cluster has for an answer.
const GATHER: Duration = Duration::from_millis(700);
/// The doctor's own stream, which an attack may delete.
const CANARY: &str = "BULLA_DOCTOR_CANARY";
/// nats-server's usual port for monitoring.
const MONITORING: u16 = 8222;

/// Brokers speak, and their clock is ours.
pub(super) async fn clock(
    bus: &Bus,
    js: Option<&mut Socket>,
    pairs: &mut [(Insider<'_>, &Member)],
    state: Option<&State>,
) -> Finding {
    let check = &findings::CLOCK;
    // Brokers end connections of who does not belong there, but none in JS.
    let outside = "a workload has to get in first";
    let socket = match (js, pairs.first_mut()) {
        (Some(js), _) => js,
        (None, Some((insider, _))) => {
            if !insider.revive(bus).await {
                return check.unknown(outside);
            }
            &mut insider.socket
        }
        (None, None) => return check.unknown(outside),
    };
    let Some(state) = state else {
        return check.unknown("the trust root has to be known");
    };
    let subscribe = format!("SUB {} 97", reserved::NEWS_HEAD);
    socket.command(&subscribe).await;
    let heard = socket.next(HEAD_PATIENCE).await;
    socket.command("UNSUB 97").await;
    let Some(bytes) = heard else {
        return check.ill(format!("no broker has spoken for {HEAD_PATIENCE:?}"));
    };
    let now = clock::now();
    // With a wide berth: how far the clocks are apart is the finding.
    let wide = Duration::from_secs(24 * 60 * 60);
    let Ok(head) = Head::open(&bytes, &state.bundle, now, wide) else {
        return check.ill("what a broker says is signed by no issuing key of the trust bundle");
    };
    let apart = now
        .saturating_since(head.time)
        .max(head.time.saturating_since(now));
    let seen = format!("{apart:?} apart");
    if apart > CLOCK_SKEW {
        check.ill(seen)
    } else {
        check.sound(seen)
    }
}

/// Whatever a workload may ask of JetStream, it cannot aim the answer at a command.
pub(super) async fn server_replies(
    bus: &Bus,
    js: Option<&mut Socket>,
    pairs: &mut [(Insider<'_>, &Member)],
    policy: Option<&Policy>,
) -> Finding {
    let check = &findings::REPLIES;
    let Some(js) = js else {
        return check.unknown("a user of the account JS is needed: give --js-seed-file");
    };
    if pairs.is_empty() {
        return check.unknown("a workload has to get in first");
    }
    let finding = aim_answers(bus, js, pairs, policy).await;
    // However that ended, nothing of it is left.
    let gone = format!("$JS.API.STREAM.DELETE.{CANARY}");
    js.ask(&gone, "", None).await;
    finding
}

/// Aims every answer that a workload may ask for at the doctor's own stream.
async fn aim_answers(
    bus: &Bus,
    js: &mut Socket,
    pairs: &mut [(Insider<'_>, &Member)],
    policy: Option<&Policy>,
) -> Finding {
    let check = &findings::REPLIES;
    let (mut faults, mut tried) = (Vec::new(), 0);
    for (insider, _) in pairs.iter_mut() {
        for right in rights(insider.member, policy) {
            if !make_canary(js).await {
                return check.unknown("the doctor's own stream could not be made");
            }
            let aim = format!("PUB {right} $JS.API.STREAM.DELETE.{CANARY} 0\r\n");
            for _ in 0..2 {
                if !insider.revive(bus).await {
                    return check.unknown("a workload did not get in again");
                }
                insider.socket.command(&aim).await;
                if insider.socket.is_alive {
                    break;
                }
            }
            if !insider.socket.is_alive {
                return check.unknown("a workload's connection is ended again and again");
            }
            // The answer is nats-server's own and takes no way that could be waited for.
            tokio::time::sleep(Duration::from_millis(100)).await;
            tried += 1;
            if !is_there(js, CANARY).await {
                let name = &insider.member.name;
                faults.push(format!("`{name}` deleted a stream by way of `{right}`"));
            }
        }
    }
    check.of(
        faults,
        format!("{tried} answers aimed at a stream left it alone"),
    )
}

/// Subjects on which a workload may ask JetStream something that it answers.
fn rights(member: &Member, policy: Option<&Policy>) -> Vec<String> {
    let circumstances = Circumstances {
        now: clock::now(),
        client: None,
    };
    let lists = policy.and_then(|policy| policy.permissions(&member.id, &circumstances).ok());
    let allowed = lists.map(|lists| lists.publish_allow).unwrap_or_default();
    // Everybody has these.
    let usual = [
        reserved::DIRECT_GET_ALL.to_owned(),
        "$JS.API.INFO".to_owned(),
    ];
    allowed
        .into_iter()
        .chain(usual)
        .filter(|entry| entry.starts_with("$JS."))
        .map(|entry| {
            let literal = |token| match token {
                "*" | ">" => "doctor",
                other => other,
            };
            entry.split('.').map(literal).collect::<Vec<_>>().join(".")
        })
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

async fn make_canary(js: &mut Socket) -> bool {
    if is_there(js, CANARY).await {
        return true;
    }
    let config = json!({
        "name": CANARY,
        "subjects": ["$BULLA.DOCTOR.CANARY"],
        "retention": "limits",
        "discard": "old",
        "storage": "memory",
        "num_replicas": 1,
        "max_bytes": 4_096,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_age": 0,
        "max_msg_size": -1,
    });
    let subject = format!("$JS.API.STREAM.CREATE.{CANARY}");
    js.ask(&subject, &config.to_string(), None).await;
    is_there(js, CANARY).await
}

async fn is_there(js: &mut Socket, stream: &str) -> bool {
    stream_config(js, stream).await.is_some()
}

/// How a stream is configured.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct StreamConfig {
    retention: String,
    discard: String,
    duplicate_window: u64,
    deny_delete: bool,
    deny_purge: bool,
    allow_rollup_hdrs: bool,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
}

async fn stream_config(js: &mut Socket, stream: &str) -> Option<StreamConfig> {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    let answers = js.ask(&subject, "", None).await;
    let info: StreamInfo = answers.first().and_then(|answer| read(answer))?;
    Some(info.config)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// Streams and buckets of the policy, and Bulla's own.
pub(super) async fn streams(js: Option<&mut Socket>, policy: Option<&Policy>) -> Finding {
    let check = &findings::STREAMS;
    let (Some(js), Some(policy)) = (js, policy) else {
        return check.unknown("a user of the account JS is needed: give --js-seed-file");
    };
    let (mut faults, mut seen) = (Vec::new(), 0);
    let own = [
        reserved::CTL_STREAM,
        reserved::KEYS_STREAM,
        reserved::CLAIMS_STREAM,
    ];
    for name in own {
        seen += 1;
        match stream_config(js, name).await {
            None => faults.push(format!("`{name}` is not there")),
            Some(config) if config.allow_rollup_hdrs => {
                faults.push(format!("`{name}` allows rollup"));
            }
            Some(_) => {}
        }
    }
    for stream in policy.streams() {
        seen += 1;
        let name = stream.name();
        let Some(config) = stream_config(js, name).await else {
            faults.push(format!("`{name}` is not there"));
            continue;
        };
        let retention = match stream.retention() {
            Retention::Limits => "limits",
            Retention::WorkQueue => "workqueue",
            Retention::Interest => "interest",
        };
        if config.retention != retention {
            faults.push(format!("`{name}` has the retention `{}`", config.retention));
        }
        let window = Duration::from_nanos(config.duplicate_window);
        if stream.mirror().is_none() && window < stream.duplicates() {
            faults.push(format!("`{name}` remembers ids for {window:?} only"));
        }
        if stream.retention() != Retention::Limits || stream.mirror().is_some() {
            continue;
        }
        for (is_fault, what) in [
            (
                config.discard != "new",
                "drops old messages when it is full",
            ),
            (!config.deny_delete, "lets messages be deleted"),
            (!config.deny_purge, "lets itself be purged"),
            (config.allow_rollup_hdrs, "allows rollup"),
        ] {
            if is_fault {
                faults.push(format!("`{name}` {what}"));
            }
        }
    }
    for bucket in policy.buckets() {
        seen += 1;
        let name = bucket.stream();
        match stream_config(js, &name).await {
            None => faults.push(format!("`{name}` is not there")),
            Some(config) if config.allow_rollup_hdrs => {
                faults.push(format!(
                    "`{name}` allows rollup: one write can remove every key"
                ));
            }
            Some(_) => {}
        }
    }
    check.of(faults, format!("{seen} streams and buckets"))
}

/// Who answers the callout.
pub(super) async fn brokers(sys: Option<&mut Socket>) -> Finding {
    let check = &findings::BROKERS;
    let Some(sys) = sys else {
        return check.unknown("a user of the account SYS is needed: give --sys-seed-file");
    };
    // Whatever the account is called: in operator mode by a key.
    let body = json!({ "subscriptions": true, "test": "$SYS.REQ.USER.AUTH", "limit": 1024 });
    let subject = "$SYS.REQ.SERVER.PING.SUBSZ";
    let answers = sys.ask(subject, &body.to_string(), Some(GATHER)).await;
    let mut of_group = [0_usize; 2];
    let mut brokers = BTreeSet::new();
    for answer in answers.iter().filter_map(|answer| read::<Value>(answer)) {
        let server = answer.pointer("/server/id").and_then(Value::as_str);
        let server = server.unwrap_or_default().to_owned();
        let subscriptions = answer
            .pointer("/data/subscriptions_list")
            .and_then(Value::as_array);
        for subscription in subscriptions.into_iter().flatten() {
            let queue = subscription.get("qgroup").and_then(Value::as_str);
            let cid = subscription.get("cid").and_then(Value::as_u64);
            for (count, name) in of_group.iter_mut().zip(["bulla-a", "bulla-b"]) {
                if queue == Some(name) {
                    *count += 1;
                    brokers.insert((server.clone(), cid));
                }
            }
        }
    }
    let brokers = brokers.len();
    let [a, b] = of_group;
    let seen = format!("{brokers} connected, {a} in group a and {b} in group b");
    match (a, b) {
        (0, 0) => check.ill("no broker answers the callout"),
        (0, _) | (_, 0) => check.ill(seen),
        _ => check.sound(seen),
    }
}

/// Where nats-server shows users and connections to whoever asks.
pub(super) async fn monitoring(sys: Option<&mut Socket>, bus: &Bus) -> Finding {
    let check = &findings::MONITORING;
    let Some(sys) = sys else {
        let port = MONITORING;
        return match (bus.answers_http(port).await, bus.is_loopback()) {
            (true, false) => check.ill(format!("port {port} answers")),
            (true, true) => check.unknown(format!("port {port} answers on loopback")),
            (false, _) => check.unknown(format!(
                "port {port} does not answer; give --sys-seed-file to be sure"
            )),
        };
    };
    let answers = sys.ask("$SYS.REQ.SERVER.PING.VARZ", "", Some(GATHER)).await;
    let (mut faults, mut servers) = (Vec::new(), 0);
    for answer in answers.iter().filter_map(|answer| read::<Value>(answer)) {
        let Some(data) = answer.get("data") else {
            continue;
        };
        servers += 1;
        let port = |key| data.get(key).and_then(Value::as_i64).unwrap_or(0);
        let host = data.get("http_host").and_then(Value::as_str).unwrap_or("");
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let is_local = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback());
        // A negative one is one that the system chose.
        for port in [port("http_port"), port("https_port")] {
            if port != 0 && !is_local {
                faults.push(format!("`{host}:{port}` serves it"));
            }
        }
    }
    match servers {
        0 => check.unknown("no server answered"),
        _ => check.of(faults, format!("{servers} servers")),
    }
}
