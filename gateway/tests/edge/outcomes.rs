//! The outcome table: one test for each row.

use crate::setup::*;
use bulla_gateway::{BusError, BusReply, ServiceFault};
use bytes::Bytes;
use reqwest::Method;

async fn after(outcome: Result<BusReply, BusError>) -> (u16, String) {
    let edge = Edge::start().await;
    edge.bus.answer(outcome);
    problem(edge.order().send().await.unwrap()).await
}

#[tokio::test]
async fn an_undeclared_path_is_404() {
    let edge = Edge::start().await;
    for path in [
        "/",
        "/v1",
        "/v1/orders/a/b",
        "/v2/orders",
        "/V1/orders",
        "/v1/orders/a.b",
    ] {
        let response = edge
            .get(path)
            .bearer_auth(edge.issuer.token())
            .send()
            .await
            .unwrap();
        assert_eq!(problem(response).await, (404, "not-found".into()), "{path}");
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_wrong_method_is_405_and_allow_lists_the_right_ones() {
    let edge = Edge::start().await;
    let put = edge.client.request(Method::PUT, edge.url("/v1/orders/1"));
    let response = put.send().await.unwrap();
    assert_eq!(response.headers()["allow"], "GET, DELETE");
    assert_eq!(problem(response).await, (405, "method-not-allowed".into()));
}

#[tokio::test]
async fn no_credential_is_401_without_an_error_code() {
    let edge = Edge::start().await;
    for request in [
        edge.get("/v1/orders/1"),
        edge.get("/v1/orders/1").basic_auth("a", Some("b")),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(
            response.headers()["www-authenticate"],
            "Bearer realm=\"api\""
        );
        assert_eq!(problem(response).await, (401, "unauthorized".into()));
    }
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_bad_credential_is_401_invalid_token() {
    let edge = Edge::start().await;
    let response = edge
        .get("/v1/orders/1")
        .bearer_auth("a.b.c")
        .send()
        .await
        .unwrap();
    let header = response.headers()["www-authenticate"].to_str().unwrap();
    assert_eq!(header, "Bearer realm=\"api\", error=\"invalid_token\"");
    assert_eq!(problem(response).await, (401, "invalid-token".into()));
}

#[tokio::test]
async fn a_revoked_user_is_403_and_nothing_is_minted() {
    let edge = Edge::start().await;
    let token = edge
        .issuer
        .token_with(serde_json::json!({"sub": "revoked"}));
    let response = edge.get("/v1/orders/1").bearer_auth(token).send().await;
    assert_eq!(problem(response.unwrap()).await, (403, "forbidden".into()));
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_missing_scope_is_403_insufficient_scope() {
    let edge = Edge::start().await;
    let token = edge
        .issuer
        .token_with(serde_json::json!({"scope": "orders:write"}));
    let response = edge
        .get("/v1/orders/1")
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    let header = response.headers()["www-authenticate"].to_str().unwrap();
    assert_eq!(
        header,
        "Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"orders:read\""
    );
    assert_eq!(problem(response).await, (403, "insufficient-scope".into()));
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_policys_no_is_403_with_the_decision_of_whoever_said_it() {
    let edge = Edge::start().await;
    edge.bus.answer(Err(BusError::Denied {
        decision: Some("d3c1510n".into()),
    }));
    let response = edge.order().send().await.unwrap();
    assert!(response.headers().get("www-authenticate").is_none());
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["decision_id"], "d3c1510n");
    assert_eq!(body["type"], "urn:bulla:problem:forbidden");
    let denied = BusError::Denied { decision: None };
    assert_eq!(after(Err(denied)).await, (403, "forbidden".into()));
}

#[tokio::test]
async fn a_body_above_the_routes_limit_is_413() {
    let edge = Edge::start().await;
    let response = edge.order().body("x".repeat(1025)).send().await.unwrap();
    assert_eq!(problem(response).await, (413, "content-too-large".into()));
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn a_message_above_the_buses_limit_is_413() {
    assert_eq!(
        after(Err(BusError::TooLarge)).await,
        (413, "content-too-large".into())
    );
}

#[tokio::test]
async fn an_unsupported_content_type_is_415_and_accept_lists_the_right_ones() {
    let edge = Edge::start().await;
    for content_type in ["text/xml", "application/json2", "json", ""] {
        let request = edge
            .client
            .post(edge.url("/v1/orders"))
            .bearer_auth(edge.issuer.token());
        let response = request
            .header("content-type", content_type)
            .body("{}")
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["accept"], "application/json");
        assert_eq!(
            problem(response).await,
            (415, "unsupported-media-type".into())
        );
    }
    let request = edge
        .client
        .post(edge.url("/v1/orders"))
        .bearer_auth(edge.issuer.token());
    let response = request.body("{}").send().await.unwrap();
    assert_eq!(
        problem(response).await,
        (415, "unsupported-media-type".into())
    );
    assert!(edge.bus.untouched());
}

#[tokio::test]
async fn nobody_who_answers_is_503_at_once() {
    assert_eq!(
        after(Err(BusError::NoResponders)).await,
        (503, "unavailable".into())
    );
    assert_eq!(
        after(Err(BusError::Disconnected)).await,
        (503, "unavailable".into())
    );
}

#[tokio::test]
async fn a_credential_that_is_gone_is_503() {
    let edge = Edge::start().await;
    edge.bus
        .up
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let response = edge.order().send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(problem(response).await, (503, "unavailable".into()));
}

#[tokio::test]
async fn more_requests_than_the_limit_are_shed_with_503() {
    let edge = Edge::with(Options {
        limits: "requests = 1",
        ..Options::default()
    })
    .await;
    let (entered, mut inside) = tokio::sync::mpsc::channel(1);
    let release = tokio_util::sync::CancellationToken::new();
    edge.bus.behave({
        let release = release.clone();
        move |_| {
            let (entered, release) = (entered.clone(), release.clone());
            Box::pin(async move {
                entered.send(()).await.unwrap();
                release.cancelled().await;
                Ok(json_reply("{}"))
            })
        }
    });
    let first = tokio::spawn(edge.order().send());
    inside.recv().await.unwrap();
    let response = edge.order().send().await.unwrap();
    assert_eq!(problem(response).await, (503, "overloaded".into()));
    release.cancel();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn no_answer_within_the_routes_deadline_is_504() {
    let edge = Edge::start().await;
    edge.bus.behave(|_| Box::pin(std::future::pending()));
    let request = edge.get("/v1/orders/1").bearer_auth(edge.issuer.token());
    let started = std::time::Instant::now();
    let response = request.send().await.unwrap();
    assert_eq!(problem(response).await, (504, "timeout".into()));
    assert!(started.elapsed() < std::time::Duration::from_secs(3));
}

#[tokio::test]
async fn a_malformed_or_oversized_reply_is_502() {
    assert_eq!(
        after(Err(BusError::BadReply)).await,
        (502, "bad-reply".into())
    );
    let edge = Edge::with(Options {
        limits: "reply = 10",
        ..Options::default()
    })
    .await;
    edge.bus.answer(Ok(json_reply("{\"a\":\"0123456789\"}")));
    let response = edge.order().send().await.unwrap();
    assert_eq!(problem(response).await, (502, "bad-reply".into()));
}

#[tokio::test]
async fn a_status_or_header_that_the_route_does_not_allow_is_502() {
    for (name, value) in [
        ("http-status", "500"),
        ("http-status", "301"),
        ("http-status", "418"),
        ("http-status", "+200"),
        ("http-status", "abc"),
        ("location", "https://evil.example/"),
        ("location", "//evil.example"),
    ] {
        let mut reply = json_reply("{}");
        reply.headers.push((name.into(), value.into()));
        assert_eq!(
            after(Ok(reply)).await,
            (502, "bad-reply".into()),
            "{name}: {value}"
        );
    }
    let mut twice = json_reply("{}");
    twice.headers = vec![
        ("http-status".into(), "201".into()),
        ("http-status".into(), "200".into()),
    ];
    assert_eq!(after(Ok(twice)).await.0, 502);
    let odd = BusReply {
        payload: Bytes::from_static(b"x"),
        content_type: "a\r\nset-cookie: b".into(),
        headers: Vec::new(),
    };
    assert_eq!(after(Ok(odd)).await.0, 502);
}

#[tokio::test]
async fn errors_of_the_service_have_a_status_each() {
    for (kind, status, name) in [
        (ServiceFault::Invalid, 422, "invalid-content"),
        (ServiceFault::NotFound, 404, "not-found"),
        (ServiceFault::Conflict, 409, "conflict"),
        (ServiceFault::Forbidden, 403, "forbidden"),
        (ServiceFault::Unavailable, 503, "unavailable"),
        (ServiceFault::Internal, 500, "internal"),
    ] {
        let fault = BusError::Service {
            kind,
            message: "no such thing".into(),
        };
        assert_eq!(after(Err(fault)).await, (status, name.into()));
    }
}

#[tokio::test]
async fn what_a_service_says_reaches_the_client_only_where_it_is_about_the_request() {
    for (kind, told) in [
        (ServiceFault::Invalid, true),
        (ServiceFault::NotFound, true),
        (ServiceFault::Conflict, true),
        (ServiceFault::Internal, false),
        (ServiceFault::Unavailable, false),
        (ServiceFault::Forbidden, false),
    ] {
        let edge = Edge::start().await;
        edge.bus.answer(Err(BusError::Service {
            kind,
            message: "database at 10.0.0.7".into(),
        }));
        let text = edge.order().send().await.unwrap().text().await.unwrap();
        assert_eq!(text.contains("10.0.0.7"), told, "{kind:?}");
    }
}

#[tokio::test]
async fn the_base_of_the_types_can_be_chosen() {
    let edge = Edge::with(Options {
        extra: "problem_base = \"https://api.example/problems/\"",
        ..Options::default()
    })
    .await;
    let body: serde_json::Value = edge.get("/x").send().await.unwrap().json().await.unwrap();
    assert_eq!(body["type"], "https://api.example/problems/not-found");
}
