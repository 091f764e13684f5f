//! The time of a test: tokio's, which stands still while there is something to do.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use bulla_identity::UnixMillis;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use super::TestBusError;

thread_local! {
    static STARTED: Cell<Option<Started>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Started {
    at: Instant,
    time: UnixMillis,
}

/// The time in this thread, if it is a test's.
pub(crate) fn now() -> Option<UnixMillis> {
    let started = STARTED.get()?;
    Some(started.time.saturating_add(started.at.elapsed()))
}

/// Makes the time of its thread a test's for as long as it lives.
pub(crate) struct TestClock {
    /// It is about its own thread.
    _here: PhantomData<Rc<()>>,
}

impl TestClock {
    /// Stops tokio's clock at `time`.
    pub(crate) fn start(time: UnixMillis) -> Result<Self, TestBusError> {
        let runtime = Handle::try_current().map_err(|_| TestBusError::Runtime)?;
        // Tasks of other threads would have another time, and tokio's clock cannot
        // be stopped there.
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Err(TestBusError::Runtime);
        }
        if STARTED.get().is_some() {
            return Err(TestBusError::Another);
        }
        if !is_paused() {
            tokio::time::pause();
        }
        let at = Instant::now();
        STARTED.set(Some(Started { at, time }));
        Ok(Self { _here: PhantomData })
    }
}

impl Drop for TestClock {
    fn drop(&mut self) {
        STARTED.set(None);
    }
}

/// Whether tokio's clock stands already. It does not say so, and to stop it twice
/// is a panic.
fn is_paused() -> bool {
    let (before, real) = (Instant::now(), std::time::Instant::now());
    while real.elapsed() < Duration::from_micros(50) {
        std::hint::spin_loop();
    }
    Instant::now() == before
}
