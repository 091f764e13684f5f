//! The operator's files: what they hold now, and whether it is new.

use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;

use crate::config::TrustFiles;
use crate::follow::FollowFault;

/// The signed trust bundle, policy and revocation list on this broker's disk.
#[derive(Debug)]
pub(crate) struct Files {
    paths: TrustFiles,
    /// What was looked at last, so that an old file costs nothing.
    bundle: Bytes,
    policy: Bytes,
    revocations: Bytes,
}

impl Files {
    pub(crate) fn new(paths: TrustFiles) -> Self {
        Self {
            paths,
            bundle: Bytes::new(),
            policy: Bytes::new(),
            revocations: Bytes::new(),
        }
    }

    /// The bundle, if it was not looked at before and `is_new` says so.
    pub(crate) fn bundle(
        &mut self,
        is_new: impl FnOnce(&Bytes) -> Result<bool, FollowFault>,
    ) -> Result<Option<Bytes>, FollowFault> {
        look(&self.paths.bundle, &mut self.bundle, is_new)
    }

    /// The same for the policy.
    pub(crate) fn policy(
        &mut self,
        is_new: impl FnOnce(&Bytes) -> Result<bool, FollowFault>,
    ) -> Result<Option<Bytes>, FollowFault> {
        look(&self.paths.policy, &mut self.policy, is_new)
    }

    /// The same for the revocation list, if a file is named and there.
    pub(crate) fn revocations(
        &mut self,
        is_new: impl FnOnce(&Bytes) -> Result<bool, FollowFault>,
    ) -> Result<Option<Bytes>, FollowFault> {
        let Some(path) = &self.paths.revocations else {
            return Ok(None);
        };
        match look(path, &mut self.revocations, is_new) {
            Err(FollowFault::File(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
            looked => looked,
        }
    }
}

fn look(
    path: &Path,
    seen: &mut Bytes,
    is_new: impl FnOnce(&Bytes) -> Result<bool, FollowFault>,
) -> Result<Option<Bytes>, FollowFault> {
    let found = Bytes::from(std::fs::read(path)?);
    if found == *seen {
        return Ok(None);
    }
    match is_new(&found) {
        Ok(true) => Ok(Some(found)),
        Ok(false) => {
            *seen = found;
            Ok(None)
        }
        // An older file than what the stream holds: another broker's was newer.
        Err(FollowFault::Trust(fault)) if fault.is_rollback() => {
            *seen = found;
            Ok(None)
        }
        // Looked at again: what it needs may come, another bundle for instance.
        Err(fault) => Err(fault),
    }
}
