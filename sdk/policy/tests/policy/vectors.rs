//! External vectors, found through the environment variable `BULLA_VECTORS`.
//!
//! They check the subject rules of bulla-identity that this crate stands on,
//! and what the compiled lists lean on.

use std::path::PathBuf;

use bulla_identity::{Subject, SubjectPattern};
use bulla_policy::{Policy, Verb};
use serde_json::Value;

use crate::shop::NOW;

/// The cases of one file, or `None` with one line to say so.
pub(crate) fn cases(file: &str) -> Option<Vec<Value>> {
    let Some(dir) = std::env::var_os("BULLA_VECTORS") else {
        eprintln!("external vectors were not run: BULLA_VECTORS is not set ({file})");
        return None;
    };
    let path = PathBuf::from(dir).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let all: Value = serde_json::from_str(&text).unwrap();
    Some(all["cases"].as_array().unwrap().clone())
}

pub(crate) fn text<'c>(case: &'c Value, key: &str) -> &'c str {
    case[key].as_str().unwrap()
}

#[test]
fn subject_match() {
    let mut skipped = 0;
    for case in cases("nats/subject_match.json").unwrap_or_default() {
        // Bulla's subjects are stricter: printable ASCII, bounded, never a wildcard.
        let (Ok(subject), Ok(pattern)) = (
            Subject::parse(text(&case, "subject")),
            SubjectPattern::parse(text(&case, "pattern")),
        ) else {
            skipped += 1;
            continue;
        };
        assert_eq!(
            pattern.matches(&subject),
            case["match"].as_bool().unwrap(),
            "{case}"
        );
    }
    eprintln!("subject_match: {skipped} cases lie outside Bulla's grammar");
}

#[test]
fn subject_validity() {
    for case in cases("nats/subject_validity.json").unwrap_or_default() {
        let subject = text(&case, "subject");
        let valid = case["valid"].as_bool().unwrap();
        // Bulla is stricter everywhere: what nats-server refuses, it refuses.
        match text(&case, "fn") {
            "IsValidLiteralSubject" | "subjectIsLiteral (no wildcard tokens)" if !valid => {
                assert!(Subject::parse(subject).is_err(), "{case}");
            }
            "IsValidSubject" | "Sublist.Insert (subscribe)" | "jwt Subject.Validate" if !valid => {
                assert!(SubjectPattern::parse(subject).is_err(), "{case}");
            }
            "jwt Subject.HasWildCards" => {
                if let Ok(pattern) = SubjectPattern::parse(subject) {
                    assert_eq!(!pattern.is_literal(), valid, "{case}");
                }
            }
            _ => {}
        }
    }
}

#[test]
fn subject_collide() {
    for case in cases("nats/subject_collide.json").unwrap_or_default() {
        if let (Ok(a), Ok(b)) = (
            SubjectPattern::parse(text(&case, "a")),
            SubjectPattern::parse(text(&case, "b")),
        ) {
            assert_eq!(a.overlaps(&b), case["collide"].as_bool().unwrap(), "{case}");
            assert_eq!(b.overlaps(&a), a.overlaps(&b), "{case}");
        }
    }
}

#[test]
fn subject_subset() {
    for case in cases("nats/subject_subset.json").unwrap_or_default() {
        let outer = match case.get("outer_any").and_then(Value::as_array) {
            Some(list) => list.clone(),
            None => vec![case["outer"].clone()],
        };
        let outer: Result<Vec<_>, _> = outer
            .iter()
            .map(|o| SubjectPattern::parse(o.as_str().unwrap()))
            .collect();
        if let (Ok(outer), Ok(inner)) = (outer, SubjectPattern::parse(text(&case, "inner"))) {
            let got = outer.iter().any(|o| o.contains(&inner));
            assert_eq!(got, case["subset"].as_bool().unwrap(), "{case}");
        }
    }
}

pub(crate) fn entries(case: &Value, direction: &str, effect: &str) -> Vec<String> {
    case["permissions"][direction][effect]
        .as_array()
        .map(|list| {
            list.iter()
                .map(|e| e.as_str().unwrap().to_owned())
                .collect()
        })
        .unwrap_or_default()
}

/// A rule per case, where the case can be said as rules of one workload: our
/// yes must be the strict yes and the live server's yes.
#[test]
fn oracle_permissions() {
    let (mut run, mut refused) = (0, 0);
    for file in ["nats/oracle_permissions.json", "nats/permissions.json"] {
        for case in cases(file).unwrap_or_default() {
            let (verb, direction) = match text(&case, "op") {
                "publish" => (Verb::Publish, "publish"),
                "subscribe" => (Verb::Subscribe, "subscribe"),
                _ => continue,
            };
            let (allow, deny) = (
                entries(&case, direction, "allow"),
                entries(&case, direction, "deny"),
            );
            let plain = |e: &String| !e.contains(' ') && SubjectPattern::parse(e).is_ok();
            if allow.is_empty()
                || !allow.iter().chain(&deny).all(plain)
                || case.get("queue").is_some()
            {
                continue;
            }
            let quoted = |list: &[String]| format!("{list:?}");
            let mut rules = format!(
                "[[allow]]\nid = \"a\"\nwho = [\"orders\"]\nmay = [\"{verb}\"]\non = {}\n",
                quoted(&allow)
            );
            if !deny.is_empty() {
                rules.push_str(&format!(
                    "[[deny]]\nid = \"d\"\nwho = [\"orders\"]\nmay = [\"{verb}\"]\non = {}\n",
                    quoted(&deny)
                ));
            }
            let Ok(policy) = Policy::parse("case.toml", &crate::shop::text(&rules)) else {
                refused += 1;
                continue;
            };
            run += 1;
            let orders = crate::shop::id("orders");
            let yes = match verb {
                Verb::Publish => Subject::parse(text(&case, "subject"))
                    .is_ok_and(|s| policy.may_ever(&orders, verb, &s)),
                _ => SubjectPattern::parse(text(&case, "subject"))
                    .is_ok_and(|p| policy.may_listen(&orders, verb, &p, NOW).is_ok()),
            };
            let live = case["allowed"].as_bool().unwrap();
            let strict = case.get("strict").and_then(Value::as_bool).unwrap_or(live);
            assert!(!yes || (strict && live), "we say yes: {case}");
            if verb == Verb::Publish {
                assert_eq!(yes, strict, "{case}");
            }
        }
    }
    eprintln!("oracle_permissions: {run} cases run, {refused} are policies that do not load");
}

/// Real ACL files of other systems: whatever they are, they must not panic.
#[test]
fn acl_samples_do_not_panic() {
    let Some(dir) = std::env::var_os("BULLA_VECTORS") else {
        eprintln!(
            "external vectors were not run: BULLA_VECTORS is not set (policy/acl_samples.txt)"
        );
        return;
    };
    let all = std::fs::read_to_string(PathBuf::from(dir).join("policy/acl_samples.txt")).unwrap();
    for sample in all.split("#####") {
        let refused = Policy::parse("sample", sample).unwrap_err();
        assert!(!refused.to_string().is_empty());
    }
    assert!(Policy::parse("samples", &all).is_err());
}
