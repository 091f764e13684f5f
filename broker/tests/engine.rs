//! nats-server under the engine: started, stopped, and never left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use bulla_broker::engine::{Engine, EngineConfig, EngineError};

async fn engine() -> Engine {
    Engine::locate(&|line| eprintln!("{line}")).await.unwrap()
}

fn config(dir: &Path, text: &str) -> EngineConfig {
    let config_file = dir.join("nats-server.conf");
    std::fs::write(&config_file, text).unwrap();
    EngineConfig {
        config_file,
        log_file: dir.join("nats-server.log"),
        run_dir: dir.to_owned(),
    }
}

const ANY_PORT: &str = "listen: \"127.0.0.1:-1\"";

fn is_running(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

async fn ends(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_running(pid) {
        assert!(Instant::now() < deadline, "nats-server still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_tells_its_address_and_stops_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = engine()
        .await
        .start(&config(dir.path(), ANY_PORT))
        .await
        .unwrap();
    let pid = server.pid();
    let address = server
        .client_url()
        .strip_prefix("nats://")
        .unwrap()
        .to_owned();
    tokio::net::TcpStream::connect(&address).await.unwrap();
    assert!(is_running(pid));
    server.stop().await;
    ends(pid).await;
    let log = std::fs::read_to_string(dir.path().join("nats-server.log")).unwrap();
    assert!(log.contains("Server Exiting"), "{log}");
    TcpListener::bind(&address).unwrap();
}

#[tokio::test]
async fn dropping_it_kills_it_even_if_it_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let server = engine()
        .await
        .start(&config(dir.path(), ANY_PORT))
        .await
        .unwrap();
    let pid = server.pid();
    server.suspend();
    drop(server);
    ends(pid).await;
}

#[tokio::test]
async fn a_busy_port_and_a_broken_configuration_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let text = format!("listen: \"{address}\"");
    let error = engine()
        .await
        .start(&config(dir.path(), &text))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, EngineError::PortBusy { address: a } if *a == address),
        "{error}"
    );

    let error = engine()
        .await
        .start(&config(dir.path(), "nonsense: {"))
        .await
        .unwrap_err();
    assert!(matches!(error, EngineError::Died { .. }), "{error}");
    assert!(error.to_string().contains("Parse error"), "{error}");
}

#[tokio::test]
async fn its_end_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = engine()
        .await
        .start(&config(dir.path(), ANY_PORT))
        .await
        .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let error = server.exited().await;
    assert!(matches!(error, EngineError::Died { .. }), "{error}");
}
