//! The ordinary course of things.

use bulla_sdk::{AppendError, ConsumeError, PublishError, SendError};
use futures_util::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_is_consumed_verified_and_answered_for() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    // Before anybody consumes: it waits.
    let first = shop.append("orders.1.created", "clay").await.unwrap();
    assert_eq!((first.stream(), first.sequence()), ("ORDERS", 1));
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    let message = delivery.message();
    assert_eq!(message.decode::<String>().unwrap(), "clay");
    assert_eq!(message.subject().as_str(), "orders.1.created");
    assert_eq!(message.sender().workload(), &bus.workload("shop"));
    assert_eq!(message.id(), first.id());
    assert_eq!(message.permit().rule(), "shop-appends");
    let receipt = delivery.receipt();
    assert_eq!((receipt.sequence(), receipt.times_delivered()), (1, 1));
    delivery.ack().await.unwrap();
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 1));

    // While somebody waits for it.
    let (waited, second) = tokio::join!(next(&mut consumer), async {
        shop.append("orders.2.created", "tablet").await.unwrap()
    });
    let delivery = waited.unwrap();
    assert_eq!(delivery.receipt().sequence(), second.sequence());
    delivery.receipt().in_progress().await.unwrap();
    delivery.ack().await.unwrap();
    assert_eq!(mail.stats().delivered(), 2);
    assert_eq!(mail.stats().refused().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_appends_at_once_are_all_stored_and_all_consumed_once() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let subjects: Vec<_> = (0..100).map(|i| format!("orders.{i}.created")).collect();
    let appends = subjects.iter().map(|subject| shop.append(subject, "x"));
    let mut sequences: Vec<_> = join_all(appends)
        .await
        .into_iter()
        .map(|appended| appended.unwrap().sequence())
        .collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=100).collect::<Vec<_>>());
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap().ahead(16);
    for want in 1..=100 {
        let delivery = next(&mut consumer).await.unwrap();
        assert_eq!(delivery.receipt().sequence(), want);
        delivery.ack().await.unwrap();
    }
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_does_not_grant_is_told_before_anything_is_sent() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let error = shop.append("orders.1.rumour", "x").await.unwrap_err();
    assert!(
        matches!(error, AppendError::Send(SendError::Denied { .. })),
        "{error}"
    );
    // What is not appended would be refused by every consumer.
    let error = shop.publish("orders.1.created", "x").await.unwrap_err();
    assert!(
        matches!(error, PublishError::Send(SendError::MustAppend { .. })),
        "{error}"
    );
    for (stream, name) in [
        ("ORDERS", "other"),
        ("NONE", "mail"),
        ("A.B", "c"),
        ("", ""),
    ] {
        let error = mail.consume(stream, name).await.unwrap_err();
        assert!(
            matches!(
                error,
                ConsumeError::Denied { .. } | ConsumeError::Name { .. }
            ),
            "{error}"
        );
    }
    let error = shop.consume("ORDERS", "mail").await.unwrap_err();
    assert!(matches!(error, ConsumeError::Denied { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_gone_ends_the_consumer_and_leaves_the_messages() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let without = POLICY.replace(r#"on = ["ORDERS.mail", "#, r#"on = ["#);
    bus.publish_policy(&without).await;
    eventually(async || mail.policy().revision() == 2).await;
    shop.append("orders.1.created", "x").await.unwrap();
    let error = next(&mut consumer).await.unwrap_err();
    assert!(matches!(error, ConsumeError::Denied { .. }), "{error}");
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_hears_what_is_appended_as_it_passes() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let mut live = mail.subscribe("orders.*.created").await.unwrap();
    let appended = shop.append("orders.1.created", "clay").await.unwrap();
    let heard = timeout(LIMIT, live.next()).await.unwrap().unwrap();
    assert_eq!(heard.id(), appended.id());
    assert_eq!(heard.permit().rule(), "shop-appends");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_event_waits_in_the_stream_for_its_reader() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    shop.append("secret.1", "the hoard is under the oak")
        .await
        .unwrap();
    drop(mail);
    let (_, bytes) = stored(&bus, "SECRETS", 1).await;
    assert!(!bytes.windows(5).any(|w| w == b"hoard"));
    // Another process of the same workload.
    let mail = bus.client("mail").await;
    let mut consumer = mail.consume("SECRETS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    let text: String = delivery.message().decode().unwrap();
    assert_eq!(text, "the hoard is under the oak");
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_consumed_as_its_stream_is() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let mut copy = mail.consume("COPY", "mail").await.unwrap();
    for want in 1..=2 {
        let appended = shop.append("orders.1.created", "x").await.unwrap();
        let delivery = next(&mut copy).await.unwrap();
        let receipt = delivery.receipt();
        assert_eq!((receipt.sequence(), appended.sequence()), (want, want));
        assert_eq!(delivery.message().id(), appended.id());
        delivery.ack().await.unwrap();
    }
    assert_eq!(state(&bus, "COPY", "mail").await, (0, 0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_interrupts_and_loses_nothing() {
    let mut bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    shop.append("orders.1.created", "before").await.unwrap();
    next(&mut consumer).await.unwrap().ack().await.unwrap();
    bus.restart_server().await;
    let appended = async {
        loop {
            if let Ok(appended) = shop.append("orders.2.created", "after").await {
                return appended;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (got, appended) = tokio::join!(next(&mut consumer), timeout(LIMIT, appended));
    let delivery = got.unwrap();
    assert_eq!(appended.unwrap().sequence(), 2);
    assert_eq!(delivery.receipt().sequence(), 2);
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_repeated_with_its_id_until_the_stream_has_spoken() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.client("shop").await;
    shop.append("orders.0.created", "warm").await.unwrap();
    // The first attempt reaches a server that hangs; by the time it wakes, the
    // same message has come a second time.
    bus.server().suspend();
    let append = shop.append("orders.1.created", "once");
    let wake = async {
        tokio::time::sleep(Duration::from_millis(2_600)).await;
        bus.server().resume();
    };
    let (appended, ()) = tokio::join!(append, wake);
    let appended = appended.unwrap();
    assert_eq!(appended.sequence(), 2);
    // A moment later nothing more has come.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state(&bus, "ORDERS", "mail").await.1, 2);
    assert_eq!(shop.stats().ids_taken(), 0);
}
