//! 20: brokers that are gone, hang or answer rubbish.

use std::path::PathBuf;

use bulla_broker::callout::Group;
use bulla_identity::reserved;
use bulla_sdk::{ConnectError, ConnectOptions, CredentialError};
use bulla_tests::{BusOptions, Cable};
use tempfile::TempDir;

use super::*;

/// A bus whose only broker admits connections and can be made to answer nothing
/// else.
struct Hanging {
    bus: Bus,
    cable: Cable,
    kept: TempDir,
}

/// The broker connects to the account `JS` first.
const CONTROL: usize = 0;

impl Hanging {
    async fn start(credentials: Duration) -> Self {
        let mut options = BusOptions::new(POLICY);
        options.credential_lifetime = credentials;
        options.brokers = Vec::new();
        let mut bus = Bus::start_with(options).await;
        let cable = Cable::to(bus.nats_url()).await;
        let path = bus.provision().path("broker.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(bus.nats_url(), &cable.url())).unwrap();
        bus.add_broker(Group::Both).await;
        Self {
            bus,
            cable,
            kept: tempfile::tempdir().unwrap(),
        }
    }

    fn state_dir(&self) -> PathBuf {
        self.kept.path().join("shop")
    }

    fn keeping(&self) -> ConnectOptions {
        let options = self.bus.connect_options("shop");
        options
            .state_dir(self.state_dir())
            .connect_timeout(Duration::from_secs(6))
    }

    fn forgetful(&self) -> ConnectOptions {
        let options = self.bus.connect_options("shop");
        options.connect_timeout(Duration::from_secs(4))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_a_service_starts_with_what_it_kept_while_brokers_hang() {
    let hanging = Hanging::start(Duration::from_secs(3600)).await;
    let pay = hanging.bus.client("pay").await;
    let answer = async |message: Message<u32>| Ok::<_, ServiceError>(*message.payload());
    let _service = pay.serve("pay.charge", answer).await.unwrap();
    let first = Client::connect(hanging.keeping()).await.unwrap();
    let _: u32 = first.request("pay.charge", &1).await.unwrap();
    let key = first.signing_key();
    // It is one process's.
    let second = Client::connect(hanging.keeping()).await;
    assert!(matches!(second, Err(ConnectError::StateDir(_))));
    first.drain().await;
    drop(first);

    hanging.cable.freeze(CONTROL);
    let refused = Client::connect(hanging.forgetful()).await;
    assert!(
        matches!(
            refused,
            Err(ConnectError::Credential(CredentialError::Link(_)))
        ),
        "{refused:?}"
    );
    let again = until_free(&hanging).await;
    assert_eq!(again.signing_key(), key, "the same credential");
    for number in 2..50 {
        let answer: u32 = again.request("pay.charge", &number).await.unwrap();
        assert_eq!(answer, number);
    }
    // The same key in another process's hands, and yet no number twice.
    assert!(
        pay.stats().alarms().is_empty(),
        "{:?}",
        pay.stats().alarms()
    );
    assert!(pay.stats().refused().is_empty());
}

/// The first process's tasks may hold the directory a moment longer.
async fn until_free(hanging: &Hanging) -> Client {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match Client::connect(hanging.keeping()).await {
            Ok(client) => return client,
            Err(ConnectError::StateDir(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_what_was_kept_ends_with_its_credential() {
    let hanging = Hanging::start(Duration::from_secs(4)).await;
    let first = Client::connect(hanging.keeping()).await.unwrap();
    hanging.cable.freeze(CONTROL);
    first.drain().await;
    drop(first);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let refused = Client::connect(hanging.keeping()).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Credential(CredentialError::Link(_))),
        "{refused:?}"
    );
}

/// A broker that refuses has answered: what was granted before does not help.
#[tokio::test(flavor = "multi_thread")]
async fn attack_20_what_was_kept_does_not_get_past_a_refusal() {
    let hanging = Hanging::start(Duration::from_secs(3600)).await;
    let first = Client::connect(hanging.keeping()).await.unwrap();
    first.drain().await;
    drop(first);
    // Its broker has had enough of this workload for a while.
    let bus = &hanging.bus;
    let raw = bus.raw_client("shop").await;
    let tag = bus.workload("shop").tag();
    let answer = raw
        .request(reserved::broker_challenge(tag), "".into())
        .await
        .unwrap();
    let challenge = bulla_sdk::broker_protocol::Challenge::decode(&answer.payload).unwrap();
    let subject = reserved::broker_credential(tag, &challenge.broker_id);
    let flood = (0..300).map(|_| raw.request(subject.clone(), "x".into()));
    futures_util::future::join_all(flood).await;
    let options = hanging
        .keeping()
        .connect_timeout(Duration::from_millis(400));
    let refused = Client::connect(options).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ConnectError::Credential(CredentialError::Refused { .. })
        ),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_a_broker_that_answers_rubbish_is_asked_again() {
    // Nobody of the other group answers instead.
    let mut options = BusOptions::new(POLICY);
    options.brokers = vec![Group::A];
    let bus = Bus::start_with(options).await;
    let js = bus.js_client().await;
    let mut stolen = js
        .queue_subscribe("$BULLA.BROKER.*.challenge", "bulla-a".to_owned())
        .await
        .unwrap();
    js.flush().await.unwrap();
    let rubbish = tokio::spawn(async move {
        let mut answered = 0;
        for body in ["", "rubbish", "{}"] {
            let Some(message) = stolen.next().await else {
                break;
            };
            if let Some(reply) = message.reply {
                js.publish(reply, body.into()).await.unwrap();
                answered += 1;
            }
        }
        stolen.unsubscribe().await.unwrap();
        answered
    });
    for workload in ["shop", "pay", "bank", "wiretap"] {
        let options = bus.connect_options(workload);
        let options = options.connect_timeout(Duration::from_secs(30));
        Client::connect(options).await.unwrap();
    }
    rubbish.abort();
}
