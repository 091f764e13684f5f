//! What an import could not carry over.

use std::fmt;

/// One thing that the imported policy does not say, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    line: u32,
    user: Option<String>,
    what: String,
    why: Why,
}

/// Why something was left out. The codes are stable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// A password, where a workload proves a key.
    Password,
    /// An nkey that is not a user's.
    BadNkey,
    /// A token names nobody.
    Token,
    /// Replies go to each workload's own inbox by themselves.
    Inbox,
    /// JetStream's interface, which the policy's streams stand for.
    JetStream,
    /// Another subject of nats-server or of Bulla.
    Reserved,
    /// It begins with a wildcard; only what begins with these is carried over.
    WildcardFirst {
        /// The first tokens that were put in the wildcard's place.
        roots: Vec<String>,
    },
    /// It is no pattern that a policy can hold.
    NotAPattern {
        /// The broken rule.
        message: String,
    },
    /// The group is named as the workload is.
    QueueGroup,
    /// Nobody is ever in another workload's group.
    QueueDeny,
    /// Each reply is bound to its request, and the request to its time.
    ResponseLimits,
    /// Beside the other patterns nats-server could not enforce it.
    Conflict {
        /// What `bulla policy check` says of it.
        message: String,
    },
    /// What one account shows another.
    AccountLink,
    /// Permissions of servers and not of users.
    Routes,
    /// A file that is included.
    Include,
    /// It is not written as nats-server's documentation writes it.
    NotUnderstood,
}

impl LeftOut {
    pub(super) fn new(line: u32, user: Option<&str>, what: &str, why: Why) -> Self {
        Self {
            line,
            user: user.map(str::to_owned),
            what: what.escape_debug().to_string(),
            why,
        }
    }

    /// The line of the source that says it, counted from 1.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The user, if it is about one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The pattern or key.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why.
    #[must_use]
    pub fn why(&self) -> &Why {
        &self.why
    }

    /// Whether the imported policy allows less for it. What is not lost is worth
    /// knowing all the same.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        !matches!(
            self.why,
            Why::Inbox | Why::QueueGroup | Why::QueueDeny | Why::ResponseLimits
        )
    }
}

impl Why {
    /// A stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::BadNkey => "bad_nkey",
            Self::Token => "token",
            Self::Inbox => "inbox",
            Self::JetStream => "jetstream",
            Self::Reserved => "reserved",
            Self::WildcardFirst { .. } => "wildcard_first",
            Self::NotAPattern { .. } => "not_a_pattern",
            Self::QueueGroup => "queue_group",
            Self::QueueDeny => "queue_deny",
            Self::ResponseLimits => "response_limits",
            Self::Conflict { .. } => "conflict",
            Self::AccountLink => "account_link",
            Self::Routes => "routes",
            Self::Include => "include",
            Self::NotUnderstood => "not_understood",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password => f.write_str(
                "a workload proves a key and not a password: put the public nkey of its own key in the placeholder's place",
            ),
            Self::BadNkey => {
                f.write_str("this is no public nkey of a user: a placeholder stands in its place")
            }
            Self::Token => f.write_str("a token names nobody: declare a [workload] for each client"),
            Self::Inbox => f.write_str(
                "not needed: replies go to each workload's own inbox, which nobody else can read",
            ),
            Self::JetStream => f.write_str(
                "streams are declared by [stream.NAME], and used by `append` and `consume`",
            ),
            Self::Reserved => {
                f.write_str("subjects of nats-server and of Bulla cannot be granted")
            }
            Self::WildcardFirst { roots } if roots.is_empty() => f.write_str(
                "a grant names its first token: name those that are needed with --root",
            ),
            Self::WildcardFirst { roots } => write!(
                f,
                "a grant names its first token: carried over for those that begin with {}; name others with --root",
                roots.join(", ")
            ),
            Self::NotAPattern { message } => f.write_str(message),
            Self::QueueGroup => f.write_str(
                "carried over as `serve`: the queue group is named as the workload is. For events of a group write `subscribe`",
            ),
            Self::QueueDeny => {
                f.write_str("not needed: a workload joins no queue group but its own")
            }
            Self::ResponseLimits => f.write_str(
                "not needed: each reply is bound to its request, for as long as the requester waits",
            ),
            Self::Conflict { message } => f.write_str(message),
            Self::AccountLink => f.write_str(
                "what accounts show each other is not part of a policy: grant it to the workloads on both sides",
            ),
            Self::Routes => f.write_str("permissions of servers stay in nats-server's configuration"),
            Self::Include => f.write_str("the file that is included was not read, and what it may say is not granted: put it in its place"),
            Self::NotUnderstood => f.write_str("this is not understood, and grants nothing"),
        }
    }
}
