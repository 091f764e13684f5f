//! A request that is under way: the one place where what became of it, its replies
//! and a refusal by nats-server meet, and where its caller waits for them.
//!
//! ```text
//! signer ──── sent, under which leaf; or lost ───┐
//! inbox ───── what came to its reply subject ────┼──► Pending ──► its caller
//! server ──── refused to pass it on ─────────────┘
//! ```
//!
//! Its caller is woken when there is something for it to do: that its request was
//! sent is noted here, and wakes nobody who does not wait for just that.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bulla_envelope::LeafHash;
use bulla_identity::Subject;
use parking_lot::Mutex;

use crate::signer::Failure;

/// A request that is under way.
pub(crate) struct Pending {
    /// Where it goes.
    subject: Subject,
    /// How many messages wait here at most until its caller looks at them.
    room: usize,
    state: Mutex<State>,
}

struct State {
    fate: Fate,
    came: Came,
    is_refused: bool,
    /// Nobody waits here any more.
    is_given_up: bool,
    /// Its caller waits for what becomes of it, not for a reply.
    awaits_fate: bool,
    caller: Option<Waker>,
}

impl State {
    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.caller {
            Some(caller) => caller.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

#[derive(Clone, Copy)]
enum Fate {
    /// It waits to be sealed.
    Queued,
    /// Its replies are bound to this leaf.
    Sent(LeafHash),
    Lost(Failure),
}

/// What came to its reply subject, in order. Most requests get one message.
#[derive(Default)]
struct Came {
    first: Option<async_nats::Message>,
    later: VecDeque<async_nats::Message>,
}

impl Came {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.later.len()
    }

    fn push(&mut self, message: async_nats::Message) {
        match &self.first {
            None if self.later.is_empty() => self.first = Some(message),
            _ => self.later.push_back(message),
        }
    }

    fn pop(&mut self) -> Option<async_nats::Message> {
        self.first.take().or_else(|| self.later.pop_front())
    }
}

/// What becomes of a message that came to a reply subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Taken,
    /// So many wait already: it is dropped.
    NoRoom,
    /// Nobody waits any more: it is dropped.
    TooLate,
}

/// Why nothing more comes to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Interruption {
    /// It could not be sent.
    Lost(Failure),
    /// nats-server did not let it through.
    Refused,
}

impl Pending {
    /// A request to `subject` that is not sent yet, and room for so many messages.
    pub(crate) const fn new(subject: Subject, room: usize) -> Self {
        Self {
            subject,
            room,
            state: Mutex::new(State {
                fate: Fate::Queued,
                came: Came {
                    first: None,
                    later: VecDeque::new(),
                },
                is_refused: false,
                is_given_up: false,
                awaits_fate: false,
                caller: None,
            }),
        }
    }

    /// What became of the request.
    pub(crate) fn settle(&self, outcome: Result<LeafHash, Failure>) {
        let mut state = self.state.lock();
        state.fate = match outcome {
            Ok(leaf) => Fate::Sent(leaf),
            Err(failure) => Fate::Lost(failure),
        };
        // A reply can be here before that, if it was very quick.
        if outcome.is_err() || state.came.len() > 0 || state.awaits_fate {
            Self::wake(state);
        }
    }

    /// Something came to its reply subject; nothing of it is checked.
    pub(crate) fn deliver(&self, message: async_nats::Message) -> Delivery {
        let mut state = self.state.lock();
        if state.is_given_up {
            return Delivery::TooLate;
        }
        if state.came.len() >= self.room {
            return Delivery::NoRoom;
        }
        state.came.push(message);
        Self::wake(state);
        Delivery::Taken
    }

    /// nats-server refused something that went to `subject`.
    pub(crate) fn refuse(&self, subject: &str) {
        if self.subject.as_str() != subject {
            return;
        }
        let mut state = self.state.lock();
        state.is_refused = true;
        Self::wake(state);
    }

    /// Nobody waits any more. Tells how many messages waited for nothing.
    pub(crate) fn give_up(&self) -> usize {
        let mut state = self.state.lock();
        state.is_given_up = true;
        std::mem::take(&mut state.came).len()
    }

    /// Whether nobody waits any more: it need not be sent.
    pub(crate) fn is_given_up(&self) -> bool {
        self.state.lock().is_given_up
    }

    /// Whether it was sent, once that is known.
    pub(crate) fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<Result<(), Interruption>> {
        let mut state = self.state.lock();
        let known = match state.fate {
            Fate::Queued => None,
            Fate::Sent(_) => Some(Ok(())),
            Fate::Lost(failure) => Some(Err(Interruption::Lost(failure))),
        };
        state.awaits_fate = known.is_none();
        match known {
            Some(known) => Poll::Ready(known),
            None => {
                state.wait(cx);
                Poll::Pending
            }
        }
    }

    /// The next message, and the leaf of the request, once there are both; or why
    /// there will be none. A refusal counts only while `may_be_refused`: who was
    /// answered was asked.
    ///
    /// One task at a time waits here.
    pub(crate) fn poll_next(
        &self,
        may_be_refused: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(LeafHash, async_nats::Message), Interruption>> {
        let mut state = self.state.lock();
        match state.fate {
            Fate::Lost(failure) => return Poll::Ready(Err(Interruption::Lost(failure))),
            Fate::Queued => {}
            Fate::Sent(leaf) => {
                if let Some(message) = state.came.pop() {
                    return Poll::Ready(Ok((leaf, message)));
                }
            }
        }
        if state.is_refused && may_be_refused {
            return Poll::Ready(Err(Interruption::Refused));
        }
        state.wait(cx);
        Poll::Pending
    }

    /// Wakes who waits, after the lock is free.
    fn wake(mut state: parking_lot::MutexGuard<'_, State>) {
        let caller = state.caller.take();
        drop(state);
        if let Some(caller) = caller {
            caller.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::error::LinkError;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    type Looked = Poll<Result<(LeafHash, async_nats::Message), Interruption>>;

    /// A caller that looks when it is told to, and how often it was woken.
    struct Caller(Arc<Woken>);

    impl Caller {
        fn new() -> Self {
            Self(Arc::default())
        }

        fn looks(&self, at: &Pending) -> Looked {
            let waker = Waker::from(Arc::clone(&self.0));
            at.poll_next(true, &mut Context::from_waker(&waker))
        }

        fn woken(&self) -> usize {
            self.0.0.load(Ordering::Relaxed)
        }
    }

    const LEAF: LeafHash = LeafHash([7; 32]);

    fn pending() -> Pending {
        Pending::new(Subject::parse("billing.quote").unwrap(), 3)
    }

    fn message(body: u8) -> async_nats::Message {
        async_nats::Message {
            subject: "inbox".into(),
            reply: None,
            payload: vec![body].into(),
            headers: None,
            status: None,
            description: None,
            length: 1,
        }
    }

    fn body(looked: Looked) -> u8 {
        match looked {
            Poll::Ready(Ok((LEAF, message))) => message.payload[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn that_it_was_sent_wakes_nobody_and_a_reply_does() {
        let (pending, caller) = (pending(), Caller::new());
        assert!(caller.looks(&pending).is_pending());
        pending.settle(Ok(LEAF));
        assert_eq!(caller.woken(), 0);
        assert_eq!(pending.deliver(message(1)), Delivery::Taken);
        assert_eq!(caller.woken(), 1);
        assert_eq!(body(caller.looks(&pending)), 1);
        assert!(caller.looks(&pending).is_pending());
    }

    #[test]
    fn who_waits_for_it_is_told_that_it_was_sent() {
        let (pending, caller) = (pending(), Caller::new());
        let waker = Waker::from(Arc::clone(&caller.0));
        let mut cx = Context::from_waker(&waker);
        assert!(pending.poll_sent(&mut cx).is_pending());
        pending.settle(Ok(LEAF));
        assert_eq!(caller.woken(), 1);
        assert!(matches!(pending.poll_sent(&mut cx), Poll::Ready(Ok(()))));
    }

    #[test]
    fn a_reply_that_is_quicker_than_the_signer_waits_for_the_leaf() {
        let (pending, caller) = (pending(), Caller::new());
        pending.deliver(message(1));
        assert!(caller.looks(&pending).is_pending());
        pending.settle(Ok(LEAF));
        assert_eq!(caller.woken(), 1);
        assert_eq!(body(caller.looks(&pending)), 1);
    }

    #[test]
    fn replies_come_in_order_and_are_bounded() {
        let (pending, caller) = (pending(), Caller::new());
        pending.settle(Ok(LEAF));
        for n in 1..=3 {
            assert_eq!(pending.deliver(message(n)), Delivery::Taken);
        }
        assert_eq!(pending.deliver(message(4)), Delivery::NoRoom);
        assert_eq!(body(caller.looks(&pending)), 1);
        assert_eq!(pending.deliver(message(5)), Delivery::Taken);
        for n in [2, 3, 5] {
            assert_eq!(body(caller.looks(&pending)), n);
        }
        for n in [6, 7] {
            pending.deliver(message(n));
        }
        assert_eq!(pending.give_up(), 2);
        assert!(pending.is_given_up());
        assert_eq!(pending.deliver(message(8)), Delivery::TooLate);
    }

    #[test]
    fn what_is_lost_or_refused_is_told() {
        let (pending, caller) = (pending(), Caller::new());
        assert!(caller.looks(&pending).is_pending());
        pending.refuse("another.subject");
        assert_eq!(caller.woken(), 0);
        pending.refuse("billing.quote");
        assert_eq!(caller.woken(), 1);
        let refused: Looked = Poll::Ready(Err(Interruption::Refused));
        assert_eq!(
            format!("{:?}", caller.looks(&pending)),
            format!("{refused:?}")
        );
        // Who was answered was asked.
        let waker = Waker::from(Arc::clone(&caller.0));
        let looked = pending.poll_next(false, &mut Context::from_waker(&waker));
        assert!(looked.is_pending());
        let failure = Failure::Link(LinkError::Disconnected);
        pending.settle(Err(failure));
        assert_eq!(caller.woken(), 2);
        let lost: Looked = Poll::Ready(Err(Interruption::Lost(failure)));
        assert_eq!(format!("{:?}", caller.looks(&pending)), format!("{lost:?}"));
    }
}
