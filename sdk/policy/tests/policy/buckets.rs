//! Buckets, the verbs about their keys, and `manage`.

use std::time::Duration;

use bulla_identity::SubjectPattern;
use bulla_policy::{About, Decision, Policy, PolicyErrors, Reason, Request, UserRule, Verb};

use crate::shop::{NOW, id, parse, permissions, rule, subject, text};

const CARTS: &str = "[bucket.carts]\n";
const ORDERS: &str = "[stream.ORDERS]\nsubjects = [\"orders.>\"]\n\
                      [subject.\"orders.>\"]\nreplay = \"stream\"\nmax_age = \"7d\"\n";

#[track_caller]
fn refused(rules: &str) -> PolicyErrors {
    match Policy::parse("shop.toml", &text(rules)) {
        Ok(_) => panic!("this loaded:\n{rules}"),
        Err(errors) => errors,
    }
}

#[track_caller]
fn one_error(rules: &str, code: &str, at: &str) -> String {
    let errors = refused(rules);
    let found: Vec<_> = errors.errors().iter().map(|e| e.code()).collect();
    assert_eq!(found, [code], "{errors}");
    let error = &errors.errors()[0];
    let (from, len) = error.caret();
    let marked: String = error.source_line().chars().skip(from).take(len).collect();
    assert_eq!(marked, at, "{errors}");
    assert!(!error.remedy().is_empty());
    error.message()
}

fn keys(may: &[&str], on: &[&str]) -> String {
    CARTS.to_owned() + &rule("allow", "r", &["cart"], may, on)
}

/// The entries that the bare bucket's policy does not have.
fn beyond_base(policy: &Policy, name: &str) -> [Vec<String>; 4] {
    let (base, all) = (permissions(&parse(""), name), permissions(policy, name));
    let new = |all: Vec<String>, base: Vec<String>| {
        all.into_iter().filter(|e| !base.contains(e)).collect()
    };
    [
        new(all.publish_allow, base.publish_allow),
        new(all.publish_deny, base.publish_deny),
        new(all.subscribe_allow, base.subscribe_allow),
        new(all.subscribe_deny, base.subscribe_deny),
    ]
}

const NOTHING: &[&str] = &[];

#[test]
fn pol_120_a_bucket_has_documented_defaults() {
    let policy = parse(CARTS);
    let [bucket] = policy.buckets() else {
        panic!("one bucket")
    };
    assert_eq!(
        (bucket.name(), bucket.stream()),
        ("carts", "KV_carts".to_owned())
    );
    assert_eq!((bucket.history(), bucket.ttl()), (1, None));
    let day = |days: u64| Duration::from_secs(days * 86_400);
    for (lines, counts) in [
        ("", day(30)),
        ("ttl = \"7d\"\n", day(7)),
        ("ttl = \"365d\"\n", day(30)),
        ("ttl = \"7d\"\nmax_age = \"1d\"\n", day(1)),
    ] {
        let policy = parse(&format!("{CARTS}{lines}"));
        assert_eq!(policy.bucket("carts").unwrap().max_age(), counts, "{lines}");
    }
    assert_eq!((bucket.max_bytes(), bucket.replicas()), (None, 1));
    assert_eq!(policy.bucket("carts"), Some(bucket));
    assert_eq!(policy.bucket("cart"), None);
    let said = "[bucket.carts]\nhistory = 8\nttl = \"30d\"\nmax_bytes = 0x100000\n\
                replicas = 3\nstorage = \"file\"\n";
    let policy = parse(said);
    let bucket = policy.bucket("carts").unwrap();
    assert_eq!(bucket.ttl(), Some(Duration::from_secs(30 * 86_400)));
    assert_eq!((bucket.history(), bucket.replicas()), (8, 3));
    assert_eq!(bucket.max_bytes(), Some(1 << 20));
}

#[test]
fn pol_120_what_a_bucket_may_be_is_bounded() {
    for (line, code, at) in [
        ("history = 0", "bucket_bounds", "0"),
        ("history = 65", "bucket_bounds", "65"),
        ("history = \"1\"", "wrong_type", "\"1\""),
        ("ttl = \"500ms\"", "bucket_bounds", "\"500ms\""),
        ("ttl = \"366d\"", "bucket_bounds", "\"366d\""),
        ("ttl = \"soon\"", "duration", "\"soon\""),
        ("max_age = \"31d\"", "bucket_bounds", "\"31d\""),
        ("max_age = \"0s\"", "bucket_bounds", "\"0s\""),
        ("max_bytes = 1000", "bucket_bounds", "1000"),
        ("replicas = 6", "bucket_bounds", "6"),
        ("storage = \"memory\"", "unknown_value", "\"memory\""),
        ("mirror = \"x\"", "unsupported", "mirror"),
        ("rollup = true", "unknown_key", "rollup"),
    ] {
        one_error(&format!("{CARTS}{line}\n"), code, at);
    }
    for (name, code) in [
        ("a.b", "bucket_name"),
        ("", "bucket_name"),
        ("ä", "bucket_name"),
        ("BULLA_CTL", "bucket_reserved"),
        ("KV_carts", "bucket_reserved"),
    ] {
        let errors = refused(&format!("[bucket.\"{name}\"]\n"));
        assert_eq!(errors.errors()[0].code(), code, "{errors}");
    }
    let both = format!("{ORDERS}[bucket.ORDERS]\n");
    one_error(&both, "bucket_named_as_stream", "ORDERS");
}

#[test]
fn pol_121_a_rule_names_one_kind_of_thing() {
    assert_eq!(Verb::Append.about(), About::Subjects);
    for (may, verb) in [
        (["read", "publish"], "publish"),
        (["write", "consume"], "consume"),
        (["manage", "read"], "read"),
        (["subscribe", "manage"], "subscribe"),
        (["consume", "serve"], "serve"),
    ] {
        let errors = refused(&keys(&may, &["carts.x"]));
        assert!(
            errors
                .errors()
                .iter()
                .any(|e| e.code() == "mixed_verbs" && e.message().contains(verb)),
            "{errors}"
        );
    }
    for on in [
        "carts",
        "carts.",
        "*.x",
        "{b}.x",
        ">",
        "carts.a..b",
        "carts.ü",
        "carts.a:b",
        "a b.c",
        "$KV.x",
    ] {
        one_error(&keys(&["read"], &[on]), "bucket_key", &format!("\"{on}\""));
    }
    one_error(
        &keys(&["write"], &["cart.x"]),
        "unknown_bucket",
        "\"cart.x\"",
    );
    let deny = |may: &str, on: &str| {
        format!(
            "{CARTS}{ORDERS}{}",
            rule("deny", "d", &["cart"], &[may], &[on])
        )
    };
    parse(&deny("write", "*.x"));
    parse(&deny("read", "*.>"));
    parse(&deny("manage", "*"));
    // A typing error in a deny rule must not be a hole.
    one_error(&deny("write", "cart.x"), "unknown_bucket", "\"cart.x\"");
    one_error(&deny("manage", "ORDER"), "unknown_store", "\"ORDER\"");
    let manage = |on: &str| {
        format!(
            "{CARTS}{ORDERS}{}",
            rule("allow", "r", &["cart"], &["manage"], &[on])
        )
    };
    for on in ["*", ">", "carts.x", "{b}", ""] {
        let errors = refused(&manage(on));
        assert_eq!(errors.errors()[0].code(), "store_name", "{errors}");
    }
    one_error(&manage("cart"), "unknown_store", "\"cart\"");
    parse(&manage("carts"));
    parse(&manage("ORDERS"));
}

#[test]
fn pol_122_conditions_that_nobody_enforces_are_refused() {
    for (may, on, code) in [
        ("read", "carts.{user}.x", "condition_on_subscribe"),
        ("manage", "carts", "condition_on_subscribe"),
    ] {
        let rules = keys(&[may], &[on]) + "user = { sub = \"alice\" }\n";
        one_error(&rules, code, "{ sub = \"alice\" }");
    }
}

#[test]
fn pol_122_a_condition_on_writing_is_decided_by_the_key() {
    let rules = keys(&["write"], &["carts.{user}.x"]) + "user = { sub = \"{user}\" }\n";
    let policy = parse(&rules);
    let ask = |user: Option<&str>, on: &str| {
        let claims = user.map(|name| {
            let claims = serde_json::json!({ "sub": name });
            bulla_identity::Claims::from_map(claims.as_object().unwrap().clone())
        });
        policy
            .decide(&Request {
                workload: &id("cart"),
                verb: Verb::Write,
                subject: &subject(on),
                user: claims.as_ref(),
                now: NOW,
            })
            .is_allow()
    };
    assert!(ask(Some("alice"), "carts.alice.x"));
    assert!(!ask(Some("bob"), "carts.alice.x"));
    assert!(!ask(None, "carts.alice.x"));
    // What its user's values must be verified by is kept for as long as they count.
    let month = Duration::from_secs(30 * 86_400);
    assert_eq!(policy.late_readers_of(&id("cart")), month);
    assert_eq!(policy.late_readers_of(&id("mail")), Duration::ZERO);
}

#[test]
fn pol_123_reading_is_a_direct_get_and_the_news() {
    let policy = parse(&keys(
        &["read"],
        &["carts.a", "carts.eu.{user}.items", "carts.us.>"],
    ));
    let want = [
        "$JS.API.DIRECT.GET.KV_carts.$KV.carts.a",
        "$JS.API.DIRECT.GET.KV_carts.$KV.carts.eu.*.items",
        "$JS.API.DIRECT.GET.KV_carts.$KV.carts.us.>",
    ];
    let news = [
        "$BULLA.KV.carts.a",
        "$BULLA.KV.carts.a cart",
        "$BULLA.KV.carts.eu.*.items",
        "$BULLA.KV.carts.eu.*.items cart",
        "$BULLA.KV.carts.us.>",
        "$BULLA.KV.carts.us.> cart",
    ];
    let [publish, no_publish, listen, no_listen] = beyond_base(&policy, "cart");
    assert_eq!(
        (publish, listen),
        (
            want.map(str::to_owned).to_vec(),
            news.map(str::to_owned).to_vec()
        )
    );
    assert!(no_publish.is_empty() && no_listen.is_empty());

    // Who may read everything may ask for many at once.
    let policy = parse(&keys(&["read"], &["carts.>"]));
    let [publish, ..] = beyond_base(&policy, "cart");
    assert_eq!(
        publish,
        [
            "$JS.API.DIRECT.GET.KV_carts",
            "$JS.API.DIRECT.GET.KV_carts.$KV.carts.>"
        ]
    );
    assert_eq!(beyond_base(&policy, "mail"), [NOTHING; 4]);
}

#[test]
fn pol_123_a_pattern_that_ends_in_a_star_is_refused_unless_what_lies_beneath_is_granted() {
    for on in ["carts.*", "carts.{user}", "carts.eu.*.{item}"] {
        let message = one_error(&keys(&["read"], &[on]), "open_read", &format!("\"{on}\""));
        assert!(message.contains(on) && message.contains(".>"), "{message}");
    }
    parse(&keys(&["read"], &["carts.*", "carts.*.>"]));
    parse(&keys(&["read"], &["carts.*", "carts.>"]));
    // A deny beneath would make it open again.
    let errors = refused(
        &(keys(&["read"], &["carts.*", "carts.*.>"])
            + &rule("deny", "d", &["cart"], &["read"], &["carts.a.b"])),
    );
    assert!(
        errors.errors().iter().any(|e| e.code() == "open_read"),
        "{errors}"
    );
}

#[test]
fn pol_124_a_deny_within_what_may_be_read_is_refused_with_both_rules_named() {
    let rules = keys(&["read"], &["carts.eu.>"]);
    let cut = rules.clone() + &rule("deny", "d", &["cart"], &["read"], &["*.eu.secret"]);
    let message = one_error(&cut, "read_cut", "\"*.eu.secret\"");
    for part in ["`d`", "`r`", "carts.eu.secret", "carts.eu.>"] {
        assert!(message.contains(part), "{message}");
    }
    // What takes all of it takes it off the lists.
    let all = rules.clone() + &rule("deny", "d", &["cart"], &["read"], &["carts.>"]);
    assert_eq!(beyond_base(&parse(&all), "cart"), [NOTHING; 4]);
    // What it shares nothing with leaves it alone.
    let other = rules + &rule("deny", "d", &["cart"], &["read"], &["carts.us.>"]);
    assert_eq!(beyond_base(&parse(&other), "cart")[0].len(), 1);
}

#[test]
fn pol_125_writing_is_a_message_and_a_deny_takes_a_part() {
    let rules = keys(&["write"], &["carts.{user}", "carts.eu.>"])
        + &rule(
            "deny",
            "d",
            &["cart"],
            &["write"],
            &["*.eu.secret", "carts.us"],
        );
    let [publish, no_publish, listen, no_listen] = beyond_base(&parse(&rules), "cart");
    assert_eq!(publish, ["$KV.carts.*", "$KV.carts.eu.>"]);
    assert_eq!(no_publish, ["$KV.carts.eu.secret", "$KV.carts.us"]);
    assert!(listen.is_empty() && no_listen.is_empty());
    let policy = parse(&rules);
    let may = |on: &str| policy.may_ever(&id("cart"), Verb::Write, &subject(on));
    assert!(may("carts.x") && may("carts.eu.x") && !may("carts.us") && !may("carts.eu.secret"));
}

#[test]
fn pol_127_managing_is_looking_at_what_is_named() {
    let rules = format!(
        "{CARTS}{ORDERS}{}{}",
        rule("allow", "r", &["cart"], &["manage"], &["carts", "ORDERS"]),
        rule("allow", "c", &["mail"], &["consume"], &["ORDERS.mail"]),
    );
    let [publish, no_publish, listen, no_listen] = beyond_base(&parse(&rules), "cart");
    assert_eq!(
        publish,
        [
            "$BULLA.CONSUMER.INFO.ORDERS.mail",
            "$BULLA.STREAM.INFO.KV_carts",
            "$BULLA.STREAM.INFO.ORDERS",
        ]
    );
    assert!(no_publish.is_empty() && listen.is_empty() && no_listen.is_empty());
    let denied = rules + &rule("deny", "d", &["cart"], &["manage"], &["*"]);
    assert_eq!(beyond_base(&parse(&denied), "cart"), [NOTHING; 4]);
}

#[test]
fn pol_128_a_bucket_that_cannot_be_served_leaves_the_lists() {
    let rules = "[bucket.a]\n[bucket.ab]\n".to_owned()
        + &rule(
            "allow",
            "r",
            &["cart"],
            &["read", "write"],
            &["a.>", "ab.>"],
        )
        + &rule("deny", "d", &["cart"], &["write"], &["a.x", "ab.x"]);
    let policy = parse(&rules);
    let mut lists = permissions(&policy, "cart");
    lists.without_bucket("a");
    let without = parse(
        &("[bucket.ab]\n".to_owned()
            + &rule("allow", "r", &["cart"], &["read", "write"], &["ab.>"])
            + &rule("deny", "d", &["cart"], &["write"], &["ab.x"])),
    );
    assert_eq!(lists, permissions(&without, "cart"));
    lists.without_bucket("ab");
    assert_eq!(lists, permissions(&parse(""), "cart"));
}

#[test]
fn keys_are_decided_by_their_names_alone() {
    let subjects = "[subject.\"carts.>\"]\nuser = \"required\"\nprotect = \"encrypted\"\n";
    let policy = parse(&(subjects.to_owned() + &keys(&["read"], &["carts.a.>"])));
    let ask = |verb, on: &str| {
        policy.decide(&Request {
            workload: &id("cart"),
            verb,
            subject: &subject(on),
            user: None,
            now: bulla_identity::UnixMillis::default(),
        })
    };
    let Decision::Allow(permit) = ask(Verb::Read, "carts.a.b") else {
        panic!("denied")
    };
    assert_eq!(permit.requirements().user, UserRule::Optional);
    let reason = |decision: Decision| match decision {
        Decision::Deny(denial) => (denial.reason(), denial.rule().map(str::to_owned)),
        Decision::Allow(_) => panic!("allowed"),
    };
    assert_eq!(
        reason(ask(Verb::Read, "carts.b")),
        (Reason::NotGranted, None)
    );
    // The nearest rule grants another verb about keys; it is no rule about subjects.
    let nearest = (Reason::NotGranted, Some("r".to_owned()));
    assert_eq!(reason(ask(Verb::Write, "carts.a.b")), nearest);
    assert_eq!(
        reason(ask(Verb::Publish, "carts.a.b")),
        (Reason::NotGranted, None)
    );
    let pattern = |text: &str| SubjectPattern::parse(text).unwrap();
    let listen = |on: &str| {
        policy
            .may_listen(&id("cart"), Verb::Read, &pattern(on), NOW)
            .is_ok()
    };
    assert!(listen("carts.a.*.x") && !listen("carts.>"));
}

/// Who asks about a pattern of keys asks whether all of them may be heard of; values
/// are written one by one.
#[test]
fn a_pattern_of_keys_is_a_question_about_reading() {
    let policy = parse(
        &(keys(&["read"], &["carts.eu.>"])
            + &rule("allow", "w", &["cart"], &["write"], &["carts.>"])),
    );
    let ask = |verb, on: &str| {
        policy.ask(&bulla_policy::Question {
            workload: &id("cart"),
            verb,
            on: &SubjectPattern::parse(on).unwrap(),
            user: None,
            circumstances: bulla_policy::Circumstances::at(NOW),
        })
    };
    for (on, want) in [
        ("carts.eu.>", true),
        ("carts.eu.*.items", true),
        ("carts.eu.7", true),
        ("carts.>", false),
        ("carts.*.7", false),
    ] {
        assert_eq!(ask(Verb::Read, on).unwrap().is_allow(), want, "{on}");
    }
    assert!(ask(Verb::Write, "carts.7").unwrap().is_allow());
    assert!(ask(Verb::Write, "carts.>").is_err());
}
