//! What a process begins with: everything that it goes by as it lies on the
//! stream, and a recent head that says that there is nothing newer.

use std::time::Duration;

use bulla_envelope::{Bounds, Freshness, Head, Holdings, Mark, RevocationList};
use bulla_identity::{TrustDomain, reserved};
use bulla_keyring::VerifyingKey;
use bytes::Bytes;

use super::revocations::RevocationState;
use super::{
    BundleState, PolicyState, SNAPSHOT_TIMEOUT, fetch, open_bundle, open_signed, parse_policy,
};
use crate::clock;
use crate::connection::Connection;
use crate::error::ControlError;
use crate::refusal::chain;

/// What a snapshot is judged by.
pub(super) struct Wanted<'a> {
    pub(super) roots: &'a [VerifyingKey],
    pub(super) domain: &'a TrustDomain,
    pub(super) skew: Duration,
    pub(super) bounds: Bounds,
    pub(super) started: tokio::time::Instant,
}

/// Everything that a process goes by, confirmed by a head.
pub(super) struct Snapshot {
    pub(super) bundle: BundleState,
    pub(super) policy: PolicyState,
    pub(super) revocations: RevocationState,
    pub(super) freshness: Freshness,
    /// The record of a policy on trial, not opened yet.
    pub(super) candidate: Option<Bytes>,
}

pub(super) async fn snapshot(
    connection: &Connection,
    wanted: Wanted<'_>,
) -> Result<Snapshot, ControlError> {
    let Wanted {
        roots,
        domain,
        skew,
        bounds,
        started,
    } = wanted;
    let look = async |subject: &str| fetch(connection, subject, SNAPSHOT_TIMEOUT).await;
    let get =
        async |subject: &str, what| look(subject).await?.ok_or(ControlError::Missing { what });
    let now = clock::now();
    let record = get(reserved::CTL_BUNDLE, "trust bundle").await?;
    let bundle = open_bundle(&record, roots, domain, now, skew)?;
    let bundle = BundleState { bundle, record };
    let record = get(reserved::CTL_POLICY, "policy").await?;
    let signed = open_signed(&record, &bundle.bundle, now, skew)?;
    let revocations = match look(reserved::CTL_REVOCATIONS).await? {
        None => RevocationState::none(),
        Some(record) => {
            let opened = RevocationList::open(&record, &bundle.bundle, now, skew);
            let list = opened.map_err(|e| ControlError::Invalid {
                what: "revocation list",
                reason: chain(&e),
            })?;
            RevocationState::of(list, record)
        }
    };
    let candidate = look(reserved::CTL_CANDIDATE).await?;
    // Last, so that it can be about all of them.
    let head = get(reserved::CTL_HEAD, "head").await?;
    let unconfirmed = |reason: String| ControlError::Unconfirmed { reason };
    let head = Head::open(&head, &bundle.bundle, now, skew).map_err(|e| unconfirmed(chain(&e)))?;
    let held = Holdings {
        bundle: bundle.bundle.version,
        policy: Mark::of(signed.revision, &record),
        revocations: revocations.mark(),
    };
    let mut freshness = Freshness::new(bounds, skew);
    let tick = started.elapsed();
    freshness.hear(&head, &held, tick);
    freshness
        .check(clock::now(), tick)
        .map_err(|stale| unconfirmed(stale.to_string()))?;
    Ok(Snapshot {
        bundle,
        policy: parse_policy(signed, record)?,
        revocations,
        freshness,
        candidate,
    })
}
