//! Rate limits and quotas: how many requests somebody may make within a time.
//!
//! Each `[[rate]]` is a leaky bucket for every user, client, address or route that it
//! counts by: `quota` requests fit into `window`, `burst` of them at once; or, if it is
//! shared, a number that all nodes count down together. The memory of buckets
//! is this node's, and bounded: what was seen longest ago is forgotten first, which
//! gives its owner a full bucket again.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::UnixMillis;
use bulla_token::token_digest;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::{NoOpMiddleware, StateInformationMiddleware};
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderValue};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::bus::{Bus, BusError};
use crate::networks::counted_as;
use crate::shared_rate::SharedRate;

/// The most buckets that one rate remembers.
const MAX_BUCKETS: u64 = 100_000;

/// One `[[rate]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateConfig {
    /// Its name, which clients see.
    pub name: String,
    /// What has a bucket of its own: every combination of these.
    pub by: Vec<CountBy>,
    /// How many requests fit into the window.
    pub quota: NonZeroU32,
    /// The time that the quota is for.
    pub window: Duration,
    /// How many requests may come at once; all of them of a shared quota.
    pub burst: NonZeroU32,
    /// Whether all nodes count together, in windows that begin at fixed times.
    pub is_shared: bool,
}

/// What requests are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountBy {
    /// Issuer and subject of the access token.
    User,
    /// Issuer and OAuth client of the access token.
    Client,
    /// The client's address; of IPv6 its upper 64 bits.
    Ip,
    /// The route.
    Route,
}

impl RateConfig {
    /// Whether it is known only once the access token is validated.
    #[must_use]
    pub fn needs_user(&self) -> bool {
        self.by
            .iter()
            .any(|by| matches!(by, CountBy::User | CountBy::Client))
    }
}

/// Who makes a request, as far as that is known when it is counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Requester<'a> {
    pub(crate) address: Option<IpAddr>,
    pub(crate) route: &'a str,
    pub(crate) issuer: &'a str,
    pub(crate) user: &'a str,
    pub(crate) client: &'a str,
}

/// All rates of this node.
pub(crate) struct Rates<C: Clock = MonotonicClock>(Vec<Rate<C>>);

struct Rate<C: Clock> {
    config: RateConfig,
    shared: Option<SharedRate>,
    limiter: RateLimiter<BucketKey, Buckets, C, StateInformationMiddleware>,
    clock: C,
}

/// What is left of a rate after a request was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    rate: usize,
    pub(crate) left: u32,
    /// Until the whole burst is there again.
    pub(crate) full_in: Duration,
    /// Until the next request is possible; zero if it is now.
    pub(crate) wait: Duration,
    pub(crate) refused: bool,
}

impl Rates {
    pub(crate) fn new(configs: &[RateConfig]) -> Self {
        Self::with_clock(configs, &MonotonicClock, MAX_BUCKETS)
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn with_clock(configs: &[RateConfig], clock: &C, max_buckets: u64) -> Self {
        let rates = configs.iter().map(|config| {
            let one = config.window / config.quota.get();
            let quota = Quota::with_period(one.max(Duration::from_nanos(1)))
                .unwrap_or(Quota::per_second(config.quota))
                .allow_burst(config.burst);
            Rate {
                config: config.clone(),
                shared: config
                    .is_shared
                    .then(|| SharedRate::new(config.window, max_buckets)),
                limiter: RateLimiter::<_, _, _, NoOpMiddleware<C::Instant>>::new(
                    quota,
                    Buckets::new(config.window, max_buckets),
                    clock.clone(),
                )
                .with_middleware(),
                clock: clock.clone(),
            }
        });
        Self(rates.collect())
    }

    /// Counts a request in each of `rates` that can be told at this point: with the
    /// user (`with_user`) or without. Stops at the first that is used up.
    pub(crate) fn count(
        &self,
        rates: &[usize],
        with_user: bool,
        requester: Requester<'_>,
        counted: &mut Vec<Counted>,
    ) -> Result<(), Duration> {
        for index in rates {
            let Some(rate) = self.0.get(*index) else {
                continue;
            };
            if rate.config.needs_user() != with_user || rate.shared.is_some() {
                continue;
            }
            let outcome = rate.count(*index, requester);
            let refused = outcome.refused.then_some(outcome.wait);
            counted.push(outcome);
            if let Some(wait) = refused {
                return Err(wait);
            }
        }
        Ok(())
    }

    /// Whether all nodes share one of them.
    pub(crate) fn has_shared(&self, rates: &[usize]) -> bool {
        let mut rates = rates.iter().filter_map(|index| self.0.get(*index));
        rates.any(|rate| rate.shared.is_some())
    }

    /// The same for those of `rates` that all nodes share.
    ///
    /// # Errors
    /// [`BusError`]: the bus does not say what is left.
    pub(crate) async fn count_shared<B: Bus>(
        &self,
        bus: &B,
        (rates, with_user): (&[usize], bool),
        requester: Requester<'_>,
        now: UnixMillis,
        counted: &mut Vec<Counted>,
    ) -> Result<Result<(), Duration>, BusError> {
        for index in rates {
            let Some(Rate {
                config,
                shared: Some(shared),
                ..
            }) = self.0.get(*index)
            else {
                continue;
            };
            if config.needs_user() != with_user {
                continue;
            }
            let key = BucketKey::new(&config.by, requester);
            let left = shared.count(bus, config, key, now).await?;
            let refused = left.requests.is_none();
            counted.push(Counted {
                rate: *index,
                left: left.requests.unwrap_or_default(),
                full_in: left.ends_in,
                wait: if refused {
                    left.ends_in
                } else {
                    Duration::ZERO
                },
                refused,
            });
            if refused {
                return Ok(Err(left.ends_in));
            }
        }
        Ok(Ok(()))
    }

    /// The `RateLimit-Policy` and `RateLimit` fields
    /// ([draft-ietf-httpapi-ratelimit-headers]) of an answer.
    ///
    /// [draft-ietf-httpapi-ratelimit-headers]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
    pub(crate) fn announce(&self, counted: &[Counted], headers: &mut HeaderMap) {
        if counted.is_empty() {
            return;
        }
        let (mut policy, mut state) = (String::new(), String::new());
        for outcome in counted {
            let Some(Rate { config, .. }) = self.0.get(outcome.rate) else {
                continue;
            };
            if !policy.is_empty() {
                policy.push(',');
                state.push(',');
            }
            policy.push_str(&policy_item(
                &config.name,
                config.quota.get(),
                config.window.as_secs(),
            ));
            state.push_str(&state_item(
                &config.name,
                outcome.left,
                whole_seconds(outcome.full_in),
            ));
        }
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if let Ok(value) = HeaderValue::try_from(value)
                && !value.is_empty()
            {
                headers.insert(name, value);
            }
        }
    }

    /// The names of the rates that refused.
    pub(crate) fn violated<'a>(&'a self, counted: &'a [Counted]) -> Vec<&'a str> {
        counted
            .iter()
            .filter(|outcome| outcome.refused)
            .filter_map(|outcome| self.0.get(outcome.rate))
            .map(|rate| rate.config.name.as_str())
            .collect()
    }
}

impl<C: Clock + Clone> Rate<C> {
    fn count(&self, index: usize, requester: Requester<'_>) -> Counted {
        let key = BucketKey::new(&self.config.by, requester);
        let burst = self.config.burst.get();
        let one = self.config.window / self.config.quota.get();
        match self.limiter.check_key(&key) {
            Ok(state) => {
                let left = state.remaining_burst_capacity().min(burst);
                Counted {
                    rate: index,
                    left,
                    full_in: one.saturating_mul(burst.saturating_sub(left)),
                    wait: Duration::ZERO,
                    refused: false,
                }
            }
            Err(until) => Counted {
                rate: index,
                left: 0,
                full_in: one.saturating_mul(burst),
                wait: until.wait_time_from(self.clock.now()),
                refused: true,
            },
        }
    }
}

/// `"name";q=100;w=60`: names are of letters, digits, `-` and `_`, so nothing in them
/// has to be escaped.
fn policy_item(name: &str, quota: u32, seconds: u64) -> String {
    let mut item = format!("\"{name}\";q={quota}");
    let _ = write!(item, ";w={seconds}");
    item
}

fn state_item(name: &str, left: u32, seconds: u64) -> String {
    format!("\"{name}\";r={left};t={seconds}")
}

/// Seconds, rounded up: whoever comes back then is not too early.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The name of a bucket. Hashed, so that its size does not depend on what a client
/// chooses and no user's name is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BucketKey([u8; 32]);

impl BucketKey {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn new(by: &[CountBy], requester: Requester<'_>) -> Self {
        let mut text = String::new();
        let mut part = |value: &str| {
            // With its length: no two lists of parts read alike.
            let _ = write!(text, "{}:{value};", value.len());
        };
        for by in by {
            match by {
                CountBy::Route => part(requester.route),
                CountBy::User => {
                    part(requester.issuer);
                    part(requester.user);
                }
                CountBy::Client => {
                    part(requester.issuer);
                    part(requester.client);
                }
                CountBy::Ip => match requester.address {
                    Some(address) => part(&counted_as(address).to_string()),
                    // All whose address nobody knows share one bucket.
                    None => part(""),
                },
            }
        }
        Self(token_digest(&text))
    }
}

/// A bounded memory of buckets.
struct Buckets(Cache<BucketKey, Arc<InMemoryState>>);

impl Buckets {
    fn new(window: Duration, max_buckets: u64) -> Self {
        // A bucket that was left alone for a whole window is full again.
        Self(
            Cache::builder()
                .max_capacity(max_buckets)
                .time_to_idle(window.max(Duration::from_secs(1)))
                // With any other policy a bucket that is new would be dropped at once
                // when the memory is full, and its owner would be limited by nothing.
                .eviction_policy(EvictionPolicy::lru())
                .build(),
        )
    }
}

impl StateStore for Buckets {
    type Key = BucketKey;

    fn measure_and_replace<T, F, E>(&self, key: &BucketKey, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let bucket = self.0.get_with(*key, || Arc::new(InMemoryState::default()));
        bucket.measure_and_replace(&NotKeyed::NonKey, f)
    }
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
