//! Kept replies are forgotten when the bus says that something has changed.
//!
//! A route names the subject on which that is told. Each event begins a new era, and what
//! was kept in an earlier one is not found any more, however its question ran meanwhile.
//! While nobody listens nothing is kept: what was told then nobody would know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bulla_identity::Subject;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::handle::Edge;

/// Between two attempts to listen.
const PAUSE: Duration = Duration::from_secs(1);

/// What is told on one subject, for all routes that name it.
#[derive(Debug)]
pub(crate) struct Invalidation {
    pub(crate) subject: Subject,
    era: AtomicU64,
    is_heard: AtomicBool,
}

impl Invalidation {
    pub(crate) fn new(subject: Subject) -> Self {
        Self {
            subject,
            era: AtomicU64::new(0),
            is_heard: AtomicBool::new(false),
        }
    }

    /// The era, if somebody listens for its end.
    pub(crate) fn era(&self) -> Option<u64> {
        self.is_heard
            .load(Ordering::Acquire)
            .then(|| self.era.load(Ordering::Acquire))
    }

    fn begin_era(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
    }

    /// Listens until `stop`.
    pub(crate) async fn follow<B: Bus>(
        self: Arc<Self>,
        edge: Arc<Edge<B>>,
        stop: CancellationToken,
    ) {
        let listening = async {
            loop {
                match edge.bus.listen(&self.subject, None).await {
                    Ok(mut events) => {
                        self.begin_era();
                        self.is_heard.store(true, Ordering::Release);
                        while events.recv().await.is_some() {
                            self.begin_era();
                        }
                        self.is_heard.store(false, Ordering::Release);
                    }
                    Err(error) => tracing::warn!(
                        ?error,
                        "changes cannot be heard of: replies are not kept meanwhile"
                    ),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = listening => {}
        }
        self.is_heard.store(false, Ordering::Release);
    }
}
