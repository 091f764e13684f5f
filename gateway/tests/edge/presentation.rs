//! What the edge says about itself: description, page, versions, ends, part of the
//! requests going elsewhere, and names that a route chooses.

use crate::setup::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const API: &str = r#"[api]
title = "Orders"
version = "2.1.0"
public_url = "https://api.example"
version_header = "api-version"
default_version = "1"
openapi = true
docs = true
"#;

const VERSIONED: &str = r#"
[profile.users]
auth = "jwt"
issuer = "@ISSUER@"
audience = "https://api.example"
mode = "request"

[[route]]
profile = "users"
method = "GET"
path = "/orders/{id}"
version = "1"
subject = "orders.get"
scope = "orders:read"
query = ["fields"]
summary = "One order"
deprecated = "2026-01-01"
sunset = "2099-12-31"
deprecation_link = "https://api.example/changes"

[[route]]
profile = "users"
method = "GET"
path = "/orders/{id}"
version = "2"
subject = "orders.find"
summary = "One order, with its items"

[[route]]
profile = "users"
method = "POST"
path = "/orders"
subject = "orders.create"
request_schema = "order.json"
tags = ["orders"]
"#;

async fn described() -> Edge {
    let options = Options {
        extra: API,
        routes: Some(VERSIONED),
        ..Options::default()
    };
    let write = |dir: &Path| {
        let order = json!({"type": "object", "properties": {"item": {"$ref": "#/$defs/item"}},
            "$defs": {"item": {"type": "string"}}});
        fs::write(dir.join("order.json"), order.to_string()).unwrap();
    };
    Edge::with_issuer(options, Issuer::start().await, write).await
}

#[tokio::test]
async fn the_description_says_what_a_client_needs_and_nothing_of_the_bus() {
    let edge = described().await;
    let response = edge.get("/openapi.json").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    for word in [
        "orders.get",
        "orders.find",
        "orders.create",
        "nats",
        "spiffe",
        "@ISSUER@",
    ] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    let api: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(api["openapi"], "3.1.0");
    assert_eq!(api["info"], json!({"title": "Orders", "version": "2.1.0"}));
    assert_eq!(api["servers"], json!([{"url": "https://api.example"}]));
    let get = &api["paths"]["/orders/{id}"]["get"];
    assert_eq!(get["summary"], "One order");
    assert_eq!(get["deprecated"], true);
    assert_eq!(get["security"], json!([{"accessToken": ["orders:read"]}]));
    let names: Vec<&str> = get["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["id", "fields", "api-version"]);
    let post = &api["paths"]["/orders"]["post"];
    assert_eq!(
        post["requestBody"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/postOrdersRequest"
    );
    let schema = &api["components"]["schemas"]["postOrdersRequest"];
    assert_eq!(
        schema["properties"]["item"]["$ref"],
        "#/components/schemas/postOrdersRequest/$defs/item"
    );
    every_reference_leads_somewhere(&api, &api);
    let second = edge.get("/openapi.json").header("api-version", "2");
    let second: Value = second.send().await.unwrap().json().await.unwrap();
    let get = &second["paths"]["/orders/{id}"]["get"];
    assert_eq!(get["summary"], "One order, with its items");
}

fn every_reference_leads_somewhere(part: &Value, whole: &Value) {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(place)) = members.get("$ref") {
                let pointer = place.strip_prefix('#').unwrap();
                assert!(whole.pointer(pointer).is_some(), "{place}");
            }
            members
                .values()
                .for_each(|v| every_reference_leads_somewhere(v, whole));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|v| every_reference_leads_somewhere(v, whole)),
        _ => {}
    }
}

#[tokio::test]
async fn the_page_explains_problems_where_their_types_lead() {
    let edge = described().await;
    let page = edge.get("/docs").send().await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    let page = page.text().await.unwrap();
    assert!(page.contains(">/orders/{id}</code>"), "{page}");
    let refused = edge.get("/nothing").send().await.unwrap();
    let body: Value = refused.json().await.unwrap();
    let (place, anchor) = body["type"].as_str().unwrap().split_once('#').unwrap();
    assert_eq!(place, "https://api.example/docs");
    assert!(page.contains(&format!("id=\"{anchor}\"")), "{anchor}");
}

#[tokio::test]
async fn neither_is_served_unless_it_is_asked_for() {
    let edge = Edge::start().await;
    for path in ["/openapi.json", "/docs"] {
        let response = edge.get(path).send().await.unwrap();
        assert_eq!(problem(response).await, (404, "not-found".into()), "{path}");
    }
}

#[tokio::test]
async fn a_header_says_which_version_is_meant() {
    let edge = described().await;
    let ask = |version: Option<&'static str>| {
        let mut request = edge.get("/orders/7").bearer_auth(edge.issuer.token());
        if let Some(version) = version {
            request = request.header("api-version", version);
        }
        request.send()
    };
    for (version, subject) in [
        (None, "orders.get"),
        (Some("1"), "orders.get"),
        (Some("2"), "orders.find"),
    ] {
        let response = ask(version).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["vary"], "api-version");
        let old = subject == "orders.get";
        assert_eq!(response.headers().contains_key("deprecation"), old);
        if old {
            assert_eq!(response.headers()["deprecation"], "@1767225600");
            assert_eq!(
                response.headers()["sunset"],
                "Thu, 31 Dec 2099 00:00:00 GMT"
            );
            assert_eq!(
                response.headers()["link"],
                "<https://api.example/changes>; rel=\"deprecation\""
            );
        }
        assert_eq!(edge.bus.last().subject.as_str(), subject);
    }
    let response = ask(Some("3")).await.unwrap();
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["type"], "https://api.example/docs#unknown-version");
    let twice = edge
        .get("/orders/7")
        .header("api-version", "1")
        .header("api-version", "2");
    assert_eq!(twice.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_canary_gets_its_part_and_each_user_goes_one_way() {
    const ROUTES: &str = "[[route]]\nmethod = \"GET\"\npath = \"/a\"\nsubject = \"a.old\"\nmode = \"request\"\nauth = \"jwt\"\nissuer = \"@ISSUER@\"\naudience = \"https://api.example\"\n[route.canary]\nsubject = \"a.new\"\npercent = 25\n";
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    let mut new = 0;
    for user in 0..120 {
        let token = edge
            .issuer
            .token_with(json!({"sub": format!("user-{user}")}));
        let mut ways = Vec::new();
        for _ in 0..2 {
            let request = edge.get("/a").bearer_auth(&token);
            assert_eq!(request.send().await.unwrap().status(), 200);
            ways.push(edge.bus.last().subject.as_str().to_owned());
        }
        assert_eq!(ways[0], ways[1]);
        new += u32::from(ways[0] == "a.new");
    }
    assert!((15..=48).contains(&new), "{new} of 120");
}

#[tokio::test]
async fn a_route_names_headers_and_members_itself() {
    const ROUTES: &str = "[[route]]\nmethod = \"GET\"\npath = \"/a/{id}\"\nsubject = \"a.b\"\nmode = \"request\"\nauth = \"jwt\"\nissuer = \"@ISSUER@\"\naudience = \"https://api.example\"\nquery = [\"tenant\"]\n[route.headers]\ntenant = \"claim.tenant\"\nlanguage = \"header.accept-language\"\n[route.payload]\norder = \"path.id\"\ntenant = \"claim.tenant\"\n";
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    let request = edge
        .get("/a/7?tenant=another")
        .bearer_auth(edge.issuer.token())
        .header("accept-language", "de")
        .header("tenant", "a-lie");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let message = edge.bus.last();
    let named = |name: &str| -> Vec<&str> {
        let found = message.headers.iter().filter(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str()).collect()
    };
    assert_eq!(named("tenant"), ["t1"]);
    assert_eq!(named("language"), ["de"]);
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    // What a client says never stands where the token speaks.
    assert_eq!(payload, json!({"id": "7", "order": "7", "tenant": "t1"}));
}

#[tokio::test]
async fn nobody_names_somebody_else_in_a_path() {
    const ROUTES: &str = "[[route]]\nmethod = \"GET\"\npath = \"/users/{user}/{tenant}\"\nsubject = \"a.{user}.get\"\nmode = \"request\"\nauth = \"jwt\"\nissuer = \"@ISSUER@\"\naudience = \"https://api.example\"\n[route.require]\nuser = \"claim.sub\"\ntenant = \"claim.tenants\"\n";
    let edge = Edge::with(Options {
        routes: Some(ROUTES),
        ..Options::default()
    })
    .await;
    let ask = async |path: &str, tenants: Value| {
        let token = edge.issuer.token_with(json!({ "tenants": tenants }));
        let request = edge.get(path).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("/users/alice/t1", json!("t1")).await, 200);
    assert_eq!(ask("/users/alice/t2", json!(["t1", "t2"])).await, 200);
    let seen = edge.bus.seen.lock().len();
    for (path, tenants) in [
        ("/users/bob/t1", json!("t1")),
        ("/users/Alice/t1", json!("t1")),
        ("/users/alice/t2", json!("t1")),
        ("/users/alice/t1", json!(null)),
        ("/users/alice/1", json!(1)),
        ("/users/alice/t1", json!({"t1": true})),
    ] {
        assert_eq!(ask(path, tenants.clone()).await, 403, "{path} {tenants}");
    }
    assert_eq!(edge.bus.seen.lock().len(), seen);
}
