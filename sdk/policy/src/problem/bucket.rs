//! What can be wrong about buckets.

use crate::source::Place;

/// One kind of error about buckets, their keys, and streams by their names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BucketProblem {
    /// No name of a bucket.
    #[error("`{name}` is not a name of a bucket")]
    Name {
        /// The name found.
        name: String,
    },
    /// A name that is Bulla's or nats-server's.
    #[error("the name `{name}` of a bucket is reserved")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A number or duration out of bounds.
    #[error("`{key}` of a bucket must lie between {allowed}")]
    Bounds {
        /// The key.
        key: &'static str,
        /// The bounds.
        allowed: &'static str,
    },
    /// A bucket and a stream of one name.
    #[error("a stream is named `{name}` too ({place})")]
    NamedAsStream {
        /// The name.
        name: String,
        /// Where the stream stands.
        place: Place,
    },
    /// No key of a bucket.
    #[error("`{name}` is not a key of a bucket")]
    Key {
        /// The text found.
        name: String,
    },
    /// No name of a stream or bucket.
    #[error("`{name}` is not the name of a stream or of a bucket")]
    Store {
        /// The text found.
        name: String,
    },
    /// A bucket that the policy does not declare.
    #[error("there is no bucket `{name}`")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Neither a stream nor a bucket that the policy declares.
    #[error("there is no stream and no bucket `{name}`")]
    UnknownStore {
        /// The name.
        name: String,
    },
    /// A right to read whose last token is open.
    #[error(
        "rule `{rule}` lets `{workload}` read `{pattern}`: nats-server would also give it what lies beneath, `{opened}`"
    )]
    OpenRead {
        /// The workload.
        workload: String,
        /// The rule.
        rule: String,
        /// Its pattern.
        pattern: String,
        /// What the server would open.
        opened: String,
    },
    /// A deny within a right to read.
    #[error(
        "rule `{deny}` denies `{workload}` to read `{denied}`: nats-server cannot keep that back within what rule `{rule}` lets it read, `{pattern}`"
    )]
    ReadCut {
        /// The workload.
        workload: String,
        /// The deny rule.
        deny: String,
        /// What both are about.
        denied: String,
        /// The rule that allows.
        rule: String,
        /// Its pattern.
        pattern: String,
    },
}

impl BucketProblem {
    /// A stable name for the kind of error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "bucket_name",
            Self::Reserved { .. } => "bucket_reserved",
            Self::Bounds { .. } => "bucket_bounds",
            Self::NamedAsStream { .. } => "bucket_named_as_stream",
            Self::Key { .. } => "bucket_key",
            Self::Store { .. } => "store_name",
            Self::Unknown { .. } => "unknown_bucket",
            Self::UnknownStore { .. } => "unknown_store",
            Self::OpenRead { .. } => "open_read",
            Self::ReadCut { .. } => "read_cut",
        }
    }

    /// What to do about it, in one sentence.
    pub(super) const fn remedy(&self) -> &'static str {
        match self {
            Self::Name { .. } => "use A-Z, a-z, 0-9, `-` and `_`, at most 64 characters",
            Self::Reserved { .. } => {
                "rename it: names that start with `BULLA_`, `KV_` or `OBJ_` have a meaning already; a bucket is named without `KV_`"
            }
            Self::Bounds { .. } => "choose a value between them",
            Self::NamedAsStream { .. } => {
                "rename one of them: `manage` and the operator's tools know both by their names"
            }
            Self::Key { .. } => {
                "write \"BUCKET.KEY\": a declared bucket, and a key or a pattern of keys, such as \"carts.eu.*.items\" or \"carts.>\"; tokens of keys are made of A-Z, a-z, 0-9, `-`, `_`, `/` and `=`"
            }
            Self::Store { .. } => "name a stream or a bucket that the policy declares",
            Self::Unknown { .. } => "declare it, [bucket.NAME], or mend its spelling",
            Self::UnknownStore { .. } => {
                "declare it, [stream.NAME] or [bucket.NAME], or mend its spelling"
            }
            Self::OpenRead { .. } => {
                "end the pattern in `>` or in a literal token, such as \"carts.{user}.items\": who may ask for the newest of `carts.*` may ask for the newest of `carts.>`"
            }
            Self::ReadCut { .. } => {
                "let the allow rule name less, so that no deny is needed: who may ask for the newest of a pattern is given whatever in it is the newest"
            }
        }
    }
}
