//! Endpoints whose arguments are extracted, under layers of tower, and the deadlines
//! that travel with requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bulla_sdk::extract::{Claims, Deadline, Headers, Payload, State};
use bulla_sdk::{
    Ask, Client, ContentType, Context, RequestError, Sender, ServiceError, ServiceErrorCode, User,
    layered,
};
use bulla_tests::Bus;
use serde::Deserialize;
use tower::{Service as _, ServiceExt as _};

use super::users::Edge;
use super::{Order, POLICY, eventually};

#[derive(Clone, Default)]
struct Oven {
    baked: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Tier {
    tier: String,
}

async fn quote(
    State(oven): State<Oven>,
    Payload(order): Payload<Order>,
    Claims(claims): Claims<Tier>,
    user: User,
    sender: Sender,
    headers: Headers,
) -> Result<String, ServiceError> {
    oven.baked.fetch_add(1, Ordering::SeqCst);
    user.require_scope("orders:write")?;
    Ok(format!(
        "{} in {} for {} of {} via {}",
        order.item,
        headers.get("colour").unwrap_or("red"),
        user.principal(),
        claims.tier,
        sender.workload().path(),
    ))
}

async fn echo(Payload(text): Payload<String>, user: Option<User>) -> Result<String, ServiceError> {
    Ok(format!("{text} {}", user.is_some()))
}

fn code(error: &RequestError) -> Option<ServiceErrorCode> {
    match error {
        RequestError::Service(error) => Some(error.code()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_a_handler_are_taken_from_the_message() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let oven = Oven::default();
    let service = back
        .service()
        .endpoint("back.echo", echo)
        .state(oven.clone())
        .endpoint("back.quote", quote)
        .start()
        .await
        .unwrap();
    // A closure is an endpoint too.
    let asks = front.clone();
    let passes_on = move |Payload(order): Payload<Order>| {
        let front = asks.clone();
        async move {
            let message = front.message("back.quote").payload(&order);
            let quote: String = message.header("colour", "blue").request().await?.decode()?;
            Ok::<_, ServiceError>(quote)
        }
    };
    let order = front.service().endpoint("front.order", passes_on);
    let order = order.start().await.unwrap();

    let token = edge.token("alice", "orders:write", "gold");
    let answer = edge.order(&token).await.unwrap();
    assert_eq!(answer, "clay in blue for alice of gold via front");
    let answer: String = front.request("back.echo", "hi").await.unwrap();
    assert_eq!(answer, "hi false");

    // What is not there is the caller's error, and the handler does not run.
    let before = oven.baked.load(Ordering::SeqCst);
    let error = front.request::<_, String>("back.echo", &7u32).await;
    assert_eq!(code(&error.unwrap_err()), Some(ServiceErrorCode::Invalid));
    assert_eq!(oven.baked.load(Ordering::SeqCst), before);

    order.drain().await;
    service.drain().await;
    let error = front.request::<_, String>("back.echo", "hi").await;
    assert!(matches!(error, Err(RequestError::NoResponders { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_for_users_answers_nobody_else() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let for_users = move |_: User| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, ServiceError>(()) }
    };
    let service = back.service().endpoint("back.echo", for_users);
    let _service = service.start().await.unwrap();
    let error = front.request::<_, ()>("back.echo", "hi").await.unwrap_err();
    assert_eq!(code(&error), Some(ServiceErrorCode::Forbidden));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

/// An endpoint that nobody may serve keeps the others from being served.
#[tokio::test(flavor = "multi_thread")]
async fn all_endpoints_are_served_or_none() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let service = back
        .service()
        .endpoint("back.echo", echo)
        .endpoint("front.order", echo);
    assert!(service.start().await.is_err());
    let error = front.request::<_, String>("back.echo", "hi").await;
    assert!(
        matches!(error, Err(RequestError::NoResponders { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_tower_work_around_a_handler() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let slow = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |Payload(millis): Payload<u64>| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, ServiceError>(millis)
            }
        }
    };
    let few = tower::ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(2)
        .service(layered(slow, ()));
    let never = |Payload(()): Payload<()>| std::future::pending::<Result<(), ServiceError>>();
    let hasty = tower::ServiceBuilder::new()
        .timeout(Duration::from_millis(20))
        .service(layered(never, ()));
    let _service = back
        .service()
        .endpoint_service("back.echo", few)
        .endpoint_service("back.anonymous", hasty)
        .start()
        .await
        .unwrap();

    let asks: Vec<_> = (0..6)
        .map(|_| {
            let front = front.clone();
            tokio::spawn(async move { front.request::<_, u64>("back.echo", &300u64).await })
        })
        .collect();
    let mut answered = 0;
    for ask in asks {
        match ask.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => assert_eq!(code(&error), Some(ServiceErrorCode::Unavailable)),
        }
    }
    assert_eq!(answered, 2);
    assert_eq!(most.load(Ordering::SeqCst), 2);

    let error = front.request::<_, ()>("back.anonymous", &()).await;
    let error = error.unwrap_err();
    assert_eq!(code(&error), Some(ServiceErrorCode::Unavailable), "{error}");
}

/// Sends again what failed, twice.
#[derive(Clone)]
struct Twice(u32);

impl<E> tower::retry::Policy<Ask, bulla_sdk::Response, E> for Twice {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Ask,
        result: &mut Result<bulla_sdk::Response, E>,
    ) -> Option<Self::Future> {
        (result.is_err() && self.0 > 0).then(|| {
            self.0 -= 1;
            std::future::ready(())
        })
    }

    fn clone_request(&mut self, ask: &Ask) -> Option<Ask> {
        Some(ask.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_tower_retry_what_is_asked() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let third_time = move |Payload(text): Payload<String>, headers: Headers| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 | 1 => Err(ServiceError::new(ServiceErrorCode::Unavailable, "not yet")),
                _ => Ok(text + headers.get("mark").unwrap_or_default()),
            }
        }
    };
    let service = back.service().endpoint("back.echo", third_time);
    let _service = service.start().await.unwrap();
    let mut caller = tower::ServiceBuilder::new()
        .retry(Twice(2))
        .service(front.caller("back.echo"));
    let ask = Ask::encode(ContentType::Json, "at last").unwrap();
    let ready = caller.ready().await.unwrap();
    let response = ready.call(ask.header("mark", "!")).await.unwrap();
    assert_eq!(response.decode::<String>().unwrap(), "at last!");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

/// A service that says how long its caller waits, and asks the next one.
async fn chain(front: &Client, back: &Client) -> [bulla_sdk::RunningService; 2] {
    let told = |deadline: Deadline| async move {
        let left = deadline.remaining();
        Ok::<_, ServiceError>(u64::try_from(left.as_millis()).unwrap())
    };
    let back = back.service().endpoint("back.quote", told);
    let asks = front.clone();
    let passes_on = move |deadline: Deadline| {
        let front = asks.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let own = u64::try_from(deadline.remaining().as_millis()).unwrap();
            let theirs: u64 = front.request("back.quote", &()).await?;
            Ok::<_, ServiceError>(format!("{own} {theirs}"))
        }
    };
    let front = front.service().endpoint("front.order", passes_on);
    [front.start().await.unwrap(), back.start().await.unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_travel_and_shrink_down_the_chain() {
    let bus = Bus::start(POLICY).await;
    let edge = Edge::connect(&bus, "edge").await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _services = chain(&front, &back).await;
    let token = edge.token("alice", "orders:write", "gold");
    let ask = |timeout: u64| {
        let message = edge.client.message("front.order").payload(&());
        let message = message.user_token(&token);
        message.timeout(Duration::from_millis(timeout)).request()
    };
    let answer: String = ask(2_000).await.unwrap().decode().unwrap();
    let (own, theirs) = answer.split_once(' ').unwrap();
    let (own, theirs) = (own.parse::<u64>().unwrap(), theirs.parse::<u64>().unwrap());
    // Of two seconds 300 ms are gone when the second is asked, and no time-out of
    // five seconds, its own default, begins anew.
    assert!((1..=1_720).contains(&own), "{own}");
    assert!(theirs <= own + 20, "{theirs} of {own}");
}

/// Who has stopped waiting is not worked for: the handler is dropped in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_stopped_at_its_deadline() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    struct Dropped(Arc<AtomicU32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (dropped, finished) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let hangs = {
        let (dropped, finished) = (Arc::clone(&dropped), Arc::clone(&finished));
        move |context: Context| {
            let here = Dropped(Arc::clone(&dropped));
            let finished = Arc::clone(&finished);
            // What has to be finished is a task of its own, without the deadline.
            tokio::spawn(context.without_deadline().scope(async move {
                tokio::time::sleep(Duration::from_millis(400)).await;
                assert_eq!(Context::current().remaining(), None);
                finished.fetch_add(1, Ordering::SeqCst);
            }));
            async move {
                let _here = here;
                std::future::pending::<Result<(), ServiceError>>().await
            }
        }
    };
    let service = back.service().endpoint("back.echo", hangs);
    let _service = service.start().await.unwrap();
    let message = front.message("back.echo").payload(&());
    let message = message.timeout(Duration::from_millis(200));
    let error = message.request().await.unwrap_err();
    assert!(
        matches!(error, RequestError::Timeout { .. })
            || code(&error) == Some(ServiceErrorCode::Unavailable),
        "{error}"
    );
    eventually(|| dropped.load(Ordering::SeqCst) == 1).await;
    eventually(|| back.stats().deadlines_passed() == 1).await;
    eventually(|| finished.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_when_nobody_waits_any_more() {
    let bus = Bus::start(POLICY).await;
    let front = bus.client("front").await;
    let late = Context::current().within(Duration::ZERO);
    let asked = late.scope(front.request::<_, ()>("back.echo", &())).await;
    assert!(
        matches!(asked, Err(RequestError::DeadlinePassed { .. })),
        "{asked:?}"
    );
    let soon = Context::current().within(Duration::from_millis(50));
    let far = soon.within(Duration::from_secs(60));
    let left = far.remaining().unwrap();
    assert!(left <= Duration::from_millis(60), "{left:?}");
}
