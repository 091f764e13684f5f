//! What this process proves its workload by when it connects: the nkey's signature
//! over the server's nonce, a token, or the certificate of its TLS connection.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use bulla_keyring::NkeySeed;
use zeroize::Zeroizing;

use crate::error::ConnectError;
use crate::options::ConnectOptions;

/// One proof; which one is chosen once, by what the options name.
#[derive(Clone)]
pub(crate) enum ConnectProof {
    Nkey(Arc<NkeySeed>),
    Token(TokenFile),
    Certificate,
}

/// A file with a token, read at each use: something else replaces it before the
/// token ends.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile(pub(crate) PathBuf);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing in it that a token could be, or more than that.
    #[error("`{}` holds no token of at most {MAX_TOKEN} bytes", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}

impl ConnectProof {
    /// By what the options name: a token before an nkey, because an nkey may only
    /// be there to vouch and to decrypt.
    pub(crate) fn of(
        options: &ConnectOptions,
        seed: Option<Arc<NkeySeed>>,
    ) -> Result<Self, ConnectError> {
        match (&options.token_file, seed, &options.certificate) {
            (Some(path), _, _) => {
                let token = TokenFile(path.clone());
                // What is wrong with it is said now, not after a handshake.
                token.read_now()?;
                Ok(Self::Token(token))
            }
            (None, Some(seed), _) => Ok(Self::Nkey(seed)),
            (None, None, Some(_)) => Ok(Self::Certificate),
            (None, None, None) => Err(ConnectError::NoProof {
                workload: options.workload.clone(),
            }),
        }
    }

    /// What is said to nats-server, which sent `nonce`.
    pub(crate) async fn auth(
        &self,
        nonce: &[u8],
    ) -> Result<async_nats::Auth, async_nats::AuthError> {
        let mut auth = async_nats::Auth::new();
        match self {
            Self::Nkey(seed) => {
                // Refuses an empty nonce: a signature over nothing could be replayed for ever.
                let signature = seed.sign_nonce(nonce).map_err(async_nats::AuthError::new)?;
                auth.nkey = Some(seed.public().to_string());
                auth.signature = Some(signature.as_bytes().to_vec());
            }
            Self::Token(file) => {
                let token = file.read().await.map_err(async_nats::AuthError::new)?;
                auth.token = Some(token.to_string());
            }
            Self::Certificate => {}
        }
        Ok(auth)
    }
}

impl TokenFile {
    /// The token as it is now.
    pub(crate) async fn read(&self) -> Result<Zeroizing<String>, TokenFileError> {
        let file = self.clone();
        let read = tokio::task::spawn_blocking(move || file.read_now()).await;
        read.unwrap_or_else(|interrupted| {
            Err(TokenFileError::Read {
                path: self.0.clone(),
                source: interrupted.into(),
            })
        })
    }

    fn read_now(&self) -> Result<Zeroizing<String>, TokenFileError> {
        let failed = |source| TokenFileError::Read {
            path: self.0.clone(),
            source,
        };
        let mut text = Zeroizing::new(String::with_capacity(MAX_TOKEN + 2));
        let file = std::fs::File::open(&self.0).map_err(failed)?;
        // A line's end may follow.
        let limit = u64::try_from(MAX_TOKEN + 2).unwrap_or(u64::MAX);
        file.take(limit).read_to_string(&mut text).map_err(failed)?;
        let token = text.trim();
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(is_token) {
            return Err(TokenFileError::NoToken {
                path: self.0.clone(),
            });
        }
        Ok(Zeroizing::new(token.to_owned()))
    }
}

/// The longest token that brokers look at, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_read_anew_each_time_and_is_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile(dir.path().join("token"));
        assert!(matches!(
            file.read().await.unwrap_err(),
            TokenFileError::Read { .. }
        ));
        for (text, token) in [("a.b.c\n", "a.b.c"), ("d-_.e.f", "d-_.e.f")] {
            std::fs::write(&file.0, text).unwrap();
            assert_eq!(file.read().await.unwrap().as_str(), token);
        }
        for bad in ["", "\n", "a b", "a.b.ä", &"a".repeat(MAX_TOKEN + 1)] {
            std::fs::write(&file.0, bad).unwrap();
            let error = file.read().await.unwrap_err();
            assert!(matches!(error, TokenFileError::NoToken { .. }), "{bad:.20}");
        }
    }

    #[tokio::test]
    async fn an_empty_nonce_is_not_signed() {
        let seed = NkeySeed::from_random(bulla_identity::NkeyKind::User, &[7; 32]).unwrap();
        let proof = ConnectProof::Nkey(Arc::new(seed));
        assert!(proof.auth(b"").await.is_err());
        assert!(proof.auth(b"nonce").await.is_ok());
    }
}
