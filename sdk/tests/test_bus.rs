//! The bus within a process behaves as users of `bulla_sdk::testing` are told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bulla_sdk::extract::{Payload, State};
use bulla_sdk::testing::{TestBus, TestBusError, TestUser};
use bulla_sdk::{
    Client, Message, PublishError, RequestError, SendError, ServiceError, ServiceErrorCode, User,
};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.gateway]
attest = [{ nkey = "@gateway@" }]
mints = true
[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.billing]
attest = [{ nkey = "@billing@" }]

[subject."orders.>"]
user = "required"
[subject."billing.>"]
user = "required"
protect = "encrypted"
[subject."secret.>"]
protect = "encrypted"
[subject."single.*"]
frames = "off"

[[allow]]
id = "edge-creates"
who = ["gateway"]
may = ["request"]
on = ["orders.create"]
user = { scope = "orders:write" }
[[allow]]
id = "orders-serves"
who = ["orders"]
may = ["serve"]
on = ["orders.create", "slow.work"]
[[allow]]
id = "orders-asks"
who = ["orders"]
may = ["request"]
on = ["billing.quote"]
[[allow]]
id = "billing-serves"
who = ["billing"]
may = ["serve"]
on = ["billing.quote"]
[[allow]]
id = "gateway-tells"
who = ["gateway"]
may = ["publish", "request"]
on = ["news.*", "single.*", "secret.plan", "slow.work"]
[[allow]]
id = "others-hear"
who = ["orders", "billing"]
may = ["subscribe"]
on = ["news.*", "single.*", "secret.plan"]
"#;

async fn quote(Payload(bowls): Payload<u32>, user: User) -> Result<String, ServiceError> {
    user.require_scope("orders:write")?;
    Ok(format!("{} for {}", bowls * 7, user.principal()))
}

/// Asks somebody else on behalf of the same user.
async fn create(
    State(client): State<Client>,
    Payload(bowls): Payload<u32>,
) -> Result<String, ServiceError> {
    Ok(client.request("billing.quote", &bowls).await?)
}

#[tokio::test]
async fn a_user_travels_over_three_hops_and_nobody_without_the_scope_does() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let billing = bus.client("billing").await.unwrap();
    let own = orders.clone();
    let _orders = orders
        .service()
        .state(own)
        .endpoint("orders.create", create);
    let _orders = _orders.start().await.unwrap();
    let _billing = billing.service().endpoint("billing.quote", quote);
    let _billing = _billing.start().await.unwrap();

    let ask = |token: String| {
        let message = gateway.message("orders.create").user_token(token);
        message.payload(&3u32).request()
    };
    let alice = TestUser::new("alice").scope("orders:write");
    let alice = bus.token(&gateway, &alice).unwrap();
    let answer = ask(alice.clone()).await.unwrap();
    assert_eq!(answer.decode::<String>().unwrap(), "21 for alice");
    assert_eq!(answer.sender().workload().path(), "orders");

    let bob = bus.token(&gateway, &TestUser::new("bob")).unwrap();
    let denied = ask(bob).await.unwrap_err();
    assert!(
        matches!(denied, RequestError::Send(SendError::Denied { .. })),
        "{denied:?}"
    );

    bus.revoke_user("alice").await.unwrap();
    let refused = ask(alice).await.unwrap_err();
    assert!(
        matches!(refused, RequestError::Send(SendError::User { .. })),
        "{refused:?}"
    );
}

/// POL-56: what is remembered of one message says nothing of another user's.
#[tokio::test]
async fn a_decision_is_remembered_for_nobody_whom_a_rule_asks_about() {
    let rules = r#"
[[allow]]
id = "open"
who = ["gateway"]
may = ["request"]
on = ["open.*"]
[[deny]]
id = "no-robot-asks"
who = ["gateway"]
may = ["request"]
on = ["open.asked"]
user = { kind = "robot" }
[[allow]]
id = "open-served"
who = ["orders"]
may = ["serve"]
on = ["open.*"]
[[deny]]
id = "no-robot-is-served"
who = ["orders"]
may = ["serve"]
on = ["open.served"]
user = { kind = "robot" }
"#;
    let bus = TestBus::start(&format!("{POLICY}{rules}")).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let answer = async |_: Message<()>| Ok::<_, ServiceError>("yes");
    let mut services = Vec::new();
    for subject in ["open.all", "open.asked", "open.served", "orders.create"] {
        services.push(orders.serve(subject, answer).await.unwrap());
    }
    let token = |name: &str, kind: &str| {
        let user = TestUser::new(name).claim("kind", kind);
        let token = bus.token(&gateway, &user.scope("orders:write"));
        Some(token.unwrap())
    };
    let (alice, robot) = (token("alice", "human"), token("robot", "robot"));
    let ask = async |subject: &str, token: &Option<String>| {
        let message = gateway.message(subject);
        let message = match token {
            Some(token) => message.user_token(token),
            None => message.without_user(),
        };
        message.payload(&()).request().await.map(drop)
    };
    let mut robots = 0;
    for _ in 0..2 {
        for subject in ["open.all", "open.asked", "open.served"] {
            for user in [&None, &alice] {
                ask(subject, user).await.unwrap();
            }
        }
        ask("open.all", &robot).await.unwrap();
        let denied = ask("open.asked", &robot).await.unwrap_err();
        assert!(
            matches!(denied, RequestError::Send(SendError::Denied { .. })),
            "{denied:?}"
        );
        // The service refuses, and from it no word counts that is for this user.
        let unheard = ask("open.served", &robot).await.unwrap_err();
        let RequestError::UnsoundReply { reason, .. } = unheard else {
            panic!("{unheard:?}")
        };
        assert_eq!(reason, "denied_by_rule");
        robots += 1;
        let refused = orders.stats().refused();
        assert_eq!(
            refused.get("receiver_not_granted"),
            Some(&robots),
            "{refused:?}"
        );
        // A subject that demands a user.
        ask("orders.create", &alice).await.unwrap();
        let denied = ask("orders.create", &None).await.unwrap_err();
        assert!(
            matches!(denied, RequestError::Send(SendError::Denied { .. })),
            "{denied:?}"
        );
    }
}

#[tokio::test]
async fn what_a_token_outlives_is_refused_by_the_test_s_own_clock() {
    let real = Instant::now();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let bus = TestBus::start_at(POLICY, start).unwrap();
    assert!(bus.now() < start + Duration::from_secs(1));
    let gateway = bus.client("gateway").await.unwrap();
    let user = TestUser::new("alice").scope("orders:write");
    let token = bus
        .token(&gateway, &user.life(Duration::from_secs(30)))
        .unwrap();
    let ask = || {
        gateway
            .message("orders.create")
            .user_token(&token)
            .payload(&1u32)
    };
    let nobody = ask().request().await.unwrap_err();
    assert!(
        matches!(nobody, RequestError::NoResponders { .. }),
        "{nobody:?}"
    );
    bus.advance(Duration::from_secs(40)).await;
    let ended = ask().request().await.unwrap_err();
    assert!(
        matches!(ended, RequestError::Send(SendError::User { .. })),
        "{ended:?}"
    );
    // The credential of the process was renewed on the way: an hour is its life.
    bus.advance(Duration::from_secs(2 * 3600)).await;
    let token = bus.token(&gateway, &TestUser::new("alice").scope("orders:write"));
    let ask = gateway.message("orders.create").user_token(token.unwrap());
    let nobody = ask.payload(&1u32).request().await.unwrap_err();
    assert!(
        matches!(nobody, RequestError::NoResponders { .. }),
        "{nobody:?}"
    );
    assert!(
        real.elapsed() < Duration::from_secs(30),
        "{:?}",
        real.elapsed()
    );
}

#[tokio::test]
async fn a_handler_is_stopped_when_its_caller_has_gone_and_nobody_waited_for_it() {
    let real = Instant::now();
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let _service = orders
        .serve("slow.work", async |message: Message<u64>| {
            tokio::time::sleep(Duration::from_secs(*message.payload())).await;
            Ok::<_, ServiceError>("done")
        })
        .await
        .unwrap();
    let ask = |seconds: u64| {
        let message = gateway.message("slow.work").payload(&seconds);
        message.timeout(Duration::from_secs(600)).request()
    };
    let done: String = ask(20).await.unwrap().decode().unwrap();
    assert_eq!(done, "done");
    // The subject's `max_age`, 30 s, is the longest that a request lives.
    let late = ask(500).await.unwrap_err();
    let is_late = |error: &ServiceError| error.code() == ServiceErrorCode::Unavailable;
    assert!(
        matches!(&late, RequestError::Service(error) if is_late(error)),
        "{late:?}"
    );
    assert_eq!(orders.stats().deadlines_passed(), 1);
    assert!(
        real.elapsed() < Duration::from_secs(20),
        "{:?}",
        real.elapsed()
    );
}

#[tokio::test]
async fn events_reach_all_who_listen_and_one_of_a_group_sealed_or_encrypted() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let (one, two) = (
        bus.client("billing").await.unwrap(),
        bus.client("billing").await.unwrap(),
    );
    let mut all = orders.subscribe("news.*").await.unwrap();
    let mut plan = orders.subscribe("secret.plan").await.unwrap();
    let mut first = one.queue_subscribe("news.*").await.unwrap();
    let mut second = two.queue_subscribe("news.*").await.unwrap();
    for number in 0..10u32 {
        gateway.publish("news.today", &number).await.unwrap();
    }
    gateway.publish("secret.plan", "by night").await.unwrap();
    gateway.flush().await.unwrap();
    for number in 0..10u32 {
        let message = all.next().await.unwrap();
        assert_eq!(message.decode::<u32>().unwrap(), number);
        assert_eq!(message.sender().workload().path(), "gateway");
    }
    let message = plan.next().await.unwrap();
    assert_eq!(message.decode::<String>().unwrap(), "by night");
    let mut shared = 0;
    let limit = Duration::from_secs(1);
    for member in [&mut first, &mut second] {
        while let Ok(Some(_)) = tokio::time::timeout(limit, member.next()).await {
            shared += 1;
        }
    }
    assert_eq!(shared, 10);
}

#[tokio::test]
async fn a_policy_is_replaced_and_a_workload_revoked_for_all_at_once() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let mut news = orders.subscribe("news.*").await.unwrap();
    gateway.publish("news.today", "one").await.unwrap();
    assert!(news.next().await.is_some());

    let without = POLICY.replace(
        r#"on = ["news.*", "single.*", "secret.plan", "slow.work"]"#,
        r#"on = ["slow.work"]"#,
    );
    assert_ne!(without, POLICY);
    bus.apply(&without).await.unwrap();
    assert_eq!(orders.policy().revision(), 2);
    let denied = gateway.publish("news.today", "two").await.unwrap_err();
    assert!(
        matches!(denied, PublishError::Send(SendError::Denied { .. })),
        "{denied:?}"
    );

    bus.apply(POLICY).await.unwrap();
    gateway.publish("news.today", "three").await.unwrap();
    assert!(news.next().await.is_some());
    bus.revoke_workload("gateway").await.unwrap();
    let refused = gateway.publish("news.today", "four").await.unwrap_err();
    assert!(
        matches!(refused, PublishError::Send(SendError::Standing(_))),
        "{refused:?}"
    );
    assert!(bus.client("gateway").await.is_err());
}

/// One rule of the policy, taken out at the receiver alone: what passes is decided
/// there too and not only by who sends.
#[tokio::test]
async fn the_receiver_decides_for_itself() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let mut news = orders.subscribe("news.*").await.unwrap();
    gateway.publish("news.today", "one").await.unwrap();
    bus.revoke_workload("gateway").await.unwrap();
    // Sealed and sent before, looked at after.
    let limit = Duration::from_secs(1);
    assert!(tokio::time::timeout(limit, news.next()).await.is_err());
    let refused = orders.stats().refused();
    assert_eq!(refused.get("workload_revoked"), Some(&1), "{refused:?}");
}

/// What was found of a sender, and found again, says nothing once there is another list of
/// who is revoked.
#[tokio::test]
async fn a_credential_that_was_used_lately_is_looked_at_anew_when_something_is_revoked() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let mut news = orders.subscribe("news.*").await.unwrap();
    // Subjects of their own: of each it is asked who sends there.
    for subject in ["news.a", "news.b", "news.c", "news.d", "news.e"] {
        gateway.publish(subject, "one").await.unwrap();
    }
    for _ in 0..4 {
        news.next().await.unwrap();
    }
    bus.revoke_workload("gateway").await.unwrap();
    let limit = Duration::from_secs(1);
    assert!(tokio::time::timeout(limit, news.next()).await.is_err());
    let refused = orders.stats().refused();
    assert_eq!(refused.get("workload_revoked"), Some(&1), "{refused:?}");
}

#[tokio::test]
async fn the_policy_of_production_is_taken_as_it_is() {
    // Real nkeys, whose seeds nobody has kept.
    let bus = TestBus::start(POLICY).unwrap();
    let named: Vec<String> = bus
        .policy()
        .workloads()
        .iter()
        .flat_map(|workload| workload.nkeys().to_vec())
        .map(|nkey| nkey.to_string())
        .collect();
    drop(bus);
    let mut production = POLICY.to_owned();
    for (name, nkey) in ["gateway", "orders", "billing"].iter().zip(&named) {
        production = production.replace(&format!("@{name}@"), nkey);
    }
    let bus = TestBus::start(&production).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    gateway.publish("news.today", "one").await.unwrap();
    gateway.flush().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_an_error_that_says_what_to_do() {
    let wrong = TestBus::start("version = 1").unwrap_err();
    assert!(matches!(wrong, TestBusError::Policy(_)), "{wrong:?}");
    let bus = TestBus::start(POLICY).unwrap();
    let another = TestBus::start(POLICY).unwrap_err();
    assert!(matches!(another, TestBusError::Another), "{another:?}");
    let unknown = bus.client("nobody").await.unwrap_err();
    assert!(
        matches!(unknown, TestBusError::UnknownWorkload { .. }),
        "{unknown:?}"
    );
    let orders = bus.client("orders").await.unwrap();
    let user = TestUser::new("alice");
    let minter = bus.token(&orders, &user).unwrap_err();
    assert!(minter.to_string().contains("mints = true"), "{minter}");
    let gateway = bus.client("gateway").await.unwrap();
    let long = user.life(Duration::from_secs(3600));
    let mint = bus.token(&gateway, &long).unwrap_err();
    assert!(matches!(mint, TestBusError::Mint(_)), "{mint:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_of_many_threads_is_refused() {
    let error = TestBus::start(POLICY).unwrap_err();
    assert!(matches!(error, TestBusError::Runtime), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stands_already_is_taken_over() {
    let bus = TestBus::start(POLICY).unwrap();
    let before = bus.now();
    bus.advance(Duration::from_secs(5)).await;
    let passed = bus.now().duration_since(before).unwrap();
    assert!(
        passed >= Duration::from_secs(5) && passed < Duration::from_secs(6),
        "{passed:?}"
    );
}

/// Beside others a request waits for company before it is sealed: it is sent all the same
/// when nobody looks at its replies.
#[tokio::test]
async fn what_request_many_has_returned_for_was_sent() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let (seen, mut came) = tokio::sync::mpsc::unbounded_channel();
    let _service = orders
        .serve("slow.work", move |m: Message<u32>| {
            let _ = seen.send(m.into_payload());
            std::future::pending::<Result<(), ServiceError>>()
        })
        .await
        .unwrap();
    let first = gateway.message("slow.work").payload(&1u32);
    let _waits = first.request_many().await.unwrap();
    let second = gateway.message("slow.work").payload(&2u32);
    drop(second.request_many().await.unwrap());
    for n in [1, 2] {
        let next = tokio::time::timeout(Duration::from_secs(5), came.recv());
        assert_eq!(next.await, Ok(Some(n)));
    }
}

/// Polls once, when what is on its way has come; it has to wait.
async fn begin<F: Future>(mut future: Pin<&mut F>) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let poll = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    assert!(poll.is_pending(), "it has nothing to look up");
}

async fn soon<F: Future>(future: F) -> F::Output {
    let done = tokio::time::timeout(Duration::from_secs(1), future).await;
    done.expect("nobody is waited for")
}

/// Who receives first looks up the sender's credential; who waits for the same does not
/// wait for it to be polled again.
#[tokio::test]
async fn a_slow_receiver_keeps_nobody_from_a_new_sender() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let mut slow = orders.subscribe("news.slow").await.unwrap();
    let mut quick = orders.subscribe("news.quick").await.unwrap();
    for subject in ["news.slow", "news.quick"] {
        gateway.publish(subject, &1u32).await.unwrap();
    }
    gateway.flush().await.unwrap();
    let mut idle = pin!(slow.next());
    begin(idle.as_mut()).await;
    let message = soon(quick.next()).await.unwrap();
    assert_eq!(message.subject().as_str(), "news.quick");
    let message = soon(idle).await.unwrap();
    assert_eq!(message.subject().as_str(), "news.slow");
}

/// The same of data keys that lie on the stream.
#[tokio::test]
async fn a_slow_receiver_keeps_nobody_from_a_data_key() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let _billing = bus.client("billing").await.unwrap();
    // The first of a key carries it along, until it is stored.
    let mut news = orders.subscribe("news.first").await.unwrap();
    gateway.publish("secret.plan", &0u32).await.unwrap();
    gateway.publish("news.first", &0u32).await.unwrap();
    soon(news.next()).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let mut slow = orders.subscribe("secret.plan").await.unwrap();
    let mut quick = orders.subscribe("secret.plan").await.unwrap();
    gateway.publish("secret.plan", &1u32).await.unwrap();
    gateway.flush().await.unwrap();
    let mut idle = pin!(slow.next());
    begin(idle.as_mut()).await;
    for message in [soon(quick.next()).await, soon(idle).await] {
        assert_eq!(message.unwrap().decode::<u32>().unwrap(), 1);
    }
}

/// The most that `count` grew between two times that others ran, while `work` was done.
async fn most_at_once<T>(
    count: impl Fn() -> u64 + Send + 'static,
    work: impl Future<Output = T>,
) -> u64 {
    let most = Arc::new(AtomicU64::new(0));
    let other = tokio::spawn({
        let most = Arc::clone(&most);
        async move {
            let mut before = count();
            loop {
                let now = count();
                most.fetch_max(now - before, Ordering::Relaxed);
                before = now;
                tokio::task::yield_now().await;
            }
        }
    });
    work.await;
    // So that it sees the last ones.
    tokio::task::yield_now().await;
    other.abort();
    most.load(Ordering::Relaxed)
}

/// A frame comes from the bus as one, whatever it holds: its messages count, and so does
/// what is refused.
#[tokio::test]
async fn a_receiver_in_a_loop_lets_others_run() {
    const MESSAGES: u32 = 4_000;
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let mut good = orders.subscribe("news.good").await.unwrap();
    let mut bad = orders.subscribe("single.bad").await.unwrap();
    for subject in ["news.good", "single.bad"] {
        for n in 0..MESSAGES {
            gateway.publish(subject, &n).await.unwrap();
        }
    }
    gateway.flush().await.unwrap();
    assert!(gateway.stats().frames_sent() > 50, "they share frames");
    // The sender is known from here on: nothing has to be waited for.
    soon(good.next()).await.unwrap();

    let stats = orders.stats().clone();
    let most = most_at_once(move || stats.delivered(), async {
        for n in 1..MESSAGES {
            let message = good.next().await.unwrap();
            assert_eq!(message.decode::<u32>().unwrap(), n);
        }
    });
    let most = most.await;
    assert!((1..=512).contains(&most), "{most} were received at once");

    bus.revoke_workload("gateway").await.unwrap();
    let stats = orders.stats().clone();
    let refused = move || stats.refused().values().sum();
    let all = refused.clone();
    let most = most_at_once(refused, async {
        tokio::select! {
            biased;
            _ = bad.next() => panic!("nothing of it passes"),
            () = async { while all() < u64::from(MESSAGES) { tokio::task::yield_now().await } } => {}
        }
    });
    let most = most.await;
    assert!((1..=512).contains(&most), "{most} were refused at once");
}
