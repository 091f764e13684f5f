//! The format again, written independently and loosely, so that tests can take
//! envelopes apart, break them in one place and sign them again.

use bulla_envelope::{LeafHash, SealedEnvelope};
use bulla_keyring::{SigningKey, Tag};
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// An envelope in pieces.
#[derive(Clone)]
pub struct Parts {
    pub version: u64,
    /// Header entries: key and encoded value.
    pub fields: Vec<(u64, Vec<u8>)>,
    pub token: Option<Vec<u8>>,
    pub body: Vec<u8>,
    pub index: u64,
    pub count: u64,
    pub path: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Parts {
    pub fn of(bytes: &[u8]) -> Self {
        let mut at = bytes;
        assert_eq!(rmp::decode::read_array_len(&mut at).unwrap(), 5);
        let version = rmp::decode::read_int(&mut at).unwrap();
        let header = read_bin(&mut at);
        let token = if at[0] == 0xc0 {
            at = &at[1..];
            None
        } else {
            Some(read_bin(&mut at))
        };
        let body = read_bin(&mut at);
        assert_eq!(rmp::decode::read_array_len(&mut at).unwrap(), 4);
        let index = rmp::decode::read_int(&mut at).unwrap();
        let count = rmp::decode::read_int(&mut at).unwrap();
        let path = read_bin(&mut at);
        let signature = read_bin(&mut at);
        assert!(at.is_empty());

        let mut at = header.as_slice();
        let len = rmp::decode::read_map_len(&mut at).unwrap();
        let fields = (0..len)
            .map(|_| {
                let key = rmp::decode::read_int(&mut at).unwrap();
                let value = at;
                skip(&mut at);
                (key, value[..value.len() - at.len()].to_vec())
            })
            .collect();
        assert!(at.is_empty());
        Self {
            version,
            fields,
            token,
            body,
            index,
            count,
            path,
            signature,
        }
    }

    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        rmp::encode::write_map_len(&mut out, self.fields.len() as u32).unwrap();
        for (key, value) in &self.fields {
            rmp::encode::write_uint(&mut out, *key).unwrap();
            out.extend_from_slice(value);
        }
        out
    }

    pub fn encode(&self) -> Bytes {
        self.encode_with_header(&self.header())
    }

    pub fn encode_with_header(&self, header: &[u8]) -> Bytes {
        let mut out = Vec::new();
        rmp::encode::write_array_len(&mut out, 5).unwrap();
        rmp::encode::write_uint(&mut out, self.version).unwrap();
        rmp::encode::write_bin(&mut out, header).unwrap();
        match &self.token {
            Some(token) => rmp::encode::write_bin(&mut out, token).unwrap(),
            None => rmp::encode::write_nil(&mut out).unwrap(),
        }
        rmp::encode::write_bin(&mut out, &self.body).unwrap();
        rmp::encode::write_array_len(&mut out, 4).unwrap();
        rmp::encode::write_uint(&mut out, self.index).unwrap();
        rmp::encode::write_uint(&mut out, self.count).unwrap();
        rmp::encode::write_bin(&mut out, &self.path).unwrap();
        rmp::encode::write_bin(&mut out, &self.signature).unwrap();
        out.into()
    }

    pub fn leaf(&self) -> LeafHash {
        let header = self.header();
        let mut input = vec![0x00, 0x01];
        input.extend_from_slice(&(header.len() as u32).to_be_bytes());
        input.extend_from_slice(&header);
        input.extend_from_slice(&Sha256::digest(&self.body));
        LeafHash(Sha256::digest(&input).into())
    }

    /// Signs the envelope as a batch of one.
    pub fn sign(mut self, key: &SigningKey, credential_hash: &[u8; 32]) -> Self {
        self.index = 0;
        self.count = 1;
        self.path.clear();
        let leaf = self.leaf();
        self.signature = sign_root(key, credential_hash, 1, &leaf.0[..24]);
        self
    }

    pub fn value(&self, key: u64) -> &[u8] {
        &self.fields.iter().find(|(k, _)| *k == key).unwrap().1
    }

    pub fn set(&mut self, key: u64, value: Vec<u8>) {
        match self.fields.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => {
                let at = self.fields.partition_point(|(k, _)| *k < key);
                self.fields.insert(at, (key, value));
            }
        }
    }

    pub fn remove(&mut self, key: u64) {
        self.fields.retain(|(k, _)| *k != key);
    }
}

pub fn sign_root(key: &SigningKey, credential_hash: &[u8; 32], count: u32, root: &[u8]) -> Vec<u8> {
    key.sign(Tag::Batch, &[credential_hash, &count.to_be_bytes(), root])
        .as_bytes()
        .to_vec()
}

/// Root by the recursive definition of RFC 9162 §2.1.1.
pub fn rfc_root(leaves: &[[u8; 24]]) -> [u8; 24] {
    if let [leaf] = leaves {
        return *leaf;
    }
    let k = leaves.len().next_power_of_two() / 2;
    node(&rfc_root(&leaves[..k]), &rfc_root(&leaves[k..]))
}

/// Inclusion path by the recursive definition of RFC 9162 §2.1.3.1.
pub fn rfc_path(index: usize, leaves: &[[u8; 24]]) -> Vec<[u8; 24]> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = leaves.len().next_power_of_two() / 2;
    if index < k {
        let mut path = rfc_path(index, &leaves[..k]);
        path.push(rfc_root(&leaves[k..]));
        path
    } else {
        let mut path = rfc_path(index - k, &leaves[k..]);
        path.push(rfc_root(&leaves[..k]));
        path
    }
}

pub fn node(left: &[u8; 24], right: &[u8; 24]) -> [u8; 24] {
    let mut input = vec![0x01];
    input.extend_from_slice(left);
    input.extend_from_slice(right);
    Sha256::digest(&input)[..24].try_into().unwrap()
}

pub fn uint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    rmp::encode::write_uint(&mut out, value).unwrap();
    out
}

pub fn bin(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    rmp::encode::write_bin(&mut out, value).unwrap();
    out
}

pub fn string(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    rmp::encode::write_str(&mut out, value).unwrap();
    out
}

/// The metric code with which decoding refuses these bytes.
pub fn refusal(bytes: Bytes) -> &'static str {
    match SealedEnvelope::decode(bytes) {
        Ok(_) => "accepted",
        Err(error) => error.code(),
    }
}

pub fn read_bin(at: &mut &[u8]) -> Vec<u8> {
    let len = rmp::decode::read_bin_len(at).unwrap() as usize;
    let (value, rest) = at.split_at(len);
    *at = rest;
    value.to_vec()
}

pub fn skip(at: &mut &[u8]) {
    use rmp::Marker;
    let len = match rmp::decode::read_marker(at).unwrap() {
        Marker::FixPos(_) | Marker::True | Marker::False | Marker::Null => 0,
        Marker::U8 => 1,
        Marker::U16 => 2,
        Marker::U32 => 4,
        Marker::U64 => 8,
        Marker::FixStr(len) => usize::from(len),
        Marker::Str8 | Marker::Bin8 => usize::from(take::<1>(at)[0]),
        Marker::Str16 | Marker::Bin16 => usize::from(u16::from_be_bytes(take(at))),
        Marker::FixMap(len) => {
            (0..2 * len).for_each(|_| skip(at));
            0
        }
        Marker::FixArray(len) => {
            (0..len).for_each(|_| skip(at));
            0
        }
        other => panic!("not in an envelope: {other:?}"),
    };
    *at = &at[len..];
}

fn take<const N: usize>(at: &mut &[u8]) -> [u8; N] {
    let (head, rest) = at.split_first_chunk::<N>().unwrap();
    *at = rest;
    *head
}
