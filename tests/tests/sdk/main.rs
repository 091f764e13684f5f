//! The SDK on a real bus: what services see, and what refusals tell them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod discovery;
mod flow;
mod lent;
mod limits;
mod messages;
mod mistakes;
mod opened;
mod policy;
mod services;
mod streams;
mod users;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.edge]
attest = [{ nkey = "@edge@" }]
mints = true
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[subject."front.order"]
user = "required"
[subject."back.quote"]
user = "required"
[subject."back.anonymous"]
user = "none"
[subject."back.secret"]
protect = "encrypted"

[[allow]]
id = "edge-orders"
who = ["edge"]
may = ["request"]
on = ["front.order"]
user = { scope = "orders:write" }

[[allow]]
id = "front-serves"
who = ["front"]
may = ["serve"]
on = ["front.order"]

[[allow]]
id = "front-asks-back"
who = ["front"]
may = ["request"]
on = ["back.quote"]
user = { scope = "orders:write", tier = "gold" }

[[allow]]
id = "front-asks-freely"
who = ["front"]
may = ["request"]
on = ["back.anonymous", "back.echo", "back.secret"]

[[allow]]
id = "back-serves"
who = ["back"]
may = ["serve"]
on = ["back.>"]

[[allow]]
id = "front-tells"
who = ["front"]
may = ["publish"]
on = ["events.{kind}.done"]

[[allow]]
id = "back-listens"
who = ["back"]
may = ["subscribe"]
on = ["events.*.done"]

[[allow]]
id = "wiretap-overhears"
who = ["wiretap"]
may = ["subscribe"]
on = ["events.*.done"]
"#;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) item: String,
}

/// Waits for something that other tasks bring about.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "it did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
