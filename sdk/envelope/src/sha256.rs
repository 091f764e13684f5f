//! SHA-256 of messages that are there in whole ([FIPS 180-4]), one or two at a time.
//!
//! Two at once take little more than one: see [`compress`]. The blocks are laid out
//! here.
//!
//! [FIPS 180-4]: https://doi.org/10.6028/NIST.FIPS.180-4

mod compress;

use self::compress::{compress, compress_both};

/// Bytes of a block.
const BLOCK: usize = 64;
/// The length in bits, at the end of the last block.
const LENGTH: usize = 8;
/// FIPS 180-4 §5.3.3.
const INITIAL: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

type Block = [u8; BLOCK];
type State = [u32; 8];

/// A message in blocks.
struct Blocks<'a> {
    /// Those that lie in the message as they are, as far as they are not taken.
    whole: &'a [Block],
    /// The last one or two: what is left of the message, and the padding.
    end: [Block; 2],
    /// Which of them are not taken: from the first of these, as many as the second.
    left: (usize, usize),
}

/// The hash of one message.
pub(crate) fn digest(message: &[u8]) -> [u8; 32] {
    let mut state = INITIAL;
    let blocks = Blocks::new(message);
    compress(&mut state, blocks.whole);
    compress(&mut state, blocks.ending());
    big_endian(state)
}

/// The hashes of two messages, side by side.
pub(crate) fn digest_both(a: &[u8], b: &[u8]) -> [[u8; 32]; 2] {
    let mut states = [INITIAL; 2];
    let (mut a, mut b) = (Blocks::new(a), Blocks::new(b));
    loop {
        let (next_of_a, next_of_b) = (a.next(), b.next());
        let together = next_of_a.len().min(next_of_b.len());
        if together == 0 {
            break;
        }
        let of_a = next_of_a.get(..together).unwrap_or_default();
        let of_b = next_of_b.get(..together).unwrap_or_default();
        compress_both(&mut states, [of_a, of_b]);
        a.take(together);
        b.take(together);
    }
    // Of one of them nothing is left.
    let [of_a, of_b] = &mut states;
    for (state, blocks) in [(of_a, &a), (of_b, &b)] {
        compress(state, blocks.whole);
        compress(state, blocks.ending());
    }
    states.map(big_endian)
}

/// The hash of a message that lies in blocks already, padding and all.
#[inline]
pub(crate) fn digest_blocks(blocks: &[Block]) -> [u8; 32] {
    let mut state = INITIAL;
    compress(&mut state, blocks);
    big_endian(state)
}

/// The hashes of two such messages, side by side.
#[inline]
pub(crate) fn digest_both_blocks(a: &[Block], b: &[Block]) -> [[u8; 32]; 2] {
    let mut states = [INITIAL; 2];
    let together = a.len().min(b.len());
    let (a, rest_of_a) = a.split_at_checked(together).unwrap_or_default();
    let (b, rest_of_b) = b.split_at_checked(together).unwrap_or_default();
    compress_both(&mut states, [a, b]);
    let [of_a, of_b] = &mut states;
    // Of one of them nothing is left.
    compress(of_a, rest_of_a);
    compress(of_b, rest_of_b);
    states.map(big_endian)
}

/// Lays a message out in blocks at the beginning of `room`, which is zero, and pads it
/// ([FIPS 180-4 §5.1.1]): a bit, zeros, its length in bits. Tells how many blocks it takes;
/// nothing if there is no room for them.
pub(crate) fn lay_out<const N: usize>(room: &mut [u8], parts: [&[u8]; N]) -> Option<usize> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let blocks = (len + 1 + LENGTH).div_ceil(BLOCK);
    let mut room = room.get_mut(..blocks * BLOCK)?;
    *room.last_chunk_mut()? = (len as u64).wrapping_mul(8).to_be_bytes();
    for part in parts {
        let (to, rest) = std::mem::take(&mut room).split_at_mut_checked(part.len())?;
        to.copy_from_slice(part);
        room = rest;
    }
    *room.first_mut()? = 0x80;
    Some(blocks)
}

impl<'a> Blocks<'a> {
    /// Pads a message ([FIPS 180-4 §5.1.1]): a bit, zeros, its length in bits.
    fn new(message: &'a [u8]) -> Self {
        let (whole, rest) = message.as_chunks::<BLOCK>();
        let many = match rest.len() + 1 + LENGTH <= BLOCK {
            true => 1,
            false => 2,
        };
        let mut end = [[0; BLOCK]; 2];
        let bytes = end.as_flattened_mut();
        if let Some((start, [bit, ..])) = bytes.split_at_mut_checked(rest.len()) {
            start.copy_from_slice(rest);
            *bit = 0x80;
        }
        let bits = (message.len() as u64).wrapping_mul(8);
        let len = many * BLOCK;
        if let Some(length) = bytes.get_mut(len - LENGTH..len) {
            length.copy_from_slice(&bits.to_be_bytes());
        }
        Self {
            whole,
            end,
            left: (0, many),
        }
    }

    /// Those that come next and lie one after the other: none at the end.
    fn next(&self) -> &[Block] {
        match self.whole {
            [] => self.ending(),
            whole => whole,
        }
    }

    /// What is left of the last ones.
    fn ending(&self) -> &[Block] {
        let (from, many) = self.left;
        self.end.get(from..from + many).unwrap_or_default()
    }

    /// Takes so many of those that come next.
    fn take(&mut self, many: usize) {
        match self.whole {
            [] => {
                let (from, left) = self.left;
                self.left = (from + many, left.saturating_sub(many));
            }
            whole => self.whole = whole.get(many..).unwrap_or_default(),
        }
    }
}

fn big_endian(state: State) -> [u8; 32] {
    let mut bytes = [0; 32];
    let (words, _) = bytes.as_chunks_mut::<4>();
    for (to, word) in words.iter_mut().zip(state) {
        *to = word.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// All lengths around the ends of blocks, beside all others.
    #[test]
    fn each_is_what_the_library_says() {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(400).collect();
        let lengths = [
            0, 1, 47, 54, 55, 56, 57, 63, 64, 65, 118, 119, 120, 128, 183, 184, 256, 399,
        ];
        for a in 0..=bytes.len() {
            for b in lengths {
                let (a, b) = (&bytes[..a], &bytes[bytes.len() - b..]);
                let [of_a, of_b]: [[u8; 32]; 2] = [a, b].map(|it| Sha256::digest(it).into());
                assert_eq!(digest(a), of_a);
                assert_eq!(digest_both(a, b), [of_a, of_b]);
                assert_eq!(digest_both(b, a), [of_b, of_a]);
            }
        }
    }

    /// The library is the reference; that it is right has tests of its own, of which
    /// this is the first [FIPS 180-4 example].
    #[test]
    fn the_published_example() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let both = digest_both(b"abc", b"abc");
        assert_eq!(data_encoding::HEXLOWER.encode(&both[0]), expected);
        assert_eq!(both[0], both[1]);
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(b"abc\x80");
        block[BLOCK - 1] = 24;
        assert_eq!(digest_blocks(&[block]), both[0]);
        assert_eq!(digest_both_blocks(&[block], &[block]), both);
    }

    /// Laid out in blocks, of one part or two, alone and beside one of another length.
    #[test]
    fn what_is_laid_out_is_padded() {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(400).collect();
        let laid_out = |len: usize| {
            let mut room = [0; 384];
            let (start, end) = bytes[..len].split_at(len / 3);
            lay_out(&mut room, [start, end]).map(|blocks| room.as_chunks().0[..blocks].to_vec())
        };
        for len in 0..=375 {
            let blocks = laid_out(len).unwrap();
            assert_eq!(digest_blocks(&blocks), digest(&bytes[..len]));
            for other in [0, 55, 56, 200, 375] {
                let beside = laid_out(other).unwrap();
                let expected = [digest(&bytes[..len]), digest(&bytes[..other])];
                assert_eq!(digest_both_blocks(&blocks, &beside), expected);
            }
        }
        for len in 376..=400 {
            assert_eq!(laid_out(len), None);
        }
    }
}
