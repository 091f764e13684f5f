//! Attacks 15, 20 and 30: whoever runs nats-server, or holds a broker's connection
//! or key, keeps the news from somebody, feeds him old records, or rubbish.

use std::time::{Duration, Instant};

use bulla_broker::callout::Group;
use bulla_envelope::{Holdings, Mark, Revoked};
use bulla_identity::reserved;
use bulla_sdk::{
    Client, ConnectError, ControlError, Message, PublishError, RequestError, SendError,
    ServiceError, Stale, Standing, Subscription,
};
use bulla_tests::{Bus, BusOptions, now};

use super::{POLICY, eventually};

/// Shorter than in earnest, so that a test can wait for it.
const BOUND: Duration = Duration::from_secs(3);

struct Pair {
    bus: Bus,
    shop: Client,
    pay: Client,
    heard: Subscription,
}

impl Pair {
    /// A sender and a receiver with these bounds for revocations and policy.
    async fn start(revocations: Duration, policy: Duration) -> Self {
        let bus = Bus::start(POLICY).await;
        let connect = async |name| {
            let options = bus
                .connect_options(name)
                .revocations_bound(revocations)
                .policy_bound(policy);
            Client::connect(options).await.unwrap()
        };
        let (shop, pay) = (connect("shop").await, connect("pay").await);
        let heard = pay.subscribe("news.shop").await.unwrap();
        Self {
            bus,
            shop,
            pay,
            heard,
        }
    }

    async fn passes(&mut self) -> bool {
        self.shop.publish("news.shop", "x").await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(1), self.heard.next());
        heard.await.is_ok_and(|heard| heard.is_some())
    }

    /// Has such heads told until the receiver stops, which it has to.
    async fn stops_in_spite_of(&self, names: Holdings, stale: Stale) {
        let start = Instant::now();
        while self.pay.standing().is_ok() {
            let head = self.bus.sign_head(names, now());
            self.bus
                .replace_control_record(reserved::CTL_HEAD, head)
                .await;
            assert!(start.elapsed() < BOUND * 3, "it goes by such heads");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(self.pay.standing(), Err(Standing::Stale(stale)));
    }

    /// Waits until both have stopped, and gives after how long the receiver had.
    async fn both_stop(&self, stale: Stale, within: Duration) -> Duration {
        let start = Instant::now();
        while self.shop.standing() != Err(Standing::Stale(stale))
            || self.pay.standing() != Err(Standing::Stale(stale))
        {
            assert!(start.elapsed() < within, "they go on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_30_heads_stop_and_after_the_bound_nothing_is_sent_or_received() {
    let mut pair = Pair::start(BOUND, Duration::from_secs(600)).await;
    assert!(pair.passes().await);
    // Two who do not care: one that the receiver knows already, and one that it
    // does not.
    let known = bulla_tests::Forger::genuine(&pair.bus, "shop").await;
    let stranger = bulla_tests::Forger::genuine(&pair.bus, "shop").await;
    let raw = pair.bus.raw_client("shop").await;
    for _ in 0..2 {
        let sealed = known.event("news.shop", now(), b"\xa1x");
        raw.publish("news.shop", sealed).await.unwrap();
        pair.heard.next().await.unwrap();
    }
    pair.bus.freeze(&[reserved::CTL_HEAD]).await;
    assert!(pair.passes().await, "not before the bound");
    let after = pair.both_stop(Stale::Revocations, BOUND * 3).await;
    assert!(after >= BOUND - Duration::from_millis(2_500), "{after:?}");

    let error = pair.shop.publish("news.shop", "x").await.unwrap_err();
    assert!(
        matches!(
            error,
            PublishError::Send(SendError::Standing(Standing::Stale(Stale::Revocations)))
        ),
        "{error}"
    );
    for forger in [&known, &stranger] {
        let sealed = forger.event("news.shop", now(), b"\xa1x");
        raw.publish("news.shop", sealed).await.unwrap();
    }
    eventually(|| {
        // It is counted when somebody asks for the next message.
        use futures_util::FutureExt as _;
        assert!(pair.heard.next().now_or_never().is_none(), "accepted");
        pair.pay.stats().refused_for("revocations_stale") == 2
    })
    .await;
    eventually(|| pair.pay.stats().stale().get("revocations_stale") == Some(&1)).await;

    // They come back, and everything goes on.
    pair.bus.thaw().await;
    eventually(|| pair.shop.standing().is_ok() && pair.pay.standing().is_ok()).await;
    assert!(pair.passes().await);
}

/// One of both ends stops while a request is under way: the reply is not taken, or
/// not sent.
#[tokio::test(flavor = "multi_thread")]
async fn attack_30_a_request_that_is_under_way_when_heads_stop_ends_without_its_reply() {
    for is_asker in [true, false] {
        let bus = Bus::start(POLICY).await;
        let connect = async |name, is_short| {
            let mut options = bus.connect_options(name);
            if is_short {
                options = options.revocations_bound(BOUND);
            }
            Client::connect(options).await.unwrap()
        };
        let shop = connect("shop", is_asker).await;
        let pay = connect("pay", !is_asker).await;
        let late = if is_asker { shop.clone() } else { pay.clone() };
        let _service = pay
            .serve("pay.charge", move |message: Message<String>| {
                let late = late.clone();
                async move {
                    while late.standing().is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Ok::<_, ServiceError>(message.into_payload())
                }
            })
            .await
            .unwrap();
        let request = shop.message("pay.charge").payload("x");
        let request = request.timeout(BOUND * 2).request();
        bus.freeze(&[reserved::CTL_HEAD]).await;
        let outcome = request.await;
        let (stats, code) = if is_asker {
            (shop.stats(), "revocations_stale")
        } else {
            (pay.stats(), "reply_not_sent")
        };
        let is_as_told = match &outcome {
            Err(RequestError::UnsoundReply { reason, .. }) => is_asker && *reason == code,
            Err(RequestError::Timeout { .. }) => !is_asker,
            _ => false,
        };
        assert!(is_as_told, "{outcome:?}");
        assert_eq!(stats.refused_for(code), 1, "{:?}", stats.refused());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_15_no_word_about_the_policy_and_after_its_bound_nothing_is_sent_or_received() {
    let mut pair = Pair::start(Duration::from_secs(600), BOUND).await;
    assert!(pair.passes().await);
    pair.bus.freeze(&[reserved::CTL_HEAD]).await;
    pair.both_stop(Stale::Policy, BOUND * 3).await;
    let error = pair.shop.publish("news.shop", "x").await.unwrap_err();
    assert!(error.to_string().contains("policy"), "{error}");
    pair.bus.thaw().await;
    eventually(|| pair.pay.standing().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_30_a_replayed_head_prolongs_nothing() {
    let pair = Pair::start(BOUND, Duration::from_secs(600)).await;
    pair.bus.freeze(&[reserved::CTL_HEAD]).await;
    // A workload has the last genuine head delivered to everybody, over and over.
    let mallory = pair.bus.raw_client("mallory").await;
    let replaying = tokio::spawn(async move {
        loop {
            let get = reserved::direct_get(reserved::CTL_HEAD);
            let sent = mallory
                .publish_with_reply(get, reserved::NEWS_HEAD, "".into())
                .await;
            if sent.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    pair.both_stop(Stale::Revocations, BOUND * 3).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(pair.pay.standing().is_err());
    replaying.abort();
}

async fn start_refused(bus: &Bus, bound: Duration) -> String {
    let options = bus
        .connect_options("shop")
        .revocations_bound(bound)
        .policy_bound(bound)
        .connect_timeout(Duration::from_millis(1_500));
    match Client::connect(options).await {
        Ok(_) => panic!("it goes by old records"),
        Err(ConnectError::Control(ControlError::Unconfirmed { reason })) => reason,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_30_a_new_process_that_is_fed_old_records_does_not_begin() {
    // All of it old: genuine, but nobody confirms it any more.
    let bus = Bus::start(POLICY).await;
    bus.freeze(&[reserved::CTL_HEAD]).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let reason = start_refused(&bus, Duration::from_secs(2)).await;
    assert!(reason.contains("revoked"), "{reason}");
    bus.thaw().await;

    // The list alone is old: the head of now names a newer one.
    let old = bus.sign_revocations(1, Vec::new());
    bus.replace_control_record(reserved::CTL_REVOCATIONS, old.clone())
        .await;
    let witness = bus.client("pay").await;
    eventually(|| witness.revocations().sequence() == 1).await;
    bus.revoke(Revoked::User("alice".to_owned())).await;
    eventually(|| witness.revocations().sequence() == 2).await;
    set_back(&bus, reserved::CTL_REVOCATIONS, old).await;
    let reason = start_refused(&bus, Duration::from_secs(60)).await;
    assert!(reason.contains("revoked"), "{reason}");
    bus.thaw().await;

    // The policy alone is old.
    let old = bus.control_record(reserved::CTL_POLICY).await;
    bus.publish_policy(&POLICY.replace("shop-asks", "renamed"))
        .await;
    eventually(|| witness.policy().revision() == 2).await;
    set_back(&bus, reserved::CTL_POLICY, old).await;
    let reason = start_refused(&bus, Duration::from_secs(60)).await;
    assert!(reason.contains("policy"), "{reason}");
}

/// Writes an old record, and keeps brokers from putting it right, until heads name
/// what they hold.
async fn set_back(bus: &Bus, subject: &str, old: bytes::Bytes) {
    bus.replace_control_record(subject, old.clone()).await;
    bus.freeze(&[subject]).await;
    // A broker may have been faster.
    if bus.control_record(subject).await != old {
        bus.thaw().await;
        bus.replace_control_record(subject, old.clone()).await;
        bus.freeze(&[subject]).await;
    }
    assert_eq!(bus.control_record(subject).await, old);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_30_a_head_that_contradicts_is_an_alarm_and_confirms_nothing() {
    let mut pair = Pair::start(BOUND, Duration::from_secs(600)).await;
    pair.bus.revoke(Revoked::User("alice".to_owned())).await;
    eventually(|| pair.pay.revocations().sequence() == 1).await;
    let mut names = pair.bus.holdings().await;
    names.revocations = Mark::of(1, b"another list");
    // The true heads stop, the lying ones go on.
    let broker = pair.bus.broker(0);
    pair.bus.kill_broker(broker).await;
    pair.stops_in_spite_of(names, Stale::Revocations).await;
    assert!(pair.pay.stats().alarms()["two_records"] > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_a_broker_that_names_what_there_is_not_stops_nobody() {
    let mut pair = Pair::start(BOUND, Duration::from_secs(600)).await;
    let mut names = pair.bus.holdings().await;
    names.revocations = Mark::of(u64::MAX, b"a list that nobody has");
    names.policy = Mark::of(u64::MAX, b"a policy that nobody has");
    names.bundle = u64::MAX;
    let start = Instant::now();
    while start.elapsed() < BOUND * 2 {
        let head = pair.bus.sign_head(names, now());
        pair.bus
            .replace_control_record(reserved::CTL_HEAD, head)
            .await;
        assert!(pair.passes().await, "heads of the honest broker confirm");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_rubbish_on_the_control_stream_changes_and_stops_nothing() {
    let mut pair = Pair::start(BOUND * 2, Duration::from_secs(600)).await;
    let mut forged = pair.bus.control_record(reserved::CTL_HEAD).await.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let stranger = bulla_keyring::SigningKey::from_seed(&[7; 32]);
    let by_stranger = bulla_envelope::Head {
        trust_domain: pair.bus.policy().trust_domain().clone(),
        names: pair.bus.holdings().await,
        time: now(),
    }
    .sign(&stranger);
    for rubbish in [
        forged,
        by_stranger,
        b"rubbish".to_vec(),
        vec![0xc0; 100_000],
        vec![0x92, 0xc6, 0xff, 0xff, 0xff, 0xff],
        Vec::new(),
    ] {
        for subject in [
            reserved::CTL_HEAD,
            reserved::CTL_REVOCATIONS,
            reserved::CTL_POLICY,
            reserved::CTL_BUNDLE,
        ] {
            pair.bus
                .replace_control_record(subject, rubbish.clone().into())
                .await;
        }
    }
    assert!(pair.passes().await);
    eventually(|| pair.pay.stats().refused_for("head_refused") >= 6).await;
    eventually(|| pair.pay.stats().refused_for("revocations_refused") >= 6).await;
    // The next sound list is taken.
    pair.bus
        .replace_control_record(
            reserved::CTL_REVOCATIONS,
            pair.bus
                .sign_revocations(1, vec![pair.bus.entry_of_workload("mallory")]),
        )
        .await;
    eventually(|| pair.pay.revocations().sequence() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_brokers_gone_deny_after_the_bound_and_recover() {
    let mut pair = Pair::start(BOUND, Duration::from_secs(600)).await;
    let broker = pair.bus.broker(0);
    pair.bus.kill_broker(broker).await;
    assert!(pair.passes().await, "for as long as the last head counts");
    pair.both_stop(Stale::Revocations, BOUND * 3).await;
    pair.bus.add_broker(Group::Both).await;
    eventually(|| pair.shop.standing().is_ok() && pair.pay.standing().is_ok()).await;
    assert!(pair.passes().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_20_without_the_control_stream_brokers_fall_silent_and_clients_stop() {
    let mut options = BusOptions::new(POLICY);
    options.state_max_age = BOUND;
    let mut bus = Bus::start_with(options).await;
    let client = Client::connect(bus.connect_options("shop").revocations_bound(BOUND));
    let shop = client.await.unwrap();
    let may_connect = async |bus: &Bus| {
        let seed = bus.seed("pay");
        bus.raw_client_with("pay", seed).await.is_ok()
    };
    assert!(may_connect(&bus).await);
    bus.lose_control_stream().await;
    let start = Instant::now();
    while may_connect(&bus).await || shop.standing().is_ok() {
        assert!(start.elapsed() < BOUND * 5, "somebody is still let in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A broker that starts anew makes the stream again, from what it was given.
    let broker = bus.broker(0);
    bus.kill_broker(broker).await;
    bus.add_broker(Group::Both).await;
    assert!(may_connect(&bus).await);
    eventually(|| shop.standing().is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_15_a_policy_that_is_withheld_is_missed_by_its_number() {
    let mut pair = Pair::start(Duration::from_secs(600), BOUND).await;
    assert!(pair.passes().await);
    // The news of it is dropped, the stream itself shows the old one for ever: the
    // head says so.
    let old = pair.bus.control_record(reserved::CTL_POLICY).await;
    let mut names = pair.bus.holdings().await;
    names.policy = Mark::of(2, b"withheld");
    pair.bus.freeze(&[reserved::CTL_POLICY]).await;
    let broker = pair.bus.broker(0);
    pair.bus.kill_broker(broker).await;
    // Revocations are confirmed all the while.
    pair.stops_in_spite_of(names, Stale::Policy).await;
    assert_eq!(pair.bus.control_record(reserved::CTL_POLICY).await, old);
}
