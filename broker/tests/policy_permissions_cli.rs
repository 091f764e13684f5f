//! `bulla policy permissions` as an operator runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::process::{Command, Output};

use serde_json::{Value, json};

const POLICY: &str = r#"version = 1
trust_domain = "shop.example"

[workload.orders]
attest = [{ nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }]

[bucket.carts]

[[allow]]
id = "orders-read-carts"
who = ["orders"]
may = ["read"]
on = ["carts.{user}.items"]

[[allow]]
id = "orders-listen"
who = ["orders"]
may = ["subscribe"]
on = ["orders.*"]
"#;

fn run(arguments: &[&str]) -> Output {
    let desk = tempfile::tempdir().unwrap();
    std::fs::write(desk.path().join("policy.toml"), POLICY).unwrap();
    Command::new(env!("CARGO_BIN_EXE_bulla"))
        .args(["policy", "permissions", "--policy", "policy.toml"])
        .args(arguments)
        .current_dir(desk.path())
        .env_remove("BULLA_POLICY")
        .output()
        .unwrap()
}

#[test]
fn what_nats_server_is_told_is_shown_with_the_rules_it_is_due_to() {
    let shown = run(&["orders"]);
    assert_eq!(shown.status.code(), Some(0));
    let text = String::from_utf8(shown.stdout).unwrap();
    for line in [
        "publish\n  allow  $JS.API.DIRECT.GET.KV_carts.$KV.carts.*.items  orders-read-carts\n",
        "  allow  orders.* orders",
        "  deny   orders.*.>",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(
        text.contains("entries that every workload has (--all)"),
        "{text}"
    );
    assert!(!text.contains("$BULLA.BARRIER"), "{text}");
    let all = String::from_utf8(run(&["orders", "--all"]).stdout).unwrap();
    let barrier = all.lines().find(|l| l.contains("$BULLA.BARRIER"));
    assert!(barrier.unwrap().ends_with("every workload"), "{all}");
}

#[test]
fn scripts_get_the_lists_as_nats_server_takes_them() {
    let shown = run(&["spiffe://shop.example/orders", "--json"]);
    let told: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(told["workload"], "spiffe://shop.example/orders");
    let subscribe = &told["permissions"]["subscribe"];
    assert_eq!(subscribe["deny"], json!(["orders.*.>"]));
    let allow = subscribe["allow"].as_array().unwrap();
    assert!(
        allow.contains(&json!("$BULLA.KV.carts.*.items orders")),
        "{allow:?}"
    );
    assert_eq!(told["limit"], 512 << 10);
    let entries: usize = ["publish", "subscribe"]
        .iter()
        .flat_map(|side| ["allow", "deny"].map(|effect| (side, effect)))
        .map(|(side, effect)| told["permissions"][side][effect].as_array().unwrap().len())
        .sum();
    assert_eq!(told["due_to"].as_array().unwrap().len(), entries);
    let due = told["due_to"].as_array().unwrap().iter();
    let denied = due.clone().find(|d| d["effect"] == "deny").unwrap();
    assert_eq!(denied["rule"], "orders-listen");
    assert!(due.clone().any(|d| d["rule"].is_null()));
}

#[test]
fn who_is_not_named_has_no_permissions() {
    for name in ["nobody", "Not A Name"] {
        let refused = run(&[name]);
        assert_eq!(refused.status.code(), Some(2), "{name}");
        assert!(refused.stdout.is_empty());
        let refused = run(&[name, "--json"]);
        let told: Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert_eq!(told["ok"], false);
    }
}

#[test]
fn a_moment_can_be_asked_about() {
    let desk = tempfile::tempdir().unwrap();
    let policy = POLICY.replace(
        "on = [\"orders.*\"]\n",
        "on = [\"orders.*\"]\nexpires = \"2027-01-01T00:00:00Z\"\n",
    );
    std::fs::write(desk.path().join("policy.toml"), policy).unwrap();
    for (at, want) in [
        ("2026-12-31T23:59:59Z", true),
        ("2027-01-01T01:00:00+01:00", false),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_bulla"))
            .args([
                "policy",
                "permissions",
                "orders",
                "--policy",
                "policy.toml",
                "--at",
                at,
            ])
            .current_dir(desk.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.contains("orders.* orders"), want, "{at}: {text}");
    }
    assert_eq!(run(&["orders", "--at", "noon"]).status.code(), Some(2));
}
