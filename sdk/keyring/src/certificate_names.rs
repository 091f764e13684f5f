//! For whom a certificate is, as it says itself.

use bulla_identity::UnixMillis;
use x509_parser::extensions::GeneralName;

use crate::certificate::{parse, validity};

/// The most names that are read of one certificate.
const MAX_NAMES: usize = 64;

/// The names of a certificate, and until when it is valid.
///
/// # Security
/// Nothing is verified here: whoever reads it has seen before that it leads to an
/// authority, and that its holder has its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateNames {
    /// Its URIs, as they are written.
    pub uris: Vec<String>,
    /// Its host names, in lower case.
    pub hosts: Vec<String>,
    /// Its mail addresses, as they are written.
    pub mails: Vec<String>,
    /// The first moment at which it is valid.
    pub not_before: UnixMillis,
    /// The last one.
    pub not_after: UnixMillis,
}

impl CertificateNames {
    /// Reads DER of an X.509 certificate of version 3. Only alternative names count: a
    /// common name is text for people. `None` if it is malformed, has more than 64 names,
    /// or one that is not printable ASCII.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = parse(der)?;
        let (not_before, not_after) = validity(&certificate);
        let mut names = Self {
            not_before,
            not_after,
            ..Self::default()
        };
        let Some(alternative) = certificate.subject_alternative_name().ok()? else {
            return Some(names);
        };
        let all = &alternative.value.general_names;
        if all.len() > MAX_NAMES {
            return None;
        }
        for name in all {
            let (list, text) = match name {
                GeneralName::URI(text) => (&mut names.uris, (*text).to_owned()),
                GeneralName::DNSName(text) => (&mut names.hosts, text.to_ascii_lowercase()),
                GeneralName::RFC822Name(text) => (&mut names.mails, (*text).to_owned()),
                _ => continue,
            };
            if !text.bytes().all(|b| b.is_ascii_graphic()) {
                return None;
            }
            list.push(text);
        }
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(CertificateNames::read(b""), None);
        assert_eq!(CertificateNames::read(&[0x30, 0x03, 1, 2, 3]), None);
    }
}
