//! Hello: one workload tells, another hears it and knows who spoke.

use bulla_sdk::{Client, PublishError, Subscription};

/// Tells everybody whom the policy lets hear it.
///
/// # Errors
/// If the policy does not let this workload.
pub async fn greet(greeter: &Client) -> Result<(), PublishError> {
    greeter.publish("hello.world", "hello").await
}

/// Waits for a greeting. Nobody can have forged who is named.
pub async fn hear(greetings: &mut Subscription) -> Option<String> {
    let greeting = greetings.next().await?;
    let text: String = greeting.decode().ok()?;
    Some(format!(
        "{} says {text}",
        greeting.sender().workload().path()
    ))
}
