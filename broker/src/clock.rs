//! The wall clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

use bulla_identity::UnixMillis;

/// Now. A clock before 1970 reads as 1970: then every request expires too far
/// ahead, and nothing is answered.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
