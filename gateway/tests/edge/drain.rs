//! Stopping: what runs comes to its end, nothing new begins.

use crate::setup::*;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A bus that says when a request is inside and keeps it until released.
fn holding(edge: &Edge) -> (tokio::sync::mpsc::Receiver<()>, CancellationToken) {
    let (entered, inside) = tokio::sync::mpsc::channel(10);
    let release = CancellationToken::new();
    edge.bus.behave({
        let release = release.clone();
        move |_| {
            let (entered, release) = (entered.clone(), release.clone());
            Box::pin(async move {
                let _ = entered.send(()).await;
                release.cancelled().await;
                Ok(json_reply("{}"))
            })
        }
    });
    (inside, release)
}

#[tokio::test]
async fn a_running_request_is_answered_and_then_the_edge_ends() {
    let edge = Edge::start().await;
    let (mut inside, release) = holding(&edge);
    let running = tokio::spawn(edge.order().send());
    inside.recv().await.unwrap();
    edge.stop.cancel();
    // No new connection is taken any more.
    let deadline = Instant::now() + Duration::from_secs(5);
    while tokio::net::TcpStream::connect(edge.address).await.is_ok() {
        assert!(Instant::now() < deadline, "still listening");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ready = edge.client.get(format!("http://{}/readyz", edge.admin));
    assert_eq!(ready.send().await.unwrap().status(), 503);
    assert!(!edge.running.is_finished());
    release.cancel();
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    edge.running.await.unwrap();
    assert!(edge.bus.flushed.load(Ordering::SeqCst));
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_edge_up() {
    let edge = Edge::start().await;
    assert_eq!(edge.order().send().await.unwrap().status(), 200);
    let silent = tokio::net::TcpStream::connect(edge.address).await.unwrap();
    // The silent one has been accepted once another one after it is served.
    assert_eq!(edge.get("/health").send().await.unwrap().status(), 200);
    let started = Instant::now();
    edge.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(silent);
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_after_the_drain_time() {
    let edge = Edge::with(Options {
        limits: "drain_timeout = \"200ms\"",
        ..Options::default()
    })
    .await;
    let (mut inside, _release) = holding(&edge);
    let running = tokio::spawn(edge.order().send());
    inside.recv().await.unwrap();
    let started = Instant::now();
    edge.stop().await;
    assert!(started.elapsed() < Duration::from_secs(4));
    assert!(running.await.unwrap().is_err());
}
