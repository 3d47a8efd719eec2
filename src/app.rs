//! Wires the parts in floor order and stops them in reverse.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use anyhow::Context;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::assist::Calls;
use crate::assist::Parts;
use crate::assist::adapters::Adapters;
use crate::assist::draft::Drafter;
use crate::assist::library::Library;
use crate::assist::line::Speech;
use crate::assist::terms::Terms;
use crate::bus::Bus;
use crate::completion::Completer;
use crate::config::Config;
use crate::config::ModelConfig;
use crate::engine::handle::Engine;
use crate::monitor::emotion::EmotionReader;
use crate::server;
use crate::server::Site;
use crate::server::carriers;
use crate::speech;
use crate::speech::whisper::Recogniser;
use crate::store::Store;

/// The database's file in the data directory.
pub const DATABASE: &str = "chatdlm.sqlite";
/// How long the lines of carriers have to say their last words.
const LAST_WORDS: Duration = Duration::from_millis(2_500);
/// How long calls and sockets have to end.
const DRAIN: Duration = Duration::from_secs(4);

/// A running server. Dropping it without [`App::stop`] is what a crash would do.
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where Asterisk's AudioSocket is listened to.
    pub audiosocket: Option<SocketAddr>,
    /// The calls and all they work with.
    pub calls: Calls,
    knowledge: Library,
    server: ServerHandle,
    serving: JoinHandle<std::io::Result<()>>,
}

impl App {
    /// Starts everything on the current runtime; the pages answer when it returns. `loading` is told of
    /// each layer of the model that has been loaded, and of how many.
    ///
    /// # Errors
    /// When the data directory, the address or the model cannot be used.
    pub async fn start(
        config: Config,
        data_dir: &Path,
        loading: impl FnMut(usize, usize),
    ) -> anyhow::Result<App> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("cannot create the data directory {}", data_dir.display()))?;
        let address = &config.server.address;
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;

        let store = Store::open(&data_dir.join(DATABASE)).await.context("cannot open the database")?;
        let library = Library::open(store.clone(), data_dir).await.context("cannot open the knowledge")?;
        let Model { drafter, emotions, completer, engine } = load_model(&config.model, loading);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let terms = Terms::new(store.clone());
        let adapters =
            engine.clone().map_or_else(Adapters::default, |engine| Adapters::new(engine, data_dir));
        adapters.load_all().await;
        let parts = Parts {
            store,
            bus: Bus::default(),
            knowledge: library.knowledge().clone(),
            terms,
            searches: Arc::new(Semaphore::new(cores)),
            drafter,
            emotions,
            adapters,
            speech: load_speech(&config.speech),
            engine,
            counters: Arc::default(),
            config: config.calls,
        };
        let calls = Calls::new(parts, Handle::current());
        calls.give_up_lost().await.context("cannot read the open calls")?;
        let lines = carriers::Shared::default();
        let mut audiosocket = None;
        if let Some(address) = &config.telephony.audiosocket.address {
            let port = TcpListener::bind(address);
            let port = port.with_context(|| format!("cannot listen on {address} for AudioSocket"))?;
            audiosocket = Some(port.local_addr()?);
            tracing::info!(%address, "AudioSocket listens");
            let (calls, telephony) = (calls.clone(), config.telephony.clone());
            carriers::audiosocket::serve(port, calls, telephony, lines.clone())?;
        }
        let site = Site {
            calls: calls.clone(),
            library: library.clone(),
            completer,
            auth: config.auth,
            telephony: config.telephony,
            lines,
            config: config.server,
        };
        let server = server::serve(listener, site).context("cannot serve")?;
        let handle = server.handle();
        let serving = tokio::spawn(server);
        tracing::info!(%address, "serving");
        Ok(App { address, audiosocket, calls, knowledge: library, server: handle, serving })
    }

    /// Returns the database.
    pub fn store(&self) -> &Store {
        &self.calls.parts().store
    }

    /// Returns the knowledge, to be changed.
    pub fn knowledge(&self) -> &Library {
        &self.knowledge
    }

    /// Drains: no new calls, sockets get a going-away close, what is settled is written. Calls
    /// stay open in the log, for their senders to resume.
    ///
    /// # Errors
    /// When the server had failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        if tokio::time::timeout(LAST_WORDS, self.calls.drain()).await.is_err() {
            tracing::warn!("some carriers' lines did not end in time");
        }
        if tokio::time::timeout(DRAIN, self.calls.stop()).await.is_err() {
            tracing::warn!("some calls or sockets did not end in time");
        }
        self.server.stop(true).await;
        self.serving.await.context("the server panicked")?.context("the server failed")?;
        self.calls.parts().store.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Loads the speech model. Without one calls from audio are only measured, which is said here and in the
/// panel.
fn load_speech(config: &speech::Config) -> Speech {
    let Some(model) = &config.model else {
        tracing::warn!("no speech model (speech.model): calls from audio get no transcript");
        return Speech { recogniser: None, config: config.clone() };
    };
    let recogniser = match Recogniser::load(model, config.threads) {
        Ok(recogniser) => Some(recogniser),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(model = %model.display(), error, "no speech model: calls from audio get no transcript");
            None
        }
    };
    Speech { recogniser, config: config.clone() }
}

/// What the model gives to calls and to other programs.
struct Model {
    drafter: Drafter,
    emotions: Option<EmotionReader>,
    completer: Option<Completer>,
    engine: Option<Engine>,
}

/// Loads the model. Without one drafts fail visibly and emotions are not read; the rest goes on. A
/// checkpoint of others knows neither drafts nor emotions, and writes for other programs all the same.
fn load_model(config: &ModelConfig, loading: impl FnMut(usize, usize)) -> Model {
    let folder = config.folder();
    let started = Engine::start_watched(&folder, config.engine.clone(), loading);
    let loaded = started.map_err(anyhow::Error::from).and_then(|engine| {
        let completer = Completer::new(engine.clone())?;
        let emotions = EmotionReader::new(engine.clone());
        let drafter = Drafter::new(engine.clone());
        if let Some(error) = drafter.as_ref().err() {
            tracing::warn!(folder = %folder.display(), %error, "no drafts: the model was not trained for them");
        }
        if let Some(error) = emotions.as_ref().err() {
            tracing::warn!(folder = %folder.display(), %error, "no emotions");
        }
        let no_drafts = |_| Drafter::without_model("the model was not trained to draft answers");
        Ok(Model {
            drafter: drafter.unwrap_or_else(no_drafts),
            emotions: emotions.ok(),
            completer: Some(completer),
            engine: Some(engine),
        })
    });
    match loaded {
        Ok(model) => model,
        Err(error) => {
            tracing::error!(folder = %folder.display(), error = format!("{error:#}"), "no model: no drafts, no emotions");
            Model {
                drafter: Drafter::without_model("the model is not loaded; the server's log says why"),
                emotions: None,
                completer: None,
                engine: None,
            }
        }
    }
}
