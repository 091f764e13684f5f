//! How many requests are in work at once, and who is turned away first when there are
//! too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How important a route is when there is too much to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Turned away once 60 % of the requests that may be in work are.
    Low,
    /// From 90 % on.
    #[default]
    Normal,
    /// Only when nothing more fits.
    High,
}

impl Priority {
    fn percent(self) -> usize {
        match self {
            Self::Low => 60,
            Self::Normal => 90,
            Self::High => 100,
        }
    }

    /// The reason under which a request of this priority is counted when it is turned away.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Low => "priority_low",
            Self::Normal => "priority_normal",
            Self::High => "priority_high",
        }
    }
}

/// The places for requests in work.
#[derive(Debug)]
pub(crate) struct Admission {
    taken: AtomicUsize,
    places: usize,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Admission>);

impl Admission {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            places,
        }
    }

    /// A place, if one is free.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let taken = self.taken.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(self));
        (taken < self.places).then_some(place)
    }
}

impl Place {
    /// Whether a request of this priority may keep its place.
    pub(crate) fn admits(&self, priority: Priority) -> bool {
        let share = (self.0.places * priority.percent()).div_ceil(100);
        self.0.taken.load(Ordering::Acquire) <= share
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let all = Arc::new(Admission::new(2));
        let (first, second) = (all.enter(), all.enter());
        assert!(first.is_some() && second.is_some());
        assert!(all.enter().is_none());
        drop(first);
        assert!(all.enter().is_some());
    }

    #[test]
    fn the_less_important_are_turned_away_first() {
        let all = Arc::new(Admission::new(10));
        let mut places: Vec<Place> = (0..6).filter_map(|_| all.enter()).collect();
        assert!(places.last().unwrap().admits(Priority::Low));
        places.extend(all.enter());
        assert!(!places.last().unwrap().admits(Priority::Low));
        places.extend((0..2).filter_map(|_| all.enter()));
        assert!(places.last().unwrap().admits(Priority::Normal));
        places.extend(all.enter());
        assert!(!places.last().unwrap().admits(Priority::Normal));
        assert!(places.last().unwrap().admits(Priority::High));
    }

    #[test]
    fn a_single_place_serves_every_priority() {
        let all = Arc::new(Admission::new(1));
        let place = all.enter().unwrap();
        assert!(place.admits(Priority::Low));
    }
}
