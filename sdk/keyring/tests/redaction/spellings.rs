//! In which ways a secret may be printed, for the tests that look for it; other crates'
//! tests take this file too.

use std::fmt::Debug;

use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// So many bytes tell a secret from chance.
const TOLD: usize = 12;

/// Shows a value by itself and inside others, and looks for the secrets in all of it.
#[track_caller]
pub fn assert_unprinted(what: &str, shown: &dyn Debug, secrets: &[&[u8]]) {
    let nested = (Some(shown), [("key", shown)], Err::<(), _>(vec![shown]));
    let text = format!("{shown:?}\n{shown:#?}\n{nested:?}\n{nested:#?}");
    let page = Page::new(&text);
    for secret in secrets {
        let found = page.spelling_of(secret);
        assert_eq!(found, None, "`{what}` prints a secret: {text}");
    }
}

/// Whether any usual spelling of the secret's beginning or end is in this text.
pub fn is_printed(text: &str, secret: &[u8]) -> bool {
    Page::new(text).spelling_of(secret).is_some()
}

/// A text in which secrets are looked for.
pub struct Page<'a> {
    text: &'a str,
    /// Pretty printing puts each number of a list on a line of its own.
    squeezed: String,
}

impl<'a> Page<'a> {
    pub fn new(text: &'a str) -> Self {
        let squeezed = text.split_whitespace().collect();
        Self { text, squeezed }
    }

    /// The first of the usual spellings of the secret's beginning and end that is there.
    pub fn spelling_of(&self, secret: &[u8]) -> Option<String> {
        assert!(secret.len() >= TOLD, "too short to be told by");
        let (begin, _) = secret.split_at(TOLD);
        let (_, end) = secret.split_at(secret.len() - TOLD);
        [begin, end]
            .iter()
            .flat_map(|bytes| spellings(bytes))
            .find(|spelling| self.text.contains(spelling) || self.squeezed.contains(spelling))
    }
}

/// The secret as text, escaped, as hexadecimal digits, as a list of numbers, and in base32
/// and base64 wherever in the encoded bytes it lies.
fn spellings(bytes: &[u8]) -> Vec<String> {
    let numbers = |form: fn(&u8) -> String| {
        let numbers: Vec<String> = bytes.iter().map(form).collect();
        numbers.join(",")
    };
    let mut spelled = vec![
        bytes.escape_ascii().to_string(),
        HEXLOWER.encode(bytes),
        HEXUPPER.encode(bytes),
        numbers(ToString::to_string),
        numbers(|byte| format!("0x{byte:02x}")),
        BASE32_NOPAD.encode(bytes.get(..10).unwrap_or(bytes)),
    ];
    if let Ok(text) = std::str::from_utf8(bytes) {
        spelled.push(text.to_owned());
    }
    for at in 0..3 {
        let group = bytes.get(at..at + 9).unwrap_or(bytes);
        spelled.push(BASE64.encode(group));
        spelled.push(BASE64URL_NOPAD.encode(group));
    }
    spelled
}

/// The search finds what is there.
#[test]
fn every_spelling_is_recognised() {
    let secret: Vec<u8> = (0..32).map(|i: u8| i.wrapping_mul(0x6d) ^ 0xb1).collect();
    let prefixed = [&b"ab"[..], &secret].concat();
    let text = b"quagmire-at-dawn";
    for shown in [
        format!("{secret:?}"),
        format!("{secret:#?}"),
        format!("{prefixed:x?}")
            .replace(", ", ",0x")
            .replace('[', "[0x"),
        HEXLOWER.encode(&secret),
        HEXUPPER.encode(&secret),
        BASE32_NOPAD.encode(&secret),
        BASE64.encode(&prefixed),
        BASE64URL_NOPAD.encode(&secret),
        secret.escape_ascii().to_string(),
    ] {
        assert!(is_printed(&shown, &secret), "{shown}");
    }
    assert!(is_printed("it said quagmire-at-dawn", text));
    assert!(is_printed(&format!("{text:?}"), text));
    assert!(!is_printed("Secret(…)", &secret));
}
