//! The traps of nats-server's permissions, each with its own test.

use bulla_policy::Policy;

use crate::client::{Client, Server, id, policy, rule};

async fn start(policy: &Policy) -> Server {
    Server::start(&[policy]).await
}

fn refused(client: &mut Client, subject: &str, group: &str) {
    let accepted = client.subscribe(subject, group);
    assert_eq!(accepted, None, "`SUB {subject} {group}` was accepted");
}

#[tokio::test]
async fn a_grant_that_ends_in_a_star_does_not_open_deeper_levels() {
    let rules = rule(
        "allow",
        "r1",
        "plain",
        &["subscribe"],
        &["one.*", "two.{x}.{y}"],
    ) + &rule("allow", "r2", "server", &["serve"], &["one.*"]);
    let policy = policy(&["plain", "server"], &rules);
    let server = start(&policy).await;
    let mut root = server.connect(0, "root");
    let flood = [
        "one",
        "one.a",
        "one.a.b",
        "one.a.b.c",
        "two.a",
        "two.a.b",
        "two.a.b.c",
        "three.a",
    ];

    for wanted in [
        "one.*", "one.>", "one.a", "two.*.*", "two.*.>", "two.a.>", "two.a.*",
    ] {
        let mut plain = server.connect(0, "plain");
        plain
            .subscribe(wanted, "")
            .unwrap_or_else(|| panic!("{wanted} was refused"));
        flood.iter().for_each(|s| assert!(root.publish(s)));
        let allowed = |s: &String| s == "one.a" || s == "two.a.b";
        let received = plain.received();
        assert!(
            !received.is_empty() && received.iter().all(allowed),
            "{wanted}: {received:?}"
        );
    }
    let mut queue = server.connect(0, "server");
    queue.subscribe("one.>", "server").unwrap();
    flood.iter().for_each(|s| assert!(root.publish(s)));
    assert_eq!(queue.received(), ["one.a"]);

    let mut plain = server.connect(0, "plain");
    for wanted in [
        "one",
        "one.*.>",
        "one.a.b",
        "one.a.>",
        ">",
        "*",
        "*.*",
        "*.>",
        "*.a",
        "two.>",
        "two.*",
        "two.a.b.c",
        "two.*.*.>",
    ] {
        refused(&mut plain, wanted, "");
        refused(&mut plain, wanted, "plain");
    }
}

#[tokio::test]
async fn attack_26_nobody_joins_another_workloads_queue_group() {
    let rules = rule(
        "allow",
        "r1",
        "orders",
        &["serve"],
        &["orders.list", "orders.eu.create"],
    ) + &rule("allow", "r2", "thief", &["subscribe"], &["orders.>"])
        + &rule(
            "allow",
            "r3",
            "thief",
            &["serve"],
            &["orders.eu.create", "theft.*"],
        )
        + &rule("allow", "r4", "other", &["serve"], &["orders.eu.create"]);
    let policy = policy(&["orders", "thief", "other"], &rules);
    let server = start(&policy).await;
    let mut orders = server.connect(0, "orders");
    orders.subscribe("orders.eu.create", "orders").unwrap();
    let mut thief = server.connect(0, "thief");
    for group in [
        "orders", "other", "x", "o*", "*", ">", "thief.x", "Thief", "orders.x",
    ] {
        for wanted in [
            "orders.eu.create",
            "orders.eu.*",
            "orders.>",
            "orders.*.create",
            "theft.a",
            "theft.*",
        ] {
            refused(&mut thief, wanted, group);
        }
        refused(&mut thief, "$BULLA.NEWS.>", group);
    }
    // What it may do takes nothing away.
    thief.subscribe("orders.>", "").unwrap();
    thief.subscribe("orders.eu.create", "thief").unwrap();
    let mut root = server.connect(0, "root");
    for _ in 0..20 {
        assert!(root.publish("orders.eu.create"));
    }
    assert_eq!(orders.received().len(), 20);

    // A server has no plain copy, and no group but its own.
    let mut other = server.connect(0, "other");
    refused(&mut other, "orders.eu.create", "");
    refused(&mut other, "orders.eu.create", "orders");
    other.subscribe("orders.eu.create", "other").unwrap();
}

#[tokio::test]
async fn inboxes_are_private_and_only_a_server_writes_into_them() {
    let rules = rule("allow", "r1", "orders", &["serve"], &["orders.create"])
        + &rule("allow", "r2", "web", &["request"], &["orders.create"])
        + &rule(
            "allow",
            "r3",
            "mail",
            &["publish"],
            &["orders.create", "mail.sent"],
        );
    let policy = policy(&["orders", "web", "mail"], &rules);
    let server = start(&policy).await;
    let tag = |name: &str| id(name).tag();
    let (web, own) = (tag("web"), tag("mail"));

    let mut mail = server.connect(0, "mail");
    for wanted in [
        "_INBOX.>".to_owned(),
        "_INBOX.*".to_owned(),
        "_INBOX.*.p.>".to_owned(),
        "_INBOX.*.*.*".to_owned(),
        format!("_INBOX.{web}.>"),
        format!("_INBOX.{web}.p.>"),
        format!("_INBOX.{web}.s.x"),
        format!("_INBOX.{own}.>"),
        format!("_INBOX.{own}.*.x"),
        "*.*.p.>".to_owned(),
    ] {
        refused(&mut mail, &wanted, "");
        refused(&mut mail, &wanted, "mail");
    }
    for half in ["p", "s"] {
        mail.subscribe(&format!("_INBOX.{own}.{half}.>"), "")
            .unwrap();
        assert!(!mail.publish(&format!("_INBOX.{web}.{half}.x")));
        assert!(!mail.publish(&format!("_INBOX.{own}.{half}.x")));
    }

    let mut requester = server.connect(0, "web");
    requester
        .subscribe(&format!("_INBOX.{web}.p.>"), "")
        .unwrap();
    let mut orders = server.connect(0, "orders");
    assert!(orders.publish(&format!("_INBOX.{web}.p.reply.1")));
    assert!(!orders.publish(&format!("_INBOX.{web}.s.x")));
    assert!(!orders.publish(&format!("_INBOX.{web}.p")));
    // `mail` publishes on the subject, which is not asking.
    assert!(!orders.publish(&format!("_INBOX.{own}.p.x")));
    assert_eq!(requester.received(), [format!("_INBOX.{web}.p.reply.1")]);
}

#[tokio::test]
async fn a_request_with_another_reply_subject_gives_the_server_no_rights() {
    let rules = rule("allow", "r1", "orders", &["serve"], &["orders.create"])
        + &rule("allow", "r2", "web", &["request"], &["orders.create"]);
    let policy = policy(&["orders", "web"], &rules);
    let server = start(&policy).await;
    let mut orders = server.connect(0, "orders");
    orders.subscribe("orders.create", "orders").unwrap();
    let mut web = server.connect(0, "web");
    // nats-server checks the subject of a message, never its reply subject.
    assert!(
        web.send("PUB orders.create admin.shutdown 1\r\nx")
            .errors
            .is_empty()
    );
    assert_eq!(orders.received(), ["orders.create"]);
    assert!(!orders.publish("admin.shutdown"));
    assert!(!orders.publish("$JS.API.STREAM.DELETE.X"));
}

#[tokio::test]
async fn the_servers_own_spaces_stay_closed() {
    let rules = rule(
        "allow",
        "r",
        "app",
        &["publish", "subscribe", "request", "serve"],
        &["app.>"],
    ) + &rule("allow", "p", "peer", &["publish"], &["app.x"]);
    let policy = policy(&["app", "peer"], &rules);
    let server = start(&policy).await;
    let mut app = server.connect(0, "app");
    let peer = id("peer").tag();
    for wanted in [
        ">",
        "*",
        "*.>",
        "*.*",
        "*.*.*",
        "$SYS.>",
        "$SYS.REQ.USER.AUTH",
        "$JS.>",
        "$JS.API.>",
        "$JS.API.DIRECT.GET.BULLA_CTL.>",
        "$KV.>",
        "$KV.b.>",
        "$BULLA.KV.>",
        "$BULLA.KV.b.k",
        "$O.>",
        "$BULLA.>",
        "$BULLA.*.>",
        "$BULLA.CTL.>",
        "$BULLA.BROKER.>",
        "$BULLA.KEYS.>",
        "$BULLA.CLAIMS.>",
        "$BULLA.AUDIT.>",
        "$BULLA.BARRIER",
        "$SRV.>",
        "_R_.>",
        "_GR_.>",
    ] {
        refused(&mut app, wanted, "");
        refused(&mut app, wanted, "app");
    }
    for subject in [
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$SYS.REQ.USER.INFO",
        "$JS.API.INFO",
        "$JS.API.STREAM.DELETE.X",
        "$JS.API.STREAM.LIST",
        "$JS.API.CONSUMER.CREATE.X",
        "$JS.API.CONSUMER.MSG.NEXT.X.Y",
        "$JS.ACK.X.Y.1.1.1.1.0",
        "$JS.API.DIRECT.GET.OTHER.x",
        "$JS.API.DIRECT.GET.BULLA_CTL",
        "$KV.b.k",
        "$BULLA.KV.b.k",
        "$JS.API.DIRECT.GET.KV_b",
        "$JS.API.DIRECT.GET.KV_b.$KV.b.k",
        "$BULLA.CTL.POLICY",
        "$BULLA.NEWS.POLICY",
        "_R_.x",
        &format!("$BULLA.BROKER.{peer}.challenge"),
        &format!("$BULLA.BROKER.{peer}.credential.b1"),
        &format!("$BULLA.BROKER.{peer}.kem"),
        &format!("$BULLA.KEYS.{peer}.k"),
        &format!("$BULLA.CLAIMS.{peer}.c"),
        &format!("$BULLA.AUDIT.{peer}.i"),
        "$BULLA.AUDIT.broker.i",
        "$JS.API.DIRECT.GET.BULLA_AUDIT.$BULLA.AUDIT.broker.i",
        &format!("$JS.API.DIRECT.GET.BULLA_CLAIMS.$BULLA.CLAIMS.{peer}.c"),
        "$JS.API.DIRECT.GET.BULLA_CLAIMS",
        "$JS.API.DIRECT.GET.BULLA_KEYS",
    ] {
        assert!(!app.publish(subject), "published to {subject}");
    }
    let own = id("app").tag();
    for subject in [
        "$BULLA.BARRIER",
        "$JS.API.DIRECT.GET.BULLA_CTL.$BULLA.CTL.POLICY",
        &format!("$BULLA.BROKER.{own}.challenge"),
        &format!("$BULLA.BROKER.{own}.credential.b1"),
        &format!("$BULLA.BROKER.{own}.kem"),
        &format!("$BULLA.KEYS.{own}.k"),
        &format!("$BULLA.CLAIMS.{own}.c"),
        &format!("$BULLA.AUDIT.{own}.i"),
        &format!("$JS.API.DIRECT.GET.BULLA_CLAIMS.$BULLA.CLAIMS.{own}.c"),
        &format!("$JS.API.DIRECT.GET.BULLA_KEYS.$BULLA.KEYS.{peer}.k"),
        "app.anything",
    ] {
        assert!(app.publish(subject), "could not publish to {subject}");
    }
    app.subscribe("$BULLA.NEWS.>", "").unwrap();
}

#[tokio::test]
async fn a_workload_without_rules_may_do_nothing() {
    let policy = policy(&["idle"], "");
    let server = start(&policy).await;
    let mut idle = server.connect(0, "idle");
    for wanted in [">", "*", "a", "a.>"] {
        refused(&mut idle, wanted, "");
        refused(&mut idle, wanted, "idle");
    }
    assert!(!idle.publish("a"));
    assert!(!idle.publish("a.b"));
}

#[tokio::test]
async fn a_deny_within_a_wildcard_is_refused_and_not_delivered() {
    let rules = rule("allow", "r", "app", &["publish", "subscribe"], &["a.>"])
        + &rule(
            "deny",
            "d",
            "app",
            &["publish", "subscribe"],
            &["*.secret", "a.*.key.>"],
        );
    let policy = policy(&["app"], &rules);
    let server = start(&policy).await;
    let mut app = server.connect(0, "app");
    for denied in ["a.secret", "a.b.key.c"] {
        refused(&mut app, denied, "");
        refused(&mut app, denied, "app");
        assert!(!app.publish(denied));
    }
    let mut root = server.connect(0, "root");
    for wanted in ["a.>", "a.*", "a.b.>", "a.*.key.>"] {
        for group in ["", "app"] {
            let mut app = server.connect(0, "app");
            let sid = app.subscribe(wanted, group);
            for s in ["a.secret", "a.public", "a.b.key.c", "a.b.lock.c"] {
                assert!(root.publish(s));
            }
            let received = app.received();
            assert!(
                received
                    .iter()
                    .all(|s| s == "a.public" || s == "a.b.lock.c"),
                "{wanted}: {received:?}"
            );
            assert_eq!(received.is_empty(), sid.is_none() || wanted == "a.*.key.>");
            // Or the server, which may not have seen yet that this connection is gone, gives it
            // what the next one of the group should have.
            if let Some(sid) = sid {
                app.send(&format!("UNSUB {sid}"));
            }
        }
    }
}
