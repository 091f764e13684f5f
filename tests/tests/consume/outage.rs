//! The server goes and comes back in the middle of the work.

use std::collections::BTreeSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_has_acknowledged_is_consumed_though_the_server_was_gone() {
    let mut bus = Bus::start(POLICY).await;
    let (shop, mail) = pair(&bus).await;
    let consumer = mail.consume("ORDERS", "mail").await.unwrap();
    let mut consumer = consumer.ahead(8);
    let (done, mut told) = tokio::sync::oneshot::channel::<BTreeSet<u32>>();
    let appending = tokio::spawn(async move {
        let mut acknowledged = BTreeSet::new();
        for number in 0..60_u32 {
            // What was not acknowledged may be there or not: nothing is claimed of it.
            if shop.append("orders.1.created", &number).await.is_ok() {
                acknowledged.insert(number);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done.send(acknowledged).unwrap();
    });
    let restarting = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        bus.restart_server().await;
    };
    let consuming = async {
        let end = tokio::time::Instant::now() + Duration::from_secs(40);
        let mut consumed = BTreeSet::new();
        let mut all: Option<BTreeSet<u32>> = None;
        while all.as_ref().is_none_or(|all| !all.is_subset(&consumed)) {
            assert!(tokio::time::Instant::now() < end, "{consumed:?} of {all:?}");
            if all.is_none() {
                all = told.try_recv().ok();
            }
            let next = timeout(Duration::from_millis(500), consumer.next()).await;
            let Ok(Ok(delivery)) = next else {
                continue;
            };
            consumed.insert(delivery.message().decode::<u32>().unwrap());
            // An answer that is lost brings it again.
            let _ = delivery.ack().await;
        }
        all.map_or(0, |all| all.len())
    };
    let ((), acknowledged) = tokio::join!(restarting, consuming);
    appending.await.unwrap();
    assert!(acknowledged > 20, "{acknowledged}");
}
