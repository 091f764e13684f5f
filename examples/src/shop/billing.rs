//! Quotes prices, and notes what was ordered.

use bulla_sdk::{Client, ConnectOptions, Message, ServiceError, ServiceErrorCode};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Order, Quote, QuoteRequest, ShopError};

/// Runs until `stop`.
///
/// # Errors
/// If it cannot connect or may not listen.
pub async fn run(options: ConnectOptions, stop: CancellationToken) -> Result<(), ShopError> {
    let client = Client::connect(options).await?;
    let quotes = client.serve("billing.quote", quote).await?;
    let mut created = client.subscribe("orders.created").await?;
    info!(target: bulla_process::READY_TARGET, "billing is ready");
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            message = created.next() => match message {
                Some(message) => note(&message),
                None => break,
            },
        }
    }
    quotes.drain().await;
    client.drain().await;
    Ok(())
}

fn note(message: &Message) {
    match message.decode::<Order>() {
        Ok(order) => info!(
            order = order.id,
            from = %message.sender().workload(),
            user = message.user().map(|u| u.principal()).unwrap_or_default(),
            "an order was created"
        ),
        Err(error) => tracing::warn!(%error, "an order that cannot be read"),
    }
}

async fn quote(message: Message<QuoteRequest>) -> Result<Quote, ServiceError> {
    let customer = message
        .user()
        .ok_or_else(|| {
            ServiceError::new(ServiceErrorCode::Forbidden, "a quote is made for a user")
        })?
        .principal()
        .to_owned();
    let request = message.payload();
    let total_cents = u64::from(request.quantity).saturating_mul(price_cents(&request.item));
    Ok(Quote {
        total_cents,
        customer,
    })
}

/// A price list for everything that can be named: 10 cents a letter.
fn price_cents(item: &str) -> u64 {
    u64::try_from(item.chars().count())
        .unwrap_or(u64::MAX)
        .saturating_mul(10)
}
