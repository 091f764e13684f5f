//! What the doctor looks at, and what it found.

/// One check and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) check: &'static Check,
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) seen: String,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The door is closed.
    Sound,
    /// It is not.
    Ill,
    /// It could not be tried, which is no good sign and no bad one.
    Unknown,
}

impl Verdict {
    /// A short stable name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Ill => "ill",
            Self::Unknown => "unknown",
        }
    }
}

/// A thing that is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Check {
    /// A short stable name.
    pub(crate) code: &'static str,
    /// What must hold.
    pub(crate) holds: &'static str,
    /// What to do if it does not.
    pub(crate) remedy: &'static str,
}

impl Check {
    pub(crate) fn sound(&'static self, seen: impl Into<String>) -> Finding {
        self.finding(Verdict::Sound, seen)
    }

    pub(crate) fn ill(&'static self, seen: impl Into<String>) -> Finding {
        self.finding(Verdict::Ill, seen)
    }

    pub(crate) fn unknown(&'static self, seen: impl Into<String>) -> Finding {
        self.finding(Verdict::Unknown, seen)
    }

    /// Ill if there is something to say, or else sound.
    pub(crate) fn of(&'static self, faults: Vec<String>, else_seen: impl Into<String>) -> Finding {
        if faults.is_empty() {
            self.sound(else_seen)
        } else {
            self.ill(faults.join("; "))
        }
    }

    fn finding(&'static self, verdict: Verdict, seen: impl Into<String>) -> Finding {
        Finding {
            check: self,
            verdict,
            seen: seen.into(),
        }
    }
}

macro_rules! checks {
    ($($name:ident, $code:literal, $holds:literal, $remedy:literal;)*) => {
        $(pub(crate) static $name: Check = Check {
            code: $code,
            holds: $holds,
            remedy: $remedy,
        };)*

        /// All of them.
        #[cfg(test)]
        pub(crate) static ALL: &[&Check] = &[$(&$name),*];
    };
}

checks! {
    STRANGERS, "strangers", "nobody gets in whom the callout does not know",
        "every account but AUTH, SYS and JS is filled by the callout: configure `auth_callout`, remove `no_auth_user` and users with passwords";
    NONCE, "nonce", "the server challenges clients, and an empty challenge proves nothing",
        "configure the brokers' nkey users, without which nats-server sends no nonce, and run no other callout";
    VERSION, "version", "nats-server has the security fixes that Bulla stands on",
        "run nats-server 2.14.5 or newer";
    TLS, "tls", "off loopback, connections are encrypted",
        "configure `tls` on nats-server: a login by nkey can be relayed where it is not";
    ADMITTED, "admitted", "workloads that hold their seeds get in",
        "is the workload in the policy, and does a broker run? `bulla policy status` shows who does";
    INBOXES, "inboxes", "a workload reads nobody's inbox but its own",
        "permissions must come from the brokers' callout: no static users in the workloads' account";
    SYSTEM, "system", "`$SYS` is closed to workloads",
        "workloads belong into an account that is not the system account, with permissions from the callout";
    CALLOUT, "callout", "no workload hears what clients send to authenticate",
        "the callout belongs into an account of its own, AUTH";
    JETSTREAM, "jetstream", "a workload cannot command JetStream",
        "streams belong into the account JS, and only Bulla's imports lead there";
    WILDCARDS, "wildcards", "a grant that ends in `*` reaches one level and no deeper",
        "permissions must come from the brokers' callout: `foo.*` needs the deny `foo.*.>`";
    QUEUES, "queues", "nobody joins another workload's queue group",
        "permissions must come from the brokers' callout: it names queue groups";
    CLOCK, "clock", "clocks agree with the brokers', and brokers speak",
        "synchronise the clocks (NTP), and see whether a broker runs";
    REPLIES, "server_replies", "answers of nats-server cannot be turned into commands",
        "streams and workloads must not share an account: answers of nats-server are not checked against permissions";
    STREAMS, "streams", "streams are what their messages need",
        "`bulla policy check` names what a stream needs; let brokers make the streams, or change them with the nats tool";
    BROKERS, "brokers", "both queue groups of the callout are answered",
        "run at least two brokers, `bulla broker --group a` and `--group b`: one that hangs then locks nobody out";
    MONITORING, "monitoring", "nats-server's monitoring is not exposed",
        "bind `http` and `https` of nats-server to 127.0.0.1, or remove them";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct() {
        let mut codes: Vec<_> = ALL.iter().map(|check| check.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len());
    }
}
