//! `bulla policy fmt`: what helps people write policies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

const UNTIDY: &str = "version=1 # ours\ntrust_domain='shop.example'\n[workload.a]\nattest=[{nkey='UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6'}]\n";
const TIDY: &str = "version = 1 # ours\ntrust_domain = \"shop.example\"\n\n[workload.a]\nattest = [{ nkey = \"UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6\" }]\n";

struct Desk(tempfile::TempDir);

struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
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

    fn bulla(&self, args: &[&str]) -> Run {
        self.bulla_reading(args, "")
    }

    fn bulla_reading(&self, args: &[&str], input: &str) -> Run {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bulla"))
            .arg("policy")
            .args(args)
            .current_dir(self.0.path())
            .env_remove("BULLA_POLICY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.err))
    }
}

#[test]
fn fmt_writes_in_place_once() {
    let desk = Desk::new();
    desk.write("p.toml", UNTIDY);
    let run = desk.bulla(&["fmt", "p.toml"]);
    assert_eq!((run.code, desk.read("p.toml").as_str()), (0, TIDY));
    assert!(run.out.contains("formatted"), "{}", run.out);
    let again = desk.bulla(&["fmt", "p.toml"]);
    assert_eq!((again.code, again.out.as_str()), (0, ""));
}

#[test]
fn fmt_check_writes_nothing_and_says_where() {
    let desk = Desk::new();
    desk.write("p.toml", UNTIDY);
    desk.write("q.toml", TIDY);
    let run = desk.bulla(&["fmt", "--check", "p.toml", "q.toml"]);
    assert_eq!(run.code, 1);
    assert!(
        run.err
            .contains("p.toml: the first difference is in line 1"),
        "{}",
        run.err
    );
    assert!(!run.err.contains("q.toml"), "{}", run.err);
    assert_eq!(desk.read("p.toml"), UNTIDY);
    let json = desk
        .bulla(&["fmt", "--check", "--json", "p.toml", "q.toml"])
        .json();
    assert_eq!(json["ok"], false);
    assert_eq!(json["files"][0]["formatted"], false);
    assert_eq!(json["files"][1]["formatted"], true);
}

#[test]
fn fmt_reads_standard_input() {
    let desk = Desk::new();
    let run = desk.bulla_reading(&["fmt", "-"], UNTIDY);
    assert_eq!((run.code, run.out.as_str()), (0, TIDY));
    assert_eq!(desk.bulla_reading(&["fmt", "--check", "-"], UNTIDY).code, 1);
    assert_eq!(desk.bulla_reading(&["fmt", "--check", "-"], TIDY).code, 0);
}

#[test]
fn fmt_leaves_what_it_cannot_read() {
    let desk = Desk::new();
    desk.write("p.toml", "version = 1\nx = [");
    let run = desk.bulla(&["fmt", "p.toml"]);
    assert_eq!(run.code, 2);
    assert!(
        run.err.contains("p.toml:2: the text is not TOML"),
        "{}",
        run.err
    );
    assert_eq!(desk.read("p.toml"), "version = 1\nx = [");
    assert_eq!(desk.bulla(&["fmt", "missing.toml"]).code, 2);
}
