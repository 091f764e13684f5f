//! W3C trace context, version 00, in 25 bytes.

use std::fmt;

use data_encoding::HEXLOWER;

/// A `traceparent` ([W3C Trace Context §3.2]): trace id, parent id and flags.
///
/// [W3C Trace Context §3.2]: https://www.w3.org/TR/trace-context/#traceparent-header
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent([u8; TraceParent::LEN]);

impl TraceParent {
    pub(crate) const LEN: usize = 25;

    /// Reads `00-<trace id>-<parent id>-<flags>`; nothing for other versions,
    /// upper-case digits or ids of zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("00-")?.split('-');
        let (trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || trace.len() != 32 || parent.len() != 16 || flags.len() != 2 {
            return None;
        }
        let mut bytes = Vec::with_capacity(Self::LEN);
        for part in [trace, parent, flags] {
            bytes.extend(HEXLOWER.decode(part.as_bytes()).ok()?);
        }
        Self::from_bytes(bytes.try_into().ok()?)
    }

    /// 16 bytes of trace id, 8 of parent id, 1 of flags; nothing if an id is zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let (trace, rest) = bytes.split_first_chunk::<16>()?;
        let (parent, _) = rest.split_first_chunk::<8>()?;
        (*trace != [0; 16] && *parent != [0; 8]).then_some(Self(bytes))
    }

    /// 16 bytes of trace id, 8 of parent id, 1 of flags.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, rest) = self.0.split_at(16);
        let (parent, flags) = rest.split_at(8);
        let hex = |bytes| HEXLOWER.encode(bytes);
        write!(f, "00-{}-{}-{}", hex(trace), hex(parent), hex(flags))
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_ones_are_nothing() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(text).unwrap().to_string(), text);
        for bad in [
            "",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e47-36-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
