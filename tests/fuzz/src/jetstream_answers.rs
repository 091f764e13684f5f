//! What JetStream says to a process: of what was published to it, of its settings, of a
//! stored message, of a delivery. It answers where no workload can publish, so this is
//! nats-server's own word; read wrongly, it would still count what is not stored, take a
//! copy for the original, or begin behind what it has not seen.

use std::sync::LazyLock;
use std::time::Duration;

use bulla_policy::{Policy, Stream};
use serde_json::Value;

use super::delivery::{Delivered, PREFIX};
use super::jetstream::{NoConfiguration, Place, PublishAnswer, configuration};
use super::settings::{check_consumer, check_stream};

pub fn all(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind {
        b'p' => publish(rest),
        b's' => settings(rest),
        b'h' => headers(rest),
        b'd' => delivery(rest),
        _ => {}
    }
}

const SKEW: Duration = Duration::from_secs(2);

static STREAMS: LazyLock<Vec<Stream>> = LazyLock::new(|| {
    let text = r#"
        version = 1
        trust_domain = "acme.example"
        [stream.KEPT]
        subjects = ["kept.>"]
        [stream.COPY]
        mirror = "KEPT"
        [stream.WORK]
        subjects = ["work.>"]
        retention = "workqueue"
        [subject."kept.>"]
        replay = "stream"
        max_age = "1h"
        [subject."work.>"]
        replay = "stream"
        max_age = "1h"
    "#;
    let policy = Policy::parse("policy.toml", text).unwrap_or_else(|error| panic!("{error}"));
    policy.streams().to_vec()
});

/// Made before memory is measured.
pub fn prepare() {
    LazyLock::force(&STREAMS);
}

/// As a reader that knows nothing of ours reads it; none where that finds fault with
/// text that ours skips.
fn plain(data: &[u8]) -> Option<Value> {
    serde_json::from_slice(data).ok()
}

fn publish(data: &[u8]) {
    let Some(answer) = PublishAnswer::read(data) else {
        return;
    };
    let is_stored = answer.is_stored_in(&answer.stream);
    let said = [is_stored, answer.is_taken(), answer.is_full()];
    assert!(said.iter().filter(|is| **is).count() <= 1, "{answer:?}");
    assert!(!answer.is_stored_in("another") || answer.stream == "another");
    if is_stored {
        let Some(plain) = plain(data) else { return };
        assert!(plain["seq"].as_u64() == Some(answer.sequence) && answer.sequence > 0);
        assert!(plain["error"].is_null() && plain["stream"] == answer.stream.as_str());
        let duplicate = plain["duplicate"].as_bool().unwrap_or_default();
        assert_eq!(duplicate, answer.is_duplicate);
    }
}

fn settings(data: &[u8]) {
    let config = match configuration(data) {
        Ok(config) => config,
        Err(NoConfiguration::Gone | NoConfiguration::Later) => {
            assert!(plain(data).is_none_or(|plain| !plain["error"].is_null()));
            return;
        }
        Err(NoConfiguration::Malformed) => return,
    };
    for stream in STREAMS.iter() {
        match check_stream(&config, stream, SKEW) {
            Ok(()) => {
                assert_eq!(config["name"], stream.name());
                if stream.name() == "KEPT" {
                    keeps_ids(&Value::Object(config.clone()));
                }
            }
            Err(fault) => assert!(!fault.setting().is_empty() && fault.to_string().len() < 4096),
        }
    }
    if check_consumer(&config).is_ok() {
        assert_eq!(config["ack_policy"], "explicit");
    }
}

/// What ENV-48 asks of a stream that finds copies by itself.
fn keeps_ids(config: &Value) {
    assert!(config["storage"] == "file" && config["discard"] == "new");
    assert!(config["deny_delete"] == true && config["deny_purge"] == true);
    assert!(config["duplicate_window"].as_u64() >= Some(34_000_000_000));
    assert!(config["mirror"].is_null() && config["allow_rollup_hdrs"] != true);
    assert!(config["allow_msg_ttl"] != true && config["retention"] == "limits");
}

/// Lines of `name: value`; of one name the first counts.
fn headers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let header = |wanted: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(name, _)| *name == wanted).map(|(_, v)| v)
    };
    if let Some(place) = Place::of(header) {
        assert_eq!(header("Nats-Stream"), Some(&*place.stream));
        assert_eq!(header("Nats-Subject"), Some(&*place.subject));
        assert_eq!(trimmed(header("Nats-Sequence")), place.sequence.to_string());
        assert!(place.sequence > 0);
        // RFC 3339 ends with the year 9999.
        assert!(place.stored_at.as_millis() < 253_402_387_200_000);
    }
}

fn trimmed(number: Option<&str>) -> &str {
    number.unwrap_or_default().trim_start_matches('0')
}

fn delivery(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(delivered) = Delivered::parse(text) else {
        return;
    };
    let rest = text.strip_prefix(PREFIX).expect("it begins so");
    let mut tokens: Vec<&str> = rest.split('.').collect();
    if tokens.len() > 7 {
        // The domain and the account.
        tokens.drain(..2);
    }
    let number = |n: usize| trimmed(tokens.get(n).copied());
    let written = |n: u64| match n {
        0 => String::new(),
        n => n.to_string(),
    };
    assert_eq!(tokens[..2], [&*delivered.stream, &*delivered.consumer]);
    assert!(!delivered.stream.is_empty() && !delivered.consumer.is_empty());
    assert!(delivered.sequence > 0);
    assert_eq!(number(2), written(delivered.times));
    assert_eq!(number(3), written(delivered.sequence));
    assert_eq!(number(6), written(delivered.pending));
    let nanos: u64 = tokens[5].parse().expect("a number");
    assert_eq!(delivered.stored_at.as_millis(), nanos / 1_000_000);
}
