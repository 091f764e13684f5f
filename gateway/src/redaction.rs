//! What is printed of questions, replies, events and answers holds no token and no body.

use bulla_token::TokenSigningKey;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::cache::Answer;
use crate::spellings::assert_unprinted;
use crate::{BusEvent, BusReply, Question};

const BODY: &[u8] = b"\"quagmire-at-dawn\"";
const TOKEN: &str = "header-of-one.claims-of-it.its-signature";
const HEADER: &str = "zephyr-in-a-header";

#[test]
fn what_is_asked_and_answered_is_not_printed() {
    let question = Question {
        method: Method::GET,
        target: format!("/v1/orders?token={TOKEN}").parse().unwrap(),
        version: None,
        token: Some(TOKEN.to_owned()),
        from: None,
    };
    assert_unprinted("Question", &question, &[TOKEN.as_bytes()]);

    let reply = BusReply {
        payload: Bytes::from_static(BODY),
        content_type: "application/json".to_owned(),
        headers: vec![("colour".to_owned(), HEADER.to_owned())],
    };
    assert_unprinted("BusReply", &reply, &[BODY, HEADER.as_bytes()]);

    for content_type in ["application/json", "application/octet-stream"] {
        let event = BusEvent::new(content_type, Bytes::from_static(BODY), Some(7));
        assert_unprinted("BusEvent", &event, &[BODY]);
        assert_unprinted("EventContent", event.content(), &[BODY]);
    }

    let mut headers = HeaderMap::new();
    headers.insert("colour", HEADER.parse().unwrap());
    let answer = Answer::new(StatusCode::OK, headers, Bytes::from_static(BODY));
    assert_unprinted("Answer", &answer, &[BODY, HEADER.as_bytes()]);
}

#[test]
fn the_key_that_mints_is_not_printed() {
    let seed = *b"the seed of the token's own key!";
    assert_unprinted(
        "TokenSigningKey",
        &TokenSigningKey::from_seed(seed),
        &[&seed],
    );
}
