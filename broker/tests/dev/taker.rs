//! Takes what is sent to a collector of traces, as bytes: names stand in protobuf as
//! they are.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A collector that looks into nothing.
#[derive(Clone)]
pub(crate) struct Taker {
    pub(crate) url: String,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Taker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taker = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            taken: Arc::default(),
        };
        let taking = taker.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(taking.clone().take(socket));
            }
        });
        taker
    }

    /// Whether a text was sent.
    pub(crate) fn has(&self, text: &str) -> bool {
        let taken = self.taken.lock().unwrap();
        taken.windows(text.len()).any(|at| at == text.as_bytes())
    }

    async fn take(self, mut socket: TcpStream) {
        let (mut bytes, mut part) = (Vec::new(), [0; 16 * 1024]);
        while let Ok(read @ 1..) = socket.read(&mut part).await {
            bytes.extend_from_slice(&part[..read]);
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let length: usize = length.unwrap().trim().parse().unwrap();
            if bytes.len() < end + 4 + length {
                continue;
            }
            self.taken.lock().unwrap().append(&mut bytes);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer).await.unwrap();
        }
    }
}
