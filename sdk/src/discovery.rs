//! Answers for who asks which services there are, as NATS's own tools do (ADR-32).
//!
//! ```text
//! $SRV.PING  $SRV.PING.<service>  $SRV.PING.<service>.<instance>      who is there?
//! $SRV.INFO  …                                                        with which endpoints?
//! $SRV.STATS …                                                        how much was asked?
//! ```
//!
//! Questions and answers are plain: nobody proves anything by them. So an answer
//! holds names, subjects and counts, never what was asked, by whom or for whom; it
//! goes to the inboxes of those alone that the policy lets discover, because nobody
//! checks the reply subject of a question; and services answer only where the policy
//! calls their workload discoverable (policy SPEC, POL-190).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bulla_identity::{Subject, reserved};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use crate::connection::Violation;
use crate::error::{LinkError, ServiceError};
use crate::shared::Shared;

/// How long nats-server may take to confirm a subscription.
const CONFIRM: Duration = Duration::from_secs(5);

/// What is counted of one endpoint.
#[derive(Default)]
pub(crate) struct Tallies {
    requests: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    /// The stable code of the last error: never its words, which may name things.
    last_error: Mutex<&'static str>,
}

impl Tallies {
    /// A request was handled, whatever came of it.
    pub(crate) fn count(&self, took: Duration, error: Option<&'static str>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(code) = error {
            self.errors.fetch_add(1, Ordering::Relaxed);
            *self.last_error.lock() = code;
        }
    }

    /// The code of what a handler came to.
    pub(crate) fn code_of<T>(outcome: &Result<T, ServiceError>) -> Option<&'static str> {
        outcome.as_ref().err().map(|error| error.code().as_str())
    }
}

/// What is told of one endpoint.
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) tallies: Arc<Tallies>,
}

impl Listed {
    /// A name that the tools accept, made of the pattern where none is given.
    pub(crate) fn name_of(pattern: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let mut name = String::new();
        for token in pattern.split('.') {
            let token = match token {
                "*" => "any".to_owned(),
                ">" => "all".to_owned(),
                other => other.chars().filter(|c| fits(*c)).collect(),
            };
            if !name.is_empty() {
                name.push('-');
            }
            name.push_str(&token);
        }
        name
    }
}

/// What is told of one service.
pub(crate) struct Card {
    pub(crate) version: String,
    pub(crate) description: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Listed>,
}

/// A service that can be found.
pub(crate) struct Discovery {
    name: String,
    id: String,
    started: String,
    card: Card,
}

#[derive(Serialize)]
struct Head<'a> {
    r#type: &'static str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Info<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    description: &'a str,
    endpoints: Vec<EndpointInfo<'a>>,
}

#[derive(Serialize)]
struct EndpointInfo<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    metadata: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Stats<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    started: &'a str,
    endpoints: Vec<EndpointStats<'a>>,
}

#[derive(Serialize)]
struct EndpointStats<'a> {
    name: &'a str,
    subject: &'a str,
    queue_group: &'a str,
    num_requests: u64,
    num_errors: u64,
    last_error: &'static str,
    processing_time: u64,
    average_processing_time: u64,
}

impl Discovery {
    pub(crate) fn new(shared: &Shared, card: Card) -> Self {
        let started = OffsetDateTime::from_unix_timestamp_nanos(
            i128::from(crate::clock::now().as_millis()) * 1_000_000,
        );
        let started = started.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self {
            name: shared.own_name().to_owned(),
            id: format!("{:032x}", rand::random::<u128>()),
            started: started.format(&Rfc3339).unwrap_or_default(),
            card,
        }
    }

    /// Answers until `stop`, or until the client is gone.
    ///
    /// # Errors
    /// If nats-server does not confirm the subscriptions.
    pub(crate) async fn answer(
        self,
        shared: &Arc<Shared>,
        stop: CancellationToken,
    ) -> Result<(), LinkError> {
        let connection = shared.connection.clone();
        let mut refusals = connection.watch();
        let mut questions = Vec::new();
        for (place, verb) in reserved::DISCOVERY.iter().enumerate() {
            for subject in [
                (*verb).to_owned(),
                format!("{verb}.{}", self.name),
                format!("{verb}.{}.{}", self.name, self.id),
            ] {
                let heard = connection.link().subscribe(subject).await?;
                questions.push(heard.map(move |question| (place, question)));
            }
        }
        connection.barrier(CONFIRM).await?;
        for verb in reserved::DISCOVERY {
            let refusal = Violation::Subscribe {
                subject: verb.to_owned(),
            };
            if connection.refused_since(&mut refusals, &refusal).await {
                return Err(LinkError::Refused);
            }
        }
        let shared = Arc::downgrade(shared);
        tokio::spawn(async move {
            let mut questions = select_all(questions);
            loop {
                let question = tokio::select! {
                    () = stop.cancelled() => return,
                    question = questions.next() => question,
                };
                let Some((place, question)) = question else {
                    return;
                };
                if self.tell(&shared, place, question.reply).await.is_none() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Nothing once the client is gone.
    async fn tell(
        &self,
        shared: &Weak<Shared>,
        place: usize,
        reply: Option<async_nats::Subject>,
    ) -> Option<()> {
        let shared = shared.upgrade()?;
        let reply = reply.filter(|reply| may_go_to(&shared, reply));
        let Some(reply) = reply else {
            shared.stats.count_refused("discovery_foreign_inbox");
            return Some(());
        };
        let answer = match place {
            0 => self.ping(),
            1 => self.info(shared.own_name()),
            _ => self.stats(shared.own_name()),
        };
        // A connection that is gone takes no answer, and nobody waits for this one.
        let _ = shared.connection.link().publish(reply, answer).await;
        Some(())
    }

    fn head(&self, r#type: &'static str) -> Head<'_> {
        Head {
            r#type,
            name: &self.name,
            id: &self.id,
            version: &self.card.version,
            metadata: &self.card.metadata,
        }
    }

    fn ping(&self) -> Bytes {
        json(&self.head("io.nats.micro.v1.ping_response"))
    }

    fn info(&self, queue_group: &str) -> Bytes {
        let endpoints = self.card.endpoints.iter().map(|listed| EndpointInfo {
            name: &listed.name,
            subject: &listed.subject,
            queue_group,
            metadata: BTreeMap::new(),
        });
        json(&Info {
            head: self.head("io.nats.micro.v1.info_response"),
            description: &self.card.description,
            endpoints: endpoints.collect(),
        })
    }

    fn stats(&self, queue_group: &str) -> Bytes {
        let endpoints = self.card.endpoints.iter().map(|listed| {
            let tallies = &listed.tallies;
            let requests = tallies.requests.load(Ordering::Relaxed);
            let nanos = tallies.nanos.load(Ordering::Relaxed);
            EndpointStats {
                name: &listed.name,
                subject: &listed.subject,
                queue_group,
                num_requests: requests,
                num_errors: tallies.errors.load(Ordering::Relaxed),
                last_error: *tallies.last_error.lock(),
                processing_time: nanos,
                average_processing_time: nanos.checked_div(requests).unwrap_or(0),
            }
        });
        json(&Stats {
            head: self.head("io.nats.micro.v1.stats_response"),
            started: &self.started,
            endpoints: endpoints.collect(),
        })
    }
}

/// Whether it is a version as SemVer writes it; the tools refuse to show another.
pub(crate) fn is_version(text: &str) -> bool {
    let is_number = |part: &str| {
        let is_canonical = part == "0" || !part.starts_with('0');
        !part.is_empty() && is_canonical && part.bytes().all(|b| b.is_ascii_digit())
    };
    let is_word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, early) = match rest.split_once('-') {
        Some((core, early)) => (core, Some(early)),
        None => (rest, None),
    };
    let mut early = early.into_iter().flat_map(|early| early.split('.'));
    let mut build = build.into_iter().flat_map(|build| build.split('.'));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && early.all(|part| is_word(part) && (!is_digits(part) || is_number(part)))
        && build.all(is_word)
}

/// Whether this workload may be found at all, by the policy of now.
pub(crate) fn is_discoverable(shared: &Shared) -> bool {
    let policy = shared.control.policy();
    let own = policy.policy().workload_by_id(&shared.options.workload);
    own.is_some_and(bulla_policy::Workload::discoverable)
}

/// Whether it lies in the inbox of a workload that may discover. Elsewhere the
/// answer could be taken for something else.
fn may_go_to(shared: &Shared, reply: &str) -> bool {
    if !is_discoverable(shared) || Subject::parse(reply).is_err() {
        return false;
    }
    let policy = shared.control.policy();
    let mut askers = policy.policy().workloads().iter();
    askers.any(|workload| {
        workload.discovers()
            && reply
                .strip_prefix(&reserved::inbox_peers(workload.tag()))
                .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn json(value: &impl Serialize) -> Bytes {
    // Texts and numbers always encode.
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_named_as_the_tools_want_it() {
        for (pattern, name) in [
            ("billing.quote", "billing-quote"),
            ("orders.{tenant}.create", "orders-tenant-create"),
            ("orders.*.x.>", "orders-any-x-all"),
        ] {
            assert_eq!(Listed::name_of(pattern), name);
        }
    }

    #[test]
    fn versions_are_those_that_the_tools_show() {
        for good in [
            "0.0.0",
            "1.2.3",
            "10.20.30",
            "1.0.0-rc.1",
            "1.0.0-0a.x-y+b.07",
            "1.0.0+7",
        ] {
            assert!(is_version(good), "{good}");
        }
        for bad in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "01.2.3",
            "1.2.x",
            "v1.2.3",
            "1.2.3-",
            "1.2.3-01",
            "1.2.3-a..b",
            "1.2.3+",
            "1.2.3+a_b",
            "1.2.3 ",
            "1.2.\u{663}",
        ] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn errors_are_counted_by_their_codes() {
        let tallies = Tallies::default();
        tallies.count(Duration::from_nanos(10), None);
        tallies.count(Duration::from_nanos(30), Some("invalid"));
        assert_eq!(tallies.requests.load(Ordering::Relaxed), 2);
        assert_eq!(tallies.errors.load(Ordering::Relaxed), 1);
        assert_eq!(tallies.nanos.load(Ordering::Relaxed), 40);
        assert_eq!(*tallies.last_error.lock(), "invalid");
    }
}
