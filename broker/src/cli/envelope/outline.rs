//! An envelope taken apart as far as it goes, whether or not it is well-formed.
//!
//! This is for people to look at; what may be acted on is decided by
//! [`bulla_envelope::SealedEnvelope::decode`] alone.

use std::fmt;

use rmpv::Value;

/// The elements, up to the first that cannot be read.
#[derive(Default)]
pub(super) struct Outline {
    pub(super) version: Option<u64>,
    pub(super) header: Vec<u8>,
    /// Keys and values of the header.
    pub(super) fields: Vec<(u64, Value)>,
    /// Nil, or its bytes.
    pub(super) token: Option<Value>,
    pub(super) body: Option<Vec<u8>>,
    /// Of each message that led to it, the header's keys and values.
    pub(super) ancestors: Vec<Vec<(u64, Value)>>,
    pub(super) proof: Option<Vec<Value>>,
}

/// Shows how far it goes, never token or body.
impl fmt::Debug for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<u64> = self.fields.iter().map(|(key, _)| *key).collect();
        f.debug_struct("Outline")
            .field("version", &self.version)
            .field("fields", &keys)
            .field("body_len", &self.body.as_ref().map(Vec::len))
            .field("ancestors", &self.ancestors.len())
            .finish_non_exhaustive()
    }
}

impl Outline {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut outline = Self::default();
        // What ends it early is told by the strict decoder.
        let _ = outline.read(bytes);
        outline
    }

    fn read(&mut self, bytes: &[u8]) -> Option<()> {
        let mut at = bytes;
        let elements = rmp::decode::read_array_len(&mut at).ok()?;
        self.version = Some(next(&mut at)?.as_u64()?);
        let (header, complete) = bin(&mut at)?;
        self.header = header.to_vec();
        self.read_header();
        if !complete {
            return None;
        }
        self.token = Some(next(&mut at)?);
        let body = next(&mut at)?;
        self.body = Some(body.as_slice()?.to_vec());
        if elements == 6 {
            let shown = next(&mut at)?;
            self.read_ancestors(shown.as_slice()?);
        }
        self.proof = next(&mut at)?.as_array().cloned();
        Some(())
    }

    fn read_header(&mut self) {
        self.fields = fields(&self.header);
    }

    fn read_ancestors(&mut self, mut shown: &[u8]) {
        let Ok(count) = rmp::decode::read_array_len(&mut shown) else {
            return;
        };
        for _ in 0..count {
            let Some(ancestor) = next(&mut shown) else {
                return;
            };
            let header = ancestor.as_array().and_then(|pieces| pieces.first());
            let header = header.and_then(Value::as_slice).unwrap_or_default();
            self.ancestors.push(fields(header));
        }
    }

    pub(super) fn field(&self, key: u64) -> Option<&Value> {
        let entry = self.fields.iter().find(|(k, _)| *k == key)?;
        Some(&entry.1)
    }

    pub(super) fn uint(&self, key: u64) -> Option<u64> {
        self.field(key)?.as_u64()
    }

    pub(super) fn bytes(&self, key: u64) -> Option<&[u8]> {
        match self.field(key)? {
            Value::Binary(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The entries of a header, up to the first that cannot be read.
fn fields(header: &[u8]) -> Vec<(u64, Value)> {
    let mut at = header;
    let entries = rmp::decode::read_map_len(&mut at).unwrap_or(0);
    (0..entries)
        .map_while(|_| Some((next(&mut at)?.as_u64()?, next(&mut at)?)))
        .collect()
}

/// The next value of these bytes.
pub(super) fn next(at: &mut &[u8]) -> Option<Value> {
    rmpv::decode::read_value_with_max_depth(at, MAX_DEPTH).ok()
}

/// A byte string, or as much of it as is there.
fn bin<'a>(at: &mut &'a [u8]) -> Option<(&'a [u8], bool)> {
    let len = usize::try_from(rmp::decode::read_bin_len(at).ok()?).ok()?;
    let (value, rest) = at.split_at_checked(len).unwrap_or((at, &[]));
    *at = rest;
    Some((value, value.len() == len))
}

/// How deep values may nest that are looked at: far deeper than any of the format, and no
/// deeper than any stack takes.
pub(super) const MAX_DEPTH: usize = 32;
