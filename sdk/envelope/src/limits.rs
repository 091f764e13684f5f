//! What one envelope may hold. SPEC.md, ENV-4.

use std::time::Duration;

/// Longest envelope in bytes: the largest `max_payload` that NATS can have.
pub const MAX_ENVELOPE: usize = 64 * 1024 * 1024;
/// Longest header in bytes.
pub const MAX_HEADER: usize = 16 * 1024;
/// Longest user token in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// Longest `limits` in bytes.
pub const MAX_LIMITS: usize = 4 * 1024;
/// Longest content type in bytes.
pub const MAX_CONTENT_TYPE: usize = 128;
/// Most application headers.
pub const MAX_APP_HEADERS: usize = 32;
/// Longest name of an application header in bytes.
pub const MAX_APP_HEADER_NAME: usize = 64;
/// Longest value of an application header in bytes.
pub const MAX_APP_HEADER_VALUE: usize = 1024;
/// Most bytes in names and values of all application headers together.
pub const MAX_APP_HEADERS_LEN: usize = 8 * 1024;
/// Most messages in one frame.
pub const MAX_FRAME: usize = 64;
/// Most envelopes under one signature.
pub const MAX_BATCH: usize = 1024;
/// The longest that an envelope may live from its issue: 15 minutes. Receivers
/// remember it for that long, so a sender must not choose freely.
pub const MAX_LIFE: Duration = Duration::from_secs(15 * 60);

/// Most ancestors that an envelope shows, see ENV-80.
pub const MAX_ANCESTORS: usize = 8;
/// Most bytes of all ancestors together: 32 KiB.
pub const MAX_ANCESTRY: usize = 32 * 1024;

/// Most keys that one data key is wrapped to.
pub const MAX_RECIPIENTS: usize = 512;

/// Most wraps that ride along in a header; more lie in a record of their own.
pub const MAX_INLINE_WRAPS: usize = 4;
