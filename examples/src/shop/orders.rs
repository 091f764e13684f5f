//! Takes orders and remembers them while it runs.

use std::collections::HashMap;
use std::sync::Arc;

use bulla_sdk::{
    Client, ConnectOptions, ContentType, Message, Reply, ServiceError, ServiceErrorCode,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Order, OrderQuery, OrderRequest, Quote, QuoteRequest, ShopError};

/// The most orders that are remembered; the shop is small.
const MAX_ORDERS: usize = 10_000;

type Orders = Arc<Mutex<HashMap<String, Order>>>;

/// Runs until `stop`.
///
/// # Errors
/// If it cannot connect or may not listen.
pub async fn run(options: ConnectOptions, stop: CancellationToken) -> Result<(), ShopError> {
    let client = Client::connect(options).await?;
    let orders = Orders::default();

    let create = client
        .serve("orders.create", {
            let (client, orders) = (client.clone(), orders.clone());
            move |message| create(client.clone(), orders.clone(), message)
        })
        .await?;
    let get = client
        .serve("orders.get", move |message| get(orders.clone(), message))
        .await?;

    info!(target: bulla_process::READY_TARGET, "orders is ready");
    stop.cancelled().await;
    create.drain().await;
    get.drain().await;
    client.drain().await;
    Ok(())
}

async fn create(
    client: Client,
    orders: Orders,
    message: Message<OrderRequest>,
) -> Result<Reply, ServiceError> {
    let customer = customer(&message)?;
    let OrderRequest { item, quantity } = message.payload().clone();
    if item.is_empty() || quantity == 0 {
        return Err(ServiceError::new(
            ServiceErrorCode::Invalid,
            "an order has an item and a quantity of at least one",
        ));
    }
    // Alice's token goes along by itself: billing sees the same user.
    let quote: Quote = client
        .request(
            "billing.quote",
            &QuoteRequest {
                item: item.clone(),
                quantity,
            },
        )
        .await?;
    let order = Order {
        id: message.id().to_hex(),
        item,
        quantity,
        customer,
        total_cents: quote.total_cents,
    };
    {
        let mut orders = orders.lock();
        if orders.len() >= MAX_ORDERS {
            return Err(ServiceError::new(
                ServiceErrorCode::Unavailable,
                "the shop is full",
            ));
        }
        orders.insert(order.id.clone(), order.clone());
    }
    client.publish("orders.created", &order).await?;
    Ok(Reply::encode(&ContentType::Json, &order)?
        .header("http-status", "201")
        .header("location", format!("/v1/orders/{}", order.id)))
}

async fn get(orders: Orders, message: Message<OrderQuery>) -> Result<Reply, ServiceError> {
    let customer = customer(&message)?;
    let order = orders.lock().get(&message.payload().id).cloned();
    match order {
        // Somebody else's order is answered like one that does not exist.
        Some(order) if order.customer == customer => Ok(Reply::encode(&ContentType::Json, &order)?),
        _ => Err(ServiceError::new(
            ServiceErrorCode::NotFound,
            "no such order",
        )),
    }
}

fn customer<T>(message: &Message<T>) -> Result<String, ServiceError> {
    message
        .user()
        .map(|user| user.principal().to_owned())
        .ok_or_else(|| ServiceError::new(ServiceErrorCode::Forbidden, "an order belongs to a user"))
}
