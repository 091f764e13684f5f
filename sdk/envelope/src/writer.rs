//! MessagePack, minimal encodings only, into whatever takes bytes.

/// Takes bytes. [`Length`] only counts them, so that one encoder both measures
/// and writes and the two cannot disagree.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts the bytes that are put into it.
#[derive(Default)]
pub(crate) struct Length(pub(crate) usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// Room of a length that was measured before, written from its beginning.
pub(crate) struct Room<'a>(&'a mut [u8]);

impl<'a> Room<'a> {
    pub(crate) const fn new(room: &'a mut [u8]) -> Self {
        Self(room)
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.0.is_empty()
    }
}

impl Sink for Room<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some((to, rest)) = std::mem::take(&mut self.0).split_at_mut_checked(bytes.len()) {
            to.copy_from_slice(bytes);
            self.0 = rest;
        }
    }
}

pub(crate) fn nil(out: &mut impl Sink) {
    out.put(&[0xc0]);
}

pub(crate) fn boolean(out: &mut impl Sink, value: bool) {
    out.put(&[if value { 0xc3 } else { 0xc2 }]);
}

#[inline]
pub(crate) fn uint(out: &mut impl Sink, value: u64) {
    let [.., b3, b2, b1, b0] = value.to_be_bytes();
    match value {
        0..=0x7f => out.put(&[b0]),
        0x80..=0xff => out.put(&[0xcc, b0]),
        0x100..=0xffff => out.put(&[0xcd, b1, b0]),
        0x1_0000..=0xffff_ffff => out.put(&[0xce, b3, b2, b1, b0]),
        _ => {
            let [b7, b6, b5, b4, ..] = value.to_be_bytes();
            out.put(&[0xcf, b7, b6, b5, b4, b3, b2, b1, b0]);
        }
    }
}

pub(crate) fn array(out: &mut impl Sink, len: u32) {
    collection(out, len, 0x90, 0xdc);
}

pub(crate) fn map(out: &mut impl Sink, len: u32) {
    collection(out, len, 0x80, 0xde);
}

fn collection(out: &mut impl Sink, len: u32, fix: u8, wide: u8) {
    let [b3, b2, b1, b0] = len.to_be_bytes();
    match len {
        0..=0x0f => out.put(&[fix | b0]),
        0x10..=0xffff => out.put(&[wide, b1, b0]),
        _ => out.put(&[wide + 1, b3, b2, b1, b0]),
    }
}

#[inline]
pub(crate) fn bin(out: &mut impl Sink, bytes: &[u8]) {
    bin_header(out, bytes.len());
    out.put(bytes);
}

/// The head of a byte string whose bytes the caller puts.
#[inline]
pub(crate) fn bin_header(out: &mut impl Sink, len: usize) {
    // Everything that is written is bounded far below 4 GiB by the sealer.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    let [b3, b2, b1, b0] = len.to_be_bytes();
    match len {
        0..=0xff => out.put(&[0xc4, b0]),
        0x100..=0xffff => out.put(&[0xc5, b1, b0]),
        _ => out.put(&[0xc6, b3, b2, b1, b0]),
    }
}

#[inline]
pub(crate) fn string(out: &mut impl Sink, text: &str) {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let [b3, b2, b1, b0] = len.to_be_bytes();
    match len {
        0..=0x1f => out.put(&[0xa0 | b0]),
        0x20..=0xff => out.put(&[0xd9, b0]),
        0x100..=0xffff => out.put(&[0xda, b1, b0]),
        _ => out.put(&[0xdb, b3, b2, b1, b0]),
    }
    out.put(text.as_bytes());
}
