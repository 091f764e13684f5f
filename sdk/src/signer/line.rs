//! The room for what waits to be sealed, and who stands in line for it.
//!
//! ```text
//!            room for it           polled
//! standing ───────────────► called ───────► in
//!     ▲                        │ not polled for long
//!     └────────── away ◄───────┘
//!        polled
//! ```
//!
//! Room is given in the order of asking, so that nobody is passed by what is smaller,
//! and set aside for who is called. Nobody comes in but by being polled: a sender that
//! is dropped has sent nothing. But a sender that has gone elsewhere holds nothing
//! either: after [`GRACE`] what was set aside for it is given to others, and all who
//! stand are asked whether they are still there. It keeps its place for when it comes
//! back.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

/// How long room is set aside for who is called; up to twice as long, because all
/// are looked at together.
pub(super) const GRACE: Duration = Duration::from_millis(10);

/// A place in the line, by the order of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// Room, and the line for it.
pub(super) struct Line {
    /// Free, and set aside for nobody.
    room: u32,
    next: u64,
    /// Who waits for room. Who is away is in neither of the two.
    standing: BTreeMap<Place, Standing>,
    /// Who has room and has not come yet.
    called: BTreeMap<Place, Called>,
    /// When those who are called were last looked at, or the first of them was called.
    looked: Instant,
}

struct Standing {
    weight: u32,
    waker: Waker,
}

struct Called {
    weight: u32,
    /// It was there at the last look already.
    is_late: bool,
}

/// Who is to be woken, once the lock is released.
#[derive(Default)]
#[must_use]
pub(super) struct Calls(Vec<Waker>);

impl Calls {
    pub(super) fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl Line {
    pub(super) fn new(room: u32) -> Self {
        Self {
            room,
            next: 0,
            standing: BTreeMap::new(),
            called: BTreeMap::new(),
            looked: Instant::now(),
        }
    }

    /// Takes room if there is some and nobody stands in line for it.
    pub(super) fn take(&mut self, weight: u32) -> bool {
        let is_free = self.standing.is_empty() && weight <= self.room;
        if is_free {
            self.room -= weight;
        }
        is_free
    }

    /// The last place.
    pub(super) fn last(&mut self) -> Place {
        let place = Place(self.next);
        self.next += 1;
        place
    }

    /// Who has this place is there. Whether it has its room now and leaves the line;
    /// otherwise it is woken when it is to look again.
    pub(super) fn show(
        &mut self,
        place: Place,
        weight: u32,
        waker: &Waker,
        calls: &mut Calls,
    ) -> bool {
        if self.called.remove(&place).is_some() {
            return true;
        }
        let waker = waker.clone();
        let before = self.standing.insert(place, Standing { weight, waker });
        // No waker is dropped under the lock: it may be the last to hold its task.
        calls.0.extend(before.map(|before| before.waker));
        self.call(calls);
        self.called.remove(&place).is_some()
    }

    /// Who had this place has gone for good.
    pub(super) fn leave(&mut self, place: Place, calls: &mut Calls) {
        if let Some(called) = self.called.remove(&place) {
            self.room += called.weight;
        }
        let before = self.standing.remove(&place);
        calls.0.extend(before.map(|before| before.waker));
        self.call(calls);
    }

    /// What had room is sealed.
    pub(super) fn release(&mut self, weight: u32, calls: &mut Calls) {
        self.room += weight;
        self.call(calls);
    }

    /// Whether somebody is called who may not come.
    pub(super) fn has_called(&self) -> bool {
        !self.called.is_empty()
    }

    /// Looks for those who were called and have not come, if it is time to.
    pub(super) fn pass_over(&mut self, calls: &mut Calls) {
        if self.called.is_empty() || self.looked.elapsed() < GRACE {
            return;
        }
        self.looked = Instant::now();
        let mut given_back = 0;
        self.called.retain(|_, called| {
            if called.is_late {
                given_back += called.weight;
            }
            !std::mem::replace(&mut called.is_late, true)
        });
        if given_back == 0 {
            return;
        }
        self.room += given_back;
        // One is not there; who else is not is found out at once, not one by one.
        let standing = std::mem::take(&mut self.standing);
        calls.0.extend(standing.into_values().map(|it| it.waker));
    }

    /// Sets room aside for the first, for as many as it is enough for.
    fn call(&mut self, calls: &mut Calls) {
        while let Some(first) = self.standing.first_entry()
            && first.get().weight <= self.room
        {
            if self.called.is_empty() {
                self.looked = Instant::now();
            }
            let (place, Standing { weight, waker }) = first.remove_entry();
            self.room -= weight;
            let is_late = false;
            self.called.insert(place, Called { weight, is_late });
            calls.0.push(waker);
        }
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> u32 {
        self.room
    }

    /// How many it knows.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.standing.len() + self.called.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Somebody in line.
    struct Sender {
        place: Place,
        weight: u32,
        woken: Arc<Woken>,
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Sender {
        fn new(line: &mut Line, weight: u32) -> Self {
            Self {
                place: line.last(),
                weight,
                woken: Arc::default(),
            }
        }

        /// Is polled: whether it comes in.
        fn show(&self, line: &mut Line) -> bool {
            let mut calls = Calls::default();
            let waker = Arc::clone(&self.woken).into();
            let is_in = line.show(self.place, self.weight, &waker, &mut calls);
            calls.wake();
            self.woken.0.store(0, Ordering::SeqCst);
            is_in
        }

        fn is_woken(&self) -> bool {
            self.woken.0.load(Ordering::SeqCst) > 0
        }
    }

    fn release(line: &mut Line, weight: u32) {
        let mut calls = Calls::default();
        line.release(weight, &mut calls);
        calls.wake();
    }

    async fn after_grace(line: &mut Line) {
        tokio::time::advance(GRACE).await;
        let mut calls = Calls::default();
        line.pass_over(&mut calls);
        calls.wake();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_passed_by_what_is_smaller() {
        let mut line = Line::new(10);
        assert!(line.take(8));
        let (large, small) = (Sender::new(&mut line, 5), Sender::new(&mut line, 1));
        assert!(!large.show(&mut line) && !small.show(&mut line));
        assert!(!line.take(1), "nor by who has just come");
        release(&mut line, 2);
        assert!(!large.is_woken() && !small.is_woken());
        release(&mut line, 1);
        assert!(large.is_woken() && !small.is_woken());
        assert!(!line.take(1), "it is set aside");
        assert!(large.show(&mut line));
        release(&mut line, 5);
        assert!(small.is_woken() && small.show(&mut line));
        release(&mut line, 6);
        assert_eq!(line.room(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_come_is_passed_over_and_keeps_its_place() {
        let mut line = Line::new(10);
        assert!(line.take(10));
        let idle = [10, 10].map(|weight| Sender::new(&mut line, weight));
        let (busy, last) = (Sender::new(&mut line, 9), Sender::new(&mut line, 9));
        for sender in idle.iter().chain([&busy, &last]) {
            assert!(!sender.show(&mut line));
        }
        release(&mut line, 10);
        assert!(idle[0].is_woken() && line.has_called());
        after_grace(&mut line).await;
        assert!(!busy.is_woken(), "it has a little longer to come");
        after_grace(&mut line).await;
        // All are asked, and who is there comes in, whoever is before it.
        assert!(!line.has_called() && idle[1].is_woken() && busy.is_woken());
        assert!(busy.show(&mut line));
        assert!(!last.show(&mut line));
        release(&mut line, 1);
        assert!(!last.is_woken());
        // Who comes back is before those that came later.
        assert!(!idle[0].show(&mut line));
        release(&mut line, 8);
        assert!(idle[0].is_woken() && !last.is_woken());
        assert!(idle[0].show(&mut line));
        release(&mut line, 10);
        assert!(last.is_woken() && last.show(&mut line));
        release(&mut line, 9);
        assert_eq!(line.room(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_no_room_along() {
        let mut line = Line::new(10);
        assert!(line.take(10));
        let senders = [7, 7, 3, 3].map(|weight| Sender::new(&mut line, weight));
        for sender in &senders {
            assert!(!sender.show(&mut line));
        }
        let leave = |line: &mut Line, sender: &Sender| {
            let mut calls = Calls::default();
            line.leave(sender.place, &mut calls);
            calls.wake();
        };
        // Standing.
        leave(&mut line, &senders[1]);
        release(&mut line, 10);
        assert!(senders[0].is_woken() && senders[2].is_woken());
        // Called: the next is.
        leave(&mut line, &senders[0]);
        assert!(senders[3].is_woken());
        assert!(senders[2].show(&mut line) && senders[3].show(&mut line));
        // Away.
        assert!(line.take(4));
        let away = Sender::new(&mut line, 1);
        assert!(!away.show(&mut line));
        release(&mut line, 1);
        after_grace(&mut line).await;
        after_grace(&mut line).await;
        leave(&mut line, &away);
        release(&mut line, 9);
        assert_eq!(line.room(), 10);
    }
}
