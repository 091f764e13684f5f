//! How many connections are open: in all, and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::networks::counted_as;

/// The open connections by address. Never holds more addresses than there are
/// connections, whose number is bounded elsewhere.
#[derive(Debug)]
pub(crate) struct ByAddress {
    open: Mutex<HashMap<IpAddr, usize>>,
    most: usize,
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    all: Arc<ByAddress>,
    address: IpAddr,
}

impl ByAddress {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            open: Mutex::default(),
            most,
        }
    }

    /// Counts a connection; `None` if there are too many from there already.
    pub(crate) fn open(self: &Arc<Self>, address: IpAddr) -> Option<OpenConnection> {
        let address = counted_as(address);
        let mut open = self.open.lock();
        let count = open.entry(address).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(OpenConnection {
            all: Arc::clone(self),
            address,
        })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.all.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_nothing_is_left_behind() {
        let all = Arc::new(ByAddress::new(2));
        let (home, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = all.open(home).unwrap();
        let second = all.open(home).unwrap();
        assert!(all.open(home).is_none());
        assert!(all.open(other).is_some());
        drop(first);
        assert!(all.open(home).is_some());
        drop(second);
        assert!(all.open.lock().is_empty());
    }
}
