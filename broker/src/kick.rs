//! Ends the connections of workloads that are revoked.
//!
//! They are looked for on every server each time, and not remembered: a broker
//! beside this one may have admitted them, or a server may have restarted. The
//! search is repeated while anybody is revoked, so that who slipped in between a
//! revocation and the moment when the last broker took it is found as well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bulla_audit::{ConnectionEnded, Event};
use bulla_identity::WorkloadName;
use bulla_sdk::audit::AuditLog;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::callout::ACCOUNT;

/// Who is revoked, by the names under which the callout admitted them.
pub(crate) type Outcasts = Arc<BTreeSet<WorkloadName>>;

/// Finds and ends connections, from the account `SYS`.
pub(crate) struct Kicker {
    pub(crate) sys: Client,
    pub(crate) outcasts: watch::Receiver<Outcasts>,
    pub(crate) audit: AuditLog,
}

impl Kicker {
    /// Works until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let work = async {
            let mut searched = Outcasts::default();
            let mut soon = 0;
            loop {
                let outcasts = self.outcasts.borrow_and_update().clone();
                // The new ones first: nobody waits for a repetition.
                for name in outcasts.difference(&searched) {
                    self.kick(name).await;
                }
                for name in outcasts.intersection(&searched) {
                    self.kick(name).await;
                }
                searched = outcasts;
                // A broker that takes the list a little later admits until then.
                let pause = if soon < SOON_TIMES { SOON } else { AGAIN };
                soon = soon.saturating_add(1);
                tokio::select! {
                    changed = self.outcasts.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        soon = 0;
                    }
                    () = sleep(pause), if !searched.is_empty() => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn kick(&self, name: &WorkloadName) {
        // More than one answer holds: look again until nobody is left.
        for _ in 0..ROUNDS {
            let Some(found) = self.find(name).await else {
                tracing::warn!(
                    workload = name.as_str(),
                    "connections of a revoked workload cannot be looked for"
                );
                return;
            };
            if found.is_empty() {
                return;
            }
            for connection in &found {
                self.end(name, connection).await;
            }
        }
    }

    /// The workload's connections on all servers; nothing if it cannot be asked.
    async fn find(&self, name: &WorkloadName) -> Option<Vec<Connection>> {
        let inbox = self.sys.new_inbox();
        let mut answers = self.sys.subscribe(inbox.clone()).await.ok()?;
        let question = json!({
            "auth": true, "acc": ACCOUNT, "user": name.as_str(), "limit": AT_ONCE,
        });
        self.sys
            .publish_with_reply(FIND, inbox, question.to_string().into())
            .await
            .ok()?;
        let mut found = Vec::new();
        let mut any = false;
        let end = Instant::now() + LONGEST_SEARCH;
        loop {
            // Nobody says how many servers there are: those that are well answer
            // at once.
            let next = (Instant::now() + NEXT_ANSWER).min(end);
            let until = if any { next } else { end };
            let Ok(Some(answer)) = timeout_at(until, answers.next()).await else {
                break;
            };
            let Ok(answer) = serde_json::from_slice::<Answer>(&answer.payload) else {
                continue;
            };
            any = true;
            let connections = answer.data.map(|data| data.connections);
            for connection in connections.unwrap_or_default() {
                found.push(Connection {
                    server: answer.server.id.clone(),
                    cid: connection.cid,
                });
            }
        }
        any.then_some(found)
    }

    async fn end(&self, name: &WorkloadName, connection: &Connection) {
        let Connection { server, cid } = connection;
        let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
        // Without a reply subject the server ignores it.
        let kick = self
            .sys
            .request(subject, json!({ "cid": cid }).to_string().into());
        let is_done = matches!(timeout(KICK_LIMIT, kick).await, Ok(Ok(_)));
        self.audit.record(Event::ConnectionEnded(ConnectionEnded {
            workload: name.as_str().to_owned(),
            server: server.clone(),
            cid: *cid,
            done: is_done,
            reason: "workload_revoked".to_owned(),
        }));
        tracing::info!(
            target: "bulla::audit",
            event = "connection-kicked",
            workload = name.as_str(),
            server,
            cid,
            is_done,
            reason = "workload_revoked",
        );
    }
}

/// A connection on one server.
#[derive(Debug)]
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
    connections: Vec<Found>,
}

#[derive(Debug, Deserialize)]
struct Found {
    cid: u64,
}

const FIND: &str = "$SYS.REQ.SERVER.PING.CONNZ";

/// Connections in one answer.
const AT_ONCE: usize = 1024;

/// Answers of that size about one workload, before others have their turn.
const ROUNDS: usize = 64;

/// How long the first server may take, and all of them.
const LONGEST_SEARCH: Duration = Duration::from_secs(2);

/// How long another server may take after one has answered.
const NEXT_ANSWER: Duration = Duration::from_millis(150);

const KICK_LIMIT: Duration = Duration::from_secs(2);

/// The first searches after the list has changed.
const SOON: Duration = Duration::from_millis(400);
const SOON_TIMES: u32 = 4;

/// Between two searches while anybody is revoked.
const AGAIN: Duration = Duration::from_secs(5);
