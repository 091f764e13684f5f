//! Two hundred connections, and how soon the last of them lives by a new policy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_sdk::Client;
use bulla_tests::Bus;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{PROMISE, connections_by};

const CONNECTIONS: usize = 200;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.loser-a]
attest = [{ nkey = "@loser-a@" }]
[workload.loser-b]
attest = [{ nkey = "@loser-b@" }]
[workload.steady-a]
attest = [{ nkey = "@steady-a@" }]
[workload.steady-b]
attest = [{ nkey = "@steady-b@" }]

[[allow]]
id = "losers-tell"
who = ["loser-a", "loser-b"]
may = ["publish"]
on = ["a.one", "a.two"]
[[allow]]
id = "steady-tell"
who = ["steady-a", "steady-b"]
may = ["publish"]
on = ["b.one"]
"#;

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_connections_live_by_a_new_policy_within_a_second() {
    let bus = Arc::new(Bus::start(POLICY).await);
    let mut connecting = JoinSet::new();
    // A debug build answers no two hundred at once within nats-server's two seconds.
    let places = Arc::new(Semaphore::new(16));
    for n in 0..CONNECTIONS {
        let bus = Arc::clone(&bus);
        // Brokers issue one workload 64 credentials at once, and then one a second.
        let name = ["loser-a", "loser-b", "steady-a", "steady-b"][n % 4];
        let places = Arc::clone(&places);
        connecting.spawn(async move {
            let _place = places.acquire().await;
            bus.client(name).await
        });
    }
    let clients: Vec<Client> = connecting.join_all().await;
    let sys = bus.sys_client().await;
    let before = connections_by(&sys).await;
    assert_eq!(before.len(), CONNECTIONS);
    let of = |name: &str| -> BTreeSet<u64> {
        let own = before.iter().filter(|(_, user)| user.starts_with(name));
        own.map(|(cid, _)| *cid).collect()
    };
    let (losers, steady) = (of("loser"), of("steady"));

    bus.publish_policy(&POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\""))
        .await;
    let applied = Instant::now();
    // When each process goes by it, and when the server has ended and admitted
    // anew whoever lost something.
    let watching = tokio::spawn(async move {
        let mut took = vec![None; clients.len()];
        while took.iter().any(Option::is_none) {
            for (client, took) in clients.iter().zip(&mut took) {
                if took.is_none() && client.policy().revision() == 2 {
                    *took = Some(applied.elapsed());
                }
            }
            assert!(applied.elapsed() < Duration::from_secs(20), "{took:?}");
            sleep(Duration::from_millis(1)).await;
        }
        (clients, took.into_iter().flatten().collect::<Vec<_>>())
    });
    let (mut ended, mut back) = (None, None);
    while back.is_none() {
        let now = connections_by(&sys).await;
        if ended.is_none() && !losers.iter().any(|cid| now.contains_key(cid)) {
            ended = Some(applied.elapsed());
        }
        if ended.is_some() && now.len() == CONNECTIONS {
            back = Some(applied.elapsed());
        }
        assert!(applied.elapsed() < Duration::from_secs(20), "{}", now.len());
        sleep(Duration::from_millis(5)).await;
    }
    let (clients, mut took) = watching.await.unwrap();
    took.sort_unstable();
    println!(
        "{CONNECTIONS} connections, {} of them lose a right; after the policy was handed to the stream: \
         enforced p50 {:?}, p99 {:?}, last {:?}; all losers ended {:?}; all back {:?}",
        losers.len(),
        percentile(&took, 50),
        percentile(&took, 99),
        took[took.len() - 1],
        ended.unwrap(),
        back.unwrap(),
    );
    assert!(percentile(&took, 99) < PROMISE, "{took:?}");
    assert!(ended.unwrap() < PROMISE, "{ended:?}");
    let after = connections_by(&sys).await;
    assert!(
        steady.iter().all(|cid| after.contains_key(cid)),
        "nobody else"
    );
    drop(clients);
}
