//! The strict decoders against a public MessagePack library.

use rmpv::Value;

/// Panics unless these bytes are the shortest encoding of one value.
pub fn assert(bytes: &[u8]) -> Value {
    let mut rest = bytes;
    let value = rmpv::decode::read_value(&mut rest).expect("accepted, but not MessagePack");
    assert!(rest.is_empty(), "accepted, and something follows");
    let mut again = Vec::with_capacity(bytes.len());
    rmpv::encode::write_value(&mut again, &value).expect("a vector takes it");
    assert!(again == bytes, "accepted, but not in the one encoding");
    value
}

/// An element of an array that is a byte string.
pub fn bytes_at(value: &Value, index: usize) -> Vec<u8> {
    let element = value.as_array().and_then(|array| array.get(index));
    let bytes = element.and_then(Value::as_slice);
    bytes.expect("a byte string in an array").to_vec()
}
