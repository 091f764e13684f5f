//! Ends the connections that have what they would not get now: of workloads that
//! are revoked, that the policy no longer names, or that it permits less, and of who
//! has rights to a bucket that has become unfit.
//!
//! nats-server keeps the permissions with which a connection was admitted. So the
//! connections themselves are asked about, on every server each time, and nothing
//! of them is remembered: a broker beside this one may have admitted them, by an
//! older policy and a moment ago, or a server may have restarted. The name under
//! which each was admitted ends in a mark of what it may do; whoever has another
//! one than it would get now is admitted anew. The search is repeated after every
//! change, so that who slipped in meanwhile is found as well.
//!
//! Who would only get more is left time to choose the moment himself.
//!
//! In operator mode nats-server can ask about all connections anew, and gives them what
//! they get now: nobody is disconnected. It does so at a reload, one connection after the
//! other, and answers nothing else meanwhile; so whoever has to go is ended first, a
//! server is asked once for all that changed, and who has not got what he should
//! after that is ended as well.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bulla_audit::{ConnectionEnded, Event};
use bulla_identity::WorkloadName;
use bulla_sdk::audit::AuditLog;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::callout::{Callout, MARK, Standing};
use crate::clock;
use crate::metrics::Metrics;

/// Who is revoked, by name.
pub(crate) type Outcasts = Arc<std::collections::BTreeSet<WorkloadName>>;

/// Finds and ends connections, from the account `SYS`.
pub(crate) struct Kicker<T> {
    pub(crate) sys: Client,
    pub(crate) callout: Arc<Callout>,
    /// What nats-server calls the account of workloads.
    pub(crate) account: String,
    /// Whether connections are asked about anew, where that is enough.
    pub(crate) in_place: bool,
    /// Told after each change of what the callout goes by.
    pub(crate) changes: watch::Receiver<T>,
    /// Told after each change of which buckets are fit.
    pub(crate) buckets: watch::Receiver<()>,
    pub(crate) audit: AuditLog,
    pub(crate) metrics: Metrics,
}

impl<T> Kicker<T> {
    /// Works until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let work = async {
            let mut behind = HashMap::new();
            let mut losing = HashMap::new();
            let mut looks = 0;
            loop {
                self.changes.mark_unchanged();
                self.buckets.mark_unchanged();
                if self.in_place {
                    // Another broker may ask a server for all of us.
                    sleep(random_part(IN_STEP)).await;
                }
                self.look(&mut behind, &mut losing).await;
                let pause = match SOON.get(looks) {
                    Some(pause) => *pause,
                    None if behind.is_empty() => AGAIN,
                    None => AGAIN_BEHIND,
                };
                looks = looks.saturating_add(1);
                tokio::select! {
                    changed = self.changes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        looks = 0;
                    }
                    changed = self.buckets.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        looks = 0;
                    }
                    () = sleep(jittered(pause)) => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Looks at all connections once. `behind` says since when those would get
    /// more that are not ended for it, `losing` since when those have too much whose
    /// servers were told to ask about them.
    async fn look(
        &self,
        behind: &mut HashMap<Connection, Instant>,
        losing: &mut HashMap<Connection, Instant>,
    ) {
        let mut still = HashMap::new();
        let mut still_losing = HashMap::new();
        let mut to_ask = BTreeSet::new();
        let mut offset = 0;
        let mut late = 0;
        // More than one answer holds: the next page, until there is none.
        for _ in 0..PAGES {
            let mut ended = Vec::new();
            let mut has_more = false;
            let answers = self.ask(offset, |answer| {
                has_more |= answer.total() > offset + AT_ONCE;
                for (connection, found) in answer.connections() {
                    let client = found.ip.parse::<IpAddr>().ok();
                    let user = &found.authorized_user;
                    match self.callout.standing(user, client, clock::now()) {
                        Standing::Current => {}
                        Standing::Lost(reason)
                            if self.in_place
                                && MENDED_IN_PLACE.contains(&reason)
                                && is_recent(losing.get(&connection)) =>
                        {
                            to_ask.insert(connection.server.clone());
                            let since = losing.get(&connection).copied();
                            still_losing.insert(connection, since.unwrap_or_else(Instant::now));
                        }
                        Standing::Lost(reason) => {
                            ended.push(self.end(connection, user.clone(), reason));
                        }
                        Standing::Behind => {
                            let since = behind.get(&connection).copied();
                            let since = since.unwrap_or_else(Instant::now);
                            if since.elapsed() > PATIENCE && late < MOST_LATE {
                                late += 1;
                                ended.push(self.end(
                                    connection,
                                    user.clone(),
                                    "permissions_gained",
                                ));
                            } else {
                                if self.in_place {
                                    to_ask.insert(connection.server.clone());
                                }
                                still.insert(connection, since);
                            }
                        }
                    }
                }
                std::mem::take(&mut ended)
            });
            if !answers.await {
                tracing::warn!("no server answers the question for connections");
                return;
            }
            if !has_more {
                break;
            }
            offset += AT_ONCE;
        }
        *behind = still;
        *losing = still_losing;
        let asked = to_ask.into_iter().map(|server| self.reauthorise(server));
        asked.collect::<FuturesUnordered<_>>().collect::<()>().await;
    }

    /// Has a server ask about each of its connections anew. It reads its configuration
    /// for that, which is what a reload is.
    async fn reauthorise(&self, server: String) {
        let subject = format!("$SYS.REQ.SERVER.{server}.RELOAD");
        let started = Instant::now();
        let reload = self.sys.request(subject, "".into());
        let answer = timeout(RELOAD_LIMIT, reload).await;
        let is_done = match &answer {
            Ok(Ok(answer)) => serde_json::from_slice::<Reloaded>(&answer.payload)
                .is_ok_and(|reloaded| reloaded.error.is_none()),
            _ => false,
        };
        self.metrics.reauthorised(is_done);
        let took = started.elapsed();
        if is_done {
            tracing::info!(server, ?took, "asked for all its connections anew");
        } else {
            tracing::warn!(
                server,
                ?took,
                "the server did not ask anew: who has too much is disconnected. Is its configuration sound?"
            );
        }
    }

    /// Asks all servers for one page, gives each answer to `take` and works at
    /// what it makes of it; false if none has come.
    async fn ask<F: Future<Output = ()>>(
        &self,
        offset: usize,
        mut take: impl FnMut(Answer) -> Vec<F>,
    ) -> bool {
        let inbox = self.sys.new_inbox();
        let Ok(mut answers) = self.sys.subscribe(inbox.clone()).await else {
            return false;
        };
        let question = json!({
            "auth": true, "acc": self.account, "limit": AT_ONCE, "offset": offset,
        });
        let question = question.to_string().into();
        if self
            .sys
            .publish_with_reply(FIND, inbox, question)
            .await
            .is_err()
        {
            return false;
        }
        let mut any = false;
        let mut work = FuturesUnordered::new();
        let end = Instant::now() + LONGEST_SEARCH;
        loop {
            // Nobody says how many servers there are: those that are well answer
            // at once.
            let next = (Instant::now() + NEXT_ANSWER).min(end);
            let until = if any { next } else { end };
            let answer = loop {
                tokio::select! {
                    answer = timeout_at(until, answers.next()) => break answer,
                    Some(()) = work.next() => {}
                }
            };
            let Ok(Some(answer)) = answer else {
                break;
            };
            let Ok(answer) = serde_json::from_slice::<Answer>(&answer.payload) else {
                continue;
            };
            any = true;
            work.extend(take(answer));
        }
        while work.next().await.is_some() {}
        any
    }

    async fn end(&self, connection: Connection, user: String, reason: &'static str) {
        let Connection { server, cid } = connection;
        let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
        // Without a reply subject the server ignores it.
        let kick = self
            .sys
            .request(subject, json!({ "cid": cid }).to_string().into());
        let is_done = matches!(timeout(KICK_LIMIT, kick).await, Ok(Ok(_)));
        self.metrics.ended(reason, is_done);
        let workload = user.split(MARK).next().unwrap_or_default();
        self.audit.record(Event::ConnectionEnded(ConnectionEnded {
            workload: workload.to_owned(),
            server: server.clone(),
            cid,
            done: is_done,
            reason: reason.to_owned(),
        }));
        tracing::info!(
            target: "bulla::audit",
            event = "connection-kicked",
            workload,
            server,
            cid,
            is_done,
            reason,
        );
    }
}

/// Whether a server may still be waited for.
fn is_recent(since: Option<&Instant>) -> bool {
    since.is_none_or(|since| since.elapsed() < MENDING_LIMIT)
}

/// Up to a fifth less, so that brokers do not look in step.
fn jittered(pause: Duration) -> Duration {
    pause - random_part(pause / 5)
}

/// Anything from nothing to this.
fn random_part(whole: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness there is no jitter, and no harm.
    let _ = getrandom::fill(&mut random);
    let [random] = random;
    whole * u32::from(random) / 256
}

/// What a server answers that was told to reload.
#[derive(Deserialize)]
struct Reloaded {
    error: Option<serde_json::Value>,
}

/// A connection on one server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Connection {
    server: String,
    cid: u64,
}

/// What a server answers, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Answer {
    server: Server,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
struct Server {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    connections: Vec<Found>,
}

#[derive(Debug, Deserialize)]
struct Found {
    cid: u64,
    #[serde(default)]
    ip: String,
    #[serde(default)]
    authorized_user: String,
}

impl Answer {
    fn total(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.total)
    }

    fn connections(self) -> impl Iterator<Item = (Connection, Found)> {
        let server = self.server.id;
        let found = self.data.map(|data| data.connections).unwrap_or_default();
        found.into_iter().map(move |found| {
            let connection = Connection {
                server: server.clone(),
                cid: found.cid,
            };
            (connection, found)
        })
    }
}

const FIND: &str = "$SYS.REQ.SERVER.PING.CONNZ";

/// Connections in one answer.
const AT_ONCE: usize = 1024;

/// Answers of that size in one look.
const PAGES: usize = 256;

/// How long the first server may take, and all of them.
const LONGEST_SEARCH: Duration = Duration::from_secs(2);

/// How long another server may take after one has answered.
const NEXT_ANSWER: Duration = Duration::from_millis(150);

/// Why a connection has too much that may go on with less.
const MENDED_IN_PLACE: [&str; 4] = [
    "permissions_changed",
    "bucket_unfit",
    "audit_quota",
    "audit_quota_over",
];

/// By how much brokers are apart when they look after a change.
const IN_STEP: Duration = Duration::from_millis(100);

/// How long a server may take to ask about everybody. It asks about one after the other.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may have too much while its server is told to ask anew.
const MENDING_LIMIT: Duration = Duration::from_millis(700);

const KICK_LIMIT: Duration = Duration::from_secs(2);

/// Between the first looks after a change: another broker that takes it a little
/// later admits by the older policy until then.
const SOON: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(5),
];

/// Between two looks without a change.
const AGAIN: Duration = Duration::from_secs(60);

/// The same while somebody would get more.
const AGAIN_BEHIND: Duration = Duration::from_secs(5);

/// How long who would only get more may wait for his moment. The SDK takes it
/// within half a minute; other clients may not know that there is something to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many of those are ended with one look.
const MOST_LATE: usize = 64;
