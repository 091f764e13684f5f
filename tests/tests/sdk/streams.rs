//! Several replies to one request: their order, their end, and what ends them
//! early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_sdk::{
    Client, ContentType, Message, Reply, ReplyError, ReplySender, RequestError, Responses,
    SendError, Service, ServiceError, ServiceErrorCode,
};
use bulla_tests::{Bus, BusOptions};

use super::{POLICY, eventually};

/// Counts up to the number in the request.
async fn count(message: Message<u32>, replies: ReplySender) -> Result<(), ServiceError> {
    for number in 0..*message.payload() {
        replies.send(number).await?;
    }
    Ok(())
}

async fn all(mut responses: Responses) -> (Vec<u32>, Option<RequestError>) {
    let mut numbers = Vec::new();
    while let Some(response) = responses.next().await {
        match response {
            Ok(response) => numbers.push(response.decode().unwrap()),
            Err(error) => {
                assert!(responses.next().await.is_none(), "an error is the last");
                return (numbers, Some(error));
            }
        }
    }
    assert!(responses.next().await.is_none());
    (numbers, None)
}

async fn asked(front: &Client, text: &str) -> (Vec<u32>, Option<RequestError>) {
    all(front.request_many("back.echo", text).await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_come_in_order_and_end() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let service = back.serve_stream("back.echo", count).await.unwrap();
    let tasks: Vec<_> = [0u32, 1, 2, 500, 1_000]
        .into_iter()
        .map(|up_to| {
            let front = front.clone();
            tokio::spawn(async move {
                let responses = front.request_many("back.echo", &up_to).await.unwrap();
                let (numbers, error) = all(responses).await;
                assert!(error.is_none(), "{error:?}");
                assert_eq!(numbers, (0..up_to).collect::<Vec<_>>());
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // Who asks for one reply gets none of several, nor the end of none.
    for up_to in [0u32, 2] {
        let error = front
            .request::<_, u32>("back.echo", &up_to)
            .await
            .unwrap_err();
        assert!(matches!(error, RequestError::NotOneReply { .. }), "{error}");
    }
    // The wrong payload is the caller's error, as anywhere.
    let (numbers, error) = asked(&front, "five").await;
    let Some(RequestError::Service(error)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.code(), ServiceErrorCode::Invalid);
    assert!(numbers.is_empty());
    service.drain().await;
    let error = front.request_many("back.echo", &1u32).await;
    let error = error.unwrap().next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, RequestError::NoResponders { .. }),
        "{error}"
    );
    assert!(back.stats().refused().is_empty());
    assert!(front.stats().refused().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_one_reply_answers_who_asks_for_many() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |_: Message<String>| {
            Ok::<_, ServiceError>(7u32)
        })
        .await
        .unwrap();
    let (numbers, error) = asked(&front, "x").await;
    assert_eq!(numbers, [7]);
    assert!(error.is_none(), "{error:?}");
}

/// What a handler may do besides sending one reply after the other.
async fn moods(back: &Client) -> Service {
    let handler = async |message: Message<String>, replies: ReplySender| {
        replies.send(0u32).await?;
        match message.payload().as_str() {
            "finish" => {
                let other = replies.clone();
                replies.finish(1u32).await?;
                let error = other.send(2u32).await.unwrap_err();
                assert!(matches!(error, ReplyError::Closed), "{error}");
                Err(ServiceError::new(ServiceErrorCode::Internal, "unheard"))
            }
            "fail" => Err(ServiceError::new(ServiceErrorCode::Conflict, "no more")),
            "panic" => panic!("as asked"),
            "large" => {
                // Takes no number: the next one has no gap before it.
                let large = Reply::bytes(ContentType::MessagePack, vec![0; 2_000_000]);
                let error = replies.send(large).await.unwrap_err();
                assert!(
                    matches!(error, ReplyError::Send(SendError::TooLarge { .. })),
                    "{error}"
                );
                replies.send(1u32).await?;
                let large = Reply::bytes(ContentType::MessagePack, vec![0; 2_000_000]);
                Ok(replies.send(large).await?)
            }
            "cancel" => {
                for _ in 0..20 {
                    // Polled once and dropped: either sent or not at all.
                    let sending = replies.send(9u32);
                    let _ = tokio::time::timeout(Duration::ZERO, sending).await;
                }
                Ok(replies.finish(1u32).await?)
            }
            "leak" => {
                tokio::spawn(async move {
                    while replies.send(1u32).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                });
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    };
    back.serve_stream("back.echo", handler).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_as_its_handler_does() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = moods(&back).await;
    let (numbers, error) = asked(&front, "finish").await;
    assert_eq!(numbers, [0, 1]);
    assert!(error.is_none(), "{error:?}");

    for (mood, so_far, code) in [
        ("fail", &[0][..], ServiceErrorCode::Conflict),
        ("panic", &[0], ServiceErrorCode::Internal),
        ("large", &[0, 1], ServiceErrorCode::Internal),
    ] {
        let (numbers, error) = asked(&front, mood).await;
        assert_eq!(numbers, so_far, "{mood}");
        let Some(RequestError::Service(error)) = error else {
            panic!("{mood}: {error:?}")
        };
        assert_eq!(error.code(), code, "{mood}");
    }

    let (numbers, error) = asked(&front, "cancel").await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!((numbers.first(), numbers.last()), (Some(&0), Some(&1)));

    let (numbers, error) = asked(&front, "leak").await;
    assert!(error.is_none(), "{error:?}");
    assert!(numbers.len() > 1, "{numbers:?}");
    assert!(front.stats().refused().is_empty());
    assert_eq!(front.stats().late_replies(), 0);
}

/// Callers accept one key for each request, and a stream keeps its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_the_renewal_of_its_responders_credential() {
    let mut options = BusOptions::new(POLICY);
    options.credential_lifetime = Duration::from_secs(4);
    let bus = Bus::start_with(options).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let keys = back.clone();
    let handler = move |_: Message<String>, replies: ReplySender| {
        let keys = keys.clone();
        async move {
            let first = keys.signing_key().0;
            replies.send(0u32).await?;
            while keys.signing_key().0 == first {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for number in 1..10u32 {
                replies.send(number).await?;
            }
            Err(ServiceError::new(ServiceErrorCode::NotFound, "the end"))
        }
    };
    let _service = back.serve_stream("back.echo", handler).await.unwrap();
    let (numbers, error) = asked(&front, "x").await;
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    let Some(RequestError::Service(error)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.code(), ServiceErrorCode::NotFound);
    assert!(front.stats().refused().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_too_slow_learns_what_it_lost() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let handler = move |message: Message<u32>, replies: ReplySender| {
        let counted = Arc::clone(&counted);
        async move {
            count(message, replies).await?;
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    let service = back.serve_stream("back.echo", handler).await.unwrap();
    let message = front.message("back.echo").payload(&2_000u32);
    let message = message.timeout(Duration::from_millis(500));
    let responses = message.request_many().await.unwrap();
    eventually(|| sent.load(Ordering::SeqCst) == 1).await;
    service.drain().await;
    eventually(|| front.stats().refused_for("reply_overflow") == 2_001 - 1_024).await;
    let (numbers, error) = all(responses).await;
    // Nothing after the gap has room: whether it is a gap or the end is not known.
    assert_eq!(numbers, (0..1_024).collect::<Vec<_>>());
    assert!(
        matches!(error, Some(RequestError::Timeout { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_leaves_nothing_behind() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back.serve_stream("back.echo", count).await.unwrap();
    let mut responses = front.request_many("back.echo", &100u32).await.unwrap();
    // Cancelled in between again and again, it loses nothing.
    let mut numbers = Vec::new();
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while numbers.len() < 50 {
        assert!(tokio::time::Instant::now() < end, "lost after {numbers:?}");
        let patience = Duration::from_micros(20 * (numbers.len() as u64 % 3));
        if let Ok(next) = tokio::time::timeout(patience, responses.next()).await {
            numbers.push(next.unwrap().unwrap().decode::<u32>().unwrap());
        }
    }
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    drop(responses);
    eventually(|| front.stats().late_replies() == 51).await;
    let (numbers, error) = all(front.request_many("back.echo", &3u32).await.unwrap()).await;
    assert_eq!(numbers, [0, 1, 2]);
    assert!(error.is_none(), "{error:?}");
    assert!(front.stats().refused().is_empty());
}
