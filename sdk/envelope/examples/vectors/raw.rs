//! The format again, written independently and loosely: an envelope in pieces,
//! each of which can be anything, and signed for what it then is.

use bulla_keyring::{Tag, sha256};

use super::people::Process;

/// An envelope in pieces. What is `Some` replaces what the pieces would give.
#[derive(Clone)]
pub struct Raw {
    /// The head of the outer array.
    pub head: Vec<u8>,
    /// Encoded.
    pub version: Vec<u8>,
    /// The head of the header's map.
    pub map_head: Option<Vec<u8>>,
    /// Encoded keys and values.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// After the map, inside the header.
    pub header_tail: Vec<u8>,
    /// The header's bytes.
    pub header: Option<Vec<u8>>,
    /// The header as an element.
    pub header_element: Option<Vec<u8>>,
    /// Encoded.
    pub token: Vec<u8>,
    pub body: Vec<u8>,
    /// The body as an element.
    pub body_element: Option<Vec<u8>>,
    /// What the element after it holds, if there is one: ancestors.
    pub ancestry: Option<Vec<u8>>,
    /// Encoded.
    pub index: Vec<u8>,
    /// Encoded.
    pub count: Vec<u8>,
    pub path: Vec<u8>,
    pub signature: Vec<u8>,
    /// The proof as an element.
    pub proof: Option<Vec<u8>>,
    pub tail: Vec<u8>,
}

impl Raw {
    /// Takes a well-formed envelope apart.
    pub fn of(bytes: &[u8]) -> Self {
        let mut at = &bytes[2..];
        let header = take_bin(&mut at);
        let token = take_value(&mut at);
        let body = take_bin(&mut at);
        let ancestry = (bytes[0] == 0x96).then(|| take_bin(&mut at));
        assert_eq!(take(&mut at, 1), [0x94]);
        let index = take_value(&mut at);
        let count = take_value(&mut at);
        let path = take_bin(&mut at);
        let signature = take_bin(&mut at);
        assert!(at.is_empty());
        let mut at = &header[..];
        let fields = (0..take_map(&mut at))
            .map(|_| (take_value(&mut at), take_value(&mut at)))
            .collect();
        assert!(at.is_empty());
        let raw = Self {
            head: bytes[..1].to_vec(),
            version: bytes[1..2].to_vec(),
            map_head: None,
            fields,
            header_tail: Vec::new(),
            header: None,
            header_element: None,
            token,
            body,
            body_element: None,
            ancestry,
            index,
            count,
            path,
            signature,
            proof: None,
            tail: Vec::new(),
        };
        assert_eq!(raw.bytes(), bytes, "one encoding only");
        raw
    }

    pub fn header_bytes(&self) -> Vec<u8> {
        self.header.clone().unwrap_or_else(|| {
            let mut out = self
                .map_head
                .clone()
                .unwrap_or_else(|| map_head(self.fields.len()));
            for (key, value) in &self.fields {
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            out.extend_from_slice(&self.header_tail);
            out
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header = self.header_bytes();
        let proof = self.proof.clone().unwrap_or_else(|| {
            [
                &[0x94][..],
                &self.index,
                &self.count,
                &bin(&self.path),
                &bin(&self.signature),
            ]
            .concat()
        });
        [
            &self.head[..],
            &self.version,
            &self.header_element.clone().unwrap_or_else(|| bin(&header)),
            &self.token,
            &self.body_element.clone().unwrap_or_else(|| bin(&self.body)),
            &self.ancestry.as_deref().map(bin).unwrap_or_default(),
            &proof,
            &self.tail,
        ]
        .concat()
    }

    /// What a message that names this one as its parent shows of it.
    pub fn as_ancestor(&self) -> Vec<u8> {
        let proof = [
            &[0x94][..],
            &self.index,
            &self.count,
            &bin(&self.path),
            &bin(&self.signature),
        ];
        [
            &[0x93][..],
            &bin(&self.header_bytes()),
            &bin(&sha256(&[&self.body])),
            &proof.concat(),
        ]
        .concat()
    }

    /// Shows these, whatever they are.
    pub fn showing(mut self, ancestors: &[Vec<u8>]) -> Self {
        self.head = vec![0x96];
        self.ancestry = Some(array(ancestors));
        self
    }

    pub fn leaf(&self) -> [u8; 32] {
        let header = self.header_bytes();
        let len = (header.len() as u32).to_be_bytes();
        sha256(&[&[0x00, 0x01], &len, &header, &sha256(&[&self.body])])
    }

    /// Signs it as a batch of one.
    pub fn signed(mut self, process: &Process) -> Self {
        self.index = uint(0);
        self.count = uint(1);
        self.path.clear();
        self.signature = sign_root(process, 1, &self.leaf()[..24]);
        self
    }

    pub fn value(&self, key: u64) -> &[u8] {
        &self.fields.iter().find(|(k, _)| *k == uint(key)).unwrap().1
    }

    pub fn set(&mut self, key: u64, value: Vec<u8>) {
        let key = uint(key);
        match self.fields.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => {
                let at = self.fields.partition_point(|(k, _)| *k < key);
                self.fields.insert(at, (key, value));
            }
        }
    }

    pub fn remove(&mut self, key: u64) {
        self.fields.retain(|(k, _)| *k != uint(key));
    }
}

/// A batch's signature.
pub fn sign_root(process: &Process, count: u32, root: &[u8]) -> Vec<u8> {
    let credential = process.credential();
    process
        .message_key()
        .sign(Tag::Batch, &[credential.hash(), &count.to_be_bytes(), root])
        .as_bytes()
        .to_vec()
}

/// An inner node of the tree.
pub fn node(left: &[u8], right: &[u8]) -> Vec<u8> {
    sha256(&[&[0x01], left, right])[..24].to_vec()
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

pub fn map_head(len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    rmp::encode::write_map_len(&mut out, len as u32).unwrap();
    out
}

pub fn array_head(len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    rmp::encode::write_array_len(&mut out, len as u32).unwrap();
    out
}

/// A statement and its signature, as all statements lie on the wire.
pub fn signed(statement: &[u8], signature: &[u8]) -> Vec<u8> {
    [&[0x92][..], &bin(statement), &bin(signature)].concat()
}

/// The elements of an encoded array.
pub fn elements(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut at = bytes;
    let len = rmp::decode::read_array_len(&mut at).unwrap();
    let elements = (0..len).map(|_| take_value(&mut at)).collect();
    assert!(at.is_empty());
    elements
}

/// An array of encoded elements.
pub fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    [array_head(elements.len()), elements.concat()].concat()
}

/// What a byte string holds.
pub fn unbin(mut bytes: &[u8]) -> Vec<u8> {
    let value = take_bin(&mut bytes);
    assert!(bytes.is_empty());
    value
}

fn take<'a>(at: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (value, rest) = at.split_at(len);
    *at = rest;
    value
}

fn take_bin(at: &mut &[u8]) -> Vec<u8> {
    let len = rmp::decode::read_bin_len(at).unwrap() as usize;
    take(at, len).to_vec()
}

fn take_map(at: &mut &[u8]) -> u32 {
    rmp::decode::read_map_len(at).unwrap()
}

/// One encoded value.
fn take_value(at: &mut &[u8]) -> Vec<u8> {
    let start = *at;
    skip(at);
    start[..start.len() - at.len()].to_vec()
}

fn skip(at: &mut &[u8]) {
    use rmp::Marker;
    let len = |at: &mut &[u8], bytes: usize| {
        take(at, bytes)
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte))
    };
    let (bytes, values) = match rmp::decode::read_marker(at).unwrap() {
        Marker::FixPos(_) | Marker::True | Marker::False | Marker::Null => (0, 0),
        Marker::U8 => (1, 0),
        Marker::U16 => (2, 0),
        Marker::U32 => (4, 0),
        Marker::U64 => (8, 0),
        Marker::FixStr(len) => (usize::from(len), 0),
        Marker::Str8 | Marker::Bin8 => (len(at, 1), 0),
        Marker::Str16 | Marker::Bin16 => (len(at, 2), 0),
        Marker::Str32 | Marker::Bin32 => (len(at, 4), 0),
        Marker::FixMap(len) => (0, 2 * usize::from(len)),
        Marker::Map16 => (0, 2 * len(at, 2)),
        Marker::FixArray(len) => (0, usize::from(len)),
        Marker::Array16 => (0, len(at, 2)),
        other => panic!("not in the format: {other:?}"),
    };
    take(at, bytes);
    (0..values).for_each(|_| skip(at));
}
