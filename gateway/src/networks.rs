//! Sets of networks, and whether an address is in one.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// A set of networks. An IPv4 address that is written as an IPv6 one is the IPv4
/// address, in the set and when it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether no network is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the address is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    pub(crate) fn push(&mut self, network: IpNet) {
        self.0.push(network);
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// Reads `10.0.0.0/8`, `2001:db8::/32`, or one address.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    Some(canonical(network.trunc()))
}

/// `::ffff:192.0.2.0/120` is `192.0.2.0/24`.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let mapped = v6.addr().to_ipv4_mapped();
    match (mapped, v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => IpNet::new(IpAddr::V4(v4), length).unwrap_or(network),
        _ => network,
    }
}

/// What counts as one client when requests are counted: an IPv4 address, or the 64
/// bits of an IPv6 address that a household or a host gets to itself.
pub(crate) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(upper_half(v6)),
    }
}

fn upper_half(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Net::new(address, 64).map_or(address, |net| net.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(networks: &[&str]) -> Networks {
        networks.iter().filter_map(|n| parse_network(n)).collect()
    }

    fn has(networks: &[&str], address: &str) -> bool {
        set(networks).contains(address.parse().unwrap())
    }

    #[test]
    fn networks_and_single_addresses_are_read() {
        assert!(has(&["10.0.0.0/8"], "10.255.0.1"));
        assert!(!has(&["10.0.0.0/8"], "11.0.0.1"));
        assert!(has(&["192.0.2.7"], "192.0.2.7"));
        assert!(has(&["2001:db8::/32"], "2001:db8:1::1"));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "example.com", "fe80::1%eth0"] {
            assert_eq!(parse_network(bad), None, "{bad}");
        }
    }

    #[test]
    fn mapped_addresses_are_what_they_map() {
        assert!(has(&["192.0.2.0/24"], "::ffff:192.0.2.1"));
        assert!(has(&["::ffff:192.0.2.0/120"], "192.0.2.1"));
        assert!(!has(&["::/0"], "192.0.2.1"));
    }

    #[test]
    fn an_ipv6_client_is_its_upper_half() {
        let of = |text: &str| counted_as(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
