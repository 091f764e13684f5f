//! Stopping: what runs comes to its end, nothing new begins.

use crate::setup::*;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
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

/// Which nodes say that they are there and do not stop, asked again and again.
async fn watch(
    client: reqwest::Client,
    nodes: Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>,
    ready: Arc<Mutex<Vec<SocketAddr>>>,
) {
    loop {
        let mut good = Vec::new();
        let all = nodes.lock().clone();
        for (address, admin) in all {
            let asked = client.get(format!("http://{admin}/readyz")).send().await;
            if let Ok(answer) = asked
                && !answer.text().await.unwrap_or_default().contains("stopping")
            {
                good.push(address);
            }
        }
        *ready.lock() = good;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_rolling_restart_under_load_fails_no_request() {
    let options = || Options {
        limits: "unready_for = \"400ms\"\ndrain_timeout = \"5s\"",
        ..Options::default()
    };
    let first = Edge::with(options()).await;
    let bus = first.bus.clone();
    let another =
        async || Edge::beside(bus.clone(), options(), Issuer::start().await, |_| {}).await;
    let mut running = vec![first, another().await];
    let place = |edge: &Edge| (edge.address, edge.admin);
    let nodes = Arc::new(Mutex::new(running.iter().map(place).collect::<Vec<_>>()));
    let ready: Vec<_> = running.iter().map(|edge| edge.address).collect();
    let ready = Arc::new(Mutex::new(ready));
    let client = running[0].client.clone();
    let watching = tokio::spawn(watch(
        client.clone(),
        Arc::clone(&nodes),
        Arc::clone(&ready),
    ));
    let done = CancellationToken::new();
    let load: Vec<_> = (0..4)
        .map(|n| {
            let (ready, done, client) = (Arc::clone(&ready), done.clone(), client.clone());
            tokio::spawn(async move {
                let (mut sent, mut failed) = (0, Vec::new());
                while !done.is_cancelled() {
                    let all = ready.lock().clone();
                    let url = format!("http://{}/health", all[(n + sent) % all.len()]);
                    sent += 1;
                    match client.get(url).send().await {
                        Ok(answer) if answer.status() == 200 => {}
                        other => failed.push(format!("{other:?}")),
                    }
                }
                (sent, failed)
            })
        })
        .collect();
    for _ in 0..2 {
        let new = another().await;
        nodes.lock().push(place(&new));
        tokio::time::sleep(Duration::from_millis(200)).await;
        running.remove(0).stop().await;
        nodes.lock().remove(0);
        running.push(new);
    }
    done.cancel();
    let (mut sent, mut failed) = (0, Vec::new());
    for task in load {
        let (more, broken) = task.await.unwrap();
        sent += more;
        failed.extend(broken);
    }
    watching.abort();
    assert!(sent > 50, "{sent}");
    assert_eq!(failed, [""; 0], "of {sent}");
}
