//! What goes wrong when somebody starts: each mistake is told with what to do.

use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_sdk::{
    Bulla, ConnectError, ContentType, ControlError, Message, PayloadError, PublishError,
    RequestError, SendError, ServiceError, ServiceErrorCode, StartError,
};
use bulla_tests::{Bus, BusOptions};

use super::POLICY;

fn settings(bus: &Bus, url: &str) -> String {
    format!(
        "nats_url = \"{url}\"\nworkload = \"{}\"\nseed_file = \"{}\"\ntrust_root_file = \"{}\"\n\
         connect_timeout_seconds = 2\n",
        bus.workload("front"),
        bus.seed_file("front").display(),
        bus.root_file().display(),
    )
}

async fn start(text: &str) -> Result<bulla_sdk::Client, StartError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("front.toml");
    std::fs::write(&file, text).unwrap();
    let skew = Duration::from_millis(100);
    let builder = Bulla::builder().file(file);
    builder.with(move |o| o.clock_skew(skew)).connect().await
}

/// An error with all of its causes, as a service prints it.
fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_is_enough_and_what_it_lacks_is_said_at_once() {
    let bus = Bus::start(POLICY).await;
    let text = settings(&bus, bus.nats_url());
    let client = start(&text).await.unwrap();
    assert_eq!(client.workload(), &bus.workload("front"));
    client.publish("events.x.done", "hi").await.unwrap();

    let error = start("workload = \"front\"\nnats = 1\n").await;
    let Err(StartError::Options(options)) = error else {
        panic!("it starts")
    };
    assert_eq!(options.problems().len(), 5, "{options}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named() {
    let bus = Bus::start(POLICY).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("nats://127.0.0.1:{port}");
    let error = start(&settings(&bus, &url)).await.err().unwrap();
    let StartError::Connect(ConnectError::Nats { .. }) = &error else {
        panic!("{error:?}")
    };
    assert!(shown(&error).contains(&url), "{}", shown(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_or_a_broker_it_is_said_what_is_missing() {
    let mut bus = Bus::start(POLICY).await;
    let text = settings(&bus, bus.nats_url());
    // Nobody has put a policy in force: the record is not there.
    let context = async_nats::jetstream::new(bus.js_client().await);
    let stream = context.get_stream("BULLA_CTL").await.unwrap();
    let record = bus.control_record("$BULLA.CTL.POLICY").await;
    stream.purge().filter("$BULLA.CTL.POLICY").await.unwrap();
    let error = start(&text).await.err().unwrap();
    let StartError::Connect(ConnectError::Control(ControlError::Missing { what })) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*what, "policy");
    let told = shown(&error);
    assert!(told.contains("does a broker run"), "{told}");
    bus.replace_control_record("$BULLA.CTL.POLICY", record)
        .await;

    let broker = bus.broker(0);
    bus.kill_broker(broker).await;
    let error = start(&text).await.err().unwrap();
    let StartError::Connect(ConnectError::Unauthorized { .. } | ConnectError::Timeout { .. }) =
        &error
    else {
        panic!("{error:?}")
    };
    bus.add_broker(Group::Both).await;
    start(&text).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_the_wrong_kind_or_too_large_is_said_before_or_by_the_other_side() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = back
        .serve("back.echo", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    // Not what the service takes, and not what the caller wanted.
    let error = front.request::<_, String>("back.echo", &7).await;
    let Err(RequestError::Service(error)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.code(), ServiceErrorCode::Invalid);
    let error = front.request::<_, u32>("back.echo", "seven").await;
    let Err(RequestError::Payload(PayloadError::Mismatch { .. })) = error else {
        panic!("{error:?}")
    };
    // A content type that nobody decodes, at either end.
    let image = ContentType::Other("image/png".into());
    let message = front.message("back.echo").bytes(image.clone(), "png");
    let error = message.request().await.unwrap_err();
    assert!(matches!(error, RequestError::Service(_)), "{error:?}");
    let error = front.message("back.echo").bytes(image, "").payload("x");
    let told = shown(&error.request().await.unwrap_err());
    assert!(told.contains("use the raw bytes"), "{told}");

    let large = vec![0_u8; 2 << 20];
    let error = front.publish("events.x.done", &large).await;
    let Err(PublishError::Send(SendError::TooLarge { limit, actual })) = error else {
        panic!("{error:?}")
    };
    assert!(limit < actual, "{limit} {actual}");
    front.publish("events.x.done", "fits").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_nobody_renews_is_said_to_have_expired() {
    let mut options = BusOptions::new(POLICY);
    options.credential_lifetime = Duration::from_secs(2);
    let mut bus = Bus::start_with(options).await;
    let front = bus.client("front").await;
    let broker = bus.broker(0);
    bus.kill_broker(broker).await;
    let end = tokio::time::Instant::now() + Duration::from_secs(6);
    loop {
        match front.publish("events.x.done", "hi").await {
            Ok(()) => assert!(tokio::time::Instant::now() < end, "it never expired"),
            Err(PublishError::Send(error @ SendError::CredentialExpired)) => {
                assert!(shown(&error).contains("no broker has renewed it"));
                break;
            }
            Err(error) => panic!("{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
