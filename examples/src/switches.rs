//! Configuration in a sealed bucket: whoever reads a switch knows who set it, and that
//! the value was meant for this switch and no other.

use bulla_sdk::{BucketError, Client, PayloadError, Watch};
use serde::{Deserialize, Serialize};

/// How one part of the shop behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Whether it is in use.
    pub is_on: bool,
    /// Of a hundred customers, how many see it.
    pub percent: u8,
}

/// Why a switch is not set or not known.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The bucket says no, or a value in it does not count.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// It is the value of something else.
    #[error("that is no switch")]
    NoSwitch(#[from] PayloadError),
}

/// Sets a switch, unless somebody else set it since it was read.
///
/// # Errors
/// [`BucketError::Conflict`] then: read it again and decide anew.
pub async fn widen(operator: &Client, key: &str) -> Result<Switch, SwitchError> {
    let switches = operator.bucket("switches")?;
    let Some(entry) = switches.get(key).await? else {
        let first = Switch {
            is_on: true,
            percent: 1,
        };
        switches.create(key, &first).await?;
        return Ok(first);
    };
    let mut switch: Switch = entry.decode()?;
    switch.percent = switch.percent.saturating_mul(10).min(100);
    switches.update(key, &switch, entry.revision()).await?;
    Ok(switch)
}

/// Follows one switch: first as it is, then each change.
///
/// # Errors
/// If the policy does not let this workload read it.
pub async fn follow(shop: &Client, key: &str) -> Result<Watch, BucketError> {
    shop.bucket("switches")?.watch(key).await
}

/// Waits for the next change, and tells who made it. A value that somebody moved,
/// copied or stored without the right to is an error, not a value.
///
/// # Errors
/// [`BucketError::Refused`] for such a value; what counted before still does.
pub async fn next(changes: &mut Watch) -> Result<Option<(String, Option<Switch>)>, SwitchError> {
    let Some(entry) = changes.next().await.transpose()? else {
        return Ok(None);
    };
    let by = entry.sender().workload().path().to_owned();
    let switch = if entry.is_deleted() {
        None
    } else {
        Some(entry.decode()?)
    };
    Ok(Some((by, switch)))
}
