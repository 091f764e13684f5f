//! What a service's recorder is told, read as Prometheus reads it: by a scrape.

use std::sync::Arc;

use bulla_process::CancellationToken;
use bulla_process::admin::{AdminListener, Probe};
use bulla_sdk::telemetry::Prometheus;
use bulla_sdk::{ContentType, Message, ServiceError};

use super::worker::{Desk, policy, start, until};
use super::*;

struct Page(Prometheus);

impl Probe for Page {
    fn unready(&self) -> Option<String> {
        None
    }

    fn metrics(&self) -> String {
        self.0.text()
    }
}

/// The number on the line that begins so; none if there is no such line.
fn value(page: &str, line: &str) -> f64 {
    let rest = page.lines().find_map(|found| found.strip_prefix(line));
    rest.map_or(0.0, |rest| rest.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_tells_what_was_sent_taken_worked_and_settled() {
    let more = r#"
[[allow]]
id = "mail-answers"
who = ["mail"]
may = ["serve"]
on = ["mail.count"]
[[allow]]
id = "shop-counts"
who = ["shop"]
may = ["request"]
on = ["mail.count"]
[[allow]]
id = "shop-tells"
who = ["shop"]
may = ["publish"]
on = ["shop.news"]
"#;
    let bus = Bus::start(&[&policy(), more].concat()).await;
    let metrics = Prometheus::new();
    let client = async |name: &str| {
        let options = bus.connect_options(name);
        let options = options.recorder(Arc::new(metrics.clone()));
        Client::connect(options).await.unwrap()
    };
    let (shop, mail) = (client("shop").await, client("mail").await);
    metrics.watch(mail.stats());
    let count = async |number: Message<u32>| match number.payload() {
        0 => Err(ServiceError::new(
            bulla_sdk::ServiceErrorCode::Invalid,
            "no",
        )),
        number => Ok(number + 1),
    };
    let _service = mail.serve("mail.count", count).await.unwrap();
    shop.request::<_, u32>("mail.count", &1).await.unwrap();
    shop.request::<_, u32>("mail.count", &0).await.unwrap_err();
    // Each refusal under its own reason.
    let raw = bus.raw_client("shop").await;
    let inbox = bus.peer_inbox("shop", "x");
    for (payload, reason) in [(&b"{}"[..], "wrong_type"), (b"", "truncated")] {
        let junk = raw.publish_with_reply("mail.count", inbox.clone(), payload.into());
        junk.await.unwrap();
        until(reason, async || mail.stats().refused_for(reason) == 1).await;
    }
    shop.publish("shop.news", "one").await.unwrap();
    shop.publish("mail.news", "not ours").await.unwrap_err();
    let large = Bytes::from(vec![0; 2 << 20]);
    let large = shop.message("shop.news").bytes(ContentType::Json, large);
    large.publish().await.unwrap_err();
    shop.append("jobs.1", "x").await.unwrap();
    shop.append("secret.none", "nobody's").await.ok();
    shop.append("orders.1.rumour", "denied").await.unwrap_err();

    let desk = Desk::default();
    let worker = start(&mail, &desk, Some("dead.mail")).await;
    for order in ["fine", "third time", "wrong"] {
        shop.append("orders.1.created", order).await.unwrap();
    }
    let address = "127.0.0.1:0".parse().unwrap();
    let admin = AdminListener::bind(address).await.unwrap();
    let url = format!("http://{}/metrics", admin.address());
    let stop = CancellationToken::new();
    let serving = admin.serve(Arc::new(Page(metrics.clone())), stop.clone());
    let serving = tokio::spawn(serving);
    let scrape = async || {
        let answer = reqwest::get(&url).await.unwrap();
        assert!(answer.status().is_success());
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        answer.text().await.unwrap()
    };
    let of = |what: &str| format!("stream=\"ORDERS\",consumer=\"mail\",{what}");
    let settled = |how: &str| {
        format!(
            "bulla_sdk_settled_total{{{}}}",
            of(&format!("how=\"{how}\""))
        )
    };
    until("everything is settled", async || {
        let page = scrape().await;
        value(&page, &settled("ack")) == 2.0 && value(&page, &settled("dead_letter")) == 1.0
    })
    .await;
    worker.stop().await;
    let page = scrape().await;
    let worked = |outcome: &str| {
        let labels = of(&format!("outcome=\"{outcome}\""));
        format!("bulla_sdk_worked_seconds_count{{{labels}}}")
    };
    let taken = |again: &str| {
        let labels = of(&format!("again=\"{again}\""));
        format!("bulla_sdk_taken_total{{{labels}}}")
    };
    for (line, number) in [
        (
            "bulla_sdk_refused_total{reason=\"wrong_type\"}".to_owned(),
            1.0,
        ),
        (
            "bulla_sdk_refused_total{reason=\"truncated\"}".to_owned(),
            1.0,
        ),
        (settled("nak"), 2.0),
        (settled("term"), 0.0),
        (worked("ok"), 2.0),
        (worked("unavailable"), 2.0),
        (worked("invalid"), 1.0),
        (taken("no"), 3.0),
        (taken("yes"), 2.0),
        ("bulla_sdk_published_total{outcome=\"ok\"}".to_owned(), 1.0),
        (
            "bulla_sdk_published_total{outcome=\"denied\"}".to_owned(),
            1.0,
        ),
        (
            "bulla_sdk_published_total{outcome=\"too_large\"}".to_owned(),
            1.0,
        ),
        // Four for orders and jobs, one of the dead letter.
        (
            "bulla_sdk_appended_seconds_count{outcome=\"denied\"}".to_owned(),
            1.0,
        ),
        (
            "bulla_sdk_asked_seconds_count{outcome=\"ok\"}".to_owned(),
            1.0,
        ),
        (
            "bulla_sdk_asked_seconds_count{outcome=\"invalid\"}".to_owned(),
            1.0,
        ),
        (
            "bulla_sdk_handled_seconds_count{endpoint=\"mail.count\",outcome=\"ok\"}".to_owned(),
            1.0,
        ),
    ] {
        let found = value(&page, &line);
        assert!(
            (found - number).abs() < f64::EPSILON,
            "{line} is {found}:\n{page}"
        );
    }
    assert!(
        value(&page, "bulla_sdk_appended_seconds_count{outcome=\"ok\"}") >= 5.0,
        "{page}"
    );
    assert!(value(&page, "bulla_sdk_delivered_total") >= 5.0, "{page}");
    // Nothing of what was said, and no subject of a message.
    for word in ["bowl", "rumour", "third time", "orders.1"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.ends_with("# EOF\n"));
    stop.cancel();
    serving.await.unwrap();
}
