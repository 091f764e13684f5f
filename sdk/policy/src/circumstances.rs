//! When and from where a rule counts: `expires`, `time`, `network`.

use std::fmt;
use std::net::IpAddr;

use bulla_identity::UnixMillis;
use ipnet::IpNet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::schedule::Schedule;

/// What nats-server's permissions depend on beside the workload: when they are
/// asked for, and from where its connection comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// When.
    pub now: UnixMillis,
    /// The address that nats-server sees of the connection. Where it is not
    /// known, allow rules with a `network` do not count and deny rules with one
    /// do (POL-104).
    pub client: Option<IpAddr>,
}

impl Circumstances {
    /// At this time, for a connection whose address is not known.
    #[must_use]
    pub const fn at(now: UnixMillis) -> Self {
        Self { now, client: None }
    }
}

/// When and from where a rule counts; outside of that it is as if it were not
/// there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct When {
    /// From then on it counts no more.
    pub(crate) expires: Option<UnixMillis>,
    /// Only then.
    pub(crate) time: Option<Schedule>,
    /// Only for connections from there.
    pub(crate) network: Option<Networks>,
}

/// How a rule stands at a moment, its `network` left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It counts.
    Counts,
    /// It will again, or for the first time.
    OutsideTime,
    /// Never again.
    Expired,
}

impl When {
    pub(crate) fn standing(&self, now: UnixMillis) -> Standing {
        if self.expires.is_some_and(|end| now >= end) {
            Standing::Expired
        } else if self.time.as_ref().is_some_and(|time| !time.holds(now)) {
            Standing::OutsideTime
        } else {
            Standing::Counts
        }
    }

    /// When, after `now`, time alone next changes whether the rule counts.
    pub(crate) fn next_change(&self, now: UnixMillis) -> Option<UnixMillis> {
        let end = self.expires.filter(|end| *end > now);
        if self.expires.is_some() && end.is_none() {
            return None;
        }
        let turn = self.time.as_ref().and_then(|time| time.next_change(now));
        match (end, turn) {
            (Some(end), Some(turn)) => Some(end.min(turn)),
            (one, other) => one.or(other),
        }
    }
}

/// A moment as RFC 3339 writes it, in UTC.
#[must_use]
pub fn moment(at: UnixMillis) -> String {
    let nanos = i128::from(at.as_millis()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| at.to_string())
}

/// A moment that RFC 3339 writes with time and offset; `None` if the text is
/// another, or before 1970.
#[must_use]
pub fn parse_moment(text: &str) -> Option<UnixMillis> {
    let date = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let millis = u64::try_from(date.unix_timestamp_nanos() / 1_000_000).ok()?;
    Some(UnixMillis::from_millis(millis))
}

/// Networks that a client's address may lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks(pub(crate) Box<[IpNet]>);

impl Networks {
    /// Whether an address lies in one of them. An IPv4 address that is written
    /// as an IPv6 one is that IPv4 address.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// Whether all of them lie in `other`, each in one.
    pub(crate) fn within(&self, other: &Self) -> bool {
        let mut all = self.0.iter();
        all.all(|net| other.0.iter().any(|o| o.contains(net)))
    }

    /// Whether some address lies in both.
    pub(crate) fn overlap(&self, other: &Self) -> bool {
        let mut all = self.0.iter();
        all.any(|net| other.0.iter().any(|o| o.contains(net) || net.contains(o)))
    }

    /// The networks, as they were written, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &IpNet> {
        self.0.iter()
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, net) in self.0.iter().enumerate() {
            write!(f, "{}{net}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_the_same_in_ipv6() {
        let networks = Networks(Box::new(["10.0.0.0/8".parse().unwrap()]));
        for (address, want) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(
                networks.contain(address.parse().unwrap()),
                want,
                "{address}"
            );
        }
    }

    #[test]
    fn what_has_expired_never_changes_again() {
        let secs = UnixMillis::from_secs;
        let when = When {
            expires: Some(secs(100)),
            ..When::default()
        };
        assert_eq!(when.standing(secs(99)), Standing::Counts);
        assert_eq!(when.standing(secs(100)), Standing::Expired);
        assert_eq!(when.next_change(secs(99)), Some(secs(100)));
        assert_eq!(when.next_change(secs(100)), None);
    }
}
