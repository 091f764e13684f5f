//! `bulla trust …` and `bulla policy sign` as an operator runs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

const POLICY: &str = "version = 1\ntrust_domain = \"acme.example\"\n";

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

    fn started() -> Self {
        let desk = Self::new();
        desk.trust(&["init", "--domain", "acme.example"]).good();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn bulla(&self, args: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_bulla"))
            .args(args)
            .current_dir(self.0.path())
            .env_remove("BULLA_TRUST_DIR")
            .output()
            .unwrap();
        Run {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn trust(&self, args: &[&str]) -> Run {
        self.bulla(&[&["trust"], args].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        let run = self.trust(&[args, &["--json"]].concat());
        serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {}", run.out))
    }

    fn pins(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("trust/root.pub")).unwrap();
        let keys = text.lines().filter(|line| !line.starts_with('#'));
        keys.map(str::to_owned).collect()
    }
}

impl Run {
    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn fails(self, says: &str) {
        assert_eq!(self.code, 2, "{}{}", self.out, self.err);
        assert!(self.err.contains(says), "{}", self.err);
        assert!(self.out.is_empty(), "{}", self.out);
    }
}

#[test]
fn a_life_of_keys_from_the_first_to_the_last() {
    let desk = Desk::started();
    let first = desk.json(&["show"]);
    assert_eq!(first["ok"], true, "{first:#}");
    assert_eq!(first["version"], 1);
    assert_eq!(first["issuing"][0]["broker"], "broker");
    std::fs::write(desk.path("policy.toml"), POLICY).unwrap();
    desk.bulla(&["policy", "sign", "policy.toml"]).good();

    let rotated = desk.json(&["rotate-issuer"]);
    assert_eq!(rotated["version"], 2);
    let created = rotated["created"][0].as_str().unwrap();
    assert!(created.ends_with("issuing/broker/2.key"), "{created}");
    assert_eq!(desk.json(&["show"])["issuing"].as_array().unwrap().len(), 2);

    let rotated = desk.json(&["rotate-policy-key"]);
    assert_eq!(rotated["policy_revision"], 2);
    assert_eq!(
        desk.json(&["show"])["policy_keys"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let finished = desk.json(&["rotate-policy-key", "--finish"]);
    assert!(
        finished["obsolete"][0]
            .as_str()
            .unwrap()
            .ends_with("policy-1.key")
    );

    let old = desk.pins();
    desk.trust(&["rotate-root"]).good();
    let both = desk.pins();
    assert_eq!(both.len(), 2);
    assert_eq!(both[1], old[0]);
    let shown = desk.json(&["show"]);
    assert_eq!(shown["root"].as_str().unwrap(), both[0]);
    assert_eq!(shown["former_roots"][0].as_str().unwrap(), both[1]);
    desk.trust(&["rotate-root", "--finish"]).good();
    assert_eq!(desk.pins(), [both[0].clone()]);

    let shown = desk.json(&["show"]);
    assert_eq!(shown["version"], 6);
    assert_eq!(shown["ok"], true, "{shown:#}");
    assert_eq!(shown["policy"]["revision"], 2);
    assert_eq!(shown["policy"]["is_vouched"], true);
    for key in ["root-1.key", "root-2.key", "policy-2.key"] {
        let mode = desk.path("trust").join(key).metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn show_says_what_ends_soon() {
    let desk = Desk::started();
    let run = desk.trust(&["show"]).good();
    assert!(!run.out.contains("warning"), "{}", run.out);
    let run = desk.trust(&["show", "--within", "8d"]);
    assert_eq!(run.code, 1);
    assert!(
        run.out.contains("the issuing key of `broker` ends in"),
        "{}",
        run.out
    );
    assert!(run.out.contains("bulla trust sign"), "{}", run.out);
    // A bundle that somebody changed is no bundle.
    let path = desk.path("trust/bundle");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    desk.trust(&["show"]).fails("the signature does not verify");
}

/// The root in a file of its own, and `openssl` in its place: nothing of Bulla's
/// holds it.
#[test]
fn a_command_may_hold_the_root_and_the_policy_key() {
    let desk = Desk::new();
    let openssl = |args: &[&str]| {
        let run = Command::new("openssl")
            .args(args)
            .current_dir(desk.0.path())
            .output();
        let run = run.expect("openssl, which signs in this test");
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
    };
    for key in ["root", "policy"] {
        openssl(&[
            "genpkey",
            "-algorithm",
            "ed25519",
            "-out",
            &format!("{key}.pem"),
        ]);
        openssl(&[
            "pkey",
            "-in",
            &format!("{key}.pem"),
            "-pubout",
            "-out",
            &format!("{key}.pub"),
        ]);
    }
    // It signs files only.
    let sign = |key: &str| {
        format!(
            "f=$(mktemp) && cat > $f && openssl pkeyutl -sign -rawin -inkey {key}.pem -in $f && rm $f"
        )
    };
    desk.trust(&[
        "init",
        "--domain",
        "acme.example",
        "--root-sign-with",
        &sign("root"),
        "--root-public",
        "@root.pub",
        "--policy-sign-with",
        &sign("policy"),
        "--policy-public",
        "@policy.pub",
    ])
    .good();
    for held in ["root-1.key", "policy-1.key"] {
        assert!(!desk.path("trust").join(held).exists(), "{held}");
    }
    std::fs::write(desk.path("policy.toml"), POLICY).unwrap();
    desk.bulla(&["policy", "sign", "policy.toml"]).good();
    desk.trust(&["sign"]).good();
    desk.trust(&["rotate-root"]).good();
    let shown = desk.json(&["show"]);
    assert_eq!((&shown["ok"], &shown["version"]), (&true.into(), &3.into()));
    // A command that signs with another key is caught.
    let desk = Desk::started();
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "other.pem"]);
    let manifest = desk.path("trust/trust.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace(
        "key = \"root-1.key\"",
        "sign_with = \"head -c 64 /dev/zero\"",
    );
    std::fs::write(&manifest, text).unwrap();
    desk.trust(&["sign"])
        .fails("does not verify under the public key that is expected");
}

#[test]
fn what_is_wrong_is_told_and_nothing_is_done() {
    let desk = Desk::started();
    let before = std::fs::read(desk.path("trust/bundle")).unwrap();
    desk.trust(&["init", "--domain", "acme.example"])
        .fails("has a `trust.toml` already");
    desk.trust(&["show", "--dir", "nowhere"])
        .fails("bulla trust init");
    desk.trust(&["sign", "--life", "1s"]).fails("from an hour");
    desk.trust(&["sign", "--drop", "rubbish"])
        .fails("not a public key");
    desk.trust(&["rotate-issuer", "--broker", "../east"])
        .fails("no broker's name");
    desk.trust(&["rotate-root", "--sign-with", "true"])
        .fails("--public");
    std::fs::write(desk.path("bad.toml"), "version = 2").unwrap();
    desk.bulla(&["policy", "sign", "bad.toml"]).fails("error");
    std::fs::write(desk.path("other.toml"), POLICY.replace("acme", "evil")).unwrap();
    desk.bulla(&["policy", "sign", "other.toml"])
        .fails("not for the trust domain `acme.example`");
    assert_eq!(std::fs::read(desk.path("trust/bundle")).unwrap(), before);
    let failed = desk.json(&["show", "--dir", "nowhere"]);
    assert_eq!(failed["ok"], false);
    assert!(failed["error"].as_str().unwrap().contains("trust.toml"));
}

#[test]
fn a_broker_makes_its_own_key() {
    let desk = Desk::started();
    let made = desk.trust(&["key", "issuing", "--out", "own.key"]).good();
    let mode = desk.path("own.key").metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    desk.trust(&["key", "issuing", "--out", "own.key"])
        .fails("cannot create the secret file");
    let public = made.out.trim();
    desk.trust(&["rotate-issuer", "--broker", "west", "--public", public])
        .good();
    let shown = desk.json(&["show"]);
    let named = shown["issuing"].as_array().unwrap();
    assert!(
        named
            .iter()
            .any(|key| key["key"] == public && key["broker"] == "west")
    );
}

#[test]
fn help_teaches_with_examples() {
    let desk = Desk::new();
    for command in [
        "init",
        "show",
        "sign",
        "rotate-root",
        "rotate-issuer",
        "rotate-policy-key",
        "key",
    ] {
        let run = desk.trust(&[command, "--help"]).good();
        assert!(run.out.contains("Examples:"), "{command}");
        assert!(run.out.contains("Exit code:"), "{command}");
    }
}
