//! Payload encodings: MessagePack by default, JSON where the sender says so.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How a payload is encoded. It travels in the signed header.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub enum ContentType {
    /// `application/msgpack`: structs as maps with named fields. The default.
    #[default]
    MessagePack,
    /// `application/json`.
    Json,
    /// Anything else: bytes that this crate carries but does not interpret.
    Other(Arc<str>),
}

impl ContentType {
    /// The media type of MessagePack payloads.
    pub const MESSAGE_PACK: &'static str = "application/msgpack";
    /// The media type of JSON payloads.
    pub const JSON: &'static str = "application/json";

    /// Reads a media type; parameters such as `; charset=utf-8` are kept only
    /// for types other than the two that are known.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(Self::MESSAGE_PACK) {
            Self::MessagePack
        } else if essence.eq_ignore_ascii_case(Self::JSON) {
            Self::Json
        } else {
            Self::Other(text.into())
        }
    }

    /// The media type's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::MessagePack => Self::MESSAGE_PACK,
            Self::Json => Self::JSON,
            Self::Other(text) => text,
        }
    }

    /// Encodes `value`.
    ///
    /// # Errors
    /// [`PayloadError`] if the type is not one that this crate encodes, or
    /// `value`'s own `Serialize` fails.
    pub fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Bytes, PayloadError> {
        match self {
            Self::MessagePack => Ok(rmp_serde::to_vec_named(value)?.into()),
            Self::Json => Ok(serde_json::to_vec(value)?.into()),
            Self::Other(text) => Err(PayloadError::ContentType(text.clone())),
        }
    }

    /// Decodes `payload`, all of it.
    ///
    /// # Errors
    /// [`PayloadError`] if the type is not one that this crate decodes, the
    /// payload is not a `T`, or bytes are left over.
    pub fn decode<T: DeserializeOwned>(&self, payload: &[u8]) -> Result<T, PayloadError> {
        match self {
            Self::MessagePack => {
                let mut rest = payload;
                let value = rmp_serde::from_read(&mut rest)?;
                if !rest.is_empty() {
                    return Err(PayloadError::TrailingBytes { count: rest.len() });
                }
                Ok(value)
            }
            Self::Json => Ok(serde_json::from_slice(payload)?),
            Self::Other(text) => Err(PayloadError::ContentType(text.clone())),
        }
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a payload could not be encoded or decoded. Never holds the payload.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Neither MessagePack nor JSON.
    #[error("the content type `{0}` is not one that the SDK encodes or decodes: use the raw bytes")]
    ContentType(Arc<str>),
    /// The value does not serialize as MessagePack.
    #[error("cannot encode the payload as MessagePack")]
    EncodeMessagePack(#[from] rmp_serde::encode::Error),
    /// The bytes are not a MessagePack encoding of the type that was asked for.
    #[error("the payload is not the MessagePack that was expected")]
    DecodeMessagePack(#[from] rmp_serde::decode::Error),
    /// The value does not serialize as JSON, or the bytes are not the JSON asked for.
    #[error("the payload does not fit its JSON type")]
    Json(#[from] serde_json::Error),
    /// A whole value, and then more.
    #[error("{count} bytes follow the payload's value")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
    }

    #[test]
    fn both_encodings_round_trip() {
        for content in [ContentType::MessagePack, ContentType::Json] {
            let bytes = content.encode(&Order { id: 7 }).unwrap();
            assert_eq!(content.decode::<Order>(&bytes).unwrap(), Order { id: 7 });
            let mut longer = bytes.to_vec();
            longer.push(b'1');
            assert!(content.decode::<Order>(&longer).is_err(), "{content:?}");
            assert!(
                content.decode::<Order>(&bytes[..bytes.len() - 1]).is_err(),
                "{content:?}"
            );
        }
    }

    #[test]
    fn media_types_are_read_leniently_and_printed_exactly() {
        assert_eq!(
            ContentType::parse("Application/JSON; charset=utf-8"),
            ContentType::Json
        );
        assert_eq!(
            ContentType::parse("application/msgpack"),
            ContentType::MessagePack
        );
        assert_eq!(ContentType::parse("image/png").as_str(), "image/png");
        assert!(matches!(
            ContentType::parse("image/png").encode(&1),
            Err(PayloadError::ContentType(_))
        ));
    }
}
