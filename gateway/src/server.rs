//! Listening, and stopping in order: unready, no new connections, what runs comes to
//! its end, what is buffered is sent.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Answered;
use crate::certificates::Shown;
use crate::client_address::ClientsConfig;
use crate::client_stream::ClientStream;
use crate::config::Limits;
use crate::connections::{Counted, Open};
use crate::framing::{Seen, Watched};
use crate::handle::Peer;
use crate::metrics::Metrics;
use crate::networks::counted_as;
use crate::tls::ACME;
use crate::unread::{Unread, broken_h2};

/// How long to wait after an error of `accept` that concerns the whole process, such
/// as running out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who comes in, and how.
pub(crate) struct Door {
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) limits: Limits,
    pub(crate) clients: Arc<ArcSwap<ClientsConfig>>,
    pub(crate) metrics: Metrics,
    /// What is done with heads of which no request comes.
    pub(crate) unread: Arc<OnUnread>,
}

/// Is told of a head, and at which address the other end of its connection is.
pub(crate) type OnUnread = dyn Fn(SocketAddr, Unread) + Send + Sync;

/// Serves connections with `answer` until `stop`, then drains.
pub(crate) async fn serve<F, R>(
    listener: TcpListener,
    door: Door,
    stop: CancellationToken,
    answer: F,
) where
    F: Fn(Request<Incoming>, Peer) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Answered>> + Send + 'static,
{
    let Door {
        tls,
        limits,
        clients,
        metrics,
        unread,
    } = door;
    let builder = Arc::new(builder(&limits));
    let limits = Arc::new(limits);
    let open = Arc::new(Semaphore::new(limits.connections));
    let by_address = Arc::new(Open::default());
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // At the bound a new connection is closed at once, and counted.
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            metrics.shed("connections");
            continue;
        };
        let connection = Connection {
            builder: Arc::clone(&builder),
            tls: tls.clone(),
            limits: Arc::clone(&limits),
            unread: Arc::clone(&unread),
            watcher: graceful.watcher(),
            clients: clients.load_full(),
            by_address: Arc::clone(&by_address),
        };
        let (answer, metrics, abort) = (answer.clone(), metrics.clone(), abort.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            metrics.connected();
            tokio::select! {
                biased;
                outcome = connection.run(stream, address, answer, stop) => {
                    if let Err(turned_away) = outcome {
                        metrics.shed(turned_away.reason());
                    }
                }
                () = abort.cancelled() => {}
            }
            metrics.disconnected();
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    let drained = async {
        graceful.shutdown().await;
        connections.wait().await;
    };
    if tokio::time::timeout(limits.drain_timeout, drained)
        .await
        .is_err()
    {
        tracing::warn!(
            left = connections.len(),
            "cut connections that did not drain"
        );
        abort.cancel();
        connections.wait().await;
    }
}

/// Why a connection is closed: before its first request, but for the last.
#[derive(Debug, Clone, Copy)]
enum TurnedAway {
    /// Connections begin with a PROXY header, and this one is not from a proxy.
    NotAProxy,
    /// The PROXY header is missing or malformed.
    ProxyHeader,
    /// The network is not admitted.
    Network,
    /// Too many connections from this address.
    Address,
    /// It does not keep to the rules of HTTP/2, or sends more than anybody has to hear.
    Http2,
}

impl TurnedAway {
    fn reason(self) -> &'static str {
        match self {
            Self::NotAProxy => "not_a_proxy",
            Self::ProxyHeader => "proxy_header",
            Self::Network => "network",
            Self::Address => "connections_per_address",
            Self::Http2 => "http2",
        }
    }
}

/// What speaks HTTP, within the limits.
pub(crate) fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(u32::try_from(limits.streams).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.header_timeout)
        // For streams over WebSocket.
        .enable_connect_protocol();
    builder
}

struct Connection {
    builder: Arc<Builder<TokioExecutor>>,
    tls: Option<TlsAcceptor>,
    limits: Arc<Limits>,
    unread: Arc<OnUnread>,
    watcher: hyper_util::server::graceful::Watcher,
    clients: Arc<ClientsConfig>,
    by_address: Arc<Open<IpAddr>>,
}

impl Connection {
    /// How long the handshake and the first head may take, each.
    fn patience(&self) -> Duration {
        self.limits.header_timeout
    }

    async fn run<F, R>(
        self,
        stream: TcpStream,
        address: SocketAddr,
        answer: F,
        stop: CancellationToken,
    ) -> Result<(), TurnedAway>
    where
        F: Fn(Request<Incoming>, Peer) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Answered>> + Send + 'static,
    {
        // Answers are whole: nothing is gained by waiting to fill a packet.
        let _ = stream.set_nodelay(true);
        let mut stream = ClientStream::new(stream, self.limits.write_timeout);
        let address = self.other_end(&mut stream, address, &stop).await?;
        let _open = self.admit(address.ip())?;
        // On the heap, each as large as it is: a connection that waits holds no room for
        // a handshake, nor a plain one for what TLS takes.
        let Some(tls) = &self.tls else {
            let peer = Peer {
                address,
                tls: false,
                certificate: None,
            };
            return Box::pin(self.speak(stream, peer, answer)).await;
        };
        let Some(stream) = Box::pin(self.accept(tls, stream, &stop)).await else {
            return Ok(());
        };
        let chain = stream.get_ref().1.peer_certificates();
        let peer = Peer {
            address,
            tls: true,
            certificate: chain.and_then(Shown::of).map(Arc::new),
        };
        Box::pin(self.speak(stream, peer, answer)).await
    }

    /// The handshake; nothing if nobody speaks after it.
    async fn accept(
        &self,
        tls: &TlsAcceptor,
        stream: ClientStream,
        stop: &CancellationToken,
    ) -> Option<Box<TlsStream<ClientStream>>> {
        let accepted = tokio::select! {
            // A handshake that has not ended when the edge stops never carried a request.
            () = stop.cancelled() => return None,
            accepted = tokio::time::timeout(self.patience(), tls.accept(stream)) => accepted,
        };
        match accepted {
            // An authority has seen what it wanted to see.
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(ACME) => None,
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("TLS handshake took too long");
                None
            }
        }
    }

    /// Who is at the other end: where proxies send a PROXY header ahead, whom it names.
    async fn other_end(
        &self,
        stream: &mut ClientStream,
        address: SocketAddr,
        stop: &CancellationToken,
    ) -> Result<SocketAddr, TurnedAway> {
        if !self.clients.proxy_protocol {
            return Ok(address);
        }
        if !self.clients.is_proxy(address.ip()) {
            return Err(TurnedAway::NotAProxy);
        }
        let header = tokio::select! {
            () = stop.cancelled() => return Err(TurnedAway::ProxyHeader),
            header = tokio::time::timeout(self.patience(), stream.read_proxy_header()) => header,
        };
        match header {
            Ok(Ok(named)) => Ok(named.unwrap_or(address)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no PROXY header");
                Err(TurnedAway::ProxyHeader)
            }
            Err(_) => Err(TurnedAway::ProxyHeader),
        }
    }

    /// Closes at once what no request of could be answered, and what is too much from
    /// one address. A proxy stands for many, and its requests are judged one by one.
    fn admit(&self, address: IpAddr) -> Result<Option<Counted<IpAddr>>, TurnedAway> {
        if self.clients.forwarded.is_some() && self.clients.is_proxy(address) {
            return Ok(None);
        }
        if !self.clients.networks.admits(Some(address)) {
            return Err(TurnedAway::Network);
        }
        let key = counted_as(address);
        match self
            .by_address
            .open(key, self.limits.connections_per_address)
        {
            Some(open) => Ok(Some(open)),
            None => Err(TurnedAway::Address),
        }
    }

    async fn speak<S, F, R>(self, stream: S, peer: Peer, answer: F) -> Result<(), TurnedAway>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Fn(Request<Incoming>, Peer) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Answered>> + Send + 'static,
    {
        let seen = Arc::new(Seen::default());
        let address = peer.address;
        let service = service_fn({
            let seen = Arc::clone(&seen);
            move |request| {
                seen.requests.fetch_add(1, Ordering::Relaxed);
                // On the heap, and gone with its answer: the connection would keep room for
                // it as long as it is open.
                let answered = Box::pin(answer(request, peer.clone()));
                async move { Ok::<_, Infallible>(answered.await) }
            }
        });
        let patience = self.patience();
        let stream = Watched::new(stream, &self.limits, Arc::clone(&seen));
        let connection = self
            .builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        let mut connection = pin!(self.watcher.watch(connection));
        // hyper's own timer starts only when it knows the HTTP version: a client that
        // never says so is cut here. Nobody looks at this one once there was a request.
        let mut patience = pin!(tokio::time::sleep(patience));
        let ended = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending if seen.requests.load(Ordering::Relaxed) > 0 => Poll::Pending,
            Poll::Pending => patience.as_mut().poll(cx).map(|()| {
                tracing::debug!("no request in time");
                Ok(())
            }),
        })
        .await;
        let (mut unread, mut outcome) = (None, Ok(()));
        if let Err(error) = ended {
            unread = Unread::of(&*error);
            tracing::debug!(error = &*error as &dyn Error, "connection ended");
            if let Some(error) = broken_h2(&*error) {
                let client = address.ip().to_canonical();
                tracing::info!(%client, %error, "a client breaks the rules of HTTP/2");
                outcome = Err(TurnedAway::Http2);
            }
        }
        if seen.framed_twice.load(Ordering::Relaxed) {
            unread = Some(Unread::framed_twice(unread));
        }
        for unread in unread.into_iter().chain(Unread::by_h2(&seen)) {
            (self.unread)(address, unread);
        }
        outcome
    }
}

/// Binds, and says where if that is impossible.
pub(crate) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}
