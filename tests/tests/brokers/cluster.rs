//! A node of three dies under load: what is sealed goes on, and what was acknowledged
//! is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use bulla_broker::callout::Group;
use bulla_sdk::{Client, Message, ServiceError};
use bulla_tests::Cluster;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.till]
attest = [{ nkey = "@till@" }]
[workload.mail]
attest = [{ nkey = "@mail@" }]

[stream.ORDERS]
subjects = ["orders.>"]
replicas = 3

[subject."orders.>"]
replay = "stream"
max_age = "1h"

[subject."till.total"]
replay = "window"

[[allow]]
id = "shop-appends"
who = ["shop"]
may = ["append"]
on = ["orders.created"]

[[allow]]
id = "mail-consumes"
who = ["mail"]
may = ["consume"]
on = ["ORDERS.mail"]

[[allow]]
id  = "shop-asks"
who = ["shop"]
may = ["request"]
on  = ["till.total"]

[[allow]]
id  = "till-answers"
who = ["till"]
may = ["serve"]
on  = ["till.total"]
"#;

/// How long after the death of the node that both sides are on a request may fail.
const OUTAGE: Duration = Duration::from_secs(3);

/// On which node the stream is led.
async fn leader(cluster: &Cluster, stream: &str) -> usize {
    let seed = cluster.provision().path("keys/broker-js.nk");
    let seed = std::fs::read_to_string(seed).unwrap();
    let client = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
        .connect(cluster.url(0))
        .await
        .unwrap();
    let mut stream = jetstream::new(client).get_stream(stream).await.unwrap();
    let info = stream.info().await.unwrap();
    let leader = info.cluster.as_ref().and_then(|c| c.leader.clone());
    cluster.node_named(&leader.expect("a leader"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_dies_under_load_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(POLICY).await;
    let _a = cluster.broker(0, Group::A).await;
    let _b = cluster.broker(1, Group::B).await;
    // Everybody is on the node that will die, where the stream is led.
    let node = leader(&cluster, "ORDERS").await;
    let connect = async |name| {
        Client::connect(cluster.connect_options(node, name))
            .await
            .unwrap()
    };
    let (shop, till, mail) = (
        connect("shop").await,
        connect("till").await,
        connect("mail").await,
    );
    let double = async |m: Message<u64>| Ok::<_, ServiceError>(m.into_payload() * 2);
    let _service = till.serve("till.total", double).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let appends = tokio::spawn({
        let (shop, stop, count) = (shop.clone(), Arc::clone(&stop), Arc::clone(&count));
        async move {
            let mut acknowledged = BTreeSet::new();
            let mut slowest = Duration::ZERO;
            let mut number: u64 = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let began = Instant::now();
                // Repeats by itself, under the same id, as long as its life lasts.
                let message = shop
                    .message("orders.created")
                    .payload(&number)
                    .timeout(Duration::from_secs(20));
                if message.append().await.is_ok() {
                    acknowledged.insert(number);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                slowest = slowest.max(began.elapsed());
                sleep(Duration::from_millis(5)).await;
            }
            (acknowledged, number, slowest)
        }
    });
    let requests = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let (mut good, mut bad, mut last_bad) = (0_u64, 0_u64, None);
            // A service listens a moment after it was begun.
            while shop.request::<_, u64>("till.total", &21).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
            while !stop.load(Ordering::Relaxed) {
                let asked = shop.request::<_, u64>("till.total", &21);
                match timeout(Duration::from_secs(1), asked).await {
                    Ok(Ok(42)) => good += 1,
                    failed => {
                        bad += 1;
                        last_bad = Some((Instant::now(), format!("{failed:?}")));
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
            (good, bad, last_bad)
        }
    });
    let (tell, told) = watch::channel(BTreeSet::new());
    let consumed = tokio::spawn({
        async move {
            let mut consumer = mail.consume("ORDERS", "mail").await.unwrap();
            let mut seen = BTreeSet::new();
            let mut quiet = 0;
            // Until everything was sent, and for as long as something still comes: what
            // was on its way from the node that died comes again after half a minute.
            while quiet < 4 || (quiet < 90 && !told.borrow().is_subset(&seen)) {
                match timeout(Duration::from_millis(500), consumer.next()).await {
                    Ok(Ok(delivery)) => {
                        seen.insert(delivery.message().decode::<u64>().unwrap());
                        let _ = delivery.ack().await;
                        quiet = 0;
                    }
                    Ok(Err(error)) => println!("while it is led by nobody: {error}"),
                    Err(_) => quiet += i32::from(!told.borrow().is_empty()),
                }
            }
            seen
        }
    });
    let reaches = async |limit| {
        while count.load(Ordering::Relaxed) < limit {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let long = Duration::from_secs(30);
    timeout(long, reaches(20))
        .await
        .expect("appends come through");
    let before = count.load(Ordering::Relaxed);
    cluster.kill(node).await;
    let killed = Instant::now();
    // A leader is found after some seconds.
    timeout(long, reaches(before + 20))
        .await
        .expect("appends come through again");
    // Whoever is new finds a node, a broker and the control stream.
    let other = (node + 1) % 3;
    let newcomer = Client::connect(cluster.connect_options(other, "shop"))
        .await
        .unwrap();
    assert_eq!(
        newcomer.request::<_, u64>("till.total", &4).await.unwrap(),
        8
    );
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, sent, slowest) = appends.await.unwrap();
    tell.send_replace(acknowledged.clone());
    let (good, bad, last_bad) = requests.await.unwrap();
    let last_bad = last_bad.map(|(at, why)| (at.saturating_duration_since(killed), why));
    let seen = consumed.await.unwrap();
    println!(
        "{sent} sent, {} acknowledged, slowest {slowest:?}; {} consumed; requests: {good} good, \
         {bad} failed, the last {last_bad:?} after the kill; {:?} after the kill",
        acknowledged.len(),
        seen.len(),
        killed.elapsed()
    );
    let lost: Vec<_> = acknowledged.difference(&seen).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_eq!(acknowledged.len() as u64, sent, "every append came through");
    // Those in flight, and those that were sent before both were back. How many depends on
    // who is back first: where nobody answers, that is known at once.
    assert!(good > 50, "{good} good, {bad} failed");
    let is_short = |(after, _): &(Duration, String)| *after <= OUTAGE;
    assert!(last_bad.as_ref().is_none_or(is_short), "{last_bad:?}");
}
