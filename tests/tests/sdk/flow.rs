//! What waits, what is dropped, and who is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulla_sdk::{Client, Message, PublishError, ReceiveError, SendError, ServiceError};
use bulla_tests::{Bus, Cable};
use tokio::time::timeout;

use super::{POLICY, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_too_slow_is_told_what_it_lost() {
    // Each event is a NATS message of its own.
    let single = "[subject.\"events.>\"]\nframes = \"off\"\n\n[[allow]]";
    let bus = Bus::start(&POLICY.replacen("[[allow]]", single, 1)).await;
    let front = bus.client("front").await;
    let options = bus.connect_options("back").subscription_capacity(16);
    let back = Client::connect(options).await.unwrap();
    let mut events = back.subscribe("events.*.done").await.unwrap();
    let mut other = back.subscribe("events.slow.done").await.unwrap();
    for number in 0..40_u32 {
        front.publish("events.x.done", &number).await.unwrap();
    }
    front.flush().await.unwrap();
    eventually(|| back.stats().slow_consumer() >= 24).await;
    let lagged = events.recv().await;
    let Err(ReceiveError::Lagged { at_least }) = lagged else {
        panic!("{lagged:?}")
    };
    assert_eq!(at_least, 24);
    // Told once; what it held comes, and what is sent from then on.
    for number in 0..16_u32 {
        let message = events.recv().await.unwrap();
        assert_eq!(message.decode::<u32>().unwrap(), number);
    }
    front.publish("events.slow.done", &99_u32).await.unwrap();
    let message = events.recv().await.unwrap();
    assert_eq!(message.decode::<u32>().unwrap(), 99);
    // Who lost nothing hears of no loss.
    let message = other.recv().await.unwrap();
    assert_eq!(message.decode::<u32>().unwrap(), 99);
    events.drain().await.unwrap();
    assert_eq!(events.recv().await.unwrap_err(), ReceiveError::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_gone_so_much_waits_and_no_more() {
    let bus = Bus::start(POLICY).await;
    let cable = Cable::to(bus.nats_url()).await;
    let front = bus.client_behind(&cable, "front").await;
    let back = bus.client("back").await;
    let mut events = back.subscribe("events.*.done").await.unwrap();
    front.publish("events.x.done", &0_u32).await.unwrap();
    front.flush().await.unwrap();
    cable.cut();
    eventually(|| !front.is_connected()).await;

    let mut accepted = 0_u32;
    let refused = loop {
        let next = accepted + 1;
        let published = front.publish("events.x.done", &next);
        match timeout(Duration::from_secs(5), published).await {
            Ok(Ok(())) => accepted = next,
            Ok(Err(error)) => break error,
            Err(_) => panic!("a publish waits for a server that is gone, after {accepted}"),
        }
        assert!(accepted < 500_000, "there is no bound");
    };
    let PublishError::Send(SendError::BufferFull) = refused else {
        panic!("{refused:?}")
    };
    assert!(accepted > 1_000, "{accepted}");
    cable.mend();
    // Nothing of what was accepted is lost, and all comes in its order.
    for number in 0..=accepted {
        let message = timeout(Duration::from_secs(10), events.next()).await;
        let message = message.unwrap_or_else(|_| panic!("{number} of {accepted}"));
        assert_eq!(message.unwrap().decode::<u32>().unwrap(), number);
    }
    front.publish("events.x.done", "on").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_client_has_given_what_it_took_and_ends() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut events = back.subscribe("events.*.done").await.unwrap();
    for number in 0..50_u32 {
        front.publish("events.x.done", &number).await.unwrap();
    }
    // Published and accepted; nobody waits for it but the drain.
    front.drain().await;
    let mut seen = 0;
    while seen < 50 {
        let message = timeout(Duration::from_secs(5), events.next()).await;
        assert_eq!(message.unwrap().unwrap().decode::<u32>().unwrap(), seen);
        seen += 1;
    }
    assert!(front.flush().await.is_err());
    back.drain().await;
    let end = timeout(Duration::from_millis(100), events.recv()).await;
    assert_eq!(end.expect("it has ended").unwrap_err(), ReceiveError::Ended);
}

/// Two replicas share events and requests; one of them is drained while they come as
/// fast as they can. Between the two of them everything has arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_drains_under_load_loses_nothing_that_was_on_its_way() {
    let quick = "[subject.\"events.>\"]\nframes = \"off\"\nreplay = \"window\"\n\
                 [subject.\"back.echo\"]\nreplay = \"window\"\n\n[[allow]]";
    let bus = Bus::start(&POLICY.replacen("[[allow]]", quick, 1)).await;
    let front = bus.client("front").await;
    // The one that leaves is far away: much is on its way to it.
    let cable = Cable::to(bus.nats_url()).await;
    let leaves = bus.client_behind(&cable, "back").await;
    let stays = bus.client("back").await;

    let mut first = leaves.queue_subscribe("events.*.done").await.unwrap();
    let mut second = stays.queue_subscribe("events.*.done").await.unwrap();
    cable.delay(Duration::from_millis(5));
    let enough = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn({
        let (front, enough) = (front.clone(), Arc::clone(&enough));
        async move {
            let mut number = 0_u32;
            while !enough.load(Ordering::Relaxed) {
                front.publish("events.x.done", &number).await.unwrap();
                number += 1;
            }
            front.flush().await.unwrap();
            number
        }
    });
    let collect = async |events: &mut bulla_sdk::Subscription| {
        let mut seen = Vec::new();
        while let Ok(Some(event)) = timeout(Duration::from_millis(800), events.next()).await {
            seen.push(event.decode::<u32>().unwrap());
        }
        seen
    };
    let mut seen = Vec::new();
    while seen.len() < 1_000 {
        seen.push(first.next().await.unwrap().decode::<u32>().unwrap());
    }
    first.drain().await.unwrap();
    enough.store(true, Ordering::Relaxed);
    let (rest, others) = tokio::join!(collect(&mut first), collect(&mut second));
    assert_eq!(first.recv().await.unwrap_err(), ReceiveError::Ended);
    let all = sender.await.unwrap();
    seen.extend(rest);
    seen.extend(others);
    seen.sort_unstable();
    let missing = (0..all).filter(|n| seen.binary_search(n).is_err()).count();
    assert_eq!(missing, 0, "of {all}, {} came", seen.len());

    let echo = async |number: Message<u32>| Ok::<_, ServiceError>(number.into_payload());
    let leaving = leaves.serve("back.echo", echo).await.unwrap();
    let _staying = stays.serve("back.echo", echo).await.unwrap();
    let callers: Vec<_> = (0..16_u32)
        .map(|caller| {
            let front = front.clone();
            tokio::spawn(async move {
                for number in 0..150 {
                    let asked = caller * 1_000 + number;
                    let said: u32 = front.request("back.echo", &asked).await.unwrap();
                    assert_eq!(said, asked);
                }
            })
        })
        .collect();
    let before = leaves.stats().delivered();
    eventually(|| leaves.stats().delivered() > before + 100).await;
    leaving.drain().await;
    for caller in callers {
        caller.await.expect("no request is lost");
    }
}
