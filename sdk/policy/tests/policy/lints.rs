//! Each lint where it is due and nowhere else (POL-141 to POL-144).

use bulla_identity::{Subject, UnixMillis};
use bulla_policy::{Checked, LintCode, Policy, Verb, placeholder_nkey};
use proptest::prelude::*;

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

/// Three workloads and what is said of them.
fn policy(rest: &str) -> String {
    let nkeys = [
        "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6",
        "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
        "UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX",
    ];
    let mut out = "version = 1\ntrust_domain = \"acme.example\"\n".to_owned();
    for (name, nkey) in ["a", "b", "c"].iter().zip(nkeys) {
        out.push_str(&format!(
            "[workload.{name}]\nattest = [{{ nkey = \"{nkey}\" }}]\n"
        ));
    }
    out + rest
}

fn rule(effect: &str, id: &str, who: &str, may: &str, on: &str, more: &str) -> String {
    let list = |words: &str| {
        let quoted: Vec<_> = words.split(' ').map(|w| format!("\"{w}\"")).collect();
        quoted.join(", ")
    };
    let (who, may, on) = (list(who), list(may), list(on));
    format!("[[{effect}]]\nid = \"{id}\"\nwho = [{who}]\nmay = [{may}]\non = [{on}]\n{more}\n")
}

fn allow(id: &str, who: &str, may: &str, on: &str, more: &str) -> String {
    rule("allow", id, who, may, on, more)
}

fn check(text: &str) -> Checked {
    match Policy::check("p.toml", text, NOW) {
        Ok(checked) => checked,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

/// The codes and what each carets.
fn found(text: &str) -> Vec<(LintCode, String)> {
    let lints = check(text).lints;
    let lints = lints.iter().map(|lint| {
        let excerpt = lint.excerpt();
        let (at, len) = excerpt.caret();
        let word: String = excerpt.source_line().chars().skip(at).take(len).collect();
        (lint.code(), word.trim_matches('"').to_owned())
    });
    lints.collect()
}

/// All three send to each other, so that no side is missing.
const SOUND: &str = "[[allow]]\nid = \"s1\"\nwho = [\"a\"]\nmay = [\"publish\"]\non = [\"x.one\"]\n\
    [[allow]]\nid = \"s2\"\nwho = [\"b\", \"c\"]\nmay = [\"subscribe\"]\non = [\"x.one\"]\n";

#[test]
fn a_sound_policy_has_none() {
    assert_eq!(found(&policy(SOUND)), []);
}

#[test]
fn shadowed_rule() {
    use LintCode::ShadowedRule;
    let wide = allow("wide", "a b", "publish", "x.>", "");
    let with = |rule: String| found(&policy(&(SOUND.to_owned() + &wide + &rule)));
    let s1 = (ShadowedRule, "s1".to_owned());
    let narrow = (ShadowedRule, "narrow".to_owned());
    assert_eq!(
        with(allow("narrow", "b", "publish", "x.one", "")),
        [s1.clone(), narrow.clone()]
    );
    // Two rules together, one workload each.
    let more = allow("wide-c", "c", "publish", "x.*", "");
    assert_eq!(
        with(more + &allow("narrow", "a c", "publish", "x.one", "")),
        [s1.clone(), narrow.clone()]
    );
    let silent = [
        allow("narrow", "c", "publish", "x.one", ""),
        allow("narrow", "a", "publish", "x.one x", "") + &allow("n2", "b", "subscribe", "x", ""),
        allow("narrow", "a", "publish subscribe", "x.one", ""),
    ];
    for rule in silent {
        assert_eq!(with(rule.clone()), vec![s1.clone()], "{rule}");
    }
    // A wide rule that counts less often hides nothing.
    for less in [
        "expires = 2028-01-01T00:00:00Z",
        "user = { scope = \"w\" }",
        "shadow = true",
        "network = [\"10.0.0.0/8\"]",
    ] {
        let wide = allow("wide", "a b", "publish", "x.>", less);
        assert_eq!(found(&policy(&(SOUND.to_owned() + &wide))), [], "{less}");
    }
    // Of two alike the first by id stays.
    let twins =
        allow("t2", "a", "publish", "x.one", "") + &allow("s0", "a", "publish", "x.one", "");
    let twins = found(&policy(&(SOUND.to_owned() + &twins)));
    assert_eq!(twins, [s1, (ShadowedRule, "t2".to_owned())]);
    let denies = rule("deny", "d1", "a", "publish", "x.>", "")
        + &rule("deny", "d2", "a", "publish", "x.two.>", "");
    let denies = denies + &allow("s3", "b", "publish", "x.one", "");
    let all = found(&policy(&(SOUND.to_owned() + &denies)));
    assert!(all.contains(&(ShadowedRule, "d2".to_owned())), "{all:?}");
}

#[test]
fn unreachable_rule() {
    use LintCode::UnreachableRule;
    let deny = |who: &str, on: &str, more: &str| {
        let sender = allow("more", "b c", "publish", "x.one", "");
        let text = SOUND.to_owned() + &sender + &rule("deny", "d", who, "publish", on, more);
        found(&policy(&text))
            .into_iter()
            .filter(|(c, _)| *c == UnreachableRule)
            .collect::<Vec<_>>()
    };
    assert_eq!(deny("a", "x.>", ""), [(UnreachableRule, "s1".to_owned())]);
    assert_eq!(deny("b", "x.>", ""), []);
    assert_eq!(deny("a", "x.two", ""), []);
    assert_eq!(deny("a", "x.>", "user = { scope = \"w\" }"), []);
    assert_eq!(deny("a", "x.>", "shadow = true"), []);
    assert_eq!(deny("a", "x.>", "expires = 2028-01-01T00:00:00Z"), []);
    let empty = "[group]\nnone = []\n".to_owned()
        + SOUND
        + &allow("e", "group:none", "publish", "x.one", "");
    assert_eq!(found(&policy(&empty)), [(UnreachableRule, "e".to_owned())]);
}

#[test]
fn over_broad() {
    use LintCode::OverBroad;
    let with = |rule: &str| found(&policy(&(SOUND.to_owned() + rule)));
    let hears = allow("hears", "a", "subscribe serve", "y.>", "");
    let everybody = allow("all", "a b c", "publish", "y.>", "");
    assert_eq!(
        with(&(hears.clone() + &everybody)),
        [
            (LintCode::NobodySends, "y.>".to_owned()),
            (OverBroad, "y.>".to_owned()),
        ]
    );
    let both = allow("both", "a", "publish subscribe", "y.>", "");
    assert_eq!(with(&both), [(OverBroad, "y.>".to_owned())]);
    for fine in [
        allow("f", "a b c", "subscribe", "x.>", ""),
        allow(
            "f",
            "a b",
            "publish",
            "x.>",
            "expires = 2028-01-01T00:00:00Z",
        ),
        allow("f", "a", "publish subscribe", "y.*", ""),
        allow(
            "f",
            "a b c",
            "publish",
            "x.two.>",
            "user = { scope = \"w\" }",
        ) + &allow("g", "a", "subscribe", "x.two.three", ""),
    ] {
        let all = with(&fine);
        assert!(!all.iter().any(|(c, _)| *c == OverBroad), "{fine}{all:?}");
    }
}

#[test]
fn wider_than_subject() {
    use LintCode::WiderThanSubject;
    let with = |entry: &str, on: &str| {
        let rules = allow("r", "a", "request", on, "")
            + &allow(
                "t",
                "b",
                "serve",
                on,
                "allow_lint = [\"wider_than_subject\"]",
            );
        let text =
            policy(&(format!("[subject.\"{entry}\"]\nprotect = \"encrypted\"\n") + SOUND + &rules));
        let all = check(&text).lints;
        all.iter()
            .filter(|l| l.code() == WiderThanSubject)
            .map(|l| l.message().to_owned())
            .collect::<Vec<_>>()
    };
    let wide = with("o.*.create", "o.>");
    assert_eq!(wide.len(), 1);
    assert!(wide[0].contains("`o.other`"), "{wide:?}");
    assert!(with("o.>", "o.p.>").is_empty());
    assert!(with("o.*.create", "o.p.create").is_empty());
    assert!(with("p.*", "o.>").is_empty());
    // Deeper than every entry.
    let deep = with("o.*", "o.>");
    assert!(deep[0].contains("`o.other.other`"), "{deep:?}");
    // Two entries may cover all of it together.
    let text =
        "[subject.\"o.*\"]\nprotect = \"encrypted\"\n[subject.\"o.*.>\"]\nmax_age = \"5s\"\n";
    let rules = allow("r", "a", "request", "o.>", "") + &allow("t", "b", "serve", "o.>", "");
    assert_eq!(found(&policy(&(text.to_owned() + SOUND + &rules))), []);
}

#[test]
fn what_nobody_uses() {
    use LintCode::{
        NobodyReceives, NobodySends, UnusedGroup, UnusedStream, UnusedSubject, UnusedWorkload,
    };
    let only = allow("r", "a", "publish", "x", "") + &allow("t", "b", "subscribe", "x", "");
    let text = "[group]\nused = [\"group:inner\"]\ninner = [\"a\"]\nidle = [\"group:deep\"]\ndeep = [\"a\"]\n[subject.\"zz.*\"]\nuser = \"none\"\n".to_owned()
        + &only + &allow("u", "group:used", "request", "q.x", "") + &allow("v", "b", "serve", "q.y", "");
    assert_eq!(
        found(&policy(&text)),
        [
            (UnusedWorkload, "c".to_owned()),
            (UnusedGroup, "idle".to_owned()),
            (UnusedGroup, "deep".to_owned()),
            (UnusedSubject, "zz.*".to_owned()),
            (NobodyReceives, "q.x".to_owned()),
            (NobodySends, "q.y".to_owned()),
        ]
    );
    let stream = "[subject.\"e.*\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n[stream.E]\nsubjects = [\"e.*\"]\n[stream.M]\nmirror = \"E\"\n";
    let heard = allow("h", "b", "consume", "M.b", "");
    let sent = allow("s", "a", "append", "e.one", "");
    let of = |rules: &str| found(&policy(&(stream.to_owned() + SOUND + rules)));
    assert_eq!(of(&(sent.clone() + &heard)), []);
    assert_eq!(of(&sent), [(NobodyReceives, "e.one".to_owned())]);
    let kept = format!("[bucket.k]\n{SOUND}");
    assert_eq!(
        found(&policy(&kept)),
        [(LintCode::UnusedBucket, "k".to_owned())]
    );
    assert_eq!(
        found(&policy(&(kept + &allow("k", "a", "read", "k.x", "")))),
        []
    );
    assert_eq!(
        of(&heard),
        [
            (UnusedSubject, "e.*".to_owned()),
            (UnusedStream, "E".to_owned()),
            (UnusedStream, "M".to_owned()),
        ]
    );
}

#[test]
fn unused_authority() {
    let pem = include_str!("../testdata/authority.pem");
    let authority = format!("[x509.mesh]\nca = \"\"\"\n{pem}\"\"\"\n");
    let unused = (LintCode::UnusedAuthority, "mesh".to_owned());
    let idle = policy(&(authority.clone() + SOUND));
    assert_eq!(found(&idle), [unused]);
    let named = idle.replacen(
        "\" }]\n[workload.b]",
        "\" }, { x509 = \"mesh\" }]\n[workload.b]",
        1,
    );
    assert_ne!(named, idle);
    assert_eq!(found(&named), []);
}

#[test]
fn time_passes() {
    use LintCode::{BreakGlassAlive, ExpiredRule, ExpiresSoon};
    // NOW is 2027-01-15T08:00:00Z.
    let with = |more: &str| {
        let text = SOUND.to_owned() + &allow("r", "c", "publish", "x.one", more);
        found(&policy(&text))
            .into_iter()
            .map(|(code, _)| code)
            .collect::<Vec<_>>()
    };
    assert_eq!(with("expires = 2027-01-15T08:00:00Z"), [ExpiredRule]);
    assert_eq!(with("expires = 2027-01-15T08:00:01Z"), [ExpiresSoon]);
    assert_eq!(with("expires = 2027-01-29T08:00:00Z"), [ExpiresSoon]);
    assert_eq!(with("expires = 2027-01-29T08:00:01Z"), []);
    assert_eq!(
        with("expires = 2027-01-15T10:00:00Z\nbreak_glass = true"),
        [BreakGlassAlive]
    );
    assert_eq!(
        with("expires = 2026-01-15T10:00:00Z\nbreak_glass = true"),
        [ExpiredRule]
    );
}

#[test]
fn placeholder_key() {
    let name = bulla_identity::WorkloadName::parse("c").unwrap();
    let text = policy(SOUND).replace(
        "UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX",
        &placeholder_nkey(&name).to_string(),
    );
    assert_eq!(found(&text), [(LintCode::PlaceholderKey, "c".to_owned())]);
}

#[test]
fn warnings_are_lints() {
    let text = "[subject.\"q\"]\nreplay = \"window\"\n".to_owned()
        + SOUND
        + &allow("u", "a", "request", "q", "")
        + &allow("v", "b", "serve", "q", "");
    assert_eq!(
        found(&policy(&text)),
        [(LintCode::WindowInQueueGroup, "q".to_owned())]
    );
    let quiet = text.replace(
        "\"window\"\n",
        "\"window\"\nallow_lint = [\"window_in_queue_group\"]\n",
    );
    let checked = check(&policy(&quiet));
    assert_eq!((checked.lints.len(), checked.allowed), (0, 1));
}

#[test]
fn pol_144_the_text_allows_a_lint_where_it_is_or_everywhere() {
    let one = |more: &str| allow("r", "a", "request", "q", more);
    assert_eq!(found(&policy(&(SOUND.to_owned() + &one("")))).len(), 1);
    let here = check(&policy(
        &(SOUND.to_owned() + &one("allow_lint = [\"nobody_receives\"]")),
    ));
    assert_eq!((here.lints.len(), here.allowed), (0, 1));
    let everywhere =
        SOUND.to_owned() + &one("") + "[lint]\nallow = [\"nobody_receives\", \"expired_rule\"]\n";
    let everywhere = check(&policy(&everywhere));
    assert_eq!((everywhere.lints.len(), everywhere.allowed), (0, 1));
    // What allows nothing is told, unless it may have something tomorrow.
    let elsewhere = SOUND.replacen(
        "on = [\"x.one\"]",
        "on = [\"x.one\"]\nallow_lint = [\"nobody_receives\", \"expires_soon\"]",
        1,
    );
    assert_eq!(
        found(&policy(&(elsewhere + &one("")))),
        [
            (LintCode::NeedlessAllow, "nobody_receives".to_owned()),
            (LintCode::NobodyReceives, "q".to_owned()),
        ]
    );
    let errors = Policy::parse(
        "p",
        &policy(&(SOUND.to_owned() + "[lint]\nallow = [\"nobody_recieves\"]\n")),
    )
    .unwrap_err();
    assert_eq!(errors.errors()[0].code(), "unknown_lint");
    assert!(errors.errors()[0].remedy().contains("nobody_receives"));
}

#[test]
fn every_code_is_explained_and_found_by_its_name() {
    for code in LintCode::ALL {
        assert_eq!(LintCode::parse(code.as_str()), Some(code));
        assert!(
            code.explanation().len() > 60 && !code.summary().is_empty(),
            "{code}"
        );
        assert!(code.explanation().lines().all(|l| l.len() <= 90), "{code}");
    }
    assert_eq!(LintCode::parse("nothing"), None);
}

fn random_rule() -> impl Strategy<Value = (bool, String, String, String, u8)> {
    let word = |all: &'static [&'static str]| {
        proptest::sample::subsequence(all.to_vec(), 1..=2).prop_map(|w| w.join(" "))
    };
    let on: &[&str] = &["x", "x.y", "x.*", "x.>", "y.>", "y.z"];
    (
        proptest::bool::weighted(0.8),
        word(&["a", "b", "c"]),
        word(&["publish", "subscribe", "request"]),
        word(on),
        0..8u8,
    )
}

proptest! {
    /// All rules that are called shadowed or unreachable can be taken out at once
    /// and nobody may do anything less, or more.
    #[test]
    fn pol_142_what_is_needless_changes_nothing(rules in proptest::collection::vec(random_rule(), 1..8)) {
        let mut texts = Vec::new();
        for (i, (allows, who, may, on, kind)) in rules.into_iter().enumerate() {
            let more = match kind {
                0 if !may.contains("subscribe") => "user = { scope = \"w\" }",
                1 => "expires = 2028-01-01T00:00:00Z",
                2 => "time = { days = [\"mon\"] }",
                _ => "",
            };
            let effect = if allows { "allow" } else { "deny" };
            texts.push((format!("r{i}"), rule(effect, &format!("r{i}"), &who, &may, &on, more)));
        }
        let whole: String = texts.iter().map(|(_, t)| t.as_str()).collect();
        // What nats-server could not hold side by side is another test's.
        let Ok(checked) = Policy::check("p", &policy(&whole), NOW) else { return Ok(()) };
        let needless: Vec<&str> = checked
            .lints
            .iter()
            .filter(|l| matches!(l.code(), LintCode::ShadowedRule | LintCode::UnreachableRule))
            .filter_map(|l| l.message().split('`').nth(1))
            .collect();
        let left: String = texts.iter().filter(|(id, _)| !needless.contains(&id.as_str())).map(|(_, t)| t.as_str()).collect();
        let Ok(fewer) = Policy::parse("p", &policy(&left)) else { return Ok(()) };
        let alice = bulla_identity::Claims::from_map(serde_json::from_str("{\"sub\":\"alice\",\"scope\":\"w\"}").unwrap());
        for workload in checked.policy.workloads() {
            for verb in [Verb::Publish, Verb::Subscribe, Verb::Request] {
                for subject in ["x", "x.y", "x.z", "x.y.z", "y", "y.z", "z"] {
                    for user in [None, Some(&alice)] {
                        for day in 0..3 {
                            let request = bulla_policy::Request {
                                workload: workload.id(),
                                verb,
                                subject: &Subject::parse(subject).unwrap(),
                                user,
                                now: UnixMillis::from_secs(1_800_000_000 + day * 172_800),
                            };
                            let before = checked.policy.decide(&request).is_allow();
                            let after = fewer.decide(&request).is_allow();
                            prop_assert_eq!(before, after, "{} {} {}\n{}{:?}", workload.name(), verb, subject, whole, needless);
                        }
                    }
                }
            }
        }
    }
}
