//! What of rates is seen without a bus.

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
