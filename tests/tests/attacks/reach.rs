//! Attack 31: a service that received a user's token spends it where the route
//! that minted it does not reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulla_sdk::{Message, PublishError, RequestError, SendError, Service, ServiceError};
use bulla_tests::{Bus, Forger, Minter, now};

use super::eventually;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.kiosk]
attest = [{ nkey = "@kiosk@" }]
mints = true
reach = ["retail"]
[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.payroll]
attest = [{ nkey = "@payroll@" }]

[subject."orders.>"]
user = "required"
audience = "retail"
[subject."payroll.>"]
audience = "back-office"

[[allow]]
id = "edges-order"
who = ["edge", "kiosk"]
may = ["request"]
on = ["orders.create", "payroll.raise"]
[[allow]]
id = "orders-serves"
who = ["orders"]
may = ["serve"]
on = ["orders.create"]
# Legitimate for back-office users, and for orders itself without one.
[[allow]]
id = "orders-raises"
who = ["orders"]
may = ["request", "publish"]
on = ["payroll.raise", "payroll.noted"]
[[allow]]
id = "payroll-serves"
who = ["payroll"]
may = ["serve", "subscribe"]
on = ["payroll.raise", "payroll.noted"]
"#;

async fn serve_payroll(bus: &Bus) -> (bulla_sdk::Client, Service, Arc<AtomicU64>) {
    let payroll = bus.client("payroll").await;
    let ran = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ran);
    let service = payroll
        .serve("payroll.raise", move |m: Message<String>| {
            counter.fetch_add(1, Ordering::SeqCst);
            let user = m.user().map(|user| user.principal().to_owned());
            async move { Ok::<_, ServiceError>(user) }
        })
        .await
        .unwrap();
    (payroll, service, ran)
}

fn is_out_of_reach(error: &RequestError) -> bool {
    let RequestError::Send(SendError::Denied { denial, .. }) = error else {
        return false;
    };
    denial.reason().code() == "out_of_reach" && denial.audience() == Some("back-office")
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_31_a_token_is_not_spent_outside_its_reach() {
    let bus = Bus::start(POLICY).await;
    let edge = Minter::connect(&bus, "edge").await;
    let orders = bus.client("orders").await;
    let (payroll, _payroll_service, raised) = serve_payroll(&bus).await;
    let client = orders.clone();
    let tried = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&tried);
    let _orders_service = orders
        .serve("orders.create", move |_: Message<String>| {
            let (client, counter) = (client.clone(), Arc::clone(&counter));
            async move {
                // By itself, with the user of the request.
                let asked = client
                    .request::<_, Option<String>>("payroll.raise", "me")
                    .await;
                assert!(is_out_of_reach(asked.as_ref().unwrap_err()), "{asked:?}");
                let told = client.publish("payroll.noted", "me").await;
                assert!(
                    matches!(told, Err(PublishError::Send(SendError::Denied { .. }))),
                    "{told:?}"
                );
                // Without the user the policy lets it.
                let message = client.message("payroll.raise").payload("me").without_user();
                let nobody: Option<String> = message.request().await.unwrap().decode().unwrap();
                assert_eq!(nobody, None);
                counter.fetch_add(1, Ordering::SeqCst);
                Ok::<_, ServiceError>(())
            }
        })
        .await
        .unwrap();
    let ask = |subject: &'static str, token: &str| {
        let message = edge.client.message(subject).payload("x").user_token(token);
        async move { message.request().await }
    };

    let retail = edge.token("alice", "", &["retail"]);
    ask("orders.create", &retail).await.unwrap();
    assert_eq!(tried.load(Ordering::SeqCst), 1);
    assert_eq!(raised.load(Ordering::SeqCst), 1);

    // The edge is held to it too, and a token that reaches nothing is spent nowhere.
    assert!(is_out_of_reach(
        &ask("payroll.raise", &retail).await.unwrap_err()
    ));
    let nothing = edge.token("alice", "", &[]);
    let error = ask("orders.create", &nothing).await.unwrap_err();
    assert!(matches!(
        error,
        RequestError::Send(SendError::Denied { .. })
    ));

    // A service that does not ask its own SDK: the receiver refuses.
    let forger = Forger::genuine(&bus, "orders").await;
    let raw = bus.raw_client("orders").await;
    let inbox = bus.peer_inbox("orders", "x");
    let sealed = forger.request_for_user("payroll.raise", &inbox, now(), b"\xa2me", &retail);
    raw.publish_with_reply("payroll.raise", inbox.clone(), sealed)
        .await
        .unwrap();
    eventually(|| payroll.stats().refused_for("out_of_reach") == 1).await;
    assert_eq!(raised.load(Ordering::SeqCst), 1);
    // The same with a token that reaches it: the test above fails for its reach alone.
    let both = edge.token("alice", "", &["retail", "back-office"]);
    let sealed = forger.request_for_user("payroll.raise", &inbox, now(), b"\xa2me", &both);
    raw.publish_with_reply("payroll.raise", inbox, sealed)
        .await
        .unwrap();
    eventually(|| raised.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_31_a_minter_mints_no_reach_beyond_its_own() {
    let bus = Bus::start(POLICY).await;
    let kiosk = Minter::connect(&bus, "kiosk").await;
    let (payroll, _service, raised) = serve_payroll(&bus).await;
    let wide = kiosk.token("alice", "", &["retail", "back-office"]);
    let message = kiosk.client.message("payroll.raise").payload("x");
    let error = message.user_token(&wide).request().await.unwrap_err();
    let RequestError::Send(SendError::User { reason }) = error else {
        panic!("{error}");
    };
    assert_eq!(reason, "token_beyond_minter");

    let forger = Forger::genuine(&bus, "kiosk").await;
    let raw = bus.raw_client("kiosk").await;
    let inbox = bus.peer_inbox("kiosk", "x");
    let sealed = forger.request_for_user("payroll.raise", &inbox, now(), b"\xa1x", &wide);
    raw.publish_with_reply("payroll.raise", inbox, sealed)
        .await
        .unwrap();
    eventually(|| payroll.stats().refused_for("token_beyond_minter") == 1).await;
    assert_eq!(raised.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_held_to_the_reach_by_every_subscriber() {
    let bus = Bus::start(POLICY).await;
    let edge = Minter::connect(&bus, "edge").await;
    let payroll = bus.client("payroll").await;
    let mut noted = payroll.subscribe("payroll.noted").await.unwrap();
    let forger = Forger::genuine(&bus, "orders").await;
    let raw = bus.raw_client("orders").await;
    for reach in [&["retail"][..], &["back-office"]] {
        let token = edge.token("alice", "", reach);
        let sealed = forger.event_for_user("payroll.noted", now(), b"\xa1x", &token);
        raw.publish("payroll.noted", sealed).await.unwrap();
    }
    let message = noted.next().await.unwrap();
    assert_eq!(message.user().unwrap().claims().reach().count(), 1);
    assert_eq!(payroll.stats().refused_for("out_of_reach"), 1);
}
