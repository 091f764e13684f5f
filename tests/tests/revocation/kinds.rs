//! Each kind of revocation, with every cache warm before it.

use std::time::Duration;

use bulla_envelope::Revoked;
use bulla_identity::reserved;
use bulla_sdk::{
    Client, Context, Message, PublishError, RequestError, SendError, ServiceError, Standing,
};
use bulla_tests::{Bus, Forger, leaf_of, now};
use futures_util::StreamExt as _;

use super::{Edge, POLICY, eventually};

async fn serve(back: &Client) -> bulla_sdk::Service {
    back.serve("back.echo", async |m: Message<String>| {
        Ok::<_, ServiceError>(m.into_payload())
    })
    .await
    .unwrap()
}

/// Delivers what somebody sealed.
async fn deliver(courier: &async_nats::Client, forger: &Forger, inbox: &str) {
    let sealed = forger.request("back.echo", inbox, now(), b"\xa1x");
    courier
        .publish_with_reply("back.echo", inbox.to_owned(), sealed)
        .await
        .unwrap();
    let _ = courier.request(reserved::BARRIER, "".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_workload_loses_its_connection_its_credentials_and_its_voice() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = serve(&back).await;
    let answer: String = front.request("back.echo", "x").await.unwrap();
    assert_eq!(answer, "x");
    let id = bus.workload("front");
    assert_eq!(bus.connections_of(&id).await, 1);

    bus.revoke_workload("front").await;
    // It knows, and is silent.
    eventually(|| front.stats().alarms().contains_key("own_workload_revoked")).await;
    assert_eq!(front.standing(), Err(Standing::WorkloadRevoked));
    let error = front.request::<_, String>("back.echo", "x").await;
    let Err(RequestError::Send(SendError::Standing(standing))) = error else {
        panic!("{error:?}")
    };
    assert_eq!(standing.code(), "own_workload_revoked");
    // Nobody of that name is connected any more, or gets in.
    let end = tokio::time::Instant::now() + Duration::from_secs(3);
    while bus.connections_of(&id).await > 0 {
        assert!(tokio::time::Instant::now() < end, "still connected");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seed = bus.seed("front");
    assert!(bus.raw_client_with("front", seed).await.is_err());
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(bus.connections_of(&id).await, 0, "it came back");
    assert!(!front.is_connected());
    // Others go on.
    assert!(back.standing().is_ok());
    assert!(back.is_connected());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_holds_for_whom_it_is_known_and_a_lifted_one_no_more() {
    let bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    let _service = serve(&back).await;
    let forger = Forger::genuine(&bus, "front").await;
    let courier = bus.raw_client("courier").await;
    let inbox = bus.peer_inbox("front", "x");
    // Known sender, known batch, known decision.
    for n in 1..=3 {
        deliver(&courier, &forger, &inbox).await;
        eventually(|| back.stats().delivered() == n).await;
    }
    bus.revoke_workload("front").await;
    eventually(|| back.revocations().sequence() == 1).await;
    deliver(&courier, &forger, &inbox).await;
    eventually(|| back.stats().refused_for("workload_revoked") == 1).await;
    assert_eq!(back.stats().delivered(), 3);
    assert!(
        back.revocations()
            .is_workload_revoked(&bus.workload("front"))
    );

    bus.change_revocations(Vec::clear).await;
    eventually(|| back.revocations().sequence() == 2).await;
    // What was refused is not asked about for two seconds.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    deliver(&courier, &forger, &inbox).await;
    eventually(|| back.stats().delivered() == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_is_refused_and_its_process_gets_another() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = serve(&back).await;
    let forger = Forger::genuine(&bus, "front").await;
    let courier = bus.raw_client("courier").await;
    let inbox = bus.peer_inbox("front", "x");
    deliver(&courier, &forger, &inbox).await;
    eventually(|| back.stats().delivered() == 1).await;
    let _: String = front.request("back.echo", "x").await.unwrap();

    // One process's key alone: the other process of the workload goes on.
    bus.revoke(Revoked::Key(forger.credential().id())).await;
    eventually(|| back.revocations().sequence() == 1).await;
    deliver(&courier, &forger, &inbox).await;
    eventually(|| back.stats().refused_for("key_revoked") == 1).await;
    let _: String = front.request("back.echo", "x").await.unwrap();

    // And the SDK's own: it notices, and asks for another one.
    let (before, _) = front.signing_key();
    bus.revoke(Revoked::Key(before)).await;
    eventually(|| front.stats().alarms().contains_key("own_key_revoked")).await;
    eventually(|| front.signing_key().0 != before).await;
    let answer: String = front.request("back.echo", "again").await.unwrap();
    assert_eq!(answer, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_user_or_token_is_refused_everywhere() {
    for (what, sender_says) in [
        (Revoked::User("alice".to_owned()), "user_revoked"),
        (Revoked::Token("txn-1".to_owned()), "user_revoked"),
    ] {
        let bus = Bus::start(POLICY).await;
        let edge = Edge::connect(&bus).await;
        let back = bus.client("back").await;
        let _service = serve(&back).await;
        let token = edge.token("alice", "txn-1");
        let ask = async |token: &str| {
            let message = edge.client.message("back.echo").payload("x");
            message.user_token(token).request().await.map(drop)
        };
        ask(&token).await.unwrap();
        ask(&token).await.unwrap();
        // The same token again, from one who does not look.
        let forger = Forger::genuine(&bus, "edge").await;
        let courier = bus.raw_client("courier").await;
        let inbox = bus.peer_inbox("edge", "x");
        let bare = async || {
            let sealed = forger.request_for_user("back.echo", &inbox, now(), b"\xa1x", &token);
            courier
                .publish_with_reply("back.echo", inbox.clone(), sealed)
                .await
                .unwrap();
        };
        bare().await;
        eventually(|| back.stats().delivered() == 3).await;

        bus.revoke(what.clone()).await;
        eventually(|| {
            back.revocations().sequence() == 1 && edge.client.revocations().sequence() == 1
        })
        .await;
        let Err(RequestError::Send(SendError::User { reason })) = ask(&token).await else {
            panic!("sent")
        };
        assert_eq!(reason, sender_says);
        bare().await;
        eventually(|| back.stats().refused_for("user_revoked") == 1).await;
        assert_eq!(back.stats().delivered(), 3);
        // Another user, in another chain, is nobody's business.
        ask(&edge.token("bob", "txn-2")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_sends_nothing_more_for_a_user_who_is_revoked_meanwhile() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus).await;
    let back = bus.client("back").await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let _service = back
        .serve("back.echo", move |m: Message<String>| {
            tell.send(Context::current()).unwrap();
            async move { Ok::<_, ServiceError>(m.into_payload()) }
        })
        .await
        .unwrap();
    let message = edge.client.message("back.echo").payload("x");
    let token = edge.token("alice", "txn-1");
    message.user_token(token).request().await.unwrap();
    let context = told.recv().await.unwrap();
    assert_eq!(context.user().unwrap().principal(), "alice");
    let send = async || {
        let message = back.message("back.said").payload("x");
        message.context(context.clone()).publish().await
    };
    send().await.unwrap();
    bus.revoke(Revoked::User("alice".to_owned())).await;
    eventually(|| back.revocations().sequence() == 1).await;
    let Err(PublishError::Send(SendError::User { reason })) = send().await else {
        panic!("sent")
    };
    assert_eq!(reason, "user_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_edge_has_minted_counts_no_more() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus).await;
    let back = bus.client("back").await;
    let _service = serve(&back).await;
    let token = edge.token("alice", "txn-1");
    let forger = Forger::genuine(&bus, "front").await;
    let courier = bus.raw_client("courier").await;
    let inbox = bus.peer_inbox("front", "x");
    let bare = async || {
        let sealed = forger.request_for_user("back.echo", &inbox, now(), b"\xa1x", &token);
        courier
            .publish_with_reply("back.echo", inbox.clone(), sealed)
            .await
            .unwrap();
    };
    bare().await;
    eventually(|| back.stats().delivered() == 1).await;
    bus.revoke_workload("edge").await;
    eventually(|| back.revocations().sequence() == 1).await;
    bare().await;
    eventually(|| back.stats().refused_for("token_minter_revoked") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_of_a_revoked_workload_does_not_end_the_wait() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let forger = Forger::genuine(&bus, "back").await;
    // Speaks for `back` by hand, and answers after it was revoked.
    let raw = bus.raw_client("back").await;
    let mut asked = raw
        .queue_subscribe("back.echo", "back".to_owned())
        .await
        .unwrap();
    let _ = raw.request(reserved::BARRIER, "".into()).await;
    let request = tokio::spawn({
        let front = front.clone();
        async move {
            let message = front.message("back.echo").payload("x");
            message.timeout(Duration::from_secs(2)).request().await
        }
    });
    let request_seen = asked.next().await.unwrap();
    let inbox = request_seen.reply.unwrap();
    bus.revoke_workload("back").await;
    eventually(|| front.revocations().sequence() == 1).await;
    let reply = forger.reply(&inbox, leaf_of(&request_seen.payload), b"\xa1x");
    // Its own connection is gone: somebody delivers it for `back`.
    let mirror = bus.raw_client("mirror").await;
    mirror.publish(inbox, reply).await.unwrap();
    eventually(|| front.stats().refused_for("workload_revoked") == 1).await;
    let outcome = request.await.unwrap();
    let Err(RequestError::UnsoundReply { reason, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(reason, "workload_revoked");
}
