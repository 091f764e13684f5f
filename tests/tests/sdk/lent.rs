//! Over a connection that the program has made itself.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Auth, AuthError, ConnectOptions};
use bulla_sdk::{
    AppendError, BucketError, Bulla, Client, ConnectError, Ears, LentError, LinkError, Message,
    PublishError, ReceiveError, SendError, ServiceError, SubscribeError,
};
use bulla_tests::{Bus, Cable};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

use super::{POLICY, eventually};

const SOON: Duration = Duration::from_secs(5);

fn policy() -> String {
    let more = r#"
[stream.KEPT]
subjects = ["kept.*"]
[subject."kept.*"]
replay = "stream"
max_age = "1h"
[bucket.rates]

[[allow]]
id = "front-keeps"
who = ["front"]
may = ["append"]
on = ["kept.*"]
[[allow]]
id = "back-takes"
who = ["back"]
may = ["consume"]
on = ["KEPT.back"]
[[allow]]
id = "rates"
who = ["front", "back"]
may = ["read", "write"]
on = ["rates.>"]
"#;
    let open = "[subject.\"events.old.>\"]\nprotect = \"open\"\n\n[[allow]]";
    POLICY.replacen("[[allow]]", open, 1) + more
}

/// A program's own way to connect: an nkey, and an inbox as it comes.
fn own_way(bus: &Bus, workload: &str) -> ConnectOptions {
    let seed = Arc::new(bus.seed(workload));
    ConnectOptions::with_auth_callback(move |nonce| {
        let seed = Arc::clone(&seed);
        async move {
            let mut auth = Auth::new();
            auth.nkey = Some(seed.public().to_string());
            let signature = seed.sign_nonce(&nonce).map_err(AuthError::new)?;
            auth.signature = Some(signature.as_bytes().to_vec());
            Ok(auth)
        }
    })
}

/// A connection of the program's own, and what hears on it.
async fn heard(bus: &Bus, workload: &str, url: &str) -> (async_nats::Client, Ears) {
    let ears = Ears::new();
    let nats = own_way(bus, workload).event_callback(ears.callback());
    (nats.connect(url).await.unwrap(), ears)
}

async fn over(bus: &Bus, workload: &str) -> (async_nats::Client, Client) {
    let (nats, ears) = heard(bus, workload, bus.nats_url()).await;
    let client = Client::over(nats.clone(), ears, bus.connect_options(workload)).await;
    (nats, client.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_the_programs_own_carries_everything() {
    let bus = Bus::start(&policy()).await;
    let (front_nats, front) = over(&bus, "front").await;
    let (back_nats, back) = over(&bus, "back").await;
    let mut events = back.subscribe("events.*.done").await.unwrap();
    // What the program did on it before goes on.
    let mut plain = back_nats.subscribe("events.old.done").await.unwrap();
    let service = back.serve("back.echo", async |text: Message<String>| {
        Ok::<_, ServiceError>(text.into_payload())
    });
    let service = service.await.unwrap();

    front.publish("events.x.done", "sealed").await.unwrap();
    front.flush().await.unwrap();
    let message = timeout(SOON, events.next()).await.unwrap().unwrap();
    assert_eq!(message.decode::<String>().unwrap(), "sealed");
    assert_eq!(message.sender().workload(), front.workload());
    let said: String = front.request("back.echo", "there").await.unwrap();
    assert_eq!(said, "there");
    front_nats
        .publish("events.old.done", "raw".into())
        .await
        .unwrap();
    let raw = timeout(SOON, plain.next()).await.unwrap().unwrap();
    assert_eq!(raw.payload, "raw");
    let kept = front.append("kept.one", "a bowl").await.unwrap();
    let mut consumer = back.consume("KEPT", "back").await.unwrap();
    let delivery = timeout(SOON, consumer.next()).await.unwrap().unwrap();
    assert_eq!(delivery.receipt().sequence(), kept.sequence());
    delivery.ack().await.unwrap();
    let rates = front.bucket("rates").unwrap();
    let mut watch = back.bucket("rates").unwrap().watch("eur.*").await.unwrap();
    rates.put("eur.usd", &108).await.unwrap();
    let entry = timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(entry.decode::<u32>().unwrap(), 108);

    // What is begun with the SDK ends with it; the connection is the program's.
    service.drain().await;
    back.drain().await;
    let end = timeout(SOON, events.recv()).await.expect("an end");
    assert_eq!(end.unwrap_err(), ReceiveError::Ended);
    assert!(back.flush().await.is_err());
    assert!(!back.is_connected());
    while plain.next().now_or_never().flatten().is_some() {}
    front_nats
        .publish("events.old.done", "on".into())
        .await
        .unwrap();
    let raw = timeout(SOON, plain.next()).await.unwrap().unwrap();
    assert_eq!(raw.payload, "on");
    // And may be lent again.
    let ears = Ears::new();
    let nats = own_way(&bus, "back").event_callback(ears.callback());
    let nats = nats.connect(bus.nats_url()).await.unwrap();
    for _ in 0..2 {
        let options = bus.connect_options("back");
        let again = Client::over(nats.clone(), ears.clone(), options)
            .await
            .unwrap();
        again.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_on_a_lent_connection_is_told_to_whom_it_concerns() {
    let mut bus = Bus::start(&policy()).await;
    let (_, front) = over(&bus, "front").await;
    bus.kill_broker(bus.broker(0)).await;
    let wider = policy()
        .replace(
            "who = [\"back\"]\nmay = [\"subscribe\"]",
            "who = [\"back\", \"front\"]\nmay = [\"subscribe\"]",
        )
        .replace(
            r#"on = ["back.anonymous", "back.echo", "back.secret"]"#,
            r#"on = ["back.anonymous", "back.echo", "back.new"]"#,
        );
    bus.publish_policy(&wider).await;
    eventually(|| front.policy().revision() == 2).await;
    let refused = front.subscribe("events.*.done").await.err().unwrap();
    assert!(
        matches!(refused, SubscribeError::RefusedByServer { .. }),
        "{refused}"
    );
    let began = tokio::time::Instant::now();
    let refused = front.request::<_, String>("back.new", "x").await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, bulla_sdk::RequestError::RefusedByServer { .. }),
        "{refused}"
    );
    assert!(began.elapsed() < Duration::from_secs(2), "told at once");
}

/// Without ears nobody would hear of a refusal: what is answered works, what is not is
/// not begun.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_answers_is_not_begun_where_nobody_hears() {
    let bus = Bus::start(&policy()).await;
    let back = bus.client("back").await;
    let echo = async |text: Message<String>| Ok::<_, ServiceError>(text.into_payload());
    let _service = back.serve("back.echo", echo).await.unwrap();
    let cable = Cable::to(bus.nats_url()).await;
    let nats = own_way(&bus, "front").connect(cable.url()).await.unwrap();
    let file = bus.provision().path("front.toml");
    let text = format!(
        "workload = \"{}\"\nseed_file = \"{}\"\ntrust_root_file = \"{}\"\n",
        bus.workload("front"),
        bus.seed_file("front").display(),
        bus.root_file().display()
    );
    std::fs::write(&file, text).unwrap();
    // The file names no address: there is a connection already.
    assert!(Bulla::builder().file(&file).options().is_err());
    let builder = Bulla::builder().file(&file).over(nats, None);
    let front = builder.connect().await.unwrap();

    let said: String = front.request("back.echo", "there").await.unwrap();
    assert_eq!(said, "there");
    front.append("kept.one", "a bowl").await.unwrap();
    let rates = front.bucket("rates").unwrap();
    rates.put("eur.usd", &108).await.unwrap();
    assert!(rates.get("eur.usd").await.unwrap().is_some());
    front.flush().await.unwrap();

    let error = front.publish("events.x.done", "x").await.unwrap_err();
    let is_deaf = matches!(error, PublishError::Send(SendError::Link(LinkError::Deaf)));
    assert!(is_deaf, "{error:?}");
    let error = front.message("events.old.done").json("x").publish_plain();
    let error = error.await.unwrap_err();
    let is_deaf = matches!(error, PublishError::Send(SendError::Link(LinkError::Deaf)));
    assert!(is_deaf, "{error:?}");
    let error = front.serve("front.order", echo).await.err().unwrap();
    assert!(
        matches!(error, SubscribeError::Link(LinkError::Deaf)),
        "{error:?}"
    );
    let error = rates.watch("eur.*").await.unwrap_err();
    assert!(
        matches!(error, BucketError::Link(LinkError::Deaf)),
        "{error:?}"
    );

    // A lost connection is found out all the same, and what is asked goes on.
    cable.cut();
    eventually(|| !front.is_connected()).await;
    cable.mend();
    eventually(|| front.is_connected()).await;
    let appended = async || front.append("kept.two", "a bowl").await;
    let appended = timeout(SOON, appended()).await.unwrap();
    assert!(
        !matches!(appended, Err(AppendError::IdTaken { .. })),
        "{appended:?}"
    );
    let said: String = front.request("back.echo", "again").await.unwrap();
    assert_eq!(said, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_lent_connection_is_said_before_anything_is_sent() {
    let bus = Bus::start(&policy()).await;
    let lent = |error: ConnectError| match error {
        ConnectError::Lent(error) => error,
        other => panic!("{other:?}"),
    };
    // Another workload's.
    let (nats, ears) = heard(&bus, "back", bus.nats_url()).await;
    let options = bus.connect_options("front");
    let error = lent(Client::over(nats.clone(), ears, options).await.unwrap_err());
    assert_eq!(error.code(), "not_admitted", "{error}");
    // One that the policy does not bind.
    let nats = bus.js_client().await;
    let options = bus.connect_options("front");
    let error = lent(Client::over(nats, None, options).await.unwrap_err());
    assert!(matches!(error, LentError::Unbound), "{error}");
    // Ears of another connection.
    let (_other, ears) = heard(&bus, "front", bus.nats_url()).await;
    let nats = own_way(&bus, "front")
        .connect(bus.nats_url())
        .await
        .unwrap();
    let options = bus.connect_options("front");
    let error = lent(Client::over(nats.clone(), ears, options).await.unwrap_err());
    assert!(matches!(error, LentError::OtherEars), "{error}");
    // One that does not stand, and one that has ended.
    let cable = Cable::to(bus.nats_url()).await;
    let nats = own_way(&bus, "front").connect(cable.url()).await.unwrap();
    cable.cut();
    eventually(|| nats.connection_state() != async_nats::connection::State::Connected).await;
    let soon = Duration::from_millis(300);
    let options = bus.connect_options("front").connect_timeout(soon);
    let error = lent(Client::over(nats, None, options.clone()).await.unwrap_err());
    assert!(matches!(error, LentError::NotConnected), "{error}");
    let nats = own_way(&bus, "front")
        .connect(bus.nats_url())
        .await
        .unwrap();
    nats.drain().await.unwrap();
    while nats.flush().await.is_ok() {
        tokio::task::yield_now().await;
    }
    let error = Client::over(nats, None, options).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Link(LinkError::Disconnected)),
        "{error:?}"
    );
}
