//! Messages that wait for long: judged as of when they were stored.

use std::time::Duration;

use bulla_envelope::{KemRecord, SealedEnvelope};
use bulla_sdk::{Client, MessageId};
use bulla_tests::{BusOptions, Forger, now};
use bulla_token::{TokenSigningKey, TransactionClaims, mint_transaction_token};

use super::*;

/// [ENV-47]
#[tokio::test(flavor = "multi_thread")]
async fn a_message_outlives_its_senders_credential_and_its_users_token() {
    let bus = Bus::start_with(BusOptions {
        credential_lifetime: Duration::from_secs(4),
        ..BusOptions::new(POLICY)
    })
    .await;
    // The edge: mints a token that lives two seconds, and appends under it.
    let seed = [7; 32];
    let edge = Client::connect(bus.connect_options("edge").token_key(&seed))
        .await
        .unwrap();
    let mut claims = TransactionClaims::new("txn-1", "alice", edge.workload().as_str());
    claims.scope = "billing:write".to_owned();
    claims.issued = now();
    claims.expires = now().saturating_add(Duration::from_secs(2));
    let domain = edge.policy().policy().trust_domain().clone();
    let (key_id, ends) = edge.signing_key();
    let key = TokenSigningKey::from_seed(seed);
    let token = mint_transaction_token(&key, &key_id.to_hex(), &domain, &claims).unwrap();
    edge.message("orders.1.billed")
        .payload("late")
        .user_token(token)
        .append()
        .await
        .unwrap();
    drop(edge);

    // Nobody holds that credential any more, and it has ended.
    let wait = ends.saturating_since(now()) + Duration::from_millis(500);
    tokio::time::sleep(wait).await;
    let mail = bus.client("mail").await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    let message = delivery.message();
    assert_eq!(message.decode::<String>().unwrap(), "late");
    assert_eq!(message.user().unwrap().principal(), "alice");
    assert_eq!(message.sender().key_id(), key_id);
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_kept_for_as_long_as_somebody_may_have_to_verify_by_them() {
    let bus = Bus::start(POLICY).await;
    let context = async_nats::jetstream::new(bus.js_client().await);
    let stream = context.get_stream(reserved::CTL_STREAM).await.unwrap();
    // Who appends, and who mints users' tokens; and who only consumes.
    for (name, want) in [("shop", 7_200), ("edge", 7_200), ("mail", 3_600)] {
        let client = bus.client(name).await;
        let subject = reserved::ctl_credential(&client.signing_key().0.to_hex());
        let record = stream
            .get_last_raw_message_by_subject(&subject)
            .await
            .unwrap();
        let life = record.headers.get("Nats-TTL").unwrap().as_str().to_owned();
        let life: u64 = life.trim_end_matches('s').parse().unwrap();
        assert!((want..want + 60).contains(&life), "{name}: {life} s");
    }
}

/// Six workloads read the stream, too many for the wraps to ride along: the record is
/// all there is to read by.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_to_many_is_read_by_its_record_long_after() {
    let names: Vec<String> = (0..6).map(|number| format!("reader{number}")).collect();
    let mut policy = POLICY.to_owned();
    for name in &names {
        policy += &format!(
            "\n[workload.{name}]\nattest = [{{ nkey = \"@{name}@\" }}]\n\
             [[allow]]\nid = \"{name}\"\nwho = [\"{name}\"]\nmay = [\"consume\"]\n\
             on = [\"SECRETS.{name}\"]\n"
        );
    }
    let bus = Bus::start_with(BusOptions {
        credential_lifetime: Duration::from_secs(4),
        ..BusOptions::new(policy)
    })
    .await;
    for name in &names {
        let record = KemRecord::sign(&bus.seed(name), &bus.workload(name), 1);
        let place = reserved::ctl_kem(bus.workload(name).tag(), &bus.seed(name).public());
        bus.replace_control_record(&place, record.into()).await;
    }
    let life = Duration::from_secs(1);
    let options = bus.connect_options("shop").data_key_life(life);
    let shop = Client::connect(options).await.unwrap();
    shop.append("secret.1", "the hoard is under the oak")
        .await
        .unwrap();
    let (_, bytes) = stored(&bus, "SECRETS", 1).await;
    let sealed = SealedEnvelope::decode(bytes).unwrap();
    assert!(!sealed.has_inline_wraps());
    let (_, ends) = shop.signing_key();
    drop(shop);

    // Key, credential and sender are long gone.
    let wait = ends.saturating_since(now()) + Duration::from_millis(500);
    tokio::time::sleep(wait.max(life)).await;
    for name in &names[..2] {
        let reader = bus.client(name).await;
        let mut consumer = reader.consume("SECRETS", name).await.unwrap();
        let delivery = next(&mut consumer).await.unwrap();
        let text: String = delivery.message().decode().unwrap();
        assert_eq!(text, "the hoard is under the oak");
        delivery.ack().await.unwrap();
    }
}

/// As long as a message under it can wait, whoever was there when it was stored.
#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_data_key_lives_as_long_as_what_a_stream_stores_under_it() {
    let bus = Bus::start(POLICY).await;
    let (shop, _mail) = pair(&bus).await;
    let mut last = 0;
    let key = loop {
        let appended = shop.append("secret.1", &last).await.unwrap();
        last = appended.sequence();
        let (_, bytes) = stored(&bus, "SECRETS", last).await;
        let sealed = SealedEnvelope::decode(bytes).unwrap();
        if !sealed.has_inline_wraps() {
            break sealed.data_key_unverified().unwrap().0;
        }
    };
    let context = async_nats::jetstream::new(bus.js_client().await);
    let secrets = context.get_stream("SECRETS").await.unwrap();
    let kept = secrets.cached_info().config.max_age;
    assert_eq!(kept, Duration::from_secs(3_600));
    let id = data_encoding::HEXLOWER.encode(key.as_bytes());
    let place = reserved::key_record(bus.workload("shop").tag(), &id);
    let keys = context.get_stream(reserved::KEYS_STREAM).await.unwrap();
    let record = keys.get_last_raw_message_by_subject(&place).await.unwrap();
    let life = record.headers.get("Nats-TTL").unwrap().as_str().to_owned();
    let life: u64 = life.trim_end_matches('s').parse().unwrap();
    // The last message under it is stored when the key ends, ten minutes from its making.
    let least = (kept + Duration::from_secs(600)).as_secs();
    assert!((least..least + 120).contains(&life), "{life} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waited_longer_than_max_age_is_terminated() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    shop.append("short.1", "stale").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    shop.append("short.2", "fresh").await.unwrap();
    let mut consumer = mail.consume("SHORT", "mail").await.unwrap();
    let delivery = next(&mut consumer).await.unwrap();
    assert_eq!(delivery.receipt().sequence(), 2);
    delivery.ack().await.unwrap();
    assert_eq!(mail.stats().refused_for("stored_too_long_ago"), 1);
    assert_eq!(state(&bus, "SHORT", "mail").await, (0, 0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_was_dropped_is_refused_whenever_it_was_stored() {
    let bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    shop.append("orders.1.created", "x").await.unwrap();
    let without = POLICY.replace(
        r#"on = ["orders.{id}.created", "orders.{id}.billed","#,
        r#"on = ["orders.{id}.billed","#,
    );
    bus.publish_policy(&without).await;
    eventually(async || mail.policy().revision() == 2).await;
    let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
    nothing(&mut consumer).await;
    assert!(mail.stats().refused_for("not_granted") > 0);
    // Handed back for a while: the policy may be what is behind.
    assert_eq!(state(&bus, "ORDERS", "mail").await.2, 0);
}

/// [ENV-46]
#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_that_reached_its_stream_too_late_is_refused() {
    let bus = Bus::start(POLICY).await;
    let mail = bus.client("mail").await;
    let forger = Forger::genuine(&bus, "shop").await;
    let (at, life) = (now(), Duration::from_secs(20));
    let hour = Duration::from_secs(3_600);
    for (id, issued, life, want) in [
        (
            1,
            at.saturating_sub(Duration::from_secs(60)),
            life,
            "expired",
        ),
        // Its sender says that it lives for long: that is not for it to say.
        (
            2,
            at.saturating_sub(Duration::from_secs(60)),
            hour / 6,
            "too_old",
        ),
        (3, at.saturating_add(Duration::from_secs(5)), life, "future"),
    ] {
        let id = MessageId([id; 16]);
        let sealed = forger.event_with_id("orders.1.created", id, issued, life, b"\xa1x");
        let told = append_raw(&bus, "shop", "orders.1.created", Some(&header(id)), sealed).await;
        assert!(told["error"].is_null(), "{told}");
        let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
        nothing(&mut consumer).await;
        assert_eq!(
            mail.stats().refused_for(want),
            1,
            "{want}: {:?}",
            mail.stats()
        );
    }
    assert_eq!(state(&bus, "ORDERS", "mail").await, (0, 0, 3));
}
