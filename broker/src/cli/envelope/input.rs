//! Captured bytes, in whatever form they were written down.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulla_envelope::MAX_ENVELOPE;
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use rmpv::decode::read_value_ref_with_max_depth;
use serde_json::Value;

use super::outline::MAX_DEPTH;

/// What was captured.
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    /// In which form it was written.
    pub(super) form: Form,
    /// On which subject it came, where the form says so.
    pub(super) subject: Option<String>,
    /// With which reply subject.
    pub(super) reply_to: Option<String>,
}

/// Shows in which form it came and how long it is: a body may be readable in it.
impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("len", &self.bytes.len())
            .field("form", &self.form)
            .field("subject", &self.subject)
            .field("reply_to", &self.reply_to)
            .finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Raw,
    Hex,
    Base64,
    /// A message of the `nats` command line.
    Message,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is longer than any envelope in any form", .0.display())]
    TooLong(PathBuf),
    #[error("`{}` is empty", .0.display())]
    Empty(PathBuf),
    #[error(
        "`{}` is text, but neither hexadecimal digits, base64, nor a message of `nats sub --dump`",
        .0.display()
    )]
    Text(PathBuf),
    #[error("`{}` is JSON, but has no `Data` in base64 as `nats sub --dump` writes it", .0.display())]
    Json(PathBuf),
}

/// Hexadecimal digits and white space: three characters a byte at most.
const MAX_INPUT: u64 = 3 * MAX_ENVELOPE as u64 + 4096;

impl Form {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Hex => "hex",
            Self::Base64 => "base64",
            Self::Message => "message",
        }
    }
}

impl Input {
    /// Reads a file, or standard input for `-`, in any form.
    pub(super) fn read(path: &Path) -> Result<Self, InputError> {
        let failed = |source| InputError::Read {
            path: path.to_owned(),
            source,
        };
        let file: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(std::io::stdin())
        } else {
            Box::new(std::fs::File::open(path).map_err(failed)?)
        };
        let mut bytes = Vec::new();
        file.take(MAX_INPUT + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > MAX_INPUT {
            return Err(InputError::TooLong(path.to_owned()));
        }
        Self::of(bytes, path)
    }

    /// Takes what a file held.
    pub(super) fn of(bytes: Vec<u8>, path: &Path) -> Result<Self, InputError> {
        // No statement of ours begins with a byte that text begins with.
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Ok(Self::plain(without_newline(bytes), Form::Raw));
        };
        // `nats sub --dump -` ends each message with a zero byte.
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        if text.is_empty() {
            return Err(InputError::Empty(path.to_owned()));
        }
        if text.starts_with('{') {
            return message(text).ok_or_else(|| InputError::Json(path.to_owned()));
        }
        let compact: String = text.split_whitespace().collect();
        let from_hex = hex(&compact);
        let from_base64 = base64(&compact);
        match (from_hex, from_base64) {
            // Digits can be both; an array begins with 0x9….
            (Some(bytes), Some(other)) if !is_array(&bytes) && is_array(&other) => {
                Ok(Self::plain(other, Form::Base64))
            }
            (Some(bytes), _) => Ok(Self::plain(bytes, Form::Hex)),
            (None, Some(bytes)) => Ok(Self::plain(bytes, Form::Base64)),
            (None, None) => Err(InputError::Text(path.to_owned())),
        }
    }

    const fn plain(bytes: Vec<u8>, form: Form) -> Self {
        Self {
            bytes,
            form,
            subject: None,
            reply_to: None,
        }
    }
}

fn is_array(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(0x90..=0x9f | 0xdc | 0xdd))
}

/// `nats sub --raw` ends each message with a line feed, which no envelope ends
/// with by chance: what is one value without it and two with it was one.
fn without_newline(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut rest = bytes.as_slice();
    if read_value_ref_with_max_depth(&mut rest, MAX_DEPTH).is_ok() && rest == b"\n" {
        bytes.pop();
    }
    bytes
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD]
        .iter()
        .find_map(|form| form.decode(text.as_bytes()).ok())
}

/// `{"Subject": …, "Reply": …, "Data": …}`, or a stored message with `subject`
/// and `data`.
fn message(text: &str) -> Option<Input> {
    let Ok(Value::Object(message)) = serde_json::from_str(text) else {
        return None;
    };
    let member = |names: [&str; 2]| {
        let value = names.iter().find_map(|name| message.get(*name))?;
        value.as_str().filter(|text| !text.is_empty())
    };
    Some(Input {
        bytes: base64(member(["Data", "data"])?)?,
        form: Form::Message,
        subject: member(["Subject", "subject"]).map(str::to_owned),
        reply_to: member(["Reply", "reply"]).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Input, InputError> {
        Input::of(bytes.to_vec(), Path::new("-"))
    }

    #[test]
    fn every_form_gives_the_same_bytes() {
        let bytes = [0x95, 0x01, 0xc4, 0x00, 0xc0, 0xc4, 0x00, 0x90];
        let message = format!(
            r#"{{"Subject":"a.b","Reply":"","Header":null,"Data":"{}","Sub":null}}"#,
            BASE64.encode(&bytes)
        );
        let (standard, url) = (BASE64.encode(&bytes), BASE64URL_NOPAD.encode(&bytes));
        let forms: [(&[u8], Form); 9] = [
            (&bytes, Form::Raw),
            (&[&bytes[..], b"\n"].concat(), Form::Raw),
            (b"9501c400c0c40090", Form::Hex),
            (b" 0x9501C400C0C40090\n", Form::Hex),
            (b"95:01:c4:00:c0:c4:00:90", Form::Hex),
            (b"9501 c400\nc0c4 0090\n", Form::Hex),
            (standard.as_bytes(), Form::Base64),
            (url.as_bytes(), Form::Base64),
            (message.as_bytes(), Form::Message),
        ];
        for (written, form) in forms {
            let input = read(written).unwrap();
            assert_eq!((input.bytes, input.form), (bytes.to_vec(), form));
        }
        let input = read(message.as_bytes()).unwrap();
        assert_eq!(input.subject.as_deref(), Some("a.b"));
        assert_eq!(input.reply_to, None);
    }

    /// A line feed that belongs to the bytes stays.
    #[test]
    fn only_a_newline_behind_the_value_is_left_out() {
        for bytes in [&[0x92, 0xc0, b'\n'][..], &[0x95, 0xc0, b'\n']] {
            assert_eq!(read(bytes).unwrap().bytes, bytes);
        }
    }

    #[test]
    fn other_text_is_refused() {
        assert!(matches!(read(b"hello, world"), Err(InputError::Text(_))));
        assert!(matches!(read(b"{\"a\":1}"), Err(InputError::Json(_))));
        assert!(matches!(read(b"{"), Err(InputError::Json(_))));
        assert!(matches!(read(b" \n"), Err(InputError::Empty(_))));
        assert!(matches!(read(b""), Err(InputError::Empty(_))));
    }
}
