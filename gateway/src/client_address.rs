//! Which address a request comes from: the connection's, unless it comes from a
//! trusted proxy, whose word then counts.
//!
//! The list of a forwarding header is read from its right end, where the nearest proxy
//! wrote: as long as the addresses are trusted proxies', the one before is believed. The
//! first that is not is the client; whatever stands to its left a client may have made
//! up. Where that is no address, nobody knows who the client is.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::networks::Networks;

/// The `[clients]` section: whose word about addresses counts, and who may come.
#[derive(Debug, Clone, Default)]
pub struct ClientsConfig {
    /// The proxies in front of the edge.
    pub trusted_proxies: Networks,
    /// In which header they say who the client is.
    pub forwarded: Option<ForwardedBy>,
    /// Whether every connection begins with a PROXY protocol header of theirs.
    pub proxy_protocol: bool,
    /// From where requests are taken.
    pub networks: NetworkRules,
}

/// The header in which trusted proxies say who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedBy {
    /// `Forwarded` ([RFC 7239]).
    ///
    /// [RFC 7239]: https://www.rfc-editor.org/rfc/rfc7239
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

/// From where requests are taken: from `allow`, if it names any network, and never
/// from `deny`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkRules {
    /// The only networks; empty means all.
    pub allow: Networks,
    /// Never these.
    pub deny: Networks,
}

impl NetworkRules {
    /// Whether a client may come. Of an unknown address only where nothing is ruled.
    #[must_use]
    pub fn admits(&self, client: Option<IpAddr>) -> bool {
        if self.allow.is_empty() && self.deny.is_empty() {
            return true;
        }
        client.is_some_and(|address| {
            (self.allow.is_empty() || self.allow.contains(address)) && !self.deny.contains(address)
        })
    }
}

impl ClientsConfig {
    /// The client of a request that came over a connection from `peer`. `None` if a
    /// trusted proxy says nothing that can be used.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = peer.ip().to_canonical();
        match self.forwarded {
            Some(by) if self.trusted_proxies.contains(peer) => {
                rightmost_untrusted(&forwarded_for(by, headers), &self.trusted_proxies)
            }
            _ => Some(peer),
        }
    }

    /// Whether connections from this address stand for many clients.
    #[must_use]
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.contains(peer)
    }
}

fn rightmost_untrusted(list: &[Option<IpAddr>], trusted: &Networks) -> Option<IpAddr> {
    list.iter()
        .rev()
        .find(|entry| !entry.is_some_and(|address| trusted.contains(address)))
        .copied()
        .flatten()
}

/// The addresses that the header lists, in order; `None` for what is no address.
fn forwarded_for(by: ForwardedBy, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let name = match by {
        ForwardedBy::Forwarded => "forwarded",
        ForwardedBy::XForwardedFor => "x-forwarded-for",
    };
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        let Ok(text) = value.to_str() else {
            list.push(None);
            continue;
        };
        for element in text.split(',') {
            list.push(match by {
                ForwardedBy::Forwarded => forwarded_element(element),
                ForwardedBy::XForwardedFor => parse_address(element.trim()),
            });
        }
    }
    list
}

/// The `for` of one element of `Forwarded`. A comma or semicolon within quotes has no
/// place in an address, so an element that is torn there is no address either.
fn forwarded_element(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let Some((name, value)) = pair.split_once('=') else {
            continue;
        };
        if name.trim().eq_ignore_ascii_case("for") {
            if found.is_some() {
                return None;
            }
            found = Some(value.trim());
        }
    }
    let value = found?;
    match value.strip_prefix('"') {
        Some(rest) => parse_address(rest.strip_suffix('"')?),
        None => parse_address(value),
    }
}

/// An address, with or without a port; IPv6 with a port in brackets. An address that
/// belongs to nobody (`0.0.0.0`, `::`) is none.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = match bracketed {
        Some(inner) => IpAddr::V6(inner.parse().ok()?),
        None => match text.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    let address = address.to_canonical();
    (!address.is_unspecified()).then_some(address)
}

#[cfg(test)]
#[path = "client_address_tests.rs"]
mod tests;
