//! What is printed of messages and of what they are made of holds no payload, header, token
//! or password.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

use bulla_identity::WorkloadId;
use bulla_sdk::testing::{TestBus, TestUser};
use bulla_sdk::{
    Agreed, Ask, CloudEvent, ConnectOptions, ContentType, DeadLetter, Exchange, Message,
    ServiceError,
};

use spellings::assert_unprinted;

#[path = "../keyring/tests/redaction/spellings.rs"]
mod spellings;

const PAYLOAD: &str = "quagmire-at-dawn";
const HEADER: &str = "zephyr-in-a-header";
const CLAIM: &str = "walrus-of-a-claim";

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.gateway]
attest = [{ nkey = "@gateway@" }]
mints = true
[workload.orders]
attest = [{ nkey = "@orders@" }]

[subject."orders.>"]
user = "required"
protect = "encrypted"

[[allow]]
id = "edge-creates"
who = ["gateway"]
may = ["request"]
on = ["orders.create"]
[[allow]]
id = "orders-serves"
who = ["orders"]
may = ["serve"]
on = ["orders.create"]
"#;

#[test]
fn what_a_program_brings_is_not_printed() {
    let workload = WorkloadId::parse("spiffe://acme.example/orders").unwrap();
    let url = "nats://orders:swordfish-of-the-bus@127.0.0.1:4222";
    let seed = b"the seed of the token's own key!";
    let options = ConnectOptions::new(url, workload, "orders.nk", "root.pub").token_key(seed);
    assert_unprinted("ConnectOptions", &options, &[seed, b"swordfish-of-the-bus"]);

    let event = CloudEvent::new("1", "shop", "order.created")
        .and_then(|event| event.with("colour", HEADER))
        .unwrap();
    assert_unprinted("CloudEvent", &event, &[HEADER.as_bytes()]);
    let ask = Ask::bytes(ContentType::Json, PAYLOAD).header("colour", HEADER);
    assert_unprinted("Ask", &ask, &[PAYLOAD.as_bytes(), HEADER.as_bytes()]);
    let agreed = Agreed::Before(PAYLOAD.into());
    assert_unprinted("Agreed", &agreed, &[PAYLOAD.as_bytes()]);
    let letter = DeadLetter {
        stream: "ORDERS".to_owned(),
        sequence: 1,
        consumer: "orders".to_owned(),
        subject: "orders.created".to_owned(),
        reason: "expired".to_owned(),
        message: String::new(),
        times_delivered: 3,
        envelope: PAYLOAD.into(),
    };
    assert_unprinted("DeadLetter", &letter, &[PAYLOAD.as_bytes()]);
    let user = TestUser::new("alice").claim("tier", CLAIM);
    assert_unprinted("TestUser", &user, &[CLAIM.as_bytes()]);
}

#[tokio::test]
async fn what_travels_is_not_printed() {
    let bus = TestBus::start(POLICY).unwrap();
    let gateway = bus.client("gateway").await.unwrap();
    let orders = bus.client("orders").await.unwrap();
    let alice = TestUser::new("alice").claim("tier", CLAIM);
    let token = bus.token(&gateway, &alice).unwrap();
    let parts: Vec<&[u8]> = token.split('.').map(str::as_bytes).collect();
    let secrets = [
        &parts[..],
        &[PAYLOAD.as_bytes(), HEADER.as_bytes(), CLAIM.as_bytes()],
    ]
    .concat();

    let expected: Vec<Vec<u8>> = secrets.iter().map(|secret| secret.to_vec()).collect();
    let handler = move |message: Message<String>| {
        let secrets: Vec<&[u8]> = expected.iter().map(Vec::as_slice).collect();
        assert_unprinted("Message", &message, &secrets);
        assert_unprinted("User", message.user().unwrap(), &secrets);
        assert_unprinted("Context", &message.context(), &secrets);
        let original = message.original_token().unwrap();
        assert_unprinted("OriginalToken", original, &[b"the client's own token"]);
        assert_eq!(original, &original.clone());
        let exchange = Exchange::narrower().of(message.user().unwrap().clone());
        assert_unprinted("Exchange", &exchange, &secrets);
        async move { Ok::<_, ServiceError>(message.payload().clone()) }
    };
    let _service = orders.serve("orders.create", handler).await.unwrap();
    let message = gateway.message("orders.create").payload(PAYLOAD);
    let message = message.header("colour", HEADER).user_token(&token);
    let message = message.original_token("the client's own token");
    let response = message.request().await.unwrap();
    assert_unprinted("Response", &response, &secrets);
    assert_eq!(response.decode::<String>().unwrap(), PAYLOAD);
    let error = response.decode::<u32>().unwrap_err();
    assert_unprinted("PayloadError", &error, &secrets);
    assert_unprinted("TestBus", &bus, &secrets);
    assert_unprinted("Client", &gateway, &secrets);
}
