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
    let out = run(&["check", "--config", file.to_str().unwrap()]);
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
            args.push("check");
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

fn good() -> (tempfile::TempDir, String) {
    let dir = tempfile::TempDir::new().unwrap();
    let file = write_config(dir.path(), "http://127.0.0.1:1", &Options::default());
    let name = file.to_str().unwrap().to_owned();
    (dir, name)
}

#[test]
fn a_mistake_is_shown_in_its_line() {
    let dir = tempfile::TempDir::new().unwrap();
    let options = Options {
        routes: Some("[[route]]\nmethod = \"FETCH\"\n"),
        ..Options::default()
    };
    let file = write_config(dir.path(), "http://127.0.0.1:1", &options);
    let out = run(&["check", "--config", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        said.contains("  | method = \"FETCH\"\n  |          ^"),
        "{said}"
    );
    let out = run(&["check", "--json", "--config", file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2));
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told["good"], false);
    assert_eq!(told["problems"][0]["line"], 1);
}

#[test]
fn explain_says_where_a_request_would_go_and_what_it_takes() {
    let (_dir, file) = good();
    let ask = |args: &[&str]| {
        let mut all = vec!["explain", "--config", &file, "--json"];
        all.extend(args);
        let out = run(&all);
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        (out.status.code().unwrap(), told)
    };
    let (code, told) = ask(&["GET", "/health"]);
    assert_eq!((code, &told["passes"]), (0, &true.into()));
    assert_eq!(told["subject"], "health.ask");
    let (code, told) = ask(&["DELETE", "/v1/orders/7"]);
    assert_eq!((code, &told["status"]), (1, &401.into()));
    assert_eq!(told["subject"], "orders.7.delete");
    assert_eq!(told["reason"], "no_token");
    for (method, path, status, reason) in [
        ("PUT", "/v1/orders/7", 405, "unknown_method"),
        ("GET", "/nothing", 404, "unknown_route"),
        ("GET", "/v1/%2e%2e/x", 400, "malformed_path"),
        ("GET", "/health?x=1", 400, "malformed_query"),
    ] {
        let (code, told) = ask(&[method, path]);
        assert_eq!((code, &told["status"]), (1, &status.into()), "{path}");
        assert_eq!(told["reason"], reason, "{path}");
    }
    let out = run(&["explain", "--config", &file, "GET", "/health"]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.starts_with("passes: "), "{said}");
    assert!(said.contains("  subject   health.ask\n"), "{said}");
}

#[test]
fn openapi_prints_the_description() {
    let (_dir, file) = good();
    let out = run(&["openapi", "--config", &file]);
    assert_eq!(out.status.code(), Some(0));
    let api: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(api["openapi"], "3.1.0");
    assert!(api["paths"]["/v1/orders/{id}"]["delete"].is_object());
}

#[test]
fn schema_needs_no_configuration() {
    for file in ["gateway", "routes"] {
        let out = run(&["schema", file]);
        assert_eq!(out.status.code(), Some(0));
        let schema: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(schema["type"], "object");
    }
}
