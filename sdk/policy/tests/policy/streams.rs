//! Streams, appends and consumers.

use std::time::Duration;

use bulla_identity::SubjectPattern;
use bulla_policy::{Decision, Policy, PolicyErrors, Reason, Request, Retention, UserRule, Verb};

use crate::shop::{NOW, id, parse, permissions, rule, subject, text};

/// A stream of orders that stay for a week.
const ORDERS: &str = "[stream.ORDERS]\nsubjects = [\"orders.>\"]\n\
                      [subject.\"orders.>\"]\nreplay = \"stream\"\nmax_age = \"7d\"\n";

fn granted() -> String {
    let append = rule(
        "allow",
        "add",
        &["checkout"],
        &["append"],
        &["orders.*.created"],
    );
    let consume = rule("allow", "take", &["mail"], &["consume"], &["ORDERS.mail"]);
    format!("{ORDERS}{append}{consume}")
}

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

#[test]
fn pol_70_a_stream_has_subjects_and_documented_defaults() {
    let policy = parse(&granted());
    let [stream] = policy.streams() else {
        panic!("one stream")
    };
    assert_eq!(stream.name(), "ORDERS");
    assert_eq!(stream.subjects()[0].as_str(), "orders.>");
    assert_eq!(stream.retention(), Retention::Limits);
    assert_eq!(stream.max_age(), Duration::from_secs(7 * 86_400));
    assert_eq!(stream.longest_use(), stream.max_age());
    assert_eq!(stream.duplicates(), Duration::from_secs(120));
    assert_eq!((stream.max_bytes(), stream.replicas()), (None, 1));
    assert_eq!(policy.stream("ORDERS"), Some(stream));
    assert_eq!(policy.stream("OTHER"), None);
    assert_eq!(policy.stream_of(&subject("orders.1.created")), Some(stream));
    assert_eq!(policy.stream_of(&subject("order")), None);
    assert_eq!(policy.longest_max_age(), Duration::from_secs(7 * 86_400));
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(policy.late_readers_of(&id("checkout")), week);
    assert_eq!(policy.late_readers_of(&id("mail")), Duration::ZERO);
    assert_eq!(parse("").late_readers_of(&id("checkout")), Duration::ZERO);

    let said = "[stream.W]\nsubjects = [\"w\"]\nretention = \"workqueue\"\nmax_age = \"2h\"\n\
                duplicates = \"1m\"\nmax_bytes = 0x100000\nreplicas = 3\nstorage = \"file\"\n\
                [subject.w]\nreplay = \"stream\"\nmax_age = \"1h\"\n";
    let policy = parse(said);
    let w = policy.stream("W").unwrap();
    assert_eq!(w.retention(), Retention::WorkQueue);
    assert_eq!(
        (w.max_age().as_secs(), w.duplicates().as_secs()),
        (7200, 60)
    );
    assert_eq!((w.longest_use().as_secs(), w.replicas()), (3600, 3));
    assert_eq!(w.max_bytes(), Some(1 << 20));

    // Never shorter than the window of ids: nats-server would refuse it.
    let short = ORDERS.replace("7d", "10s");
    let policy = parse(&short);
    assert_eq!(policy.streams()[0].max_age(), Duration::from_secs(120));
    assert_eq!(policy.streams()[0].longest_use(), Duration::from_secs(10));
}

#[test]
fn pol_70_what_a_stream_may_be_is_bounded() {
    let with =
        |line: &str| ORDERS.replace("[\"orders.>\"]\n[", &format!("[\"orders.>\"]\n{line}\n["));
    for (line, code, at) in [
        ("retention = \"queue\"", "unknown_value", "\"queue\""),
        ("storage = \"memory\"", "unknown_value", "\"memory\""),
        ("max_age = \"59s\"", "stream_bounds", "\"59s\""),
        ("max_age = \"366d\"", "stream_bounds", "\"366d\""),
        ("duplicates = \"30s\"", "stream_bounds", "\"30s\""),
        ("duplicates = \"2h\"", "stream_bounds", "\"2h\""),
        ("duplicates = \"2 min\"", "duration", "\"2 min\""),
        ("max_bytes = 1000", "stream_bounds", "1000"),
        ("max_bytes = -1", "wrong_type", "-1"),
        ("replicas = 0", "stream_bounds", "0"),
        ("replicas = 6", "stream_bounds", "6"),
        ("replicas = \"3\"", "wrong_type", "\"3\""),
        ("sources = []", "unsupported", "sources"),
        ("subject = \"x\"", "unknown_key", "subject"),
    ] {
        one_error(&with(line), code, at);
    }
    for (name, code) in [
        ("a.b", "stream_name"),
        ("ä", "stream_name"),
        ("", "stream_name"),
        ("BULLA_CTL", "stream_reserved"),
        ("KV_x", "stream_reserved"),
    ] {
        let rules = ORDERS.replace("stream.ORDERS", &format!("stream.\"{name}\""));
        let errors = refused(&rules);
        assert_eq!(errors.errors()[0].code(), code, "{errors}");
    }
    let rules = "[stream.A]\nretention = \"limits\"\n";
    assert_eq!(refused(rules).errors()[0].code(), "missing_key");
    for (on, code) in [
        ("*.x", "wildcard_first"),
        ("$JS.API.>", "reserved_subject"),
        ("a..b", "pattern"),
    ] {
        let at = format!("\"{on}\"");
        one_error(&format!("[stream.A]\nsubjects = [{at}]\n"), code, &at);
    }
}

#[test]
fn pol_70_a_mirror_copies_a_declared_stream() {
    let copy = "[stream.COPY]\nmirror = \"ORDERS\"\n";
    let rules = format!(
        "{ORDERS}{copy}{}",
        rule("allow", "r", &["mail"], &["consume"], &["COPY.mail"])
    );
    let policy = parse(&rules);
    let stream = policy.stream("COPY").unwrap();
    assert_eq!(
        (stream.mirror(), stream.subjects().len()),
        (Some("ORDERS"), 0)
    );
    assert_eq!(stream.longest_use(), Duration::from_secs(7 * 86_400));
    assert_eq!(
        policy.stream_of(&subject("orders.x")).unwrap().name(),
        "ORDERS"
    );
    let recipients: Vec<_> = policy
        .recipients(Verb::Append, &subject("orders.x"), NOW)
        .map(|w| w.name().as_str())
        .collect();
    assert_eq!(recipients, ["mail"]);
    let mail = permissions(&policy, "mail");
    for stream in ["COPY", "ORDERS"] {
        let info = format!("$BULLA.STREAM.INFO.{stream}");
        assert!(mail.publish_allow.contains(&info), "{info}");
    }
    for line in [
        "subjects = [\"x\"]",
        "retention = \"limits\"",
        "duplicates = \"2m\"",
    ] {
        let at = line.split(" = ").last().unwrap();
        one_error(&format!("{ORDERS}{copy}{line}\n"), "mirror_says", at);
    }
    one_error(
        &copy.replace("ORDERS", "OTHER"),
        "mirror_origin",
        "\"OTHER\"",
    );
    let chain = format!("{ORDERS}{copy}[stream.SECOND]\nmirror = \"COPY\"\n");
    one_error(&chain, "mirror_origin", "\"COPY\"");
    let queue = ORDERS.replace(
        "[\"orders.>\"]\n[",
        "[\"orders.>\"]\nretention = \"workqueue\"\n[",
    );
    one_error(&format!("{queue}{copy}"), "mirror_origin", "\"ORDERS\"");
}

#[test]
fn pol_71_a_message_lies_in_one_stream() {
    let more = "[stream.ZZZ]\nsubjects = [\"orders.*.paid\"]\n";
    let message = one_error(
        &format!("{ORDERS}{more}"),
        "stream_overlap",
        "\"orders.*.paid\"",
    );
    assert!(message.contains("stream `ORDERS` (line 7)"), "{message}");
    let twice = ORDERS.replace("[\"orders.>\"]", "[\"orders.>\", \"orders.a\"]");
    one_error(&twice, "stream_overlap", "\"orders.a\"");
}

#[test]
fn pol_72_streams_and_entries_belong_to_each_other() {
    let bare = "[stream.A]\nsubjects = [\"a.>\"]\n";
    one_error(bare, "stream_unstated", "\"a.>\"");
    let half = format!("{bare}[subject.\"a.*\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n");
    one_error(&half, "stream_unstated", "\"a.>\"");
    let nowhere = "[subject.a]\nreplay = \"stream\"\nmax_age = \"1h\"\n";
    one_error(nowhere, "stream_missing", "\"stream\"");
    let silent = format!("{bare}[subject.\"a.>\"]\nreplay = \"stream\"\n");
    one_error(&silent, "missing_key", "\"a.>\"");
}

#[test]
fn pol_73_an_append_is_stored_whole() {
    for on in ["orders.{id}.created", "orders.>", "orders.x"] {
        parse(&format!(
            "{ORDERS}{}",
            rule("allow", "r", &["cart"], &["append"], &[on])
        ));
    }
    for on in ["orders", "other.x"] {
        let rules = format!(
            "{ORDERS}{}",
            rule("allow", "r", &["cart"], &["append"], &[on])
        );
        one_error(&rules, "append_nowhere", &format!("\"{on}\""));
    }
    let two = "[stream.A]\nsubjects = [\"a.x\", \"a.y\"]\n[subject.\"a.*\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n";
    let rules = format!(
        "{two}{}",
        rule("allow", "r", &["cart"], &["append"], &["a.*"])
    );
    one_error(&rules, "append_nowhere", "\"a.*\"");
    // Denying is safe.
    parse(&rule("deny", "r", &["cart"], &["append"], &["a.*"]));
}

#[test]
fn pol_74_a_consumer_belongs_to_one_workload() {
    let take = |id: &str, who: &[&str], on: &str| rule("allow", id, who, &["consume"], &[on]);
    let policy = parse(&format!(
        "{ORDERS}{}{}{}{}",
        take("a", &["mail"], "ORDERS.mail"),
        take("b", &["mail"], "ORDERS.mail"),
        take("c", &["cart"], "ORDERS.cart"),
        rule("deny", "d", &["cart"], &["consume"], &["*.cart"]),
    ));
    let consumers: Vec<_> = policy
        .consumers()
        .iter()
        .map(|c| {
            let owner = policy.consumer_owner(c).unwrap();
            (c.stream(), c.name(), owner.name().as_str())
        })
        .collect();
    assert_eq!(consumers, [("ORDERS", "mail", "mail")]);

    let shared = format!("{ORDERS}{}", take("a", &["mail", "cart"], "ORDERS.c"));
    let message = one_error(&shared, "consumer_twice", "\"ORDERS.c\"");
    assert!(message.contains("`cart` already consumes"), "{message}");
    for on in [
        "ORDERS",
        "ORDERS.a.b",
        "ORDERS.*",
        "*.a",
        "ORDERS.>",
        "ORDERS.{c}",
        "ORDERS.a/b",
        "$JS.x",
    ] {
        let rules = format!("{ORDERS}{}", take("a", &["mail"], on));
        one_error(&rules, "consumer_name", &format!("\"{on}\""));
    }
    let unknown = format!("{ORDERS}{}", take("a", &["mail"], "ORDER.mail"));
    one_error(&unknown, "consumer_nowhere", "\"ORDER.mail\"");
    let mixed = rule(
        "allow",
        "r",
        &["mail"],
        &["consume", "subscribe"],
        &["ORDERS.mail"],
    );
    one_error(
        &format!("{ORDERS}{mixed}"),
        "mixed_verbs",
        "[\"consume\", \"subscribe\"]",
    );
    let tested = format!(
        "{}user = {{ sub = \"alice\" }}\n",
        take("a", &["mail"], "ORDERS.mail")
    );
    one_error(
        &format!("{ORDERS}{tested}"),
        "condition_on_subscribe",
        "{ sub = \"alice\" }",
    );
    let queue = ORDERS.replace(
        "[\"orders.>\"]\n[",
        "[\"orders.>\"]\nretention = \"workqueue\"\n[",
    );
    let one = take("a", &["mail"], "ORDERS.mail");
    parse(&format!("{queue}{one}"));
    let two = format!("{queue}{one}{}", take("b", &["mail"], "ORDERS.again"));
    one_error(&two, "work_queue_shared", "\"ORDERS.again\"");
}

#[test]
fn pol_69_consuming_is_asking_and_answering_for_one_consumer() {
    let policy = parse(&granted());
    let base = permissions(&parse(""), "mail");
    let mut mail = permissions(&policy, "mail");
    mail.publish_allow
        .retain(|e| !base.publish_allow.contains(e));
    assert_eq!(
        mail.publish_allow,
        [
            "$BULLA.CONSUMER.INFO.ORDERS.mail",
            "$BULLA.STREAM.INFO.ORDERS",
            "$JS.ACK.ORDERS.mail.>",
            "$JS.API.CONSUMER.MSG.NEXT.ORDERS.mail",
            // It may read all of it, so it may begin anywhere.
            "$JS.API.DIRECT.GET.ORDERS",
        ]
    );
    assert_eq!(mail.subscribe_allow, base.subscribe_allow);
    let mut checkout = permissions(&policy, "checkout");
    let base = permissions(&parse(""), "checkout");
    checkout
        .publish_allow
        .retain(|e| !base.publish_allow.contains(e));
    assert_eq!(checkout.publish_allow, ["orders.*.created"]);
    assert_eq!(checkout.subscribe_allow, base.subscribe_allow);

    // Of a stream that forgets ids, the consumer remembers them.
    let queue = granted().replace(
        "[\"orders.>\"]\n[",
        "[\"orders.>\"]\nretention = \"interest\"\n[",
    );
    let mut mail = permissions(&parse(&queue), "mail");
    mail.publish_allow.retain(|e| e.contains("TAKEN"));
    let tag = id("mail").tag();
    assert_eq!(
        mail.publish_allow,
        [
            format!("$BULLA.TAKEN.{tag}.>"),
            format!("$JS.API.DIRECT.GET.BULLA_TAKEN.$BULLA.TAKEN.{tag}.>"),
        ]
    );

    let denied = rule("deny", "no", &["mail"], &["consume"], &["ORDERS.*"]);
    let policy = parse(&format!("{}{denied}", granted()));
    let base = permissions(&parse(""), "mail");
    assert_eq!(permissions(&policy, "mail"), base);
}

#[test]
fn pol_60_who_mints_tokens_remembers_for_long_what_its_clients_said() {
    let base = permissions(&parse(""), "mail");
    let mut edge = permissions(&parse("workload.mail.mints = true\n"), "mail");
    edge.publish_allow
        .retain(|e| !base.publish_allow.contains(e));
    let tag = id("mail").tag();
    assert_eq!(
        edge.publish_allow,
        [
            format!("$BULLA.TAKEN.{tag}.>"),
            format!("$JS.API.DIRECT.GET.BULLA_TAKEN.$BULLA.TAKEN.{tag}.>"),
        ]
    );
    assert_eq!(edge.subscribe_allow, base.subscribe_allow);
}

#[test]
fn pol_65_appending_shares_its_permission_with_publishing() {
    let grant = |may: &[&str]| rule("allow", "grant", &["cart"], may, &["orders.>"]);
    let deny = |may: &[&str]| rule("deny", "not", &["cart"], may, &["orders.x"]);
    let policy = parse(&format!(
        "{ORDERS}{}{}",
        grant(&["append"]),
        deny(&["append"])
    ));
    assert_eq!(permissions(&policy, "cart").publish_deny, ["orders.x"]);
    // Publishing still needs the permission there.
    let policy = parse(&format!(
        "{ORDERS}{}{}",
        grant(&["append", "publish"]),
        deny(&["append"])
    ));
    assert!(permissions(&policy, "cart").publish_deny.is_empty());
    let policy = parse(&format!(
        "{ORDERS}{}{}",
        grant(&["append", "publish"]),
        deny(&["append", "publish"])
    ));
    assert_eq!(permissions(&policy, "cart").publish_deny, ["orders.x"]);
}

#[test]
fn pol_75_consuming_is_decided_by_the_consumer_and_appending_by_the_subject() {
    let demand = "[subject.\"ORDERS.*\"]\nuser = \"required\"\n";
    let policy = parse(&format!("{}{demand}", granted()));
    let ask = |who: &str, verb, on: &str| {
        policy.decide(&Request {
            workload: &id(who),
            verb,
            subject: &subject(on),
            user: None,
            now: Default::default(),
        })
    };
    let Decision::Allow(permit) = ask("mail", Verb::Consume, "ORDERS.mail") else {
        panic!("may consume")
    };
    assert_eq!(permit.rule(), "take");
    assert_eq!(permit.requirements().user, UserRule::Optional);
    for (who, on) in [
        ("mail", "ORDERS.cart"),
        ("cart", "ORDERS.mail"),
        ("mail", "orders.1.created"),
    ] {
        let Decision::Deny(denial) = ask(who, Verb::Consume, on) else {
            panic!("{who} consumes {on}")
        };
        assert_eq!(denial.reason(), Reason::NotGranted);
        assert_eq!(denial.rule(), None);
    }
    assert!(ask("checkout", Verb::Append, "orders.1.created").is_allow());
    assert!(!ask("checkout", Verb::Append, "orders.1.paid").is_allow());
    assert!(!ask("checkout", Verb::Publish, "orders.1.created").is_allow());
    assert!(!ask("mail", Verb::Append, "ORDERS.mail").is_allow());
    let listen = |on: &str| {
        let pattern = SubjectPattern::parse(on).unwrap();
        policy
            .may_listen(&id("mail"), Verb::Consume, &pattern, NOW)
            .is_ok()
    };
    assert!(listen("ORDERS.mail"));
    assert!(!listen("ORDERS.*"));
}

#[test]
fn recipients_of_an_append_are_the_streams_consumers_and_the_subscribers() {
    let rules = format!(
        "{}{}{}",
        granted(),
        rule(
            "allow",
            "watch",
            &["cart"],
            &["subscribe"],
            &["orders.*.created"]
        ),
        rule("allow", "other", &["orders"], &["subscribe"], &["other"]),
    );
    let policy = parse(&rules);
    let recipients = |verb, on: &str| -> Vec<&str> {
        policy
            .recipients(verb, &subject(on), NOW)
            .map(|w| w.name().as_str())
            .collect()
    };
    assert_eq!(
        recipients(Verb::Append, "orders.1.created"),
        ["cart", "mail"]
    );
    assert_eq!(recipients(Verb::Append, "orders.1.paid"), ["mail"]);
    assert_eq!(recipients(Verb::Publish, "orders.1.created"), ["cart"]);
    assert!(recipients(Verb::Consume, "ORDERS.mail").is_empty());
}
