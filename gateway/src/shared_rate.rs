//! Quotas that all nodes of the edge share.
//!
//! ```text
//! window of a quota   │ block 0 │ block 1 │ block 2 │ …      quota in 20 blocks or fewer
//!                       node A    node B    node A           each taken by whom it was first
//! ```
//!
//! The bus remembers of each block which node took it first; what a node has taken it gives
//! out by itself. So a request seldom asks the bus, and however many nodes there are, no
//! more than the quota passes within a window. A node that ends takes along what is left of
//! its blocks. Windows begin at fixed times, so that all nodes mean the same one.

use std::sync::Arc;
use std::time::Duration;

use bulla_identity::UnixMillis;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tokio::sync::Mutex;

use crate::bus::{Bus, BusError};
use crate::rate::{BucketKey, RateConfig};

/// Under which kind the bus remembers blocks.
const BLOCK: &str = "edge.quota";
/// How many blocks a quota has at most.
const BLOCKS: u32 = 20;
/// By how much nodes' clocks may differ.
const SKEW: Duration = Duration::from_secs(60);

/// What this node has taken of one quota that is shared.
pub(crate) struct SharedRate(Cache<BucketKey, Arc<Mutex<Share>>>);

/// What this node has taken for one requester.
#[derive(Debug, Default)]
struct Share {
    /// Which window it is of.
    window: u64,
    left: u32,
    /// The first block that may still be free.
    next: u32,
}

/// What is left after a request was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// Of the quota, as far as this node knows; none if the request is refused.
    pub(crate) requests: Option<u32>,
    /// Until the window ends.
    pub(crate) ends_in: Duration,
}

impl SharedRate {
    pub(crate) fn new(window: Duration, most: u64) -> Self {
        Self(
            Cache::builder()
                .max_capacity(most)
                .time_to_idle(window)
                // Whoever is forgotten takes a new block, and what was left is lost.
                .eviction_policy(EvictionPolicy::lru())
                .build(),
        )
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`BusError`]: the bus does not say what is free. Nothing passes then.
    pub(crate) async fn count<B: Bus>(
        &self,
        bus: &B,
        config: &RateConfig,
        key: BucketKey,
        now: UnixMillis,
    ) -> Result<Left, BusError> {
        let length = u64::try_from(config.window.as_millis()).unwrap_or(u64::MAX);
        let window = now.as_millis() / length.max(1);
        let end = UnixMillis::from_millis(window.saturating_add(1).saturating_mul(length));
        let ends_in = end.saturating_since(now);
        let blocks = Blocks::of(config.quota.get());
        let share = self.0.get_with(key, async { Arc::default() }).await;
        let mut share = share.lock().await;
        if share.window != window {
            *share = Share {
                window,
                ..Share::default()
            };
        }
        while share.left == 0 {
            let Some(size) = blocks.size(share.next) else {
                return Ok(Left {
                    requests: None,
                    ends_in,
                });
            };
            let name: [&[u8]; 4] = [
                config.name.as_bytes(),
                key.as_bytes(),
                &window.to_be_bytes(),
                &share.next.to_be_bytes(),
            ];
            // The same at any time of the window: where it lies depends on it.
            let life = config.window.saturating_add(SKEW);
            if bus.agree(BLOCK, &name, b"taken", life).await?.is_none() {
                share.left = size;
            }
            share.next += 1;
        }
        share.left -= 1;
        Ok(Left {
            requests: Some(share.left.saturating_add(blocks.after(share.next))),
            ends_in,
        })
    }
}

/// How a quota is cut.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    quota: u32,
    size: u32,
}

impl Blocks {
    fn of(quota: u32) -> Self {
        Self {
            quota,
            size: quota.div_ceil(BLOCKS).max(1),
        }
    }

    /// How many requests a block is good for; nothing if there is no such block.
    fn size(self, index: u32) -> Option<u32> {
        let left = self.after(index);
        (left > 0).then(|| left.min(self.size))
    }

    /// How many requests the blocks from `index` on are good for.
    fn after(self, index: u32) -> u32 {
        self.quota.saturating_sub(self.size.saturating_mul(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_whole_quota_and_not_one_more() {
        for quota in [1, 2, 19, 20, 21, 39, 100, 101, 10_000, u32::MAX] {
            let blocks = Blocks::of(quota);
            let sizes: Vec<u32> = (0..).map_while(|i| blocks.size(i)).collect();
            let sum: u64 = sizes.iter().map(|s| u64::from(*s)).sum();
            assert_eq!(sum, u64::from(quota));
            assert!(sizes.len() <= 20, "{quota}");
        }
    }
}
