//! What nats-server says of a delivery: the reply subject under which it is
//! answered for.
//!
//! ```text
//! $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns since 1970>.<pending>
//! $JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>. … .<pending>[.<more>]
//! ```
//!
//! No client can set a reply subject that starts with `$JS.ACK.`: nats-server
//! refuses it.

use bulla_identity::UnixMillis;

pub(crate) const PREFIX: &str = "$JS.ACK.";

/// One delivery of one stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    /// How often it was delivered, this time included.
    pub(crate) times: u64,
    /// Its number in the stream.
    pub(crate) sequence: u64,
    /// When the stream stored it.
    pub(crate) stored_at: UnixMillis,
    /// How many wait behind it.
    pub(crate) pending: u64,
}

impl Delivered {
    /// Reads a reply subject; nothing if it is none of a delivery.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let rest: Vec<&str> = reply.strip_prefix(PREFIX)?.split('.').collect();
        let fields = match rest.as_slice() {
            fields if fields.len() == 7 => fields,
            [_domain, _account, fields @ ..] if matches!(fields.len(), 7 | 8) => fields,
            _ => return None,
        };
        let [stream, consumer, times, sequence, own, stored, pending, ..] = fields else {
            return None;
        };
        let number = |text: &str| -> Option<u64> {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| text.parse().ok()).flatten()
        };
        number(own)?;
        let is_name = |text: &&&str| !text.is_empty();
        Some(Self {
            stream: Some(stream).filter(is_name)?.to_string(),
            consumer: Some(consumer).filter(is_name)?.to_string(),
            times: number(times)?,
            sequence: number(sequence).filter(|n| *n > 0)?,
            stored_at: UnixMillis::from_millis(number(stored)? / 1_000_000),
            pending: number(pending)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_delivery_are_read() {
        let want = Delivered {
            stream: "ORDERS".into(),
            consumer: "mail".into(),
            times: 2,
            sequence: 7,
            stored_at: UnixMillis::from_millis(1_795_635_452_890),
            pending: 3,
        };
        for reply in [
            "$JS.ACK.ORDERS.mail.2.7.9.1795635452890806495.3",
            "$JS.ACK._.ACC.ORDERS.mail.2.7.9.1795635452890806495.3",
            "$JS.ACK._.ACC.ORDERS.mail.2.7.9.1795635452890806495.3.xyz",
        ] {
            assert_eq!(Delivered::parse(reply).as_ref(), Some(&want), "{reply}");
        }
    }

    #[test]
    fn nothing_else_is_a_delivery() {
        for reply in [
            "",
            "$JS.ACK.",
            "_INBOX.a.b",
            "$JS.ACK.ORDERS.mail.2.7.9.1795635452890806495",
            "$JS.ACK.ORDERS.mail.2.7.9.1795635452890806495.3.4",
            "$JS.ACK.ORDERS.mail.2.0.9.1795635452890806495.3",
            "$JS.ACK.ORDERS.mail.-2.7.9.1795635452890806495.3",
            "$JS.ACK.ORDERS.mail.2.+7.9.1795635452890806495.3",
            "$JS.ACK.ORDERS.mail.2.7.9.99999999999999999999999.3",
            "$JS.ACK..mail.2.7.9.1795635452890806495.3",
            "$JS.ACK._.ACC.ORDERS.mail.2.7.9.1795635452890806495.3.x.y",
        ] {
            assert_eq!(Delivered::parse(reply), None, "{reply}");
        }
    }
}
