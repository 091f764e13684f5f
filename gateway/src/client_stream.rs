//! A connection of a client: bytes that were read ahead come first, and a client that
//! takes nothing of what is sent to it is cut.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// The longest PROXY protocol header that is taken, in bytes.
const MAX_PROXY_HEADER: usize = 1_024;

/// A TCP connection with patience.
pub(crate) struct ClientStream {
    inner: TcpStream,
    early: Bytes,
    /// How long a write may make no progress.
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    pub(crate) fn new(inner: TcpStream, patience: Duration) -> Self {
        Self {
            inner,
            early: Bytes::new(),
            patience,
            stalled: None,
        }
    }

    /// Reads the PROXY protocol header (version 1 or 2) that a proxy sends ahead, and
    /// returns the client's address. `None` if the proxy speaks for itself.
    ///
    /// # Errors
    ///
    /// When the connection ends or what comes first is no such header.
    pub(crate) async fn read_proxy_header(&mut self) -> io::Result<Option<SocketAddr>> {
        let mut buffer = BytesMut::with_capacity(MAX_PROXY_HEADER);
        loop {
            if self.inner.read_buf(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((address, length)) = proxy_header(&buffer)? {
                buffer.advance(length);
                self.early = buffer.freeze();
                return Ok(address);
            }
        }
    }

    /// What comes of a write: nothing, for longer than the patience, is an error.
    fn hurry(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let patience = self.patience;
        let timer = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Whom the PROXY header at the beginning names, if it names anybody, and how long it is;
/// `None` while it is not whole.
pub(crate) fn proxy_header(bytes: &[u8]) -> io::Result<Option<(Option<SocketAddr>, usize)>> {
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, length)) => {
            let address = header.proxied_address().map(|proxied| proxied.source);
            Ok(Some((address, length)))
        }
        Err(proxy_header::Error::BufferTooShort) if bytes.len() < MAX_PROXY_HEADER => Ok(None),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        }
        let now = this
            .early
            .split_to(this.early.len().min(buffer.remaining()));
        buffer.put_slice(&now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.hurry(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.hurry(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
