//! A WebSocket connection to a server, as the machines outside have it, with errors for people.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderName;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// What one connection buffers: small, since a load test opens a thousand of them.
const BUFFER_BYTES: usize = 4096;

/// Says why a server could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address is no address.
    #[error("bad address {0:?}: expected http://HOST:PORT")]
    Address(String),
    /// The key cannot stand in a header.
    #[error("the key holds characters that no key has")]
    Key,
    /// Nobody answers there.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// The server's address.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The server answered, and declined.
    #[error("{address} refused {path}: {status}{reason}")]
    Refused {
        /// The server's address.
        address: String,
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What the server says about it, or what to do.
        reason: String,
    },
    /// The server closed the connection and said why.
    #[error("the server closed the connection: {code} {reason}")]
    Closed {
        /// The close code (RFC 6455, section 7.4).
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// The connection ended before it should have.
    #[error("the connection broke: {0}")]
    Dropped(String),
}

impl SocketError {
    /// Tells whether trying again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            SocketError::Dropped(_) | SocketError::Unreachable { .. } => true,
            SocketError::Refused { status, .. } => *status == 429 || *status >= 500,
            // 1008 is a violation of the protocol: the same words would be refused again.
            SocketError::Closed { code, .. } => *code != 1008,
            SocketError::Address(_) | SocketError::Key => false,
        }
    }

    /// Tells whether the server does not let this key do what was asked.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, SocketError::Refused { status: 401 | 403, .. })
    }
}

/// A server's address, as `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `HOST:PORT`, with a path prefix where there is one.
    address: String,
}

impl FromStr for Server {
    type Err = SocketError;

    fn from_str(text: &str) -> Result<Self, SocketError> {
        let scheme_end = text.find("://").map_or(0, |at| at + 3);
        let (scheme, address) = text.split_at(scheme_end);
        let address = address.trim_end_matches('/');
        if !matches!(scheme, "" | "http://" | "ws://") || address.is_empty() {
            return Err(SocketError::Address(text.to_owned()));
        }
        Ok(Server { address: address.to_owned() })
    }
}

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

/// One open connection.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Server {
    /// Opens a WebSocket at `path` with a machine's key.
    ///
    /// # Errors
    /// All but [`SocketError::Closed`] and [`SocketError::Dropped`].
    pub async fn connect(&self, path: &str, key: &str) -> Result<Socket, SocketError> {
        self.connect_with(path, &[("Authorization", format!("Bearer {key}"))]).await
    }

    /// Returns `HOST:PORT`.
    pub fn authority(&self) -> &str {
        self.address.split('/').next().unwrap_or_default()
    }

    /// Opens a WebSocket at `path` with these headers.
    ///
    /// # Errors
    /// As [`Server::connect`].
    pub async fn connect_with(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Socket, SocketError> {
        let bad_address = || SocketError::Address(format!("http://{}", self.address));
        let mut request =
            format!("ws://{}{path}", self.address).into_client_request().map_err(|_| bad_address())?;
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).map_err(|_| bad_address())?;
            let value = HeaderValue::from_str(value).map_err(|_| SocketError::Key)?;
            request.headers_mut().insert(name, value);
        }
        let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(0);
        let connecting = connect_async_with_config(request, Some(config), true);
        match timeout(CONNECT, connecting).await {
            Ok(Ok((stream, _))) => Ok(Socket { stream }),
            Ok(Err(error)) => Err(self.explain(error, path)),
            Err(_) => Err(self.unreachable("no answer within 10 seconds")),
        }
    }

    fn unreachable(&self, reason: &str) -> SocketError {
        SocketError::Unreachable { address: format!("http://{}", self.address), reason: reason.to_owned() }
    }

    fn explain(&self, error: tungstenite::Error, path: &str) -> SocketError {
        match error {
            tungstenite::Error::Http(response) => {
                let status = response.status().as_u16();
                let body = response.body().as_deref().unwrap_or_default();
                let path = path.split('?').next().unwrap_or(path).to_owned();
                let address = format!("http://{}", self.address);
                SocketError::Refused { address, path, status, reason: reason(status, body) }
            }
            tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.unreachable("nothing listens there; is the server running?")
            }
            // EMFILE has no stable kind: https://github.com/rust-lang/rust/issues/86442.
            tungstenite::Error::Io(error) if error.raw_os_error() == Some(24) => {
                self.unreachable("too many open files; raise the limit with `ulimit -n 8192`")
            }
            tungstenite::Error::Url(_) => SocketError::Address(format!("http://{}", self.address)),
            other => self.unreachable(&other.to_string()),
        }
    }
}

/// Returns what the server says about a refusal, or what the status means here.
fn reason(status: u16, body: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = said.as_ref().and_then(|value| value.pointer("/error/message")?.as_str());
    match (message, status) {
        (Some(message), _) => format!(", {message}"),
        (None, 401) => ", the key is missing, wrong or revoked".to_owned(),
        (None, 403) => ", the key's role may not do this".to_owned(),
        (None, _) => String::new(),
    }
}

impl Socket {
    /// Sends one message.
    ///
    /// # Errors
    /// [`SocketError::Dropped`].
    pub async fn send(&mut self, message: &impl Serialize) -> Result<(), SocketError> {
        let text = serde_json::to_string(message).map_err(|error| SocketError::Dropped(error.to_string()))?;
        self.send_text(text).await
    }

    /// Sends a text as it is.
    ///
    /// # Errors
    /// [`SocketError::Dropped`].
    pub async fn send_text(&mut self, text: String) -> Result<(), SocketError> {
        self.stream.send(Message::text(text)).await.map_err(|error| SocketError::Dropped(error.to_string()))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// [`SocketError::Dropped`].
    pub async fn send_binary(&mut self, bytes: Vec<u8>) -> Result<(), SocketError> {
        let message = Message::binary(bytes);
        self.stream.send(message).await.map_err(|error| SocketError::Dropped(error.to_string()))
    }

    /// Receives the next message; nothing when the server closed the connection in good order.
    ///
    /// # Errors
    /// [`SocketError::Dropped`], also for a message that is not what it should be.
    ///
    /// # Cancellation
    /// Safe: no message is lost.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SocketError> {
        loop {
            match self.hear().await? {
                Some(Heard::Text(text)) => {
                    let message = serde_json::from_str(&text);
                    return message.map(Some).map_err(|error| {
                        SocketError::Dropped(format!("the server sent what cannot be read: {error}"))
                    });
                }
                Some(Heard::Binary(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Receives the next message as it is; nothing when the server closed the connection in good order.
    ///
    /// # Errors
    /// [`SocketError::Dropped`] and [`SocketError::Closed`].
    ///
    /// # Cancellation
    /// Safe: no message is lost.
    pub async fn hear(&mut self) -> Result<Option<Heard>, SocketError> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Ok(Some(Heard::Text(text.to_string()))),
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(Heard::Binary(bytes.to_vec()))),
                Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) != 1000 => {
                    let (code, reason) = (u16::from(frame.code), frame.reason.to_string());
                    return Err(SocketError::Closed { code, reason });
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(SocketError::Dropped(error.to_string())),
            }
        }
    }

    /// Says goodbye, and waits for the server's; it may already be gone.
    pub async fn close(mut self) {
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let closing = async {
            // A connection that is cut before its goodbye was read may never be seen to end in good order.
            if self.stream.close(Some(normal)).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        // Nobody is left to care when the goodbye itself fails.
        let _ = timeout(CONNECT, closing).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let check = |text: &str, expected: Option<&str>| {
            let address = text.parse::<Server>().ok().map(|server| server.address);
            assert_eq!(address.as_deref(), expected, "{text}");
        };
        check("http://127.0.0.1:8080/", Some("127.0.0.1:8080"));
        check("ws://host:1/chatdlm", Some("host:1/chatdlm"));
        check("localhost:8080", Some("localhost:8080"));
        check("https://host", None);
        check("http://", None);
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let server: Server = format!("http://127.0.0.1:{port}").parse().unwrap();
        let error = server.connect("/v1/calls/ingest", "k").await.err().unwrap();
        assert!(error.to_string().ends_with("is the server running?"), "{error}");
        assert!(error.is_passing());
    }

    #[test]
    fn a_refusal_says_why() {
        assert_eq!(reason(403, br#"{"error":{"code":"x","message":"role agent"}}"#), ", role agent");
        assert_eq!(reason(401, b"<html>"), ", the key is missing, wrong or revoked");
    }
}
