//! `bulla policy fmt`, `schema`, `graph` and `import`: what helps people write policies.

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
fn fmt_takes_the_files_of_a_directory() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("policy.d")).unwrap();
    desk.write("policy.d/a.toml", UNTIDY);
    desk.write("policy.d/.hidden.toml", UNTIDY);
    desk.write("policy.d/notes.txt", UNTIDY);
    assert_eq!(desk.bulla(&["fmt", "policy.d"]).code, 0);
    assert_eq!(desk.read("policy.d/a.toml"), TIDY);
    assert_eq!(desk.read("policy.d/.hidden.toml"), UNTIDY);
    assert_eq!(desk.read("policy.d/notes.txt"), UNTIDY);
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

const NATS: &str = r#"
authorization {
  users = [
    {user: shop, password: x, permissions: {publish: ["orders.create", ">"], subscribe: "_INBOX.>"}}
    {user: orders, password: y, permissions: {subscribe: "orders.>", allow_responses: true}}
  ]
}
"#;

#[test]
fn import_writes_a_policy_that_loads_and_says_what_is_missing() {
    let desk = Desk::new();
    desk.write("nats.conf", NATS);
    let run = desk.bulla(&[
        "import",
        "nats.conf",
        "--domain",
        "acme.example",
        "-o",
        "p.toml",
    ]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(
        run.err.contains("left out nats.conf:4, user shop: >"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("note nats.conf:4, user shop: _INBOX.>"),
        "{}",
        run.err
    );
    assert!(run.out.contains("p.toml: 2 workloads"), "{}", run.out);
    let check = desk.bulla(&["check", "p.toml", "--json"]).json();
    let codes: Vec<_> = check["lints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        codes.iter().filter(|c| **c == "placeholder_key").count(),
        2,
        "{codes:?}"
    );
    assert_eq!(desk.bulla(&["fmt", "--check", "p.toml"]).code, 0);
    let ask = desk.bulla(&[
        "can-i",
        "shop",
        "request",
        "orders.create",
        "--policy",
        "p.toml",
    ]);
    assert_eq!(ask.code, 0, "{}", ask.out);

    let json = desk
        .bulla_reading(
            &[
                "import",
                "-",
                "--domain",
                "acme.example",
                "--json",
                "--root",
                "stock",
            ],
            NATS,
        )
        .json();
    assert_eq!(json["workloads"][0]["workload"], "shop");
    assert!(json["policy"].as_str().unwrap().contains("\"stock.>\""));
    assert_eq!(json["left_out"][1]["code"], "wildcard_first");
}

#[test]
fn import_gives_no_terminal_what_the_source_hides() {
    let desk = Desk::new();
    desk.write(
        "nats.conf",
        "users: [{user: \"a\u{1b}[31m\", password: x, permissions: {publish: [\"b\u{1b}[31m\", \"c\"]}}]",
    );
    let run = desk.bulla(&["import", "nats.conf", "--domain", "acme.example"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(!run.err.contains('\u{1b}') && !run.out.contains('\u{1b}'));
}

#[test]
fn import_refuses_what_has_no_users() {
    let desk = Desk::new();
    desk.write("nats.conf", "listen: 4222\n");
    let run = desk.bulla(&["import", "nats.conf", "--domain", "acme.example"]);
    assert_eq!(run.code, 2);
    assert!(
        run.err.contains("nats.conf: there are no users in it"),
        "{}",
        run.err
    );
    desk.write("nats.conf", "a = [\n");
    let run = desk.bulla(&["import", "nats.conf", "--domain", "acme.example"]);
    assert!(
        run.err.contains("line 2: a `[` is never closed"),
        "{}",
        run.err
    );
    assert_eq!(desk.bulla(&["import", "nats.conf"]).code, 2);
}

#[test]
fn graph_draws_in_every_format() {
    let desk = Desk::new();
    desk.write("nats.conf", NATS);
    desk.bulla(&[
        "import",
        "nats.conf",
        "--domain",
        "acme.example",
        "-o",
        "p.toml",
    ]);
    let dot = desk.bulla(&["graph", "p.toml"]);
    assert!(
        dot.out.starts_with("digraph") && dot.out.contains("\"shop\" ->"),
        "{}",
        dot.out
    );
    for (file, start) in [("g.svg", "<svg"), ("g.html", "<!doctype html>")] {
        let run = desk.bulla(&["graph", "p.toml", "-o", file]);
        assert_eq!(run.code, 0, "{}", run.err);
        assert!(run.out.contains("2 workloads"), "{}", run.out);
        assert!(desk.read(file).starts_with(start));
    }
    let svg = desk.bulla(&["graph", "p.toml", "-f", "svg"]);
    assert_eq!(svg.out, desk.read("g.svg"));
    let json = desk.bulla(&["graph", "p.toml", "--json"]).json();
    assert_eq!(json["workloads"], serde_json::json!(["orders", "shop"]));
    assert_eq!(json["channels"][0]["from"][0], "shop");
    assert_eq!(
        desk.bulla(&["graph", "p.toml", "-o", "no/such/place.svg"])
            .code,
        2
    );
}

#[test]
fn schema_is_one_that_editors_read() {
    let desk = Desk::new();
    let schema = desk.bulla(&["schema"]).json();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    let codes = schema["definitions"]["lint_codes"]["items"]["oneOf"]
        .as_array()
        .unwrap();
    assert!(codes.iter().any(|c| c["const"] == "shadowed_rule"));
    // The line that names it is a comment to everybody else.
    desk.write("p.toml", &format!("#:schema ./policy.schema.json\n{TIDY}"));
    assert_eq!(desk.bulla(&["check", "p.toml"]).code, 0);
    assert_eq!(desk.bulla(&["fmt", "--check", "p.toml"]).code, 0);
}
