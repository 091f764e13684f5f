//! Properties over random policies and random input.

use crate::shop::{NAMES, id, parse, permissions, text};
use bulla_identity::{Claims, Subject, SubjectPattern, UnixMillis};
use bulla_policy::{Decision, Policy, Request, Verb};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Debug, Clone)]
struct Spec {
    deny: bool,
    who: Vec<usize>,
    verbs: Vec<usize>,
    on: Vec<String>,
    /// `role = …`, as a number from a small range or nothing.
    role: Option<i64>,
}

impl Spec {
    fn toml(&self, id: usize) -> String {
        let effect = if self.deny { "deny" } else { "allow" };
        let who: Vec<_> = self.who.iter().map(|i| NAMES[*i]).collect();
        let may: Vec<_> = self.verbs.iter().map(|i| Verb::ALL[*i].as_str()).collect();
        let on: Vec<_> = self.on.iter().map(String::as_str).collect();
        let mut text = crate::shop::rule(effect, &format!("r{id}"), &who, &may, &on);
        if let Some(role) = self.role {
            text.push_str(&format!("user = {{ role = {role} }}\n"));
        }
        text
    }

    /// What the language says, without an index.
    fn applies(&self, who: usize, verb: Verb, subject: &Subject, role: Option<&Value>) -> bool {
        let named = self.who.contains(&who) && self.verbs.iter().any(|v| Verb::ALL[*v] == verb);
        let matched = self
            .on
            .iter()
            .any(|p| SubjectPattern::parse(p).unwrap().matches(subject));
        let met = match (self.role, role) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(want), Some(have)) => match have.as_i64() {
                Some(have) => have == want,
                None => self.deny,
            },
        };
        named && matched && met
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => "[ab]", 1 => Just("*".to_owned())];
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

fn spec() -> impl Strategy<Value = Spec> {
    (
        proptest::bool::weighted(0.3),
        proptest::sample::subsequence((0..NAMES.len()).collect::<Vec<_>>(), 1..=2),
        proptest::sample::subsequence((0..4).collect::<Vec<usize>>(), 1..=2),
        proptest::collection::vec(pattern(), 1..3),
        proptest::option::weighted(0.3, 0i64..2),
    )
        .prop_map(|(deny, who, verbs, on, role)| {
            // A condition cannot limit `subscribe`.
            let role = role.filter(|_| !verbs.contains(&1));
            Spec {
                deny,
                who,
                verbs,
                on,
                role,
            }
        })
}

fn rules(specs: &[Spec]) -> String {
    specs.iter().enumerate().map(|(i, s)| s.toml(i)).collect()
}

/// Loads; a policy that nats-server could not enforce is a valid refusal.
fn load(rules: &str) -> Option<Policy> {
    match Policy::parse("p.toml", &text(rules)) {
        Ok(policy) => Some(policy),
        Err(errors) => {
            let fine = |c: &str| matches!(c, "open_end" | "deny_cuts");
            assert!(errors.errors().iter().all(|e| fine(e.code())), "{errors}");
            None
        }
    }
}

fn user() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(json!({}))),
        (0i64..2).prop_map(|r| Some(json!({ "role": r }))),
        Just(Some(json!({ "role": "0" }))),
    ]
}

fn decide(policy: &Policy, who: usize, verb: Verb, on: &Subject, user: Option<&Value>) -> Decision {
    let claims = user.map(|u| Claims::from_map(u.as_object().unwrap().clone()));
    policy.decide(&Request {
        workload: &id(NAMES[who]),
        verb,
        subject: on,
        user: claims.as_ref(),
        now: UnixMillis::default(),
    })
}

fn questions() -> impl Strategy<Value = Vec<(usize, usize, String, Option<Value>)>> {
    let one = (0..NAMES.len(), 0..4usize, "[abc](\\.[abc]){0,3}", user());
    proptest::collection::vec(one, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// POL-56: whoever remembers such a permit takes it for everybody.
    #[test]
    fn pol_56_a_permit_for_anybody_is_the_same_for_everybody(
        specs in proptest::collection::vec(spec(), 0..8),
        questions in questions(),
    ) {
        let Some(policy) = load(&rules(&specs)) else { return Ok(()) };
        for (who, verb, on, user) in questions {
            let (verb, on) = (Verb::ALL[verb], Subject::parse(&on).unwrap());
            let got = decide(&policy, who, verb, &on, user.as_ref());
            let Decision::Allow(permit) = &got else { continue };
            // No rule of this workload, verb and subject asks for a user.
            let plain = specs.iter().all(|s| {
                s.role.is_none() || !Spec { role: None, ..s.clone() }.applies(who, verb, &on, None)
            });
            prop_assert_eq!(permit.is_for_anybody(), plain);
            if permit.is_for_anybody() {
                for other in [None, Some(json!({})), Some(json!({ "role": 0 })), Some(json!({ "role": "x" }))] {
                    prop_assert_eq!(&decide(&policy, who, verb, &on, other.as_ref()), &got);
                }
            }
        }
    }

    #[test]
    fn pol_50_decide_equals_a_scan_of_the_rules(
        specs in proptest::collection::vec(spec(), 0..8),
        questions in questions(),
    ) {
        let Some(policy) = load(&rules(&specs)) else { return Ok(()) };
        for (who, verb, on, user) in questions {
            let (verb, on) = (Verb::ALL[verb], Subject::parse(&on).unwrap());
            let role = user.as_ref().and_then(|u| u.get("role"));
            let applies = |deny: bool| {
                specs.iter().any(|s| s.deny == deny && s.applies(who, verb, &on, role))
            };
            let want = applies(false) && !applies(true);
            let got = decide(&policy, who, verb, &on, user.as_ref());
            prop_assert_eq!(got.is_allow(), want, "{} {} {}\n{}", NAMES[who], verb, on, rules(&specs));
            // What the server permits at most includes everything that is allowed.
            prop_assert!(!want || policy.may_ever(&id(NAMES[who]), verb, &on));
        }
    }

    #[test]
    fn pol_50_the_order_of_rules_never_matters(
        (specs, shuffled) in proptest::collection::vec(spec(), 0..8)
            .prop_flat_map(|v| {
                let texts: Vec<String> = v.iter().enumerate().map(|(i, s)| s.toml(i)).collect();
                (Just(texts.clone()), Just(texts).prop_shuffle())
            }),
        questions in questions(),
    ) {
        let (one, other) = (load(&specs.concat()), load(&shuffled.concat()));
        prop_assert_eq!(one.is_some(), other.is_some());
        let (Some(one), Some(other)) = (one, other) else { return Ok(()) };
        for name in NAMES {
            prop_assert_eq!(permissions(&one, name), permissions(&other, name));
        }
        for (who, verb, on, user) in questions {
            let on = Subject::parse(&on).unwrap();
            let ask = |p: &Policy| match decide(p, who, Verb::ALL[verb], &on, user.as_ref()) {
                Decision::Allow(permit) => (true, Some(permit.rule().to_owned())),
                Decision::Deny(denial) => (false, denial.rule().map(str::to_owned)),
            };
            prop_assert_eq!(ask(&one), ask(&other));
        }
    }

    #[test]
    fn pol_51_adding_a_deny_never_allows(
        specs in proptest::collection::vec(spec(), 0..6),
        mut extra in spec(),
        questions in questions(),
    ) {
        extra.deny = true;
        let before = rules(&specs);
        let after = format!("{before}{}", extra.toml(specs.len()));
        let (Some(before), Some(after)) = (load(&before), load(&after)) else { return Ok(()) };
        for (who, verb, on, user) in questions {
            let (verb, on) = (Verb::ALL[verb], Subject::parse(&on).unwrap());
            let allowed = |p: &Policy| decide(p, who, verb, &on, user.as_ref()).is_allow();
            prop_assert!(allowed(&before) || !allowed(&after));
            let ever = |p: &Policy| p.may_ever(&id(NAMES[who]), verb, &on);
            prop_assert!(ever(&before) || !ever(&after));
        }
    }

    /// The lists, read with the rules of nats-server as POL-60 ff. state them,
    /// say of each literal subject what the engine says.
    #[test]
    fn pol_61_the_lists_say_what_the_engine_says(
        specs in proptest::collection::vec(spec(), 0..8),
        subjects in proptest::collection::vec("[abc](\\.[abc]){0,4}", 1..24),
    ) {
        let Some(policy) = load(&rules(&specs)) else { return Ok(()) };
        let hits = |list: &[String], subject: &str, group: Option<&str>| {
            list.iter().any(|entry| {
                let (pattern, queue) = match entry.split_once(' ') {
                    Some((pattern, queue)) => (pattern, Some(queue)),
                    None => (entry.as_str(), None),
                };
                queue == group && SubjectPattern::parse(pattern).unwrap().matches_str(subject)
            })
        };
        for name in NAMES {
            let lists = permissions(&policy, name);
            for text in &subjects {
                let on = Subject::parse(text).unwrap();
                let may = |verb| policy.may_ever(&id(name), verb, &on);
                let publishes = hits(&lists.publish_allow, text, None) && !hits(&lists.publish_deny, text, None);
                prop_assert_eq!(publishes, may(Verb::Publish) || may(Verb::Request), "{} publishes {}\n{}", name, text, rules(&specs));
                let cut = hits(&lists.subscribe_deny, text, None);
                let plain = hits(&lists.subscribe_allow, text, None) && !cut;
                prop_assert_eq!(plain, may(Verb::Subscribe), "{} subscribes to {}\n{}", name, text, rules(&specs));
                let queued = hits(&lists.subscribe_allow, text, Some(name)) && !cut;
                prop_assert_eq!(queued, may(Verb::Subscribe) || may(Verb::Serve), "{} serves {}\n{}", name, text, rules(&specs));
            }
        }
    }

    #[test]
    fn pol_6_no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = Policy::parse("p.toml", &text).map_err(|e| e.to_string());
    }

    #[test]
    fn pol_6_no_values_make_the_parser_panic(
        lines in proptest::collection::vec((
            "(version|trust_domain|workload\\.a|workload|group\\.g|subject\\.\"a\\.>\"|allow|deny|\\[\\[allow\\]\\]\nid|who|may|on|user|user\\.a)",
            "(1|-0x1|[0-9]{1,30}|1e999|nan|true|\"[^\"\\\\]{0,9}\"|\\[\\]|\\[\"a\"\\]|\\{\\}|\\{ min = 1, max = 0 \\}|2020-01-01)",
        ), 0..12),
    ) {
        let text: String = lines.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
        let _ = Policy::parse("p.toml", &text).map_err(|e| e.to_string());
    }

    #[test]
    fn pol_6_no_mutilated_policy_makes_the_parser_panic(
        specs in proptest::collection::vec(spec(), 0..4),
        cuts in proptest::collection::vec((any::<proptest::sample::Index>(), ".{0,6}"), 1..6),
    ) {
        let mut mutilated = text(&format!("[subject.\"a.>\"]\nmax_age = \"5s\"\n{}", rules(&specs)));
        for (at, insert) in cuts {
            let at = at.index(mutilated.len());
            let end = (at + insert.len()).min(mutilated.len());
            if mutilated.is_char_boundary(at) && mutilated.is_char_boundary(end) {
                mutilated.replace_range(at..end, &insert);
            }
        }
        let _ = Policy::parse("p.toml", &mutilated).map_err(|e| e.to_string());
    }
}

#[test]
fn an_empty_policy_denies_everything() {
    let policy = parse("");
    for verb in Verb::ALL {
        let on = Subject::parse("a").unwrap();
        assert!(!decide(&policy, 0, verb, &on, None).is_allow());
    }
}

/// Conditions of every kind on claims that limits can narrow.
const TESTS: [&str; 12] = [
    r#"scope = "a""#,
    r#"scope = ["a", "b"]"#,
    r#"tags = "x""#,
    r#"tags = { any = ["x", "y"] }"#,
    r#"tags = { all = ["x", "y"] }"#,
    r#"tags = { prefix = "x" }"#,
    "tags = { min = 1 }",
    "tags = { present = true }",
    "tags = { present = false }",
    "tags = true",
    r#"reach = { any = ["retail"] }"#,
    "reach = { present = false }",
];

fn narrowable() -> impl Strategy<Value = Value> {
    let tags = prop_oneof![
        Just(None),
        Just(Some(json!(null))),
        Just(Some(json!("x"))),
        Just(Some(json!(2))),
        Just(Some(json!(true))),
        Just(Some(json!({"x": 1}))),
        proptest::sample::subsequence(vec!["x", "y", "z"], 0..=3).prop_map(|t| Some(json!(t))),
        Just(Some(json!(["x", 1, null]))),
    ];
    let scope = proptest::option::of(proptest::sample::subsequence(vec!["a", "b", "c"], 0..=3));
    let reach = proptest::option::of(proptest::sample::subsequence(vec!["retail", "ops"], 0..=2));
    (tags, scope, reach).prop_map(|(tags, scope, reach)| {
        let mut user = json!({ "sub": "alice" });
        for (name, value) in [
            ("tags", tags),
            ("scope", scope.map(|s| json!(s.join(" ")))),
            ("reach", reach.map(|r| json!(r))),
        ] {
            if let Some(value) = value {
                user[name] = value;
            }
        }
        user
    })
}

proptest! {
    /// POL-47: under limits a user may do nothing that the same user may not do
    /// without, whatever the rules are.
    #[test]
    fn pol_47_limits_never_allow_anything(
        tests in proptest::collection::vec((0..TESTS.len(), proptest::bool::ANY), 1..4),
        audience in proptest::bool::ANY,
        user in narrowable(),
        kept in proptest::collection::btree_set("[abxyz12]|retail|ops", 0..4),
        claims in proptest::sample::subsequence(vec!["scope", "tags", "reach", "gone"], 0..=4),
    ) {
        let mut text = String::new();
        if audience {
            text.push_str("[subject.a]\naudience = \"retail\"\n");
        }
        for (n, (test, deny)) in tests.iter().enumerate() {
            let effect = if *deny { "deny" } else { "allow" };
            text.push_str(&crate::shop::rule(effect, &format!("r{n}"), &["cart"], &["publish"], &["a"]));
            text.push_str(&format!("user = {{ {} }}\n", TESTS[*test]));
        }
        let policy = parse(&text);
        let whole = Claims::from_map(user.as_object().unwrap().clone());
        let left = whole.narrowed(claims.iter().map(|claim| (*claim, &kept)));
        let allows = |user: &Claims| {
            policy
                .decide(&Request {
                    workload: &id("cart"),
                    verb: Verb::Publish,
                    subject: &Subject::parse("a").unwrap(),
                    user: Some(user),
                    now: UnixMillis::from_secs(1_700_000_000),
                })
                .is_allow()
        };
        prop_assert!(!allows(&left) || allows(&whole), "{text}\n{user} {left:?}");
    }
}
