//! What the tests of the running server share: a server on a free port, its people and its sockets.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod site;
pub mod tools;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use chatdlm::app::App;
use chatdlm::assist;
use chatdlm::assist::Calls;
use chatdlm::assist::Parts;
use chatdlm::assist::adapters::Adapters;
use chatdlm::assist::draft::Drafter;
use chatdlm::assist::terms::Terms;
use chatdlm::bus::Bus;
use chatdlm::config::Config;
use chatdlm::event::CallKey;
use chatdlm::knowledge::Knowledge;
use chatdlm::store::Store;
use chatdlm::store::identity::Role;
use futures_util::SinkExt;
use futures_util::StreamExt;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// The tenant of the tests.
pub const TENANT: &str = "test";

/// Returns the configuration of a server on a free port, without drafts.
pub fn config() -> Config {
    let mut config = Config::default();
    config.server.address = "127.0.0.1:0".to_owned();
    config.server.workers = 1;
    config.calls.drafts = false;
    config
}

/// Starts a server on the folder.
pub async fn start(folder: &Path, config: Config) -> App {
    App::start(config, folder, |_, _| {}).await.expect("the server starts")
}

/// Opens what calls work with on the folder, without a model and without a server.
pub async fn calls(folder: &Path, config: assist::Config) -> Calls {
    let store = Store::open(&folder.join("chatdlm.sqlite")).await.expect("a database");
    let parts = Parts {
        terms: Terms::new(store.clone()),
        store,
        bus: Bus::default(),
        knowledge: Knowledge::new(&folder.join("index")),
        searches: Arc::new(Semaphore::new(1)),
        drafter: Drafter::without_model("no model in this test"),
        emotions: None,
        adapters: Adapters::default(),
        speech: chatdlm::assist::line::Speech::default(),
        engine: None,
        counters: Arc::default(),
        config,
    };
    Calls::new(parts, Handle::current())
}

/// Returns a new key that feeds calls.
pub async fn ingest_key(app: &App) -> String {
    app.store().ensure_tenant(TENANT).await.expect("a tenant");
    let (_, key) = app.store().create_key(TENANT, "test", Role::Ingest).await.expect("a key");
    key.reveal().to_owned()
}

/// Returns the cookie of a new user who is signed in.
pub async fn cookie(app: &App, name: &str, role: Role) -> String {
    cookie_of(app, TENANT, name, role).await
}

/// Returns the cookie of a new user of a tenant.
pub async fn cookie_of(app: &App, tenant: &str, name: &str, role: Role) -> String {
    app.store().add_user(tenant, name, role, None).await.expect("a user");
    let lifetime = chrono::Duration::hours(1);
    let token = app.store().open_session(tenant, name, lifetime).await.expect("a session");
    format!("chatdlm_session={}", token.reveal())
}

/// A websocket of a client.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// Opens a socket with one header that says who it is.
    pub async fn connect(address: SocketAddr, path: &str, header: (&'static str, &str)) -> Client {
        Client::try_connect(address, path, header).await.expect("a websocket")
    }

    /// Opens a socket, or returns why not.
    pub async fn try_connect(
        address: SocketAddr,
        path: &str,
        header: (&'static str, &str),
    ) -> Result<Client, tungstenite::Error> {
        let url = format!("ws://{address}{path}");
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert(header.0, header.1.parse().expect("a header"));
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Client { socket })
    }

    /// Opens a socket that feeds calls.
    pub async fn ingest(app: &App, key: &str) -> Client {
        Client::feed(app.address, key).await
    }

    /// Opens a socket that feeds calls at an address.
    pub async fn feed(address: SocketAddr, key: &str) -> Client {
        Client::try_feed(address, key).await.expect("a websocket")
    }

    /// Opens a socket that feeds calls, or returns why not.
    pub async fn try_feed(address: SocketAddr, key: &str) -> Result<Client, tungstenite::Error> {
        let header = ("authorization", &*format!("Bearer {key}"));
        Client::try_connect(address, "/v1/calls/ingest", header).await
    }

    /// Opens a socket of somebody signed in.
    pub async fn watch(app: &App, path: &str, cookie: &str) -> Client {
        Client::connect(app.address, path, ("cookie", cookie)).await
    }

    /// Opens a socket of somebody signed in, or returns why not.
    pub async fn try_watch(app: &App, path: &str, cookie: &str) -> Result<Client, tungstenite::Error> {
        Client::try_connect(app.address, path, ("cookie", cookie)).await
    }

    /// Sends a text.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.expect("sent");
    }

    /// Sends JSON, unless the socket is broken.
    pub async fn try_send(&mut self, value: Value) -> Result<(), tungstenite::Error> {
        self.socket.send(Message::text(value.to_string())).await
    }

    /// Sends any message.
    pub async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.expect("sent");
    }

    /// Sends JSON.
    pub async fn send(&mut self, value: Value) {
        self.send_text(value.to_string()).await;
    }

    /// Returns the next JSON message.
    pub async fn receive(&mut self) -> Value {
        match self.next().await {
            Ok(value) => value,
            Err(close) => panic!("the socket was closed: {close:?}"),
        }
    }

    /// Returns the next JSON message, or how the socket was closed.
    pub async fn next(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Returns the next envelope of this type, and all that came before it.
    pub async fn until(&mut self, kind: &str) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let value = self.receive().await;
            if value["type"] == kind {
                return (value, before);
            }
            before.push(value);
        }
    }

    /// Returns how the socket was closed, after whatever came before.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        loop {
            if let Err(frame) = self.next().await {
                return frame;
            }
        }
    }

    /// Starts a call of the agent alice and returns `resume_after`.
    pub async fn start(&mut self, call: &str) -> u64 {
        self.send(start_message(call)).await;
        let started = self.receive().await;
        assert_eq!(started["type"], "started", "{started}");
        assert_eq!(started["call"], call);
        started["resume_after"].as_u64().expect("a number")
    }

    /// Says a final segment of the customer and waits for its acknowledgement.
    pub async fn say(&mut self, seq: u64, text: &str) {
        self.send(segment(seq, text)).await;
        assert_eq!(self.receive().await, json!({"type": "ack", "seq": seq}));
    }
}

/// Returns the key of "tenant call".
pub fn call_key(text: &str) -> CallKey {
    let (tenant, call) = text.split_once(' ').expect("a tenant and a call");
    CallKey { tenant: tenant.to_owned(), call: call.parse().expect("a call's name") }
}

/// Returns the start of a call of the agent alice.
pub fn start_message(call: &str) -> Value {
    json!({"type": "start", "call": call, "agent": "alice", "channel": "voice", "language": "en",
           "started_at": "2026-01-02T03:04:05Z"})
}

/// Returns a final segment of the customer.
pub fn segment(seq: u64, text: &str) -> Value {
    json!({"type": "segment", "seq": seq, "id": format!("s{seq}"), "speaker": "customer", "text": text,
           "start_ms": seq * 1000, "end_ms": seq * 1000 + 900, "final": true})
}
