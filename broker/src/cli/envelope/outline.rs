//! An envelope taken apart as far as it goes, whether or not it is well-formed.
//!
//! This is for people to look at; what may be acted on is decided by
//! [`bulla_envelope::SealedEnvelope::decode`] alone.

use rmpv::Value;

/// The elements, up to the first that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) version: Option<u64>,
    pub(super) header: Vec<u8>,
    /// Keys and values of the header.
    pub(super) fields: Vec<(u64, Value)>,
    /// Nil, or its bytes.
    pub(super) token: Option<Value>,
    pub(super) body: Option<Vec<u8>>,
    pub(super) proof: Option<Vec<Value>>,
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
        rmp::decode::read_array_len(&mut at).ok()?;
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
        self.proof = next(&mut at)?.as_array().cloned();
        Some(())
    }

    fn read_header(&mut self) -> Option<()> {
        let header = std::mem::take(&mut self.header);
        let mut at = header.as_slice();
        if let Ok(entries) = rmp::decode::read_map_len(&mut at) {
            for _ in 0..entries {
                let entry = next(&mut at)
                    .and_then(|key| key.as_u64())
                    .and_then(|key| Some((key, next(&mut at)?)));
                let Some(entry) = entry else { break };
                self.fields.push(entry);
            }
        }
        self.header = header;
        Some(())
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

fn next(at: &mut &[u8]) -> Option<Value> {
    rmpv::decode::read_value(at).ok()
}

/// A byte string, or as much of it as is there.
fn bin<'a>(at: &mut &'a [u8]) -> Option<(&'a [u8], bool)> {
    let len = usize::try_from(rmp::decode::read_bin_len(at).ok()?).ok()?;
    let (value, rest) = at.split_at_checked(len).unwrap_or((at, &[]));
    *at = rest;
    Some((value, value.len() == len))
}
