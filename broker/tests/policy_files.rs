//! Policies of several files on the command line (POL-8, POL-9).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const SHOP: &str = r#"version = 1
trust_domain = "shop.example"
[workload.orders]
attest = [{ nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }]
"#;

const TEAM: &str = r#"version = 1
[[allow]]
id = "orders-serve"
who = ["orders"]
may = ["serve"]
on = ["orders.>"]
"#;

fn bulla(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulla"))
        .arg("policy")
        .args(args)
        .current_dir(dir)
        .env_remove("BULLA_POLICY")
        .env_remove("CLICOLOR_FORCE")
        .output()
        .unwrap()
}

fn desk(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("policy.d")).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join("policy.d").join(name), text).unwrap();
    }
    dir
}

#[test]
fn a_directory_is_one_policy() {
    let dir = desk(&[
        ("shop.toml", SHOP),
        ("orders.toml", TEAM),
        ("README.md", "no policy"),
        (".swap.toml", "no policy"),
    ]);
    let check = bulla(dir.path(), &["check", "policy.d", "--json"]);
    let answer: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(
        (check.status.code(), &answer["rules"]),
        (Some(0), &1.into())
    );
    let ask = [
        "can-i", "orders", "serve", "orders.x", "--policy", "policy.d",
    ];
    assert_eq!(bulla(dir.path(), &ask).status.code(), Some(0));
}

#[test]
fn an_error_names_its_file_and_what_two_files_declare_both() {
    let twice = format!("{SHOP}\n[group]\nx = [\"nobody\"]\n");
    let dir = desk(&[("shop.toml", SHOP), ("a.toml", &twice)]);
    let check = bulla(dir.path(), &["check", "policy.d"]);
    let told = String::from_utf8(check.stderr).unwrap();
    assert_eq!(check.status.code(), Some(2));
    assert!(told.contains("--> policy.d/a.toml:7:6\n"), "{told}");
    assert!(told.contains("--> policy.d/shop.toml:3:11\n"), "{told}");
    assert!(
        told.contains("declared already, in line 3 of a.toml"),
        "{told}"
    );
}

#[test]
fn a_directory_without_a_policy_is_told() {
    let dir = desk(&[("README.md", "")]);
    let check = bulla(dir.path(), &["check", "policy.d"]);
    assert_eq!(check.status.code(), Some(2));
    let told = String::from_utf8(check.stderr).unwrap();
    assert!(told.contains("holds no policy"), "{told}");
}
