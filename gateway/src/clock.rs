//! The one place where the edge reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use bulla_identity::UnixMillis;

/// Now. A clock before 1970 reads as 1970, when every token is refused.
pub(crate) fn now() -> UnixMillis {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis());
    UnixMillis::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
