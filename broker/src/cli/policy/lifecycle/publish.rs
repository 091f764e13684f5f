//! The next revision: signed, put onto the control stream if nobody else was
//! faster, and kept in the history.

use bulla_envelope::{MAX_COMMENT, SignedPolicy};
use bulla_identity::{UnixMillis, reserved};
use bulla_keyring::{Tag, sha256};
use bulla_policy::Policy;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use tokio::time::Instant;

use super::{Desk, LifecycleError, Revision};
use crate::clock;
use crate::provision::{read_if_there, write};

/// A revision that lies on the control stream since a moment.
pub(in crate::cli::policy) struct Published {
    pub(in crate::cli::policy) revision: u64,
    /// SHA-256 of its record, in hexadecimal digits.
    pub(in crate::cli::policy) hash: String,
    /// When nats-server had it, by both clocks of this machine.
    pub(in crate::cli::policy) at: UnixMillis,
    pub(in crate::cli::policy) since: Instant,
}

/// Signs `text` as the revision after `base` and publishes it, unless something
/// else is in force meanwhile.
pub(in crate::cli::policy) async fn publish(
    desk: &Desk<'_>,
    base: &Revision,
    policy: &Policy,
    text: &str,
    comment: &str,
) -> Result<Published, LifecycleError> {
    if comment.len() > MAX_COMMENT {
        return Err(LifecycleError::Comment);
    }
    if policy.trust_domain() != desk.domain() {
        return Err(LifecycleError::Domain {
            policy: policy.trust_domain().clone(),
            deployment: desk.domain().clone(),
        });
    }
    let signer = desk.args.policy_signer(&desk.operator.bundle)?;
    let file = desk.args.trust_dir().map(|dir| dir.join("policy"));
    let in_file = match &file {
        Some(file) => read_if_there(file)?,
        None => None,
    };
    // What was signed for files and is on its way has a number as well.
    let in_file = in_file.and_then(|bytes| {
        let opened = SignedPolicy::danger_open_by_its_own_key(&bytes, desk.domain());
        opened.ok().map(|(signed, _)| signed.revision)
    });
    let last = base.signed.revision.max(in_file.unwrap_or(0));
    let signed = SignedPolicy {
        trust_domain: desk.domain().clone(),
        revision: last.saturating_add(1),
        issued_at: clock::now(),
        comment: comment.to_owned(),
        text: text.to_owned(),
    };
    let key = *signer.public().verifying_key();
    let signature = signer.sign(Tag::Policy, &signed.to_sign(&key))?;
    let bytes = Bytes::from(
        signed
            .signed(&key, &signature)
            .map_err(LifecycleError::Sign)?,
    );
    desk.fits(&bytes)?;
    let stream = &desk.operator.stream;
    let is_first = stream
        .replace(reserved::CTL_POLICY, bytes.clone(), base.sequence)
        .await?;
    let (at, since) = (clock::now(), Instant::now());
    if !is_first {
        return Err(LifecycleError::Moved {
            expected: base.signed.revision,
            actual: desk.in_force().await?.signed.revision,
        });
    }
    if let Some(file) = &file {
        write(file, &bytes)?;
    }
    // A broker keeps it as well; whoever comes first does.
    let subject = reserved::policy_history(signed.revision);
    let _ = stream.keep(&subject, bytes.clone()).await;
    Ok(Published {
        revision: signed.revision,
        hash: HEXLOWER.encode(&sha256(&[&bytes])),
        at,
        since,
    })
}
