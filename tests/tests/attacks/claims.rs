//! 1, 20, 27: replays to another replica, and the claims that stop them.

use bulla_identity::reserved;
use bulla_keyring::sha256;
use bulla_sdk::{ServiceErrorCode, Subscription};

use super::*;

/// Another process of `pay` that serves `pay.charge` and counts into `handled`.
async fn replica(scene: &Scene) -> (Client, Service) {
    let client = scene.bus.client("pay").await;
    let handled = Arc::clone(&scene.handled);
    let service = client
        .serve("pay.charge", move |_: Message<String>| {
            handled.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ServiceError>("from the replica") }
        })
        .await
        .unwrap();
    (client, service)
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replay_to_a_second_replica_runs_once() {
    let scene = Scene::start().await;
    let (second, _service) = replica(&scene).await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    assert_eq!(scene.handled(), 1);
    for _ in 0..40 {
        scene.inject(&subject, Some(&reply), payload.clone()).await;
    }
    scene.raw_shop.flush().await.unwrap();
    let refused = || {
        let mut count = (0, 0);
        for client in [&scene.pay, &second] {
            count.0 += client.stats().refused_for("replayed");
            count.1 += client.stats().refused_for("replayed_elsewhere");
        }
        count
    };
    eventually(|| refused().0 + refused().1 == 40).await;
    assert_eq!(scene.handled(), 1, "the recorded request ran again");
    // The one that had not seen it asked once; then its own memory was enough.
    assert_eq!(refused().1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replayed_event_reaches_one_member_of_a_group_and_every_plain_listener() {
    let scene = Scene::start().await;
    let second = scene.bus.client("pay").await;
    let mut members = Vec::new();
    let mut listeners = Vec::new();
    for client in [&scene.pay, &second] {
        members.push(client.queue_subscribe("news.shop").await.unwrap());
        listeners.push(client.subscribe("news.shop").await.unwrap());
    }
    let mut tap = scene.bus.tap("news.shop").await;
    scene.shop.publish("news.shop", "hello").await.unwrap();
    let event = tap.next().await.unwrap();
    for _ in 0..40 {
        scene.inject("news.shop", None, event.payload.clone()).await;
    }
    scene.raw_shop.flush().await.unwrap();
    let taken = async |subscription: &mut Subscription| {
        let pause = Duration::from_millis(500);
        let mut taken = 0;
        while let Ok(Some(_)) = tokio::time::timeout(pause, subscription.next()).await {
            taken += 1;
        }
        taken
    };
    let mut in_group = 0;
    for member in &mut members {
        in_group += taken(member).await;
    }
    assert_eq!(in_group, 1);
    for listener in &mut listeners {
        assert_eq!(taken(listener).await, 1);
    }
}

/// Claims for what comes next are under way while the first one is.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_takes_each_event_once_and_in_order() {
    let scene = Scene::start().await;
    let second = scene.bus.client("pay").await;
    let mut tap = scene.bus.tap("news.shop").await;
    let mut members = Vec::new();
    for client in [&scene.pay, &second] {
        let mut events = client.queue_subscribe("news.shop").await.unwrap();
        members.push(tokio::spawn(async move {
            let (mut all, pause) = (Vec::new(), Duration::from_millis(800));
            while let Ok(Some(event)) = tokio::time::timeout(pause, events.next()).await {
                all.push(event.decode::<u32>().unwrap());
            }
            all
        }));
    }
    for number in 0..1_000u32 {
        scene.shop.publish("news.shop", &number).await.unwrap();
        if number % 100 == 99 {
            scene.shop.flush().await.unwrap();
        }
    }
    let mut all = Vec::new();
    for member in members {
        let took = member.await.unwrap();
        assert!(!took.is_empty());
        assert!(took.is_sorted(), "{took:?}");
        all.extend(took);
    }
    all.sort_unstable();
    assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    // One claim for each envelope, however many messages share it.
    let mut envelopes = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(300), tap.next()).await {
        envelopes += 1;
    }
    let context = async_nats::jetstream::new(scene.bus.js_client().await);
    let mut stream = context.get_stream(reserved::CLAIMS_STREAM).await.unwrap();
    let claims = stream.info().await.unwrap().state.messages;
    assert_eq!(claims, envelopes);
    assert!(claims < 1_000, "nothing shared a frame");
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_without_the_claims_stream_nothing_is_handled() {
    let mut scene = Scene::start().await;
    let mut news = scene.pay.subscribe("news.shop").await.unwrap();
    let context = async_nats::jetstream::new(scene.bus.js_client().await);
    context
        .delete_stream(reserved::CLAIMS_STREAM)
        .await
        .unwrap();
    let unavailable = async |scene: &Scene| {
        let answer = scene.shop.request::<_, String>("pay.charge", "x").await;
        let Err(RequestError::Service(error)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(error.code(), ServiceErrorCode::Unavailable);
    };
    unavailable(&scene).await;
    assert_eq!(scene.pay.stats().refused_for("claims_stream_missing"), 1);
    // What every process gets anyway needs no claim.
    scene.shop.publish("news.shop", "hello").await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(5), news.next()).await;
    assert!(event.unwrap().is_some());

    // Somebody makes one by hand: it takes no record that ends by itself, or it is not
    // the one that was asked. Each is told apart from a stream that is gone.
    let subjects = vec!["$BULLA.CLAIMS.>".to_owned()];
    for (name, code) in [
        (reserved::CLAIMS_STREAM, "claim_refused"),
        ("BY_HAND", "claim_malformed"),
    ] {
        let config = async_nats::jetstream::stream::Config {
            name: name.to_owned(),
            subjects: subjects.clone(),
            allow_message_ttl: name == "BY_HAND",
            ..Default::default()
        };
        context.create_stream(config).await.unwrap();
        unavailable(&scene).await;
        assert_eq!(scene.pay.stats().refused_for(code), 1);
        context.delete_stream(name).await.unwrap();
    }

    // The next broker that starts makes the stream; it is full at once.
    scene.bus.add_broker(bulla_broker::callout::Group::A).await;
    let mut stream = context.get_stream(reserved::CLAIMS_STREAM).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    let room = config.max_bytes;
    config.max_bytes = 10;
    context.update_stream(&config).await.unwrap();
    unavailable(&scene).await;
    assert_eq!(scene.pay.stats().refused_for("claims_full"), 1);
    assert_eq!(scene.handled(), 0);

    config.max_bytes = room;
    context.update_stream(&config).await.unwrap();
    scene.still_answers().await;
    assert_eq!(scene.handled(), 1);
}

/// Where `pay` claims a request on `pay.charge`, as ENV-45 says.
fn claim_of(bus: &Bus, envelope: &Bytes) -> String {
    let sealed = SealedEnvelope::decode(envelope.clone()).unwrap();
    let tag = bus.workload("pay").tag();
    let mut name = Vec::new();
    for part in [
        &b"message"[..],
        tag.to_hex().as_bytes(),
        b"pay",
        b"pay.refund",
        &sealed.key_id().0,
        &sealed.id_unverified().0,
    ] {
        name.extend_from_slice(&(part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    }
    let hash = sha256(&[&name]);
    reserved::claim(tag, &data_encoding::HEXLOWER.encode(&hash[..16]))
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_27_nobody_else_claims_a_message_first() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let raw = scene.bus.raw_client("mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let mut replies = raw.subscribe(reply_to.clone()).await.unwrap();
    let sealed = request_of(&mallory, "pay.refund", &reply_to);
    let claim = claim_of(&scene.bus, &sealed);
    raw.publish(claim.clone(), "\u{1}".into()).await.unwrap();
    // The server's own answers are asked of nobody's permissions.
    let own = scene.bus.workload("mallory").tag();
    for subject in [
        reserved::claim(own, "a"),
        reserved::direct_get(reserved::CTL_POLICY),
        reserved::broker_challenge(own),
    ] {
        raw.publish_with_reply(subject, claim.clone(), "\u{1}".into())
            .await
            .unwrap();
    }
    let _ = raw.request(reserved::BARRIER, "".into()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    raw.publish_with_reply("pay.refund", reply_to, sealed)
        .await
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), replies.next()).await;
    assert!(answer.unwrap().is_some());
    assert_eq!(scene.handled(), 1, "{:?}", scene.pay.stats().refused());
    // It was claimed where the specification says.
    let context = async_nats::jetstream::new(scene.bus.js_client().await);
    let stream = context.get_stream(reserved::CLAIMS_STREAM).await.unwrap();
    let record = stream.direct_get_last_for_subject(claim).await.unwrap();
    assert_eq!(record.payload.len(), 20);
}
