//! `bulla identity …` as an operator runs it, on policies in files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write(
            "policy.toml",
            "version = 1\ntrust_domain = \"acme.example\"\n",
        );
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn identity(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_bulla"))
            .arg("identity")
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(text).unwrap(),
        )
    }

    fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, text) = self.identity(&[args, &["--json"]].concat());
        let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: {text}"));
        (code, value)
    }
}

const POLICY: [&str; 2] = ["--policy", "policy.toml"];

#[test]
fn a_key_is_made_shown_replaced_and_dropped() {
    let desk = Desk::new();
    let (code, made) = desk.json(&[&["new", "orders"][..], &POLICY].concat());
    assert_eq!(code, 0, "{made}");
    let first = made["nkey"].as_str().unwrap().to_owned();
    let file = desk.path("orders.nk");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);

    let (code, seen) = desk.json(&[&["show", "orders"][..], &POLICY].concat());
    assert_eq!(code, 0, "{seen}");
    assert_eq!(seen["id"], "spiffe://acme.example/orders");
    assert_eq!(seen["nkeys"][0]["nkey"], first.as_str());
    let (code, seen) = desk.json(&[&["show", "--key", "orders.nk"][..], &POLICY].concat());
    assert_eq!((code, &seen["workload"]), (0, &"orders".into()));
    assert_eq!(
        desk.json(&[&["show", "billing"][..], &POLICY].concat()).0,
        1
    );

    let (code, next) = desk.json(&[&["rotate", "orders"][..], &POLICY].concat());
    assert_eq!((code, &next["file"]), (0, &"orders-2.nk".into()));
    let second = next["nkey"].as_str().unwrap().to_owned();
    let text = desk.read("policy.toml");
    assert!(text.contains(&first) && text.contains(&second), "{text}");
    let (_, list) = desk.json(&[&["list"][..], &POLICY].concat());
    assert_eq!(list["workloads"][0]["nkeys"].as_array().unwrap().len(), 2);

    let finish = ["rotate", "orders", "--finish", "--seed-file", "orders-2.nk"];
    let (code, done) = desk.json(&[&finish[..], &POLICY].concat());
    assert_eq!((code, &done["removed"][0]), (0, &first.as_str().into()));
    let text = desk.read("policy.toml");
    assert!(!text.contains(&first) && text.contains(&second), "{text}");
    // The last key does not leave.
    let finish = ["rotate", "orders", "--finish", "--seed-file", "orders.nk"];
    let (code, text) = desk.identity(&[&finish[..], &POLICY].concat());
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("does not list the key"), "{text}");
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let desk = Desk::new();
    desk.identity(&[&["new", "orders"][..], &POLICY].concat());
    let before = desk.read("policy.toml");
    for (args, says) in [
        (
            &["new", "orders", "--out", "b.nk", "--policy", "policy.toml"][..],
            "already",
        ),
        (&["new", "Orders"], "no workload's name"),
        (&["new", "billing", "--out", "orders.nk"], "cannot create"),
        (
            &["new", "billing", "--out", "b.nk", "--policy", "."],
            "is a directory",
        ),
        (
            &["rotate", "billing", "--policy", "policy.toml"],
            "names no workload",
        ),
        (
            &["rotate", "orders", "--policy", "gone.toml"],
            "cannot read",
        ),
    ] {
        let (code, text) = desk.identity(args);
        assert_eq!(code, 2, "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
    assert_eq!(desk.read("policy.toml"), before);
    assert!(!desk.path("b.nk").exists());
    assert!(!desk.path("orders-2.nk").exists());

    // Its `attest` is written in a way that is not changed as text.
    let table = before
        .replace("attest = [{ nkey", "attest = [{\n nkey")
        .replace(" }]", "\n}]");
    let table = table.replace("[{\n nkey", "[[workload.x]]\n nkey");
    desk.write("other.toml", &table);
    let (code, _) = desk.identity(&["rotate", "orders", "--policy", "other.toml"]);
    assert_eq!(code, 2);
    assert!(!desk.path("orders-2.nk").exists());
}

#[test]
fn a_seed_that_others_can_read_is_refused() {
    let desk = Desk::new();
    desk.identity(&[&["new", "orders"][..], &POLICY].concat());
    let wide = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(desk.path("orders.nk"), wide).unwrap();
    let (code, text) = desk.identity(&[&["show", "--key", "orders.nk"][..], &POLICY].concat());
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("chmod 600"), "{text}");
    assert!(!text.contains("SU"), "{text}");
}

#[test]
fn a_policy_of_several_files_is_changed_where_the_key_stands() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("policies")).unwrap();
    let head = "version = 1\ntrust_domain = \"acme.example\"\n";
    desk.write("policies/a.toml", head);
    let (_, made) = desk.json(&["new", "orders"]);
    let nkey = made["nkey"].as_str().unwrap();
    desk.write(
        "policies/orders.toml",
        &format!("version = 1\n[workload.orders]\nattest = [{{ nkey = \"{nkey}\" }}]\n"),
    );
    let (code, next) = desk.json(&["rotate", "orders", "--policy", "policies"]);
    assert_eq!(code, 0, "{next}");
    assert_eq!(desk.read("policies/a.toml"), head);
    let (_, seen) = desk.json(&["show", "orders", "--policy", "policies"]);
    assert_eq!(seen["nkeys"].as_array().unwrap().len(), 2, "{seen}");
}
