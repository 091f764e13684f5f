//! The credential of this process, kept for the next one: so that a service
//! starts while no broker answers.
//!
//! ```text
//! file   = box under the nkey's seed (bulla_keyring, at rest)
//! secret = 1 ‖ message key (32) ‖ X-Wing (32) ‖ X25519 (32) ‖ exchange (32) ‖ credential
//! ```
//!
//! The next process has an epoch of its own, as every process, so it repeats no
//! sequence number, nonce or data key, although its message key is the same.

use std::path::Path;
use std::sync::Arc;

use bulla_identity::WorkloadId;
use bulla_keyring::{BadCiphertext, NkeySeed};
use bulla_process::{PrivateDir, PrivateDirError, SecretFileError};
use zeroize::Zeroizing;

use crate::kems::ProcessSeeds;
use crate::secret;

const VERSION: u8 = 1;
const KEY_LEN: usize = 32;

/// Where one process keeps its credential.
pub(crate) struct State {
    dir: PrivateDir,
    workload: WorkloadId,
    seed: Arc<NkeySeed>,
}

/// A credential with the secrets of its process.
pub(crate) struct Kept {
    pub(crate) message: Zeroizing<[u8; KEY_LEN]>,
    pub(crate) process: ProcessSeeds,
    pub(crate) credential: Vec<u8>,
}

/// Why nothing is kept, or nothing found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("it was kept under another nkey, or was changed")]
    Seal(#[from] BadCiphertext),
    #[error("it has another form than this version keeps")]
    Form,
}

impl State {
    pub(crate) fn open(
        dir: &Path,
        workload: &WorkloadId,
        seed: Arc<NkeySeed>,
    ) -> Result<Self, PrivateDirError> {
        Ok(Self {
            dir: PrivateDir::open(dir)?,
            workload: workload.clone(),
            seed,
        })
    }

    pub(crate) fn save(&self, kept: &Kept) -> Result<(), StateError> {
        let sealed = self
            .seed
            .seal_at_rest(&self.workload, &secret::fresh(), &kept.write());
        Ok(self.dir.replace(&self.name(), &sealed)?)
    }

    /// What an earlier process kept; nothing if there was none.
    pub(crate) fn load(&self) -> Result<Option<Kept>, StateError> {
        let Some(sealed) = self.dir.read(&self.name())? else {
            return Ok(None);
        };
        let opened = self.seed.open_at_rest(&self.workload, &sealed)?;
        Kept::read(&opened).map(Some).ok_or(StateError::Form)
    }

    fn name(&self) -> String {
        format!("{}.credential", self.workload.tag())
    }
}

impl Kept {
    fn write(&self) -> Zeroizing<Vec<u8>> {
        let len = 1 + 4 * KEY_LEN + self.credential.len();
        // Room for everything at once: growing would leave copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.push(VERSION);
        out.extend_from_slice(self.message.as_slice());
        for seed in self.process.all() {
            out.extend_from_slice(seed.as_slice());
        }
        out.extend_from_slice(&self.credential);
        out
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (message, rest) = rest.split_first_chunk::<KEY_LEN>()?;
        let (xwing, rest) = rest.split_first_chunk::<KEY_LEN>()?;
        let (x25519, rest) = rest.split_first_chunk::<KEY_LEN>()?;
        let (exchange, credential) = rest.split_first_chunk::<KEY_LEN>()?;
        Some(Self {
            message: Zeroizing::new(*message),
            process: ProcessSeeds {
                xwing: Zeroizing::new(*xwing),
                x25519: Zeroizing::new(*x25519),
                exchange: Zeroizing::new(*exchange),
            },
            credential: credential.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;

    #[test]
    fn what_is_kept_is_found_by_the_same_workload_and_seed_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let workload = WorkloadId::parse("spiffe://acme.example/orders").unwrap();
        let seed = |n| Arc::new(NkeySeed::from_random(NkeyKind::User, &[n; 32]).unwrap());
        let state = State::open(&path, &workload, seed(1)).unwrap();
        assert!(state.load().unwrap().is_none());
        let kept = Kept {
            message: Zeroizing::new([1; 32]),
            process: ProcessSeeds {
                xwing: Zeroizing::new([2; 32]),
                x25519: Zeroizing::new([3; 32]),
                exchange: Zeroizing::new([4; 32]),
            },
            credential: b"credential".to_vec(),
        };
        state.save(&kept).unwrap();
        let found = state.load().unwrap().unwrap();
        assert_eq!(*found.write(), *kept.write());
        let file = path.join(format!("{}.credential", workload.tag()));
        let mut sealed = std::fs::read(&file).unwrap();
        assert!(sealed.windows(4).all(|window| window != [1; 4]));

        drop(state);
        let other = State::open(&path, &workload, seed(2)).unwrap();
        assert!(matches!(other.load(), Err(StateError::Seal(_))));
        drop(other);
        *sealed.last_mut().unwrap() ^= 1;
        std::fs::write(&file, sealed).unwrap();
        let state = State::open(&path, &workload, seed(1)).unwrap();
        assert!(matches!(state.load(), Err(StateError::Seal(_))));
    }
}
