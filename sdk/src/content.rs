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
    /// `application/octet-stream`: bytes of which nothing is said. Events and requests
    /// with this type travel without one, and are read so: it takes no room.
    OctetStream,
    /// Anything else: bytes that this crate carries but does not interpret.
    Other(Arc<str>),
}

impl ContentType {
    /// The media type of MessagePack payloads.
    pub const MESSAGE_PACK: &'static str = "application/msgpack";
    /// The media type of JSON payloads.
    pub const JSON: &'static str = "application/json";
    /// The media type of bytes of which nothing is said.
    pub const OCTET_STREAM: &'static str = "application/octet-stream";

    /// Reads a media type; parameters such as `; charset=utf-8` are kept only
    /// for types other than MessagePack and JSON.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case(Self::MESSAGE_PACK) {
            Self::MessagePack
        } else if essence.eq_ignore_ascii_case(Self::JSON) {
            Self::Json
        } else if text.eq_ignore_ascii_case(Self::OCTET_STREAM) {
            Self::OctetStream
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
            Self::OctetStream => Self::OCTET_STREAM,
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
            Self::Json => match serde_json::to_vec(value) {
                Ok(json) => Ok(json.into()),
                Err(_) => Err(PayloadError::Encode { format: JSON }),
            },
            Self::OctetStream => Err(PayloadError::ContentType(Self::OCTET_STREAM.into())),
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
            Self::OctetStream => Err(PayloadError::ContentType(Self::OCTET_STREAM.into())),
            Self::Other(text) => Err(PayloadError::ContentType(text.clone())),
        }
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a payload could not be encoded or decoded.
///
/// It never holds a part of the payload: what serde says of one quotes the value
/// that it met, and errors end up in logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Neither MessagePack nor JSON.
    #[error("the content type `{0}` is not one that the SDK encodes or decodes: use the raw bytes")]
    ContentType(Arc<str>),
    /// The value's own `Serialize` fails.
    #[error("cannot encode the payload as {format}")]
    Encode {
        /// MessagePack or JSON.
        format: &'static str,
    },
    /// The bytes end before the value does.
    #[error("the payload ends before its {format} does")]
    Truncated {
        /// MessagePack or JSON.
        format: &'static str,
    },
    /// The bytes are not of the format.
    #[error("the payload is not {format}")]
    Malformed {
        /// MessagePack or JSON.
        format: &'static str,
    },
    /// The format's, and not the type that was asked for.
    #[error("the payload is not the {format} that was expected")]
    Mismatch {
        /// MessagePack or JSON.
        format: &'static str,
    },
    /// A whole value, and then more.
    #[error("{count} bytes follow the payload's value")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
}

const MESSAGE_PACK: &str = "MessagePack";
const JSON: &str = "JSON";

impl From<rmp_serde::encode::Error> for PayloadError {
    fn from(_: rmp_serde::encode::Error) -> Self {
        Self::Encode {
            format: MESSAGE_PACK,
        }
    }
}

impl From<rmp_serde::decode::Error> for PayloadError {
    fn from(error: rmp_serde::decode::Error) -> Self {
        use rmp_serde::decode::Error;
        let format = MESSAGE_PACK;
        match error {
            Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => Self::Truncated { format },
            Error::DepthLimitExceeded => Self::Malformed { format },
            _ => Self::Mismatch { format },
        }
    }
}

impl From<serde_json::Error> for PayloadError {
    fn from(error: serde_json::Error) -> Self {
        use serde_json::error::Category;
        let format = JSON;
        match error.classify() {
            Category::Io => Self::Encode { format },
            Category::Syntax => Self::Malformed { format },
            Category::Eof => Self::Truncated { format },
            Category::Data => Self::Mismatch { format },
        }
    }
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
    fn an_error_quotes_nothing_of_the_payload() {
        const SECRET: &str = "attack-at-dawn";
        let mut texts = String::new();
        for content in [ContentType::MessagePack, ContentType::Json] {
            let secret = content.encode(SECRET).unwrap();
            let map = content
                .encode(&std::collections::BTreeMap::from([("id", SECRET)]))
                .unwrap();
            for error in [
                content.decode::<u64>(&secret).unwrap_err(),
                content.decode::<Order>(&map).unwrap_err(),
                content.decode::<String>(&secret[..9]).unwrap_err(),
                content.decode::<Mood>(&secret).unwrap_err(),
                content
                    .decode::<u64>(&[b"7 ", SECRET.as_bytes()].concat())
                    .unwrap_err(),
            ] {
                texts += &format!("{error} {error:?} ");
                let source = std::error::Error::source(&error);
                assert!(source.is_none(), "{error:?}");
            }
        }
        assert!(!texts.contains("attack"), "{texts}");
        assert!(!texts.contains("97"), "{texts}");
    }

    #[derive(Debug, Deserialize)]
    enum Mood {
        Good,
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
