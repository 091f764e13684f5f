//! From when on a new subscription may accept envelopes (ENV-34).
//!
//! A replay memory belongs to a subscription and ends with it. What an earlier one accepted
//! must not pass a later one, which has no memory of it. It was accepted no later than at
//! the time `T` at which the earlier one ended, so it was issued no later than at
//! `T + skew` (ENV-33): the later one takes only what was issued after that. The same goes
//! for an earlier process, whose end is not after the start of this one.
//!
//! While the earlier one still listens, `T` is now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::UnixMillis;
use bulla_policy::LONGEST_MAX_AGE;
use parking_lot::Mutex;

use crate::clock;
use crate::incoming::Role;

/// The subscriptions of this client, open and ended.
pub(crate) struct Listened {
    skew: Duration,
    places: Mutex<Places>,
}

struct Places {
    /// By what is done with the messages, and the pattern.
    known: HashMap<(Role, String), Place>,
    /// The `T` of whatever is not in `known`: of the start of this client, or of what was
    /// forgotten.
    floor: UnixMillis,
    /// At how many of them it is looked which are too old to matter.
    look_at: usize,
}

/// What is known of the subscriptions to one pattern.
#[derive(Default)]
struct Place {
    open: usize,
    /// When the last one ended.
    ended: UnixMillis,
}

/// A subscription, while its replay memory lives.
pub(crate) struct Listening {
    all: Arc<Listened>,
    key: (Role, String),
    not_before: UnixMillis,
}

impl Listened {
    /// Those of a client that was started now.
    pub(crate) fn since(started: UnixMillis, skew: Duration) -> Self {
        let places = Places {
            known: HashMap::new(),
            floor: started,
            look_at: LOOK_AT,
        };
        Self {
            skew,
            places: Mutex::new(places),
        }
    }

    /// One more subscription.
    pub(crate) fn begin(self: &Arc<Self>, role: Role, pattern: &str, now: UnixMillis) -> Listening {
        let key = (role, pattern.to_owned());
        let mut places = self.places.lock();
        places.forget_old(now, self.skew);
        let floor = places.floor;
        let place = places.known.entry(key.clone());
        // Times are whole milliseconds: what ended in this one may have accepted what was
        // issued in the last one that counts.
        let after = match place {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Place::default()).open = 1;
                floor
            }
            std::collections::hash_map::Entry::Occupied(mut place) => {
                let place = place.get_mut();
                let last = if place.open > 0 {
                    place.ended.max(now)
                } else {
                    place.ended
                };
                place.open += 1;
                floor.max(last.saturating_add(TICK))
            }
        };
        Listening {
            all: Arc::clone(self),
            key,
            not_before: after.saturating_add(self.skew),
        }
    }
}

impl Places {
    /// Drops what nothing can come of any more: whatever it accepted is too old by now for
    /// any receiver. And should the clock go back, the floor knows it.
    fn forget_old(&mut self, now: UnixMillis, skew: Duration) {
        if self.known.len() < self.look_at {
            return;
        }
        let too_old = now.saturating_sub(LONGEST_MAX_AGE + skew + skew);
        let mut floor = self.floor;
        self.known.retain(|_, place| {
            let stays = place.open > 0 || place.ended >= too_old;
            if !stays {
                floor = floor.max(place.ended.saturating_add(TICK));
            }
            stays
        });
        self.floor = floor;
        self.look_at = LOOK_AT.max(self.known.len() * 2);
    }
}

impl Listening {
    /// Nothing that was issued before is accepted.
    pub(crate) const fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// It accepted something at this time; at the latest time, if the clock went back.
    pub(crate) fn end_at(&self, latest: UnixMillis) {
        let mut places = self.all.places.lock();
        if let Some(place) = places.known.get_mut(&self.key) {
            place.ended = place.ended.max(latest);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let now = clock::now();
        let mut places = self.all.places.lock();
        if let Some(place) = places.known.get_mut(&self.key) {
            place.open = place.open.saturating_sub(1);
            place.ended = place.ended.max(now);
        }
    }
}

/// The finest step of time in an envelope.
const TICK: Duration = Duration::from_millis(1);
/// So few are not looked at.
const LOOK_AT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Duration = Duration::from_secs(2);

    fn later(than: UnixMillis, seconds: u64) -> UnixMillis {
        than.saturating_add(Duration::from_secs(seconds))
    }

    /// When something may have been issued that was accepted at this time.
    fn newest(accepted: UnixMillis) -> UnixMillis {
        accepted.saturating_add(SKEW)
    }

    #[test]
    fn the_first_waits_for_an_earlier_process_alone() {
        let started = clock::now();
        let all = Arc::new(Listened::since(started, SKEW));
        let first = all.begin(Role::Subscriber, "a", later(started, 100));
        assert_eq!(first.not_before(), newest(started));
        let other = all.begin(Role::Server, "a", later(started, 100));
        assert_eq!(other.not_before(), newest(started));
    }

    #[test]
    fn beside_one_that_listens_nothing_counts_from_before_now() {
        let started = clock::now();
        let all = Arc::new(Listened::since(started, SKEW));
        let _first = all.begin(Role::Subscriber, "a", started);
        let now = later(started, 100);
        let second = all.begin(Role::Subscriber, "a", now);
        assert!(second.not_before() > newest(now));
    }

    #[test]
    fn after_one_that_has_ended_nothing_counts_that_it_may_have_accepted() {
        let started = clock::now();
        let all = Arc::new(Listened::since(started, SKEW));
        let first = all.begin(Role::Subscriber, "a", started);
        let second = all.begin(Role::Subscriber, "a", started);
        // The clock went back since.
        let latest = later(started, 50);
        second.end_at(latest);
        drop((first, second));
        let third = all.begin(Role::Subscriber, "a", later(started, 100));
        assert!(third.not_before() > newest(latest));
        // And nothing has to be waited for.
        assert!(third.not_before() < later(started, 100));
    }

    #[test]
    fn what_is_forgotten_still_counts() {
        let started = clock::now();
        let all = Arc::new(Listened::since(started, SKEW));
        let _open = all.begin(Role::Subscriber, "open", started);
        for n in 1..LOOK_AT {
            let one = all.begin(Role::Subscriber, &n.to_string(), started);
            one.end_at(later(started, 10));
        }
        let much_later = later(started, 3_600);
        drop(all.begin(Role::Subscriber, "now", much_later));
        let kept: Vec<_> = all.places.lock().known.keys().cloned().collect();
        assert_eq!(kept.len(), 2, "{}", kept.len());
        let again = all.begin(Role::Subscriber, "1", much_later);
        assert!(again.not_before() > newest(later(started, 10)));
        assert!(again.not_before() < much_later);
    }
}
