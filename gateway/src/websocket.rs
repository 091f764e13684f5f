//! Streams over WebSocket ([RFC 6455]): the same events as server-sent ones, each a message.
//!
//! Over HTTP/2 it is a stream of the connection ([RFC 8441]). A client that wants to go on
//! where it stopped asks for the protocol `events.numbered`, whose messages have the
//! event's number beside it.
//!
//! A client sends nothing but pings, pongs and its goodbye: whatever else it sends ends the
//! stream. Browsers cannot set `Authorization` here, so the access token may come as an
//! offered protocol `bearer.<token>`, which unlike the query stands in no log.
//!
//! [RFC 6455]: https://www.rfc-editor.org/rfc/rfc6455
//! [RFC 8441]: https://www.rfc-editor.org/rfc/rfc8441

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::authenticate::AuthError;
use crate::body::Answered;
use crate::bus::BusEvent;
use crate::event_content::EventContent;
use crate::events::{End, Events, Step};
use crate::loaded::Loaded;
use crate::origin::check_origin;
use crate::problem::Problem;
use crate::refusal::{Refusal, deny};

/// The protocol whose messages are events.
const EVENTS: &str = "events";
/// The protocol whose messages are objects of an event and its number.
const NUMBERED: &str = "events.numbered";
/// What the protocol that carries an access token begins with.
const BEARER: &str = "bearer.";
/// A client has nothing to say that is longer.
const MAX_HEARD: usize = 4_096;
/// How long a client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// After how many pings without an answer the client is gone.
const UNANSWERED: u32 = 2;

/// Whether the client asks to speak WebSocket.
pub(crate) fn is_asked(head: &Parts) -> bool {
    let mut values = head.headers.get_all(UPGRADE).iter();
    is_stream(head) || values.any(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether it does so over HTTP/2: by a method of its own, on a path like any other.
pub(crate) fn is_stream(head: &Parts) -> bool {
    let protocol = head.extensions.get::<Protocol>();
    head.version == Version::HTTP_2
        && head.method == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_ref() == b"websocket")
}

/// The access token among the offered protocols, if there is one.
pub(crate) fn token(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    let mut found = None;
    for protocol in offered(headers) {
        if let Some(token) = protocol.strip_prefix(BEARER) {
            if found.is_some() {
                return Err(AuthError::Repeated);
            }
            if token.is_empty() {
                return Err(AuthError::Malformed);
            }
            found = Some(token);
        }
    }
    Ok(found)
}

fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
}

/// A handshake that can be accepted.
pub(crate) struct Handshake {
    /// The answer to the client's key; none over HTTP/2, which knows by itself that both
    /// mean WebSocket.
    accept: Option<String>,
    chosen: Option<&'static str>,
    upgrade: OnUpgrade,
}

impl Handshake {
    /// Reads what a client asks for.
    pub(crate) fn read(head: &mut Parts, loaded: &Loaded) -> Result<Self, Refusal> {
        let malformed = || {
            deny(
                Problem::BadRequest("this is no WebSocket handshake of version 13"),
                "websocket_handshake",
            )
        };
        check_origin(&head.headers, loaded)?;
        let only = |name: HeaderName| {
            let mut values = head.headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none())
        };
        if only(SEC_WEBSOCKET_VERSION).is_none_or(|v| v.as_bytes() != b"13") {
            return Err(malformed());
        }
        let accept = if is_stream(head) {
            None
        } else {
            let connection = only(CONNECTION).and_then(|v| v.to_str().ok());
            let upgrades = connection.is_some_and(|value| {
                let mut options = value.split(',');
                options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
            });
            let key = only(SEC_WEBSOCKET_KEY).filter(|key| {
                let decoded = BASE64.decode(key.as_bytes());
                decoded.is_ok_and(|bytes| bytes.len() == 16)
            });
            let is_http1 = head.version == Version::HTTP_11 && head.method == Method::GET;
            let key = key.filter(|_| is_http1 && upgrades).ok_or_else(malformed)?;
            Some(derive_accept_key(key.as_bytes()))
        };
        let chosen = offered(&head.headers)
            .find_map(|protocol| [EVENTS, NUMBERED].into_iter().find(|p| *p == protocol));
        let upgrade = head.extensions.remove::<OnUpgrade>();
        Ok(Self {
            accept,
            chosen,
            upgrade: upgrade.ok_or_else(malformed)?,
        })
    }

    /// The answer, and what goes on once it is given.
    pub(crate) fn accept(
        self,
        events: Events,
    ) -> (Response<Answered>, impl Future<Output = ()> + Send + use<>) {
        let mut response = Response::new(Answered::Whole(Full::default()));
        let headers = response.headers_mut();
        if let Some(protocol) = self.chosen {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        if let Some(accept) = self.accept {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            if let Ok(accept) = HeaderValue::try_from(accept) {
                headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        let is_numbered = self.chosen == Some(NUMBERED);
        let upgrade = self.upgrade;
        let talk = async move {
            // Ends with the connection, if that ends before it is handed over.
            if let Ok(upgraded) = upgrade.await {
                talk(TokioIo::new(upgraded), events, is_numbered).await;
            }
        };
        (response, talk)
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: S, mut events: Events, is_numbered: bool) {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_HEARD))
        .max_frame_size(Some(MAX_HEARD))
        // Nothing is kept back: each event is sent at once.
        .write_buffer_size(0);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let mut unanswered = 0;
    loop {
        tokio::select! {
            step = poll_fn(|cx| events.poll_step(cx)) => {
                let sent = match step {
                    Step::Opened => continue,
                    Step::Event(event) if is_numbered => socket.send(numbered(event)).await,
                    Step::Event(event) => socket.send(message(event)).await,
                    Step::Silence if unanswered == UNANSWERED => return,
                    Step::Silence => {
                        unanswered += 1;
                        socket.send(Message::Ping(Bytes::new())).await
                    }
                    Step::Ended(why) => return close(socket, events, why.into()).await,
                };
                if sent.is_err() {
                    return;
                }
            }
            heard = socket.next() => match heard {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => unanswered = 0,
                Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                    let frame = goodbye(CloseCode::Policy, "nothing is taken here");
                    return close(socket, events, frame).await;
                }
                // Its goodbye was answered by the library.
                Some(Ok(Message::Close(_) | Message::Frame(_)) | Err(_)) | None => return,
            },
        }
    }
}

fn message(event: BusEvent) -> Message {
    match event.content().clone() {
        EventContent::Text(text) => match Utf8Bytes::try_from(text.clone()) {
            Ok(text) => Message::Text(text),
            Err(_) => Message::Binary(text),
        },
        EventContent::Binary(bytes) => Message::Binary(bytes),
    }
}

/// An event with its number: text as it is, bytes in base64, each under its own name.
fn numbered(event: BusEvent) -> Message {
    let (name, said) = match event.content() {
        EventContent::Text(text) => ("data", String::from_utf8_lossy(text)),
        EventContent::Binary(bytes) => ("base64", BASE64.encode(bytes).into()),
    };
    let mut object = json!({ name: said });
    // A text, because a number of JavaScript has not enough digits.
    if let (Some(place), Some(object)) = (event.place(), object.as_object_mut()) {
        object.insert("id".to_owned(), place.to_string().into());
    }
    Message::text(object.to_string())
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    events: Events,
    frame: CloseFrame,
) {
    // Its place is free at once, however long the client takes.
    drop(events);
    let goodbye = async {
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            // Until the client has said goodbye too.
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
}

fn goodbye(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame {
        code,
        reason: reason.into(),
    }
}

impl From<End> for CloseFrame {
    fn from(why: End) -> Self {
        match why {
            End::Stopping => goodbye(CloseCode::Away, "the edge stops"),
            End::TokenEnded => goodbye(CloseCode::Library(4_401), "the access token has ended"),
            End::Revoked => goodbye(CloseCode::Library(4_403), "this is not allowed any more"),
            End::Behind => goodbye(CloseCode::Again, "events come no more, or too fast for you"),
        }
    }
}
