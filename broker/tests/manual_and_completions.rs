//! `bulla man` and `bulla completions`, as shells and readers use them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::Path;
use std::process::{Command, Output};

fn bulla(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulla"))
        .args(args)
        .output()
        .unwrap()
}

fn script(shell: &str) -> String {
    let output = bulla(&["completions", shell]);
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a shell is on this machine; that it is not is said in one line.
fn has(shell: &str) -> bool {
    let there = Command::new(shell).arg("--version").output().is_ok();
    if !there {
        println!("not tried: `{shell}` is not installed");
    }
    there
}

#[test]
fn every_command_has_a_page_and_the_pages_teach() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let output = bulla(&["man", pages.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap();
    for (name, words) in [
        ("bulla.1", "Sealed messages for NATS"),
        ("bulla-policy.1", "bulla\\-policy\\-check(1)"),
        ("bulla-policy-check.1", "Exit code:"),
        ("bulla-policy-can-i.1", "alice.json"),
        ("bulla-policy-fmt.1", "\\-\\-check"),
        ("bulla-trust-init.1", "\\-\\-domain"),
        ("bulla-man.1", "man \\-l \\-"),
    ] {
        let text = page(name);
        assert!(text.contains(".TH bulla"), "{name}");
        assert!(text.contains(words), "{name}: {text}");
    }
    // What is hidden from --help has no page.
    assert!(!pages.join("bulla-dev-service.1").exists());

    let printed = bulla(&["man"]);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), page("bulla.1"));
}

#[test]
fn a_manual_that_cannot_be_written_says_where() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = bulla(&["man", file.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(file.path().to_str().unwrap()), "{said}");
}

/// What bash offers for a line, the last word of which is being written.
fn bash_offers(line: &[&str], dir: &Path) -> Vec<String> {
    let words = line
        .iter()
        .map(|w| format!("'{w}'"))
        .collect::<Vec<_>>()
        .join(" ");
    let last = line.len() - 1;
    // A file, because it is longer than an argument may be.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script("bash")).unwrap();
    let asked = format!(
        "source '{}'\nCOMP_WORDS=({words}); COMP_CWORD={last}; _bulla bulla '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.path().display(),
        line[last],
        line[last - 1],
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &asked])
        .current_dir(dir)
        .output()
        .unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_values_and_files() {
    if !has("bash") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shop.toml"), "").unwrap();
    let offers = |line: &[&str]| bash_offers(line, dir.path());
    let commands = offers(&["bulla", "policy", ""]);
    for command in ["check", "can-i", "fmt", "sign"] {
        assert!(commands.iter().any(|c| c == command), "{commands:?}");
    }
    assert_eq!(offers(&["bulla", "poli"]), ["policy"]);
    assert!(offers(&["bulla", "policy", "check", "--"]).contains(&"--json".to_owned()));
    // Where the script offers nothing, bash itself offers files.
    assert_eq!(offers(&["bulla", "policy", "check", "sh"]), [""]);
    assert!(script("bash").contains("-o bashdefault -o default bulla"));
    assert_eq!(
        offers(&["bulla", "policy", "can-i", "--policy", "sh"]),
        ["shop.toml"]
    );
    assert_eq!(offers(&["bulla", "completions", "fi"]), ["fish"]);
}

#[test]
fn zsh_and_fish_take_their_scripts() {
    let dir = tempfile::tempdir().unwrap();
    for (shell, want) in [("zsh", "#compdef bulla"), ("fish", "complete -c bulla")] {
        let script = script(shell);
        assert!(script.contains(want), "{shell}");
        assert!(script.contains("can-i"), "{shell}");
        let file = dir.path().join(shell);
        std::fs::write(&file, &script).unwrap();
        if has(shell) {
            let output = Command::new(shell).arg("-n").arg(&file).output().unwrap();
            assert!(output.status.success(), "{shell}: {output:?}");
        }
    }
    if !has("fish") {
        return;
    }
    let file = dir.path().join("fish");
    let asked = format!("source '{}'\ncomplete -C 'bulla policy ca'", file.display());
    let output = Command::new("fish")
        .args(["--no-config", "-c", &asked])
        .output()
        .unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    assert!(offered.starts_with("can-i"), "{offered}");
}

/// What an operator sees before a broker starts.
#[test]
fn broker_check_tells_every_setting_and_who_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let provision = bulla_broker::provision::Provision::open(dir.path()).unwrap();
    let text = "version = 1\ntrust_domain = \"acme.example\"\n";
    let (policy, _) = provision.sign_policy("policy.toml", text).unwrap();
    provision.write_server_config(None, &policy).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let file = provision
        .write_broker_config("nats://127.0.0.1:4222", &policy, hour)
        .unwrap();
    let check = |more: &[&str], variable: (&str, &str)| {
        Command::new(env!("CARGO_BIN_EXE_bulla"))
            .args(["broker", "--check", "--config", file.to_str().unwrap()])
            .args(more)
            .env(variable.0, variable.1)
            .output()
            .unwrap()
    };
    let admin = ("BULLA_BROKER_ADMIN__ADDRESS", "127.0.0.1:9465");
    let output = check(&[], admin);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("good: "), "{text}");
    for words in [
        ["admin.address", "127.0.0.1:9465", "environment"],
        ["state_max_age", "60s", "default"],
        ["keys.js", "keys/broker-js.nk", "file"],
    ] {
        let is_there = |line: &str| line.split_whitespace().eq(words);
        assert!(text.lines().any(is_there), "{words:?}: {text}");
    }
    assert!(text.contains("policy revision 1, 0 workloads"), "{text}");
    let output = check(&["--json"], admin);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["settings"]["admin.address"]["origin"], "environment");
    assert_eq!(
        (json["ok"].as_bool(), json["policy_revision"].as_u64()),
        (Some(true), Some(1))
    );

    let output = check(&[], ("BULLA_BROKER_ADMN__ADDRESS", "127.0.0.1:9465"));
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("BULLA_BROKER_ADMN__ADDRESS"), "{text}");
    // What is signed is proven, before anything starts.
    std::fs::write(provision.path("trust/policy"), "not a policy").unwrap();
    assert_eq!(check(&[], admin).status.code(), Some(2));
}
