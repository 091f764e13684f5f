//! Which ports a development instance listens on.

use std::net::{Ipv4Addr, TcpListener};

use serde::{Deserialize, Serialize};

/// The ports of one instance, all on 127.0.0.1.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) gateway: u16,
    pub(super) nats: u16,
    pub(super) issuer: u16,
}

/// A port that somebody else has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// The port that was asked for is taken.
    #[error(
        "port {port} is in use by another process: stop that process, or choose another port with `{option}`"
    )]
    Busy {
        /// The port.
        port: u16,
        /// The option that names it.
        option: &'static str,
    },
    /// The same port twice.
    #[error("port {port} was given twice: choose another one with `{option}`")]
    Twice {
        /// The port.
        port: u16,
        /// The second option that names it.
        option: &'static str,
    },
    /// Not even a port of the system's choice.
    #[error("no free port on 127.0.0.1")]
    None(#[source] std::io::Error),
}

/// Ports that were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    pub(super) gateway: Option<u16>,
    pub(super) nats: Option<u16>,
    pub(super) issuer: Option<u16>,
}

/// A port for each part: the given one, or the one of the last start or the
/// customary one if it is free, or any free one.
pub(super) fn choose(given: Given, earlier: Option<Ports>) -> Result<Ports, PortError> {
    // All are held until all are chosen, so that no two are the same.
    let mut held = Vec::new();
    let mut ports = Ports {
        gateway: 0,
        nats: 0,
        issuer: 0,
    };
    // Given ports first: no other choice must take one away.
    for (port, option, chosen) in [
        (given.gateway, "--gateway-port", &mut ports.gateway),
        (given.nats, "--nats-port", &mut ports.nats),
        (given.issuer, "--issuer-port", &mut ports.issuer),
    ] {
        let Some(port) = port else { continue };
        let listener =
            listen(port).map_err(|_| match held.iter().any(|held| at(held) == port) {
                true => PortError::Twice { port, option },
                false => PortError::Busy { port, option },
            })?;
        *chosen = at(&listener);
        held.push(listener);
    }
    for (earlier, customary, chosen) in [
        (earlier.map(|ports| ports.gateway), 8080, &mut ports.gateway),
        (earlier.map(|ports| ports.nats), 4222, &mut ports.nats),
        (earlier.map(|ports| ports.issuer), 8081, &mut ports.issuer),
    ] {
        if *chosen != 0 {
            continue;
        }
        let listener = listen(earlier.unwrap_or(customary))
            .or_else(|_| listen(customary))
            .or_else(|_| listen(0))
            .map_err(PortError::None)?;
        *chosen = at(&listener);
        held.push(listener);
    }
    Ok(ports)
}

fn at(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(port: u16) -> Given {
        Given {
            gateway: Some(port),
            ..Given::default()
        }
    }

    #[test]
    fn a_busy_port_is_named_with_its_option() {
        let busy = listen(0).unwrap();
        let error = choose(gateway(at(&busy)), None).unwrap_err().to_string();
        assert!(error.contains(&at(&busy).to_string()), "{error}");
        assert!(error.contains("--gateway-port"), "{error}");
    }

    #[test]
    fn the_same_port_twice_is_refused() {
        let port = at(&listen(0).unwrap());
        let given = Given {
            nats: Some(port),
            ..gateway(port)
        };
        let error = choose(given, None).unwrap_err();
        assert!(matches!(error, PortError::Twice { .. }), "{error}");
    }

    #[test]
    fn an_earlier_port_is_taken_again_if_it_is_free() {
        let first = choose(Given::default(), None).unwrap();
        assert_ne!(first.gateway, first.nats);
        assert_ne!(first.nats, first.issuer);
        assert_ne!(first.gateway, first.issuer);
        let port = at(&listen(0).unwrap());
        let earlier = Ports {
            nats: port,
            ..first
        };
        assert_eq!(choose(Given::default(), Some(earlier)).unwrap().nats, port);
        let _busy = listen(port).unwrap();
        assert_ne!(choose(Given::default(), Some(earlier)).unwrap().nats, port);
    }
}
