//! CloudEvents 1.0 in and out of signed headers.
//!
//! An event travels in the binary mode of the specification's NATS binding: its
//! attributes are headers with the prefix `ce-`, its data is the payload, and the
//! content type stands for `datacontenttype`. Here the headers are signed application
//! headers, so the attributes are as authentic as the payload; what CloudEvents leaves
//! open, who sent it, is still [`Message::sender`] and never the `source` attribute.
//! [CloudEvents 1.0.2; NATS Protocol Binding §3.1]
//!
//! ```no_run
//! use bulla_sdk::{Client, CloudEvent, ContentType};
//!
//! # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let event = CloudEvent::new("order-17", "/shop/orders", "example.shop.order.created")?
//!     .subject("orders/17")?;
//! client
//!     .message("orders.created")
//!     .json(&serde_json::json!({ "bowls": 2 }))
//!     .cloud_event(&event)
//!     .publish()
//!     .await?;
//!
//! let mut orders = client.subscribe("orders.created").await?;
//! if let Some(message) = orders.next().await {
//!     if let Some(event) = message.cloud_event()? {
//!         println!("{} from {}", event.id(), message.sender().workload());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod attributes;

use crate::message::Message;
use crate::outgoing::Outgoing;

pub use attributes::{CloudEvent, CloudEventError};

impl Outgoing<'_> {
    /// Adds the attributes of a CloudEvent as signed headers. The payload is its data.
    pub fn cloud_event(self, event: &CloudEvent) -> Self {
        event
            .headers()
            .fold(self, |message, (name, value)| message.header(name, value))
    }
}

impl<T> Message<T> {
    /// The attributes of the CloudEvent that the message is; none if it is no
    /// CloudEvent.
    ///
    /// # Errors
    /// [`CloudEventError`] if it says that it is one and is not.
    pub fn cloud_event(&self) -> Result<Option<CloudEvent>, CloudEventError> {
        CloudEvent::of_headers(self.headers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> CloudEvent {
        CloudEvent::new("17", "/shop", "shop.order.created")
            .unwrap()
            .subject("orders/17")
            .unwrap()
            .time("2026-11-26T12:00:00Z")
            .unwrap()
            .with("partitionkey", "acme, \"ü\" 100%")
            .unwrap()
    }

    fn read(headers: &[(&str, &str)]) -> Result<Option<CloudEvent>, CloudEventError> {
        CloudEvent::of_headers(headers.iter().copied())
    }

    #[test]
    fn what_is_written_is_read() {
        let headers: Vec<_> = event().headers().map(|(k, v)| (k, v.to_owned())).collect();
        let read = CloudEvent::of_headers(headers.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        assert_eq!(read, Ok(Some(event())));
        assert_eq!(event().attribute("subject"), Some("orders/17"));
        assert_eq!(event().attribute("dataschema"), None);
    }

    #[test]
    fn a_message_without_a_version_is_none() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("colour", "blue"), ("ce-id", "1")]), Ok(None));
    }

    #[test]
    fn half_an_event_is_an_error() {
        let whole = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
        ];
        assert!(read(&whole).unwrap().is_some());
        for (place, name) in [(1, "id"), (2, "source"), (3, "type")] {
            let mut headers = whole.to_vec();
            headers.remove(place);
            assert_eq!(read(&headers), Err(CloudEventError::Missing { name }));
            headers.push((whole[place].0, ""));
            assert_eq!(read(&headers), Err(CloudEventError::Missing { name }));
        }
        let with = |name, value| [&whole[..], &[(name, value)]].concat();
        for (name, value) in [
            ("ce-id", "2"),
            ("ce-Time", "now"),
            ("ce-", "x"),
            ("ce-datacontenttype", "text/plain"),
            ("ce-subject", ""),
            ("ce-subject", "a\nb"),
            ("ce-abcdefghijklmnopqrstu", "x"),
        ] {
            assert!(read(&with(name, value)).is_err(), "{name}: {value:?}");
        }
        let mut other = whole;
        other[0].1 = "0.3";
        let version = "0.3".to_owned();
        assert_eq!(read(&other), Err(CloudEventError::Version { version }));
    }

    #[test]
    fn an_attribute_that_no_header_holds_is_an_error() {
        assert!(CloudEvent::new("", "/s", "t").is_err());
        assert!(CloudEvent::new("1", "/s\r\nce-id: 2", "t").is_err());
        for name in [
            "id",
            "type",
            "specversion",
            "datacontenttype",
            "Upper",
            "a_b",
            "",
        ] {
            assert!(event().with(name, "x").is_err(), "{name}");
        }
    }
}
