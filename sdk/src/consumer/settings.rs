//! Whether a stream keeps what its replay rule stands on. ENV-48 and ENV-49 of the
//! envelope's SPEC.md.
//!
//! | the policy calls it | a copy of a message is found by | so the stream must be |
//! |---|---|---|
//! | `limits` | the stream: an id that it holds is not stored twice while the message could be fresh | in files, deleting nothing, dropping nothing to make room, with a long enough window |
//! | `workqueue`, `interest` | a claim of each id, because such a stream forgets the ids of what it no longer holds | of that retention |
//!
//! A setting that this version does not know and that allows something is a
//! violation too: what it allows is not known.

use std::time::Duration;

use bulla_policy::{APPEND_LIFE, Retention, Stream};
use serde_json::{Map, Value};

/// A setting of a stream, or of a consumer, that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}` is {found}, and must be {wanted}")]
pub struct SettingFault {
    setting: String,
    found: String,
    wanted: String,
}

impl SettingFault {
    /// The setting's name in nats-server's configuration of streams.
    #[must_use]
    pub fn setting(&self) -> &str {
        &self.setting
    }

    fn new(setting: &str, found: &Value, wanted: impl Into<String>) -> Self {
        let found = match found {
            Value::Null => "not set".to_owned(),
            other => format!("`{other}`").chars().take(200).collect(),
        };
        Self {
            setting: setting.to_owned(),
            found,
            wanted: wanted.into(),
        }
    }
}

/// Rights that a configuration may give without harm.
const HARMLESS: &[&str] = &["allow_direct"];

/// Checks a stream's configuration, as nats-server shows it, against what the
/// policy says of the stream.
pub(crate) fn check_stream(
    config: &Map<String, Value>,
    declared: &Stream,
    skew: Duration,
) -> Result<(), SettingFault> {
    let at = |key: &str| config.get(key).unwrap_or(&Value::Null);
    let is = |key: &str, wanted: Value| match at(key) {
        found if *found == wanted => Ok(()),
        found => Err(SettingFault::new(key, found, format!("`{wanted}`"))),
    };
    let is_empty = |key: &str| match at(key) {
        Value::Null => Ok(()),
        Value::Array(list) if list.is_empty() => Ok(()),
        found => Err(SettingFault::new(key, found, "not set")),
    };
    is("name", declared.name().into())?;
    is("retention", declared.retention().as_str().into())?;
    // Either gives messages another number or time than the appender was told.
    is_empty("sources")?;
    is_empty("subject_transform")?;
    if let Some(origin) = declared.mirror() {
        // Numbers and times are those of its stream, which is checked as well.
        let whole = at("mirror").as_object().is_some_and(|mirror| {
            let is_name = |(key, value): (&String, &Value)| key == "name" && value == origin;
            mirror.len() == 1 && mirror.iter().all(is_name)
        });
        return if whole {
            is("storage", "file".into())
        } else {
            let wanted = format!("a plain copy of `{origin}`");
            Err(SettingFault::new("mirror", at("mirror"), wanted))
        };
    }
    is_empty("mirror")?;
    match declared.retention() {
        Retention::Limits => {}
        Retention::WorkQueue | Retention::Interest => return Ok(()),
    }

    is("storage", "file".into())?;
    is("discard", "new".into())?;
    is("deny_delete", true.into())?;
    is("deny_purge", true.into())?;
    match at("max_msgs_per_subject") {
        Value::Null => {}
        found if found.as_i64().is_some_and(|most| most <= 0) => {}
        found => {
            let fault = SettingFault::new("max_msgs_per_subject", found, "unlimited");
            return Err(fault);
        }
    }
    let least = APPEND_LIFE.saturating_add(skew.saturating_mul(2));
    let window = at("duplicate_window");
    let long_enough = window
        .as_u64()
        .is_some_and(|nanos| Duration::from_nanos(nanos) >= least);
    if !long_enough {
        let wanted = format!("at least {} ns", least.as_nanos());
        return Err(SettingFault::new("duplicate_window", window, wanted));
    }
    match at("persist_mode") {
        Value::Null => {}
        Value::String(mode) if mode.is_empty() || mode == "default" => {}
        found => return Err(SettingFault::new("persist_mode", found, "`default`")),
    }
    for (key, found) in config {
        let allows = key.starts_with("allow_") || key.ends_with("_ttl");
        let is_off = matches!(found, Value::Null | Value::Bool(false)) || found.as_u64() == Some(0);
        if allows && !is_off && !HARMLESS.contains(&key.as_str()) {
            return Err(SettingFault::new(key, found, "off"));
        }
    }
    Ok(())
}

/// Checks a consumer's configuration: each message must be answered for by
/// itself, and come whole.
pub(crate) fn check_consumer(config: &Map<String, Value>) -> Result<(), SettingFault> {
    let at = |key: &str| config.get(key).unwrap_or(&Value::Null);
    match at("ack_policy") {
        Value::String(policy) if policy == "explicit" => {}
        found => return Err(SettingFault::new("ack_policy", found, "`explicit`")),
    }
    match at("headers_only") {
        Value::Null | Value::Bool(false) => Ok(()),
        found => Err(SettingFault::new("headers_only", found, "off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_policy::Policy;
    use serde_json::json;

    const SKEW: Duration = Duration::from_secs(2);

    fn declared(retention: &str) -> Stream {
        let text = format!(
            "version = 1\ntrust_domain = \"a.example\"\n[stream.S]\nsubjects = [\"s.>\"]\nretention = \"{retention}\"\n\
             [subject.\"s.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n"
        );
        let policy = Policy::parse("p.toml", &text).unwrap();
        policy.streams()[0].clone()
    }

    /// As nats-server 2.15.1 shows a stream that a broker has made.
    fn sound(retention: &str) -> Map<String, Value> {
        let config = json!({
            "name": "S", "subjects": ["s.>"], "retention": retention, "max_consumers": -1,
            "max_msgs": -1, "max_bytes": -1, "max_age": 3_600_000_000_000_u64,
            "max_msgs_per_subject": -1, "max_msg_size": -1, "discard": "new",
            "storage": "file", "num_replicas": 1, "duplicate_window": 120_000_000_000_u64,
            "compression": "none", "allow_direct": true, "mirror_direct": false,
            "sealed": false, "deny_delete": true, "deny_purge": true,
            "allow_rollup_hdrs": false, "consumer_limits": {}, "allow_msg_ttl": false,
        });
        config.as_object().unwrap().clone()
    }

    #[test]
    fn what_brokers_make_is_sound() {
        for retention in ["limits", "workqueue", "interest"] {
            let config = sound(retention);
            assert_eq!(check_stream(&config, &declared(retention), SKEW), Ok(()));
        }
    }

    /// [ENV-48]
    #[test]
    fn each_setting_that_forgets_or_repeats_is_a_fault() {
        for (key, value) in [
            ("name", json!("T")),
            ("retention", json!("workqueue")),
            ("retention", Value::Null),
            ("storage", json!("memory")),
            ("discard", json!("old")),
            ("deny_delete", json!(false)),
            ("deny_purge", json!(false)),
            ("max_msgs_per_subject", json!(1)),
            ("duplicate_window", json!(33_999_999_999_u64)),
            ("duplicate_window", Value::Null),
            ("allow_rollup_hdrs", json!(true)),
            ("allow_msg_ttl", json!(true)),
            ("subject_delete_marker_ttl", json!(1_000_000_000)),
            ("allow_msg_schedules", json!(true)),
            ("allow_atomic", json!(true)),
            ("allow_something_new", json!(1)),
            ("persist_mode", json!("async")),
            ("sources", json!([{ "name": "X" }])),
            ("mirror", json!({ "name": "X" })),
            ("subject_transform", json!({ "src": "a", "dest": "b" })),
        ] {
            let mut config = sound("limits");
            config.insert(key.to_owned(), value.clone());
            let fault = check_stream(&config, &declared("limits"), SKEW).unwrap_err();
            assert_eq!(fault.setting(), key, "{value}");
        }
        let mut config = sound("limits");
        config.insert("duplicate_window".to_owned(), json!(34_000_000_000_u64));
        assert_eq!(check_stream(&config, &declared("limits"), SKEW), Ok(()));
        let slow = Duration::from_secs(3);
        assert!(check_stream(&config, &declared("limits"), slow).is_err());
    }

    #[test]
    fn a_mirror_copies_its_stream_and_nothing_else() {
        let text = "version = 1\ntrust_domain = \"a.example\"\n[stream.S]\nmirror = \"T\"\n\
                    [stream.T]\nsubjects = [\"s.>\"]\n\
                    [subject.\"s.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n";
        let policy = Policy::parse("p.toml", text).unwrap();
        let declared = policy.stream("S").unwrap();
        let mut config = sound("limits");
        config.insert("mirror".to_owned(), json!({ "name": "T" }));
        assert_eq!(check_stream(&config, declared, SKEW), Ok(()));
        for mirror in [
            json!({ "name": "U" }),
            json!({ "name": "T", "external": { "api": "$JS.x.API" } }),
            json!({ "name": "T", "subject_transforms": [{ "src": "a", "dest": "b" }] }),
            Value::Null,
        ] {
            config.insert("mirror".to_owned(), mirror);
            let fault = check_stream(&config, declared, SKEW).unwrap_err();
            assert_eq!(fault.setting(), "mirror");
        }
    }

    #[test]
    fn where_ids_are_claimed_only_what_renumbers_is_a_fault() {
        let mut config = sound("workqueue");
        config.insert("allow_rollup_hdrs".to_owned(), json!(true));
        config.insert("duplicate_window".to_owned(), json!(100_000_000));
        assert_eq!(check_stream(&config, &declared("workqueue"), SKEW), Ok(()));
        assert!(check_stream(&config, &declared("interest"), SKEW).is_err());
        config.insert("sources".to_owned(), json!([{ "name": "X" }]));
        assert!(check_stream(&config, &declared("workqueue"), SKEW).is_err());
    }

    #[test]
    fn a_consumer_answers_for_each_message_and_gets_it_whole() {
        let check = |config: Value| check_consumer(config.as_object().unwrap());
        assert_eq!(check(json!({ "ack_policy": "explicit" })), Ok(()));
        assert!(check(json!({ "ack_policy": "all" })).is_err());
        assert!(check(json!({})).is_err());
        let bare = json!({ "ack_policy": "explicit", "headers_only": true });
        assert!(check(bare).is_err());
    }
}
