//! What waits to be written: bounded, each kind for itself, so that no flood of one
//! takes the room of another.

use std::collections::{BTreeMap, VecDeque};

use bulla_audit::{Event, Gap};
use bulla_identity::UnixMillis;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Class;

/// Reasons that a gap counts one by one.
const MAX_REASONS: usize = 32;

pub(super) struct Queue {
    capacity: [usize; 3],
    state: Mutex<State>,
    pub(super) filled: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(UnixMillis, Class, Event)>,
    held: [usize; 3],
    gap: Gap,
    lost: [u64; 3],
}

impl Queue {
    pub(super) fn new(refusals: usize) -> Self {
        Self {
            capacity: [refusals, refusals / 8, refusals],
            state: Mutex::default(),
            filled: Notify::new(),
        }
    }

    /// Takes it, or counts that there is no room.
    pub(super) fn push(&self, at: UnixMillis, event: Event) {
        let class = Class::of(&event);
        let place = class as usize;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let (Some(held), Some(capacity), Some(lost)) = (
            state.held.get_mut(place),
            self.capacity.get(place),
            state.lost.get_mut(place),
        ) else {
            return;
        };
        if *held < (*capacity).max(1) {
            *held += 1;
            state.waiting.push_back((at, class, event));
        } else {
            *lost = lost.saturating_add(1);
            leave_out(&mut state.gap, at, class, &event);
        }
        drop(guard);
        self.filled.notify_one();
    }

    /// The first so many, and what was left out after them if these are all.
    pub(super) fn take(&self, most: usize) -> (Vec<(UnixMillis, Event)>, Option<Gap>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let count = state.waiting.len().min(most);
        let mut taken = Vec::with_capacity(count);
        for (at, class, event) in state.waiting.drain(..count) {
            if let Some(held) = state.held.get_mut(class as usize) {
                *held = held.saturating_sub(1);
            }
            taken.push((at, event));
        }
        let gap = (state.waiting.is_empty() && !state.gap.is_empty())
            .then(|| std::mem::take(&mut state.gap));
        (taken, gap)
    }

    /// What could not be encoded after all.
    pub(super) fn leave_out(&self, at: UnixMillis, event: &Event) {
        let class = Class::of(event);
        let mut state = self.state.lock();
        if let Some(lost) = state.lost.get_mut(class as usize) {
            *lost = lost.saturating_add(1);
        }
        leave_out(&mut state.gap, at, class, event);
    }

    /// An allow that is not recorded although it should be.
    pub(super) fn leave_out_allow(&self, at: UnixMillis) {
        let mut state = self.state.lock();
        if let Some(lost) = state.lost.get_mut(Class::Allow as usize) {
            *lost = lost.saturating_add(1);
        }
        if state.gap.is_empty() {
            state.gap.from = at.as_millis();
        }
        state.gap.to = at.as_millis();
        state.gap.allows = state.gap.allows.saturating_add(1);
    }

    /// How many of each kind wait, and when the first of them came.
    pub(super) fn waiting(&self) -> ([u64; 3], Option<UnixMillis>) {
        let state = self.state.lock();
        let count = state
            .held
            .map(|held| u64::try_from(held).unwrap_or(u64::MAX));
        (count, state.waiting.front().map(|(at, ..)| *at))
    }

    pub(super) fn lost(&self) -> [u64; 3] {
        self.state.lock().lost
    }
}

fn leave_out(gap: &mut Gap, at: UnixMillis, class: Class, event: &Event) {
    if gap.is_empty() {
        gap.from = at.as_millis();
    }
    gap.to = at.as_millis();
    let count = match class {
        Class::Deny => &mut gap.denies,
        Class::Allow => &mut gap.allows,
        Class::Other => &mut gap.others,
    };
    *count = count.saturating_add(1);
    if class == Class::Deny {
        count_reason(&mut gap.reasons, event);
    }
}

fn count_reason(reasons: &mut BTreeMap<String, u64>, event: &Event) {
    let reason = event.decision().and_then(|d| d.reason.as_deref());
    let Some(reason) = reason else { return };
    if let Some(count) = reasons.get_mut(reason) {
        *count = count.saturating_add(1);
    } else if reasons.len() < MAX_REASONS {
        reasons.insert(reason.to_owned(), 1);
    }
}

#[cfg(test)]
mod tests {
    use bulla_audit::Uses;
    use bulla_policy::{DecisionRecord, Verdict};

    use super::*;

    fn decision(decision: Verdict) -> Event {
        Event::Decision(Box::new(DecisionRecord {
            id: String::new(),
            enforcer: "receiver".to_owned(),
            decision,
            would: None,
            workload: String::new(),
            verb: "publish".to_owned(),
            subject: String::new(),
            user: None,
            rule: None,
            reason: Some("replayed".to_owned()),
            detail: None,
            revision: 0,
            client: None,
        }))
    }

    #[test]
    fn aud_7_no_flood_of_one_kind_takes_the_room_of_another_and_what_is_lost_is_counted() {
        let queue = Queue::new(16);
        let at = UnixMillis::from_secs;
        for n in 0..100 {
            queue.push(at(n), decision(Verdict::Allow));
        }
        for n in 100..120 {
            queue.push(at(n), decision(Verdict::Deny));
        }
        let uses = Event::Uses(Uses {
            from: 0,
            to: 0,
            rules: Vec::new(),
            uncounted: 1,
        });
        queue.push(at(200), uses);
        assert_eq!(queue.lost(), [4, 98, 0]);
        let (first, gap) = queue.take(10);
        assert_eq!(first.len(), 10);
        assert_eq!(gap, None, "it stands after what was before it");
        let (rest, gap) = queue.take(100);
        assert_eq!(rest.len(), 2 + 16 + 1 - 10);
        let gap = gap.unwrap();
        assert_eq!((gap.denies, gap.allows, gap.others), (4, 98, 0));
        assert_eq!((gap.from, gap.to), (2_000, 119_000));
        assert_eq!(gap.reasons.get("replayed"), Some(&4));
        // Told once.
        assert_eq!(queue.take(100).1, None);
        queue.push(at(300), decision(Verdict::Allow));
        assert_eq!(queue.take(1).0.len(), 1);
    }
}
