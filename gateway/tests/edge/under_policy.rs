//! Routes and the policy that they are held against.

use std::process::Command;

use bulla_gateway::{Gateway, GatewayConfig, StartError};
use bulla_token::TokenSigningKey;

use crate::reload::reloaded;
use crate::setup::*;

/// A policy for the routes below; `@DEMAND@` says what `orders.create` demands.
const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.gateway]
attest = [{ nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }]
mints = true

[workload.orders]
attest = [{ nkey = "UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX" }]

[subject."orders.create"]
@DEMAND@

[[allow]]
id = "edge-asks"
who = ["gateway"]
may = ["request"]
on = ["orders.>"]
"#;

const ROUTES: &str = r#"
[[route]]
method = "POST"
path = "/v1/orders"
subject = "orders.create"
mode = "request"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
carry = "original"
"#;

fn policy(demand: &str) -> String {
    POLICY.replace("@DEMAND@", demand)
}

const ENCRYPTED: &str = "protect = \"encrypted\"";

fn options() -> Options {
    Options {
        routes: Some(ROUTES),
        ..Options::default()
    }
}

async fn under(demand: &str) -> Edge {
    let bus = TestBus::new();
    bus.apply(&policy(demand));
    Edge::beside(bus, options(), Issuer::start().await, |_| {}).await
}

#[tokio::test]
async fn a_token_that_is_handed_on_needs_an_encrypted_subject_before_the_edge_starts() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = write_config(dir.path(), "http://127.0.0.1:1", &options());
    for (demand, starts) in [
        (ENCRYPTED, true),
        ("protect = \"signed\"", false),
        ("protect = \"encrypted\"\nopen_token = true", false),
    ] {
        let bus = TestBus::new();
        bus.apply(&policy(demand));
        let config = GatewayConfig::load(&file).unwrap();
        let made = Gateway::new(config, bus, TokenSigningKey::from_seed(SEED)).await;
        match made {
            Ok(_) => assert!(starts, "{demand}"),
            Err(StartError::Policy(errors)) => {
                let said = errors.to_string();
                assert!(!starts, "{demand}");
                assert!(said.contains("routes.toml:5:11: `carry`"), "{said}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_new_policy_has_the_configuration_read_again() {
    let edge = under(ENCRYPTED).await;
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    // Written for the next policy, which nobody has applied yet.
    let routes = ROUTES
        .replace("@ISSUER@", &edge.issuer.url)
        .replace("/v1/orders", "/v2/orders");
    std::fs::write(edge.dir.path().join("routes.toml"), routes).unwrap();
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    edge.bus.apply(&policy(ENCRYPTED));
    until(async || edge.order().send().await.unwrap().status() == 404).await;
    assert!(reloads(&edge, "ok").await > 0);
}

#[tokio::test]
async fn routes_that_the_next_policy_makes_dangerous_are_not_taken_over() {
    let edge = under(ENCRYPTED).await;
    let more = "[[route]]\nmethod = \"GET\"\npath = \"/more\"\nsubject = \"orders.more\"\nmode = \"request\"\nauth = \"public\"\n";
    let routes = ROUTES.replace("@ISSUER@", &edge.issuer.url) + more;
    std::fs::write(edge.dir.path().join("routes.toml"), routes).unwrap();
    edge.bus.apply(&policy("protect = \"signed\""));
    until(async || reloads(&edge, "refused").await > 0).await;
    // All or nothing: the old routes go on, and the SDK refuses what they carry.
    assert_eq!(edge.get("/more").send().await.unwrap().status(), 404);
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    // The same at SIGHUP.
    let before = reloads(&edge, "refused").await;
    reloaded(async || reloads(&edge, "refused").await > before).await;
    edge.bus.apply(&policy(ENCRYPTED));
    until(async || edge.get("/more").send().await.unwrap().status() == 200).await;
}

/// How often the configuration was read again. Other tests of this process send SIGHUP too.
async fn reloads(edge: &Edge, outcome: &str) -> u64 {
    let request = edge.client.get(format!("http://{}/metrics", edge.admin));
    let text = request.send().await.unwrap().text().await.unwrap();
    let begin = format!("bulla_gateway_reloads_total{{outcome=\"{outcome}\"}} ");
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix(&begin));
    count.map_or(0, |count| count.parse().unwrap())
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done().await {
        assert!(std::time::Instant::now() < deadline, "it did not happen");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// What `check` says of routes, and with which exit code.
fn check(policy: &str, routes: &'static str) -> (Option<i32>, String) {
    let dir = tempfile::TempDir::new().unwrap();
    let options = Options {
        routes: Some(routes),
        ..Options::default()
    };
    let file = write_config(dir.path(), "https://login.example", &options);
    let place = dir.path().join("policy.toml");
    std::fs::write(&place, policy).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_bulla-gateway"))
        .args(["check", "--config"])
        .arg(&file)
        .arg("--policy")
        .arg(&place)
        .output()
        .unwrap();
    (
        out.status.code(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    )
}

#[test]
fn check_says_what_a_policy_would_never_let_happen() {
    assert_eq!(check(&policy(ENCRYPTED), ROUTES), (Some(0), String::new()));
    let (code, said) = check(&policy("protect = \"signed\""), ROUTES);
    assert_eq!(code, Some(2));
    assert!(said.contains("routes.toml:5:11: `carry` hands"), "{said}");
    assert!(said.contains("subject = \"orders.create\""), "{said}");

    let others = r#"
[[route]]
method = "GET"
path = "/{user}/events"
subject = "users.{user}.changed"
mode = "stream"
auth = "public"

[[route]]
method = "GET"
path = "/all"
mode = "aggregate"
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
reach = "billing"
headers = { tenant = "claim.tenant" }

[[route.part]]
name = "bill"
subject = "billing.get"

[[route]]
method = "POST"
path = "/open"
subject = "orders.create"
mode = "request"
auth = "public"
"#;
    let strict = policy("user = \"required\"")
        .replace("mints = true", "mints = true\nreach = []")
        .replace(
            "[workload.orders]",
            "[claims.tenant]\nreaders = [\"orders\"]\n\n[workload.orders]",
        );
    let (code, said) = check(&strict, others);
    assert_eq!(code, Some(2));
    for line in [
        "routes.toml:5:11: the policy does not let `gateway` subscribe `users.{user}.changed`",
        "routes.toml:21:11: the policy does not let `gateway` request `billing.get`",
        "routes.toml:21:11: the policy lets the edge mint no token that reaches `billing`",
        "routes.toml:9:1: claim `tenant` is private by the policy, and `tenant` would tell it openly",
        "routes.toml:26:11: the policy asks for a user on `orders.create`, and the route is public",
    ] {
        assert!(said.contains(line), "{line}\nin\n{said}");
    }
    // A policy that is none, and a file that is not there.
    assert_eq!(check("version = 99", ROUTES).0, Some(2));
}
