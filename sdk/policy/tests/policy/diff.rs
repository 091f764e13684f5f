//! What changes from one policy to another, against brute force.

use std::collections::BTreeSet;

use crate::shop::{id, parse, rule, text};
use bulla_identity::{Claims, Subject, SubjectPattern, UnixMillis};
use bulla_policy::{ChangeKind, Policy, PolicyDiff, Request, RightChange, SubjectSet, Verb};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: UnixMillis = UnixMillis::from_secs(1_700_000_000);

fn diff(before: &str, after: &str) -> PolicyDiff {
    PolicyDiff::between(&parse(before), &parse(after), NOW)
}

fn allows(policy: &Policy, who: &str, verb: Verb, on: &str, user: Option<&Claims>) -> bool {
    let request = Request {
        workload: &id(who),
        verb,
        subject: &Subject::parse(on).unwrap(),
        user,
        now: NOW,
    };
    policy.decide(&request).is_allow()
}

fn covers(place: &SubjectSet, subject: &str) -> bool {
    let matches = |p: &String| SubjectPattern::parse(p).unwrap().matches_str(subject);
    matches(&place.pattern)
        && !place.except.iter().any(matches)
        && place.tokens.iter().all(|fact| fact.is_so(subject))
}

/// Every subject of up to three tokens, and some of four; `z` and `y` are tokens
/// that no policy names, of which `z` begins as a condition asks.
fn universe() -> Vec<String> {
    let longer = |level: &[String], tokens: &[&str]| -> Vec<String> {
        let level = level.iter();
        level
            .flat_map(|s| tokens.iter().map(move |t| format!("{s}.{t}")))
            .collect()
    };
    let mut all = ["a", "b", "z", "y"].map(str::to_owned).to_vec();
    let mut level = all.clone();
    for tokens in [
        &["a", "b", "z", "y"][..],
        &["a", "b", "z", "y"],
        &["a", "z"],
    ] {
        level = longer(&level, tokens);
        if tokens.len() == 2 {
            level.retain(|s| !s.contains(['b', 'y']));
        }
        all.extend(level.iter().cloned());
    }
    all
}

/// Every user that the conditions of these policies can tell from another, as far
/// as they ask at all, and a message without one.
fn users(policies: &str) -> Vec<Option<Claims>> {
    let asked = |what: &str, values: Vec<Value>| -> Vec<Option<Value>> {
        let mut out = vec![None];
        if policies.contains(what) {
            out.extend(values.into_iter().map(Some));
        }
        out
    };
    let role = json!([
        0,
        1,
        1.5,
        2,
        3,
        [2],
        [],
        [1, 2],
        [1, null],
        [1, 2, "x"],
        {},
        "odd",
        null
    ]);
    let role = asked("role = ", role.as_array().unwrap().clone());
    let mut tenants = vec![json!(1), Value::Null, json!({})];
    tenants.extend(["a", "b", "z", "y", "zq", "q"].map(|t| json!(t)));
    if policies.contains("tenant = { a") {
        for set in 0..32 {
            let all = [json!("a"), json!("b"), json!("z"), json!("y"), json!(1)];
            let some = all
                .into_iter()
                .enumerate()
                .filter(|(i, _)| set & (1 << i) != 0);
            tenants.push(some.map(|(_, t)| t).collect());
        }
    }
    let tenant = asked("tenant = ", tenants);
    let scope = asked(
        "scope = ",
        vec![json!("r"), json!("w"), json!("w r"), json!(1)],
    );
    let reach = json!([["retail"], [], ["x"], "retail", [1], ["retail", 1]]);
    let reach = match policies.contains("reach = ") {
        true => asked("reach", reach.as_array().unwrap().clone()),
        false => asked("audience", vec![json!(["retail"])]),
    };
    let mut out = vec![None];
    for role in &role {
        for tenant in &tenant {
            for scope in &scope {
                for reach in &reach {
                    let named = [
                        ("role", role),
                        ("tenant", tenant),
                        ("scope", scope),
                        ("reach", reach),
                    ];
                    let claims = named
                        .into_iter()
                        .filter_map(|(k, v)| Some((k.to_owned(), v.clone()?)))
                        .collect();
                    out.push(Some(Claims::from_map(claims)));
                }
            }
        }
    }
    out
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => "[ab]", 2 => Just("*".to_owned())];
    (
        "[ab]",
        proptest::collection::vec(token, 0..3),
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(first, more, rest)| {
            let mut tokens = vec![first];
            tokens.extend(more);
            if rest {
                tokens.push(">".to_owned());
            }
            tokens.join(".")
        })
}

#[derive(Debug, Clone)]
struct Spec {
    deny: bool,
    who: Vec<&'static str>,
    may: Vec<&'static str>,
    on: String,
    user: &'static str,
}

const ROLES: [&str; 10] = [
    "",
    "role = 1",
    "role = { min = 1, max = 2 }",
    "role = { min = 2 }",
    "role = { max = 1 }",
    "role = { present = true }",
    "role = { present = false }",
    "role = { any = [1, 2] }",
    "role = { all = [1, 2] }",
    "role = { any = [1, 2] }, scope = \"r\"",
];

const SCOPES: [&str; 6] = [
    "",
    "scope = [\"r\", \"w\"]",
    "scope = \"w\"",
    "scope = \"r\"",
    "reach = { any = [\"retail\"] }",
    "reach = { present = false }",
];

const TENANTS: [&str; 9] = [
    "",
    "tenant = { present = false }",
    "tenant = \"a\"",
    "tenant = { prefix = \"z\" }",
    "tenant = { any = [\"a\", \"b\"] }",
    "tenant = \"{t}\"",
    "tenant = \"{t}\"",
    "tenant = { any = [\"b\", \"{t}\"] }",
    "tenant = { all = [\"{t}\", \"{s}\"] }",
];

const MIXED: [&str; 7] = [
    "",
    "",
    "role = 1",
    "role = { min = 1, max = 2 }, tenant = \"{t}\"",
    "tenant = { present = false }",
    "scope = \"r\"",
    "tenant = \"{t}\"",
];

/// What the conditions of both policies are about: of all claims together there
/// are too many users to try.
const TOPICS: [&[&str]; 4] = [&ROLES, &SCOPES, &TENANTS, &MIXED];

fn spec(topic: &'static [&'static str]) -> impl Strategy<Value = Spec> {
    (
        proptest::bool::weighted(0.3),
        proptest::sample::subsequence(vec!["cart", "checkout"], 1..=2),
        proptest::sample::subsequence(vec!["publish", "request"], 1..=2),
        pattern(),
        proptest::sample::select(topic.to_vec()),
        any::<bool>(),
    )
        .prop_map(|(deny, who, may, on, user, last)| {
            // The capture stands for the first token that may be any, or for the
            // last one.
            let name = |on: &str, name: &str, last: bool| {
                let place = if last { on.rfind('*') } else { on.find('*') };
                match place {
                    Some(at) => format!("{}{name}{}", &on[..at], &on[at + 1..]),
                    None => format!("{name}.{on}"),
                }
            };
            let mut on = on;
            if user.contains("{t}") {
                on = name(&on, "{t}", last);
            }
            if user.contains("{s}") {
                on = name(&on, "{s}", false);
            }
            let deny = deny || on.starts_with('{');
            Spec {
                deny,
                who,
                may,
                on,
                user,
            }
        })
}

const DEMANDS: [&str; 7] = [
    "user = \"required\"",
    "user = \"none\"",
    "user = \"optional\"",
    "protect = \"encrypted\"",
    "audience = \"retail\"",
    "max_age = \"10s\"",
    "replay = \"window\"",
];

fn demands() -> impl Strategy<Value = Vec<(String, &'static str)>> {
    let pattern =
        prop_oneof![3 => pattern(), 1 => Just("*.b".to_owned()), 1 => Just(">".to_owned())];
    proptest::collection::vec((pattern, proptest::sample::select(DEMANDS.to_vec())), 0..3)
}

type Draft = (Vec<Spec>, Vec<(String, &'static str)>);

fn write(policy: &Draft) -> String {
    let mut out = String::new();
    let mut seen = BTreeSet::new();
    for (pattern, demand) in &policy.1 {
        if seen.insert(pattern) {
            out.push_str(&format!("[subject.\"{pattern}\"]\n{demand}\n"));
        }
    }
    for (i, spec) in policy.0.iter().enumerate() {
        let effect = if spec.deny { "deny" } else { "allow" };
        out.push_str(&rule(
            effect,
            &format!("r{i}"),
            &spec.who,
            &spec.may,
            &[&spec.on],
        ));
        if !spec.user.is_empty() {
            out.push_str(&format!("user = {{ {} }}\n", spec.user));
        }
    }
    out
}

/// A policy and what becomes of it: rules are dropped, added and exchanged.
fn pair() -> impl Strategy<Value = (String, String)> {
    proptest::sample::select(TOPICS.to_vec()).prop_flat_map(|topic| {
        let rules = || proptest::collection::vec(spec(topic), 0..5);
        let all = (rules(), rules(), rules(), demands(), demands());
        (all, any::<bool>()).prop_map(|((kept, old, new, demands, others), same)| {
            let old: Vec<Spec> = kept.iter().chain(&old).cloned().collect();
            let new: Vec<Spec> = new.iter().chain(&kept).cloned().collect();
            let after = if same { demands.clone() } else { others };
            (write(&(old, demands)), write(&(new, after)))
        })
    })
}

/// What a change says of a right, from who may use it before and after.
fn kind(
    users: &[Option<Claims>],
    ask: impl Fn(Option<&Claims>) -> (bool, bool),
) -> Option<ChangeKind> {
    let answers: Vec<_> = users.iter().map(|u| ask(u.as_ref())).collect();
    let some = |want: (bool, bool)| answers.contains(&want);
    Some(match (some((false, true)), some((true, false))) {
        (false, false) => return None,
        (true, true) => ChangeKind::Changed,
        (true, false) if some((true, true)) => ChangeKind::Widened,
        (true, false) => ChangeKind::Gained,
        (false, true) if some((true, true)) => ChangeKind::Narrowed,
        (false, true) => ChangeKind::Lost,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// POL-150: a right is reported exactly where some message is decided
    /// otherwise, and a requirement exactly where it is another one.
    #[test]
    fn pol_150_the_difference_is_exact((old, new) in pair()) {
        let load = |rules: &str| Policy::parse("p.toml", &text(rules)).ok();
        let (Some(before), Some(after)) = (load(&old), load(&new)) else { return Ok(()) };
        let diff = PolicyDiff::between(&before, &after, NOW);
        prop_assert!(diff.complete);
        let users = users(&(old.clone() + &new));
        let mut told = BTreeSet::new();
        for subject in universe() {
            for who in ["cart", "checkout"] {
                for verb in [Verb::Publish, Verb::Request] {
                    let want = kind(&users, |user| {
                        (allows(&before, who, verb, &subject, user), allows(&after, who, verb, &subject, user))
                    });
                    let got: Vec<&RightChange> = diff.rights.iter().filter(|c| {
                        c.workloads.iter().any(|w| w.as_str() == who)
                            && c.verbs.contains(&verb)
                            && c.sets.iter().any(|p| covers(p, &subject))
                    }).collect();
                    prop_assert!(got.len() <= 1, "told twice: {:?}", got);
                    let got = got.first().map(|c| c.kind);
                    prop_assert_eq!(got, want, "{} {} {}\n--- old\n{}--- new\n{}", who, verb, subject, old, new);
                }
            }
            let literal = Subject::parse(&subject).unwrap();
            let names = |p: &Policy| -> Vec<String> {
                let audiences = p.requirements(&literal).audiences;
                p.audience_names(audiences).map(str::to_owned).collect()
            };
            let (mut x, mut y) = (before.requirements(&literal), after.requirements(&literal));
            let same_audiences = names(&before) == names(&after);
            x.audiences = Default::default();
            y.audiences = Default::default();
            let differs = x != y || !same_audiences;
            let got = diff.requirements.iter().filter(|c| c.sets.iter().any(|p| covers(p, &subject))).count();
            prop_assert_eq!(got, usize::from(differs), "{}\n--- old\n{}--- new\n{}", subject, old, new);
        }
        for change in &diff.rights {
            for place in &change.sets {
                for example in &place.examples {
                    prop_assert!(covers(place, &example.subject));
                    let who = change.workloads[0].as_str();
                    let user = example.user.clone().map(Claims::from_map);
                    let asked = [&before, &after]
                        .map(|p| allows(p, who, change.verbs[0], &example.subject, user.as_ref()));
                    prop_assert_eq!(
                        asked, [!example.allowed, example.allowed],
                        "{:?} {:?}\n--- old\n{}--- new\n{}", change.kind, example, old, new
                    );
                }
                told.insert(place.pattern.clone());
            }
        }
        prop_assert!(diff.is_empty() == (told.is_empty() && diff.requirements.is_empty() && diff.settings.is_empty() && diff.permissions.is_empty()));
    }

    /// Nothing changes from a policy to itself, and what one way gives, the
    /// other way takes.
    #[test]
    fn pol_150_back_is_the_mirror_image((old, new) in pair()) {
        let load = |rules: &str| Policy::parse("p.toml", &text(rules)).ok();
        let (Some(before), Some(after)) = (load(&old), load(&new)) else { return Ok(()) };
        prop_assert!(PolicyDiff::between(&before, &before, NOW).is_empty());
        let there = PolicyDiff::between(&before, &after, NOW);
        let back = PolicyDiff::between(&after, &before, NOW);
        let turned = |kind| match kind {
            ChangeKind::Gained => ChangeKind::Lost,
            ChangeKind::Lost => ChangeKind::Gained,
            ChangeKind::Widened => ChangeKind::Narrowed,
            ChangeKind::Narrowed => ChangeKind::Widened,
            other => other,
        };
        let list = |diff: &PolicyDiff, turn: bool| {
            let mut out = BTreeSet::new();
            for change in &diff.rights {
                for (place, verb) in change.sets.iter().flat_map(|p| change.verbs.iter().map(move |v| (p, v))) {
                    let kind = if turn { turned(change.kind) } else { change.kind };
                    let who: Vec<_> = change.workloads.iter().map(ToString::to_string).collect();
                    out.insert((who, *verb, kind, place.to_string()));
                }
            }
            out
        };
        prop_assert_eq!(list(&there, false), list(&back, true));
    }
}

const READERS: &str = "[[allow]]\nid = \"reads\"\nwho = [\"cart\", \"checkout\"]\nmay = [\"request\"]\non = [\"orders.{t}.get\"]\n";

/// Each right as one line.
fn lines(diff: &PolicyDiff) -> Vec<String> {
    let mut out = Vec::new();
    for c in &diff.rights {
        let who: Vec<_> = c.workloads.iter().map(|w| w.as_str()).collect();
        let verbs: Vec<_> = c.verbs.iter().map(|v| v.as_str()).collect();
        let sets: Vec<_> = c.sets.iter().map(ToString::to_string).collect();
        let text = |a: &Option<bulla_policy::Allowance>| {
            a.as_ref().map_or("never".to_owned(), ToString::to_string)
        };
        let rules: Vec<_> = c.rules.iter().map(|r| r.id.as_str()).collect();
        out.push(format!(
            "{} {} {} {}: {} → {} by {}",
            who.join("+"),
            c.kind,
            verbs.join("+"),
            sets.join(" "),
            text(&c.before),
            text(&c.after),
            rules.join("+")
        ));
    }
    out
}

#[test]
fn what_changes_is_told_in_the_words_of_the_policy() {
    for (old, new, want) in [
        // Another name, another order, another way to say it.
        (
            READERS.to_owned(),
            rule(
                "allow",
                "other",
                &["checkout", "cart"],
                &["request"],
                &["orders.{x}.get"],
            ),
            vec![],
        ),
        (
            String::new(),
            READERS.to_owned(),
            vec!["cart+checkout gained request orders.*.get: never → always by reads"],
        ),
        (
            READERS.to_owned(),
            format!("{READERS}user = {{ scope = \"orders:read\", tenant = \"{{t}}\" }}\n"),
            vec![
                "cart+checkout narrowed request orders.*.get: always → when scope holds \"orders:read\" and tenant = {t} by reads",
            ],
        ),
        (
            READERS.to_owned(),
            READERS.to_owned() + &rule("deny", "eu", &["cart"], &["request"], &["orders.eu.>"]),
            vec!["cart lost request orders.eu.get: always → never by eu"],
        ),
        (
            READERS.to_owned(),
            READERS.to_owned() + &rule("allow", "wide", &["cart"], &["request"], &["orders.>"]),
            vec!["cart gained request orders.> (not orders.*.get): never → always by wide"],
        ),
        (
            format!("{READERS}user = {{ kind = \"human\" }}\n"),
            format!("{READERS}user = {{ kind = \"human\" }}\n")
                + &rule("deny", "robots", &["cart"], &["request"], &["orders.>"])
                + "user = { kind = \"robot\" }\n",
            // Who is human is no robot.
            vec![],
        ),
        (
            READERS.to_owned(),
            format!("{READERS}[subject.\"orders.>\"]\nuser = \"required\"\n"),
            vec!["cart+checkout narrowed request orders.*.get: always → with a user by "],
        ),
    ] {
        assert_eq!(lines(&diff(&old, &new)), want, "{new}");
    }
}

#[test]
fn requirements_streams_and_attestation_are_told() {
    let old = "[subject.\"orders.>\"]\nmax_age = \"10s\"\n";
    let new = "[subject.\"orders.>\"]\nmax_age = \"60s\"\nprotect = \"encrypted\"\n";
    let changed = diff(old, &(new.to_owned() + READERS));
    let [requirement] = changed.requirements.as_slice() else {
        panic!("{changed:?}");
    };
    assert_eq!(requirement.sets[0].pattern, "orders.>");
    let keys: Vec<_> = requirement
        .keys
        .iter()
        .map(|k| format!("{} {} {}", k.key, k.before, k.after))
        .collect();
    assert_eq!(keys, ["protect signed encrypted", "max_age 10s 1m"]);
    assert_eq!(requirement.workloads.len(), 2);
    let told: Vec<_> = changed
        .permissions
        .iter()
        .map(|p| (p.workload.as_str(), p.added.clone()))
        .collect();
    assert_eq!(told[0], ("cart", vec!["publish orders.*.get".to_owned()]));

    let text = text("");
    let other = text.replacen(&crate::shop::nkey(1), &crate::shop::nkey(77), 1)
        + "[subject.\"o.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n[stream.O]\nsubjects = [\"o.>\"]\n";
    let parse = |text: &str| Policy::parse("p.toml", text).unwrap_or_else(|e| panic!("{e}"));
    let changed = PolicyDiff::between(&parse(&text), &parse(&other), NOW);
    let settings: Vec<_> = changed
        .settings
        .iter()
        .map(|s| format!("{} {} {}", s.table, s.name, s.change.key))
        .collect();
    assert!(
        settings.contains(&"workload cart attest".to_owned()),
        "{settings:?}"
    );
    assert!(
        settings.contains(&"stream O subjects".to_owned()),
        "{settings:?}"
    );
    assert!(!changed.is_empty());
}

#[test]
fn a_workload_that_is_new_gains_and_one_that_is_gone_loses() {
    let all = text(READERS);
    let gone: String = all
        .lines()
        .filter(|l| !l.starts_with("workload.cart"))
        .fold(String::new(), |s, l| s + l + "\n");
    let gone = gone.replace("\"cart\", ", "");
    let parse = |text: &str| Policy::parse("p.toml", text).unwrap_or_else(|e| panic!("{e}"));
    let (all, gone) = (parse(&all), parse(&gone));
    let lost = PolicyDiff::between(&all, &gone, NOW);
    assert_eq!(lost.removed.len(), 1);
    assert_eq!(
        lines(&lost),
        ["cart lost request orders.*.get: always → never by reads"]
    );
    assert_eq!(PolicyDiff::between(&gone, &all, NOW).added.len(), 1);
}

/// Patterns whose wildcards cross have more combinations than there is time for:
/// what is not compared is told, and the answer comes at once.
#[test]
fn pol_152_crossing_wildcards_cost_bounded_work() {
    let crossing = |skip: usize| -> String {
        (0..60)
            .filter(|i| *i != skip)
            .map(|i| {
                let mut tokens = vec!["*"; 61];
                tokens[0] = "a";
                tokens[i + 1] = "b";
                let on = tokens.join(".") + ".>";
                rule("allow", &format!("r{i}"), &["cart"], &["publish"], &[&on])
                    + &format!("user = {{ c{i} = 1 }}\n")
            })
            .collect()
    };
    let (before, after) = (parse(&crossing(3)), parse(&crossing(7)));
    let start = std::time::Instant::now();
    let diff = PolicyDiff::between(&before, &after, NOW);
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    assert!(!diff.complete && !diff.is_empty());
    assert!(diff.rights.iter().any(|c| c.kind == ChangeKind::Unknown));
}

/// What no pattern can say of subjects is told beside the pattern, and what no
/// user can show is not told (POL-151).
#[test]
fn pol_151_tokens_and_claims_are_told_apart_as_conditions_do() {
    let allow = |on: &str, user: &str| {
        rule("allow", "allows", &["cart"], &["request"], &[on]) + &format!("user = {{ {user} }}\n")
    };
    let deny = |id: &str, on: &str, user: &str| {
        rule("deny", id, &["cart"], &["request"], &[on]) + &format!("user = {{ {user} }}\n")
    };
    let own = allow("a.{t}.>", "tenant = \"{t}\"");
    for (old, more, want) in [
        // One token is the other one, or is not.
        (
            own.clone(),
            deny("d", "a.*.{s}", "tenant = \"{s}\""),
            vec!["lost a.*.* (where tokens 2 and 3 the same)"],
        ),
        // A text of a condition is a token that is told apart.
        (
            own.clone(),
            deny("d", "a.>", "tenant = \"eu\""),
            vec!["lost a.eu.>"],
        ),
        (
            own.clone(),
            deny("d", "a.>", "tenant = { prefix = \"eu-\" }"),
            vec!["lost a.*.> (where token 2 begins with `eu-`)"],
        ),
        // Nobody's tenant is `b` and the text of another place.
        (
            allow("b.{t}.c", "tenant = \"{t}\""),
            deny("d", "{t}.b.>", "tenant = \"{t}\""),
            vec!["lost b.b.c"],
        ),
        (
            allow("b.{t}.c", "tenant = \"{t}\""),
            deny("d", "{t}.c.>", "tenant = \"{t}\""),
            vec![],
        ),
        // Several tests together leave nobody, though no two of them do.
        (
            allow("a.b", "age = { min = 1, max = 3 }"),
            deny("d", "a.b", "age = { max = 2 }") + &deny("e", "a.b", "age = { min = 2 }"),
            vec!["lost a.b"],
        ),
        (
            allow("a.b", "age = { present = true }") + &deny("e", "a.b", "age = { max = 2 }"),
            deny("d", "a.b", "age = { min = 3 }"),
            vec!["narrowed a.b"],
        ),
        // `reach` is a claim as well.
        (
            "[subject.\"a.b\"]\naudience = \"x\"\n".to_owned() + &allow("a.b", "role = 1"),
            deny("d", "a.b", "reach = { present = false }"),
            vec![],
        ),
    ] {
        let changed = diff(&old, &(old.clone() + &more));
        assert!(changed.complete, "{more}");
        let mut told = Vec::new();
        for right in &changed.rights {
            for set in &right.sets {
                told.push(format!("{} {set}", right.kind));
                assert_eq!(set.examples.len(), 1, "{set}");
                assert!(covers(set, &set.examples[0].subject), "{set}");
            }
        }
        assert_eq!(told, want, "{old}{more}");
    }
}

#[test]
fn hours_networks_and_ends_are_conditions() {
    let with = |more: &str| format!("{READERS}{more}\n");
    let day = "time = { days = [\"mon-fri\"], from = \"08:00\", to = \"18:00\" }";
    let long_day = "time = { days = [\"mon-fri\"], from = \"06:00\", to = \"20:00\" }";
    for (old, new, want) in [
        ("", "expires = 2000-01-01T00:00:00Z", ChangeKind::Lost),
        ("", "expires = 2100-01-01T00:00:00Z", ChangeKind::Narrowed),
        (
            "expires = 2100-01-01T00:00:00Z",
            "expires = 2101-01-01T00:00:00Z",
            ChangeKind::Widened,
        ),
        ("", day, ChangeKind::Narrowed),
        (day, long_day, ChangeKind::Widened),
        ("", "network = [\"10.0.0.0/8\"]", ChangeKind::Narrowed),
        (
            "network = [\"10.0.0.0/8\"]",
            "network = [\"10.1.0.0/16\"]",
            ChangeKind::Narrowed,
        ),
        (
            "network = [\"10.0.0.0/8\"]",
            "network = [\"11.0.0.0/8\"]",
            ChangeKind::Changed,
        ),
        ("shadow = true", "", ChangeKind::Gained),
        ("", "shadow = true", ChangeKind::Lost),
    ] {
        let changed = diff(&with(old), &with(new));
        let [right] = changed.rights.as_slice() else {
            panic!("{old} → {new}: {changed:?}");
        };
        assert_eq!(right.kind, want, "{old} → {new}");
        // Every example was put to both policies, with its moment and network.
        let directions = usize::from(right.kind == ChangeKind::Changed) + 1;
        assert_eq!(right.sets[0].examples.len(), directions, "{old} → {new}");
    }
    // Both are over.
    let over = diff("", &with("expires = 2000-01-01T00:00:00Z"));
    assert!(over.rights.is_empty());
    // A rule in shadow changes nothing that is enforced, and is told.
    let shadow = diff("", &with("shadow = true"));
    assert!(shadow.rights.is_empty() && !shadow.is_empty());
    assert_eq!(shadow.shadow.len(), 1);
    assert_eq!(shadow.shadow[0].kind, ChangeKind::Gained);
    assert_eq!(shadow.settings[0].change.key, "shadow");
}

/// Two policies of 1,000 rules for 20 workloads that have little in common. The
/// bench has the figures; this only shows that nothing explodes.
#[test]
fn pol_152_a_thousand_rules_are_compared_whole() {
    let write = |seed: usize| -> String {
        let mut out = head_of(20);
        for i in 0..1_000 {
            let n = i * 7 + seed;
            let on = match n % 5 {
                0 => format!("s{}.{{t}}.create", n % 97),
                1 => format!("s{}.>", n % 31),
                2 => format!("s{}.a{}.b{}", n % 13, n % 11, n % 7),
                3 => format!("s{}.*.b{}", n % 17, n % 5),
                _ => format!("s{}.a{}.>", n % 13, n % 19),
            };
            let effect = if n.is_multiple_of(11) {
                "deny"
            } else {
                "allow"
            };
            let who = [format!("w{}", n % 20), format!("w{}", (n / 20) % 20)];
            let who: Vec<&str> = who.iter().map(String::as_str).collect();
            out.push_str(&rule(
                effect,
                &format!("r{i}"),
                &who[..1 + usize::from(who[0] != who[1])],
                &["request"],
                &[&on],
            ));
            if n.is_multiple_of(3) || effect == "deny" {
                out.push_str(&format!("user = {{ scope = \"s{}\" }}\n", n % 9));
            }
        }
        out
    };
    let parse = |text: &str| Policy::parse("p.toml", text).unwrap_or_else(|e| panic!("{e}"));
    let (before, after) = (parse(&write(0)), parse(&write(3)));
    let start = std::time::Instant::now();
    let diff = PolicyDiff::between(&before, &after, NOW);
    println!("{:?}, {} changes", start.elapsed(), diff.rights.len());
    assert!(diff.complete && !diff.rights.is_empty());
}

fn head_of(workloads: u32) -> String {
    let mut text = String::from("version = 1\ntrust_domain = \"shop.example\"\n");
    for number in 0..workloads {
        let nkey = crate::shop::nkey(number + 1);
        text.push_str(&format!(
            "workload.w{number}.attest = [{{ nkey = \"{nkey}\" }}]\n"
        ));
    }
    text
}

#[test]
fn buckets_and_rights_to_their_keys_are_told() {
    let bucket = |more: &str| format!("[bucket.STOCK]\nhistory = 2\n{more}");
    let read = rule("allow", "reads", &["cart"], &["read"], &["STOCK.eu.>"]);
    let changed = diff(&bucket(""), &(bucket("ttl = \"1h\"\n") + &read));
    assert_eq!(
        lines(&changed),
        ["cart gained read STOCK.eu.>: never → always by reads"]
    );
    let [setting] = changed.settings.as_slice() else {
        panic!("{changed:?}");
    };
    let told = (
        setting.table,
        &*setting.name,
        setting.change.key,
        &*setting.change.after,
    );
    assert_eq!(told, ("bucket", "STOCK", "ttl", "1h"));
    let [admitted] = changed.permissions.as_slice() else {
        panic!("{changed:?}");
    };
    assert_eq!(admitted.workload.as_str(), "cart");
}
