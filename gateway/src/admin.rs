//! What operators and orchestrators ask of the edge: see [`bulla_process::admin`].

use std::sync::Arc;

use bulla_process::CancellationToken;
use bulla_process::admin::Probe;

use crate::bus::Bus;
use crate::handle::Edge;

/// What the edge says to operators.
pub(crate) struct EdgeProbe<B> {
    pub(crate) edge: Arc<Edge<B>>,
    /// Cancelled when it takes no new requests.
    pub(crate) stop: CancellationToken,
}

impl<B: Bus> Probe for EdgeProbe<B> {
    fn unready(&self) -> Option<String> {
        let why = if self.stop.is_cancelled() {
            "stopping"
        } else if !self.edge.bus.ready() {
            "the bus cannot be reached"
        } else if !self.edge.loaded.load().authenticator.ready() {
            "no issuer's keys could be fetched"
        } else {
            return None;
        };
        Some(why.to_owned())
    }

    fn metrics(&self) -> String {
        self.edge.metrics.text()
    }
}
