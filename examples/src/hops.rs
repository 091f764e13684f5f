//! A user over three hops: edge → shop → billing → ledger. Nobody passes the user on,
//! and all of them know for whom they work.

use bulla_sdk::extract::{Payload, State};
use bulla_sdk::{Client, Context, Limits, RunningService, ServiceError, SubscribeError, User};

/// The shop sells what billing could charge for.
///
/// # Errors
/// If the policy does not let this workload.
pub async fn shop(client: &Client) -> Result<RunningService, SubscribeError> {
    let service = client.service().state(client.clone());
    service.endpoint("hops.buy", buy).start().await
}

/// Billing charges, and has the ledger write it down.
///
/// # Errors
/// If the policy does not let this workload.
pub async fn billing(client: &Client) -> Result<RunningService, SubscribeError> {
    let service = client.service().state(client.clone());
    service.endpoint("hops.charge", charge).start().await
}

/// The ledger writes down for whom it was.
///
/// # Errors
/// If the policy does not let this workload.
pub async fn ledger(client: &Client) -> Result<RunningService, SubscribeError> {
    client.service().endpoint("hops.book", book).start().await
}

async fn buy(
    State(client): State<Client>,
    Payload(item): Payload<String>,
    user: User,
) -> Result<String, ServiceError> {
    user.require_scope("orders:write")?;
    Ok(client.request("hops.charge", &item).await?)
}

/// What comes after this needs to know the user, and none of his rights.
async fn charge(
    State(client): State<Client>,
    Payload(item): Payload<String>,
) -> Result<String, ServiceError> {
    let nothing = Limits::none().keep_scopes([""; 0]);
    let booking = client.message("hops.book").payload(&item).narrow(&nothing);
    Ok(booking.request().await?.decode()?)
}

async fn book(Payload(item): Payload<String>, context: Context) -> Result<String, ServiceError> {
    let user = context.user();
    let name = user.map_or("nobody", User::principal);
    let scopes = user.map_or(0, |user| user.scopes().count());
    Ok(format!(
        "{item} for {name}, who may do {scopes} things here"
    ))
}
