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
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    fn rate(by: &[CountBy], quota: u32, window: u64, burst: u32) -> RateConfig {
        RateConfig {
            name: "test".into(),
            by: by.to_vec(),
            quota: NonZeroU32::new(quota).unwrap(),
            window: Duration::from_secs(window),
            burst: NonZeroU32::new(burst).unwrap(),
            is_shared: false,
        }
    }

    struct Clocked {
        rates: Rates<FakeRelativeClock>,
        clock: FakeRelativeClock,
    }

    fn clocked(config: RateConfig) -> Clocked {
        let clock = FakeRelativeClock::default();
        Clocked {
            rates: Rates::with_clock(&[config], &clock, 1_000),
            clock,
        }
    }

    impl Clocked {
        fn ask(&self, requester: Requester<'_>) -> Counted {
            let mut counted = Vec::new();
            let needs_user = self.rates.0.first().unwrap().config.needs_user();
            let _ = self.rates.count(&[0], needs_user, requester, &mut counted);
            counted.pop().unwrap()
        }
    }

    fn from(address: &str) -> Requester<'static> {
        Requester {
            address: address.parse().ok(),
            ..Requester::default()
        }
    }

    #[test]
    fn a_burst_is_spent_and_comes_back_with_time() {
        let one = clocked(rate(&[CountBy::Ip], 60, 60, 3));
        let home = from("192.0.2.1");
        let left: Vec<u32> = (0..3).map(|_| one.ask(home).left).collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = one.ask(home);
        assert!(refused.refused);
        assert_eq!(refused.wait, Duration::from_secs(1));
        one.clock.advance(Duration::from_millis(999));
        assert!(one.ask(home).refused);
        one.clock.advance(Duration::from_millis(1));
        assert!(!one.ask(home).refused);
        assert!(one.ask(home).refused);
        one.clock.advance(Duration::from_secs(60));
        assert_eq!(one.ask(home).left, 2);
    }

    #[test]
    fn no_window_sees_more_than_quota_and_burst() {
        let one = clocked(rate(&[CountBy::Ip], 10, 10, 4));
        let mut passed = 0;
        for _ in 0..100 {
            passed += u32::from(!one.ask(from("192.0.2.1")).refused);
            one.clock.advance(Duration::from_millis(100));
        }
        assert!(passed <= 14, "{passed}");
        assert!(passed >= 13, "{passed}");
    }

    #[test]
    fn buckets_are_apart() {
        let by_ip = clocked(rate(&[CountBy::Ip], 1, 60, 1));
        assert!(!by_ip.ask(from("192.0.2.1")).refused);
        assert!(!by_ip.ask(from("192.0.2.2")).refused);
        assert!(by_ip.ask(from("192.0.2.1")).refused);
        assert!(!by_ip.ask(from("2001:db8::1")).refused);
        assert!(by_ip.ask(from("2001:db8::2")).refused);
        // Nobody knows who they are: together.
        assert!(!by_ip.ask(Requester::default()).refused);
        assert!(by_ip.ask(Requester::default()).refused);

        let by_user = clocked(rate(&[CountBy::User, CountBy::Route], 1, 60, 1));
        let user = |issuer, user, route| Requester {
            issuer,
            user,
            route,
            ..Requester::default()
        };
        assert!(!by_user.ask(user("i", "alice", "a")).refused);
        assert!(by_user.ask(user("i", "alice", "a")).refused);
        assert!(!by_user.ask(user("j", "alice", "a")).refused);
        assert!(!by_user.ask(user("i", "alice", "b")).refused);
        // No two users can be written so that they are one.
        assert!(!by_user.ask(user("i;5", "alice", "a")).refused);
        assert!(!by_user.ask(user("i", "5:alice", "a")).refused);
    }

    #[test]
    fn memory_is_bounded_and_who_asks_all_the_time_is_not_forgotten() {
        let one = clocked(rate(&[CountBy::Ip], 1, 3_600, 1));
        let steady = from("192.0.2.1");
        assert!(!one.ask(steady).refused);
        for n in 0..4_000_u32 {
            one.ask(Requester {
                address: Some(IpAddr::V4((0x0a00_0000 + n).into())),
                ..Requester::default()
            });
            if n % 100 == 0 {
                assert!(one.ask(steady).refused, "{n}");
            }
        }
        let mut rates = one.rates.0;
        let Buckets(cache) = rates.pop().unwrap().limiter.into_state_store();
        cache.run_pending_tasks();
        assert!(cache.entry_count() <= 1_000);
    }

    #[test]
    fn who_comes_new_into_a_full_memory_is_limited_all_the_same() {
        let one = clocked(rate(&[CountBy::Ip], 1, 3_600, 1));
        let at = |n: u32| Requester {
            address: Some(IpAddr::V4((0x0a00_0000 + n).into())),
            ..Requester::default()
        };
        for _ in 0..5 {
            for n in 0..1_000 {
                let _ = one.ask(at(n));
            }
        }
        for new in 5_000..5_020 {
            assert!(!one.ask(at(new)).refused);
            // Time for the memory to make room.
            for n in 0..600 {
                let _ = one.ask(at(n));
            }
            assert!(one.ask(at(new)).refused, "{new}");
        }
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
    }

    #[test]
    fn external_field_values_are_written_as_we_write_them() {
        let Ok(dir) = std::env::var("BULLA_VECTORS") else {
            println!("external vectors were not run: BULLA_VECTORS is unset");
            return;
        };
        let path = std::path::Path::new(&dir).join("http/ratelimit_headers.json");
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut written = 0;
        for case in all.get("cases").unwrap().as_array().unwrap() {
            let text = |key: &str| case.get(key).unwrap().as_str().unwrap();
            let value = text("value");
            let valid = case.get("valid_sf").unwrap().as_bool().unwrap();
            let ours: Option<Vec<String>> = value
                .split(',')
                .map(|item| rewrite(text("field"), item.trim()))
                .collect();
            // What we cannot write has a parameter that we do not send.
            let Some(ours) = ours else { continue };
            assert_eq!(ours.join(",") == value.replace(", ", ","), valid, "{value}");
            written += 1;
        }
        assert!(written >= 25, "{written}");
    }

    /// The item as we write it; `None` if it says what we never say.
    fn rewrite(field: &str, item: &str) -> Option<String> {
        let mut parts = item.split(';');
        let name = parts.next()?.trim_matches('"');
        let mut numbers = [None, None];
        let keys = if field == "RateLimit" {
            ["r", "t"]
        } else {
            ["q", "w"]
        };
        for part in parts {
            let (key, value) = part.split_once('=')?;
            let place = keys.iter().position(|k| *k == key)?;
            *numbers.get_mut(place)? = Some(value.parse::<u32>().ok()?);
        }
        let [first, second] = numbers;
        Some(if field == "RateLimit" {
            state_item(name, first?, second?.into())
        } else {
            policy_item(name, first?, second?.into())
        })
    }
}
