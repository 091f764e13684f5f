//! The program itself: its exit codes and what it says.

use crate::setup::{Options, write_config};
use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulla-gateway"))
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn check_of_a_good_configuration_starts_nothing_and_exits_with_0() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = write_config(dir.path(), "http://127.0.0.1:1", &Options::default());
    let out = run(&["--config", file.to_str().unwrap(), "--check"]);
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "good: 4 route(s), 1 issuer(s)\n"
    );
}

#[test]
fn a_bad_configuration_exits_with_2_and_says_where() {
    let dir = tempfile::TempDir::new().unwrap();
    let options = Options {
        routes: Some("[[route]]\nmethod = 1\n"),
        ..Options::default()
    };
    let file = write_config(dir.path(), "http://127.0.0.1:1", &options);
    for check in [true, false] {
        let mut args = vec!["--config", file.to_str().unwrap()];
        if check {
            args.push("--check");
        }
        let out = run(&args);
        assert_eq!(out.status.code(), Some(2));
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            said.contains("routes.toml:2:10: `method` is integer, a string is expected"),
            "{said}"
        );
    }
}

#[test]
fn a_start_that_fails_is_one_line_and_exits_with_2() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = write_config(dir.path(), "http://127.0.0.1:1", &Options::default());
    let out = run(&["--config", file.to_str().unwrap(), "--log", "json"]);
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        said.starts_with("error: cannot connect to the bus: ") && said.lines().count() == 1,
        "{said}"
    );
}
