//! Nobody fills the audit log: a workload that has written its share of it loses the right
//! to write there for a while, and nothing else.
//!
//! A full log refuses everybody, so that nobody pushes out what is written about him;
//! without this one workload could silence all the others. The stream tells brokers how
//! long each message is that it stored. A share is a part of the log's size at once, and
//! the same again over the time for which the log is kept; who has none left is told to the
//! other brokers and recorded in this broker's chain. What his processes cannot write
//! meanwhile they count, and tell as a gap.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, SubscribeError, Subscriber};
use bulla_audit::{Event, OverQuota};
use bulla_identity::{UnixMillis, WorkloadName, WorkloadTag, reserved};
use bulla_sdk::audit::AuditLog;
use futures_util::StreamExt as _;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::callout::Callout;
use crate::clock;
use crate::control::{AuditRetention, ControlPlane};
use crate::metrics::Metrics;

/// What is told of the log, to be taken by [`AuditQuota::run`].
pub(crate) async fn listen(js: &Client) -> Result<[Subscriber; 2], SubscribeError> {
    Ok([
        js.subscribe(reserved::AUDITED_ALL).await?,
        js.subscribe(reserved::OVER_QUOTA_ALL).await?,
    ])
}

/// Keeps each workload to its share.
pub(crate) struct AuditQuota {
    pub(crate) js: Client,
    pub(crate) heard: [Subscriber; 2],
    pub(crate) retention: AuditRetention,
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) callout: Arc<Callout>,
    pub(crate) audit: AuditLog,
    pub(crate) metrics: Metrics,
}

impl AuditQuota {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let Self {
            js,
            heard: [mut written, mut told],
            retention,
            plane,
            callout,
            audit,
            metrics,
        } = self;
        let Some(share) = Share::of(retention) else {
            return;
        };
        let mut meter = Meter::new(share);
        let silence = |meter: &Meter| {
            let tags: BTreeSet<WorkloadTag> = meter.silent.keys().copied().collect();
            let held = plane.held();
            let workloads = held.policy.policy.workloads().iter();
            let silent = workloads.filter(|workload| tags.contains(&workload.id().tag()));
            let names: BTreeSet<WorkloadName> =
                silent.map(|workload| workload.name().clone()).collect();
            metrics.over_quota(names.len());
            callout.silence(names);
            plane.tell_change();
        };
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let work = async {
            loop {
                let now = clock::now();
                tokio::select! {
                    Some(message) = written.next() => {
                        let Some((tag, bytes)) = stored(&message) else { continue };
                        let Some(over) = meter.note(tag, bytes, now) else { continue };
                        record(&audit, &plane, tag, over);
                        tell(&js, tag, over.until).await;
                        silence(&meter);
                    }
                    Some(message) = told.next() => {
                        // By another broker, which may know more: who wrote before this one
                        // began to count.
                        let Some((tag, until)) = announced(&message) else { continue };
                        if meter.hear(tag, until, now) {
                            silence(&meter);
                        }
                    }
                    _ = tick.tick() => {
                        if meter.settle(now) {
                            silence(&meter);
                        }
                        for (tag, until) in &meter.silent {
                            tell(&js, *tag, *until).await;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }
}

fn record(audit: &AuditLog, plane: &ControlPlane, tag: WorkloadTag, over: Over) {
    let held = plane.held();
    let mut workloads = held.policy.policy.workloads().iter();
    let workload = workloads.find(|workload| workload.id().tag() == tag);
    let name = workload.map_or_else(|| tag.to_string(), |w| w.name().to_string());
    tracing::warn!(
        target: "bulla::audit",
        event = "audit-over-quota",
        workload = name,
        wrote = over.wrote,
        "a workload has used up its share of the audit log and may not write there for a while"
    );
    audit.record(Event::OverQuota(OverQuota {
        workload: name,
        wrote: over.wrote,
        until: over.until.as_millis(),
    }));
}

/// Tells the other brokers; said again with each look, for who missed it.
async fn tell(js: &Client, tag: WorkloadTag, until: UnixMillis) {
    let subject = reserved::over_quota(tag);
    let until = until.as_millis().to_string();
    let _ = js.publish(subject, until.into()).await;
}

/// Who wrote, and how much, as nats-server says.
fn stored(message: &Message) -> Option<(WorkloadTag, u64)> {
    let tag = message.subject.split('.').nth(2)?;
    // Brokers write what has to be written.
    let tag = WorkloadTag::parse(tag).ok()?;
    let size = message.headers.as_ref().and_then(size)?;
    Some((tag, size.saturating_add(OVERHEAD)))
}

fn size(headers: &HeaderMap) -> Option<u64> {
    headers.get(SIZE)?.as_str().parse().ok()
}

fn announced(message: &Message) -> Option<(WorkloadTag, UnixMillis)> {
    let tag = WorkloadTag::parse(message.subject.split('.').nth(2)?).ok()?;
    let until = std::str::from_utf8(&message.payload).ok()?.parse().ok()?;
    Some((tag, UnixMillis::from_millis(until)))
}

/// What one workload may write.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// At once, in bytes; and again within `keep`.
    bytes: u64,
    keep: Duration,
    /// For how long who has none left is silent.
    silence: Duration,
}

impl Share {
    /// Nothing, where one workload may fill the log.
    fn of(retention: AuditRetention) -> Option<Self> {
        let percent = u64::from(retention.workload_percent);
        (percent < 100).then(|| Self {
            bytes: (retention.max_bytes / 100).saturating_mul(percent).max(1),
            keep: retention.keep,
            silence: (retention.keep / 16).min(LONGEST_SILENCE),
        })
    }

    /// How much comes back in this time.
    fn earned(&self, within: Duration) -> u64 {
        let bytes = u128::from(self.bytes).saturating_mul(within.as_millis())
            / self.keep.as_millis().max(1);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Somebody has used up his share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Over {
    wrote: u64,
    until: UnixMillis,
}

/// Who has how much left.
#[derive(Debug)]
struct Meter {
    share: Share,
    left: HashMap<WorkloadTag, Left>,
    silent: BTreeMap<WorkloadTag, UnixMillis>,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    bytes: u64,
    wrote: u64,
    at: UnixMillis,
}

impl Meter {
    fn new(share: Share) -> Self {
        Self {
            share,
            left: HashMap::new(),
            silent: BTreeMap::new(),
        }
    }

    /// So much was written; tells if that was the last of a share.
    fn note(&mut self, tag: WorkloadTag, bytes: u64, now: UnixMillis) -> Option<Over> {
        let share = self.share;
        let left = self.left.entry(tag).or_insert(Left {
            bytes: share.bytes,
            wrote: 0,
            at: now,
        });
        left.earn(&share, now);
        left.wrote = left.wrote.saturating_add(bytes);
        left.bytes = left.bytes.saturating_sub(bytes);
        if left.bytes > 0 || self.silent.contains_key(&tag) {
            return None;
        }
        let over = Over {
            wrote: left.wrote,
            until: now.saturating_add(share.silence),
        };
        self.silent.insert(tag, over.until);
        Some(over)
    }

    /// Another broker says so; true if that is new. No longer than by ourselves.
    fn hear(&mut self, tag: WorkloadTag, until: UnixMillis, now: UnixMillis) -> bool {
        let latest = now.saturating_add(self.share.silence);
        let is_new = until > now && until <= latest && !self.silent.contains_key(&tag);
        if is_new {
            self.silent.insert(tag, until);
            let left = self.left.entry(tag).or_insert(Left {
                bytes: 0,
                wrote: 0,
                at: now,
            });
            left.bytes = 0;
        }
        is_new
    }

    /// Who may write again; true if anybody may.
    fn settle(&mut self, now: UnixMillis) -> bool {
        let before = self.silent.len();
        self.silent.retain(|_, until| *until > now);
        let share = self.share;
        // Who has all of it again is as one who never wrote.
        self.left.retain(|_, left| {
            left.earn(&share, now);
            left.bytes < share.bytes
        });
        before != self.silent.len()
    }
}

impl Left {
    fn earn(&mut self, share: &Share, now: UnixMillis) {
        let earned = share.earned(now.saturating_since(self.at));
        // What is less than a byte is not lost.
        if earned > 0 {
            self.bytes = self.bytes.saturating_add(earned).min(share.bytes);
            self.at = self.at.max(now);
        }
    }
}

/// What nats-server calls the size of what it stored.
const SIZE: &str = "Nats-Msg-Size";

/// Subject and headers of a message, roughly, in bytes.
const OVERHEAD: u64 = 256;

const LOOK: Duration = Duration::from_secs(1);

/// By the defaults a log is kept for a month.
const LONGEST_SILENCE: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str) -> WorkloadTag {
        let domain = bulla_identity::TrustDomain::parse("acme.example").unwrap();
        let name = WorkloadName::parse(name).unwrap();
        bulla_identity::WorkloadId::new(&domain, &name).tag()
    }

    fn meter() -> Meter {
        let share = Share::of(AuditRetention {
            keep: Duration::from_secs(1_600),
            max_bytes: 10_000,
            workload_percent: 16,
        });
        // One byte a second; silent for 100 s.
        Meter::new(share.unwrap())
    }

    #[test]
    fn a_share_is_a_part_at_once_and_again_over_the_time_that_the_log_is_kept() {
        let (mut meter, at) = (meter(), UnixMillis::from_secs);
        assert_eq!(meter.note(tag("a"), 1_000, at(0)), None);
        assert_eq!(meter.note(tag("b"), 1_000, at(0)), None);
        let over = meter.note(tag("a"), 600, at(0)).unwrap();
        assert_eq!((over.wrote, over.until), (1_600, at(100)));
        // Told once; who is not over is not told of.
        assert_eq!(meter.note(tag("a"), 600, at(1)), None);
        assert!(!meter.settle(at(99)));
        assert!(meter.settle(at(100)));
        // What came back meanwhile, and no more.
        assert_eq!(meter.note(tag("a"), 90, at(100)), None);
        assert!(meter.note(tag("a"), 90, at(100)).is_some());
        // Who has written nothing for long is forgotten.
        meter.settle(at(10_000));
        assert!(meter.left.is_empty() && meter.silent.is_empty());
    }

    #[test]
    fn what_other_brokers_say_counts_for_as_long_as_what_is_found_here() {
        let (mut meter, at) = (meter(), UnixMillis::from_secs);
        assert!(!meter.hear(tag("a"), at(10), at(10)), "it is over");
        assert!(
            !meter.hear(tag("a"), at(111), at(10)),
            "nobody is silent for so long"
        );
        assert!(meter.hear(tag("a"), at(110), at(10)));
        assert!(!meter.hear(tag("a"), at(100), at(11)), "known");
        assert!(!meter.settle(at(109)));
        assert!(meter.settle(at(110)));
    }

    #[test]
    fn a_hundred_percent_is_no_share() {
        let all = AuditRetention {
            workload_percent: 100,
            ..AuditRetention::default()
        };
        assert!(Share::of(all).is_none());
        assert!(Share::of(AuditRetention::default()).is_some());
    }
}
