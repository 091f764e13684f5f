//! 33: what a consumer stands on is looked at, and where it does not hold it stops.

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use bulla_tests::Cable;

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

/// Puts a stream in the place of one of the policy's, with a consumer of the same
/// name as was there.
pub(crate) async fn made_by_hand(bus: &Bus, stream: &str, config: Config) {
    let context = jetstream::new(bus.js_client().await);
    context.delete_stream(stream).await.unwrap();
    let config = Config {
        name: stream.to_owned(),
        ..config
    };
    context.create_stream(config).await.unwrap();
    let pull = jetstream::consumer::pull::Config {
        durable_name: Some("mail".to_owned()),
        ..Default::default()
    };
    context
        .create_consumer_on_stream(pull, stream)
        .await
        .unwrap();
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
    let by_hand = Config {
        subjects: vec!["jobs.>".to_owned()],
        ..Config::default()
    };
    made_by_hand(&bus, "JOBS", by_hand).await;
    let error = mail.consume("JOBS", "mail").await.unwrap_err();
    assert_eq!(fault(&error), "retention");
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 1, 0));
}

/// With roll-ups one message can remove what was stored, and its id with it.
/// nats-server refuses them for a stream that denies purges, and takes back no such
/// denial; so whoever wants them makes the stream anew.
#[tokio::test(flavor = "multi_thread")]
async fn attack_33_a_stream_that_is_made_anew_with_rollups_or_by_another_retention_stops_its_consumers()
 {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let context = jetstream::new(bus.js_client().await);
    let sound = context.get_stream("ORDERS").await.unwrap();
    let sound = sound.cached_info().config.clone();
    let rolled = Config {
        allow_rollup: true,
        ..sound.clone()
    };
    for refused in [
        rolled.clone(),
        Config {
            deny_purge: false,
            ..rolled.clone()
        },
    ] {
        context.update_stream(refused).await.unwrap_err();
    }
    for (setting, anew) in [
        (
            "deny_purge",
            Config {
                deny_purge: false,
                ..rolled
            },
        ),
        (
            "retention",
            Config {
                retention: RetentionPolicy::WorkQueue,
                ..sound.clone()
            },
        ),
    ] {
        made_by_hand(&bus, "ORDERS", sound.clone()).await;
        let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
        shop.append("orders.1.created", "before").await.unwrap();
        next(&mut consumer).await.unwrap().ack().await.unwrap();
        // While it waits for messages.
        let changing = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            made_by_hand(&bus, "ORDERS", anew).await;
            shop.append("orders.2.created", "after").await.unwrap();
        };
        let (end, ()) = tokio::join!(next(&mut consumer), changing);
        let end = end.unwrap_err();
        // In between there was none.
        if !matches!(end, ConsumeError::Gone { .. }) {
            assert_eq!(fault(&end), setting);
        }
        let error = mail.consume("ORDERS", "mail").await.unwrap_err();
        assert_eq!(fault(&error), setting);
        assert_eq!(state(&bus, "ORDERS", "mail").await.1, 1, "{setting}");
    }
    assert_eq!(mail.stats().delivered(), 2);
}

/// What a consumer did not see because it was cut off, it looks for before it takes
/// anything, however long it would wait for its next look.
#[tokio::test(flavor = "multi_thread")]
async fn attack_33_a_stream_that_was_reconfigured_behind_a_cut_connection_stops_its_consumers() {
    let bus = Bus::start(POLICY).await;
    let cable = Cable::to(bus.nats_url()).await;
    let (shop, mail) = (
        bus.client("shop").await,
        bus.client_behind(&cable, "mail").await,
    );
    let consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let mut consumer = consumer.look_every(Duration::from_secs(60));
    shop.append("orders.1.created", "before").await.unwrap();
    next(&mut consumer).await.unwrap().ack().await.unwrap();

    let waiting = async {
        let longer_than_a_pull = Duration::from_secs(25);
        timeout(longer_than_a_pull, consumer.next()).await
    };
    let behind = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cable.cut();
        let window = Duration::from_millis(100);
        update(&bus, "ORDERS", |c| c.duplicate_window = window).await;
        shop.append("orders.2.created", "after").await.unwrap();
        cable.mend();
    };
    let (end, ()) = tokio::join!(waiting, behind);
    let end = end.expect("it looks when it is back").unwrap_err();
    assert_eq!(fault(&end), "duplicate_window");
    assert_eq!(mail.stats().delivered(), 1);
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 1, 1));
}

/// A look that is given up counts for none: whoever waits for other things too drops what
/// he waits for at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn attack_33_a_consumer_that_is_dropped_while_it_looks_looks_again() {
    let bus = Bus::start(POLICY).await;
    let cable = Cable::to(bus.nats_url()).await;
    let (shop, mail) = (
        bus.client("shop").await,
        bus.client_behind(&cable, "mail").await,
    );
    let consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let mut consumer = consumer.look_every(Duration::from_secs(60));
    shop.append("orders.1.created", "before").await.unwrap();
    next(&mut consumer).await.unwrap().ack().await.unwrap();

    cable.cut();
    let window = Duration::from_millis(100);
    update(&bus, "ORDERS", |c| c.duplicate_window = window).await;
    shop.append("orders.2.created", "after").await.unwrap();
    cable.mend();
    let mut end = None;
    for _ in 0..2_000 {
        let impatient = timeout(Duration::from_millis(1), consumer.next()).await;
        end = impatient.ok();
        if end.is_some() {
            break;
        }
    }
    let end = match end {
        Some(end) => end,
        None => next(&mut consumer).await,
    };
    assert_eq!(fault(&end.unwrap_err()), "duplicate_window");
    assert_eq!(mail.stats().delivered(), 1);
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
