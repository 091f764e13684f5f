//! Circuit breaking: where one request after the other finds nobody or waits in vain, the
//! next ones are answered at once for a while, until a single one has come through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The `[breaker]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// How many requests must fail, one after the other.
    pub failures: u32,
    /// How long nothing is sent then.
    pub pause: Duration,
}

/// The state of one subject.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// As routes write it.
    subject: String,
    config: BreakerConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nothing is sent before then.
    closed_again: Option<Instant>,
    /// Whether the one request is under way that decides.
    probing: bool,
}

impl Breaker {
    pub(crate) fn new(subject: String, config: BreakerConfig) -> Self {
        Self {
            subject,
            config,
            state: Mutex::default(),
        }
    }

    pub(crate) fn is_of(&self, subject: &str) -> bool {
        self.subject == subject
    }

    /// Whether both break where the same subject fails in the same way.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.is_of(&other.subject) && self.config == other.config
    }

    /// Lets a request through, or says how long to wait.
    pub(crate) fn pass(self: &Arc<Self>, now: Instant) -> Result<Pass, Duration> {
        let mut state = self.state.lock();
        let Some(until) = state.closed_again else {
            return Ok(Pass::new(self, false));
        };
        if now < until {
            return Err(until - now);
        }
        if state.probing {
            return Err(self.config.pause);
        }
        state.probing = true;
        Ok(Pass::new(self, true))
    }
}

/// A request that was let through. Dropped without a verdict it proves nothing.
#[derive(Debug)]
pub(crate) struct Pass {
    breaker: Arc<Breaker>,
    is_probe: bool,
}

impl Pass {
    fn new(breaker: &Arc<Breaker>, is_probe: bool) -> Self {
        Self {
            breaker: Arc::clone(breaker),
            is_probe,
        }
    }

    /// Somebody answered, whatever he said.
    pub(crate) fn succeeded(self) {
        *self.breaker.state.lock() = State::default();
    }

    /// Nobody did.
    pub(crate) fn failed(self, now: Instant) {
        let mut state = self.breaker.state.lock();
        state.failures = state.failures.saturating_add(1);
        if self.is_probe || state.failures >= self.breaker.config.failures {
            state.closed_again = Some(now + self.breaker.config.pause);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.state.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(2);

    fn breaker() -> Arc<Breaker> {
        let config = BreakerConfig {
            failures: 3,
            pause: PAUSE,
        };
        Arc::new(Breaker::new("orders.get".to_owned(), config))
    }

    fn fail(breaker: &Arc<Breaker>, now: Instant, times: usize) {
        for _ in 0..times {
            breaker.pass(now).unwrap().failed(now);
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_only_then() {
        let (one, now) = (breaker(), Instant::now());
        fail(&one, now, 2);
        one.pass(now).unwrap().succeeded();
        fail(&one, now, 3);
        assert_eq!(one.pass(now).unwrap_err(), PAUSE);
        let later = now + Duration::from_secs(1);
        assert_eq!(one.pass(later).unwrap_err(), Duration::from_secs(1));
    }

    #[test]
    fn one_request_decides_whether_it_closes_again() {
        let (one, now) = (breaker(), Instant::now());
        fail(&one, now, 3);
        let then = now + PAUSE;
        let probe = one.pass(then).unwrap();
        assert!(one.pass(then).is_err());
        probe.failed(then);
        assert_eq!(one.pass(then).unwrap_err(), PAUSE);
        let then = then + PAUSE;
        one.pass(then).unwrap().succeeded();
        for _ in 0..2 {
            drop(one.pass(then).unwrap());
        }
        fail(&one, then, 2);
        assert!(one.pass(then).is_ok());
    }

    #[test]
    fn a_probe_that_is_given_up_lets_another_one_go() {
        let (one, now) = (breaker(), Instant::now());
        fail(&one, now, 3);
        let then = now + PAUSE;
        drop(one.pass(then).unwrap());
        assert!(one.pass(then).is_ok());
    }
}
