//! `bulla policy …` as an operator runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const POLICY: &str = r#"version = 1
trust_domain = "shop.example"

[workload.gateway]
attest = [{ nkey = "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6" }]
mints = true

[workload.orders]
attest = [{ nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }]

[subject."orders.create"]
user = "required"

[[allow]]
id = "gateway-creates-orders"
who = ["gateway"]
may = ["request"]
on = ["orders.create"]
user = { scope = "orders:write" }

[[allow]]
id = "orders-serve"
who = ["orders"]
may = ["serve"]
on = ["orders.>"]

[[deny]]
id = "no-secrets"
who = ["orders"]
may = ["serve"]
on = ["orders.secret.>"]
"#;

/// A directory with a policy and two users.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new(policy: &str) -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("policy.toml", policy);
        desk.write(
            "alice.json",
            r#"{"sub": "alice", "scope": "orders:write orders:read"}"#,
        );
        desk.write(
            "bob.json",
            r#"{"sub": "bob", "scope": "orders:read", "email": "bob@example.com"}"#,
        );
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn bulla(&self, args: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_bulla"))
            .arg("policy")
            .args(args)
            .current_dir(self.0.path())
            .env_remove("BULLA_POLICY")
            .env_remove("CLICOLOR_FORCE")
            .output()
            .unwrap();
        Run::from(output)
    }

    fn can_i(&self, args: &[&str]) -> Run {
        self.bulla(&[&["can-i", "--policy", "policy.toml"], args].concat())
    }
}

#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    #[track_caller]
    fn expect(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for words in says {
            let all = format!("{}{}", self.out, self.err);
            assert!(all.contains(words), "no {words:?} in\n{all}");
        }
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

#[test]
fn a_sound_policy_passes_the_check() {
    let desk = Desk::new(POLICY);
    desk.bulla(&["check", "policy.toml"])
        .expect(0, &["ok", "2 workloads, 3 rules", "shop.example"]);
    let json = desk
        .bulla(&["check", "policy.toml", "--json"])
        .expect(0, &[])
        .json();
    assert_eq!(json["ok"], true);
    assert_eq!(json["hash"].as_str().unwrap().len(), 64);
    assert_eq!(json["errors"], Value::Array(vec![]));
}

#[test]
fn the_check_reports_every_error_with_its_place_and_a_remedy() {
    let broken = POLICY
        .replace("mints", "mnts")
        .replace("\"serve\"", "\"perform\"")
        .replace("\"orders.>\"", "\">\"");
    let desk = Desk::new(&broken);
    let run = desk.bulla(&["check", "policy.toml"]).expect(
        2,
        &[
            "--> policy.toml:6:1\n",
            "6 | mnts = true\n",
            "  | ^^^^\n",
            "did you mean `mints`?",
            "--> policy.toml:25:7\n",
            "starts with a wildcard",
            "`perform` is not a verb",
            "policy.toml: 4 errors",
        ],
    );
    assert!(!run.err.contains('\x1b'), "colour without a terminal");
    assert_eq!(run.out, "");

    let json = desk
        .bulla(&["check", "--json", "policy.toml"])
        .expect(2, &[])
        .json();
    let errors = json["errors"].as_array().unwrap();
    let codes: Vec<_> = errors.iter().map(|e| e["code"].as_str().unwrap()).collect();
    assert_eq!(
        codes,
        [
            "unknown_key",
            "unknown_verb",
            "wildcard_first",
            "unknown_verb"
        ]
    );
    assert_eq!(
        (&errors[2]["line"], &errors[2]["column"]),
        (&25.into(), &7.into())
    );
    assert!(
        errors
            .iter()
            .all(|e| !e["remedy"].as_str().unwrap().is_empty())
    );
}

#[test]
fn rules_that_the_server_cannot_hold_side_by_side_fail_the_check() {
    let clash = "[[allow]]\nid = \"deep\"\nwho = [\"gateway\"]\nmay = [\"subscribe\"]\non = [\"a.*\", \"a.b.c\"]\n";
    let desk = Desk::new(&format!("{POLICY}{clash}"));
    desk.bulla(&["check", "policy.toml"])
        .expect(2, &["nats-server would also open `a.*.>`", "rule `deep`"]);
}

#[test]
fn can_i_answers_with_the_rule_that_decides() {
    let desk = Desk::new(POLICY);
    desk.can_i(&[
        "gateway",
        "request",
        "orders.create",
        "--user",
        "alice.json",
    ])
    .expect(
        0,
        &[
            "allow",
            "gateway-creates-orders (policy.toml:15)",
            "with a user",
        ],
    );
    desk.can_i(&["gateway", "request", "orders.create", "--user", "bob.json"])
        .expect(1, &["deny", "gateway-creates-orders", "orders:write"]);
    desk.can_i(&["gateway", "request", "orders.create"])
        .expect(1, &["deny", "demands a user"]);
    desk.can_i(&["orders", "publish", "orders.create"])
        .expect(1, &["deny", "no rule lets"]);
    desk.can_i(&["orders", "serve", "orders.secret.key"])
        .expect(1, &["deny", "no-secrets"]);
    desk.can_i(&["nobody", "publish", "orders.create"])
        .expect(1, &["names no workload", "gateway, orders"]);
    desk.can_i(&["spiffe://shop.example/orders", "serve", "orders.create"])
        .expect(0, &["allow"]);
    desk.can_i(&["spiffe://other.example/orders", "serve", "orders.create"])
        .expect(1, &["deny"]);
}

#[test]
fn can_i_asks_about_listening_with_patterns() {
    let desk = Desk::new(POLICY);
    desk.can_i(&["orders", "serve", "orders.>"])
        .expect(0, &["orders-serve"]);
    desk.can_i(&["orders", "serve", "orders.secret.*"])
        .expect(1, &["no-secrets"]);
    desk.can_i(&["orders", "serve", ">"])
        .expect(1, &["no rule lets"]);
    desk.can_i(&["orders", "subscribe", "$SYS.>"])
        .expect(1, &["belongs to nats-server"]);
    // With a user it is one message, and that has a literal subject.
    desk.can_i(&["orders", "serve", "orders.>", "--user", "alice.json"])
        .expect(2, &["literal subject"]);
    desk.can_i(&["orders", "serve", "orders.create", "--user", "alice.json"])
        .expect(0, &["orders-serve"]);
}

#[test]
fn can_i_speaks_json_without_claim_values() {
    let desk = Desk::new(POLICY);
    let allow = desk
        .can_i(&[
            "gateway",
            "request",
            "orders.create",
            "--user",
            "alice.json",
            "--json",
        ])
        .expect(0, &[])
        .json();
    assert_eq!(allow["decision"], "allow");
    assert_eq!(allow["rule"], "gateway-creates-orders");
    assert_eq!(allow["user"], "alice");
    assert_eq!(allow["requirements"]["user"], "required");
    let run = desk
        .can_i(&[
            "gateway",
            "request",
            "orders.create",
            "--user",
            "bob.json",
            "--json",
        ])
        .expect(1, &[]);
    let deny = run.json();
    assert_eq!(deny["decision"], "deny");
    assert_eq!(deny["reason"], "condition_failed");
    assert_eq!(deny["condition"]["claim"], "scope");
    assert!(!run.out.contains("bob@example.com"));
}

#[test]
fn can_i_lists_grants() {
    let desk = Desk::new(POLICY);
    let run = desk
        .can_i(&["orders", "--list"])
        .expect(0, &["orders.>", "orders-serve", "no-secrets"]);
    assert_eq!(run.out.lines().count(), 2);
    let json = desk
        .can_i(&["gateway", "--list", "--json"])
        .expect(0, &[])
        .json();
    assert_eq!(json["grants"][0]["conditional"], true);
    desk.can_i(&["nobody", "--list"])
        .expect(2, &["it has gateway, orders"]);
}

#[test]
fn bad_input_is_one_clear_sentence_and_code_2() {
    let desk = Desk::new(POLICY);
    desk.write("list.json", "[1]");
    desk.write("latin1.toml", b"# caf\xe9");
    desk.write("long.toml", vec![b'#'; (16 << 20) + 1]);
    for (args, says) in [
        (
            &["check", "absent.toml"][..],
            "cannot read the policy `absent.toml`",
        ),
        (&["check", "latin1.toml"], "not UTF-8 text (byte 5)"),
        (&["check", "long.toml"], "longer than 16777216 bytes"),
        (
            &["can-i", "orders", "fly", "x"],
            "the verbs are publish, subscribe, request, serve",
        ),
        (&["can-i", "orders", "publish"], "<SUBJECT>"),
        (
            &["can-i", "Orders", "publish", "x", "--policy", "policy.toml"],
            "`Orders` is no workload",
        ),
        (
            &[
                "can-i",
                "orders",
                "publish",
                "a..b",
                "--policy",
                "policy.toml",
            ],
            "`a..b` is no subject",
        ),
        (
            &[
                "can-i",
                "orders",
                "publish",
                "a.*",
                "--policy",
                "policy.toml",
            ],
            "literal subject",
        ),
        (
            &[
                "can-i",
                "orders",
                "publish",
                "a",
                "--policy",
                "policy.toml",
                "--user",
                "list.json",
            ],
            "not a JSON object",
        ),
        (
            &[
                "can-i",
                "orders",
                "publish",
                "a",
                "--policy",
                "policy.toml",
                "--user",
                "absent.json",
            ],
            "cannot read the claims",
        ),
        (&["can-i", "orders", "publish", "a"], ".bulla/policy.toml"),
    ] {
        let run = desk.bulla(args).expect(2, &[says]);
        assert!(!run.err.contains("panicked"), "{run:?}");
    }
}

#[test]
fn the_policy_is_found_without_being_named() {
    let desk = Desk::new(POLICY);
    std::fs::create_dir(desk.path(".bulla")).unwrap();
    desk.write(".bulla/policy.toml", POLICY);
    desk.bulla(&["can-i", "orders", "serve", "orders.create"])
        .expect(0, &["allow"]);
    desk.bulla(&["check"]).expect(0, &["ok"]);
}

#[test]
fn help_teaches_by_example() {
    let desk = Desk::new(POLICY);
    desk.bulla(&["--help"]).expect(0, &["check", "can-i"]);
    desk.bulla(&["check", "--help"])
        .expect(0, &["bulla policy check shop.toml"]);
    desk.bulla(&["can-i", "--help"]).expect(
        0,
        &[
            "--as-user alice.json",
            "Exit code: 0 allow, 1 deny, 2 no answer",
        ],
    );
}

#[test]
fn check_warns_of_a_window_that_a_queue_group_shares_and_still_says_ok() {
    let policy = POLICY.replace(
        "user = \"required\"",
        "user = \"required\"\nreplay = \"window\"",
    );
    let desk = Desk::new(&policy);
    let run = desk.bulla(&["check", "policy.toml"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.err
            .contains("in a queue group of n replicas this alone would allow n executions"),
        "{run:?}"
    );
    assert!(run.err.contains("policy.toml:11"), "{run:?}");
    let run = desk.bulla(&["check", "policy.toml", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let answer: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(answer["lints"][0]["code"], "window_in_queue_group");
    assert_eq!(answer["lints"][0]["line"], 11);
    assert!(run.err.is_empty(), "{run:?}");
}
