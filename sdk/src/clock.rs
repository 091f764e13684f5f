//! The one place where the SDK reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use bulla_identity::UnixMillis;

pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
