//! An envelope taken apart, to be put together as its sender never would.

use std::fmt;

use bulla_envelope::LeafHash;
use bulla_keyring::sha256;
use bytes::Bytes;

/// The parts of an envelope, each as it stands on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Dissected {
    /// The format's version.
    pub version: u8,
    /// The header's entries: key, and value in MessagePack.
    pub fields: Vec<(u8, Vec<u8>)>,
    /// The user token beside the header.
    pub token: Option<Vec<u8>>,
    /// The body.
    pub body: Vec<u8>,
    /// The messages that led to it, the nearest first, each as an array of three.
    pub ancestors: Vec<Vec<u8>>,
    /// Everything after that.
    pub proof: Vec<u8>,
}

/// Shows how long its parts are, never token or body.
impl fmt::Debug for Dissected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<u8> = self.fields.iter().map(|(key, _)| *key).collect();
        f.debug_struct("Dissected")
            .field("version", &self.version)
            .field("fields", &keys)
            .field("token_len", &self.token.as_ref().map(Vec::len))
            .field("body_len", &self.body.len())
            .field("ancestors", &self.ancestors.len())
            .finish_non_exhaustive()
    }
}

impl Dissected {
    /// Takes a sound envelope apart.
    #[must_use]
    pub fn of(envelope: &[u8]) -> Self {
        let (&[array @ (0x95 | 0x96), version], mut rest) =
            envelope.split_first_chunk().expect("an envelope")
        else {
            panic!("no array of five or six");
        };
        let header = take_bin(&mut rest).expect("a header");
        let token = take_bin(&mut rest).map(<[u8]>::to_vec);
        let body = take_bin(&mut rest).expect("a body").to_vec();
        let ancestors = match array {
            0x96 => ancestors_of(take_bin(&mut rest).expect("ancestors")),
            _ => Vec::new(),
        };
        let dissected = Self {
            version,
            fields: fields_of(header),
            token,
            body,
            ancestors,
            proof: rest.to_vec(),
        };
        assert_eq!(dissected.header(), header, "the same again");
        dissected
    }

    /// The header's bytes.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let count = u8::try_from(self.fields.len()).expect("a small map");
        match count {
            0..=15 => out.push(0x80 | count),
            _ => out.extend([0xde, 0, count]),
        }
        for (key, value) in &self.fields {
            out.push(*key);
            out.extend(value);
        }
        out
    }

    /// What a signature would have to cover.
    #[must_use]
    pub fn leaf(&self) -> LeafHash {
        let header = self.header();
        let len = u32::try_from(header.len()).expect("a short header");
        LeafHash(sha256(&[
            &[0x00, self.version],
            &len.to_be_bytes(),
            &header,
            &sha256(&[&self.body]),
        ]))
    }

    /// What a message that names this one as its parent shows of it.
    #[must_use]
    pub fn as_ancestor(&self) -> Vec<u8> {
        let body = sha256(&[&self.body]);
        [&[0x93][..], &bin(&self.header()), &bin(&body), &self.proof].concat()
    }

    /// Puts it together.
    #[must_use]
    pub fn assemble(&self) -> Bytes {
        let shows = !self.ancestors.is_empty();
        let mut out = vec![0x95 + u8::from(shows), self.version];
        out.extend(bin(&self.header()));
        match &self.token {
            None => out.push(0xc0),
            Some(token) => out.extend(bin(token)),
        }
        out.extend(bin(&self.body));
        if shows {
            let count = u8::try_from(self.ancestors.len()).expect("a small array");
            out.extend(bin(
                &[&[0x90 | count][..], &self.ancestors.concat()].concat()
            ));
        }
        out.extend(&self.proof);
        out.into()
    }

    /// Replaces a header entry, or adds it in its place.
    pub fn set(&mut self, key: u8, value: Vec<u8>) {
        match self.fields.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => self.fields[at].1 = value,
            Err(at) => self.fields.insert(at, (key, value)),
        }
    }

    /// Takes a header entry out.
    pub fn remove(&mut self, key: u8) {
        self.fields.retain(|(k, _)| *k != key);
    }

    /// The proof of a batch.
    pub fn set_batch_proof(&mut self, index: u64, count: u64, path: &[u8], signature: &[u8]) {
        self.proof = vec![0x94];
        self.proof.extend(uint(index));
        self.proof.extend(uint(count));
        self.proof.extend(bin(path));
        self.proof.extend(bin(signature));
    }

    /// Index, count, path and signature of the proof.
    #[must_use]
    pub fn batch_proof(&self) -> (u64, u64, Vec<u8>, Vec<u8>) {
        let mut rest = self.proof.strip_prefix(&[0x94]).expect("a batch proof");
        let mut number = || match *rest {
            [small @ 0..=0x7f, ref tail @ ..] => {
                rest = tail;
                u64::from(small)
            }
            [0xcc, small, ref tail @ ..] => {
                rest = tail;
                u64::from(small)
            }
            [0xcd, high, low, ref tail @ ..] => {
                rest = tail;
                u64::from(u16::from_be_bytes([high, low]))
            }
            _ => panic!("no small number"),
        };
        let (index, count) = (number(), number());
        let path = take_bin(&mut rest).expect("a path").to_vec();
        let signature = take_bin(&mut rest).expect("a signature").to_vec();
        (index, count, path, signature)
    }
}

/// A MessagePack unsigned integer.
#[must_use]
pub fn uint(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    match value {
        0..=0x7f => bytes[7..].to_vec(),
        0x80..=0xff => [&[0xcc], &bytes[7..]].concat(),
        0x100..=0xffff => [&[0xcd], &bytes[6..]].concat(),
        0x1_0000..=0xffff_ffff => [&[0xce], &bytes[4..]].concat(),
        _ => [&[0xcf], &bytes[..]].concat(),
    }
}

/// A MessagePack byte string.
#[must_use]
pub fn bin(value: &[u8]) -> Vec<u8> {
    let len = u32::try_from(value.len()).expect("a length").to_be_bytes();
    match value.len() {
        0..=0xff => [&[0xc4], &len[3..], value].concat(),
        0x100..=0xffff => [&[0xc5], &len[2..], value].concat(),
        _ => [&[0xc6], &len[..], value].concat(),
    }
}

/// Takes a MessagePack nil or byte string.
fn take_bin<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if let [0xc0, tail @ ..] = rest {
        *rest = tail;
        return None;
    }
    let len = value_len(rest);
    let head = match rest[0] {
        0xc4 => 2,
        0xc5 => 3,
        0xc6 => 5,
        other => panic!("{other:#x} is neither nil nor a byte string"),
    };
    let (value, tail) = rest.split_at(len);
    *rest = tail;
    Some(&value[head..])
}

/// Each ancestor as it stands in their array.
fn ancestors_of(shown: &[u8]) -> Vec<Vec<u8>> {
    let (head, mut rest) = shown.split_first().expect("an array");
    let ancestors = (0..head & 0x0f)
        .map(|_| {
            let (ancestor, tail) = rest.split_at(value_len(rest));
            rest = tail;
            ancestor.to_vec()
        })
        .collect();
    assert!(rest.is_empty(), "nothing follows the ancestors");
    ancestors
}

fn fields_of(header: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (count, mut rest) = match header {
        [fix @ 0x80..=0x8f, rest @ ..] => (usize::from(fix & 0x0f), rest),
        [0xde, 0, count, rest @ ..] => (usize::from(*count), rest),
        _ => panic!("no map"),
    };
    let mut fields = Vec::new();
    for _ in 0..count {
        let (key, tail) = rest.split_first().expect("a key");
        let (value, tail) = tail.split_at(value_len(tail));
        fields.push((*key, value.to_vec()));
        rest = tail;
    }
    assert!(rest.is_empty(), "nothing follows the map");
    fields
}

/// How long the MessagePack value at the start is: those that a header holds.
fn value_len(bytes: &[u8]) -> usize {
    let number = |at: usize, len: usize| {
        bytes[at..at + len]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    match bytes[0] {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 => 1,
        fix @ 0x80..=0x8f => {
            (0..2 * usize::from(fix & 0x0f)).fold(1, |at, _| at + value_len(&bytes[at..]))
        }
        fix @ 0x90..=0x9f => {
            (0..usize::from(fix & 0x0f)).fold(1, |at, _| at + value_len(&bytes[at..]))
        }
        fix @ 0xa0..=0xbf => 1 + usize::from(fix & 0x1f),
        0xc4 | 0xd9 => 2 + number(1, 1),
        0xc5 | 0xda => 3 + number(1, 2),
        0xc6 => 5 + number(1, 4),
        0xcc => 2,
        0xcd => 3,
        0xce => 5,
        0xcf => 9,
        other => panic!("{other:#x} stands in no envelope"),
    }
}
