//! NATS spoken by hand, for what no client library would send.

use std::time::Duration;

use bulla_keyring::NkeySeed;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One connection to nats-server, line by line.
#[derive(Debug)]
pub struct RawSocket {
    stream: BufReader<TcpStream>,
    info: Value,
}

impl RawSocket {
    /// Connects and reads the server's INFO.
    pub async fn connect(nats_url: &str) -> Self {
        let address = nats_url.trim_start_matches("nats://");
        let stream = TcpStream::connect(address)
            .await
            .expect("nats-server listens");
        let mut socket = Self {
            stream: BufReader::new(stream),
            info: Value::Null,
        };
        let line = socket.line().await.expect("nats-server greets");
        let info = line.strip_prefix("INFO ").expect("INFO comes first");
        socket.info = serde_json::from_str(info).expect("INFO is JSON");
        socket
    }

    /// What the server challenges this connection with.
    #[must_use]
    pub fn nonce(&self) -> &str {
        self.info
            .get("nonce")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, text: &str) {
        // The server may have hung up, which the next line tells.
        let _ = self.stream.get_mut().write_all(text.as_bytes()).await;
    }

    /// Sends CONNECT with these options, then PING. True if the server lets
    /// the connection in.
    pub async fn log_in(&mut self, options: &Value) -> bool {
        self.send(&format!("CONNECT {options}\r\nPING\r\n")).await;
        while let Some(line) = self.line().await {
            if line.starts_with("PONG") {
                return true;
            }
            if line.starts_with("-ERR") {
                return false;
            }
        }
        false
    }

    /// What CONNECT says for the holder of `seed`, signed over `nonce`.
    #[must_use]
    pub fn login_of(seed: &NkeySeed, nonce: &str) -> Value {
        json!({
            "verbose": false,
            "pedantic": false,
            "lang": "rust",
            "version": "0",
            "protocol": 1,
            "headers": true,
            "no_responders": true,
            "nkey": seed.public().to_string(),
            "sig": BASE64URL_NOPAD.encode(seed.sign_text(nonce).as_bytes()),
        })
    }

    /// Sends one command and gives every line that the server answers before
    /// it has processed all of it: nothing, or errors, or messages.
    pub async fn command(&mut self, command: &str) -> Vec<String> {
        self.send(&format!("{command}\r\nPING\r\n")).await;
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            if line.starts_with("PONG") {
                break;
            }
            lines.push(line);
        }
        lines
    }

    /// Whether the server refuses the command for want of permission.
    pub async fn is_refused(&mut self, command: &str) -> bool {
        let lines = self.command(command).await;
        lines
            .iter()
            .any(|line| line.contains("Permissions Violation"))
    }

    /// The next line, or nothing if the server hung up.
    pub async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(LIMIT, self.stream.read_line(&mut line));
        match read.await.expect("nats-server says something") {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }
}

const LIMIT: Duration = Duration::from_secs(10);
