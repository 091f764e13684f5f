//! Domain separation: what signed, hashed, derived or encrypted bytes say. ENV-60 of the
//! envelope's SPEC.md lists the names.

/// Defines the tags at one place, so that none is missing in `ALL`.
macro_rules! tags {
    ($(#[$type_doc:meta])* pub enum Tag { $($(#[$doc:meta])* $name:ident = $bytes:literal,)+ }) => {
        $(#[$type_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Tag {
            $($(#[$doc])* $name,)+
        }

        impl Tag {
            /// Every tag.
            pub const ALL: [Self; [$(Self::$name),+].len()] = [$(Self::$name),+];

            /// The bytes before the statement.
            #[must_use]
            pub const fn as_bytes(self) -> &'static [u8] {
                match self {
                    $(Self::$name => $bytes,)+
                }
            }
        }
    };
}

tags! {
    /// What kind of statement is signed, or what is hashed, derived or encrypted.
    ///
    /// The signed bytes of every statement begin with [`Tag::as_bytes`], so that a
    /// signature of one kind never passes for another, whichever key made it. The
    /// input of every hash that names a key, the salt of every key derivation and the
    /// `info` of every wrap begin with one for the same reason.
    ///
    /// Each tag starts with the byte `0xFF`, which occurs nowhere in UTF-8, and ends
    /// with a zero byte, so no tag is a prefix of another. An nkey also signs the
    /// nonce that a nats-server sends at connect, which is text; so is what a JWT
    /// library signs, and what TLS signs with a certificate's key begins with spaces. A malicious nats-server therefore cannot have a credential
    /// request countersigned by sending it as a nonce, and
    /// [`SigningKey::sign_text`](crate::SigningKey::sign_text) takes `&str` so that
    /// nothing in this workspace signs other bytes without a tag.
    pub enum Tag {
        /// Root of a batch of envelopes, by a message key.
        Batch = b"\xffbulla/v1/batch\0",
        /// Possession of the message key that a credential request names.
        CredentialRequest = b"\xffbulla/v1/credential-request\0",
        /// Possession of the token key that a credential request names.
        TokenKey = b"\xffbulla/v1/token-key\0",
        /// A workload's nkey vouches for a credential request.
        Countersignature = b"\xffbulla/v1/countersignature\0",
        /// A workload's certificate vouches for a credential request.
        CertificateCountersignature = b"\xffbulla/v1/certificate-countersignature\0",
        /// A message credential, by a broker's issuing key.
        Credential = b"\xffbulla/v1/credential\0",
        /// A trust bundle, by the offline root.
        TrustBundle = b"\xffbulla/v1/trust-bundle\0",
        /// Which root takes its place, by a root.
        RootSuccession = b"\xffbulla/v1/root-succession\0",
        /// A policy revision, by the policy key.
        Policy = b"\xffbulla/v1/policy\0",
        /// A policy on trial, by the policy key.
        Candidate = b"\xffbulla/v1/policy-candidate\0",
        /// What is in force at a moment, by a broker's issuing key.
        Head = b"\xffbulla/v1/head\0",
        /// What is revoked, by the policy key.
        Revocations = b"\xffbulla/v1/revocations\0",
        /// A workload's KEM public keys, by its nkey.
        KemRecord = b"\xffbulla/v1/kem-record\0",
        /// Who may join with a key of his own, by the policy key.
        Invitation = b"\xffbulla/v1/invitation\0",
        /// The key of a host that joins, by itself and by the invitation's.
        Joining = b"\xffbulla/v1/joining\0",
        /// Id of a data key: a commitment to it.
        DataKey = b"\xffbulla/v1/data-key\0",
        /// `info` of a wrapped data key.
        Wrap = b"\xffbulla/v1/wrap\0",
        /// Id of a KEM public key.
        KemKey = b"\xffbulla/v1/kem-key\0",
        /// Derivation of a workload's KEM key from its nkey seed.
        WorkloadKem = b"\xffbulla/v1/workload-kem\0",
        /// Derivation of the key of what a process keeps on its own disk.
        AtRest = b"\xffbulla/v1/at-rest\0",
        /// Hash of the KEM keys that a data key is wrapped to.
        RecipientSet = b"\xffbulla/v1/recipient-set\0",
        /// Derivation of the key that authenticates replies to one requester.
        MacKey = b"\xffbulla/v1/mac-key\0",
        /// Additional data of encrypted claims.
        PrivateClaims = b"\xffbulla/v1/private-claims\0",
        /// A reply that is authenticated to its requester alone.
        Mac = b"\xffbulla/v1/mac\0",
        /// Hash of an entry of the audit log, which the next entry names.
        AuditEntry = b"\xffbulla/v1/audit-entry\0",
        /// How far a chain of the audit log goes, by its writer's key.
        AuditHead = b"\xffbulla/v1/audit-head\0",
        /// What stands for a user's name in the audit log.
        AuditUser = b"\xffbulla/v1/audit-user\0",
    }
}

impl Tag {
    /// The bytes that are signed: tag ‖ parts. For keys that sign outside this
    /// process; a key in it signs with [`SigningKey::sign`](crate::SigningKey::sign).
    ///
    /// All parts but the last must have a fixed length or carry it.
    #[must_use]
    pub fn message(self, parts: &[&[u8]]) -> Vec<u8> {
        let tag = self.as_bytes();
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut message = Vec::with_capacity(tag.len() + len);
        message.extend_from_slice(tag);
        for part in parts {
            message.extend_from_slice(part);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_no_text_and_no_prefix_of_each_other() {
        for a in Tag::ALL {
            assert!(std::str::from_utf8(a.as_bytes()).is_err());
            assert!(a.as_bytes().ends_with(b"\0"));
            for b in Tag::ALL {
                assert!(a == b || !b.as_bytes().starts_with(a.as_bytes()));
            }
        }
    }
}
