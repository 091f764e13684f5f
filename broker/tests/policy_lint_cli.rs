//! `bulla policy check`: lints, as an operator and as CI see them.

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

[workload.web]
attest = [{ nkey = "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6" }]

[workload.idle]
attest = [{ nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }]

[[allow]]
id = "orders"
who = ["web"]
may = ["request", "serve"]
on = ["orders.>"]
expires = 2030-01-01T00:00:00Z
"#;

fn bulla(args: &[&str], policy: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.toml"), policy).unwrap();
    Command::new(env!("CARGO_BIN_EXE_bulla"))
        .args(["policy", "check"])
        .args(args)
        .current_dir(dir.path())
        .env_remove("BULLA_POLICY")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_lint_shows_its_place_and_changes_no_exit_code() {
    let run = bulla(&["p.toml", "--at", "2029-01-01T00:00:00Z"], POLICY);
    assert_eq!(run.status.code(), Some(0));
    let said = text(&run.stderr);
    for line in [
        "lint[unused_workload]: no rule names the workload `idle`",
        " --> p.toml:7:11",
        "7 | [workload.idle]",
        "  |           ^^^^",
        "  = take it out, or write a rule for it",
    ] {
        assert!(said.lines().any(|l| l == line), "{line}\n{said}");
    }
    let out = text(&run.stdout);
    assert!(
        out.contains("2 workloads, 1 rule, trust domain shop.example, 1 lint"),
        "{out}"
    );
    assert!(out.contains("--explain unused_workload"), "{out}");
}

#[test]
fn ci_denies_all_or_some() {
    let code = |args: &[&str]| bulla(args, POLICY).status.code();
    assert_eq!(code(&["p.toml", "--deny-lints"]), Some(1));
    assert_eq!(code(&["p.toml", "-D", "unused_workload"]), Some(1));
    assert_eq!(code(&["p.toml", "-D", "over_broad"]), Some(0));
    assert_eq!(code(&["p.toml", "-D", "unused_worklod"]), Some(2));
    let late = [
        "p.toml",
        "-D",
        "expired_rule",
        "--at",
        "2031-01-01T00:00:00Z",
    ];
    assert_eq!(code(&late), Some(1));
    let quiet = POLICY.to_owned() + "[lint]\nallow = [\"unused_workload\"]\n";
    let run = bulla(
        &["p.toml", "--deny-lints", "--at", "2029-01-01T00:00:00Z"],
        &quiet,
    );
    assert_eq!(run.status.code(), Some(0), "{run:?}");
    assert!(text(&run.stdout).contains("1 allowed"));
}

#[test]
fn json_has_places_and_verdicts() {
    let run = bulla(
        &[
            "p.toml",
            "--json",
            "-D",
            "unused_workload",
            "--at",
            "2029-12-30T00:00:00Z",
        ],
        POLICY,
    );
    assert_eq!(run.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    let lint = |at: usize| &answer["lints"][at];
    assert_eq!(
        (&lint(0)["code"], &lint(0)["denied"]),
        (&"unused_workload".into(), &true.into())
    );
    assert_eq!(
        (&lint(0)["line"], &lint(0)["column"]),
        (&7.into(), &11.into())
    );
    assert_eq!(
        (&lint(1)["code"], &lint(1)["denied"]),
        (&"expires_soon".into(), &false.into())
    );
    assert_eq!(lint(1)["file"], "p.toml");
    assert_eq!(answer["lints"].as_array().unwrap().len(), 2);
}

#[test]
fn codes_are_listed_and_explained() {
    let list = text(&bulla(&["--lints"], "").stdout);
    assert!(list.lines().count() >= 18, "{list}");
    assert!(
        list.contains("shadowed_rule           a rule says nothing"),
        "{list}"
    );
    let all: Value = serde_json::from_slice(&bulla(&["--lints", "--json"], "").stdout).unwrap();
    for lint in all["lints"].as_array().unwrap() {
        let code = lint["code"].as_str().unwrap();
        let run = bulla(&["--explain", code], "");
        assert_eq!(run.status.code(), Some(0));
        let said = text(&run.stdout);
        assert!(
            said.starts_with(code) && said.contains("allow_lint"),
            "{said}"
        );
    }
}
