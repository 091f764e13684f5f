//! Events, requests, replies, errors, and the life of a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_sdk::{
    CloudEvent, ContentType, Message, Reply, RequestError, SendError, ServiceError,
    ServiceErrorCode,
};
use bulla_tests::{Bus, BusOptions, Dissected};
use futures_util::StreamExt as _;

use super::{POLICY, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_every_subscriber_and_one_of_a_queue() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let (one, two) = (bus.client("back").await, bus.client("back").await);
    let mut all_one = one.subscribe("events.*.done").await.unwrap();
    let mut all_two = two.subscribe("events.*.done").await.unwrap();
    let shared_one = one.queue_subscribe("events.*.done").await.unwrap();
    let shared_two = two.queue_subscribe("events.*.done").await.unwrap();
    let count = Arc::new(AtomicU64::new(0));
    for mut shared in [shared_one, shared_two] {
        let count = Arc::clone(&count);
        tokio::spawn(async move {
            while shared.next().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for i in 0..50u32 {
        front.publish("events.bake.done", &i).await.unwrap();
    }
    front.flush().await.unwrap();
    for i in 0..50u32 {
        for subscription in [&mut all_one, &mut all_two] {
            let message = subscription.next().await.unwrap();
            assert_eq!(message.decode::<u32>().unwrap(), i, "order is kept");
            assert_eq!(message.sender().workload().path(), "front");
            assert_eq!(message.permit().rule(), "front-tells");
        }
    }
    eventually(|| count.load(Ordering::SeqCst) == 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_events_travel_in_signed_headers() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut events = back.subscribe("events.*.done").await.unwrap();
    let event = CloudEvent::new("17", "/ovens/2", "oven.bake.done").unwrap();
    let event = event.with("partitionkey", "acme ü").unwrap();
    let message = front.message("events.bake.done").json(&"two bowls");
    message.cloud_event(&event).publish().await.unwrap();
    front.publish("events.bake.done", "plain").await.unwrap();
    let received = events.next().await.unwrap();
    assert_eq!(received.cloud_event(), Ok(Some(event)));
    assert_eq!(received.content_type(), &ContentType::Json);
    assert_eq!(received.decode::<String>().unwrap(), "two bowls");
    assert_eq!(events.next().await.unwrap().cloud_event(), Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_renewed_while_messages_flow() {
    let mut options = BusOptions::new(POLICY);
    options.credential_lifetime = Duration::from_secs(3);
    let bus = Bus::start_with(options).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<u32>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let first = front.signing_key().0;
    let end = tokio::time::Instant::now() + Duration::from_secs(7);
    let mut count = 0u32;
    while tokio::time::Instant::now() < end {
        let answer: u32 = front.request("back.echo", &count).await.unwrap();
        assert_eq!(answer, count);
        count += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_ne!(front.signing_key().0, first);
    assert!(
        back.stats().refused().is_empty(),
        "{:?}",
        back.stats().refused()
    );
    assert!(count > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_errors_and_headers_come_back_as_sent() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let service = back
        .serve("back.echo", async |m: Message<String>| {
            match m.payload().as_str() {
                "missing" => Err(ServiceError::new(
                    ServiceErrorCode::NotFound,
                    "no such thing",
                )),
                "large" => Ok(Reply::bytes(ContentType::MessagePack, vec![0u8; 2_000_000])),
                text => Ok(Reply::encode(m.content_type(), text)?
                    .header("colour", m.header("colour").unwrap_or("none"))),
            }
        })
        .await
        .unwrap();
    let response = front
        .message("back.echo")
        .json("hi")
        .header("colour", "blue")
        .request()
        .await
        .unwrap();
    assert_eq!(response.content_type(), &ContentType::Json);
    assert_eq!(response.body().as_ref(), b"\"hi\"");
    assert_eq!(response.header("colour"), Some("blue"));
    assert_eq!(response.sender().workload().path(), "back");

    let error = front
        .request::<_, String>("back.echo", "missing")
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}")
    };
    assert_eq!(
        (error.code(), error.message()),
        (ServiceErrorCode::NotFound, "no such thing")
    );
    let error = front
        .request::<_, String>("back.echo", &7)
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.code(), ServiceErrorCode::Invalid);
    let error = front
        .request::<_, String>("back.echo", "large")
        .await
        .unwrap_err();
    assert!(matches!(error, RequestError::Service(_)), "{error}");
    let body = vec![0u8; 2_000_000];
    let message = front
        .message("back.echo")
        .bytes(ContentType::MessagePack, body);
    let error = message.request().await.unwrap_err();
    let RequestError::Send(SendError::TooLarge { limit, actual }) = error else {
        panic!("{error}")
    };
    assert!(actual > limit && limit == front.max_payload());
    service.drain().await;
    let error = front
        .request::<_, String>("back.echo", "x")
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::NoResponders { .. }),
        "{error}"
    );
}

/// Bytes of which nothing is said say nothing on the wire either, but in a reply, where
/// nothing would mean the end (ENV-37).
#[tokio::test(flavor = "multi_thread")]
async fn octets_need_no_name_but_in_a_reply() {
    /// The key of the content type in a header.
    const CONTENT_TYPE: u8 = 10;
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut tap = bus.tap("events.*.done").await;
    let mut events = back.subscribe("events.*.done").await.unwrap();
    for (content_type, is_named) in [
        (ContentType::OctetStream, false),
        (ContentType::MessagePack, true),
        (ContentType::Other("image/png".into()), true),
    ] {
        let message = front.message("events.image.done");
        let message = message.bytes(content_type.clone(), "pixels");
        message.publish().await.unwrap();
        let event = events.next().await.unwrap();
        assert_eq!(event.content_type(), &content_type);
        assert_eq!(event.payload().as_ref(), b"pixels");
        let sealed = Dissected::of(&tap.next().await.unwrap().payload);
        let named = sealed.fields.iter().any(|(key, _)| *key == CONTENT_TYPE);
        assert_eq!(named, is_named, "{content_type:?}");
    }
    let _service = back
        .serve_raw("back.echo", async |m: Message| {
            assert_eq!(m.content_type(), &ContentType::OctetStream);
            Ok::<_, ServiceError>(Reply::bytes(ContentType::OctetStream, m.into_payload()))
        })
        .await
        .unwrap();
    for body in ["", "pixels"] {
        let message = front.message("back.echo");
        let message = message.bytes(ContentType::OctetStream, body);
        let response = message.request().await.unwrap();
        assert_eq!(response.content_type(), &ContentType::OctetStream);
        assert_eq!(response.body().as_ref(), body.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_no_envelope_takes_is_an_error_at_once() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            let reply = Reply::encode(m.content_type(), "x")?;
            Ok::<_, ServiceError>(match m.payload().as_str() {
                "name" => reply.header("no spaces here", "x"),
                "value" => reply.header("name", "line\r\nline"),
                _ => Reply::bytes(ContentType::Other("not\r\na type".into()), "x"),
            })
        })
        .await
        .unwrap();
    for wrong in ["name", "value", "type"] {
        let start = tokio::time::Instant::now();
        let error = front
            .request::<_, String>("back.echo", wrong)
            .await
            .unwrap_err();
        assert!(
            matches!(error, RequestError::Service(_)),
            "{wrong}: {error}"
        );
        assert!(start.elapsed() < Duration::from_secs(3), "{wrong}");
    }
    assert_eq!(back.stats().refused_for("reply_not_sent"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_handler_harms_only_its_own_request() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            assert!(m.payload() != "panic", "as asked");
            Ok::<_, ServiceError>("fine")
        })
        .await
        .unwrap();
    let error = front
        .request::<_, String>("back.echo", "panic")
        .await
        .unwrap_err();
    let RequestError::Service(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.code(), ServiceErrorCode::Internal);
    let answer: String = front.request("back.echo", "x").await.unwrap();
    assert_eq!(answer, "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_a_service_answers_what_is_in_flight() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let service = back
        .serve("back.echo", async |m: Message<u32>| {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let requests: Vec<_> = (0..20u32)
        .map(|i| {
            let front = front.clone();
            tokio::spawn(async move { front.request::<_, u32>("back.echo", &i).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    service.drain().await;
    for (i, request) in requests.into_iter().enumerate() {
        assert_eq!(request.await.unwrap().unwrap(), u32::try_from(i).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_survives_the_server_and_finds_it_again() {
    let mut bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let _: String = front.request("back.echo", "before").await.unwrap();
    bus.restart_server().await;
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let message = front
            .message("back.echo")
            .payload("after")
            .timeout(Duration::from_millis(500));
        match message.request().await {
            Ok(response) => {
                assert_eq!(response.decode::<String>().unwrap(), "after");
                break;
            }
            Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
