//! Which ports a development instance listens on.

use std::net::{Ipv4Addr, TcpListener};

/// The ports of one instance, all on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) gateway: u16,
    pub(super) nats: u16,
    pub(super) issuer: u16,
}

/// A port that somebody else has.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
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

/// A port for each part: the given one, or the customary one if it is free, or
/// any free one.
pub(super) fn choose(
    gateway: Option<u16>,
    nats: Option<u16>,
    issuer: Option<u16>,
) -> Result<Ports, PortError> {
    // All are held until all are chosen, so that no two are the same.
    let mut held: Vec<TcpListener> = Vec::new();
    let mut take = |given: Option<u16>, customary: u16, option: &'static str| {
        let listener = match given {
            Some(port) => listen(port).map_err(|_| {
                let ours = held
                    .iter()
                    .any(|l| l.local_addr().is_ok_and(|a| a.port() == port));
                if ours {
                    PortError::Twice { port, option }
                } else {
                    PortError::Busy { port, option }
                }
            })?,
            None => listen(customary)
                .or_else(|_| listen(0))
                .map_err(PortError::None)?,
        };
        let port = listener.local_addr().map_err(PortError::None)?.port();
        held.push(listener);
        Ok::<u16, PortError>(port)
    };
    // Given ports first: a customary one must not take a given one away.
    let mut chosen = [
        (gateway, 8080, "--gateway-port", 0_usize),
        (nats, 4222, "--nats-port", 1),
        (issuer, 8081, "--issuer-port", 2),
    ];
    chosen.sort_by_key(|(given, ..)| given.is_none());
    let mut ports = Ports {
        gateway: 0,
        nats: 0,
        issuer: 0,
    };
    for (given, customary, option, which) in chosen {
        let port = take(given, customary, option)?;
        match which {
            0 => ports.gateway = port,
            1 => ports.nats = port,
            _ => ports.issuer = port,
        }
    }
    Ok(ports)
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_named_with_its_option() {
        let busy = listen(0).unwrap();
        let port = busy.local_addr().unwrap().port();
        let error = choose(Some(port), None, None).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()), "{error}");
        assert!(error.contains("--gateway-port"), "{error}");
    }

    #[test]
    fn the_same_port_twice_is_refused() {
        let port = listen(0).unwrap().local_addr().unwrap().port();
        let error = choose(Some(port), Some(port), None).unwrap_err();
        assert!(matches!(error, PortError::Twice { .. }), "{error}");
    }

    #[test]
    fn chosen_ports_differ() {
        let ports = choose(None, None, None).unwrap();
        assert_ne!(ports.gateway, ports.nats);
        assert_ne!(ports.nats, ports.issuer);
        assert_ne!(ports.gateway, ports.issuer);
    }
}
