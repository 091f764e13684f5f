//! Whether a process can do its work now.

use std::sync::Arc;

use tokio::sync::watch;

/// A shared flag: set by the part that becomes ready, awaited by the others.
///
/// Clones share one state. Not ready until [`Readiness::set_ready`] is called.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<bool>>,
}

impl Readiness {
    /// Not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Marks ready, and logs one event with target [`READY_TARGET`] and field
    /// `process`, which is what a supervisor that reads the log waits for.
    pub fn set_ready(&self, process: &str) {
        if !self.state.send_replace(true) {
            tracing::info!(target: READY_TARGET, process, "ready");
        }
    }

    /// Marks not ready: draining, or a dependency is gone.
    pub fn set_unready(&self) {
        self.state.send_replace(false);
    }

    /// Whether it is ready now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.state.borrow()
    }

    /// Returns as soon as it is ready.
    pub async fn ready(&self) {
        let mut seen = self.state.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = seen.wait_for(|ready| *ready).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// The tracing target of the event that says *ready*.
pub const READY_TARGET: &str = "bulla::ready";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_wake_when_it_becomes_ready() {
        let readiness = Readiness::new();
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        assert!(!readiness.is_ready());
        readiness.set_ready("test");
        waiter.await.unwrap();
        readiness.set_unready();
        assert!(!readiness.is_ready());
    }
}
