//! Every key above a workload's is replaced while messages flow: not one is
//! refused, what streams stored is consumed as before, and what was replaced does
//! not come back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bulla_broker::trust_dir::NewKey;
use bulla_envelope::{
    Credential, IssuingKey, MessageId, SealedEnvelope, SignedPolicy, TrustBundle,
};
use bulla_identity::reserved;
use bulla_keyring::{AuthorityKey, AuthorityRole, AuthoritySeed, VerifyingKey};
use bulla_sdk::{
    Client, ConnectError, Consumer, Delivery, Message, RequestError, SendError, Service,
    ServiceError, Subscription,
};
use bulla_tests::{Forger, LIFE, Minter, Operator, now};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.pay]
attest = [{ nkey = "@pay@" }]

[subject."vault.>"]
protect = "encrypted"

[[allow]]
id = "shop-asks"
who = ["shop"]
may = ["request"]
on = ["pay.charge", "vault.put"]
[[allow]]
id = "pay-answers"
who = ["pay"]
may = ["serve"]
on = ["pay.charge", "vault.put"]
[[allow]]
id = "shop-tells"
who = ["shop"]
may = ["publish"]
on = ["news.shop"]
[[allow]]
id = "pay-listens"
who = ["pay"]
may = ["subscribe"]
on = ["news.shop"]
"#;

/// Short, so that credentials are renewed several times meanwhile.
const CREDENTIALS: Duration = Duration::from_secs(6);

/// Told once, asked often.
#[derive(Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn tell(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_told(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Requests, encrypted requests and events without a pause.
struct Load {
    shop: Client,
    pay: Client,
    stop: Stop,
    heard: Arc<AtomicU64>,
    asking: Vec<JoinHandle<u64>>,
    telling: JoinHandle<u64>,
    _services: Vec<Service>,
}

impl Load {
    async fn start(operator: &Operator) -> Self {
        let (shop, pay) = (
            operator.bus.client("shop").await,
            operator.bus.client("pay").await,
        );
        let stop = Stop::default();
        let mut services = Vec::new();
        for subject in ["pay.charge", "vault.put"] {
            let answer = async |message: Message<u64>| Ok::<_, ServiceError>(*message.payload());
            services.push(pay.serve(subject, answer).await.unwrap());
        }
        let heard = Arc::new(AtomicU64::new(0));
        let mut news: Subscription = pay.subscribe("news.shop").await.unwrap();
        let counter = Arc::clone(&heard);
        tokio::spawn(async move {
            while news.next().await.is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        let asking = ["pay.charge", "vault.put"].map(|subject| {
            let (shop, stop) = (shop.clone(), stop.clone());
            tokio::spawn(async move {
                let mut asked = 0;
                while !stop.is_told() {
                    let answer: u64 = shop.request(subject, &asked).await.unwrap();
                    assert_eq!(answer, asked);
                    asked += 1;
                    sleep(Duration::from_millis(2)).await;
                }
                asked
            })
        });
        let telling = {
            let (shop, stop) = (shop.clone(), stop.clone());
            tokio::spawn(async move {
                let mut told = 0;
                while !stop.is_told() {
                    shop.publish("news.shop", &told).await.unwrap();
                    told += 1;
                    sleep(Duration::from_millis(2)).await;
                }
                shop.flush().await.unwrap();
                told
            })
        };
        Self {
            shop,
            pay,
            stop,
            heard,
            asking: asking.into(),
            telling,
            _services: services,
        }
    }

    /// Lets it run a little longer, and proves that nothing was lost or refused.
    async fn end(self) {
        sleep(Duration::from_secs(2)).await;
        self.stop.tell();
        let mut asked = 0;
        for asking in self.asking {
            asked += asking.await.expect("no request failed");
        }
        let told = self.telling.await.expect("no publish failed");
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.heard.load(Ordering::SeqCst) < told && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        for client in [&self.shop, &self.pay] {
            let refused = client.stats().refused();
            assert!(refused.is_empty(), "{}: {refused:?}", client.workload());
        }
        assert_eq!(self.heard.load(Ordering::SeqCst), told);
        assert!(asked > 500 && told > 500, "{asked} asked, {told} told");
        println!("{asked} requests and {told} events, none refused");
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Who issued the credential that a client uses now.
async fn issuer_of(operator: &Operator, client: &Client) -> VerifyingKey {
    let (key_id, _) = client.signing_key();
    let subject = reserved::ctl_credential(&key_id.to_hex());
    let record = operator.bus.control_record(&subject).await;
    *Credential::decode(&record).unwrap().issuer()
}

fn bundle(operator: &Operator) -> TrustBundle {
    operator.trust().state(now()).unwrap().bundle.into_inner()
}

async fn deliver_bundle(operator: &Operator) {
    operator.deliver(&["bundle"]);
    operator
        .until_on_stream(reserved::CTL_BUNDLE, "bundle")
        .await;
    // The news reaches everybody within a second.
    sleep(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuing_key_is_replaced_under_load() {
    let operator = Operator::start(POLICY, CREDENTIALS).await;
    let load = Load::start(&operator).await;
    let old = bundle(&operator).issuing[0].key;
    assert_eq!(issuer_of(&operator, &load.shop).await, old);

    // The key lies in the broker's directory at once; the bundle comes later.
    operator
        .trust()
        .rotate_issuer("broker", None, LIFE, now())
        .unwrap();
    deliver_bundle(&operator).await;
    until("the new key is used", async || {
        issuer_of(&operator, &load.shop).await != old
            && issuer_of(&operator, &load.pay).await != old
    })
    .await;
    // What the old one issued ends by itself.
    sleep(CREDENTIALS + Duration::from_secs(1)).await;
    let old = AuthorityKey::from_bytes(AuthorityRole::Issuing, old.as_bytes()).unwrap();
    operator.trust().drop_issuers(&[old], LIFE, now()).unwrap();
    deliver_bundle(&operator).await;
    assert_eq!(bundle(&operator).issuing.len(), 1);
    load.end().await;
}

const STORED: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.mail]
attest = [{ nkey = "@mail@" }]

[stream.ORDERS]
subjects = ["orders.>"]
[stream.SECRETS]
subjects = ["secret.>"]

[subject."orders.>"]
replay = "stream"
max_age = "30d"
[subject."orders.{id}.billed"]
user = "required"
[subject."secret.>"]
protect = "encrypted"
replay = "stream"
max_age = "30d"

[[allow]]
id = "shop-appends"
who = ["shop"]
may = ["append"]
on = ["orders.{id}.created", "secret.{id}"]
[[allow]]
id = "edge-appends"
who = ["edge"]
may = ["append"]
on = ["orders.{id}.billed"]
[[allow]]
id = "mail-consumes"
who = ["mail"]
may = ["consume"]
on = ["ORDERS.mail", "SECRETS.mail"]
"#;

/// Puts the operator's bundle onto the control stream without waiting for the
/// broker to look at its file.
async fn publish_bundle(operator: &Operator) {
    let bundle = std::fs::read(operator.path("bundle")).unwrap();
    operator
        .bus
        .replace_control_record(reserved::CTL_BUNDLE, bundle.into())
        .await;
    sleep(Duration::from_secs(1)).await;
}

/// What a stream stored is judged as of then: its sender, the minter of its user's
/// token and the record of its data key, though the key above all of them has ended
/// and was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn what_streams_stored_outlives_the_issuing_key() {
    let operator = Operator::start(STORED, Duration::from_secs(3600)).await;
    let bus = &operator.bus;
    let old = bundle(&operator).issuing[0].key;
    // It ends in some seconds instead of a week.
    let moment = Duration::from_secs(12);
    operator.trust().sign(moment, now()).unwrap();
    operator
        .trust()
        .rotate_issuer("broker", None, LIFE, now())
        .unwrap();
    let until = |bundle: &TrustBundle| {
        let mut named = bundle.issuing.iter().filter(|named| named.key == old);
        named.next().map(|named| named.expires_at)
    };
    let ends = until(&bundle(&operator)).unwrap();
    publish_bundle(&operator).await;

    let mail = bus.client("mail").await;
    let (shop, edge) = (bus.client("shop").await, Minter::connect(bus, "edge").await);
    let forger = Forger::genuine(bus, "shop").await;
    for client in [&shop, &edge.client] {
        assert_eq!(issuer_of(&operator, client).await, old);
    }
    assert_eq!(*forger.credential().issuer(), old);
    shop.append("orders.1.created", "created").await.unwrap();
    let token = edge.token_with("alice", |claims| {
        claims.expires = now().saturating_add(Duration::from_secs(1));
    });
    edge.client
        .message("orders.1.billed")
        .payload("billed")
        .user_token(token)
        .append()
        .await
        .unwrap();
    // The last one's key is in its record alone.
    let context = async_nats::jetstream::new(bus.js_client().await);
    let secrets = context.get_stream("SECRETS").await.unwrap();
    let mut last = 0;
    loop {
        last = shop
            .append("secret.1", &(last + 1))
            .await
            .unwrap()
            .sequence();
        let stored = secrets.get_raw_message(last).await.unwrap().payload;
        if !SealedEnvelope::decode(stored).unwrap().has_inline_wraps() {
            break;
        }
    }
    let (id, life) = (MessageId([7; 16]), Duration::from_secs(1));
    let kept_back = forger.event_with_id("orders.2.created", id, now(), life, b"\xa1x");
    drop((mail, shop, edge));

    sleep(ends.saturating_since(now()) + Duration::from_millis(500)).await;
    operator.trust().sign(LIFE, now()).unwrap();
    publish_bundle(&operator).await;

    let mail = bus.client("mail").await;
    assert_ne!(issuer_of(&operator, &mail).await, old);
    let mut orders = mail.consume("ORDERS", "mail").await.unwrap();
    for want in ["created", "billed"] {
        let delivery = taken(&mut orders).await;
        assert_eq!(delivery.message().decode::<String>().unwrap(), want);
        delivery.ack().await.unwrap();
    }
    let mut consumer = mail.consume("SECRETS", "mail").await.unwrap();
    for want in 1..=last {
        let delivery = taken(&mut consumer).await;
        assert_eq!(delivery.message().decode::<u64>().unwrap(), want);
        delivery.ack().await.unwrap();
    }
    assert!(mail.stats().refused().is_empty(), "{:?}", mail.stats());
    assert_eq!(until(&bundle(&operator)), Some(ends), "it has ended");

    // What is stored from now on does not count under it.
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", data_encoding::HEXLOWER.encode(&id.0));
    let stored = context.publish_with_headers("orders.2.created", headers, kept_back);
    stored.await.unwrap().await.unwrap();
    let got = timeout(Duration::from_millis(1_200), orders.next()).await;
    assert!(got.is_err(), "{got:?}");
    assert_eq!(mail.stats().refused_for("credential_expired"), 1);
}

async fn taken(consumer: &mut Consumer) -> Delivery {
    let next = timeout(Duration::from_secs(12), consumer.next()).await;
    next.expect("a message").unwrap()
}

/// A consumer that has not heard of the issuing key of a sender hands the message
/// back, and takes it once it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_message_waits_for_the_bundle_that_names_its_issuer() {
    let operator = Operator::start(STORED, Duration::from_secs(3600)).await;
    let bus = &operator.bus;
    let (shop, mail) = (bus.client("shop").await, bus.client("mail").await);
    let whole = bundle(&operator);
    let text = bulla_process::secret_file::read_line(&operator.path("root-1.key")).unwrap();
    let root = AuthoritySeed::parse(AuthorityRole::Root, &text).unwrap();
    let publish = async |version: u64, issuing: Vec<IssuingKey>| {
        let bundle = TrustBundle {
            version,
            issuing,
            ..whole.clone()
        };
        let signed = bundle.sign(root.signing_key()).unwrap();
        bus.replace_control_record(reserved::CTL_BUNDLE, signed.into())
            .await;
        sleep(Duration::from_millis(500)).await;
    };
    shop.append("orders.1.created", "waits").await.unwrap();
    let mut orders = mail.consume("ORDERS", "mail").await.unwrap();
    publish(2, Vec::new()).await;
    let got = timeout(Duration::from_millis(700), orders.next()).await;
    assert!(got.is_err(), "{got:?}");
    assert!(mail.stats().refused_for("unknown_issuer") > 0);
    publish(3, whole.issuing.clone()).await;
    let delivery = taken(&mut orders).await;
    assert_eq!(delivery.message().decode::<String>().unwrap(), "waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_key_is_replaced_under_load() {
    let operator = Operator::start(POLICY, CREDENTIALS).await;
    let load = Load::start(&operator).await;
    operator
        .trust()
        .rotate_policy_key(&NewKey::File, LIFE, now())
        .unwrap();
    operator.deliver(&["policy", "bundle"]);
    operator
        .until_on_stream(reserved::CTL_POLICY, "policy")
        .await;
    until("the policy by the new key is in force", async || {
        load.shop.policy().revision() == 2 && load.pay.policy().revision() == 2
    })
    .await;
    operator.trust().finish_policy_key(LIFE, now()).unwrap();
    deliver_bundle(&operator).await;
    assert!(load.shop.policy().is_vouched() && load.pay.policy().is_vouched());
    // A process that starts now takes both.
    operator.bus.client("shop").await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_replaced_under_load() {
    let operator = Operator::start(POLICY, CREDENTIALS).await;
    let load = Load::start(&operator).await;
    let old_pin = operator.path("old.pub");
    std::fs::copy(operator.path("root.pub"), &old_pin).unwrap();
    operator
        .trust()
        .rotate_root(&NewKey::File, LIFE, now())
        .unwrap();
    deliver_bundle(&operator).await;
    // Who starts with the old pin, the new one or both, finds its way.
    let new_pin = operator.path("new.pub");
    let both = std::fs::read_to_string(operator.path("root.pub")).unwrap();
    std::fs::write(&new_pin, both.lines().next().unwrap()).unwrap();
    for pin in [&old_pin, &new_pin, &operator.path("root.pub")] {
        let options = operator.bus.connect_options("shop");
        let options = options.trust_root_file(pin);
        Client::connect(options).await.unwrap();
    }
    operator.trust().finish_root(LIFE, now()).unwrap();
    deliver_bundle(&operator).await;
    let options = operator.bus.connect_options("shop");
    let refused = Client::connect(options.trust_root_file(&old_pin)).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ConnectError::Control(_)), "{refused:?}");
    load.end().await;
}

/// Attack 30: whoever has the old root's key signs the highest version of all,
/// which would take every broker's right away. Nobody who followed the new root
/// takes it, though the old one is pinned still.
#[tokio::test(flavor = "multi_thread")]
async fn attack_30_a_root_that_was_replaced_does_not_come_back() {
    let operator = Operator::start(POLICY, CREDENTIALS).await;
    let load = Load::start(&operator).await;
    operator
        .trust()
        .rotate_root(&NewKey::File, LIFE, now())
        .unwrap();
    deliver_bundle(&operator).await;
    let text = bulla_process::secret_file::read_line(&operator.path("root-1.key")).unwrap();
    let stolen = AuthoritySeed::parse(AuthorityRole::Root, &text).unwrap();
    let forged = TrustBundle {
        version: 1_000,
        root: *stolen.public().verifying_key(),
        former_roots: Vec::new(),
        issuing: Vec::new(),
        ..bundle(&operator)
    };
    let forged = forged.sign(stolen.signing_key()).unwrap();
    operator
        .bus
        .replace_control_record(reserved::CTL_BUNDLE, forged.into())
        .await;
    sleep(Duration::from_secs(3)).await;
    load.end().await;
}

/// Attack 15: the policy key was stolen and leaves the bundle at once. What it
/// signed ends with it, also where no other policy has come yet.
#[tokio::test(flavor = "multi_thread")]
async fn attack_15_a_policy_by_a_dropped_key_counts_no_more() {
    let operator = Operator::start(POLICY, Duration::from_secs(3600)).await;
    let (bus, shop, pay) = (
        &operator.bus,
        operator.bus.client("shop").await,
        operator.bus.client("pay").await,
    );
    let answer = async |message: Message<u64>| Ok::<_, ServiceError>(*message.payload());
    let _service = pay.serve("pay.charge", answer).await.unwrap();
    let forger = Forger::genuine(bus, "shop").await;
    let raw = bus.raw_client("shop").await;
    let _: u64 = shop.request("pay.charge", &1_u64).await.unwrap();

    let next = AuthoritySeed::from_random(AuthorityRole::Policy, &[9; 32]);
    let dropped = TrustBundle {
        version: 2,
        policy_keys: vec![*next.public().verifying_key()],
        ..bundle(&operator)
    };
    let text = bulla_process::secret_file::read_line(&operator.path("root-1.key")).unwrap();
    let root = AuthoritySeed::parse(AuthorityRole::Root, &text).unwrap();
    let dropped = dropped.sign(root.signing_key()).unwrap();
    bus.replace_control_record(reserved::CTL_BUNDLE, dropped.into())
        .await;
    until("the sender knows", async || {
        let sent = shop.request::<_, u64>("pay.charge", &2_u64).await;
        matches!(sent, Err(RequestError::Send(SendError::PolicyUnvouched)))
    })
    .await;
    // Whoever does not care is refused by the receiver, and by the broker.
    let reply_to = bus.peer_inbox("shop", "x");
    let request = forger.request("pay.charge", &reply_to, now(), b"\x03");
    raw.publish_with_reply("pay.charge", reply_to, request)
        .await
        .unwrap();
    until("the receiver refuses", async || {
        pay.stats().refused_for("policy_unvouched") > 0
    })
    .await;
    let connected = bus.raw_client_with("shop", bus.seed("shop")).await;
    assert!(connected.is_err(), "nobody is admitted by it");

    let policy = SignedPolicy {
        trust_domain: bus.policy().trust_domain().clone(),
        revision: 2,
        issued_at: now(),
        comment: String::new(),
        text: operator.policy().to_owned(),
    };
    let policy = policy.sign(next.signing_key()).unwrap();
    bus.replace_control_record(reserved::CTL_POLICY, policy.into())
        .await;
    until("all is well again", async || {
        shop.request::<_, u64>("pay.charge", &4_u64).await.is_ok()
    })
    .await;
    bus.raw_client("shop").await;
}
