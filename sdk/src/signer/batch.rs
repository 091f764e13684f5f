//! What goes together: which of those that wait share a signature, and which of
//! them an envelope.

use std::ops::Range;
use std::sync::Arc;

use bulla_envelope::{MAX_FRAME, Sealer};

use super::Waiting;
use crate::letter::Letter;
use crate::prefetch::prefetch_value;

/// Envelopes under one signature at most. The proof grows by 24 bytes each time
/// this doubles, while the signature's share shrinks by less and less.
const ENVELOPES: usize = 256;
/// Weight of a batch at most: its envelopes share one buffer, which lives until
/// the last of them is written.
const WEIGHT: u32 = 1_024;
/// Bytes of bodies in a frame of several messages at most: beyond, NATS's own
/// price of a message hardly counts, and what is lost is lost together.
const FRAME_BODIES: usize = 16 * 1_024;
/// What a message adds to a frame besides its body: its id, and the head of
/// its body as a byte string.
const FRAME_SHARE: usize = 16 + 5;
/// What being a frame of several adds at most: the head of the array, and
/// longer heads of what holds it.
const FRAME_HEAD: usize = 16;

/// So many messages before its turn a letter is asked for.
const AHEAD: usize = 8;

/// What goes under one signature.
pub(super) struct Batch {
    /// How many of those that wait it takes.
    pub(super) len: usize,
    /// Its frames, in order. Who has gone is in none.
    pub(super) units: Vec<Range<usize>>,
    /// What it is sealed with; none if the credential has expired.
    pub(super) sealer: Option<Arc<Sealer>>,
}

impl Batch {
    /// Cuts the next batch off the beginning of what waits, at least one message.
    pub(super) fn cut(waiting: &[Waiting], limit: usize, in_use: Option<&Arc<Sealer>>) -> Self {
        let mut batch = Self {
            len: 0,
            sealer: None,
            units: Vec::with_capacity(waiting.len().min(ENVELOPES)),
        };
        let mut weight = 0;
        while let Some(next) = waiting.get(batch.len) {
            if let Some(later) = waiting.get(batch.len + AHEAD) {
                prefetch_value(&*later.letter);
            }
            if next.is_abandoned() {
                batch.len += 1;
                continue;
            }
            // Too near to the largest payload to carry a path.
            let is_alone = next.size + Sealer::BATCH_ROOM > limit;
            let sealer = next.letter.under.as_ref().or(in_use);
            let first = batch.units.first().and_then(|unit| waiting.get(unit.start));
            if first.is_none() {
                batch.sealer = sealer.cloned();
            }
            if let Some(first) = first
                && (is_alone
                    || batch.units.len() == ENVELOPES
                    || weight + next.weight > WEIGHT
                    || !is_same(batch.sealer.as_ref(), sealer)
                    || !may_share_batch(&first.letter, &next.letter))
            {
                break;
            }
            let rest = waiting.get(batch.len..).unwrap_or_default();
            let frame = frame_len(rest, limit, WEIGHT.saturating_sub(weight));
            weight += rest.iter().take(frame).map(|w| w.weight).sum::<u32>();
            batch.units.push(batch.len..batch.len + frame);
            batch.len += frame;
            if is_alone {
                break;
            }
        }
        batch
    }
}

fn is_same(a: Option<&Arc<Sealer>>, b: Option<&Arc<Sealer>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

fn may_share_batch(a: &Letter, b: &Letter) -> bool {
    (a.sharing.batch && b.sharing.batch) || a.to.is(&b.to)
}

/// How many of the messages, from the first on, make one frame: at least it.
fn frame_len(waiting: &[Waiting], limit: usize, weight: u32) -> usize {
    let Some((first, others)) = waiting.split_first() else {
        return 0;
    };
    let mut size = first.size + Sealer::BATCH_ROOM + FRAME_HEAD + FRAME_SHARE;
    let mut bodies = first.letter.body.len();
    let mut taken = first.weight;
    let fitting = others.iter().take(MAX_FRAME - 1).take_while(|next| {
        let body = next.letter.body.len();
        size += body + FRAME_SHARE;
        bodies += body;
        taken += next.weight;
        size <= limit
            && bodies <= FRAME_BODIES
            && taken <= weight
            && next.told.is_none()
            && next.letter.fits_frame_of(&first.letter)
    });
    1 + fitting.count()
}
