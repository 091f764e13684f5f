//! Users of NATS that are no workloads: brokers and operators.
//!
//! With a plain configuration nats-server knows them by their nkeys. In operator mode it
//! wants to see a JWT by which an account vouches for the nkey; it lies beside the seed
//! (`broker-js.nk`, `broker-js.jwt`), or both in one file of credentials as NATS's own
//! tools write it.

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError};
use bulla_identity::{Nkey, NkeyKind};
use bulla_keyring::{NkeySeed, SeedError};
use bulla_process::{SecretFileError, secret_file};

use crate::nats_jwt;

/// Who connects, and by what he proves it.
pub struct BusUser {
    seed: NkeySeed,
    jwt: Option<String>,
}

impl BusUser {
    /// Reads a file with a seed (`SU…`), or with credentials.
    ///
    /// # Errors
    /// If one of the files cannot be used, or the JWT is another user's.
    pub fn read(path: &Path) -> Result<Self, BusUserError> {
        let text = secret_file::read_line(path)?;
        let (seed, jwt) = match between(&text, JWT_BEGIN, JWT_END) {
            Some(jwt) => (
                between(&text, SEED_BEGIN, SEED_END).unwrap_or_default(),
                Some(jwt.to_owned()),
            ),
            None => (&**text, jwt_beside(path)?),
        };
        let seed = NkeySeed::parse(seed).map_err(|source| BusUserError::Seed {
            path: path.to_owned(),
            source,
        })?;
        if seed.kind() != NkeyKind::User {
            return Err(BusUserError::NoUser {
                path: path.to_owned(),
            });
        }
        let user = Self { seed, jwt };
        if user.jwt.is_some() && user.vouched_subject() != Some(user.public().to_string()) {
            return Err(BusUserError::ForeignJwt {
                path: path.to_owned(),
            });
        }
        Ok(user)
    }

    /// One that nats-server knows by its nkey alone.
    #[must_use]
    pub const fn of(seed: NkeySeed) -> Self {
        Self { seed, jwt: None }
    }

    /// The public nkey.
    #[must_use]
    pub fn public(&self) -> Nkey {
        self.seed.public()
    }

    /// Signs what nats-server challenges with.
    pub(crate) const fn seed(&self) -> &NkeySeed {
        &self.seed
    }

    /// What vouches for the nkey, in operator mode.
    pub(crate) fn jwt(&self) -> Option<&str> {
        self.jwt.as_deref()
    }

    /// What is said to nats-server, which sent `nonce`.
    pub(crate) fn auth(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let signature = self.seed.sign_nonce(nonce).map_err(AuthError::new)?;
        let mut auth = Auth::new();
        match &self.jwt {
            // Who names an nkey is looked for among those of the configuration.
            Some(jwt) => auth.jwt = Some(jwt.clone()),
            None => auth.nkey = Some(self.public().to_string()),
        }
        auth.signature = Some(signature.as_bytes().to_vec());
        Ok(auth)
    }

    fn vouched_subject(&self) -> Option<String> {
        let claims = nats_jwt::read(self.jwt()?)?;
        Some(claims.get("sub")?.as_str()?.to_owned())
    }
}

impl fmt::Debug for BusUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vouched = self.jwt.as_ref().map_or("", |_| ", vouched for");
        write!(f, "BusUser({}{vouched})", self.public())
    }
}

fn jwt_beside(path: &Path) -> Result<Option<String>, BusUserError> {
    let path = path.with_extension("jwt");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BusUserError::Jwt { path, source }),
    }
}

/// What stands on the lines between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    let (inner, _) = rest.split_once(end)?;
    Some(inner.trim_matches(['-', '\r', '\n', ' ']))
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum BusUserError {
    /// The file cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// It holds no seed.
    #[error("`{}` holds no nkey seed of a user (`SU…`) and no NATS credentials", path.display())]
    Seed {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: SeedError,
    },
    /// It holds a seed of something else.
    #[error("`{}` holds no user (`SU…`) seed", path.display())]
    NoUser {
        /// The file.
        path: PathBuf,
    },
    /// The JWT beside it cannot be read.
    #[error("cannot read `{}`", path.display())]
    Jwt {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The JWT vouches for another nkey, or is none.
    #[error("what vouches for the nkey in `{}` is another one's, or no JWT of a user", path.display())]
    ForeignJwt {
        /// The file with the seed.
        path: PathBuf,
    },
}

const JWT_BEGIN: &str = "-----BEGIN NATS USER JWT-----";
const JWT_END: &str = "------END NATS USER JWT";
const SEED_BEGIN: &str = "-----BEGIN USER NKEY SEED-----";
const SEED_END: &str = "------END USER NKEY SEED";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seed(byte: u8) -> NkeySeed {
        NkeySeed::from_random(NkeyKind::User, &[byte; 32]).unwrap()
    }

    fn jwt_of(byte: u8) -> String {
        let account = NkeySeed::from_random(NkeyKind::Account, &[9; 32]).unwrap();
        let claims = json!({
            "iss": account.public().to_string(), "sub": seed(byte).public().to_string(),
        });
        nats_jwt::sign(&account, &claims)
    }

    #[test]
    fn a_jwt_is_found_beside_the_seed_or_with_it_and_must_be_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        secret_file::create(&at("a.nk"), seed(1).to_seed_text().as_bytes()).unwrap();
        let plain = BusUser::read(&at("a.nk")).unwrap();
        assert_eq!(
            plain.auth(b"n").unwrap().nkey,
            Some(seed(1).public().to_string())
        );

        std::fs::write(at("a.jwt"), format!("{}\n", jwt_of(1))).unwrap();
        let vouched = BusUser::read(&at("a.nk")).unwrap();
        let auth = vouched.auth(b"n").unwrap();
        assert_eq!((auth.nkey, auth.jwt), (None, Some(jwt_of(1))));
        assert!(vouched.auth(b"").is_err());

        std::fs::write(at("a.jwt"), jwt_of(2)).unwrap();
        let error = BusUser::read(&at("a.nk")).unwrap_err();
        assert!(matches!(error, BusUserError::ForeignJwt { .. }));

        let creds = |jwt: &str| {
            format!(
                "{JWT_BEGIN}\n{jwt}\n{JWT_END}------\n\n*** IMPORTANT ***\n\n\
                 {SEED_BEGIN}\n{}\n{SEED_END}------\n",
                &*seed(3).to_seed_text()
            )
        };
        secret_file::create(&at("b.creds"), creds(&jwt_of(3)).as_bytes()).unwrap();
        let user = BusUser::read(&at("b.creds")).unwrap();
        assert_eq!(user.jwt(), Some(&*jwt_of(3)));
        secret_file::create(&at("c.creds"), creds(&jwt_of(1)).as_bytes()).unwrap();
        assert!(BusUser::read(&at("c.creds")).is_err());
        assert!(!format!("{user:?}").contains("SU"), "{user:?}");
    }
}
