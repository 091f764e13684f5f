//! The three keys above a workload's, and their textual form.
//!
//! ```text
//! bulla-<role>-secret-1:<base32>     in a key file, 0600
//! bulla-<role>-public-1:<base32>     pinned by SDKs (root), named in bundles
//! base32 = 32 key bytes ‖ first 4 bytes of SHA-256(text before the base32 ‖ key bytes)
//! ```
//!
//! They are not written as nkeys, so that a NATS account or operator key can
//! never be taken for one of them, nor one of them for another.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::seed_text::SecretBytes;
use crate::{KeyError, SecretString, SigningKey, VerifyingKey, sha256};

/// What an authority's key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthorityRole {
    /// The offline root: trust bundles.
    Root,
    /// The operator's policy key: policy revisions.
    Policy,
    /// A broker's issuing key: message credentials.
    Issuing,
}

/// An authority's secret key with its role.
pub struct AuthoritySeed {
    role: AuthorityRole,
    seed: SecretBytes,
    key: SigningKey,
}

/// An authority's public key with its role.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthorityKey {
    role: AuthorityRole,
    key: VerifyingKey,
}

/// Why a text is not the expected key of an authority. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityKeyError {
    /// Not a key text of that role.
    #[error("expected a key that begins with `{expected}`")]
    WrongKind {
        /// How it must begin.
        expected: &'static str,
    },
    /// Not the base32 that must follow.
    #[error("the key after `{after}` is not 58 characters of base32")]
    Malformed {
        /// How it begins.
        after: &'static str,
    },
    /// More keys than a file may pin.
    #[error("more than {MAX_PINNED} keys")]
    TooMany,
    /// The checksum does not fit.
    #[error("the key's checksum is wrong: a character was changed or lost")]
    Checksum,
    /// The bytes are no sound public key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Most keys that a file pins.
pub const MAX_PINNED: usize = 8;

impl AuthorityRole {
    const fn secret_prefix(self) -> &'static str {
        match self {
            Self::Root => "bulla-root-secret-1:",
            Self::Policy => "bulla-policy-secret-1:",
            Self::Issuing => "bulla-issuing-secret-1:",
        }
    }

    const fn public_prefix(self) -> &'static str {
        match self {
            Self::Root => "bulla-root-public-1:",
            Self::Policy => "bulla-policy-public-1:",
            Self::Issuing => "bulla-issuing-public-1:",
        }
    }
}

impl AuthoritySeed {
    /// The key of 32 random bytes.
    #[must_use]
    pub fn from_random(role: AuthorityRole, random: &[u8; 32]) -> Self {
        let mut seed: SecretBytes = Box::default();
        **seed = *random;
        let key = SigningKey::from_seed(&seed);
        Self { role, seed, key }
    }

    /// Reads a key file's text. White space around it is ignored.
    ///
    /// # Errors
    /// [`AuthorityKeyError`], above all for a key of another role.
    pub fn parse(role: AuthorityRole, text: &str) -> Result<Self, AuthorityKeyError> {
        let seed = parse(role.secret_prefix(), text)?;
        let key = SigningKey::from_seed(&seed);
        Ok(Self { role, seed, key })
    }

    /// What the key may sign.
    #[must_use]
    pub const fn role(&self) -> AuthorityRole {
        self.role
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> AuthorityKey {
        AuthorityKey {
            role: self.role,
            key: *self.key.verifying_key(),
        }
    }

    /// The key itself.
    #[must_use]
    pub const fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// Gives the key and drops the seed.
    #[must_use]
    pub fn into_signing_key(self) -> SigningKey {
        self.key
    }

    /// The text for a key file.
    ///
    /// # Security
    /// This is the secret itself.
    #[must_use]
    pub fn to_secret_text(&self) -> SecretString {
        format(self.role.secret_prefix(), &self.seed)
    }
}

impl fmt::Debug for AuthoritySeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthoritySeed(of {})", self.public())
    }
}

impl AuthorityKey {
    /// Reads a public key's text. White space around it is ignored.
    ///
    /// # Errors
    /// [`AuthorityKeyError`], above all for a key of another role or a secret.
    pub fn parse(role: AuthorityRole, text: &str) -> Result<Self, AuthorityKeyError> {
        let bytes = parse(role.public_prefix(), text)?;
        let key = VerifyingKey::from_bytes(&bytes)?;
        Ok(Self { role, key })
    }

    /// The key of 32 bytes, which do not say their role.
    ///
    /// # Errors
    /// [`AuthorityKeyError::Key`] if they are no sound key.
    pub fn from_bytes(role: AuthorityRole, bytes: &[u8; 32]) -> Result<Self, AuthorityKeyError> {
        let key = VerifyingKey::from_bytes(bytes)?;
        Ok(Self { role, key })
    }

    /// Reads the keys that a file pins: one on each line, at least one and at
    /// most [`MAX_PINNED`]. Empty lines and those that begin with `#` are
    /// skipped.
    ///
    /// # Errors
    /// [`AuthorityKeyError`] for the first line that is no such key.
    pub fn parse_list(role: AuthorityRole, text: &str) -> Result<Vec<Self>, AuthorityKeyError> {
        let lines = text.lines().map(str::trim);
        let mut keys = Vec::new();
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if keys.len() == MAX_PINNED {
                return Err(AuthorityKeyError::TooMany);
            }
            keys.push(Self::parse(role, line)?);
        }
        if keys.is_empty() {
            return Err(AuthorityKeyError::WrongKind {
                expected: role.public_prefix(),
            });
        }
        Ok(keys)
    }

    /// What the key may sign.
    #[must_use]
    pub const fn role(&self) -> AuthorityRole {
        self.role
    }

    /// The key itself.
    #[must_use]
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.key
    }
}

impl fmt::Display for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format(self.role.public_prefix(), self.key.as_bytes()))
    }
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse(prefix: &'static str, text: &str) -> Result<SecretBytes, AuthorityKeyError> {
    let encoded = text
        .trim()
        .strip_prefix(prefix)
        .ok_or(AuthorityKeyError::WrongKind { expected: prefix })?;
    let malformed = AuthorityKeyError::Malformed { after: prefix };
    if encoded.len() != 58 {
        return Err(malformed);
    }
    let mut raw = Zeroizing::new([0u8; 36]);
    BASE32_NOPAD
        .decode_mut(encoded.as_bytes(), raw.as_mut_slice())
        .map_err(|_| malformed)?;
    let (key, checksum) = raw.split_first_chunk::<32>().ok_or(malformed)?;
    if !sha256(&[prefix.as_bytes(), key]).starts_with(checksum) {
        return Err(AuthorityKeyError::Checksum);
    }
    let mut bytes: SecretBytes = Box::default();
    **bytes = *key;
    Ok(bytes)
}

fn format(prefix: &str, key: &[u8; 32]) -> SecretString {
    let checksum = sha256(&[prefix.as_bytes(), key]);
    let mut raw = Zeroizing::new([0u8; 36]);
    for (to, from) in raw.iter_mut().zip(key.iter().chain(&checksum)) {
        *to = *from;
    }
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + 58));
    text.push_str(prefix);
    BASE32_NOPAD.encode_append(raw.as_slice(), &mut text);
    SecretString::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [AuthorityRole; 3] = [
        AuthorityRole::Root,
        AuthorityRole::Policy,
        AuthorityRole::Issuing,
    ];

    #[test]
    fn texts_round_trip_in_their_role_only() {
        for role in ROLES {
            let seed = AuthoritySeed::from_random(role, &[5; 32]);
            let secret = seed.to_secret_text();
            let public = seed.public().to_string();
            let again = AuthoritySeed::parse(role, &format!(" {}\n", &*secret)).unwrap();
            assert_eq!(again.public(), seed.public());
            assert_eq!(AuthorityKey::parse(role, &public), Ok(seed.public()));
            assert!(matches!(
                AuthorityKey::parse(role, &secret),
                Err(AuthorityKeyError::WrongKind { .. })
            ));
            for other in ROLES.into_iter().filter(|other| *other != role) {
                assert!(AuthoritySeed::parse(other, &secret).is_err());
                assert!(AuthorityKey::parse(other, &public).is_err());
                // Renaming the role by hand does not make it one either.
                let renamed = public.replace(role.public_prefix(), other.public_prefix());
                assert_eq!(
                    AuthorityKey::parse(other, &renamed),
                    Err(AuthorityKeyError::Checksum)
                );
            }
        }
    }

    #[test]
    fn a_file_pins_one_key_or_several() {
        let key = |n| AuthoritySeed::from_random(AuthorityRole::Root, &[n; 32]).public();
        let parse = |text: &str| AuthorityKey::parse_list(AuthorityRole::Root, text);
        let (one, two) = (key(1), key(2));
        assert_eq!(parse(&one.to_string()), Ok(vec![one]));
        let text = format!("# since May\n  {one}\n\n{two}\n# old");
        assert_eq!(parse(&text), Ok(vec![one, two]));
        for nothing in ["", "\n\n", "# a comment"] {
            assert!(matches!(
                parse(nothing),
                Err(AuthorityKeyError::WrongKind { .. })
            ));
        }
        assert!(parse(&format!("{one}\nrubbish")).is_err());
        let many: Vec<_> = (0..9).map(|n| key(n).to_string()).collect();
        assert_eq!(parse(&many.join("\n")), Err(AuthorityKeyError::TooMany));
        assert_eq!(parse(&many[..8].join("\n")).unwrap().len(), 8);
    }

    #[test]
    fn damage_is_refused() {
        let public = AuthoritySeed::from_random(AuthorityRole::Root, &[5; 32])
            .public()
            .to_string();
        for at in 0..public.len() {
            let mut damaged = public.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(AuthorityKey::parse(AuthorityRole::Root, &damaged).is_err());
        }
        for len in 0..public.len() {
            assert!(AuthorityKey::parse(AuthorityRole::Root, &public[..len]).is_err());
        }
    }
}
