//! `bulla policy diff` as an operator runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::process::{Command, Output};

use serde_json::Value;

const OLD: &str = r#"version = 1
trust_domain = "shop.example"

[workload.gateway]
attest = [{ nkey = "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6" }]
mints = true

[workload.orders]
attest = [{ nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }]

[subject."orders.>"]
user = "required"

[[allow]]
id = "edge"
who = ["gateway"]
may = ["request"]
on = ["orders.create"]
user = { scope = "orders:write" }

[[allow]]
id = "orders-serve"
who = ["orders"]
may = ["serve"]
on = ["orders.create"]
"#;

fn diff(old: &str, new: &str, more: &[&str]) -> Output {
    let desk = tempfile::tempdir().unwrap();
    std::fs::write(desk.path().join("old.toml"), old).unwrap();
    std::fs::write(desk.path().join("new.toml"), new).unwrap();
    Command::new(env!("CARGO_BIN_EXE_bulla"))
        .args(["policy", "diff", "old.toml", "new.toml"])
        .args(more)
        .current_dir(desk.path())
        .env_remove("BULLA_POLICY")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn what_means_the_same_is_no_difference() {
    let same = diff(OLD, OLD, &[]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    assert!(text(&same).contains("the same text"));
    let renamed = OLD.replace("\"edge\"", "\"the-edge\"") + "\n[group]\nall = [\"orders\"]\n";
    let same = diff(OLD, &renamed, &[]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    assert!(
        text(&same).contains("no decision differs"),
        "{}",
        text(&same)
    );
}

#[test]
fn each_change_is_told_with_its_rule_and_an_example() {
    let new = OLD
        .replace("\"orders:write\"", "[\"orders:write\", \"orders:admin\"]")
        .replace("on = [\"orders.create\"]\n\"", "")
        .replace(
            "user = \"required\"",
            "user = \"required\"\nprotect = \"encrypted\"",
        )
        + r#"
[[allow]]
id = "edge-reads"
who = ["gateway"]
may = ["request"]
on = ["orders.{id}.get"]
"#;
    let out = diff(OLD, &new, &[]);
    let shown = text(&out);
    assert_eq!(out.status.code(), Some(1), "{shown}");
    for want in [
        "< request    orders.create",
        "was  when scope holds \"orders:write\"",
        "now  when scope holds \"orders:write\" and \"orders:admin\"",
        "e.g. orders.create with {\"scope\":\"orders:write\"}: denied now",
        "+ request    orders.*.get",
        "rule edge-reads (allow, line",
        "~ orders.>",
        "protect    signed → encrypted",
        "concerns gateway, orders",
        "1 right gained, 1 narrowed, 1 requirement changed",
    ] {
        assert!(shown.contains(want), "no `{want}` in\n{shown}");
    }

    let out = diff(OLD, &new, &["--json"]);
    assert_eq!(out.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["same"], false);
    assert_eq!(json["complete"], true);
    let gained = json["rights"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["change"] == "gained")
        .unwrap();
    assert_eq!(gained["workloads"][0], "gateway");
    assert_eq!(gained["verbs"][0], "request");
    assert_eq!(gained["subjects"][0]["pattern"], "orders.*.get");
    let example = &gained["subjects"][0]["examples"][0];
    assert_eq!(example["decision"], "allow");
    assert_eq!(gained["subjects"][0]["tokens"], serde_json::json!([]));
    assert_eq!(example["subject"], "orders.x.get");
    assert!(gained["before"].is_null());
    assert_eq!(json["requirements"][0]["keys"][0]["key"], "protect");
}

#[test]
fn a_policy_that_does_not_load_is_no_answer() {
    let out = diff(OLD, "version = 2", &[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out).contains("new.toml:1:1"), "{}", text(&out));
    let out = diff(OLD, "version = 2", &["--json"]);
    assert_eq!(out.status.code(), Some(2));
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["ok"], false);
}

#[test]
fn the_help_teaches() {
    let out = Command::new(env!("CARGO_BIN_EXE_bulla"))
        .args(["policy", "diff", "--help"])
        .output()
        .unwrap();
    let help = text(&out);
    for want in ["Examples:", "Exit code: 0", "--json", "exact"] {
        assert!(help.contains(want), "{help}");
    }
}
