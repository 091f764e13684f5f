//! Who is drawn as talking to whom is who may.

use bulla_identity::Subject;
use proptest::prelude::*;

use super::*;

fn nkey(number: u8) -> String {
    let bytes = [number; 32];
    bulla_identity::Nkey::from_bytes(bulla_identity::NkeyKind::User, bytes).to_string()
}

fn policy(names: &[&str], rules: &str) -> Policy {
    let mut text = "version = 1\ntrust_domain = \"acme.example\"\n".to_owned();
    for (name, number) in names.iter().zip(1u8..) {
        text.push_str(&format!(
            "[workload.{name}]\nattest = [{{ nkey = \"{}\" }}]\n",
            nkey(number)
        ));
    }
    Policy::parse("p.toml", &(text + rules)).unwrap_or_else(|e| panic!("{e}"))
}

fn rule(effect: &str, id: usize, who: &[&str], may: &str, on: &[&str]) -> String {
    format!("[[{effect}]]\nid = \"r{id}\"\nwho = {who:?}\nmay = [\"{may}\"]\non = {on:?}\n")
}

/// Twenty workloads of a shop.
fn shop() -> Policy {
    let names = [
        "web", "mobile", "admin", "cart", "catalog", "search", "pricing", "orders", "payments",
        "billing", "ledger", "stock", "shipping", "mail", "sms", "fraud", "reports", "archive",
        "identity", "spare",
    ];
    // Who sends, how, on what, who receives, how.
    type Said<'a> = (
        &'a [&'a str],
        &'a str,
        &'a [&'a str],
        &'a [&'a str],
        &'a str,
    );
    let talks: &[Said<'_>] = &[
        (
            &["web", "mobile"],
            "request",
            &["cart.{user}.>"],
            &["cart"],
            "serve",
        ),
        (
            &["web", "mobile", "admin"],
            "request",
            &["catalog.get", "catalog.list"],
            &["catalog"],
            "serve",
        ),
        (
            &["web", "mobile"],
            "request",
            &["search.query"],
            &["search"],
            "serve",
        ),
        (
            &["web", "mobile"],
            "request",
            &["orders.{tenant}.create"],
            &["orders"],
            "serve",
        ),
        (
            &["admin"],
            "request",
            &["orders.{tenant}.refund", "stock.adjust", "users.{id}.lock"],
            &["orders", "stock", "identity"],
            "serve",
        ),
        (
            &["cart"],
            "request",
            &["pricing.quote"],
            &["pricing"],
            "serve",
        ),
        (
            &["orders"],
            "request",
            &["payments.charge", "payments.refund"],
            &["payments"],
            "serve",
        ),
        (
            &["orders"],
            "request",
            &["stock.reserve"],
            &["stock"],
            "serve",
        ),
        (
            &["payments"],
            "request",
            &["fraud.score"],
            &["fraud"],
            "serve",
        ),
        (
            &["catalog"],
            "publish",
            &["catalog.changed"],
            &["search", "pricing"],
            "subscribe",
        ),
        (
            &["payments"],
            "publish",
            &["payments.done.*"],
            &["billing", "ledger", "orders"],
            "subscribe",
        ),
        (
            &["shipping"],
            "publish",
            &["shipping.*.sent"],
            &["mail", "sms", "orders"],
            "subscribe",
        ),
        (
            &["billing"],
            "publish",
            &["invoices.*.sent"],
            &["mail"],
            "subscribe",
        ),
        (
            &["identity"],
            "publish",
            &["users.*.locked"],
            &["web", "mobile"],
            "subscribe",
        ),
    ];
    let mut rules = String::from(
        "[subject.\"orders.*.*\"]\n[subject.\"events.>\"]\nreplay = \"stream\"\nmax_age = \"1d\"\n[stream.EVENTS]\nsubjects = [\"events.>\"]\n",
    );
    let mut id = 0;
    for (from, send, on, to, receive) in talks {
        rules += &rule("allow", id, from, send, on);
        rules += &rule("allow", id + 1, to, receive, on);
        id += 2;
    }
    rules += &rule(
        "allow",
        100,
        &["orders"],
        "append",
        &["events.orders.created", "events.orders.paid"],
    );
    for (at, name) in ["stock", "shipping", "reports", "archive", "mail"]
        .iter()
        .enumerate()
    {
        rules += &rule(
            "allow",
            101 + at,
            &[name],
            "consume",
            &[&format!("EVENTS.{name}")],
        );
    }
    rules += "[bucket.flags]\n";
    rules += &rule("allow", 120, &["admin"], "write", &["flags.>"]);
    rules += &rule("allow", 121, &["web", "mobile"], "read", &["flags.shop.>"]);
    // One that nobody hears, and one that is denied.
    rules += &rule("allow", 110, &["web"], "publish", &["clicks.page"]);
    rules += &rule("allow", 111, &["web"], "request", &["payments.charge"]);
    rules += &rule("deny", 112, &["web"], "request", &["payments.>"]);
    policy(&names, &rules)
}

#[test]
fn pol_146_the_shop_is_drawn_with_all_that_talks() {
    let graph = Graph::of(&shop());
    let at = |name: &str| graph.workloads.iter().position(|w| w == name).unwrap();
    let talks = |from: &str, to: &str| {
        let channels = graph.channels.iter();
        channels
            .filter(|c| c.from.contains(&at(from)) && c.to.contains(&at(to)))
            .flat_map(|c| c.subjects.iter().map(move |s| (c.talk, s.as_str())))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        talks("web", "orders"),
        [(Talk::Request, "orders.{tenant}.create")]
    );
    assert_eq!(
        talks("payments", "ledger"),
        [(Talk::Event, "payments.done.*")]
    );
    assert_eq!(talks("orders", "archive").len(), 2);
    assert_eq!(talks("admin", "mobile"), [(Talk::Stored, "flags.shop.>")]);
    assert_eq!(talks("web", "payments"), []);
    assert!(graph.is_alone(at("spare")));

    let svg = graph.to_svg();
    if let Some(dir) = std::env::var_os("BULLA_GRAPH_DIR") {
        let dir = std::path::Path::new(&dir);
        std::fs::write(dir.join("shop.svg"), &svg).unwrap();
        std::fs::write(dir.join("shop.html"), graph.to_html("shop.toml")).unwrap();
        std::fs::write(dir.join("shop.dot"), graph.to_dot()).unwrap();
    }
    for name in &graph.workloads {
        assert!(svg.contains(&format!(">{name}</text>")), "{name}");
    }
    assert!(svg.contains("orders.{tenant}.create"));
}

/// What asks a network for anything has an address.
#[test]
fn pol_146_nothing_is_loaded_from_anywhere() {
    let graph = Graph::of(&shop());
    for text in [graph.to_svg(), graph.to_html("x")] {
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for word in [
            "http:", "https:", "src=", "href", "@import", "url(\"", "fetch",
        ] {
            assert!(!text.contains(word), "{word}");
        }
    }
    let html = graph.to_html("<b>&\"");
    assert!(html.contains("default-src 'none'") && html.contains("<h1>&lt;b&gt;&amp;&quot;</h1>"));
}

#[test]
fn pol_146_boxes_stand_apart() {
    let graph = Graph::of(&shop());
    let size = |_: &String| layout::Size {
        width: 90.0,
        height: 34.0,
    };
    let workloads: Vec<_> = graph.workloads.iter().map(size).collect();
    let channels = vec![
        layout::Size {
            width: 150.0,
            height: 40.0
        };
        graph.channels.len()
    ];
    let layout = layout::layout(&graph, &workloads, &channels);
    let boxes: Vec<_> = layout
        .workloads
        .iter()
        .chain(&layout.channels)
        .flatten()
        .collect();
    for (i, a) in boxes.iter().enumerate() {
        assert!(
            a.y - a.size.height / 2.0 >= -0.01 && a.y + a.size.height / 2.0 <= layout.height + 0.01
        );
        for b in boxes.iter().skip(i + 1) {
            let apart = (a.x - b.x).abs() >= (a.size.width + b.size.width) / 2.0
                || (a.y - b.y).abs() >= (a.size.height + b.size.height) / 2.0 + 4.0;
            assert!(apart, "{a:?} {b:?}");
        }
    }
}

#[test]
fn an_empty_policy_is_an_empty_picture() {
    let graph = Graph::of(&policy(&[], ""));
    assert!(graph.channels.is_empty());
    assert!(graph.to_svg().ends_with("</svg>\n"));
    assert!(graph.to_dot().starts_with("digraph"));
}

proptest! {
    /// On literal subjects the graph says exactly what may ever happen.
    #[test]
    fn pol_146_the_graph_agrees_with_the_engine(
        rules in proptest::collection::vec(
            (proptest::bool::weighted(0.85), 0..3usize, 0..4usize, 0..7usize), 1..10),
    ) {
        let names = ["a", "b", "c"];
        let verbs = ["publish", "subscribe", "request", "serve"];
        let patterns = ["x", "x.y", "x.{k}", "x.>", "y.*.z", "y.>", "x.*.>"];
        let mut text = String::new();
        for (id, (allow, who, verb, on)) in rules.into_iter().enumerate() {
            let effect = if allow { "allow" } else { "deny" };
            text += &rule(effect, id, &[names[who]], verbs[verb], &[patterns[on]]);
        }
        let head: String = names.iter().zip(1u8..).map(|(n, i)| format!("[workload.{n}]\nattest = [{{ nkey = \"{}\" }}]\n", nkey(i))).collect();
        let whole = format!("version = 1\ntrust_domain = \"acme.example\"\n{head}{text}");
        let Ok(policy) = Policy::parse("p", &whole) else { return Ok(()) };
        let graph = Graph::of(&policy);
        let workloads = policy.workloads();
        for subject in ["x", "x.y", "x.z", "x.y.z", "y.z", "y.y.z", "y.z.z.z", "z"] {
            let literal = Subject::parse(subject).unwrap();
            for (i, from) in workloads.iter().enumerate() {
                for (j, to) in workloads.iter().enumerate() {
                    for (talk, send, receive) in [(Talk::Event, Verb::Publish, Verb::Subscribe), (Talk::Request, Verb::Request, Verb::Serve)] {
                        let may = policy.may_ever(from.id(), send, &literal) && policy.may_ever(to.id(), receive, &literal);
                        let drawn = graph.channels.iter().any(|c| {
                            c.talk == talk && c.from.contains(&i) && c.to.contains(&j)
                                && c.subjects.iter().any(|s| SubjectPattern::parse(s).unwrap().matches(&literal))
                        });
                        // A deny rule that takes a part of a pattern is not drawn.
                        prop_assert!(drawn || !may, "{} {talk:?} {} {subject}\n{whole}", from.name(), to.name());
                        if !whole.contains("[[deny]]") {
                            prop_assert_eq!(drawn, may, "{} {:?} {} {}\n{}", from.name(), talk, to.name(), subject, whole);
                        }
                    }
                }
            }
        }
    }
}
