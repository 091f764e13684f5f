//! Moving from async-nats, one service at a time: a listener that has moved hears
//! those who have, with proof, and those who have not, and can tell them apart.
//!
//! The whole way is in `sdk/MIGRATION.md`.

use bulla_sdk::{Client, OpenMessage, OpenSubscription, PublishError};

/// What was heard, and how sure it is who said it.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Sealed: this workload said it.
    Proven {
        /// Its name.
        by: String,
        /// What it said.
        text: String,
    },
    /// Plain: one of these workloads may have, or whoever runs nats-server.
    Plain {
        /// Who may publish there.
        perhaps: Vec<String>,
        /// What was said.
        text: String,
    },
}

/// How a sender speaks that has the SDK while some of its listeners have not.
///
/// # Errors
/// If the policy does not call the subject open, or does not let this workload.
pub async fn say_plainly(sender: &Client, text: &str) -> Result<(), PublishError> {
    sender
        .message("moving.news")
        .json(text)
        .publish_plain()
        .await
}

/// How it speaks once they all have it.
///
/// # Errors
/// If the policy does not let this workload.
pub async fn say(sender: &Client, text: &str) -> Result<(), PublishError> {
    sender.message("moving.news").json(text).publish().await
}

/// Waits for the next message, sealed or plain.
pub async fn hear(news: &mut OpenSubscription) -> Option<Heard> {
    match news.next().await? {
        OpenMessage::Sealed(message) => Some(Heard::Proven {
            by: message.sender().workload().path().to_owned(),
            text: message.decode().ok()?,
        }),
        OpenMessage::Plain(message) => Some(Heard::Plain {
            perhaps: message
                .may_be_from()
                .iter()
                .map(|workload| workload.path().to_owned())
                .collect(),
            // Named so that nobody takes it for verified.
            text: String::from_utf8_lossy(message.danger_payload()).into_owned(),
        }),
    }
}
