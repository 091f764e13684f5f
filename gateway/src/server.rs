//! Listening, and stopping in order: unready, no new connections, what runs comes to
//! its end, what is buffered is sent.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::metrics::Metrics;

/// How long to wait after an error of `accept` that concerns the whole process, such
/// as running out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves connections with `answer` until `stop`, then drains.
pub(crate) async fn serve<F, R>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: &Limits,
    metrics: &Metrics,
    stop: CancellationToken,
    answer: F,
) where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let builder = Arc::new(builder(limits));
    let open = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
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
            patience: limits.header_timeout,
            watcher: graceful.watcher(),
        };
        let (answer, metrics, abort) = (answer.clone(), metrics.clone(), abort.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            metrics.connected();
            tokio::select! {
                () = abort.cancelled() => {}
                () = connection.run(stream, answer, stop) => {}
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

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
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
        .keep_alive_timeout(limits.header_timeout);
    builder
}

struct Connection {
    builder: Arc<Builder<TokioExecutor>>,
    tls: Option<TlsAcceptor>,
    /// How long the handshake and the first head may take, each.
    patience: Duration,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn run<F, R>(self, stream: TcpStream, answer: F, stop: CancellationToken)
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        // Answers are whole: nothing is gained by waiting to fill a packet.
        let _ = stream.set_nodelay(true);
        let Some(tls) = self.tls.clone() else {
            return self.speak(stream, answer).await;
        };
        // A handshake that has not ended when the edge stops never carried a request.
        tokio::select! {
            () = stop.cancelled() => {}
            accepted = tokio::time::timeout(self.patience, tls.accept(stream)) => match accepted {
                Ok(Ok(stream)) => self.speak(stream, answer).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            },
        }
    }

    async fn speak<S, F, R>(self, stream: S, answer: F)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let begun = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let begun = Arc::clone(&begun);
            move |request| {
                begun.store(true, Ordering::Relaxed);
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            }
        });
        let connection = self
            .builder
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let mut connection = pin!(self.watcher.watch(connection));
        // hyper's own timer starts only when it knows the HTTP version: a client that
        // never says so is cut here.
        let first = tokio::select! {
            ended = &mut connection => Some(ended),
            () = tokio::time::sleep(self.patience) => None,
        };
        let ended = match first {
            Some(ended) => ended,
            None if begun.load(Ordering::Relaxed) => connection.await,
            None => {
                tracing::debug!("no request in time");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
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
