//! Which 32 bytes are a sound X25519 public key.

/// Whether X25519 with this public key always gives zero: the u-coordinates 0,
/// 1, p − 1, the two of order 8, and their forms above p. The top bit is
/// ignored, as X25519 does ([RFC 7748 §5]).
///
/// [RFC 7748 §5]: https://www.rfc-editor.org/rfc/rfc7748#section-5
pub(crate) fn is_small_order(u: &[u8; 32]) -> bool {
    let mut u = *u;
    if let Some(top) = u.last_mut() {
        *top &= 0x7f;
    }
    SMALL_ORDER_U.contains(&u)
}

/// Whether the bytes are the one encoding of their u-coordinate: below
/// p = 2^255 − 19, with the top bit clear. X25519 itself takes the others too;
/// here key ids are made of the bytes, and one key has one id.
pub(crate) fn is_canonical(u: &[u8; 32]) -> bool {
    let [first, middle @ .., last] = u;
    let at_least_p = *first >= 0xed && *last == 0x7f && middle.iter().all(|byte| *byte == 0xff);
    *last & 0x80 == 0 && !at_least_p
}

const fn near_p(low: u8) -> [u8; 32] {
    let mut u = [0xff; 32];
    if let Some(first) = u.first_mut() {
        *first = low;
    }
    if let Some(top) = u.last_mut() {
        *top = 0x7f;
    }
    u
}

const fn small(low: u8) -> [u8; 32] {
    let mut u = [0; 32];
    if let Some(first) = u.first_mut() {
        *first = low;
    }
    u
}

pub(crate) const SMALL_ORDER_U: [[u8; 32]; 7] = [
    small(0),
    small(1),
    // p - 1, p, p + 1
    near_p(0xec),
    near_p(0xed),
    near_p(0xee),
    // order 8
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_encodings_pass() {
        assert!(is_canonical(&small(9)));
        assert!(is_canonical(&near_p(0xec)));
        for low in 0xed..=0xff {
            assert!(!is_canonical(&near_p(low)), "p + {}", low - 0xed);
        }
        let mut u = near_p(0xff);
        u[17] = 0xfe;
        assert!(is_canonical(&u), "a byte in the middle is below p's");
        let mut u = small(9);
        u[31] = 0x80;
        assert!(!is_canonical(&u), "the top bit is set");
    }

    /// The list is the right one: X25519 gives zero for each of it, and for
    /// none of the values next to them.
    #[test]
    fn small_order_is_what_always_gives_zero() {
        let secret = x25519_dalek::StaticSecret::from([7; 32]);
        let contributory = |u: [u8; 32]| secret.diffie_hellman(&u.into()).was_contributory();
        for u in SMALL_ORDER_U {
            assert!(!contributory(u) && is_small_order(&u));
            let mut next = u;
            next[0] ^= 0x10;
            assert!(contributory(next) && !is_small_order(&next));
        }
    }
}
