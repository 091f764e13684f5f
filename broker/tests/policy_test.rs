//! `bulla policy test` and `bulla policy explain` as an operator runs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::process::{Command, Output};

use serde_json::Value;

const POLICY: &str = r#"version = 1
trust_domain = "shop.example"

[workload.gateway]
attest = [{ nkey = "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6" }]
mints = true

[workload.orders]
attest = [{ nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }]

[subject."orders.>"]
protect = "encrypted"

[[allow]]
id = "edge"
who = ["gateway"]
may = ["request"]
on = ["orders.create"]
user = { scope = "orders:write", tier = 3 }

[[allow]]
id = "night"
who = ["orders"]
may = ["publish"]
on = ["orders.repair"]
time = { from = "22:00", to = "06:00" }
network = ["10.0.0.0/8"]

[[allow]]
id = "orders-serve"
who = ["orders"]
may = ["serve"]
on = ["orders.create"]
"#;

const CASES: &str = r#"policy = "policy.toml"

[user.alice]
scope = "orders:write"
tier = 3

[[case]]
name = "writers create <orders>"
who = "gateway"
may = "request"
on = "orders.create"
user = ["alice", "nobody"]
expect = "allow"
rule = "edge"
"#;

struct Desk(tempfile::TempDir);

impl Desk {
    fn new(cases: &str) -> Self {
        let desk = tempfile::tempdir().unwrap();
        std::fs::write(desk.path().join("policy.toml"), POLICY).unwrap();
        std::fs::write(desk.path().join("shop.cases.toml"), cases).unwrap();
        Self(desk)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bulla"))
            .arg("policy")
            .args(args)
            .current_dir(self.0.path())
            .env_remove("BULLA_POLICY")
            .output()
            .unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(output)))
}

#[track_caller]
fn all_in(shown: &str, wanted: &[&str]) {
    for want in wanted {
        assert!(shown.contains(want), "no `{want}` in\n{shown}");
    }
}

#[test]
fn what_fails_is_explained_and_coverage_is_told() {
    let desk = Desk::new(CASES);
    let out = desk.run(&["test", "shop.cases.toml", "--junit", "report.xml"]);
    let shown = text(&out);
    assert_eq!(out.status.code(), Some(1), "{shown}");
    all_in(
        &shown,
        &[
            "✗ writers create <orders>  shop.cases.toml:7",
            "gateway request orders.create",
            "expected allow, and the answer is deny",
            "edge",
            "there is no claim `scope`",
            "2 questions in 1 case, 1 not as expected",
            "33 % of 3 rules applied",
            "never applied  allow night  policy.toml:",
        ],
    );
    let xml = std::fs::read_to_string(desk.0.path().join("report.xml")).unwrap();
    all_in(
        &xml,
        &[
            "<testsuite name=\"shop.cases.toml\" tests=\"2\" failures=\"1\"",
            "classname=\"writers create &lt;orders&gt;\" name=\"gateway request orders.create as alice\"",
            "<failure message=\"expected allow, and the answer is deny\">",
            "<property name=\"coverage\" value=\"33\"/>",
        ],
    );
    let out = json(&desk.run(&["test", "shop.cases.toml", "--json"]));
    assert_eq!(out["ok"], false);
    let run = &out["policies"][0];
    assert_eq!((&run["questions"], &run["failed"]), (&2.into(), &1.into()));
    assert_eq!(
        run["files"][0]["questions"][1]["reason"],
        "condition_failed"
    );
    assert_eq!(run["coverage"]["percent"], 33);
}

#[test]
fn good_cases_pass_and_too_little_coverage_does_not() {
    let desk = Desk::new(&CASES.replace("[\"alice\", \"nobody\"]", "\"alice\""));
    let out = desk.run(&["test", "shop.cases.toml", "--verbose"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    all_in(
        &text(&out),
        &["✓ writers create <orders>", "never failed   edge: tier = 3"],
    );
    let out = desk.run(&["test", "shop.cases.toml", "--min-coverage", "33"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    let out = desk.run(&["test", "shop.cases.toml", "--min-coverage", "34"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    all_in(
        &text(&out),
        &["33 % of 3 rules applied, and 34 % are wanted"],
    );
}

#[test]
fn what_does_not_load_is_no_result() {
    let desk = Desk::new("[[case]]\nwho = \"gateway\"\nmay = \"fly\"\n");
    let out = desk.run(&["test", "shop.cases.toml"]);
    assert_eq!(out.status.code(), Some(2));
    all_in(
        &text(&out),
        &[
            "shop.cases.toml:3:7",
            "a case has no `on`",
            "a case has no `expect`",
        ],
    );
    let desk = Desk::new(CASES);
    let out = desk.run(&["test", "shop.cases.toml", "--policy", "nowhere.toml"]);
    assert_eq!(out.status.code(), Some(2));
    let out = desk.run(&["test", "nowhere.cases.toml"]);
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn an_explanation_shows_the_rule_and_everything_that_kept_it_from_applying() {
    let desk = Desk::new(CASES);
    let ask = |more: &[&str]| {
        let mut args = vec!["explain", "--policy", "policy.toml"];
        args.extend(more);
        desk.run(&args)
    };
    let out = ask(&[
        "gateway",
        "request",
        "orders.create",
        "--claim",
        "scope=orders:write",
    ]);
    let shown = text(&out);
    assert_eq!(out.status.code(), Some(1), "{shown}");
    all_in(
        &shown,
        &[
            "deny  gateway may not request orders.create",
            "rule     edge (policy.toml:15)",
            "  15 | id = \"edge\"",
            "       |       ^^^^\n",
            "✓ scope holds \"orders:write\"",
            "✗ tier = 3: there is no claim `tier`",
            "[subject.\"orders.>\"]  line 11",
            "publish         orders.create",
        ],
    );
    // The value of a claim is nobody's business.
    let out = ask(&[
        "gateway",
        "request",
        "orders.create",
        "--claim",
        "tier=7788",
    ]);
    assert!(!text(&out).contains("7788"), "{}", text(&out));

    let out = ask(&["gateway", "publish", "orders.create"]);
    all_in(&text(&out), &["is about request"]);
    let night = "--at=2026-11-27T23:00:00Z";
    let out = ask(&[
        "orders",
        "publish",
        "orders.repair",
        night,
        "--from",
        "10.1.1.1",
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    let out = ask(&[
        "orders",
        "publish",
        "orders.repair",
        night,
        "--from",
        "192.0.2.1",
    ]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    all_in(
        &text(&out),
        &["only from 10.0.0.0/8", "it refuses by itself"],
    );
    let out = ask(&[
        "orders",
        "publish",
        "orders.repair",
        "--at=2026-11-27T12:00:00Z",
    ]);
    assert_eq!(out.status.code(), Some(1));
    all_in(&text(&out), &["not at this time: "]);

    let out = json(&ask(&["gateway", "request", "orders.create", "--json"]));
    assert_eq!(out["decision"], "deny");
    assert_eq!(out["considered"][0]["rule"], "edge");
    assert_eq!(out["considered"][0]["tests"][1]["outcome"], "missing");
    assert_eq!(out["nats_permissions"][0]["entry"], "orders.create");
    assert_eq!(out["subject_entries"][0]["pattern"], "orders.>");
}

#[test]
fn a_listing_has_every_condition() {
    let desk = Desk::new(CASES);
    let out = desk.run(&["can-i", "orders", "--list", "--policy", "policy.toml"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    all_in(
        &text(&out),
        &[
            "orders.repair",
            "if it is ",
            "22:00",
            "connects from 10.0.0.0/8",
        ],
    );
    let out = json(&desk.run(&[
        "can-i",
        "gateway",
        "--list",
        "--policy",
        "policy.toml",
        "--json",
    ]));
    assert_eq!(out["grants"][0]["tests"][0], "scope holds \"orders:write\"");
    let out = desk.run(&[
        "can-i",
        "gateway",
        "request",
        "orders.create",
        "--policy",
        "policy.toml",
        "--claim",
        "scope=orders:write",
        "--claim",
        "tier=3",
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
}
