#![allow(clippy::all, missing_docs)]
const POLICY: &str = r#"
version = 1
trust_domain = "bench.example"

[workload.ping]
attest = [{ nkey = "@ping@" }]
[workload.pong]
attest = [{ nkey = "@pong@" }]

# One replica: a claim would measure JetStream.
[subject."echo.signed"]
replay = "window"

[[allow]]
id = "ping-sends"
who = ["ping"]
may = ["publish"]
on = ["signed.*", "framed", "raw.many.*", "raw.one"]

[[allow]]
id = "pong-receives"
who = ["pong"]
may = ["subscribe"]
on = ["signed.*", "framed", "raw.many.*", "raw.one"]

[[allow]]
id = "ping-asks"
who = ["ping"]
may = ["request"]
on = ["echo.signed", "raw.echo"]

[[allow]]
id = "pong-answers"
who = ["pong"]
may = ["serve"]
on = ["echo.signed", "raw.echo"]
"#;

const ENCRYPTED: Option<&str> = Some(
    r#"
[subject."encrypted.*"]
protect = "encrypted"
[subject."framed_encrypted"]
protect = "encrypted"

[[allow]]
id = "ping-hides"
who = ["ping"]
may = ["publish"]
on = ["encrypted.*", "framed_encrypted"]

[[allow]]
id = "pong-reads"
who = ["pong"]
may = ["subscribe"]
on = ["encrypted.*", "framed_encrypted"]
"#,
);
const MAC: Option<&str> = Some(
    r#"
[subject."echo.mac"]
replay  = "window"
replies = "mac"

[[allow]]
id = "ping-asks-for-codes"
who = ["ping"]
may = ["request"]
on = ["echo.mac"]

[[allow]]
id = "pong-codes"
who = ["pong"]
may = ["serve"]
on = ["echo.mac"]
"#,
);
#[tokio::main]
async fn main() {
    let policy = [POLICY, ENCRYPTED.unwrap_or(""), MAC.unwrap_or("")].concat();
    let bus = bulla_testing::Bus::start(&policy).await;
    let mut t = String::new();
    t += &format!("{}\n{}\n", bus.nats_url(), bus.root_file().display());
    for n in ["ping", "pong"] {
        t += &format!(
            "{}\n{}\n{}\n",
            bus.workload(n).as_str(),
            bus.seed_file(n).display(),
            bulla_identity::reserved::inbox_peers(bus.workload(n).tag())
        );
    }
    std::fs::write("/work/perf/bus.txt", t).unwrap();
    println!("ready");
    tokio::time::sleep(std::time::Duration::from_secs(100000)).await;
}
