//! What nats-server is told. `tests/tests/permissions` in the workspace
//! tries the same on a live server.

use crate::shop::{NOW, id, parse, permissions, rule, text};
use bulla_identity::WorkloadId;
use bulla_policy::{Circumstances, PermissionError, Permissions, Policy};

/// The lists without what every workload has.
fn beyond_base(policy: &Policy, name: &str) -> Permissions {
    let base = permissions(&parse(""), name);
    let mut all = permissions(policy, name);
    all.publish_allow
        .retain(|e| !base.publish_allow.contains(e));
    all.subscribe_allow
        .retain(|e| !base.subscribe_allow.contains(e));
    all
}

fn lists(
    publish: &[&str],
    no_publish: &[&str],
    listen: &[&str],
    no_listen: &[&str],
) -> Permissions {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Permissions {
        publish_allow: owned(publish),
        publish_deny: owned(no_publish),
        subscribe_allow: owned(listen),
        subscribe_deny: owned(no_listen),
    }
}

#[track_caller]
fn conflict(rules: &str, code: &str, mentions: &[&str]) {
    let errors = match Policy::parse("shop.toml", &text(rules)) {
        Ok(_) => panic!("this loaded:\n{rules}"),
        Err(errors) => errors,
    };
    let shown = errors.to_string();
    assert!(errors.errors().iter().all(|e| e.code() == code), "{shown}");
    for mention in mentions {
        assert!(shown.contains(mention), "no {mention} in\n{shown}");
    }
}

#[test]
fn pol_60_every_workload_has_its_own_base_and_never_an_empty_allow_list() {
    let policy = parse("");
    let tag = id("orders").tag();
    let orders = permissions(&policy, "orders");
    assert_eq!(
        orders,
        lists(
            &[
                &format!("$BULLA.AUDIT.{tag}.*"),
                "$BULLA.BARRIER",
                &format!("$BULLA.BROKER.{tag}.challenge"),
                &format!("$BULLA.BROKER.{tag}.credential.*"),
                &format!("$BULLA.BROKER.{tag}.kem"),
                &format!("$BULLA.CLAIMS.{tag}.>"),
                &format!("$BULLA.KEYS.{tag}.>"),
                &format!("$BULLA.STATUS.{tag}.*"),
                &format!("$JS.API.DIRECT.GET.BULLA_CLAIMS.$BULLA.CLAIMS.{tag}.>"),
                "$JS.API.DIRECT.GET.BULLA_CTL.$BULLA.CTL.>",
                "$JS.API.DIRECT.GET.BULLA_KEYS.$BULLA.KEYS.>",
            ],
            &[],
            &[
                "$BULLA.NEWS.>",
                "$BULLA.NEWS.> orders",
                &format!("_INBOX.{tag}.p.>"),
                &format!("_INBOX.{tag}.p.> orders"),
                &format!("_INBOX.{tag}.s.>"),
                &format!("_INBOX.{tag}.s.> orders"),
            ],
            &[],
        )
    );
    let stranger = WorkloadId::parse("spiffe://shop.example/nobody").unwrap();
    assert_eq!(
        policy.permissions(&stranger, &Circumstances::at(NOW)),
        Err(PermissionError::UnknownWorkload(stranger))
    );
}

#[test]
fn pol_61_each_verb_has_its_lists() {
    let rules = [
        rule("allow", "p", &["orders"], &["publish"], &["a.b"]),
        rule("allow", "r", &["orders"], &["request"], &["c.{x}.d"]),
        rule("allow", "s", &["orders"], &["subscribe"], &["e.>"]),
        rule("allow", "v", &["orders"], &["serve"], &["f.g"]),
    ];
    let got = beyond_base(&parse(&rules.concat()), "orders");
    let want = lists(
        &["a.b", "c.*.d"],
        &[],
        &["e.>", "e.> orders", "f.g orders"],
        &[],
    );
    assert_eq!(got, want);
}

#[test]
fn pol_62_a_trailing_star_is_closed() {
    for (on, opened) in [("a.*", "a.*.>"), ("a.{x}", "a.*.>"), ("a.*.*", "a.*.*.>")] {
        for verb in ["subscribe", "serve"] {
            let policy = parse(&rule("allow", "r", &["orders"], &[verb], &[on]));
            assert_eq!(
                permissions(&policy, "orders").subscribe_deny,
                [opened],
                "{verb} {on}"
            );
        }
        let policy = parse(&rule(
            "allow",
            "r",
            &["orders"],
            &["publish", "request"],
            &[on],
        ));
        let got = permissions(&policy, "orders");
        assert!(got.publish_deny.is_empty() && got.subscribe_deny.is_empty());
    }
    let policy = parse(&rule(
        "allow",
        "r",
        &["orders"],
        &["subscribe"],
        &["a.*.b", "a.>", "b.{x}.>"],
    ));
    assert!(permissions(&policy, "orders").subscribe_deny.is_empty());
}

#[test]
fn pol_62_no_deny_where_the_deeper_levels_are_granted_as_well() {
    let policy = parse(&rule(
        "allow",
        "r",
        &["orders"],
        &["subscribe"],
        &["a.*", "a.>"],
    ));
    assert!(permissions(&policy, "orders").subscribe_deny.is_empty());
    let policy = parse(&rule(
        "allow",
        "r",
        &["orders"],
        &["subscribe"],
        &["a.*", "a.*.>"],
    ));
    assert!(permissions(&policy, "orders").subscribe_deny.is_empty());
    let policy = parse(&rule(
        "allow",
        "r",
        &["orders"],
        &["serve"],
        &["a.*", "a.>"],
    ));
    assert!(permissions(&policy, "orders").subscribe_deny.is_empty());
}

#[test]
fn pol_62_a_star_that_cannot_be_closed_is_refused_with_both_rules() {
    let deeper = |verb: &str, on: &str| {
        rule("allow", "one", &["orders"], &["subscribe"], &["a.*"])
            + &rule("allow", "two", &["orders"], &[verb], &[on])
    };
    conflict(
        &deeper("subscribe", "a.b.c"),
        "open_end",
        &["`one`", "`two`", "a.*.>", "a.b.c"],
    );
    conflict(&deeper("serve", "a.b.>"), "open_end", &["`one`", "`two`"]);
    // Reading everything through one's own queue group is not a plain subscription.
    conflict(&deeper("serve", "a.>"), "open_end", &["`one`", "`two`"]);
    // Publishing is another direction, and another workload another list.
    parse(&deeper("publish", "a.b.c"));
    parse(
        &(rule("allow", "one", &["orders"], &["subscribe"], &["a.*"])
            + &rule("allow", "two", &["cart"], &["subscribe"], &["a.b.c"])),
    );
}

#[test]
fn pol_63_no_foreign_queue_group_is_ever_named() {
    let rules = rule(
        "allow",
        "r",
        &["orders", "cart"],
        &["subscribe", "serve"],
        &["a.>", "b", "c.*"],
    );
    for name in ["orders", "cart"] {
        let lists = permissions(&parse(&rules), name);
        for entry in &lists.subscribe_allow {
            match entry.split_once(' ') {
                Some((_, group)) => assert_eq!(group, name),
                // Queue entries decide where they match: each plain one has a twin.
                None => assert!(lists.subscribe_allow.contains(&format!("{entry} {name}"))),
            }
        }
        assert!(lists.subscribe_deny.iter().all(|e| !e.contains(' ')));
    }
}

#[test]
fn pol_64_a_deny_that_takes_all_of_a_grant_removes_it() {
    for (allow, deny) in [
        ("a.b", "a.b"),
        ("a.b", "a.>"),
        ("a.*", ">"),
        ("a.>", "*.>"),
        ("a.>", ">"),
    ] {
        let rules = rule(
            "allow",
            "r",
            &["orders"],
            &["publish", "subscribe"],
            &[allow],
        ) + &rule("deny", "d", &["orders"], &["publish", "subscribe"], &[deny]);
        let got = beyond_base(&parse(&rules), "orders");
        assert_eq!(got, lists(&[], &[], &[], &[]), "{allow} − {deny}");
    }
}

#[test]
fn pol_65_a_deny_within_a_grant_is_told_to_the_server() {
    let rules = rule(
        "allow",
        "r",
        &["orders"],
        &["publish", "subscribe"],
        &["a.>"],
    ) + &rule("deny", "d", &["orders"], &["publish"], &["a.x.>", "*.y"])
        + &rule(
            "deny",
            "e",
            &["orders"],
            &["subscribe"],
            &["a.{t}.secret", "z.>"],
        );
    let got = beyond_base(&parse(&rules), "orders");
    let want = lists(
        &["a.>"],
        &["a.x.>", "a.y"],
        &["a.>", "a.> orders"],
        &["a.*.secret"],
    );
    assert_eq!(got, want);
    // Base permissions survive the widest deny.
    let rules = rule("allow", "r", &["orders"], &["publish"], &["a.>"])
        + &rule(
            "deny",
            "d",
            &["orders"],
            &["publish", "subscribe"],
            &["*.BARRIER", "*.NEWS.>"],
        );
    let got = permissions(&parse(&rules), "orders");
    assert_eq!(got.publish_deny, ["a.BARRIER", "a.NEWS.>"]);
    assert!(got.subscribe_deny.is_empty());
}

#[test]
fn pol_65_a_deny_never_cuts_another_verb() {
    let with = |allows: &[(&str, &str)], deny: (&str, &str)| {
        let mut rules: String = allows
            .iter()
            .enumerate()
            .map(|(i, (verb, on))| rule("allow", &format!("r{i}"), &["orders"], &[verb], &[on]))
            .collect();
        rules.push_str(&rule("deny", "d", &["orders"], &[deny.0], &[deny.1]));
        rules
    };
    conflict(
        &with(
            &[("subscribe", "a.>"), ("serve", "a.b.c")],
            ("subscribe", "a.b.*"),
        ),
        "deny_cuts",
        &["`d`", "`r1`", "a.b.*"],
    );
    conflict(
        &with(
            &[("publish", "a.>"), ("request", "a.x.y")],
            ("publish", "a.x.*"),
        ),
        "deny_cuts",
        &["`d`", "`r1`"],
    );
    conflict(
        &with(
            &[("serve", "a.>"), ("subscribe", "a.x.y")],
            ("serve", "a.x.*"),
        ),
        "deny_cuts",
        &["`d`", "`r1`"],
    );
    // A queue group of one's own is less than a plain subscription.
    conflict(
        &with(
            &[("subscribe", "a.>"), ("serve", "a.>")],
            ("subscribe", "a.x"),
        ),
        "deny_cuts",
        &["`d`", "`r1`"],
    );
    // Each verb has what the other lacks, except for `a.x.y`, which neither has.
    let crossed = with(
        &[("publish", "a.>"), ("request", "a.>")],
        ("publish", "a.x.>"),
    ) + &rule("deny", "e", &["orders"], &["request"], &["a.*.y"]);
    conflict(&crossed, "deny_cuts", &["`d`", "`e`", "a.x.>", "a.*.y"]);
    // The same NATS permission comes from the other verb: nothing to deny.
    let policy = parse(&with(
        &[("publish", "a.>"), ("request", "a.>")],
        ("publish", "a.x"),
    ));
    assert!(permissions(&policy, "orders").publish_deny.is_empty());
    let policy = parse(&with(
        &[("serve", "a.>"), ("subscribe", "a.>")],
        ("serve", "a.x"),
    ));
    assert!(permissions(&policy, "orders").subscribe_deny.is_empty());
    // Both denied: the deny can be told.
    let rules = rule("allow", "r", &["orders"], &["publish", "request"], &["a.>"])
        + &rule("deny", "d", &["orders"], &["publish", "request"], &["a.x"]);
    assert_eq!(permissions(&parse(&rules), "orders").publish_deny, ["a.x"]);
}

#[test]
fn pol_66_what_depends_on_the_user_is_left_to_the_endpoints() {
    let conditional = |effect: &str, id: &str| {
        rule(effect, id, &["orders"], &["publish"], &["a.x"]) + "user = { scope = \"s\" }\n"
    };
    let got = beyond_base(&parse(&conditional("allow", "r")), "orders");
    assert_eq!(got, lists(&["a.x"], &[], &[], &[]));
    let rules = rule("allow", "r", &["orders"], &["publish"], &["a.>"]) + &conditional("deny", "d");
    let got = beyond_base(&parse(&rules), "orders");
    assert_eq!(got, lists(&["a.>"], &[], &[], &[]));
}

#[test]
fn pol_67_a_server_may_answer_its_requesters_and_nobody_else() {
    let inbox = |name: &str| format!("_INBOX.{}.p.>", id(name).tag());
    let serve = rule("allow", "s", &["orders"], &["serve"], &["orders.*.create"]);
    let ask =
        |who: &str, on: &str| rule("allow", &format!("ask-{who}"), &[who], &["request"], &[on]);
    let rules = serve.clone() + &ask("cart", "orders.eu.>") + &ask("mail", "orders.eu.list");
    let got = beyond_base(&parse(&rules), "orders");
    assert_eq!(got.publish_allow, [inbox("cart")]);

    // Not one whose requests are all denied, nor where the server may not serve.
    let deny = rule("deny", "d", &["cart"], &["request"], &["orders.eu.*"]);
    let got = beyond_base(&parse(&(rules.clone() + &deny)), "orders");
    assert!(got.publish_allow.is_empty());
    let deny = rule("deny", "d", &["orders"], &["serve"], &["orders.eu.>"]);
    let got = beyond_base(&parse(&(rules.clone() + &deny)), "orders");
    assert!(got.publish_allow.is_empty());

    // Requesting gives no right to write into an inbox.
    assert!(
        !beyond_base(&parse(&rules), "cart")
            .publish_allow
            .iter()
            .any(|e| e.starts_with('_'))
    );
}

#[test]
fn pol_68_lists_that_do_not_fit_an_answer_are_refused() {
    let on: Vec<String> = (0..12_000)
        .map(|i| format!("subject.with.a.rather.long.name.n{i}"))
        .collect();
    let on: Vec<&str> = on.iter().map(String::as_str).collect();
    conflict(
        &(rule("allow", "few", &["orders"], &["publish"], &["a.b"])
            + &rule("allow", "most", &["orders"], &["publish", "subscribe"], &on)),
        "permissions_too_large",
        // Who, how much, and to which rules the most of it is due.
        &[
            "`orders`",
            "524288",
            "due to rule `most` (",
            "rule `few` (6)",
        ],
    );
    parse(&rule("allow", "r", &["orders"], &["publish"], &on[..8_000]));
}

#[test]
fn conflicts_are_reported_together_and_where_the_pattern_stands() {
    let rules = rule("allow", "one", &["orders"], &["subscribe"], &["x", "a.*"])
        + &rule(
            "allow",
            "two",
            &["orders"],
            &["subscribe"],
            &["a.b.c", "b.*"],
        )
        + &rule("allow", "three", &["orders"], &["subscribe"], &["b.b.c"]);
    let errors = Policy::parse("shop.toml", &text(&rules)).unwrap_err();
    let found: Vec<_> = errors
        .errors()
        .iter()
        .map(|e| {
            let (from, len) = e.caret();
            let marked: String = e.source_line().chars().skip(from).take(len).collect();
            (e.code(), marked)
        })
        .collect();
    let open = |at: &str| ("open_end", format!("\"{at}\""));
    assert_eq!(found, [open("a.*"), open("b.*")], "{errors}");
}

#[test]
fn pol_190_who_is_discoverable_answers_who_discovers_and_nobody_else() {
    let asks = "workload.mail.discovers = true\n";
    let both = format!("{asks}workload.orders.discoverable = true\n");
    let (plain, found) = (parse(asks), parse(&both));
    let (before, after) = (permissions(&plain, "orders"), permissions(&found, "orders"));
    let new = |before: &[String], after: &[String]| -> Vec<String> {
        let after = after.iter().filter(|entry| !before.contains(entry));
        after.cloned().collect()
    };
    let inbox = format!("_INBOX.{}.p.>", id("mail").tag());
    assert_eq!(new(&before.publish_allow, &after.publish_allow), [inbox]);
    let heard = new(&before.subscribe_allow, &after.subscribe_allow);
    for entry in [
        "$SRV.PING",
        "$SRV.PING orders",
        "$SRV.STATS.orders",
        "$SRV.INFO.orders.*",
        "$SRV.INFO.orders.* orders",
    ] {
        assert!(heard.iter().any(|e| e == entry), "no {entry} in {heard:?}");
    }
    assert_eq!(heard.len(), 18);
    let closed = "$SRV.PING.orders.*.>".to_owned();
    assert!(after.subscribe_deny.contains(&closed));
    // Who asks may ask all, and hears no questions.
    let asker = permissions(&found, "mail");
    for verb in ["PING", "INFO", "STATS"] {
        assert!(asker.publish_allow.contains(&format!("$SRV.{verb}")));
        assert!(asker.publish_allow.contains(&format!("$SRV.{verb}.>")));
    }
    let is_discovery = |entry: &String| entry.starts_with("$SRV");
    assert!(!asker.subscribe_allow.iter().any(is_discovery));
    assert!(!before.publish_allow.iter().any(is_discovery));
}
