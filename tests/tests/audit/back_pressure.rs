//! Nobody waits for the log, and what it cannot take is told when it can.

use std::time::Duration;

use async_nats::jetstream;
use bulla_audit::Event;
use bulla_identity::reserved;
use bulla_sdk::{Client, Message, RequestError, ServiceError};
use bulla_tests::Bus;
use tokio::time::Instant;

use super::{POLICY, client, codes, options, soon, stored, stream, until, verify};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_everything_goes_on_and_what_was_lost_is_told_by_number() {
    let bus = Bus::start(POLICY).await;
    let back = client(&bus, "back").await;
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let options = options(&bus, "front").audit(soon().queue(16));
    let front = Client::connect(options).await.unwrap();
    until(
        &bus,
        "start",
        |entry| matches!(&entry.event, Event::Start(start) if start.workload == "front"),
    )
    .await;

    let js = jetstream::new(bus.js_client().await);
    let config = stream(&bus).await.info().await.unwrap().config.clone();
    js.delete_stream(reserved::AUDIT_STREAM).await.unwrap();
    let began = Instant::now();
    for n in 0..500 {
        let denied = front.request::<_, ()>(&format!("secret.{n}"), "x").await;
        assert!(matches!(denied, Err(RequestError::Send(_))), "{denied:?}");
    }
    let answer: String = front.request("back.echo", "x").await.unwrap();
    assert_eq!(answer, "x");
    assert!(began.elapsed() < Duration::from_secs(3), "it waited");
    let [denies, ..] = front.audit().lost();
    assert!(denies > 100, "{denies}");

    js.create_stream(config).await.unwrap();
    let entry = until(
        &bus,
        "gap",
        |entry| matches!(&entry.event, Event::Gap(gap) if gap.denies > 0),
    )
    .await;
    let Event::Gap(gap) = entry.event else {
        unreachable!()
    };
    assert_eq!(gap.denies, front.audit().lost()[0]);
    assert_eq!(gap.reasons["not_granted"], gap.denies);
    front.drain().await;
    // Recorded or counted: none is missing in silence.
    let all = stored(&bus).await;
    let recorded = all
        .iter()
        .flat_map(|stored| stored.payload.lines())
        .filter(|line| line.contains("\"subject\":\"secret."))
        .count() as u64;
    assert_eq!(recorded + gap.denies, 500);
    let tag = bus.workload("front").tag().to_string();
    let of_front: Vec<_> = all
        .into_iter()
        .filter(|stored| stored.subject.contains(&tag))
        .collect();
    let report = verify(&bus, &of_front, &[]);
    let found = codes(&report);
    assert!(found.contains(&"gap"), "{found:?}");
    assert!(
        !found.contains(&"removed") && !found.contains(&"altered"),
        "{found:?}"
    );
}
