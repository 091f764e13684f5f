//! Random bytes that keys are made of.

use rand::rngs::OsRng;
use rand::{RngCore as _, TryRngCore as _};
use zeroize::Zeroizing;

/// Fresh bytes from the operating system.
///
/// Not from rand's generator of the thread: `fork` copies its state, and two
/// processes would make the same data key and count its nonces from the start.
pub(crate) fn fresh<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    OsRng.unwrap_err().fill_bytes(bytes.as_mut_slice());
    bytes
}
