//! Brokers die, hang, are replaced, or find no JetStream: what exists goes on, what is
//! new waits, and nobody gets a wrong answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_identity::reserved;
use bulla_keyring::NkeySeed;
use bulla_sdk::{Client, Message, ServiceError};
use bulla_tests::{BrokerProcess, Bus, BusOptions, RawSocket};
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.till]
attest = [{ nkey = "@till@" }]

[subject."till.total"]
protect = "signed"
replay  = "window"

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

async fn bus(state_max_age: Duration) -> Bus {
    let options = BusOptions {
        brokers: Vec::new(),
        state_max_age,
        ..BusOptions::new(POLICY)
    };
    Bus::start_with(options).await
}

/// A service that doubles, and who asks it.
async fn till_and_shop(bus: &Bus) -> (Client, bulla_sdk::Service, Client) {
    let till = bus.client("till").await;
    let double = async |m: Message<u64>| Ok::<_, ServiceError>(m.into_payload() * 2);
    let service = till.serve("till.total", double).await.unwrap();
    (till, service, bus.client("shop").await)
}

async fn ask(shop: &Client, number: u64) -> bool {
    matches!(shop.request::<_, u64>("till.total", &number).await, Ok(n) if n == number * 2)
}

/// What clients do all the time: come in, and ask.
struct Load {
    stop: Arc<AtomicBool>,
    connects: Vec<JoinHandle<Tally>>,
    requests: JoinHandle<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    good: u64,
    bad: u64,
    slowest: Duration,
}

impl Tally {
    fn add(&mut self, is_good: bool, took: Duration) {
        *(if is_good {
            &mut self.good
        } else {
            &mut self.bad
        }) += 1;
        self.slowest = self.slowest.max(took);
    }
}

impl Load {
    fn begin(bus: &Bus, shop: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seed = Arc::new(bus.seed("shop"));
        let connects = (0..CONNECTORS).map(|_| {
            let (stop, seed) = (Arc::clone(&stop), Arc::clone(&seed));
            let url = bus.nats_url().to_owned();
            tokio::spawn(async move {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let is_good = comes_in(&url, &seed).await;
                    tally.add(is_good, began.elapsed());
                    sleep(Duration::from_millis(20)).await;
                }
                tally
            })
        });
        let connects = connects.collect();
        let requests = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                let mut tally = Tally::default();
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    number += 1;
                    let is_good = ask(&shop, number).await;
                    tally.add(is_good, began.elapsed());
                    sleep(Duration::from_millis(2)).await;
                }
                tally
            }
        });
        Self {
            stop,
            connects,
            requests,
        }
    }

    /// Connects and requests.
    async fn end(self) -> (Tally, Tally) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for connects in self.connects {
            let tally = connects.await.unwrap();
            all.good += tally.good;
            all.bad += tally.bad;
            all.slowest = all.slowest.max(tally.slowest);
        }
        (all, self.requests.await.unwrap())
    }
}

async fn comes_in(url: &str, seed: &NkeySeed) -> bool {
    let mut socket = RawSocket::connect(url).await;
    let login = RawSocket::login_of(seed, socket.nonce());
    socket.log_in(&login).await
}

async fn until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < limit, "not in {limit:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_brokers_hangs_and_the_other_dies_and_everybody_gets_in() {
    let bus = bus(Duration::from_secs(60)).await;
    let a = BrokerProcess::start(&bus, Group::A).await;
    let b = BrokerProcess::start(&bus, Group::B).await;
    let (_till, _service, shop) = till_and_shop(&bus).await;
    let load = Load::begin(&bus, shop);
    sleep(Duration::from_millis(500)).await;
    // Longer than nats-server waits for anybody.
    a.signal(Signal::STOP);
    sleep(Duration::from_millis(2_500)).await;
    a.signal(Signal::CONT);
    // What lay with it meanwhile is over: it is dropped, not worked off.
    until("it is well again", Duration::from_secs(10), async || {
        a.ask("/readyz").await.0 == 200
    })
    .await;
    let late = r#"reason="too_late""#;
    until("what lay is dropped", Duration::from_secs(5), async || {
        let unanswered = "bulla_broker_callout_unanswered_total";
        a.metric(unanswered, &[late]).await > 0.0
    })
    .await;
    until(
        "nothing waits any more",
        Duration::from_secs(5),
        async || a.metric("bulla_broker_callout_waiting", &[]).await == 0.0,
    )
    .await;
    b.signal(Signal::KILL);
    sleep(Duration::from_millis(500)).await;
    let (connects, requests) = load.end().await;
    println!("connects {connects:?}, requests {requests:?}");
    assert_eq!(
        (connects.bad, requests.bad),
        (0, 0),
        "{connects:?} {requests:?}"
    );
    assert!(connects.good > 50, "{connects:?}");
}

/// How long whole clients take to come in and ask something, one after the other.
async fn newcomers(bus: &Bus, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..count {
        let began = Instant::now();
        let client = Client::connect(bus.connect_options("shop")).await;
        let client = client.unwrap_or_else(|error| panic!("newcomer {number}: {error:?}"));
        assert!(ask(&client, number as u64).await);
        took.push(began.elapsed());
        client.drain().await;
    }
    took.sort();
    took
}

/// What a user of the SDK sees: connection, challenge, credential and the record of keys
/// are asked of brokers, and none of it waits for the one that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_a_broker_hangs_notices_nothing() {
    let bus = bus(Duration::from_secs(60)).await;
    let a = BrokerProcess::start(&bus, Group::A).await;
    let b = BrokerProcess::start(&bus, Group::B).await;
    let (_till, _service, _shop) = till_and_shop(&bus).await;
    for hung in [&a, &b] {
        hung.signal(Signal::STOP);
        let took = newcomers(&bus, 16).await;
        println!("with one that hangs: {took:?}");
        // Two seconds is what one of them waits who asked the broker that hangs.
        assert!(took[15] < Duration::from_millis(1_800), "{took:?}");
        hung.signal(Signal::CONT);
        until("it is well again", Duration::from_secs(10), async || {
            hung.ask("/readyz").await.0 == 200
        })
        .await;
    }
}

/// nats-server gives up who does not answer it any more, so that what only one queue
/// group is asked for waits no longer than that. Here with pings each second.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_is_given_up_by_nats_server_and_comes_back() {
    let mut bus = bus(Duration::from_secs(60)).await;
    bus.restart_server_as(|config| {
        let sooner = config.replace("ping_interval: \"10s\"", "ping_interval: \"1s\"");
        assert_ne!(sooner, config);
        sooner
    })
    .await;
    let a = BrokerProcess::start(&bus, Group::A).await;
    let _b = BrokerProcess::start(&bus, Group::B).await;
    let sys = bus.sys_client().await;
    let connected = async || {
        let ask = sys.request("$SYS.REQ.SERVER.PING.CONNZ", "{}".into());
        let answer = ask.await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let all = answer["data"]["connections"].as_array().unwrap().clone();
        let name = |c: &serde_json::Value| c["name"].as_str().unwrap_or_default().to_owned();
        let is_brokers = |name: &String| name.starts_with("bulla broker");
        all.iter().map(name).filter(is_brokers).count()
    };
    let both = connected().await;
    a.signal(Signal::STOP);
    let began = Instant::now();
    until("it is given up", Duration::from_secs(10), async || {
        connected().await == both / 2
    })
    .await;
    println!("given up after {:?}", began.elapsed());
    a.signal(Signal::CONT);
    until("it is back", Duration::from_secs(10), async || {
        connected().await == both
    })
    .await;
    until("it is well", Duration::from_secs(10), async || {
        a.ask("/readyz").await.0 == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_replaced_one_after_the_other_and_nothing_fails() {
    let bus = bus(Duration::from_secs(60)).await;
    let mut old = vec![
        BrokerProcess::start(&bus, Group::A).await,
        BrokerProcess::start(&bus, Group::B).await,
    ];
    let (_till, _service, shop) = till_and_shop(&bus).await;
    let load = Load::begin(&bus, shop);
    // Whole clients as well, which need a challenge and a credential of one broker.
    let stop = Arc::new(AtomicBool::new(false));
    let newcomers = Arc::new(AtomicU64::new(0));
    let whole = tokio::spawn({
        let (stop, newcomers) = (Arc::clone(&stop), Arc::clone(&newcomers));
        let options = bus.connect_options("shop");
        async move {
            while !stop.load(Ordering::Relaxed) {
                let client = Client::connect(options.clone()).await.unwrap();
                assert!(ask(&client, 21).await);
                client.drain().await;
                newcomers.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut new = Vec::new();
    for group in [Group::A, Group::B] {
        sleep(Duration::from_millis(300)).await;
        let mut broker = old.remove(0);
        broker.signal(Signal::TERM);
        assert!(broker.ended().await.success(), "it stops in good order");
        new.push(BrokerProcess::start(&bus, group).await);
    }
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    whole.await.unwrap();
    let (connects, requests) = load.end().await;
    let newcomers = newcomers.load(Ordering::Relaxed);
    println!("connects {connects:?}, requests {requests:?}, newcomers {newcomers}");
    assert_eq!(
        (connects.bad, requests.bad),
        (0, 0),
        "{connects:?} {requests:?}"
    );
    assert!(newcomers > 3);
}

/// A broker that is alone stops: what it was asked it still answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_answers_what_it_was_asked() {
    let bus = bus(Duration::from_secs(60)).await;
    let mut first = BrokerProcess::start(&bus, Group::Both).await;
    let second = BrokerProcess::start(&bus, Group::Both).await;
    let (_till, _service, shop) = till_and_shop(&bus).await;
    let load = Load::begin(&bus, shop);
    sleep(Duration::from_millis(500)).await;
    first.signal(Signal::TERM);
    assert!(first.ended().await.success());
    sleep(Duration::from_millis(300)).await;
    let (connects, requests) = load.end().await;
    println!("connects {connects:?}, requests {requests:?}");
    assert_eq!(
        (connects.bad, requests.bad),
        (0, 0),
        "{connects:?} {requests:?}"
    );
    drop(second);
}

/// Questions that nats-server had handed over when the broker was told to stop: nobody
/// else has them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_before_a_broker_stops_is_answered() {
    let bus = bus(Duration::from_secs(60)).await;
    let mut first = BrokerProcess::start(&bus, Group::A).await;
    let _second = BrokerProcess::start(&bus, Group::A).await;
    first.signal(Signal::STOP);
    let asked: Vec<_> = (0..16)
        .map(|_| {
            let (url, seed) = (bus.nats_url().to_owned(), bus.seed("shop"));
            tokio::spawn(async move { comes_in(&url, &seed).await })
        })
        .collect();
    // Half of the questions lie before a broker that does not read them yet.
    sleep(Duration::from_millis(300)).await;
    first.signal(Signal::TERM);
    first.signal(Signal::CONT);
    for asked in asked {
        assert!(asked.await.unwrap(), "a question was lost");
    }
    assert!(first.ended().await.success());
}

/// The same for what connected workloads ask: a challenge of it is good with it alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_workloads_asked_before_a_broker_stops_is_answered() {
    let bus = bus(Duration::from_secs(60)).await;
    let mut alone = BrokerProcess::start(&bus, Group::Both).await;
    let raw = bus.raw_client("shop").await;
    let subject = reserved::broker_challenge(bus.workload("shop").tag());
    alone.signal(Signal::STOP);
    let asked: Vec<_> = (0..16)
        .map(|_| {
            let (raw, subject) = (raw.clone(), subject.clone());
            tokio::spawn(async move { raw.request(subject, "x".into()).await })
        })
        .collect();
    // They lie before a broker that does not read them yet.
    sleep(Duration::from_millis(300)).await;
    alone.signal(Signal::TERM);
    alone.signal(Signal::CONT);
    for asked in asked {
        assert!(asked.await.unwrap().is_ok(), "a question was lost");
    }
    assert!(alone.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_broker_what_exists_goes_on_and_what_is_new_waits() {
    let bus = bus(Duration::from_secs(60)).await;
    let a = BrokerProcess::start(&bus, Group::A).await;
    let b = BrokerProcess::start(&bus, Group::B).await;
    let (_till, _service, shop) = till_and_shop(&bus).await;
    a.signal(Signal::KILL);
    b.signal(Signal::KILL);
    assert!(ask(&shop, 1).await);
    let began = Instant::now();
    assert!(!comes_in(bus.nats_url(), &bus.seed("shop")).await);
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_millis(1_800),
        "nobody refused it: {waited:?}"
    );
    let newcomer = tokio::spawn(Client::connect(bus.connect_options("shop")));
    sleep(Duration::from_millis(500)).await;
    assert!(ask(&shop, 2).await);
    assert!(!newcomer.is_finished());
    let _c = BrokerProcess::start(&bus, Group::Both).await;
    let newcomer = timeout(Duration::from_secs(10), newcomer).await;
    let newcomer = newcomer.expect("it waits no longer").unwrap().unwrap();
    assert!(ask(&newcomer, 3).await);
    assert!(ask(&shop, 4).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_jetstream_a_broker_waits_says_so_and_answers_nobody() {
    let mut bus = bus(Duration::from_secs(2)).await;
    let without = |config: &str| config.replace("jetstream: enabled", "# no JetStream");
    bus.restart_server_as(without).await;
    let broker = BrokerProcess::spawn(&bus, Group::Both).await;
    broker
        .says("JetStream is not available yet", Duration::from_secs(20))
        .await;
    let (status, why) = broker.ask("/readyz").await;
    assert_eq!((status, why.as_str()), (503, "waiting: JetStream\n"));
    assert_eq!(broker.ask("/livez").await.0, 200);
    assert_eq!(broker.metric("bulla_broker_ready", &[]).await, 0.0);
    // Silence, and no refusal.
    let began = Instant::now();
    assert!(!comes_in(bus.nats_url(), &bus.seed("shop")).await);
    assert!(began.elapsed() > Duration::from_millis(1_800));

    bus.restart_server().await;
    broker.ready(Duration::from_secs(20)).await;
    assert!(comes_in(bus.nats_url(), &bus.seed("shop")).await);
    assert_eq!(broker.ask("/readyz").await.0, 200);
    // It goes while the broker runs.
    bus.restart_server_as(without).await;
    until("it says so", Duration::from_secs(15), async || {
        broker.ask("/readyz").await.0 == 503
    })
    .await;
    bus.restart_server().await;
    until("it is well again", Duration::from_secs(15), async || {
        broker.ask("/readyz").await.0 == 200
    })
    .await;
}

const CONNECTORS: usize = 3;
