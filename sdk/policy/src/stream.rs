//! Streams that the policy declares, and their consumers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::SubjectPattern;

/// The longest that an appended envelope may take until its stream has stored
/// it: 30 s. What arrives later is refused by every consumer.
///
/// A stream's duplicate window outlasts it by far, so that the server drops
/// every copy that could still be taken for fresh.
pub const APPEND_LIFE: Duration = Duration::from_secs(30);

/// The duplicate window of a stream for which the policy states none: 2 min.
pub const DEFAULT_DUPLICATES: Duration = Duration::from_secs(120);
/// The shortest duplicate window: [`APPEND_LIFE`] and ample room for clocks.
pub(crate) const SHORTEST_DUPLICATES: Duration = Duration::from_secs(60);
pub(crate) const LONGEST_DUPLICATES: Duration = Duration::from_secs(60 * 60);
/// The longest that a stream keeps messages by a policy's word.
pub(crate) const LONGEST_KEPT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
pub(crate) const MOST_REPLICAS: u64 = 5;

/// When a stream lets go of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retention {
    /// When it is too old.
    Limits,
    /// When its one consumer has acknowledged it.
    WorkQueue,
    /// When every consumer has acknowledged it.
    Interest,
}

impl Retention {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::WorkQueue => "workqueue",
            Self::Interest => "interest",
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stream as the policy declares it; always in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub(crate) name: Arc<str>,
    pub(crate) subjects: Vec<SubjectPattern>,
    pub(crate) mirror: Option<Arc<str>>,
    pub(crate) retention: Retention,
    pub(crate) max_age: Duration,
    pub(crate) duplicates: Duration,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) replicas: u64,
    pub(crate) longest_use: Duration,
}

impl Stream {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it stores; nothing by itself if it is a mirror.
    #[must_use]
    pub fn subjects(&self) -> &[SubjectPattern] {
        &self.subjects
    }

    /// The stream that it copies, with numbers and times, if it is a mirror.
    #[must_use]
    pub fn mirror(&self) -> Option<&str> {
        self.mirror.as_deref()
    }

    /// When it lets go of a message.
    #[must_use]
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// The longest that it keeps a message; the longest
    /// [`Stream::longest_use`] unless the policy says otherwise.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        self.max_age
    }

    /// For how long it remembers message ids.
    #[must_use]
    pub fn duplicates(&self) -> Duration {
        self.duplicates
    }

    /// The most bytes that it stores; a full stream takes nothing new.
    #[must_use]
    pub fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// On how many servers it lies.
    #[must_use]
    pub fn replicas(&self) -> u64 {
        self.replicas
    }

    /// The longest `max_age` of its subjects: after that nobody takes a
    /// message of it any more.
    #[must_use]
    pub fn longest_use(&self) -> Duration {
        self.longest_use
    }
}

/// A consumer that a rule grants to one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    pub(crate) stream: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) workload: u32,
}

impl Consumer {
    /// The stream's name.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Its own name within the stream.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
