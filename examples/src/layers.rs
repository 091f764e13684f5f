//! Layers of tower around a handler and around what is asked: time-outs, limits,
//! load shedding, retries.

use std::time::Duration;

use bulla_sdk::extract::Payload;
use bulla_sdk::{
    Ask, Client, ContentType, RequestError, Response, RunningService, ServiceError,
    ServiceErrorCode, SubscribeError, layered,
};
use tower::retry::Policy;
use tower::{BoxError, Service as _, ServiceBuilder, ServiceExt as _};

/// Renders one page at a time, turns away what comes meanwhile, and takes no longer
/// than a second.
///
/// # Errors
/// If the policy does not let this workload.
pub async fn serve(billing: &Client) -> Result<RunningService, SubscribeError> {
    let render = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .timeout(Duration::from_secs(1))
        .service(layered(render, ()));
    let service = billing.service();
    service
        .endpoint_service("billing.render", render)
        .start()
        .await
}

/// Asks again while nobody has time, four times at most.
///
/// # Errors
/// If nobody had time, or it failed otherwise.
pub async fn ask(shop: &Client, page: &str) -> Result<String, BoxError> {
    let mut caller = ServiceBuilder::new()
        .retry(WhileBusy { left: 4 })
        .service(shop.caller("billing.render"));
    let ask = Ask::encode(ContentType::Json, page)?;
    Ok(caller.ready().await?.call(ask).await?.decode()?)
}

/// Asks again, a moment later, while the service has no time.
#[derive(Clone)]
struct WhileBusy {
    left: u32,
}

impl Policy<Ask, Response, RequestError> for WhileBusy {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut Ask,
        result: &mut Result<Response, RequestError>,
    ) -> Option<Self::Future> {
        let is_busy = matches!(
            result,
            Err(RequestError::Service(error)) if error.code() == ServiceErrorCode::Unavailable
        );
        self.left = self.left.checked_sub(1)?;
        is_busy.then(|| tokio::time::sleep(Duration::from_millis(60)))
    }

    fn clone_request(&mut self, ask: &Ask) -> Option<Ask> {
        Some(ask.clone())
    }
}

async fn render(Payload(page): Payload<String>) -> Result<String, ServiceError> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(format!("<h1>{page}</h1>"))
}
