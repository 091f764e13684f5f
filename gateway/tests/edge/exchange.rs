//! What of a request reaches the bus, and what of a reply reaches the client.

use std::sync::atomic::Ordering;

use crate::setup::*;
use bulla_gateway::BusReply;
use serde_json::{Value, json};

fn header<'m>(message: &'m bulla_gateway::BusMessage, name: &str) -> Option<&'m str> {
    let mut found = message.headers.iter().filter(|(n, _)| n == name);
    let first = found.next().map(|(_, v)| v.as_str());
    assert!(found.next().is_none());
    first
}

#[tokio::test]
async fn a_body_travels_byte_for_byte_with_its_content_type() {
    let edge = Edge::start().await;
    let body = "{ \"item\" :\t\"caf\\u00e9\" }";
    let request = edge.order().header("accept-language", "de").body(body);
    let request = request.header("content-type", "Application/JSON; charset=utf-8");
    // reqwest appends: the last of our two content types must be the only one.
    let mut request = request.build().unwrap();
    request.headers_mut().insert(
        "content-type",
        "Application/JSON; charset=utf-8".parse().unwrap(),
    );
    let response = edge.client.execute(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let message = edge.bus.last();
    assert_eq!(message.subject.as_str(), "orders.create");
    assert_eq!(message.payload, body);
    assert_eq!(message.content_type, "application/json");
    assert_eq!(header(&message, "http-header-accept-language"), Some("de"));
    assert_eq!(message.headers.len(), 1);
}

#[tokio::test]
async fn a_request_without_a_body_becomes_an_object_of_its_parameters() {
    let edge = Edge::start().await;
    let request = edge
        .get("/v1/orders/42?fields=a%20b")
        .bearer_auth(edge.issuer.token());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let message = edge.bus.last();
    assert_eq!(message.subject.as_str(), "orders.get");
    let payload: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(payload, json!({"id": "42", "fields": "a b"}));
    assert_eq!(message.content_type, "application/json");
    assert_eq!(header(&message, "http-path-id"), Some("42"));
    assert_eq!(header(&message, "http-query-fields"), Some("a b"));
}

#[tokio::test]
async fn a_capture_stands_in_the_subject_only_where_the_route_says_so() {
    let edge = Edge::start().await;
    let request = edge.client.delete(edge.url("/v1/orders/a-B_9"));
    let response = request
        .bearer_auth(edge.issuer.token())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(edge.bus.last().subject.as_str(), "orders.a-B_9.delete");
}

#[tokio::test]
async fn attack_16_no_capture_ever_becomes_more_than_one_plain_token() {
    let edge = Edge::start().await;
    for value in [
        "a.b",
        "*",
        "%3E",
        "%2A",
        "a%20b",
        "%24SYS",
        "a%2eb",
        "_INBOX.x",
        "%C2%A0",
        "%EF%BC%8E",
        "a%00",
        "..",
        "%2e%2e",
        "a%2fb",
        "a%5cb",
    ] {
        let token = edge.issuer.token();
        let answer = edge
            .raw(&format!(
                "DELETE /v1/orders/{value} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let refused = answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 400");
        assert!(refused, "{value}: {answer}");
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn undeclared_repeated_and_malformed_parameters_are_400() {
    let edge = Edge::start().await;
    for query in [
        "x=1",
        "fields=1&x=2",
        "fields=1&fields=2",
        "fields=%zz",
        "fields=%00",
        "access_token=a.b.c",
    ] {
        let request = edge
            .get(&format!("/v1/orders/1?{query}"))
            .bearer_auth(edge.issuer.token());
        let response = request.send().await.unwrap();
        assert_eq!(
            problem(response).await,
            (400, "bad-request".into()),
            "{query}"
        );
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn the_token_stays_at_the_edge_and_a_transaction_token_goes_on() {
    let edge = Edge::start().await;
    let token = edge.issuer.token();
    let request = edge
        .get("/v1/orders/1")
        .bearer_auth(&token)
        .header("cookie", "session=1");
    request.send().await.unwrap();
    let message = edge.bus.last();
    let all = format!(
        "{:?}{:?}{}",
        message.headers,
        message.payload,
        message.token.as_ref().unwrap().as_str()
    );
    assert!(!all.contains(&token) && !all.contains("session=1"));
    let user = transaction(&message);
    assert_eq!(user.kid(), KID);
    assert_eq!(user.principal(), "alice");
    assert_eq!(user.requesting_workload(), "spiffe://acme.example/gateway");
    // The client's scopes, cut to what the route asks for: `admin` stays behind.
    assert_eq!(
        user.scopes().collect::<Vec<_>>(),
        ["orders:read", "orders:write"]
    );
    assert_eq!(user.policy_claims().get("tenant"), Some(&json!("t1")));
    assert_eq!(
        user.policy_claims().get("idp"),
        Some(&json!(edge.issuer.url))
    );
    assert_eq!(user.policy_claims().get("client_id"), None);
}

#[tokio::test]
async fn an_optional_scope_travels_on_only_if_the_client_has_it() {
    let edge = Edge::start().await;
    let token = edge.issuer.token_with(json!({"scope": "orders:read"}));
    let request = edge.get("/v1/orders/1").bearer_auth(token);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let user = transaction(&edge.bus.last());
    assert_eq!(user.scopes().collect::<Vec<_>>(), ["orders:read"]);
}

#[tokio::test]
async fn each_request_has_a_transaction_of_its_own() {
    let edge = Edge::start().await;
    edge.order().send().await.unwrap();
    let first = transaction(&edge.bus.last()).txn().to_owned();
    edge.order().send().await.unwrap();
    assert_ne!(first, transaction(&edge.bus.last()).txn());
}

#[tokio::test]
async fn a_transaction_token_ends_no_later_than_the_clients_token_and_its_leeway() {
    let edge = Edge::start().await;
    let token = edge.issuer.token_with(json!({"exp": now() + 10}));
    let request = edge.get("/v1/orders/1").bearer_auth(token);
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert!(transaction(&edge.bus.last()).expires().as_secs() <= now() + 40);
}

#[tokio::test]
async fn a_transaction_token_ends_no_later_than_the_credential_of_its_key() {
    let edge = Edge::start().await;
    edge.bus.key_life.store(10, Ordering::SeqCst);
    let request = edge.get("/v1/orders/1").bearer_auth(edge.issuer.token());
    assert_eq!(request.send().await.unwrap().status(), 200);
    assert!(transaction(&edge.bus.last()).expires().as_secs() <= now() + 10);
}

#[tokio::test]
async fn a_public_route_has_no_user_even_with_a_token() {
    let edge = Edge::start().await;
    for request in [
        edge.get("/health"),
        edge.get("/health").bearer_auth(edge.issuer.token()),
    ] {
        assert_eq!(request.send().await.unwrap().status(), 200);
        assert!(edge.bus.last().token.is_none());
    }
}

#[tokio::test]
async fn a_service_chooses_status_and_listed_headers() {
    let edge = Edge::start().await;
    let mut reply = json_reply("{\"id\":\"7\"}");
    reply.headers = vec![
        ("http-status".into(), "201".into()),
        ("location".into(), "/v1/orders/7".into()),
        ("set-cookie".into(), "a=b".into()),
        ("bulla-kid".into(), "x".into()),
        ("etag".into(), "\"1\"".into()),
    ];
    edge.bus.answer(Ok(reply));
    let response = edge.order().send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["location"], "/v1/orders/7");
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(response.headers()["cache-control"], "no-store");
    for name in ["set-cookie", "bulla-kid", "etag", "http-status"] {
        assert!(response.headers().get(name).is_none(), "{name}");
    }
    assert_eq!(response.text().await.unwrap(), "{\"id\":\"7\"}");
}

#[tokio::test]
async fn an_empty_204_has_no_content_type() {
    let edge = Edge::start().await;
    edge.bus.answer(Ok(BusReply {
        headers: vec![("http-status".into(), "204".into())],
        content_type: "application/json".into(),
        ..BusReply::default()
    }));
    let response = edge.order().send().await.unwrap();
    assert_eq!(response.status(), 204);
    assert!(response.headers().get("content-type").is_none());
}

#[tokio::test]
async fn binary_bodies_pass_where_the_route_takes_them() {
    let routes = r#"
[[route]]
method = "POST"
path = "/blob"
subject = "blob.put"
mode = "request"
auth = "public"
content_types = ["application/octet-stream"]
"#;
    let edge = Edge::with(Options {
        routes: Some(routes),
        ..Options::default()
    })
    .await;
    let bytes: Vec<u8> = (0..=255).collect();
    let request = edge
        .client
        .post(edge.url("/blob"))
        .header("content-type", "application/octet-stream");
    assert_eq!(
        request.body(bytes.clone()).send().await.unwrap().status(),
        200
    );
    assert_eq!(edge.bus.last().payload, bytes);
}

#[tokio::test]
async fn the_trace_of_the_client_goes_on() {
    let edge = Edge::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    edge.order()
        .header("traceparent", trace)
        .send()
        .await
        .unwrap();
    let sent = edge.bus.last().traceparent.unwrap().to_string();
    assert!(sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && sent != trace);
    edge.order().send().await.unwrap();
    assert!(edge.bus.last().traceparent.is_some());
}

#[tokio::test]
async fn a_token_reaches_what_its_route_says_or_else_its_subjects_audience() {
    let edge = Edge::start().await;
    let token = edge.issuer.token_with(json!({"reach": ["everything"]}));
    edge.get("/v1/orders/1")
        .bearer_auth(&token)
        .send()
        .await
        .unwrap();
    let reach =
        |message| -> Vec<String> { transaction(&message).reach().map(str::to_owned).collect() };
    // Not what the client's token says.
    assert_eq!(reach(edge.bus.last()), ["retail"]);

    let stated = ROUTES.replacen(
        "optional_scope =",
        "reach = [\"retail\", \"billing\"]\noptional_scope =",
        1,
    );
    let edge = Edge::with(Options {
        routes: Some(stated.leak()),
        ..Options::default()
    })
    .await;
    edge.get("/v1/orders/1")
        .bearer_auth(edge.issuer.token())
        .send()
        .await
        .unwrap();
    assert_eq!(reach(edge.bus.last()), ["retail", "billing"]);
}

#[tokio::test]
async fn the_clients_own_token_goes_on_only_where_the_route_says_so() {
    let edge = Edge::start().await;
    edge.order().send().await.unwrap();
    assert!(edge.bus.last().original.is_none());

    let carried = ROUTES.replacen("body = 1024", "carry = \"original\"\nbody = 1024", 1);
    let edge = Edge::with(Options {
        routes: Some(carried.leak()),
        ..Options::default()
    })
    .await;
    let token = edge.issuer.token();
    let order = edge.client.post(edge.url("/v1/orders")).bearer_auth(&token);
    let order = order.header("content-type", "application/json");
    order.body("{}").send().await.unwrap();
    let message = edge.bus.last();
    assert_eq!(
        message.original.as_deref().map(String::as_str),
        Some(&*token)
    );
    // Beside the transaction token, never in it.
    assert!(
        !message
            .token
            .as_ref()
            .unwrap()
            .as_str()
            .contains(token.split('.').nth(1).unwrap())
    );
    // Other routes hand on nothing.
    edge.get("/v1/orders/1")
        .bearer_auth(&token)
        .send()
        .await
        .unwrap();
    assert!(edge.bus.last().original.is_none());
}
