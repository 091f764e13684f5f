//! The tables about nats-server among the external vectors: each is read, and
//! each has an answer of ours. See [`ANSWERED`].

use std::collections::BTreeSet;

use bulla_identity::{Subject, SubjectPattern};
use bulla_policy::{Policy, Verb};
use serde_json::Value;

use crate::shop::{NOW, id, permissions, rule};
use crate::vectors::{cases, entries, text};

/// Every table, and what answers it.
const ANSWERED: [(&str, &str); 15] = [
    (
        "auth_callout_scenarios",
        "broker: callout::decide and tests/tests/callout.rs, on a live server",
    ),
    ("delivery_filter", "delivery_filter, here"),
    (
        "finding_fwc_over_pwc",
        "finding_fwc_over_pwc, here; pol_62 in permissions.rs",
    ),
    (
        "oracle_permissions",
        "oracle_permissions in vectors.rs, and behind_a_literal_token, here",
    ),
    (
        "permission_config_validity",
        "permission_config_validity, here",
    ),
    (
        "permission_templates",
        "permission_templates, here: there are none",
    ),
    (
        "permissions",
        "oracle_permissions in vectors.rs, and behind_a_literal_token, here",
    ),
    (
        "response_permissions",
        "response_permissions, here: there are none",
    ),
    ("subject_collide", "subject_collide in vectors.rs"),
    ("subject_filter_sets", "subject_filter_sets, here"),
    ("subject_match", "subject_match in vectors.rs"),
    ("subject_match_sets", "subject_match_sets, here"),
    ("subject_queue_parse", "subject_queue_parse, here"),
    ("subject_subset", "subject_subset in vectors.rs"),
    ("subject_validity", "subject_validity in vectors.rs"),
];

#[test]
fn every_table_has_an_answer() {
    let Some(dir) = std::env::var_os("BULLA_VECTORS") else {
        eprintln!("external vectors were not run: BULLA_VECTORS is not set (nats/)");
        return;
    };
    let found: BTreeSet<String> = std::fs::read_dir(std::path::Path::new(&dir).join("nats"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    let answered: BTreeSet<String> = ANSWERED
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(found, answered);
    for (name, answer) in ANSWERED {
        let cases = cases(&format!("nats/{name}.json")).unwrap();
        assert!(!cases.is_empty(), "{name}");
        eprintln!("{name}: {} cases; {answer}", cases.len());
    }
}

#[test]
fn subject_match_sets() {
    let mut run = 0;
    for case in cases("nats/subject_match_sets.json").unwrap_or_default() {
        let patterns = case["patterns"].as_array().unwrap();
        let Ok(subject) = Subject::parse(text(&case, "subject")) else {
            continue;
        };
        let plain = patterns.iter().filter(|p| p["queue"].is_null());
        let plain: Result<Vec<_>, _> = plain
            .map(|p| SubjectPattern::parse(text(p, "pattern")))
            .collect();
        let (Ok(plain), Some(want)) = (plain, case["plain_matches"].as_u64()) else {
            continue;
        };
        // A list of grants is a set: what stands twice counts once.
        let different: BTreeSet<String> = plain.iter().map(ToString::to_string).collect();
        if different.len() < plain.len() {
            continue;
        }
        run += 1;
        let got = plain.iter().filter(|p| p.matches(&subject)).count();
        assert_eq!(got as u64, want, "{case}");
    }
    eprintln!("subject_match_sets: {run} cases run");
}

#[test]
fn subject_filter_sets() {
    for case in cases("nats/subject_filter_sets.json").unwrap_or_default() {
        let filters = match case.get("filters_any").and_then(Value::as_array) {
            Some(list) => list.clone(),
            None => vec![case["filter"].clone()],
        };
        let filters: Result<Vec<_>, _> = filters
            .iter()
            .map(|f| SubjectPattern::parse(f.as_str().unwrap()))
            .collect();
        let subjects: Result<Vec<_>, _> = case["subjects"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| Subject::parse(s.as_str().unwrap()))
            .collect();
        let (Ok(filters), Ok(subjects)) = (filters, subjects) else {
            continue;
        };
        let matched = |s: &&Subject| filters.iter().any(|f| f.matches(s));
        let got = subjects.iter().filter(matched).count() as u64;
        assert_eq!(got, case["expected_matches"].as_u64().unwrap(), "{case}");
    }
}

/// A case of lists as rules of one workload. Grants start with a literal token, so
/// everything is moved beneath one: nats-server compares token by token.
fn policy_of(case: &Value, verb: Verb, direction: &str) -> Option<Policy> {
    let moved = |effect: &str| -> Option<Vec<String>> {
        let plain = |e: &String| !e.contains(' ') && SubjectPattern::parse(e).is_ok();
        let list = entries(case, direction, effect);
        let all = list.iter().all(plain);
        all.then(|| list.iter().map(|e| format!("pre.{e}")).collect())
    };
    let (allow, deny) = (moved("allow")?, moved("deny")?);
    if allow.is_empty() {
        return None;
    }
    let strs = |list: &[String]| list.iter().map(|s| s.to_owned()).collect::<Vec<_>>();
    let list = |list: Vec<String>, effect: &str, id: &str| {
        let on: Vec<&str> = list.iter().map(String::as_str).collect();
        rule(effect, id, &["orders"], &[verb.as_str()], &on)
    };
    let mut rules = list(strs(&allow), "allow", "a");
    if !deny.is_empty() {
        rules.push_str(&list(strs(&deny), "deny", "d"));
    }
    Policy::parse("case.toml", &crate::shop::text(&rules)).ok()
}

fn moved(subject: &str) -> String {
    format!("pre.{subject}")
}

/// The oracle again, with the grants that start with a wildcard.
#[test]
fn behind_a_literal_token() {
    let (mut run, mut yeses) = (0, 0);
    for file in ["nats/oracle_permissions.json", "nats/permissions.json"] {
        for case in cases(file).unwrap_or_default() {
            let (verb, direction) = match text(&case, "op") {
                "publish" => (Verb::Publish, "publish"),
                "subscribe" if case.get("queue").is_none() => (Verb::Subscribe, "subscribe"),
                _ => continue,
            };
            let Some(policy) = policy_of(&case, verb, direction) else {
                continue;
            };
            run += 1;
            let on = moved(text(&case, "subject"));
            let yes = match verb {
                Verb::Publish => {
                    Subject::parse(&on).is_ok_and(|s| policy.may_ever(&id("orders"), verb, &s))
                }
                _ => SubjectPattern::parse(&on)
                    .is_ok_and(|p| policy.may_listen(&id("orders"), verb, &p, NOW).is_ok()),
            };
            let live = case["allowed"].as_bool().unwrap();
            let strict = case.get("strict").and_then(Value::as_bool).unwrap_or(live);
            assert!(!yes || (strict && live), "we say yes: {case}");
            if verb == Verb::Publish && Subject::parse(&on).is_ok() {
                assert_eq!(yes, strict, "{case}");
            }
            yeses += usize::from(yes);
        }
    }
    eprintln!("behind_a_literal_token: {run} cases run, {yeses} of them allowed");
    assert!(std::env::var_os("BULLA_VECTORS").is_none() || (run > 900 && yeses > 100));
}

#[test]
fn finding_fwc_over_pwc() {
    let mut run = 0;
    for case in cases("nats/finding_fwc_over_pwc.json").unwrap_or_default() {
        let Some(policy) = policy_of(&case, Verb::Subscribe, "subscribe") else {
            continue;
        };
        let orders = id("orders");
        let on = moved(text(&case, "subscription"));
        let listens = SubjectPattern::parse(&on).is_ok_and(|on| {
            policy
                .may_listen(&orders, Verb::Subscribe, &on, NOW)
                .is_ok()
        });
        let accepted = text(&case, "sub_reply").starts_with("+OK");
        assert!(!listens || accepted, "{case}");
        let published = Subject::parse(&moved(text(&case, "published"))).unwrap();
        let may = policy.may_ever(&orders, Verb::Subscribe, &published);
        run += 1;
        // What the server would deliver beyond the grant is what the lists deny.
        if case["delivered"].as_bool() == Some(true) && !may {
            let denies = permissions(&policy, "orders").subscribe_deny;
            let denied = denies
                .iter()
                .any(|d| SubjectPattern::parse(d).unwrap().matches(&published));
            assert!(denied, "{case}: {denies:?}");
        }
    }
    eprintln!("finding_fwc_over_pwc: {run} cases run");
}

#[test]
fn delivery_filter() {
    let mut run = 0;
    for case in cases("nats/delivery_filter.json").unwrap_or_default() {
        let Some(policy) = policy_of(&case, Verb::Subscribe, "subscribe") else {
            continue;
        };
        let (Ok(on), Ok(published), Some(delivered)) = (
            SubjectPattern::parse(&moved(text(&case, "subscription"))),
            Subject::parse(&moved(text(&case, "published"))),
            case["delivered"].as_bool(),
        ) else {
            continue;
        };
        run += 1;
        let orders = id("orders");
        let got = policy
            .may_listen(&orders, Verb::Subscribe, &on, NOW)
            .is_ok()
            && on.matches(&published)
            && policy.may_ever(&orders, Verb::Subscribe, &published);
        assert!(!got || delivered, "we say delivered: {case}");
        // A plain subscription that is delivered at all is delivered so with us.
        if case["queue"].is_null() && on.matches(&published) {
            assert_eq!(got, delivered, "{case}");
        }
    }
    eprintln!("delivery_filter: {run} cases run");
}

/// What is no list of subjects for nats-server is none in a rule either, and what
/// names a queue group is none: policies name no groups.
#[test]
fn permission_config_validity() {
    for case in cases("nats/permission_config_validity.json").unwrap_or_default() {
        for direction in ["publish", "subscribe"] {
            for effect in ["allow", "deny"] {
                let Some(list) = case["permissions"][direction][effect].as_array() else {
                    continue;
                };
                for entry in list.iter().filter_map(Value::as_str) {
                    let is_ours = SubjectPattern::parse(entry).is_ok();
                    assert_eq!(
                        is_ours,
                        !entry.contains(' ') && !entry.contains(".."),
                        "{case}"
                    );
                }
            }
        }
    }
}

#[test]
fn subject_queue_parse() {
    for case in cases("nats/subject_queue_parse.json").unwrap_or_default() {
        let is_plain = !case["error"].as_bool().unwrap() && case["queue"].is_null();
        let entry = text(&case, "entry");
        let is_ours = SubjectPattern::parse(entry).is_ok();
        assert!(!is_ours || is_plain, "{case}");
        if is_plain && entry == entry.trim() {
            assert!(is_ours, "{case}");
        }
    }
    // What we emit is read back as what it means.
    let policy = crate::shop::parse(&rule("allow", "r", &["orders"], &["subscribe"], &["a.*"]));
    for entry in permissions(&policy, "orders").subscribe_allow {
        let mut parts = entry.split(' ');
        assert!(
            SubjectPattern::parse(parts.next().unwrap()).is_ok(),
            "{entry}"
        );
        assert!(matches!(parts.next(), None | Some("orders")), "{entry}");
        assert_eq!(parts.next(), None, "{entry}");
    }
}

/// Templates would be filled in by nats-server from what a user is called: no rule
/// can write one.
#[test]
fn permission_templates() {
    for case in cases("nats/permission_templates.json").unwrap_or_default() {
        for (list, verb) in [
            ("pub_allow", "publish"),
            ("pub_deny", "publish"),
            ("sub_allow", "subscribe"),
            ("sub_deny", "subscribe"),
        ] {
            let effect = if list.ends_with("allow") {
                "allow"
            } else {
                "deny"
            };
            for on in case["template"][list].as_array().into_iter().flatten() {
                let on = on.as_str().unwrap();
                let rules = rule(effect, "r", &["orders"], &[verb], &[on]);
                let loaded = Policy::parse("case.toml", &crate::shop::text(&rules));
                assert!(loaded.is_err() || !on.contains("{{"), "{case}");
            }
        }
    }
}

/// `allow_responses` lets who serves publish wherever the requester points. It is
/// never given: whoever serves answers into the inboxes of who may ask.
#[test]
fn response_permissions() {
    for case in cases("nats/response_permissions.json").unwrap_or_default() {
        for step in case["steps"].as_array().unwrap() {
            let ("recv", Some(reply)) = (step[0].as_str().unwrap(), step[2].as_str()) else {
                continue;
            };
            let reply = reply.trim_start_matches("reply=");
            let served = step[1].as_str().unwrap();
            let rules = rule("allow", "s", &["orders"], &["serve"], &[served])
                + &rule("allow", "r", &["mail"], &["request"], &[served]);
            let policy = crate::shop::parse(&rules);
            let lists = permissions(&policy, "orders");
            let may = lists
                .publish_allow
                .iter()
                .any(|e| SubjectPattern::parse(e).unwrap().matches_str(reply));
            assert!(!may, "{case}");
        }
    }
}
