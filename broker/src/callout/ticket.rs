//! By what a connection is known again that nats-server asks about a second time.
//!
//! In operator mode a reload asks about every connection anew. nats-server then tells
//! the name under which it was admitted, the nonce and the signature over it, and neither
//! the nkey nor the token: those it forgets when it takes over a name. So the name ends
//! in a ticket: which proof it was admitted by, and until when that holds, under a MAC
//! that covers the server and its number of the connection. Whoever learns of one can use
//! it on that very connection and nowhere else, because a server numbers no two
//! connections alike. Every broker that signs the callout's answers can read it, so nothing
//! is remembered.

use std::fmt;

use aws_lc_rs::hmac;
use bulla_identity::{Nkey, UnixMillis};
use bulla_keyring::{NkeySeed, sha256};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::admissions::MARK;
use super::proof::Proof;
use super::request::CalloutRequest;

/// Makes and reads tickets.
pub(super) struct Tickets {
    key: hmac::Key,
}

/// What a connection was admitted as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The workload's name.
    pub(super) workload: String,
    /// The beginning of the proof.
    pub(super) proof: ProofStart,
    /// When the proof ends, if it does.
    pub(super) until: Option<UnixMillis>,
}

/// Enough of a proof to find it among a workload's.
pub(super) type ProofStart = [u8; 8];

/// The beginning of a proof.
pub(super) fn start(proof: &Proof) -> ProofStart {
    let [a, b, c, d, e, f, g, h, ..] = *proof.bytes();
    [a, b, c, d, e, f, g, h]
}

impl Tickets {
    /// Of the brokers that sign with this key. It signs tokens and nothing like the text
    /// from whose signature, which is the same each time, the MAC's key is made.
    pub(super) fn of(issuer: &NkeySeed) -> Self {
        // Whoever has one of them can make tickets.
        let signature = Zeroizing::new(issuer.sign_text(LABEL));
        let secret = Zeroizing::new(sha256(&[LABEL.as_bytes(), signature.as_bytes()]));
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()),
        }
    }

    /// The name with a ticket for the connection that is asked about.
    pub(super) fn issue(
        &self,
        request: &CalloutRequest,
        name: &str,
        proof: &Proof,
        until: Option<UnixMillis>,
    ) -> String {
        let until = until
            .map_or(u64::MAX, |until| until.as_millis())
            .to_be_bytes();
        let body = [start(proof), until].concat();
        let mac = self.mac((request.server, request.client_id), name, &body);
        let mac = mac.as_ref().get(..MAC_LEN).unwrap_or_default();
        let ticket = [&body, mac].concat();
        format!("{name}{MARK}{}", HEXLOWER.encode(&ticket))
    }

    /// What the connection was admitted as that is asked about again; nothing if it is
    /// asked about for the first time, whatever it calls itself.
    pub(super) fn read(&self, request: &CalloutRequest) -> Option<Ticket> {
        let (name, ticket) = request.user.rsplit_once(MARK)?;
        let ticket: [u8; TICKET_LEN] = HEXLOWER.decode(ticket.as_bytes()).ok()?.try_into().ok()?;
        let (body, mac) = ticket.split_at_checked(BODY_LEN)?;
        let expected = self.mac((request.server, request.client_id), name, body);
        let expected = expected.as_ref().get(..MAC_LEN)?;
        if !bulla_keyring::constant_time_eq(expected, mac) {
            return None;
        }
        let (proof, until) = body.split_at_checked(8)?;
        let until = u64::from_be_bytes(until.try_into().ok()?);
        Some(Ticket {
            workload: name.split(MARK).next()?.to_owned(),
            proof: proof.try_into().ok()?,
            until: (until != u64::MAX).then(|| UnixMillis::from_millis(until)),
        })
    }

    fn mac(&self, (server, client): (Nkey, u64), name: &str, body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(server.bytes());
        context.update(&client.to_be_bytes());
        context.update(body);
        context.update(name.as_bytes());
        context.sign()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

const LABEL: &str = "bulla: key of tickets for connections that are asked about again";
const BODY_LEN: usize = 16;
const MAC_LEN: usize = 16;
const TICKET_LEN: usize = BODY_LEN + MAC_LEN;

#[cfg(test)]
mod tests {
    use bulla_identity::NkeyKind;

    use super::*;
    use crate::spellings::assert_unprinted;

    #[test]
    fn the_key_of_tickets_is_not_printed() {
        let random = sha256(&[b"an issuer"]);
        let issuer = NkeySeed::from_random(NkeyKind::Account, &random).unwrap();
        let signature = issuer.sign_text(LABEL);
        let secret = sha256(&[LABEL.as_bytes(), signature.as_bytes()]);
        let tickets = Tickets::of(&issuer);
        let secrets: [&[u8]; 3] = [&random, signature.as_bytes(), &secret];
        assert_unprinted("Tickets", &tickets, &secrets);
    }
}
