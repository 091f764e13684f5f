//! SECURITY.md names tests, and every one of them is there; its list of attacks is
//! made from the tests' names. What the envelope's specification demands is cited where
//! it is done and where it is tested.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Set to write the list instead of comparing it.
const WRITE: &str = "BULLA_WRITE_SECURITY";
const BEGIN: &str = "<!-- made from the tests' names: begin -->\n";
const END: &str = "<!-- made from the tests' names: end -->";

/// The attacks that have a number, which tests carry in their names.
const ATTACKS: [&str; 33] = [
    "replay of identical bytes",
    "a stored copy passed off as a redelivery",
    "poisoning of the replay window",
    "splicing onto another subject or stream",
    "hijacked and forged replies",
    "downgrade and stripping",
    "surreptitious forwarding",
    "replaced signatures",
    "key-compromise impersonation",
    "confusion of algorithms and of token types",
    "injected keys",
    "self-minted keys, and keys out of place",
    "substituted tokens",
    "the confused deputy",
    "a policy or revocation that is not obeyed in time",
    "injected placeholders",
    "shadowing by wildcards, and the server's own spaces",
    "bombs",
    "clocks",
    "failing open",
    "smuggling at the edge",
    "abused batch proofs",
    "leaks",
    "snooping on proofs, inboxes and keys",
    "a storm of connections",
    "theft from a queue group",
    "squatting on ids",
    "substituted keys",
    "a lying broker",
    "stale heads, bundles, policies",
    "a token spent elsewhere",
    "predicted inboxes",
    "a stream reconfigured under its consumers",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// All Rust files of the workspace, and what they hold.
fn sources() -> Vec<(PathBuf, String)> {
    let mut sources = Vec::new();
    let mut places = vec![root()];
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                places.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path, text));
            }
        }
    }
    sources
}

/// The names of all tests of the workspace.
fn tests() -> BTreeSet<String> {
    let sources = sources();
    let names = sources.iter().flat_map(|(_, source)| tests_of(source));
    names.collect()
}

/// Functions behind an attribute that ends in `test` or begins so.
fn tests_of(source: &str) -> Vec<String> {
    let mut is_test = false;
    let mut names = Vec::new();
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            continue;
        }
        let rest = line.strip_prefix("async ").unwrap_or(line);
        if let Some(rest) = rest.strip_prefix("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if is_test {
                names.push(name.to_owned());
            }
            is_test = false;
        }
    }
    names
}

fn list(tests: &BTreeSet<String>) -> String {
    let mut by_attack: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for name in tests {
        let number = name.strip_prefix("attack_").and_then(|rest| rest.get(..2));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            by_attack.entry(number).or_default().push(name);
        }
    }
    let mut text = String::from("| attack | | tests |\n|---|---|---|\n");
    for (number, what) in (1..).zip(ATTACKS) {
        let names = by_attack.remove(&number).unwrap_or_default();
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let names = if names.is_empty() {
            "none yet by this name".to_owned()
        } else {
            names.join(", ")
        };
        text += &format!("| {number} | {what} | {names} |\n");
    }
    assert!(
        by_attack.is_empty(),
        "attacks without a title: {by_attack:?}"
    );
    text
}

#[test]
fn the_list_of_attacks_is_made_from_the_tests() {
    let path = root().join("SECURITY.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the list begins");
    let (held, after) = rest.split_once(END).expect("where the list ends");
    let made = list(&tests());
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, [before, BEGIN, &made, END, after].concat()).unwrap();
        return;
    }
    assert!(
        held == made,
        "SECURITY.md is behind the tests: {WRITE}=1 cargo test -p bulla-tests --test security"
    );
}

/// Names in backquotes of at least five words are tests; shorter ones can be
/// reasons and settings.
#[test]
fn every_test_that_security_names_is_there() {
    let tests = tests();
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let missing: BTreeSet<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| {
            name.matches('_').count() >= 4
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .filter(|name| !tests.contains(*name))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

/// The rules of the envelope's specification that a text names, singly or as
/// `ENV-31 to ENV-34`, which may go over the end of a line of a comment.
fn rules_of(text: &str, all: &BTreeSet<u16>) -> BTreeSet<u16> {
    let text = text.replace("//!", " ").replace("///", " ");
    let text: Vec<&str> = text.split_whitespace().collect();
    let text = text.join(" ");
    let mut rules = BTreeSet::new();
    let mut rest = text.as_str();
    let mut before: Option<u16> = None;
    while let Some((between, tail)) = rest.split_once("ENV-") {
        let end = tail.find(|c: char| !c.is_ascii_digit());
        let (number, tail) = tail.split_at(end.unwrap_or(tail.len()));
        if let Ok(rule) = number.parse() {
            if let Some(first) = before.filter(|first| between == " to " && *first < rule) {
                rules.extend(all.range(first..rule));
            }
            rules.insert(rule);
            before = Some(rule);
        }
        rest = tail;
    }
    rules
}

#[test]
fn every_rule_of_the_envelope_is_cited_by_code_and_by_a_test() {
    let place = root().join("sdk/envelope");
    let spec = fs::read_to_string(place.join("SPEC.md")).unwrap();
    let rules: BTreeSet<u16> = spec
        .split("**ENV-")
        .skip(1)
        .filter_map(|rest| rest.split_once("**")?.0.parse().ok())
        .collect();
    assert!(rules.len() > 80, "{rules:?}");
    let vectors = fs::read_to_string(place.join("testdata/vectors.json")).unwrap();
    let (mut by_code, mut by_tests) = (BTreeSet::new(), rules_of(&vectors, &rules));
    for (path, source) in sources() {
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
        let name = path.rsplit('/').next().unwrap();
        let is_test = ["/tests/", "/examples/"].iter().any(|at| path.contains(at))
            || path.starts_with("tests/")
            || name.ends_with("tests.rs");
        if is_test {
            by_tests.extend(rules_of(&source, &rules));
            continue;
        }
        let (code, tests) = source
            .split_once("#[cfg(test)]\nmod tests {")
            .unwrap_or((&source, ""));
        by_code.extend(rules_of(code, &rules));
        by_tests.extend(rules_of(tests, &rules));
    }
    let uncited = |cited: &BTreeSet<u16>| rules.difference(cited).copied().collect::<Vec<_>>();
    assert_eq!(uncited(&by_code), [0; 0], "no code cites these");
    assert_eq!(uncited(&by_tests), [0; 0], "no test cites these");
    let unknown: Vec<_> = by_code.union(&by_tests).copied().collect();
    let unknown: Vec<_> = unknown
        .iter()
        .filter(|rule| !rules.contains(rule))
        .collect();
    assert!(unknown.is_empty(), "there are no such rules: {unknown:?}");
}

#[test]
fn every_domain_tag_is_listed_in_the_specification() {
    let spec = fs::read_to_string(root().join("sdk/envelope/SPEC.md")).unwrap();
    let (_, rule) = spec.split_once("**ENV-60**").unwrap();
    let (rule, _) = rule.split_once("**ENV-61**").unwrap();
    for tag in bulla_keyring::Tag::ALL {
        let text = tag.as_bytes().strip_prefix(b"\xffbulla/v1/").unwrap();
        let name = std::str::from_utf8(text.strip_suffix(b"\0").unwrap()).unwrap();
        assert!(rule.contains(&format!("`{name}`")), "{name}");
    }
}
