//! `expires`, `time` and `network` of a rule.

use std::net::IpAddr;

use bulla_identity::UnixMillis;
use ipnet::IpNet;
use toml::de::DeValue;

use super::reader::{self, Fields, Node};
use super::subject;
use crate::circumstances::{Networks, When, parse_moment};
use crate::error::Sink;
use crate::problem::Problem;
use crate::schedule::{DAY, Schedule, WEEK};

/// When and from where a rule counts; `None` if always and from everywhere.
pub(super) fn when(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Box<When>> {
    let when = When {
        expires: fields
            .get("expires")
            .and_then(|node| moment("expires", node, sink)),
        time: fields.get("time").and_then(|node| hours(node, sink)),
        network: fields.get("network").and_then(|node| networks(node, sink)),
    };
    (when != When::default()).then(|| Box::new(when))
}

/// A moment: a date of TOML or a text, with a time and an offset.
pub(super) fn moment(key: &str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<UnixMillis> {
    let text = match node.get_ref() {
        DeValue::Datetime(date) => date.to_string(),
        DeValue::String(text) => text.to_string(),
        _ => {
            reader::wrong_type(key, "a date such as 2027-01-31T18:00:00Z", node, sink);
            return None;
        }
    };
    let found = parse_moment(&text);
    if found.is_none() {
        let text = reader::printable(&text);
        sink.report(&node.span(), Problem::Date { text });
    }
    found
}

/// One window or a list of them.
fn hours(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Schedule> {
    let expected = "{ days = [\"mon-fri\"], from = \"08:00\", to = \"18:00\" } or a list of those";
    let nodes = match node.get_ref() {
        DeValue::Array(_) => reader::list("time", expected, node, sink),
        DeValue::Table(_) => vec![node],
        _ => {
            reader::wrong_type("time", expected, node, sink);
            return None;
        }
    };
    let mut spans = Vec::new();
    let mut sound = !nodes.is_empty();
    for node in nodes {
        match window(node, sink) {
            Some(more) => spans.extend(more),
            None => sound = false,
        }
    }
    if !sound {
        return None;
    }
    let schedule = Schedule::of(spans);
    if schedule.is_none() {
        sink.report(&node.span(), Problem::EmptyTime { whole: true });
    }
    schedule
}

/// The spans of one window, in minutes of the week in UTC.
fn window(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<(u32, u32)>> {
    const KEYS: &[&str] = &["days", "from", "to", "zone"];
    let table = reader::table("time", node, sink)?;
    let fields = Fields::new(table, node.span(), "`time`", KEYS, &[], sink);
    let clock = |key, sink: &mut Sink<'_>| match subject::word(&fields, key, sink) {
        None if fields.get(key).is_some() => Err(()),
        None => Ok(None),
        Some((word, span)) => match minutes(word).filter(|minutes| *minutes <= DAY) {
            Some(minutes) => Ok(Some(minutes)),
            None => {
                let text = reader::printable(word);
                sink.report(&span, Problem::Clock { text });
                Err(())
            }
        },
    };
    let (from, to) = (clock("from", sink), clock("to", sink));
    let days = match fields.get("days") {
        Some(node) => days(node, sink),
        None => Some((0..7).collect()),
    };
    let zone = match subject::word(&fields, "zone", sink) {
        Some((word, span)) => match zone(word) {
            Some(zone) => Some(zone),
            None => {
                let text = reader::printable(word);
                sink.report(&span, Problem::Zone { text });
                None
            }
        },
        None if fields.get("zone").is_some() => None,
        None => Some(0),
    };
    let from = from.ok()?.unwrap_or(0);
    let to = to.ok()?.unwrap_or(DAY);
    let (days, zone) = (days?, zone?);
    let length = match to.cmp(&from) {
        std::cmp::Ordering::Greater => to - from,
        // Over midnight.
        std::cmp::Ordering::Less => to + DAY - from,
        std::cmp::Ordering::Equal => {
            sink.report(&node.span(), Problem::EmptyTime { whole: false });
            return None;
        }
    };
    let spans = days.into_iter().map(|day| {
        let local = day * DAY + from;
        (
            local
                .checked_add_signed(-zone)
                .unwrap_or(local + WEEK - zone.unsigned_abs()),
            length,
        )
    });
    Some(spans.collect())
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Days and spans of days, from Monday as 0, each once.
fn days(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<u32>> {
    let number = |word: &str| {
        DAYS.iter()
            .zip(0u32..)
            .find(|(d, _)| **d == word)
            .map(|d| d.1)
    };
    let mut out = Vec::new();
    let nodes = reader::list("days", "a list such as [\"mon-fri\"]", node, sink);
    let mut sound = !nodes.is_empty();
    for node in nodes {
        let Some(word) = reader::text("days", node, sink) else {
            sound = false;
            continue;
        };
        let span = match word.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)),
            None => number(word).map(|day| (day, day)),
        };
        match span {
            Some((first, last)) => {
                let count = (last + 7 - first) % 7;
                out.extend((first..=first + count).map(|day| day % 7));
            }
            None => {
                sound = false;
                let text = reader::printable(word);
                sink.report(&node.span(), Problem::Day { text });
            }
        }
    }
    out.sort_unstable();
    out.dedup();
    sound.then_some(out)
}

/// `HH:MM` as minutes.
fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        let sound = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| sound)
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60).then_some(hours * 60 + minutes)
}

/// `Z`, or `+HH:MM` or `-HH:MM` up to 14 hours, as minutes.
fn zone(text: &str) -> Option<i32> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let minutes = minutes(rest).filter(|minutes| *minutes <= 14 * 60)?;
    i32::try_from(minutes).ok().map(|minutes| sign * minutes)
}

pub(super) fn networks(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Networks> {
    let mut out = Vec::new();
    let nodes = reader::list("network", "a list such as [\"10.0.0.0/8\"]", node, sink);
    let mut sound = !nodes.is_empty();
    for node in nodes {
        let found = reader::text("network", node, sink).map(|word| (word, network(word)));
        match found {
            Some((_, Ok(network))) => out.push(network),
            Some((word, Err(network))) => {
                sound = false;
                let (text, network) = (reader::printable(word), network.map(|n| n.to_string()));
                sink.report(&node.span(), Problem::Network { text, network });
            }
            None => sound = false,
        }
    }
    out.sort_unstable();
    out.dedup();
    sound.then(|| Networks(out.into()))
}

/// A network or one address; of one that says more than its length keeps, what
/// it was probably meant to be.
fn network(text: &str) -> Result<IpNet, Option<IpNet>> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| None)?),
    };
    // Clients' addresses are compared as what they are.
    let is_mapped = matches!(network, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
    if is_mapped {
        return Err(None);
    }
    if network.trunc() == network {
        Ok(network)
    } else {
        Err(Some(network.trunc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_and_zones_are_two_digits_each() {
        assert_eq!(minutes("08:30"), Some(510));
        assert_eq!(minutes("24:00"), Some(DAY));
        for bad in ["8:30", "08:60", "0830", "", "+8:00", "08:300", "ä8:00"] {
            assert_eq!(minutes(bad), None, "{bad}");
        }
        assert_eq!(zone("Z"), Some(0));
        assert_eq!(zone("+05:30"), Some(330));
        assert_eq!(zone("-14:00"), Some(-840));
        for bad in ["", "z", "05:30", "+15:00", "UTC", "Europe/Berlin", "ä"] {
            assert_eq!(zone(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_network_says_no_more_than_its_length_keeps() {
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(network("10.1.2.3"), Ok("10.1.2.3/32".parse().unwrap()));
        assert_eq!(network("::1"), Ok("::1/128".parse().unwrap()));
        assert_eq!(
            network("10.0.0.1/8"),
            Err(Some("10.0.0.0/8".parse().unwrap()))
        );
        for bad in [
            "",
            "10.0.0/8",
            "10.0.0.0/33",
            "localhost",
            "::ffff:10.0.0.0/104",
        ] {
            assert_eq!(network(bad), Err(None), "{bad}");
        }
    }
}
