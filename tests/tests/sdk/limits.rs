//! Limits: what a service takes off its user before it passes the user on.

use std::time::Duration;

use bulla_sdk::{
    Client, Context, Limits, Message, RequestError, SendError, Service, ServiceError,
    ServiceErrorCode,
};
use bulla_tests::{Bus, Forger, Minter, now};
use serde_json::{Value, json};

use super::eventually;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.middle]
attest = [{ nkey = "@middle@" }]
[workload.back]
attest = [{ nkey = "@back@" }]

[subject."middle.>"]
user = "required"
[subject."back.sealed"]
protect = "encrypted"
[subject."back.retail"]
audience = "retail"

[[allow]]
id = "front-asks"
who = ["edge", "front"]
may = ["request"]
on = ["front.go", "middle.go", "back.>"]
[[allow]]
id = "middle-asks"
who = ["middle"]
may = ["request"]
on = ["back.look", "back.write", "back.sealed", "back.retail"]
[[allow]]
id = "front-serves"
who = ["front"]
may = ["serve"]
on = ["front.go"]
[[allow]]
id = "middle-serves"
who = ["middle"]
may = ["serve"]
on = ["middle.go"]
[[allow]]
id = "back-serves"
who = ["back"]
may = ["serve"]
on = ["back.>"]
[[deny]]
id = "writes-need-the-scope"
who = ["front", "middle"]
may = ["request"]
on = ["back.narrow_writers_are_refused"]
user = { scope = "write" }
[[allow]]
id = "tells"
who = ["front", "edge"]
may = ["publish"]
on = ["news"]
[[allow]]
id = "listens"
who = ["back"]
may = ["subscribe"]
on = ["news"]
"#;

/// What `back` sees of the user.
fn seen(m: &Message<String>) -> Value {
    let user = m.user().unwrap();
    json!({
        "scopes": user.scopes().collect::<Vec<_>>(),
        "reach": user.claims().reach().collect::<Vec<_>>(),
        "tenants": user.claims().get("tenants"),
        "may_write": user.require_scope("write").is_ok(),
        "ends": user.expires().as_millis(),
    })
}

async fn serve_back(back: &Client) -> Vec<Service> {
    let mut services = Vec::new();
    for subject in ["back.look", "back.sealed", "back.retail", "back.write"] {
        let handler = async |m: Message<String>| {
            if m.subject().as_str() == "back.write" {
                m.user().unwrap().require_scope("write")?;
            }
            Ok::<_, ServiceError>(seen(&m))
        };
        services.push(back.serve(subject, handler).await.unwrap());
    }
    services
}

/// `middle.go` asks the subject that it is told, and narrows to `read` first.
async fn serve_middle(middle: &Client) -> Service {
    let client = middle.clone();
    middle
        .serve("middle.go", move |m: Message<String>| {
            let client = client.clone();
            async move {
                let limits = Limits::none().keep_scopes(["read", "admin"]);
                let message = client.message(m.payload()).payload("x").narrow(&limits);
                Ok::<_, ServiceError>(message.request().await?.decode::<Value>()?)
            }
        })
        .await
        .unwrap()
}

fn token(edge: &Minter) -> String {
    edge.token_with("alice", |claims| {
        claims.scope = "read write pay".to_owned();
        claims.reach = vec!["retail".to_owned(), "ops".to_owned()];
        claims
            .context
            .insert("tenants".to_owned(), json!(["t1", "t2"]));
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_add_up_along_the_chain_and_every_hop_shows_what_is_left() {
    let bus = Bus::start(POLICY).await;
    let edge = Minter::connect(&bus, "edge").await;
    let (middle, back) = (bus.client("middle").await, bus.client("back").await);
    let _services = (serve_back(&back).await, serve_middle(&middle).await);
    let token = token(&edge);
    let through_middle = async |limits: &Limits, subject: &str| -> Value {
        let message = edge.client.message("middle.go").payload(subject);
        let response = message.user_token(&token).narrow(limits).request().await;
        response.unwrap().decode().unwrap()
    };
    // The middle's own limits alone: what is kept and not held is not given.
    let got = through_middle(&Limits::none(), "back.look").await;
    assert_eq!(got["scopes"], json!(["read"]));
    assert_eq!(got["reach"], json!(["retail", "ops"]));
    assert_eq!(got["may_write"], json!(false));

    // With the caller's before them; encrypted too.
    let end = now().saturating_add(Duration::from_secs(20));
    let callers = Limits::none()
        .keep_scopes(["write", "pay"])
        .keep_reach(["retail"])
        .keep_values("tenants", ["t2"])
        .unwrap()
        .until(end);
    for subject in ["back.look", "back.sealed", "back.retail"] {
        let got = through_middle(&callers, subject).await;
        assert_eq!(
            got,
            json!({
                "scopes": [], "reach": ["retail"], "tenants": ["t2"],
                "may_write": false, "ends": end.as_millis(),
            })
        );
    }
    // Without limits nothing is taken away.
    let message = edge.client.message("back.look").payload("x");
    let whole: Value = message
        .user_token(&token)
        .request()
        .await
        .unwrap()
        .decode()
        .unwrap();
    assert_eq!(whole["scopes"], json!(["read", "write", "pay"]));
    assert_eq!(whole["may_write"], json!(true));
    assert!(back.stats().refused().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_14_a_narrowed_user_is_refused_by_sender_receiver_and_handler() {
    let bus = Bus::start(POLICY).await;
    let edge = Minter::connect(&bus, "edge").await;
    let back = bus.client("back").await;
    let _services = serve_back(&back).await;
    let token = token(&edge);
    let no_retail = Limits::none().keep_reach(["ops"]);
    let ask = |subject: &str| edge.client.message(subject).payload("x").user_token(&token);

    let error = ask("back.retail")
        .narrow(&no_retail)
        .request()
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::Send(SendError::Denied { .. })),
        "{error}"
    );
    // A sender that does not ask itself.
    let forger = Forger::genuine(&bus, "edge").await;
    let raw = bus.raw_client("edge").await;
    let forge = |subject: &'static str, limits: Vec<u8>| {
        let (raw, forger, token) = (raw.clone(), &forger, &token);
        let inbox = bus.peer_inbox("edge", "x");
        async move {
            let sealed = forger.limited_request(subject, &inbox, b"\xa1x", token, &limits);
            raw.publish_with_reply(subject, inbox.clone(), sealed)
                .await
                .unwrap();
        }
    };
    forge("back.retail", no_retail.encode().unwrap().unwrap()).await;
    eventually(|| back.stats().refused_for("out_of_reach") == 1).await;
    // A time that is over.
    let past = Limits::none().until(now().saturating_sub(Duration::from_secs(10)));
    let error = ask("back.look").narrow(&past).request().await.unwrap_err();
    let RequestError::Send(SendError::User { reason }) = error else {
        panic!("{error}");
    };
    assert_eq!(reason, "limits_ended");
    forge("back.look", past.encode().unwrap().unwrap()).await;
    eventually(|| back.stats().refused_for("limits_ended") == 1).await;
    // The handler's own question.
    let reading = Limits::none().keep_scopes(["read"]);
    let error = ask("back.write")
        .narrow(&reading)
        .request()
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.code(), ServiceErrorCode::Forbidden);
    ask("back.write").request().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_14_nobody_escapes_a_deny_rule_by_taking_a_claim_off() {
    let bus = Bus::start(POLICY).await;
    let (edge, front) = (
        Minter::connect(&bus, "edge").await,
        bus.client("front").await,
    );
    let client = front.clone();
    let _service = front
        .serve("front.go", move |_: Message<String>| {
            let client = client.clone();
            async move {
                let reading = Limits::none().keep_scopes(["read"]);
                let denied = client
                    .message("back.narrow_writers_are_refused")
                    .payload("x")
                    .narrow(&reading);
                let error = denied.request().await.unwrap_err();
                let RequestError::Send(SendError::Denied { denial, .. }) = error else {
                    panic!("{error}");
                };
                Ok::<_, ServiceError>(denial.reason().code())
            }
        })
        .await
        .unwrap();
    let message = edge.client.message("front.go").payload("x");
    let response = message.user_token(token(&edge)).request().await.unwrap();
    assert_eq!(response.decode::<String>().unwrap(), "denied_by_rule");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrowed_context_narrows_all_that_is_sent_in_it() {
    let bus = Bus::start(POLICY).await;
    let edge = Minter::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _back = serve_back(&back).await;
    let client = front.clone();
    let _service = front
        .serve("front.go", move |_: Message<String>| {
            let client = client.clone();
            async move {
                let reading = Limits::none().keep_scopes(["read"]);
                let context = Context::current().narrowed(&reading).unwrap();
                let wide = Limits::none().keep_scopes(["read", "write", "pay"]);
                let inside = async {
                    let again = Context::current().narrowed(&wide).unwrap();
                    let message = client.message("back.look").payload("x");
                    message.context(again).request().await
                };
                let narrowed: Value = Box::pin(context.scope(inside)).await?.decode()?;
                // Outside it nothing has changed, and without a user nothing is left.
                let whole: Value = client.request("back.look", "x").await?;
                Ok::<_, ServiceError>(json!([narrowed["scopes"], whole["scopes"]]))
            }
        })
        .await
        .unwrap();
    let message = edge.client.message("front.go").payload("x");
    let response = message.user_token(token(&edge)).request().await.unwrap();
    assert_eq!(
        response.decode::<Value>().unwrap(),
        json!([["read"], ["read", "write", "pay"]])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_under_different_limits_share_no_frame() {
    let bus = Bus::start(POLICY).await;
    let edge = Minter::connect(&bus, "edge").await;
    let back = bus.client("back").await;
    let mut news = back.subscribe("news").await.unwrap();
    let token = token(&edge);
    let all = ["read", "write", "pay"];
    for n in 0..30 {
        let limits = Limits::none().keep_scopes(&all[..n % 3]);
        let message = edge.client.message("news").payload(&n);
        message
            .user_token(&token)
            .narrow(&limits)
            .publish()
            .await
            .unwrap();
    }
    for n in 0..30 {
        let message = news.next().await.unwrap();
        assert_eq!(message.decode::<usize>().unwrap(), n);
        assert_eq!(message.user().unwrap().scopes().count(), n % 3);
    }
}
