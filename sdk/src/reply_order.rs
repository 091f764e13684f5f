//! Which replies to one request count, and in which order.
//!
//! A responder numbers its replies from zero and closes them with a final one.
//! They are handed out in that order, each once. The first that is accepted
//! decides who the responder is: nobody else's key counts for that request.

use std::collections::{BTreeMap, VecDeque};

use bulla_envelope::{LeafHash, ReplyBinding};
use bulla_keyring::KeyId;

/// How far a reply may be ahead of the next one.
const MAX_AHEAD: u64 = 1_024;
/// How much replies that are ahead may weigh together, in bytes.
const MAX_AHEAD_BYTES: usize = 8 * 1_024 * 1_024;
/// Replies handed out whose leaves are still known, to tell a copy from
/// another reply under the same number.
const REMEMBERED: usize = 128;

/// A verified reply, before its place among the others is judged.
pub(crate) struct Arrival<T> {
    pub(crate) responder: KeyId,
    pub(crate) leaf: LeafHash,
    pub(crate) binding: ReplyBinding,
    /// In bytes.
    pub(crate) weight: usize,
    pub(crate) reply: T,
}

/// Why a verified reply does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misplaced {
    #[error("another responder has answered this request before")]
    SecondResponder,
    #[error("a reply of this number has come before")]
    Replayed,
    /// One key, one request, one number, two statements: two processes hold the
    /// key, or its holder says two things.
    #[error("another reply of this number has come before")]
    Cloned,
    #[error("the replies were closed before this one")]
    AfterFinal,
    #[error("too far ahead of the next reply")]
    TooFarAhead,
}

impl Misplaced {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::SecondResponder => "second_responder",
            Self::Replayed => "reply_replayed",
            Self::Cloned => "cloned_reply",
            Self::AfterFinal => "reply_after_final",
            Self::TooFarAhead => "reply_too_far_ahead",
        }
    }
}

/// The replies to one request.
pub(crate) struct ReplyOrder<T> {
    responder: Option<KeyId>,
    /// One more than the number of the last that was handed out.
    next: u64,
    /// The next one, which is mostly the one that comes.
    due: Option<Held<T>>,
    ahead: BTreeMap<u64, Held<T>>,
    ahead_bytes: usize,
    /// The leaf of the last that was handed out, `next - 1`, and of those before it.
    newest: Option<LeafHash>,
    handed_out: VecDeque<LeafHash>,
    /// The number of the final reply, once it has come.
    last: Option<u64>,
}

struct Held<T> {
    leaf: LeafHash,
    weight: usize,
    reply: T,
}

impl<T> ReplyOrder<T> {
    pub(crate) const fn new() -> Self {
        Self {
            responder: None,
            next: 0,
            due: None,
            ahead: BTreeMap::new(),
            ahead_bytes: 0,
            newest: None,
            handed_out: VecDeque::new(),
            last: None,
        }
    }

    /// Takes a reply, or says why it does not count. Only one that is taken
    /// changes anything.
    ///
    /// Tells how many that were taken before turn out to come after the final
    /// one: they are dropped.
    pub(crate) fn accept(&mut self, arrival: Arrival<T>) -> Result<usize, Misplaced> {
        let index = u64::from(arrival.binding.index);
        if self.responder.is_some_and(|key| key != arrival.responder) {
            return Err(Misplaced::SecondResponder);
        }
        if let Some(known) = self.known(index) {
            return Err(match known {
                Some(leaf) if leaf != arrival.leaf => Misplaced::Cloned,
                _ => Misplaced::Replayed,
            });
        }
        match self.last {
            Some(last) if index > last => return Err(Misplaced::AfterFinal),
            // Closed once already, at another number.
            Some(_) if arrival.binding.is_final => return Err(Misplaced::Cloned),
            _ => {}
        }
        // The one that is waited for always has room.
        if index > self.next
            && (index - self.next > MAX_AHEAD
                || self.ahead_bytes.saturating_add(arrival.weight) > MAX_AHEAD_BYTES)
        {
            return Err(Misplaced::TooFarAhead);
        }
        self.responder = Some(arrival.responder);
        self.ahead_bytes = self.ahead_bytes.saturating_add(arrival.weight);
        let held = Held {
            leaf: arrival.leaf,
            weight: arrival.weight,
            reply: arrival.reply,
        };
        match index == self.next {
            true => self.due = Some(held),
            false => drop(self.ahead.insert(index, held)),
        }
        if !arrival.binding.is_final {
            return Ok(0);
        }
        self.last = Some(index);
        let after = self.ahead.split_off(&index.saturating_add(1));
        let weight: usize = after.values().map(|held| held.weight).sum();
        self.ahead_bytes = self.ahead_bytes.saturating_sub(weight);
        Ok(after.len())
    }

    /// The next reply in order, and whether it is the final one.
    pub(crate) fn take(&mut self) -> Option<(u64, bool, T)> {
        let held = match self.due.take() {
            Some(held) => held,
            None => self.ahead.remove(&self.next)?,
        };
        self.ahead_bytes = self.ahead_bytes.saturating_sub(held.weight);
        if let Some(older) = self.newest.replace(held.leaf) {
            if self.handed_out.len() == REMEMBERED {
                self.handed_out.pop_front();
            }
            self.handed_out.push_back(older);
        }
        let index = self.next;
        self.next += 1;
        Some((index, self.last == Some(index), held.reply))
    }

    /// The number of the reply that is waited for while later ones have come.
    pub(crate) fn missing(&self) -> Option<u64> {
        (self.due.is_none() && !self.ahead.is_empty()).then_some(self.next)
    }

    /// Whether nothing has been accepted yet.
    pub(crate) const fn is_untouched(&self) -> bool {
        self.responder.is_none()
    }

    /// Whether a reply of this number was accepted before; its leaf, if it is
    /// still known.
    fn known(&self, index: u64) -> Option<Option<LeafHash>> {
        let due = self.due.as_ref().filter(|_| index == self.next);
        if let Some(held) = due.or_else(|| self.ahead.get(&index)) {
            return Some(Some(held.leaf));
        }
        let back = self.next.checked_sub(index)?;
        let back = usize::try_from(back).ok().filter(|back| *back > 0)?;
        if back == 1 {
            return Some(self.newest);
        }
        let place = self.handed_out.len().checked_sub(back - 1);
        Some(place.and_then(|place| self.handed_out.get(place).copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(of: u8) -> KeyId {
        KeyId::from_hash(&[of; 32])
    }

    fn reply(index: u32, is_final: bool) -> Arrival<u32> {
        let mut leaf = [0; 32];
        leaf[..4].copy_from_slice(&index.to_be_bytes());
        Arrival {
            responder: key(1),
            leaf: LeafHash(leaf),
            binding: ReplyBinding {
                request: LeafHash([9; 32]),
                index,
                is_final,
            },
            weight: 100,
            reply: index,
        }
    }

    fn other(mut reply: Arrival<u32>) -> Arrival<u32> {
        reply.leaf.0[31] = 1;
        reply
    }

    fn taken(order: &mut ReplyOrder<u32>) -> Vec<(u64, bool, u32)> {
        std::iter::from_fn(|| order.take()).collect()
    }

    #[test]
    fn replies_come_out_in_order_each_once_and_end_with_the_final_one() {
        let mut order = ReplyOrder::new();
        assert!(order.is_untouched());
        for index in [2, 1] {
            assert_eq!(order.accept(reply(index, false)), Ok(0));
            assert_eq!(order.missing(), Some(0));
            assert!(order.take().is_none());
        }
        assert_eq!(order.accept(reply(3, true)), Ok(0));
        assert_eq!(order.accept(reply(0, false)), Ok(0));
        let all = [(0, false, 0), (1, false, 1), (2, false, 2), (3, true, 3)];
        assert_eq!(taken(&mut order), all);
        assert_eq!(order.missing(), None);
        assert_eq!(order.ahead_bytes, 0);
        for index in 0..4 {
            let again = order.accept(reply(index, index == 3));
            assert_eq!(again, Err(Misplaced::Replayed));
        }
        assert_eq!(order.accept(reply(4, false)), Err(Misplaced::AfterFinal));
        assert!(order.take().is_none());
    }

    #[test]
    fn the_first_responder_is_the_only_one() {
        let mut order = ReplyOrder::new();
        order.accept(reply(1, false)).unwrap();
        let mut second = reply(0, true);
        second.responder = key(2);
        assert_eq!(order.accept(second), Err(Misplaced::SecondResponder));
        assert_eq!(order.accept(reply(0, false)), Ok(0));
    }

    #[test]
    fn a_copy_and_another_reply_of_one_number_are_told_apart() {
        let mut order = ReplyOrder::new();
        order.accept(reply(1, false)).unwrap();
        assert_eq!(order.accept(reply(1, false)), Err(Misplaced::Replayed));
        assert_eq!(order.accept(other(reply(1, false))), Err(Misplaced::Cloned));
        for index in [0, 2] {
            order.accept(reply(index, false)).unwrap();
        }
        taken(&mut order);
        for index in 0..3 {
            let again = order.accept(reply(index, false));
            assert_eq!(again, Err(Misplaced::Replayed));
            let again = order.accept(other(reply(index, false)));
            assert_eq!(again, Err(Misplaced::Cloned));
        }
        // After that it is still refused.
        for index in 3..200 {
            order.accept(reply(index, false)).unwrap();
            order.take().unwrap();
        }
        let again = order.accept(other(reply(0, false)));
        assert_eq!(again, Err(Misplaced::Replayed));
        let again = order.accept(other(reply(100, false)));
        assert_eq!(again, Err(Misplaced::Cloned));
        assert_eq!(order.handed_out.len(), REMEMBERED);
    }

    #[test]
    fn what_comes_after_the_final_reply_is_dropped_and_it_closes_once() {
        let mut order = ReplyOrder::new();
        for index in [2, 4, 5] {
            order.accept(reply(index, false)).unwrap();
        }
        assert_eq!(order.accept(reply(3, true)), Ok(2));
        assert_eq!(order.ahead_bytes, 200);
        assert_eq!(order.accept(reply(1, true)), Err(Misplaced::Cloned));
        assert_eq!(order.accept(reply(4, false)), Err(Misplaced::AfterFinal));
        order.accept(reply(0, false)).unwrap();
        order.accept(reply(1, false)).unwrap();
        assert_eq!(taken(&mut order).last(), Some(&(3, true, 3)));
    }

    #[test]
    fn what_is_ahead_is_bounded_in_number_and_bytes_and_the_next_has_room() {
        let mut order = ReplyOrder::new();
        let far = u32::try_from(MAX_AHEAD).unwrap();
        assert_eq!(order.accept(reply(far, false)), Ok(0));
        let refused = order.accept(reply(far + 1, false));
        assert_eq!(refused, Err(Misplaced::TooFarAhead));
        let refused = order.accept(reply(u32::MAX, true));
        assert_eq!(refused, Err(Misplaced::TooFarAhead));
        let heavy = |index| Arrival {
            weight: MAX_AHEAD_BYTES,
            ..reply(index, false)
        };
        assert_eq!(order.accept(heavy(1)), Err(Misplaced::TooFarAhead));
        assert_eq!(order.accept(heavy(0)), Ok(0));
        assert_eq!(order.take(), Some((0, false, 0)));
        assert_eq!(order.ahead_bytes, 100);
        // A refused one pinned nobody.
        let mut order = ReplyOrder::new();
        order.accept(reply(u32::MAX, true)).unwrap_err();
        assert!(order.is_untouched());
    }
}
