//! 2, 27: copies, redeliveries, squatted ids, and what does not belong in a stream.

use std::time::Duration;

use async_nats::jetstream;
use bulla_envelope::{Draft, FrameMessage};
use bulla_identity::Subject;
use bulla_sdk::{AppendError, MessageId};
use bulla_tests::{Forger, now};

use super::settings::made_by_hand;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn attack_02_redelivery_is_not_replay() {
    let bus = Bus::start(POLICY).await;
    for (stream, subject) in [("ORDERS", "orders.1.created"), ("JOBS", "jobs.1")] {
        let (shop, mail) = pair(&bus).await;
        shop.append(subject, "work").await.unwrap();
        let mut consumer = mail.consume(stream, "mail").await.unwrap();
        for times in 1..=3 {
            let delivery = next(&mut consumer).await.unwrap();
            let receipt = delivery.receipt();
            assert_eq!((receipt.sequence(), receipt.times_delivered()), (1, times));
            receipt.nak(None).await.unwrap();
        }
        // And by another process of the workload.
        drop(consumer);
        drop(mail);
        let again = bus.client("mail").await;
        let mut consumer = again.consume(stream, "mail").await.unwrap();
        let delivery = next(&mut consumer).await.unwrap();
        assert!(delivery.receipt().times_delivered() >= 4);
        delivery.ack().await.unwrap();
        nothing(&mut consumer).await;
        assert_eq!(again.stats().refused().len(), 0, "{:?}", again.stats());
    }
}

/// [ENV-46]
#[tokio::test(flavor = "multi_thread")]
async fn attack_02_a_copy_under_a_new_stream_sequence_is_refused() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let subject = "orders.1.created";
    let appended = shop.append(subject, "once").await.unwrap();
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    next(&mut consumer).await.unwrap().ack().await.unwrap();
    let (_, bytes) = stored(&bus, "ORDERS", 1).await;

    // Within the window of ids the stream itself knows it again.
    let id = header(appended.id());
    let told = append_raw(&bus, "shop", subject, Some(&id), bytes.clone()).await;
    assert_eq!(told["duplicate"], true, "{told}");
    // Under another id, or none, it stores the copy, and the consumer refuses it.
    for (count, id) in [(1, Some("another")), (2, None)] {
        let told = append_raw(&bus, "shop", subject, id, bytes.clone()).await;
        assert_eq!(told["seq"], count + 1, "{told}");
        nothing(&mut consumer).await;
        assert_eq!(mail.stats().refused_for("stored_under_another_id"), count);
    }
    assert_eq!(mail.stats().delivered(), 1);
    // Terminated, not left to come again.
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_02_a_copy_after_the_window_of_ids_is_refused() {
    let bus = Bus::start(POLICY).await;
    let mail = bus.client("mail").await;
    let forger = Forger::genuine(&bus, "shop").await;
    let (subject, id) = ("orders.1.created", MessageId([5; 16]));
    let life = Duration::from_millis(500);
    let sealed = forger.event_with_id(subject, id, now(), life, b"\xa4once");
    let first = append_raw(&bus, "shop", subject, Some(&header(id)), sealed.clone()).await;
    assert_eq!(first["seq"], 1, "{first}");
    // The window is two minutes long. This is what its end does: all is forgotten.
    let context = jetstream::new(bus.js_client().await);
    let mut stream = context.get_stream("ORDERS").await.unwrap();
    let was = stream.info().await.unwrap().config.clone();
    let short = jetstream::stream::Config {
        duplicate_window: Duration::from_millis(100),
        ..was.clone()
    };
    context.update_stream(short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    context.update_stream(was).await.unwrap();
    let second = append_raw(&bus, "shop", subject, Some(&header(id)), sealed).await;
    assert_eq!(second["seq"], 2, "the stream has not forgotten: {second}");

    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    assert_eq!(delivery.receipt().sequence(), 1);
    delivery.ack().await.unwrap();
    nothing(&mut consumer).await;
    assert_eq!(mail.stats().refused_for("expired"), 1);
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 2));
}

/// A work queue, and a stream by interest, forgets the ids of what it no longer
/// holds, once it restarts.
///
/// [ENV-49]
#[tokio::test(flavor = "multi_thread")]
async fn attack_02_a_copy_that_a_work_queue_has_forgotten_is_refused() {
    a_forgotten_copy_is_refused("JOBS", "jobs.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_02_a_copy_that_a_stream_by_interest_has_forgotten_is_refused() {
    a_forgotten_copy_is_refused("FANS", "fans.1").await;
}

async fn a_forgotten_copy_is_refused(stream: &str, subject: &str) {
    let mut bus = Bus::start(POLICY).await;
    let forger = Forger::genuine(&bus, "shop").await;
    let id = MessageId([6; 16]);
    let life = Duration::from_secs(30);
    let sealed = forger.event_with_id(subject, id, now(), life, b"\xa4once");
    let append =
        async |bus: &Bus| append_raw(bus, "shop", subject, Some(&header(id)), sealed.clone()).await;
    assert_eq!(append(&bus).await["seq"], 1);
    let mail = bus.client("mail").await;
    let mut consumer = mail.consume(stream, "mail").await.unwrap();
    next(&mut consumer).await.unwrap().ack().await.unwrap();
    drop(consumer);
    drop(mail);

    bus.restart_server().await;
    // The broker needs its connection back before anybody connects.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = append(&bus).await;
    assert_eq!(told["seq"], 2, "the stream remembers: {told}");
    assert!(told["duplicate"].is_null(), "{told}");
    let mail = bus.client("mail").await;
    let mut consumer = mail.consume(stream, "mail").await.unwrap();
    nothing(&mut consumer).await;
    assert_eq!(
        mail.stats().refused_for("stored_copy"),
        1,
        "{:?}",
        mail.stats()
    );
    assert_eq!(mail.stats().delivered(), 0);
    assert_eq!(state(&bus, stream, "mail").await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_27_a_squatted_id_is_told() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    // Mallory learns an id before it is used, and takes it on a subject of hers.
    let id = MessageId([9; 16]);
    let junk = Bytes::from_static(b"junk");
    let told = append_raw(&bus, "mallory", "orders.1.rumour", Some(&header(id)), junk).await;
    assert_eq!(told["seq"], 1, "{told}");
    let error = shop
        .message("orders.1.created")
        .payload("real")
        .id(id)
        .append()
        .await
        .unwrap_err();
    let AppendError::IdTaken {
        stream, sequence, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((stream.as_str(), sequence), ("ORDERS", 1));
    assert_eq!(shop.stats().ids_taken(), 1);
    // Under an id of its own it goes through, and what mallory left is refused.
    shop.append("orders.1.created", "real").await.unwrap();
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    assert_eq!(delivery.message().decode::<String>().unwrap(), "real");
    delivery.ack().await.unwrap();
    assert_eq!(mail.stats().delivered(), 1);
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_04_a_stored_envelope_counts_on_its_own_subject_only() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let appended = shop.append("orders.1.created", "x").await.unwrap();
    assert_eq!(appended.sequence(), 1);
    let (_, bytes) = stored(&bus, "ORDERS", 1).await;
    // By somebody who may append elsewhere on the stream, and by the sender. Each
    // under an id of its own: the stream drops another one under the same.
    for (number, who, subject) in [
        (2, "mallory", "orders.1.rumour"),
        (3, "shop", "orders.2.created"),
    ] {
        let id = header(MessageId([number; 16]));
        let told = append_raw(&bus, who, subject, Some(&id), bytes.clone()).await;
        assert_eq!(told["seq"], number, "{told}");
    }
    // A mirror hands on what its stream holds.
    for stream in ["ORDERS", "COPY"] {
        let counted = || {
            let stats = mail.stats();
            (stats.refused_for("wrong_subject"), stats.delivered())
        };
        let before = counted();
        let mut consumer = mail.consume(stream, "mail").await.unwrap();
        let delivery = next(&mut consumer).await.unwrap();
        assert_eq!(delivery.receipt().sequence(), 1);
        delivery.ack().await.unwrap();
        nothing(&mut consumer).await;
        assert_eq!(counted(), (before.0 + 2, before.1 + 1), "{stream}");
        // Terminated, each of them.
        assert_eq!(state(&bus, stream, "mail").await, (0, 0, 3));
    }
}

/// nats-server can be told to give messages another subject on their way.
#[tokio::test(flavor = "multi_thread")]
async fn attack_04_a_stored_envelope_that_came_through_a_mapping_is_refused() {
    let mut bus = Bus::start(POLICY).await;
    bus.restart_server_as(|config| {
        let mapped = "  APP {\n    mappings: { \"orders.2.created\": \"orders.1.created\" }\n";
        let edited = config.replace("  APP {\n", mapped);
        assert_ne!(edited, config);
        edited
    })
    .await;
    // The broker needs its connection back before anybody connects.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (shop, mail) = pair(&bus).await;
    shop.append("orders.2.created", "moved").await.unwrap();
    shop.append("orders.1.created", "genuine").await.unwrap();
    let (subject, _) = stored(&bus, "ORDERS", 1).await;
    assert_eq!(subject, "orders.1.created", "it was mapped");
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    assert_eq!(delivery.receipt().sequence(), 2);
    delivery.ack().await.unwrap();
    nothing(&mut consumer).await;
    assert_eq!(mail.stats().refused_for("wrong_subject"), 1);
    assert_eq!(mail.stats().delivered(), 1);
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 2));
}

/// A stream that gives messages another subject, number or time than they were
/// appended under: by a transform, or from another stream.
#[tokio::test(flavor = "multi_thread")]
async fn attack_04_a_stream_that_renames_or_renumbers_is_not_consumed() {
    use jetstream::stream::{Config, Source, SubjectTransform};

    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    shop.append("orders.1.created", "x").await.unwrap();
    let transform = SubjectTransform {
        source: "orders.2.>".to_owned(),
        destination: "orders.1.>".to_owned(),
    };
    let origin = || Source {
        name: "ORDERS".to_owned(),
        ..Source::default()
    };
    for (setting, copy) in [
        (
            "sources",
            Config {
                sources: Some(vec![origin()]),
                ..Config::default()
            },
        ),
        (
            "mirror",
            Config {
                mirror: Some(Source {
                    subject_transforms: vec![transform.clone()],
                    ..origin()
                }),
                ..Config::default()
            },
        ),
    ] {
        made_by_hand(&bus, "COPY", copy).await;
        let error = mail.consume("COPY", "mail").await.unwrap_err();
        let ConsumeError::Misconfigured { fault, .. } = error else {
            panic!("{setting}: {error}")
        };
        assert_eq!(fault.setting(), setting);
    }
    // While it is consumed.
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    next(&mut consumer).await.unwrap().ack().await.unwrap();
    settings::update(&bus, "ORDERS", |c| c.subject_transform = Some(transform)).await;
    let error = next(&mut consumer).await.unwrap_err();
    let ConsumeError::Misconfigured { fault, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(fault.setting(), "subject_transform");
    assert_eq!(mail.stats().delivered(), 1);
}

/// Several messages in one envelope: a stream's ids and numbers count envelopes.
#[tokio::test(flavor = "multi_thread")]
async fn attack_02_a_frame_in_a_stream_is_refused() {
    let bus = Bus::start(POLICY).await;
    let mail = bus.client("mail").await;
    let forger = Forger::genuine(&bus, "shop").await;
    let subject = Subject::parse("orders.1.created").unwrap();
    let until = now().saturating_add(Duration::from_secs(20));
    let mut draft = Draft::event(&subject, now(), until, &[]);
    draft.content_type = Some("application/msgpack");
    let messages = [1, 2].map(|number| FrameMessage {
        id: MessageId([number; 16]),
        body: b"\xa4once",
    });
    let frame = forger.sealer().seal_frame(&draft, &messages).unwrap();
    // Under the id of its first one, as if that were all of it.
    let id = header(messages[0].id);
    let told = append_raw(&bus, "shop", subject.as_str(), Some(&id), frame.bytes).await;
    assert_eq!(told["seq"], 1, "{told}");
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    nothing(&mut consumer).await;
    let stats = mail.stats();
    assert_eq!(stats.refused_for("frame_unsupported"), 1, "{stats:?}");
    assert_eq!(stats.delivered(), 0);
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_who_may_not_append_there_is_refused_by_consumers_too() {
    let bus = Bus::start(POLICY).await;
    let mail = bus.client("mail").await;
    let forger = Forger::genuine(&bus, "mallory").await;
    let id = MessageId([3; 16]);
    let life = Duration::from_secs(20);
    let sealed = forger.event_with_id("orders.1.created", id, now(), life, b"\xa1x");
    // Somebody with the rights lends her a hand.
    append_raw(&bus, "shop", "orders.1.created", Some(&header(id)), sealed).await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    nothing(&mut consumer).await;
    assert!(
        mail.stats().refused_for("not_granted") > 0,
        "{:?}",
        mail.stats()
    );
    assert_eq!(mail.stats().delivered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_18_rubbish_in_a_stream_is_terminated_and_blocks_nothing() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    for bytes in [&b""[..], b"junk", &[0xc1; 4_000], b"\x95\x01"] {
        let bytes = Bytes::copy_from_slice(bytes);
        append_raw(&bus, "mallory", "orders.1.rumour", None, bytes).await;
    }
    // A status line of its own does not make it a word of the server's.
    let mut raw = bus.raw_socket("mallory").await;
    let head = "NATS/1.0 408 Request Timeout\r\n\r\n";
    let line = format!("HPUB orders.1.rumour {0} {0}\r\n{head}\r\n", head.len());
    raw.send(&line).await;
    eventually(async || state(&bus, "ORDERS", "mail").await.1 == 5).await;
    shop.append("orders.2.created", "sound").await.unwrap();
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    assert_eq!(delivery.receipt().sequence(), 6);
    delivery.ack().await.unwrap();
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 6));
    let refused: u64 = mail.stats().refused().values().sum();
    assert_eq!(refused, 5, "{:?}", mail.stats());
}

/// Another consumer's messages, aimed at this one's inbox: of the same stream, and of
/// another one under this one's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_through_another_consumer_is_refused() {
    let policy = format!(
        "{POLICY}\n[[allow]]\nid = \"m\"\nwho = [\"mallory\"]\nmay = [\"consume\"]\n\
         on = [\"ORDERS.mallory\", \"LOOT.mail\"]\n\
         [[allow]]\nid = \"l\"\nwho = [\"shop\"]\nmay = [\"append\"]\non = [\"loot.{{id}}\"]\n\
         [stream.LOOT]\nsubjects = [\"loot.>\"]\n\
         [subject.\"loot.>\"]\nreplay = \"stream\"\nmax_age = \"1h\"\n"
    );
    let bus = Bus::start(&policy).await;
    let (shop, mail) = pair(&bus).await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    shop.append("orders.1.created", "x").await.unwrap();
    shop.append("loot.1", "sound, and elsewhere").await.unwrap();
    next(&mut consumer).await.unwrap().ack().await.unwrap();
    // Nobody can know the inbox; somebody who does gets nothing in by it.
    let inbox = inbox_of_consumer(&bus, "mail").await;
    let raw = bus.raw_client("mallory").await;
    for (refused, (stream, name)) in [(1, ("ORDERS", "mallory")), (2, ("LOOT", "mail"))] {
        let pull = r#"{"batch":1,"no_wait":true}"#;
        let to = reserved::consumer_next(stream, name);
        raw.publish_with_reply(to, inbox.clone(), pull.into())
            .await
            .unwrap();
        raw.flush().await.unwrap();
        nothing(&mut consumer).await;
        let stats = mail.stats();
        assert_eq!(stats.refused_for("foreign_delivery"), refused, "{stream}");
        assert_eq!(stats.delivered(), 1, "{stream}");
        // Delivered, and nobody's to answer for here.
        assert_eq!(state(&bus, stream, name).await.0, 1, "{stream}");
    }
}

/// Where a workload's consumer has its messages sent, as nats-server knows it.
async fn inbox_of_consumer(bus: &Bus, workload: &str) -> String {
    let sys = bus.sys_client().await;
    let ask = r#"{"acc":"APP","subscriptions":true}"#;
    let answer = sys
        .request("$SYS.REQ.SERVER.PING.CONNZ", ask.into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    let own = format!("{}.", reserved::inbox_server(bus.workload(workload).tag()));
    let connections = answer["data"]["connections"].as_array().unwrap();
    connections
        .iter()
        .filter_map(|connection| connection["subscriptions_list"].as_array())
        .flatten()
        .filter_map(Value::as_str)
        // The other one there is for answers to requests, with a wildcard.
        .find(|subject| subject.starts_with(&own) && !subject.contains('*'))
        .unwrap()
        .to_owned()
}
