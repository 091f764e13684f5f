//! What can be wrong about how workloads prove themselves by tokens.

/// One kind of error about attestors and the issuers that they name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestProblem {
    /// A name that no `[jwt]` has.
    #[error("there is no `[jwt.{name}]`")]
    UnknownJwt {
        /// The name.
        name: String,
        /// A name like it.
        similar: Option<String>,
    },
    /// Keys from two places.
    #[error("an issuer's keys are fetched from `jwks_url` or given as `jwks`, not both")]
    KeysTwice,
    /// No URL whose answer could be believed.
    #[error("`{key}` is no https URL: `{url}`")]
    Url {
        /// The key.
        key: &'static str,
        /// What stands there.
        url: String,
    },
    /// Nothing, or what no token could say.
    #[error("`{key}` is empty, longer than 512 bytes, or holds control characters")]
    Text {
        /// The key.
        key: &'static str,
    },
    /// An algorithm that there is not, or that needs a shared secret.
    #[error("`{name}` is no algorithm that a workload's token may be signed with")]
    Algorithm {
        /// The name found.
        name: String,
    },
    /// No set of keys.
    #[error("`jwks` is no JSON Web Key Set with public keys")]
    Keys,
    /// Secret keys.
    #[error("`jwks` holds a secret key")]
    SecretKeys,
    /// A life that is none, or too long.
    #[error("`max_life` must lie between `1m` and `366d`")]
    MaxLife,
    /// No service account.
    #[error("`{text}` names no service account of Kubernetes")]
    ServiceAccount {
        /// The text found.
        text: String,
    },
    /// A key beside another attestor than it belongs to.
    #[error("`{key}` stands beside `jwt` only")]
    Misplaced {
        /// The key.
        key: &'static str,
    },
    /// Two ways to say one thing.
    #[error("`k8s` is another way to write `sub`: one of them is enough")]
    SubjectTwice,
    /// One token would prove two workloads.
    #[error("tokens with this `sub` already prove the workload `{owner}`")]
    ProofTwice {
        /// The workload that was first.
        owner: String,
    },
    /// No protocol that workloads connect by.
    #[error("`{name}` is no protocol that a workload can connect by")]
    Protocol {
        /// The name found.
        name: String,
    },
    /// A receiver that nobody can encrypt to.
    #[error(
        "`{workload}` has no nkey, from which its keys for encryption would come, and could not read what is sent on `{subject}`"
    )]
    NoKeyToRead {
        /// The workload.
        workload: String,
        /// What is encrypted.
        subject: String,
    },
    /// A reader of private claims that nobody can encrypt to.
    #[error(
        "`{workload}` has no nkey, from which its keys for encryption would come, and could not read the claim `{claim}`"
    )]
    NoKeyForClaim {
        /// The workload.
        workload: String,
        /// The claim.
        claim: String,
    },
}

impl AttestProblem {
    /// A stable name for the kind of error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownJwt { .. } => "unknown_jwt",
            Self::KeysTwice => "jwt_keys_twice",
            Self::Url { .. } => "jwt_url",
            Self::Text { .. } => "jwt_text",
            Self::Algorithm { .. } => "jwt_algorithm",
            Self::Keys => "jwt_keys",
            Self::SecretKeys => "jwt_secret_keys",
            Self::MaxLife => "jwt_max_life",
            Self::ServiceAccount { .. } => "service_account",
            Self::Misplaced { .. } => "attestor_misplaced",
            Self::SubjectTwice => "jwt_subject_twice",
            Self::ProofTwice { .. } => "jwt_proof_twice",
            Self::Protocol { .. } => "protocol",
            Self::NoKeyToRead { .. } => "no_key_to_read",
            Self::NoKeyForClaim { .. } => "no_key_for_claim",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        let text = match self {
            Self::UnknownJwt { name, similar } => {
                return match similar {
                    Some(similar) => format!("did you mean `{similar}`?"),
                    None => format!("declare it as `[jwt.{name}]` with `issuer` and `audience`"),
                };
            }
            Self::KeysTwice => "leave one of them out",
            Self::Url { .. } => "write an https URL; http is for loopback addresses alone",
            Self::Text { .. } => "write what the token says, byte for byte",
            Self::Algorithm { .. } => {
                "write some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA"
            }
            Self::Keys => {
                "put the issuer's public key set here, as its `jwks_uri` answers it: '''{\"keys\":[…]}'''"
            }
            Self::SecretKeys => {
                "take it out, and replace the key: whoever has read this policy can issue tokens"
            }
            Self::MaxLife => "write a duration such as `1h`",
            Self::ServiceAccount { .. } => {
                "write `namespace/name`, as `kubectl get serviceaccounts -A` lists them"
            }
            Self::Misplaced { .. } => {
                "write one attestor for each proof: `[{ nkey = \"U…\" }, { jwt = \"name\", sub = \"…\" }]`"
            }
            Self::SubjectTwice => "leave `sub` out",
            Self::ProofTwice { .. } => {
                "give each workload a service account, or a subject, of its own: it is an identity"
            }
            Self::Protocol { .. } => "write `nats`, `websocket` or both",
            Self::NoKeyToRead { .. } | Self::NoKeyForClaim { .. } => {
                "add `{ nkey = \"U…\", vouches = false }` to its `attest`: it need not connect with it"
            }
        };
        text.to_owned()
    }
}
