//! Request and reply: a service of two endpoints, and who asks it.

use bulla_sdk::extract::{Payload, State};
use bulla_sdk::{
    Client, RequestError, RunningService, ServiceError, ServiceErrorCode, SubscribeError,
};
use serde::{Deserialize, Serialize};

/// What is to be bought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cart {
    /// The article.
    pub item: String,
    /// How many.
    pub quantity: u32,
}

/// What a letter of an article's name costs, in cents.
#[derive(Debug, Clone, Copy)]
pub struct Prices(pub u32);

/// Serves until it is dropped or drained.
///
/// # Errors
/// If the policy does not let this workload.
pub async fn serve(billing: &Client) -> Result<RunningService, SubscribeError> {
    billing
        .service()
        .state(Prices(10))
        .endpoint("billing.quote", quote)
        .endpoint("billing.ping", async || Ok::<_, ServiceError>("pong"))
        .start()
        .await
}

/// Asks for a price. What the service said no to is a [`ServiceError`] here.
///
/// # Errors
/// If there is none.
pub async fn ask(shop: &Client, cart: &Cart) -> Result<u32, RequestError> {
    shop.request("billing.quote", cart).await
}

async fn quote(
    State(Prices(cents)): State<Prices>,
    Payload(cart): Payload<Cart>,
) -> Result<u32, ServiceError> {
    let letters = u32::try_from(cart.item.len()).unwrap_or(u32::MAX);
    let total = cents
        .checked_mul(letters)
        .and_then(|each| each.checked_mul(cart.quantity));
    total.ok_or_else(|| ServiceError::new(ServiceErrorCode::Invalid, "nobody can pay that"))
}
