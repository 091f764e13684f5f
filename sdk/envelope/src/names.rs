//! The byte strings that have a name of their own.

use std::fmt;

use data_encoding::HEXLOWER;

macro_rules! named_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Lower-case hexadecimal digits.
            #[must_use]
            pub fn to_hex(self) -> String {
                HEXLOWER.encode(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

named_bytes! {
    /// 16 random bytes that name one message. They also blind its leaf.
    MessageId, 16
}

named_bytes! {
    /// 8 random bytes that a process draws for each run of its sequence counter.
    Epoch, 8
}

named_bytes! {
    /// SHA-256 over what the signature of one envelope covers, see ENV-20.
    LeafHash, 32
}

named_bytes! {
    /// 16 random bytes that name one decision in the audit log.
    DecisionId, 16
}
