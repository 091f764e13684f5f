//! A TCP cable that can be cut and listened to, between one client and nats-server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections until it is cut, refuses them until it is mended.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    frozen: watch::Sender<Option<usize>>,
    delay: watch::Sender<Duration>,
    seen: Seen,
    task: JoinHandle<()>,
}

/// What went over the cable, both ways.
type Seen = Arc<Mutex<Vec<u8>>>;

impl Cable {
    /// A cable to `nats_url`.
    pub async fn to(nats_url: &str) -> Self {
        let target = nats_url.rsplit('/').next().unwrap_or_default().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (whole, state) = watch::channel(true);
        let (frozen, ice) = watch::channel(None);
        let (delay, late) = watch::channel(Duration::ZERO);
        let seen = Seen::default();
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                let mut number = 0;
                while let Ok((client, _)) = listener.accept().await {
                    let (ice, own) = (ice.clone(), number);
                    number += 1;
                    let (target, state) = (target.clone(), state.clone());
                    let (seen, late) = (Arc::clone(&seen), late.clone());
                    tokio::spawn(async move {
                        forward(client, &target, state, (ice, own), late, seen).await;
                    });
                }
            }
        });
        Self {
            address,
            whole,
            frozen,
            delay,
            seen,
            task,
        }
    }

    /// The URL at this end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Whether these bytes went over the cable, in either direction: what
    /// nats-server, and whoever runs it, gets to see.
    #[must_use]
    pub fn has_seen(&self, bytes: &[u8]) -> bool {
        let seen = self.seen.lock().expect("nobody panics with it");
        seen.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Cuts every connection and refuses new ones.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Forwards nothing any more of the connection that was opened as this
    /// number, from zero, and keeps it open: who listens there hangs.
    pub fn freeze(&self, number: usize) {
        self.frozen.send_replace(Some(number));
    }

    /// From now on what nats-server sends is so much longer on its way.
    pub fn delay(&self, by: Duration) {
        self.delay.send_replace(by);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    client: TcpStream,
    target: &str,
    mut state: watch::Receiver<bool>,
    (mut ice, number): (watch::Receiver<Option<usize>>, usize),
    late: watch::Receiver<Duration>,
    seen: Seen,
) {
    if !*state.borrow() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::select! {
            () = copy(from_client, to_server, None, &seen) => {}
            () = copy(from_server, to_client, Some(late), &seen) => {}
        }
    };
    let mut both = std::pin::pin!(both);
    let is_frozen = tokio::select! {
        () = &mut both => false,
        _ = state.wait_for(|whole| !whole) => false,
        _ = ice.wait_for(|frozen| *frozen == Some(number)) => true,
    };
    if is_frozen {
        // Not read any more, and not closed either.
        let _ = state.wait_for(|whole| !whole).await;
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    late: Option<watch::Receiver<Duration>>,
    seen: &Seen,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer.get(..read).expect("as many as were read");
        seen.lock()
            .expect("nobody panics with it")
            .extend_from_slice(bytes);
        let delay = late.as_ref().map(|late| *late.borrow());
        if let Some(delay) = delay.filter(|delay| !delay.is_zero()) {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
