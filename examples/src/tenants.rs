//! Many tenants on one stream: what a tenant writes is encrypted to who may read it,
//! and no tenant writes beneath another's subjects, whatever the code does.

use bulla_sdk::{AppendError, Client, ConsumeError};

/// Writes a note down, on behalf of the user with this token. The policy lets him
/// write for the tenant that his token names, and for no other.
///
/// # Errors
/// [`AppendError`], a denial by policy before anything is sent.
pub async fn write(
    edge: &Client,
    token: &str,
    tenant: &str,
    note: &str,
) -> Result<(), AppendError> {
    let subject = format!("notes.{tenant}.written");
    let note = edge.message(&subject).user_token(token).payload(note);
    note.append().await?;
    Ok(())
}

/// Reads the next note: whose it is, who wrote it, and what.
///
/// # Errors
/// If the stream cannot be consumed.
pub async fn read(ledger: &Client) -> Result<(String, String, String), ConsumeError> {
    let mut notes = ledger.consume("NOTES", "ledger").await?;
    loop {
        let delivery = notes.next().await?;
        let message = delivery.message();
        let subject = message.subject().as_str();
        let tenant = subject.split('.').nth(1).unwrap_or_default().to_owned();
        let user = message.user().map(|user| user.principal().to_owned());
        let text = message.decode();
        let _ = delivery.ack().await;
        if let (Some(user), Ok(text)) = (user, text) {
            return Ok((tenant, user, text));
        }
    }
}
