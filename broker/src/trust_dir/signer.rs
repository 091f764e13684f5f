//! Who signs: a key file, or a command that holds the key elsewhere.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bulla_keyring::{
    AuthorityKey, AuthorityKeyError, AuthorityRole, AuthoritySeed, BadSignature, Signature, Tag,
};
use bulla_process::{SecretFileError, secret_file};
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};

/// Signs for one role, with a key whose public half is known.
#[derive(Debug)]
pub struct Signer {
    public: AuthorityKey,
    held: Held,
}

#[derive(Debug)]
enum Held {
    File(Box<AuthoritySeed>),
    Command(SignCommand),
}

/// A command that signs: it gets the bytes on standard input and answers with
/// the Ed25519 signature on standard output, as 64 bytes, in hexadecimal digits
/// or in base64. What it says on standard error is shown as it comes, and it
/// may ask its user on the terminal.
#[derive(Debug, Clone)]
pub struct SignCommand {
    command: String,
    limit: Duration,
}

impl SignCommand {
    /// A command line for `sh`, which may take so long.
    #[must_use]
    pub fn new(command: impl Into<String>, limit: Duration) -> Self {
        Self {
            command: command.into(),
            limit,
        }
    }
}

impl Signer {
    /// The key in a file that nobody else can read.
    ///
    /// # Errors
    /// If the file cannot be used, or is of another role or another key.
    pub fn from_file(path: &Path, expected: AuthorityKey) -> Result<Self, SignerError> {
        let text = secret_file::read_line(path)?;
        let seed = AuthoritySeed::parse(expected.role(), &text);
        let seed = seed.map_err(|source| SignerError::Key {
            path: path.to_owned(),
            source,
        })?;
        if seed.public() != expected {
            return Err(SignerError::OtherKey {
                path: path.to_owned(),
            });
        }
        Ok(Self::of(seed))
    }

    /// A key in this process.
    #[must_use]
    pub fn of(seed: AuthoritySeed) -> Self {
        Self {
            public: seed.public(),
            held: Held::File(Box::new(seed)),
        }
    }

    /// A key that a command holds. Every signature is verified by its public
    /// half before it is used.
    #[must_use]
    pub const fn by_command(public: AuthorityKey, command: SignCommand) -> Self {
        Self {
            public,
            held: Held::Command(command),
        }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> AuthorityKey {
        self.public
    }

    /// Signs `message`, which begins with the tag.
    ///
    /// # Errors
    /// [`SignerError`] if the command fails, or its answer is no signature by
    /// the key that it should be.
    pub fn sign(&self, tag: Tag, message: &[u8]) -> Result<Signature, SignerError> {
        let statement = message
            .strip_prefix(tag.as_bytes())
            .ok_or(SignerError::Signature(BadSignature))?;
        let signature = match &self.held {
            Held::File(seed) => seed.signing_key().sign(tag, &[statement]),
            Held::Command(command) => parse(&command.run(message)?)?,
        };
        self.public
            .verifying_key()
            .verify(tag, &[statement], &signature)?;
        Ok(signature)
    }
}

impl SignCommand {
    /// What the command answers to `message`.
    fn run(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let failed = |source| SignerError::Start {
            command: self.command.clone(),
            source,
        };
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(&self.command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let deadline = Instant::now() + self.limit;
        // Both in threads of their own: it may answer before it has read all,
        // or hang with either. A thread that hangs ends with this program.
        if let Some(mut stdin) = child.stdin.take() {
            let message = message.to_vec();
            std::thread::spawn(move || {
                // It need not read what it does not want; its answer counts.
                let _ = stdin.write_all(&message);
            });
        }
        let (send, answer) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let read = stdout.take(MAX_ANSWER).read_to_end(&mut bytes);
                let _ = send.send(read.map(|_| bytes));
            });
        }
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(self.timed_out());
            }
            std::thread::sleep(POLL);
        };
        if !status.success() {
            return Err(SignerError::Failed {
                command: self.command.clone(),
                status,
            });
        }
        // Something that it left running may hold the pipe.
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = answer.recv_timeout(left.max(POLL));
        answer.map_err(|_| self.timed_out())?.map_err(failed)
    }

    fn timed_out(&self) -> SignerError {
        SignerError::TimedOut {
            command: self.command.clone(),
            limit: self.limit,
        }
    }
}

fn parse(answer: &[u8]) -> Result<Signature, SignerError> {
    if let Ok(raw) = <[u8; 64]>::try_from(answer) {
        return Ok(Signature::from_bytes(raw));
    }
    decode::<64>(answer.trim_ascii())
        .map(Signature::from_bytes)
        .ok_or(SignerError::NoSignature {
            actual: answer.len(),
        })
}

/// Reads a public key: as `bulla trust` prints it, 32 bytes in hexadecimal
/// digits or base64, or a PEM `PUBLIC KEY`.
///
/// # Errors
/// [`SignerError::Public`] for anything else.
pub fn parse_public(role: AuthorityRole, text: &str) -> Result<AuthorityKey, SignerError> {
    let text = text.trim();
    if text.starts_with("bulla-") {
        return AuthorityKey::parse(role, text).map_err(SignerError::Public);
    }
    let unreadable = || SignerError::UnreadablePublic;
    let bytes = if let Some(pem) = text.strip_prefix("-----BEGIN PUBLIC KEY-----") {
        let body = pem.split("-----").next().unwrap_or_default();
        let body: String = body.split_whitespace().collect();
        let der = BASE64.decode(body.as_bytes()).map_err(|_| unreadable())?;
        let key = der.strip_prefix(ED25519_SPKI).ok_or_else(unreadable)?;
        key.try_into().map_err(|_| unreadable())?
    } else {
        decode::<32>(text.as_bytes()).ok_or_else(unreadable)?
    };
    AuthorityKey::from_bytes(role, &bytes).map_err(SignerError::Public)
}

fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let decoded = HEXLOWER_PERMISSIVE
        .decode(text)
        .ok()
        .filter(|bytes| bytes.len() == N)
        .or_else(|| BASE64.decode(text).ok())
        .or_else(|| BASE64_NOPAD.decode(text).ok())?;
    decoded.try_into().ok()
}

/// Why nothing is signed. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key file cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It holds no key of the role.
    #[error("`{}` holds no key of this kind", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: AuthorityKeyError,
    },
    /// It holds another key.
    #[error("`{}` holds another key than `trust.toml` says", path.display())]
    OtherKey {
        /// The file.
        path: PathBuf,
    },
    /// The command did not start or its output broke off.
    #[error("cannot run the signing command `{command}`")]
    Start {
        /// The command.
        command: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The command says that it failed.
    #[error("the signing command `{command}` ended with {status}")]
    Failed {
        /// The command.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It took too long and was ended.
    #[error("the signing command `{command}` did not answer within {}", humantime::format_duration(*limit))]
    TimedOut {
        /// The command.
        command: String,
        /// How long it had.
        limit: Duration,
    },
    /// Its answer is nothing like a signature.
    #[error(
        "the signing command answered {actual} bytes that are no Ed25519 signature (64 bytes, hexadecimal digits or base64)"
    )]
    NoSignature {
        /// How much it answered.
        actual: usize,
    },
    /// Its answer is a signature by another key, or of something else.
    #[error("the signature does not verify under the public key that is expected")]
    Signature(#[from] BadSignature),
    /// Not a public key.
    #[error("not a public key of this kind")]
    Public(#[source] AuthorityKeyError),
    /// In no form that is known.
    #[error(
        "not a public key: give `bulla-…-public-1:…`, 32 bytes in hexadecimal digits or base64, or a PEM file of an Ed25519 key"
    )]
    UnreadablePublic,
}

/// More than any form of a signature, so that rubbish is told from one.
const MAX_ANSWER: u64 = 4096;
const POLL: Duration = Duration::from_millis(20);
/// `SubjectPublicKeyInfo` of an Ed25519 key up to the key ([RFC 8410 §4]).
///
/// [RFC 8410 §4]: https://www.rfc-editor.org/rfc/rfc8410#section-4
const ED25519_SPKI: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"the statement";

    fn seed(n: u8) -> AuthoritySeed {
        AuthoritySeed::from_random(AuthorityRole::Root, &[n; 32])
    }

    fn message() -> Vec<u8> {
        Tag::TrustBundle.message(&[MESSAGE])
    }

    fn signature(n: u8) -> Signature {
        seed(n).signing_key().sign(Tag::TrustBundle, &[MESSAGE])
    }

    fn by(command: &str) -> Result<Signature, SignerError> {
        let command = SignCommand::new(command, Duration::from_secs(5));
        Signer::by_command(seed(1).public(), command).sign(Tag::TrustBundle, &message())
    }

    #[test]
    fn a_command_signs_what_it_gets_in_any_usual_form() {
        let dir = tempfile::tempdir().unwrap();
        let got = dir.path().join("got");
        let signature = signature(1);
        let hex = HEXLOWER_PERMISSIVE.encode(signature.as_bytes());
        let base64 = BASE64.encode(signature.as_bytes());
        let raw = dir.path().join("raw");
        std::fs::write(&raw, signature.as_bytes()).unwrap();
        for command in [
            format!("cat > {}; echo {hex}", got.display()),
            format!("cat > {}; echo {}", got.display(), hex.to_uppercase()),
            format!("cat > {}; printf '%s' {base64}", got.display()),
            format!(
                "cat > {}; echo {}",
                got.display(),
                base64.trim_end_matches('=')
            ),
            format!("cat > {}; cat {}", got.display(), raw.display()),
        ] {
            assert_eq!(by(&command).unwrap(), signature, "{command}");
            assert_eq!(std::fs::read(&got).unwrap(), message());
        }
    }

    #[test]
    fn another_keys_signature_or_of_something_else_is_refused() {
        let other = HEXLOWER_PERMISSIVE.encode(signature(2).as_bytes());
        let wrong = by(&format!("cat >/dev/null; echo {other}"));
        assert!(matches!(wrong, Err(SignerError::Signature(_))));
        let policy = seed(1).signing_key().sign(Tag::Policy, &[MESSAGE]);
        let policy = HEXLOWER_PERMISSIVE.encode(policy.as_bytes());
        let wrong = by(&format!("cat >/dev/null; echo {policy}"));
        assert!(matches!(wrong, Err(SignerError::Signature(_))));
    }

    #[test]
    fn a_command_that_fails_says_rubbish_or_hangs_is_told() {
        assert!(matches!(by("exit 3"), Err(SignerError::Failed { .. })));
        assert!(matches!(
            by("no-such-program-anywhere"),
            Err(SignerError::Failed { .. })
        ));
        for rubbish in ["true", "echo hello", "head -c 3000 /dev/zero"] {
            assert!(
                matches!(by(rubbish), Err(SignerError::NoSignature { .. })),
                "{rubbish}"
            );
        }
        // One that does not end is not read to its end.
        assert!(matches!(
            by("cat /dev/zero"),
            Err(SignerError::Failed { .. })
        ));
        let start = Instant::now();
        let command = SignCommand::new("sleep 60", Duration::from_millis(100));
        let hung = Signer::by_command(seed(1).public(), command);
        let hung = hung.sign(Tag::TrustBundle, &message());
        assert!(matches!(hung, Err(SignerError::TimedOut { .. })));
        // Something that it leaves behind holds the pipe.
        let command = SignCommand::new("sleep 60 & exit 0", Duration::from_millis(200));
        let left = Signer::by_command(seed(1).public(), command);
        let left = left.sign(Tag::TrustBundle, &message());
        assert!(matches!(left, Err(SignerError::TimedOut { .. })));
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn public_keys_are_read_in_any_usual_form() {
        let public = seed(1).public();
        let bytes = public.verifying_key().as_bytes();
        let der = [ED25519_SPKI, bytes.as_slice()].concat();
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            BASE64.encode(&der)
        );
        for text in [
            public.to_string(),
            HEXLOWER_PERMISSIVE.encode(bytes),
            BASE64.encode(bytes),
            pem,
        ] {
            let read = parse_public(AuthorityRole::Root, &text).unwrap();
            assert_eq!(read, public, "{text}");
        }
        for text in ["", "rubbish", "-----BEGIN PUBLIC KEY-----\nAAAA"] {
            assert!(parse_public(AuthorityRole::Root, text).is_err(), "{text}");
        }
        // Every form of another role's key but the one that says its role.
        let policy = AuthoritySeed::from_random(AuthorityRole::Policy, &[1; 32]).public();
        assert!(parse_public(AuthorityRole::Root, &policy.to_string()).is_err());
    }
}
