//! What a broker says to Prometheus and to orchestrators.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_identity::NkeyKind;
use bulla_keyring::NkeySeed;
use bulla_tests::{BrokerProcess, Bus, BusOptions};
use tokio::time::{Instant, sleep};

/// Names that no program would hold by chance.
const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.quartermaster]
attest = [{ nkey = "@quartermaster@" }]
[workload.harbourmaster]
attest = [{ nkey = "@harbourmaster@" }]

[subject."galley.stores"]
protect = "signed"

[[allow]]
id  = "stores-are-told"
who = ["quartermaster"]
may = ["publish"]
on  = ["galley.stores"]

[[allow]]
id  = "stores-are-heard"
who = ["harbourmaster"]
may = ["subscribe"]
on  = ["galley.stores"]
"#;

const DASHBOARD: &str = include_str!("../../../broker/deploy/grafana/bulla-brokers.json");
const ALERTS: &str = include_str!("../../../broker/deploy/prometheus/bulla-broker.rules.yaml");

async fn bus() -> Bus {
    let options = BusOptions {
        brokers: Vec::new(),
        ..BusOptions::new(POLICY)
    };
    Bus::start_with(options).await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(15), "not yet: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Every `bulla_…` and `process_…` that stands in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("bulla_broker_") || word.starts_with("process_"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dashboard_and_alerts_name_is_there_and_nobody_is_named() {
    let bus = bus().await;
    let broker = BrokerProcess::start(&bus, Group::Both).await;
    assert_eq!(broker.ask("/livez").await, (200, "alive\n".to_owned()));
    until("it is ready", async || broker.ask("/readyz").await.0 == 200).await;

    // Everything that a broker counts: who may and who may not, with names.
    let service = bus.client("quartermaster").await;
    let stranger = NkeySeed::from_random(NkeyKind::User, &[7; 32]).unwrap();
    let key = stranger.public().to_string();
    assert!(
        bus.raw_client_with("quartermaster", stranger)
            .await
            .is_err()
    );
    service
        .publish("galley.stores", &"twelve barrels")
        .await
        .unwrap();
    let connects = [r#"verb="connect""#, r#"decision="allow""#];
    assert!(
        broker
            .metric("bulla_broker_decisions_total", &connects)
            .await
            >= 1.0
    );
    let refused = [r#"verb="connect""#, r#"reason="unknown_nkey""#];
    assert_eq!(
        broker
            .metric("bulla_broker_decisions_total", &refused)
            .await,
        1.0
    );
    let credential = [r#"verb="credential""#, r#"decision="allow""#];
    assert_eq!(
        broker
            .metric("bulla_broker_decisions_total", &credential)
            .await,
        1.0
    );
    // Its record of keys, too, was asked of both groups, and registered once.
    let record = [r#"verb="kem""#];
    assert_eq!(
        broker.metric("bulla_broker_decisions_total", &record).await,
        1.0
    );
    assert!(
        broker
            .metric("bulla_broker_callout_seconds_count", &[])
            .await
            >= 2.0
    );
    // A broker in both groups gets each question twice and answers it once.
    let same = [r#"reason="same_request""#];
    assert!(
        broker
            .metric("bulla_broker_callout_unanswered_total", &same)
            .await
            >= 1.0
    );
    assert_eq!(
        broker.metric("bulla_broker_callout_waiting", &[]).await,
        0.0
    );
    until("the audit log is written", async || {
        broker.metric("bulla_broker_audit_stored_total", &[]).await > 3.0
            && broker.metric("bulla_broker_audit_lag_seconds", &[]).await == 0.0
    })
    .await;
    until("both enforcers have said what they run", async || {
        let current = [r#"state="current""#];
        broker.metric("bulla_broker_enforcers", &current).await >= 2.0
    })
    .await;

    let text = broker.scrape().await;
    let scraped = metrics_in(&text);
    for (file, named) in [("dashboard", DASHBOARD), ("alerts", ALERTS)] {
        let missing: Vec<_> = metrics_in(named).difference(&scraped).copied().collect();
        assert!(missing.is_empty(), "the {file} names {missing:?}\n{text}");
    }
    // What is counted is shown somewhere, too.
    let shown: BTreeSet<_> = metrics_in(DASHBOARD)
        .union(&metrics_in(ALERTS))
        .copied()
        .collect();
    let base = |name: &str| {
        let ends = ["_bucket", "_sum", "_count", "_created"];
        let cut = ends.iter().find_map(|end| name.strip_suffix(end));
        cut.unwrap_or(name).to_owned()
    };
    let shown: BTreeSet<_> = shown.iter().map(|name| base(name)).collect();
    for name in scraped
        .iter()
        .filter(|name| name.starts_with("bulla_broker_"))
    {
        // Names of families stand in their descriptions without an ending.
        let name = base(name);
        let ends = ["", "_total", "_info"];
        let is_shown = ends
            .iter()
            .any(|end| shown.contains(&format!("{name}{end}")));
        assert!(is_shown, "nobody looks at `{name}`");
    }

    // Neither secrets nor anything that grows with who comes by.
    for seed in [
        "quartermaster",
        "harbourmaster",
        "broker-js",
        "callout",
        "xkey",
    ] {
        let file = bus.provision().path(&format!("keys/{seed}.nk"));
        let seed = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains(seed.trim()), "a seed");
    }
    for name in [
        "quartermaster",
        "harbourmaster",
        "galley",
        "barrels",
        "127.0.0.1",
        &key,
    ] {
        assert!(!text.contains(name), "`{name}` stands in\n{text}");
    }
    let mut series = BTreeMap::<&str, usize>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        *series.entry(name).or_default() += 1;
    }
    let most = series.iter().max_by_key(|(_, count)| **count).unwrap();
    assert!(*most.1 <= 40, "{most:?}");
}

/// Nobody can choose a label: what a stranger sends ends in a word of the program.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_make_no_new_series() {
    let bus = bus().await;
    let broker = BrokerProcess::start(&bus, Group::Both).await;
    // Every line without its value.
    let series = async || {
        let text = broker.scrape().await;
        let names = text.lines().filter_map(|line| line.rsplit_once(' '));
        names
            .map(|(name, _)| name.to_owned())
            .collect::<BTreeSet<_>>()
    };
    let refused = async |n: u8| {
        let stranger = NkeySeed::from_random(NkeyKind::User, &[n; 32]).unwrap();
        assert!(
            bus.raw_client_with("quartermaster", stranger)
                .await
                .is_err()
        );
    };
    refused(1).await;
    // The second copy of the first question may be looked at later.
    until("it is counted", async || {
        let same = [r#"reason="same_request""#];
        let unanswered = "bulla_broker_callout_unanswered_total";
        broker.metric(unanswered, &same).await >= 1.0
    })
    .await;
    let before = series().await;
    for n in 2..40 {
        refused(n).await;
    }
    let after = series().await;
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    let denied = [r#"decision="deny""#];
    assert_eq!(
        broker.metric("bulla_broker_decisions_total", &denied).await,
        39.0
    );
}
