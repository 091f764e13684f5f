//! What the policy, the receiver and nats-server refuse, and who is told.

use std::time::Duration;

use bulla_identity::reserved;
use bulla_sdk::{
    FlushError, Message, PublishError, RequestError, SendError, ServiceError, SubscribeError,
};
use bulla_tests::{Bus, Cable, Forger, now};
use futures_util::StreamExt;

use super::{POLICY, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_explained_before_anything_is_sent() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let error = front.publish("nobody.listens", "x").await.unwrap_err();
    let PublishError::Send(SendError::Denied { denial, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(denial.reason().code(), "not_granted");
    let error = front
        .request::<_, String>("back.quote", "x")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("demands a user"), "{error}");
    for subject in ["", "a b", "events.*.done", "events.>", "a..b", "$SYS.x"] {
        assert!(front.publish(subject, "x").await.is_err(), "{subject}");
    }
    let Err(error) = front.subscribe("events.a.done").await else {
        panic!("subscribed")
    };
    assert!(matches!(error, SubscribeError::Denied { .. }), "{error}");
    let Err(error) = front
        .serve("back.echo", async |_: Message<String>| {
            Ok::<_, ServiceError>(())
        })
        .await
    else {
        panic!("serves")
    };
    assert!(matches!(error, SubscribeError::Denied { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nats_server_refuses_later_reaches_the_caller() {
    let bus = Bus::start(POLICY).await;
    let (front, other) = (bus.client("front").await, bus.client("front").await);
    // A newer policy grants more than the connections' permissions, which were
    // compiled when they were made.
    let wider = POLICY.replace(
        r#"on = ["events.{kind}.done"]"#,
        r#"on = ["events.{kind}.done", "events.extra"]"#,
    );
    bus.publish_policy(&wider).await;
    eventually(|| front.policy().revision() == 2 && other.policy().revision() == 2).await;
    front.publish("events.extra", "x").await.unwrap();
    let error = front.flush().await.unwrap_err();
    let FlushError::Refused { refused } = error else {
        panic!("{error}")
    };
    assert_eq!(refused.get("events.extra"), Some(&1));
    // Without a flush, the next publish on the subject says so; meanwhile it
    // connects anew, with what the policy gives now.
    other.publish("events.extra", "x").await.unwrap();
    let mut told = None;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Err(error) = other.publish("events.extra", "x").await {
            told = Some(error);
            break;
        }
    }
    assert!(
        matches!(told, Some(PublishError::EarlierRefused { .. })),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_or_request_that_nats_server_refuses_is_an_error() {
    let mut bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    // A broker would end the connection, which would get its new rights then.
    bus.kill_broker(bus.broker(0)).await;
    let wider = POLICY
        .replace(
            r#"who = ["back"]
may = ["subscribe"]"#,
            r#"who = ["back", "front"]
may = ["subscribe"]"#,
        )
        .replace(
            r#"on = ["back.anonymous", "back.echo", "back.secret"]"#,
            r#"on = ["back.anonymous", "back.echo", "back.new"]"#,
        );
    bus.publish_policy(&wider).await;
    eventually(|| front.policy().revision() == 2).await;
    let Err(error) = front.subscribe("events.*.done").await else {
        panic!("subscribed")
    };
    assert!(
        matches!(error, SubscribeError::RefusedByServer { .. }),
        "{error}"
    );
    let start = tokio::time::Instant::now();
    let error = front
        .request::<_, String>("back.new", "x")
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::RefusedByServer { .. }),
        "{error}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "it did not wait for its time-out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_15_a_workload_that_a_new_policy_drops_is_refused_at_once() {
    // Brokers end the connections of who loses a right: another one carries what it sealed,
    // as whoever runs nats-server could.
    let carried = "[[allow]]\nid = \"edge-carries\"\nwho = [\"edge\"]\nmay = [\"request\"]\non = [\"back.echo\"]\n";
    let policy = format!("{POLICY}{carried}");
    let bus = Bus::start(&policy).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let forger = Forger::genuine(&bus, "front").await;
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let answer: String = front.request("back.echo", "x").await.unwrap();
    assert_eq!(answer, "x");
    let raw = bus.raw_client("edge").await;
    let old = bus.control_record(reserved::CTL_POLICY).await;
    let narrower = policy.replace(
        r#"on = ["back.anonymous", "back.echo", "back.secret"]"#,
        r#"on = ["back.anonymous"]"#,
    );
    bus.publish_policy(&narrower).await;
    eventually(|| back.policy().revision() == 2).await;
    // It ignores its own policy; the receiver does not.
    let inbox = bus.peer_inbox("front", "x");
    let sealed = forger.request("back.echo", &inbox, now(), b"\xa1x");
    raw.publish_with_reply("back.echo", inbox, sealed)
        .await
        .unwrap();
    eventually(|| back.stats().refused_for("not_granted") == 1).await;
    // The older revision, genuine and signed, is not taken back.
    bus.replace_control_record(reserved::CTL_POLICY, old).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(back.policy().revision(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_15_a_policy_that_came_while_the_connection_was_down_is_not_missed() {
    let bus = Bus::start(POLICY).await;
    let cable = Cable::to(bus.nats_url()).await;
    let back = bus.client_behind(&cable, "back").await;
    cable.cut();
    eventually(|| !back.is_connected()).await;
    // The news of it reaches nobody here.
    bus.publish_policy(&POLICY.replace("front-asks-freely", "renamed"))
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(back.policy().revision(), 1);
    cable.mend();
    eventually(|| back.policy().revision() == 2).await;
}

/// nats-server delivers a genuine record to whatever reply subject a workload
/// names in a direct get, the news of others included.
#[tokio::test(flavor = "multi_thread")]
async fn attack_15_records_aimed_at_the_news_change_and_block_nothing() {
    let bus = Bus::start(POLICY).await;
    let back = bus.client("back").await;
    let mallory = bus.raw_client("front").await;
    let old = bus.control_record(reserved::CTL_POLICY).await;
    let get = |subject| reserved::direct_get(subject);
    let aim = async |get: String, at: &'static str| {
        for _ in 0..500 {
            mallory
                .publish_with_reply(get.clone(), at, "".into())
                .await
                .unwrap();
        }
        mallory.flush().await.unwrap();
    };
    let mut heard = bus
        .raw_client("wiretap")
        .await
        .subscribe(reserved::NEWS_ALL)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    aim(get(reserved::CTL_POLICY), reserved::NEWS_POLICY).await;
    aim(get(reserved::CTL_BUNDLE), reserved::NEWS_POLICY).await;
    aim(get(reserved::CTL_POLICY), reserved::NEWS_BUNDLE).await;
    aim(get("$BULLA.CTL.CRED.none"), reserved::NEWS_BUNDLE).await;
    // The attack is real: what it aims at arrives.
    assert_eq!(heard.next().await.unwrap().payload, old);
    bus.publish_policy(&POLICY.replace("front-asks-freely", "renamed"))
        .await;
    eventually(|| back.policy().revision() == 2).await;
    // And the old revision, aimed at the news, is not taken back.
    bus.replace_control_record("$BULLA.CTL.CRED.old", old).await;
    aim(get("$BULLA.CTL.CRED.old"), reserved::NEWS_POLICY).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(back.policy().revision(), 2);
}
