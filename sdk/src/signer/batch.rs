//! What goes together: which of those that wait share a signature, and which of
//! them an envelope.

use std::sync::Arc;

use bulla_envelope::{MAX_FRAME, Sealer};

use super::{Other, Waiting};
use crate::letter::Letter;

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

/// What goes under one signature.
pub(super) struct Batch {
    /// How many of those that wait it takes.
    pub(super) len: usize,
    /// Its envelopes, in order, by their place. Who has gone is in none.
    pub(super) units: Vec<usize>,
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
            if next.is_abandoned() {
                batch.len += 1;
                continue;
            }
            // Too near to the largest payload to carry a path.
            let is_alone = next.size + Sealer::BATCH_ROOM > limit;
            let sealer = next.letter.under.as_ref().or(in_use);
            let first = batch.units.first().and_then(|unit| waiting.get(*unit));
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
            weight += next.weight;
            batch.units.push(batch.len);
            batch.len += 1;
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

/// Queues a message: in the frame of the last one, if it fits there, and by itself
/// otherwise. Gives back what is left of one that a frame has taken.
pub(super) fn add(waiting: &mut Vec<Waiting>, mut new: Waiting, limit: usize) -> Option<Waiting> {
    match waiting.last_mut() {
        Some(last) if fits(last, &new, limit) => {
            last.weight += new.weight;
            last.bodies += new.bodies;
            last.others.push(Other {
                id: new.letter.id(),
                body: std::mem::take(&mut new.letter.body),
            });
            Some(new)
        }
        _ => {
            waiting.push(new);
            None
        }
    }
}

/// Whether an event may share the frame of others.
fn fits(frame: &Waiting, new: &Waiting, limit: usize) -> bool {
    // What its messages share is counted already, and so is the first.
    let others = frame.bodies - frame.letter.body.len() + new.bodies;
    let shares = FRAME_HEAD + FRAME_SHARE * (frame.messages() + 1);
    frame.told.is_none()
        && new.told.is_none()
        && frame.messages() < MAX_FRAME
        && frame.weight + new.weight <= WEIGHT
        && frame.bodies + new.bodies <= FRAME_BODIES
        && frame.size + Sealer::BATCH_ROOM + shares + others <= limit
        && new.letter.fits_frame_of(&frame.letter)
}
