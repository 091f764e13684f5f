//! What an event says, in a form that clients of a stream can read.
//!
//! What a service publishes is MessagePack unless it says otherwise, and browsers read
//! JSON. So MessagePack is told as JSON; text goes as it is; all else is bytes, and each way
//! of streaming has its own for them. Which of these it is depends on the content type alone
//! and not on the bytes, so that a client never has to guess.

use std::fmt;

use bulla_sdk::ContentType;
use bytes::Bytes;
use serde::Deserialize as _;
use serde_json::Value;

use crate::json;

/// An event as clients are told it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum EventContent {
    /// UTF-8.
    Text(Bytes),
    /// Anything else.
    Binary(Bytes),
}

/// Shows its kind and length, never what it says.
impl fmt::Debug for EventContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = match self {
            Self::Text(bytes) => ("Text", bytes),
            Self::Binary(bytes) => ("Binary", bytes),
        };
        f.debug_struct(kind)
            .field("len", &bytes.len())
            .finish_non_exhaustive()
    }
}

impl EventContent {
    /// What a payload of this content type says.
    pub(crate) fn of(content_type: &str, payload: Bytes) -> Self {
        match ContentType::parse(content_type) {
            ContentType::MessagePack => match json_of(&payload) {
                Some(text) => Self::Text(text),
                None => Self::Binary(payload),
            },
            ContentType::Json => Self::text(payload),
            ContentType::Other(_) if is_text(content_type) => Self::text(payload),
            ContentType::OctetStream | ContentType::Other(_) => Self::Binary(payload),
        }
    }

    fn text(payload: Bytes) -> Self {
        if std::str::from_utf8(&payload).is_ok() {
            Self::Text(payload)
        } else {
            Self::Binary(payload)
        }
    }
}

/// Whether a content type is one of text.
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let named = [
        "application/xml",
        "application/yaml",
        "application/x-ndjson",
        "application/jsonl",
    ];
    essence.starts_with("text/")
        || json::is_json(&essence)
        || essence.ends_with("+xml")
        || named.contains(&&*essence)
}

/// MessagePack as JSON; nothing of what JSON cannot say: bytes, extensions, and maps whose
/// keys are no text.
fn json_of(payload: &[u8]) -> Option<Bytes> {
    let mut rest = payload;
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    reader.set_max_depth(json::MAX_DEPTH);
    let value = Value::deserialize(&mut reader).ok()?;
    rest.is_empty().then(|| value.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(content_type: &str, payload: &[u8]) -> EventContent {
        EventContent::of(content_type, Bytes::copy_from_slice(payload))
    }

    fn text(text: &str) -> EventContent {
        EventContent::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn packed(value: &Value) -> Vec<u8> {
        rmp_serde::to_vec_named(value).unwrap()
    }

    #[test]
    fn message_pack_is_told_as_json_and_text_as_it_is() {
        let value = json!({"a": [1, -2, 3.5, true, null], "b": {"c": "x\n"}});
        let said = told("application/msgpack", &packed(&value));
        assert_eq!(said, text(&value.to_string()));
        let spaced = "{ \"a\" : 1 }";
        assert_eq!(told("application/json", spaced.as_bytes()), text(spaced));
        for of_text in [
            "text/plain",
            "Text/CSV; charset=utf-8",
            "application/a+json",
        ] {
            assert_eq!(told(of_text, b"hello"), text("hello"), "{of_text}");
        }
    }

    #[test]
    fn what_is_no_text_is_bytes_whatever_they_look_like() {
        for (content_type, payload) in [
            ("application/octet-stream", &b"hello"[..]),
            ("image/png", b"hello"),
            ("", b"hello"),
            ("text/plain", b"\xff"),
            ("application/json", b"\xff"),
            // Bytes, a map by numbers, an extension.
            ("application/msgpack", b"\xc4\x01\x07"),
            ("application/msgpack", b"\x81\x01\x02"),
            ("application/msgpack", b"\xd4\x01\x02"),
            // Cut short, and more than one.
            ("application/msgpack", b"\x92\x01"),
            ("application/msgpack", b"\x01\x01"),
            ("application/msgpack", b""),
            ("application/msgpack", b"\xdd\xff\xff\xff\xff"),
        ] {
            let said = told(content_type, payload);
            let bytes = EventContent::Binary(Bytes::copy_from_slice(payload));
            assert_eq!(said, bytes, "{content_type} {payload:?}");
        }
        // No deeper than JSON may be.
        for (depth, is_text) in [
            (json::MAX_DEPTH - 1, true),
            (json::MAX_DEPTH + 1, false),
            (100_000, false),
        ] {
            let deep = [vec![0x91; depth], vec![1]].concat();
            let said = told("application/msgpack", &deep);
            assert_eq!(matches!(said, EventContent::Text(_)), is_text, "{depth}");
        }
    }
}
