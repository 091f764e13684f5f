//! The compression function of SHA-256 ([FIPS 180-4 §6.2.2]), for one message by the
//! library and for two at once.
//!
//! A round waits for the one before it. Processors with instructions for SHA-256 could
//! begin one every two cycles and have its result after four, so one message leaves
//! half of their time unused. Here the rounds of two messages alternate, instruction by
//! instruction. Where there are no such instructions the library compresses one block
//! of each in turn.
//!
//! Which of both it is, `multiversion` asks the processor once; the instructions are the
//! standard library's, and safe where they are known to be there.
//!
//! [FIPS 180-4 §6.2.2]: https://doi.org/10.6028/NIST.FIPS.180-4

// What finds no such instructions does not need the macro.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused_imports))]

use std::slice;

use multiversion::multiversion;
use multiversion::target::match_target;
use sha2::compress256;
use sha2::digest::generic_array::GenericArray;

use super::{Block, State};

/// One message's blocks, one after the other.
pub(super) fn compress(state: &mut State, blocks: &[Block]) {
    for block in blocks {
        compress256(state, slice::from_ref(GenericArray::from_slice(block)));
    }
}

/// The blocks of two messages, as many of the one as of the other.
#[multiversion(targets("x86_64+sse2+ssse3+sse4.1+sha"))]
pub(super) fn compress_both(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    match_target! {
        "x86_64+sse2+ssse3+sse4.1+sha" => sha_ni::compress_both(states, blocks),
        _ => in_turn(states, blocks),
    }
}

/// A block of the one, a block of the other: the next begins while the end of the last
/// is still awaited.
#[cfg_attr(
    target_arch = "x86_64",
    allow(dead_code, reason = "some processors always have the instructions")
)]
fn in_turn([a, b]: &mut [State; 2], [of_a, of_b]: [&[Block]; 2]) {
    for (block_of_a, block_of_b) in of_a.iter().zip(of_b) {
        compress(a, slice::from_ref(block_of_a));
        compress(b, slice::from_ref(block_of_b));
    }
}

#[cfg(target_arch = "x86_64")]
mod sha_ni {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
        _mm_shuffle_epi32,
    };

    use crate::sha256::{Block, State};

    /// The constants of four rounds each (FIPS 180-4 §4.2.2).
    const K: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
        [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
        [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
        [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
        [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
        [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
        [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
        [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
        [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];

    /// The words A, B, E, F and C, D, G, H of a state, as the instructions take them.
    type Halves = [__m128i; 2];

    #[inline]
    #[target_feature(enable = "sse2,ssse3,sse4.1,sha")]
    pub(super) fn compress_both([a, b]: &mut [State; 2], [of_a, of_b]: [&[Block]; 2]) {
        let mut halves = [split(a), split(b)];
        for (block_of_a, block_of_b) in of_a.iter().zip(of_b) {
            halves = step(halves, block_of_a, block_of_b);
        }
        let [of_a, of_b] = halves;
        (*a, *b) = (join(of_a), join(of_b));
    }

    /// A block of each.
    #[inline]
    #[target_feature(enable = "sse2,ssse3,sse4.1,sha")]
    fn step([before_a, before_b]: [Halves; 2], of_a: &Block, of_b: &Block) -> [Halves; 2] {
        let [mut a0, mut a1] = before_a;
        let [mut b0, mut b1] = before_b;
        // The last sixteen words of the schedule, of which the first four come next.
        let [mut u0, mut u1, mut u2, mut u3] = words(of_a);
        let [mut v0, mut v1, mut v2, mut v3] = words(of_b);
        macro_rules! four_rounds {
            ($group:literal, $u:ident, $v:ident) => {
                let k = constants($group);
                let (u, v) = (_mm_add_epi32($u, k), _mm_add_epi32($v, k));
                a1 = _mm_sha256rnds2_epu32(a1, a0, u);
                b1 = _mm_sha256rnds2_epu32(b1, b0, v);
                let (u, v) = (_mm_shuffle_epi32::<0x0e>(u), _mm_shuffle_epi32::<0x0e>(v));
                a0 = _mm_sha256rnds2_epu32(a0, a1, u);
                b0 = _mm_sha256rnds2_epu32(b0, b1, v);
            };
        }
        macro_rules! sixteen_rounds {
            ($first:literal, $second:literal, $third:literal, $fourth:literal) => {
                four_rounds!($first, u0, v0);
                (u0, v0) = (next(u0, u1, u2, u3), next(v0, v1, v2, v3));
                four_rounds!($second, u1, v1);
                (u1, v1) = (next(u1, u2, u3, u0), next(v1, v2, v3, v0));
                four_rounds!($third, u2, v2);
                (u2, v2) = (next(u2, u3, u0, u1), next(v2, v3, v0, v1));
                four_rounds!($fourth, u3, v3);
                (u3, v3) = (next(u3, u0, u1, u2), next(v3, v0, v1, v2));
            };
        }
        sixteen_rounds!(0, 1, 2, 3);
        sixteen_rounds!(4, 5, 6, 7);
        sixteen_rounds!(8, 9, 10, 11);
        four_rounds!(12, u0, v0);
        four_rounds!(13, u1, v1);
        four_rounds!(14, u2, v2);
        four_rounds!(15, u3, v3);
        [plus(before_a, [a0, a1]), plus(before_b, [b0, b1])]
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn plus(before: Halves, [x, y]: Halves) -> Halves {
        let [before_x, before_y] = before;
        [_mm_add_epi32(x, before_x), _mm_add_epi32(y, before_y)]
    }

    /// Four words of the schedule from the sixteen before them.
    #[inline]
    #[target_feature(enable = "sse2,ssse3,sha")]
    fn next(w0: __m128i, w1: __m128i, w2: __m128i, w3: __m128i) -> __m128i {
        let early = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
        _mm_sha256msg2_epu32(early, w3)
    }

    /// The words of a block, four by four.
    #[inline]
    #[target_feature(enable = "sse2,ssse3")]
    fn words(block: &Block) -> [__m128i; 4] {
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let (quarters, _) = block.as_chunks::<16>();
        let mut words = [swap; 4];
        for (to, from) in words.iter_mut().zip(quarters) {
            let [low, high] = halves(from).map(i64::from_le_bytes);
            *to = _mm_shuffle_epi8(_mm_set_epi64x(high, low), swap);
        }
        words
    }

    fn halves(quarter: &[u8; 16]) -> [[u8; 8]; 2] {
        let (halves, _) = quarter.as_chunks::<8>();
        match halves {
            [low, high] => [*low, *high],
            _ => [[0; 8]; 2],
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn constants(group: usize) -> __m128i {
        let [k0, k1, k2, k3] = K.get(group).copied().unwrap_or_default();
        four(k3, k2, k1, k0)
    }

    /// Four words, the highest first.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn four(w3: u32, w2: u32, w1: u32, w0: u32) -> __m128i {
        let [w3, w2, w1, w0] = [w3, w2, w1, w0].map(u32::cast_signed);
        _mm_set_epi32(w3, w2, w1, w0)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn split([a, b, c, d, e, f, g, h]: &State) -> Halves {
        [four(*a, *b, *e, *f), four(*c, *d, *g, *h)]
    }

    #[inline]
    #[target_feature(enable = "sse2,sse4.1")]
    fn join([x, y]: Halves) -> State {
        [
            _mm_extract_epi32::<3>(x),
            _mm_extract_epi32::<2>(x),
            _mm_extract_epi32::<3>(y),
            _mm_extract_epi32::<2>(y),
            _mm_extract_epi32::<1>(x),
            _mm_extract_epi32::<0>(x),
            _mm_extract_epi32::<1>(y),
            _mm_extract_epi32::<0>(y),
        ]
        .map(i32::cast_unsigned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sha256::INITIAL;

    /// Whichever this processor has: both ways are what the library says of each alone.
    #[test]
    fn both_ways_are_the_librarys() {
        let block = |seed: usize| -> Block {
            std::array::from_fn(|at| (seed * 31 + at * 7).to_le_bytes()[0])
        };
        let (of_a, of_b): (Vec<Block>, Vec<Block>) = (0..40)
            .map(|seed| (block(seed), block(seed + 1_000)))
            .unzip();
        for many in 0..=of_a.len() {
            let (of_a, of_b) = (&of_a[..many], &of_b[..many]);
            let (mut a, mut b) = (INITIAL, INITIAL.map(u32::swap_bytes));
            let mut at_once = [a, b];
            compress_both(&mut at_once, [of_a, of_b]);
            let mut turns = [a, b];
            in_turn(&mut turns, [of_a, of_b]);
            compress(&mut a, of_a);
            compress(&mut b, of_b);
            assert_eq!(at_once, [a, b], "{many} blocks");
            assert_eq!(turns, [a, b], "{many} blocks");
        }
    }
}
