//! When and from where a rule counts, and rules in shadow (POL-100 to POL-108).

use std::net::IpAddr;

use bulla_identity::{Claims, SubjectPattern, UnixMillis};
use bulla_policy::{Circumstances, Decision, Policy, Reason, Request, Verb};
use proptest::prelude::*;
use serde_json::json;

use crate::shop::{NOW, id, parse, rule, subject, text};

/// A Monday, 00:00 UTC.
const MONDAY: u64 = 1_700_438_400;

fn at(day: u64, hours: u64, minutes: u64) -> UnixMillis {
    UnixMillis::from_secs(MONDAY + day * 86_400 + hours * 3_600 + minutes * 60)
}

fn allow(id: &str, may: &str, on: &str, more: &str) -> String {
    rule("allow", id, &["cart"], &[may], &[on]) + more + "\n"
}

fn deny(id: &str, may: &str, on: &str, more: &str) -> String {
    rule("deny", id, &["cart"], &[may], &[on]) + more + "\n"
}

fn decide(policy: &Policy, verb: Verb, on: &str, now: UnixMillis) -> Decision {
    policy.decide(&Request {
        workload: &id("cart"),
        verb,
        subject: &subject(on),
        user: None,
        now,
    })
}

fn publishes(policy: &Policy, now: UnixMillis) -> bool {
    decide(policy, Verb::Publish, "a.b", now).is_allow()
}

/// What nats-server lets `cart` publish, and what it denies of it.
fn lists(policy: &Policy, now: UnixMillis, client: Option<&str>) -> (Vec<String>, Vec<String>) {
    let client = client.map(|address| address.parse::<IpAddr>().unwrap());
    let lists = policy
        .permissions(&id("cart"), &Circumstances { now, client })
        .unwrap();
    let own = |list: Vec<String>| {
        list.into_iter()
            .filter(|s| !s.starts_with(['$', '_']))
            .collect()
    };
    (own(lists.publish_allow), own(lists.publish_deny))
}

#[track_caller]
fn refused(rules: &str) -> Vec<&'static str> {
    let errors = Policy::parse("p.toml", &text(rules)).unwrap_err();
    for error in errors.errors() {
        assert!(!error.message().is_empty() && !error.remedy().is_empty());
    }
    errors.errors().iter().map(|e| e.code()).collect()
}

#[test]
fn pol_100_a_rule_expires_at_its_moment() {
    for written in [
        "2023-11-20T00:00:00Z",
        "2023-11-20T01:00:00+01:00",
        "2023-11-20 00:00:00Z",
    ] {
        let policy = parse(&allow(
            "r",
            "publish",
            "a.b",
            &format!("expires = {written}"),
        ));
        let end = at(0, 0, 0);
        let before = UnixMillis::from_millis(end.as_millis() - 1);
        assert!(publishes(&policy, before), "{written}");
        let Decision::Deny(denial) = decide(&policy, Verb::Publish, "a.b", end) else {
            panic!("{written}");
        };
        assert_eq!(denial.reason(), Reason::RuleExpired);
        assert_eq!(denial.rule(), Some("r"));
        assert_eq!(policy.next_change(before), Some(end));
        assert_eq!(policy.next_change(end), None);
        assert_eq!(lists(&policy, before, None).0, ["a.b"]);
        assert!(lists(&policy, end, None).0.is_empty());
    }
    let quoted = allow("r", "publish", "a.b", "expires = \"2023-11-20T00:00:00Z\"");
    assert!(!publishes(&parse(&quoted), at(0, 0, 0)));
}

#[test]
fn pol_100_a_deny_rule_expires_too() {
    let rules = allow("r", "publish", "a.b", "")
        + &deny("freeze", "publish", "a.>", "expires = 2023-11-20T00:00:00Z");
    let policy = parse(&rules);
    assert!(!publishes(&policy, NOW));
    assert!(publishes(&policy, at(0, 0, 0)));
    assert!(lists(&policy, NOW, None).0.is_empty());
    assert_eq!(lists(&policy, at(0, 0, 0), None).0, ["a.b"]);
}

#[test]
fn pol_100_what_is_no_moment_is_refused() {
    for (value, code) in [
        ("2030-01-01", "date"),
        ("2030-01-01T00:00:00", "date"),
        ("00:00:00", "date"),
        ("\"tomorrow\"", "date"),
        ("1900-01-01T00:00:00Z", "date"),
        ("3", "wrong_type"),
        ("true", "wrong_type"),
    ] {
        let found = refused(&allow("r", "publish", "a", &format!("expires = {value}")));
        assert_eq!(found, [code], "{value}");
    }
}

#[test]
fn pol_101_break_glass_is_an_allow_with_an_end() {
    let policy = parse(&allow(
        "r",
        "publish",
        "a.b",
        "break_glass = true\nexpires = 2030-01-01T00:00:00Z",
    ));
    let permit = decide(&policy, Verb::Publish, "a.b", NOW)
        .into_result()
        .unwrap();
    assert!(permit.is_break_glass());
    assert!(policy.rule("r").unwrap().is_break_glass());
    assert_eq!(
        refused(&allow("r", "publish", "a", "break_glass = true")),
        ["break_glass_for_ever"]
    );
    let more = "break_glass = true\nexpires = 2030-01-01T00:00:00Z";
    assert_eq!(
        refused(&deny("r", "publish", "a", more)),
        ["break_glass_deny"]
    );
    let off = parse(&allow("r", "publish", "a.b", "break_glass = false"));
    assert!(!off.rule("r").unwrap().is_break_glass());
}

#[test]
fn pol_102_a_rule_counts_in_its_hours() {
    let policy = parse(&allow(
        "r",
        "publish",
        "a.b",
        "time = { days = [\"mon-wed\", \"fri\"], from = \"08:00\", to = \"18:00\", zone = \"+01:00\" }",
    ));
    for (day, hour, minute, want) in [
        (0, 6, 59, false),
        (0, 7, 0, true),
        (0, 16, 59, true),
        (0, 17, 0, false),
        (2, 7, 0, true),
        (3, 7, 0, false),
        (4, 7, 0, true),
        (5, 7, 0, false),
        (7, 7, 0, true),
    ] {
        let now = at(day, hour, minute);
        assert_eq!(publishes(&policy, now), want, "{day} {hour}:{minute}");
        assert_eq!(!lists(&policy, now, None).0.is_empty(), want);
    }
    assert_eq!(policy.next_change(at(0, 0, 0)), Some(at(0, 7, 0)));
    assert_eq!(policy.next_change(at(2, 17, 0)), Some(at(4, 7, 0)));
    let Decision::Deny(denial) = decide(&policy, Verb::Publish, "a.b", at(3, 7, 0)) else {
        panic!("on a Thursday");
    };
    assert_eq!(denial.reason(), Reason::OutsideTime);
    assert!(denial.to_string().contains("mon 07:00–17:00"), "{denial}");
}

#[test]
fn pol_102_hours_over_midnight_belong_to_the_day_they_begin_on() {
    let night = "time = { days = [\"fri\"], from = \"22:00\", to = \"06:00\" }";
    let policy = parse(&allow("r", "publish", "a.b", night));
    for (day, hour, want) in [
        (4, 21, false),
        (4, 22, true),
        (5, 5, true),
        (5, 6, false),
        (4, 5, false),
    ] {
        assert_eq!(publishes(&policy, at(day, hour, 0)), want, "{day} {hour}");
    }
    // One over the end of the week, in two zones.
    let sunday = "time = [{ days = [\"sun\"], from = \"23:00\", to = \"01:00\" }, { days = [\"mon\"], to = \"02:00\", zone = \"+12:00\" }]";
    let policy = parse(&allow("r", "publish", "a.b", sunday));
    for (day, hour, want) in [
        (6, 23, true),
        (7, 0, true),
        (7, 1, false),
        (6, 12, true),
        (6, 14, false),
        (6, 11, false),
    ] {
        assert_eq!(publishes(&policy, at(day, hour, 0)), want, "{day} {hour}");
    }
}

#[test]
fn pol_102_hours_that_say_nothing_are_refused() {
    for (value, codes) in [
        ("{}", &["empty_time"][..]),
        ("{ days = [\"mon-sun\"] }", &["empty_time"]),
        ("{ from = \"08:00\", to = \"08:00\" }", &["empty_time"]),
        (
            "[{ to = \"12:00\" }, { from = \"12:00\" }]",
            &["empty_time"],
        ),
        ("[]", &["empty_list"]),
        ("{ days = [] }", &["empty_list"]),
        ("{ days = [\"monday\"] }", &["day"]),
        ("{ days = [\"mon-\"] }", &["day"]),
        ("{ from = \"8:00\" }", &["clock"]),
        ("{ from = \"24:01\" }", &["clock"]),
        ("{ from = 08:00:00 }", &["wrong_type"]),
        ("{ from = \"08:00\", zone = \"CET\" }", &["zone"]),
        ("{ from = \"08:00\", till = \"09:00\" }", &["unknown_key"]),
        ("\"08:00\"", &["wrong_type"]),
    ] {
        let found = refused(&allow("r", "publish", "a", &format!("time = {value}")));
        assert_eq!(found, codes, "{value}");
    }
}

#[test]
fn pol_103_a_permit_ends_when_time_may_change_the_answer() {
    let rules = allow("r", "publish", "a.b", "expires = 2023-11-21T00:00:00Z")
        + &deny(
            "night",
            "publish",
            "a.>",
            "time = { from = \"22:00\", to = \"06:00\" }",
        )
        + &allow(
            "other",
            "publish",
            "other",
            "time = { days = [\"mon\"], from = \"12:00\" }",
        );
    let policy = parse(&rules);
    let until = |hour| {
        let decision = decide(&policy, Verb::Publish, "a.b", at(0, hour, 0));
        decision.into_result().unwrap().until()
    };
    assert_eq!(until(7), at(0, 22, 0));
    assert_eq!(policy.next_change(at(0, 7, 0)), Some(at(0, 12, 0)));
    let always = parse(&allow("r", "publish", "a.b", ""));
    let permit = decide(&always, Verb::Publish, "a.b", NOW)
        .into_result()
        .unwrap();
    assert_eq!(permit.until().as_millis(), u64::MAX);
}

#[test]
fn pol_104_a_network_narrows_what_nats_server_permits() {
    let policy = parse(&allow(
        "r",
        "publish",
        "a.b",
        "network = [\"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.7\"]",
    ));
    for (client, want) in [
        (Some("10.9.8.7"), true),
        (Some("::ffff:10.9.8.7"), true),
        (Some("2001:db8::1"), true),
        (Some("192.0.2.7"), true),
        (Some("192.0.2.8"), false),
        (Some("11.0.0.1"), false),
        (None, false),
    ] {
        assert_eq!(
            !lists(&policy, NOW, client).0.is_empty(),
            want,
            "{client:?}"
        );
    }
    // The endpoints see no network: nats-server has let it through.
    assert!(publishes(&policy, NOW));
    assert!(policy.depends_on_circumstances(&id("cart")));
    assert!(!policy.depends_on_circumstances(&id("orders")));
}

#[test]
fn pol_104_a_deny_rule_with_a_network_is_nats_servers() {
    let rules = allow("r", "publish", "a.>", "")
        + &deny(
            "from-outside",
            "publish",
            "a.b",
            "network = [\"192.0.2.0/24\"]",
        );
    let policy = parse(&rules);
    assert!(lists(&policy, NOW, Some("10.0.0.1")).1.is_empty());
    assert_eq!(lists(&policy, NOW, Some("192.0.2.9")).1, ["a.b"]);
    // Who cannot be placed is taken for one of those.
    assert_eq!(lists(&policy, NOW, None).1, ["a.b"]);
    assert!(publishes(&policy, NOW));
}

#[test]
fn pol_104_what_is_no_network_is_refused() {
    for value in [
        "[\"10.0.0.1/8\"]",
        "[\"10.0.0.0/40\"]",
        "[\"office\"]",
        "[\"::ffff:10.0.0.0/104\"]",
    ] {
        let found = refused(&allow("r", "publish", "a", &format!("network = {value}")));
        assert_eq!(found, ["network"], "{value}");
    }
    assert_eq!(
        refused(&allow("r", "publish", "a", "network = []")),
        ["empty_list"]
    );
    assert_eq!(
        refused(&allow("r", "publish", "a", "network = \"10.0.0.0/8\"")),
        ["wrong_type"]
    );
}

#[test]
fn pol_105_a_network_that_only_endpoints_could_tell_is_refused() {
    let inside = allow("inside", "publish", "a.>", "network = [\"10.0.0.0/8\"]");
    let with = |other: String| Policy::parse("p.toml", &text(&(inside.clone() + &other)));
    let code = |other: String| with(other).map(|_| ()).map_err(|e| e.errors()[0].code());
    let bypassed = Err("network_bypassed");
    // The same subject for some users from everywhere.
    let user = "user = { scope = \"x\" }";
    assert_eq!(code(allow("z", "publish", "a.b", user)), bypassed);
    // Another verb that nats-server cannot tell from it.
    assert_eq!(code(allow("z", "request", "a.b", "")), bypassed);
    // The same from elsewhere too, without a condition: nothing to tell apart.
    assert_eq!(code(allow("z", "publish", "a.b", "")), Ok(()));
    // Other subjects, other networks that are the same, other workloads.
    assert_eq!(code(allow("z", "publish", "b.b", user)), Ok(()));
    let same = format!("{user}\nnetwork = [\"10.0.0.0/8\"]");
    assert_eq!(code(allow("z", "publish", "a.b", &same)), Ok(()));
    let stranger = rule("allow", "z", &["mail"], &["request"], &["a.b"]);
    assert_eq!(code(stranger), Ok(()));
    // A deny that knows user and network, or needs to tell the verbs apart.
    let both = format!("{user}\nnetwork = [\"10.0.0.0/8\"]");
    let grant = allow("r", "publish", "a.>", "") + &allow("s", "request", "a.>", "");
    let found = refused(&(grant.clone() + &deny("d", "publish", "a.b", &both)));
    assert_eq!(found, ["network_on_user_deny"]);
    let found =
        refused(&(grant.clone() + &deny("d", "publish", "a.b", "network = [\"10.0.0.0/8\"]")));
    assert_eq!(found, ["deny_cuts"]);
    assert!(Policy::parse("p.toml", &text(&(grant + &deny("d", "publish", "a.b", "")))).is_ok());
}

#[test]
fn pol_106_what_may_clash_at_some_time_is_refused() {
    let hours = "time = { from = \"08:00\", to = \"18:00\" }";
    // The deeper grant relieves the open end only while it counts.
    let open = allow("open", "subscribe", "a.*", "");
    let deeper = |more: &str| allow("deeper", "subscribe", "a.>", more);
    assert!(Policy::parse("p.toml", &text(&(open.clone() + &deeper("")))).is_ok());
    assert_eq!(refused(&(open.clone() + &deeper(hours))), ["open_end"]);
    let both = allow("open", "subscribe", "a.*", hours) + &deeper(hours);
    assert!(Policy::parse("p.toml", &text(&both)).is_ok());
    // A deny that lifts at night would leave a clash behind.
    let clash =
        open + &allow("deep", "subscribe", "a.b.c", "") + &deny("d", "subscribe", "a.b.c", hours);
    assert_eq!(refused(&clash), ["open_end", "deny_cuts"][..1]);
}

#[test]
fn pol_107_who_may_receive_later_is_a_recipient_and_who_has_expired_is_not() {
    let rules = rule("allow", "s", &["cart"], &["publish"], &["news"])
        + &rule("allow", "always", &["orders"], &["subscribe"], &["news"])
        + &rule("allow", "hours", &["mail"], &["subscribe"], &["news"])
        + "time = { from = \"08:00\", to = \"09:00\" }\n"
        + &rule("allow", "ends", &["checkout"], &["subscribe"], &["news"])
        + "expires = 2023-11-20T00:00:00Z\n";
    let policy = parse(&rules);
    let recipients = |now| -> Vec<String> {
        let on = subject("news");
        let found = policy.recipients(Verb::Publish, &on, now);
        found.map(|w| w.name().to_string()).collect()
    };
    assert_eq!(recipients(NOW), ["checkout", "mail", "orders"]);
    assert_eq!(recipients(at(0, 0, 0)), ["mail", "orders"]);
}

#[test]
fn pol_107_a_subscription_is_refused_outside_its_time() {
    let policy = parse(&allow(
        "r",
        "subscribe",
        "a.*",
        "time = { from = \"08:00\", to = \"09:00\" }",
    ));
    let pattern = SubjectPattern::parse("a.*").unwrap();
    let ask = |now| {
        policy
            .may_listen(&id("cart"), Verb::Subscribe, &pattern, now)
            .map_err(|d| d.reason())
    };
    assert_eq!(ask(at(0, 8, 30)), Ok("r"));
    assert_eq!(ask(at(0, 9, 0)), Err(Reason::OutsideTime));
}

#[test]
fn pol_108_shadow_is_decided_and_not_enforced() {
    let user = "user = { scope = \"x\" }";
    let rules = allow("r", "publish", "a.>", "")
        + &deny("shadow-deny", "publish", "a.b", "shadow = true")
        + &allow("shadow-allow", "publish", "b.>", "shadow = true")
        + &deny("hard", "publish", "b.hard", "")
        + &deny("soft", "publish", "b.soft", "shadow = true")
        + &allow("cond", "publish", "c", user);
    let policy = parse(&rules);
    let ask = |on: &str| {
        let decision = decide(&policy, Verb::Publish, on, NOW);
        let would = decision
            .would()
            .map(|w| (w.code(), w.rule().map(str::to_owned)));
        (decision.is_allow(), would)
    };
    let rule = |id: &str| Some(id.to_owned());
    assert_eq!(ask("a.a"), (true, None));
    assert_eq!(
        ask("a.b"),
        (true, Some(("would_deny", rule("shadow-deny"))))
    );
    assert_eq!(
        ask("b.b"),
        (false, Some(("would_allow", rule("shadow-allow"))))
    );
    // A deny rule, in shadow or not, leaves nothing to be allowed.
    assert_eq!(ask("b.hard"), (false, None));
    assert_eq!(ask("b.soft"), (false, None));
    // nats-server gets none of it.
    assert_eq!(
        lists(&policy, NOW, None),
        (vec!["a.>".to_owned(), "c".to_owned()], vec![])
    );
    assert!(!policy.may_ever(&id("cart"), Verb::Publish, &subject("b.b")));
}

#[test]
fn pol_108_a_candidate_policy_gives_one_answer_with_its_shadow() {
    let now = parse(&allow("r", "publish", "a.b", ""));
    let later = parse(&allow("q", "publish", "other", ""));
    let shy =
        parse(&(allow("q", "publish", "a.b", "") + &deny("no", "publish", "a.b", "shadow = true")));
    let ask = |policy: &Policy| decide(policy, Verb::Publish, "a.b", NOW);
    let would = |candidate: &Policy| ask(&now).beside(&ask(candidate)).would().cloned();
    assert_eq!(would(&now), None);
    assert_eq!(would(&later).unwrap().reason(), Some(Reason::NotGranted));
    assert_eq!(would(&shy).unwrap().rule(), Some("no"));
    let gained = ask(&later).beside(&ask(&now));
    assert_eq!(
        gained.would().unwrap().to_string(),
        "would allow (rule `r`)"
    );
}

#[test]
fn pol_110_the_nearest_rule_fails_in_the_least() {
    let user = |tests: &str| format!("user = {{ {tests} }}");
    let rules = allow("a-other-verb", "request", "a.b", "")
        + &allow(
            "b-expired",
            "publish",
            "a.b",
            "expires = 2000-01-01T00:00:00Z",
        )
        + &allow(
            "c-hours",
            "publish",
            "a.b",
            "time = { from = \"00:00\", to = \"00:01\" }",
        )
        + &allow(
            "d-two",
            "publish",
            "a.b",
            &user("scope = \"x\", tenant = \"t\""),
        )
        + &allow(
            "e-one",
            "publish",
            "a.b",
            &user("scope = \"y\", tenant = \"t\""),
        );
    let claims = json!({ "scope": "y", "tenant": "other" });
    let claims = Claims::from_map(claims.as_object().unwrap().clone());
    let mut left: Vec<&str> = rules.split_inclusive("[[allow]]\n").collect();
    assert_eq!(left.remove(0), "[[allow]]\n");
    for (want, reason) in [
        ("e-one", Reason::ConditionFailed),
        ("d-two", Reason::ConditionFailed),
        ("c-hours", Reason::OutsideTime),
        ("b-expired", Reason::RuleExpired),
        ("a-other-verb", Reason::NotGranted),
    ] {
        let rules: String = left
            .iter()
            .map(|r| format!("[[allow]]\n{}", r.trim_end_matches("[[allow]]\n")))
            .collect();
        let decision = parse(&rules).decide(&Request {
            workload: &id("cart"),
            verb: Verb::Publish,
            subject: &subject("a.b"),
            user: Some(&claims),
            now: NOW,
        });
        let Decision::Deny(denial) = decision else {
            panic!("{want}")
        };
        assert_eq!((denial.rule(), denial.reason()), (Some(want), reason));
        left.pop();
    }
}

#[test]
fn the_deciding_rules_are_all_that_decide_alike() {
    let rules = allow("r1", "publish", "a.>", "")
        + &allow("r2", "publish", "a.*", "")
        + &allow("r3", "publish", "a.b", "shadow = true")
        + &deny("d2", "publish", "a.no", "")
        + &deny("d1", "publish", "*.no", "");
    let policy = parse(&rules);
    let deciding = |on: &str| -> Vec<String> {
        let rules = policy.deciding_rules(&Request {
            workload: &id("cart"),
            verb: Verb::Publish,
            subject: &subject(on),
            user: None,
            now: NOW,
        });
        rules.iter().map(|r| r.id().to_owned()).collect()
    };
    assert_eq!(deciding("a.b"), ["r1", "r2"]);
    assert_eq!(deciding("a.no"), ["d1", "d2"]);
    assert!(deciding("b").is_empty());
}

proptest! {
    /// The permit's end and the policy's next change are never too late.
    #[test]
    fn pol_103_nothing_changes_before_it_is_said_to(
        days in "(mon|tue|sat)(-(wed|sun))?",
        from in 0u32..24, to in 0u32..24, zone in -14i32..=14,
        expires in 0u64..20_160, now in 0u64..10_080, step in 1u64..3_000,
    ) {
        prop_assume!(from != to);
        let zone = format!("{}{:02}:00", if zone < 0 { '-' } else { '+' }, zone.abs());
        let end = time::OffsetDateTime::from_unix_timestamp((MONDAY + expires * 60) as i64).unwrap();
        let end = end.format(&time::format_description::well_known::Rfc3339).unwrap();
        let rules = allow(
            "r",
            "publish",
            "a.b",
            &format!("expires = {end}\ntime = {{ days = [\"{days}\"], from = \"{from:02}:00\", to = \"{to:02}:00\", zone = \"{zone}\" }}"),
        ) + &deny("d", "publish", "a.b", "time = { days = [\"tue\"] }");
        let policy = parse(&rules);
        let (now, later) = (at(0, 0, now), at(0, 0, now + step));
        let answer = |moment| publishes(&policy, moment);
        if policy.next_change(now).is_none_or(|change| later < change) {
            prop_assert_eq!(answer(now), answer(later));
        }
        if let Decision::Allow(permit) = decide(&policy, Verb::Publish, "a.b", now)
            && later < permit.until()
        {
            prop_assert!(answer(later));
        }
        // What the endpoints allow, nats-server permits at that moment.
        prop_assert!(!answer(now) || !lists(&policy, now, None).0.is_empty());
    }
}
