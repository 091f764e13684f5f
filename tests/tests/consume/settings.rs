//! 33: what a consumer stands on is looked at, and where it does not hold it stops.

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy};

use super::*;

pub(crate) async fn update(bus: &Bus, stream: &str, change: impl FnOnce(&mut Config)) {
    let context = jetstream::new(bus.js_client().await);
    let mut config = context
        .get_stream(stream)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    change(&mut config);
    context.update_stream(config).await.unwrap();
}

#[track_caller]
fn fault(error: &ConsumeError) -> &str {
    match error {
        ConsumeError::Misconfigured { fault, .. } => fault.setting(),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_33_a_reconfigured_stream_stops_its_consumers() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let mut orders = mail.consume("ORDERS", "mail").await.unwrap();
    let mut secrets = mail.consume("SECRETS", "mail").await.unwrap();
    let mut short = mail.consume("SHORT", "mail").await.unwrap();
    let mut copy = mail.consume("COPY", "mail").await.unwrap();
    shop.append("orders.1.created", "before").await.unwrap();
    next(&mut orders).await.unwrap().ack().await.unwrap();
    next(&mut copy).await.unwrap().ack().await.unwrap();

    // While they wait for messages.
    let window = Duration::from_millis(100);
    update(&bus, "ORDERS", |c| c.duplicate_window = window).await;
    update(&bus, "SECRETS", |c| c.max_messages_per_subject = 1).await;
    update(&bus, "SHORT", |c| c.discard = DiscardPolicy::Old).await;
    let (orders_end, secrets_end, short_end, copy_end) = tokio::join!(
        next(&mut orders),
        next(&mut secrets),
        next(&mut short),
        next(&mut copy)
    );
    // A mirror is as good as its stream.
    assert_eq!(fault(&copy_end.unwrap_err()), "duplicate_window");
    assert_eq!(fault(&orders_end.unwrap_err()), "duplicate_window");
    assert_eq!(fault(&secrets_end.unwrap_err()), "max_msgs_per_subject");
    assert_eq!(fault(&short_end.unwrap_err()), "discard");
    assert_eq!(mail.stats().refused_for("stream_misconfigured"), 4);

    // It stays stopped: what was forgotten meanwhile nobody knows.
    let was = Duration::from_secs(120);
    update(&bus, "ORDERS", |c| c.duplicate_window = was).await;
    shop.append("orders.2.created", "after").await.unwrap();
    assert_eq!(
        fault(&next(&mut orders).await.unwrap_err()),
        "duplicate_window"
    );
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 1, 1));
    // Until somebody binds anew.
    let mut orders = mail.consume("ORDERS", "mail").await.unwrap();
    next(&mut orders).await.unwrap().ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_33_nobody_binds_to_a_stream_that_does_not_hold() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    shop.append("orders.1.created", "x").await.unwrap();
    update(&bus, "ORDERS", |c| c.allow_message_ttl = true).await;
    let error = mail.consume("ORDERS", "mail").await.unwrap_err();
    assert_eq!(fault(&error), "allow_msg_ttl");
    // A stream that somebody made by hand, of another kind than the policy says.
    let context = jetstream::new(bus.js_client().await);
    context.delete_stream("JOBS").await.unwrap();
    let by_hand = Config {
        name: "JOBS".to_owned(),
        subjects: vec!["jobs.>".to_owned()],
        ..Config::default()
    };
    context.create_stream(by_hand).await.unwrap();
    let pull = jetstream::consumer::pull::Config {
        durable_name: Some("mail".to_owned()),
        ..Default::default()
    };
    context
        .create_consumer_on_stream(pull, "JOBS")
        .await
        .unwrap();
    let error = mail.consume("JOBS", "mail").await.unwrap_err();
    assert_eq!(fault(&error), "retention");
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_gone_is_an_error() {
    let bus = Bus::start(POLICY).await;
    let mail = bus.client("mail").await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let context = jetstream::new(bus.js_client().await);
    context
        .delete_consumer_from_stream("mail", "ORDERS")
        .await
        .unwrap();
    let error = next(&mut consumer).await.unwrap_err();
    assert!(matches!(error, ConsumeError::Gone { .. }), "{error}");
    let error = mail.consume("ORDERS", "mail").await.unwrap_err();
    assert!(matches!(error, ConsumeError::Gone { .. }), "{error}");
}
