//! A durable worker: each order is confirmed until that has worked, or has failed for
//! good and lies with the dead letters. None is lost.

use std::time::Duration;

use bulla_sdk::extract::{Payload, State};
use bulla_sdk::{
    AppendError, Client, ConsumeError, DeadLetter, ServiceError, ServiceErrorCode, Subject,
};

/// Whoever sends mail.
pub trait Post: Clone + Send + Sync + 'static {
    /// Whether it was sent.
    fn send(&self, to: &str, text: &str) -> bool;
}

/// Stores an order; it is safe when this returns.
///
/// # Errors
/// If the stream did not take it.
pub async fn order(shop: &Client, id: u32, customer: &str) -> Result<(), AppendError> {
    shop.append(&format!("orders.{id}.created"), customer)
        .await?;
    Ok(())
}

/// Confirms orders until `stop`.
///
/// # Errors
/// If the stream cannot be consumed.
pub async fn confirm_all<P: Post>(
    mailer: &Client,
    post: P,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ConsumeError> {
    mailer
        .consume("ORDERS", "mailer")
        .await?
        .dead_letters("dead.mailer")
        .worker(confirm::<P>, post)
        .at_once(8)
        .attempts(5)
        .backoff(Duration::from_millis(50), Duration::from_secs(60))
        .run(stop)
        .await
}

async fn confirm<P: Post>(
    State(post): State<P>,
    Payload(customer): Payload<String>,
    order: Subject,
) -> Result<(), ServiceError> {
    if !customer.contains('@') {
        // Trying again would not help.
        let why = "that is no address";
        return Err(ServiceError::new(ServiceErrorCode::Invalid, why));
    }
    let sent = post.send(&customer, &format!("we have {order}"));
    // Tried again, later and later.
    let why = "the post office is closed";
    sent.then_some(())
        .ok_or_else(|| ServiceError::new(ServiceErrorCode::Unavailable, why))
}

/// Waits for the next order that could not be confirmed, and why.
///
/// # Errors
/// If the stream cannot be consumed.
pub async fn mourn(ledger: &Client) -> Result<DeadLetter, ConsumeError> {
    let mut dead = ledger.consume("DEAD", "ledger").await?;
    loop {
        let delivery = dead.next().await?;
        let letter = delivery.message().decode();
        // What cannot be acknowledged comes again.
        let _ = delivery.ack().await;
        if let Ok(letter) = letter {
            return Ok(letter);
        }
    }
}
