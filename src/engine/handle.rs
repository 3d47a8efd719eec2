//! The engine's front: load a checkpoint, ask for text or scores; drop what was asked to cancel it.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TrySendError;
use std::sync::mpsc::sync_channel;

use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::engine::adapter::AdapterError;
use crate::engine::adapter::AdapterFile;
use crate::engine::config::ConfigError;
use crate::engine::config::ModelConfig;
use crate::engine::constraint::Constraint;
use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::cache::Structures;
use crate::engine::constraint::tokens::Automaton;
use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::device::DeviceError;
use crate::engine::load::Load;
use crate::engine::model::linear::Quant;
use crate::engine::model::tuned::Adapter;
use crate::engine::runner::Runner;
use crate::engine::sampler::Rule;
use crate::engine::scheduler::Claim;
use crate::engine::sequence::CacheMode;
use crate::engine::sequence::Form;
use crate::engine::sequence::Generate;
use crate::engine::sequence::Sequence;
use crate::engine::steps::StepPredictor;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::tokenizer::TokenizerError;
use crate::engine::weights::Weights;
use crate::engine::weights::WeightsError;
use crate::engine::worker;
use crate::engine::worker::Job;
use crate::engine::worker::Late;
use crate::engine::worker::Reader;

/// How the engine runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Where the model is computed.
    pub device: Device,
    /// Precision of the weights.
    pub quant: Quant,
    /// Threads; 0 for one a core.
    pub threads: usize,
    /// The most rows of one step.
    pub step_rows: usize,
    /// The most sequences that run at once.
    pub max_running: usize,
    /// The most requests that wait; one more is refused.
    pub max_waiting: usize,
    /// The longest sequence, prompt and canvas, in tokens.
    pub max_tokens: usize,
    /// The most memory for keys and values, in MiB; what is unused keeps prefixes for later.
    pub kv_cache_mib: usize,
    /// What passes keep where attention is full; block-causal models are always exact.
    pub cache: CacheMode,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            device: Device::Auto,
            quant: Quant::Q8,
            threads: 0,
            step_rows: 256,
            max_running: 64,
            max_waiting: 256,
            max_tokens: 8192,
            kv_cache_mib: 256,
            cache: CacheMode::Exact,
        }
    }
}

/// Says why the engine refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The checkpoint's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint's weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model cannot be computed where it was asked for.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The checkpoint's tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The engine's thread could not be started.
    #[error("cannot start the engine's threads: {0}")]
    Threads(String),
    /// Too much is waiting; nothing was queued.
    #[error("the model is overloaded: {0} requests wait")]
    Overloaded(usize),
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// The request is longer than the engine takes.
    #[error("{tokens} tokens asked for, the engine takes {limit}")]
    TooLong {
        /// Prompt and canvas.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// The position to score is behind the last token.
    #[error("position {position} is outside the {tokens} tokens given")]
    Position {
        /// The position.
        position: usize,
        /// How many tokens there are.
        tokens: usize,
    },
    /// The structure cannot be enforced on this canvas.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// A token id is outside the vocabulary.
    #[error("token id {0} is outside the vocabulary")]
    Token(u32),
    /// A token id is an instruction of the decoder, and no text.
    #[error("token id {0} is an instruction to the decoder, not text")]
    Instruction(u32),
    /// The deadline passed before the work began.
    #[error(transparent)]
    Late(#[from] Late),
}

/// What is to be denoised.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateRequest {
    /// Tokens that are given.
    pub prompt: Vec<u32>,
    /// What follows: frozen tokens, and `None` where the model writes.
    pub canvas: Vec<Option<u32>>,
    /// The block length; the checkpoint's own when `None`.
    pub block_length: Option<usize>,
    /// How.
    pub generate: Generate,
    /// What the canvas must become, if anything: [`Engine::structure`].
    pub constraint: Option<Arc<Automaton>>,
    /// For whom, and until when.
    pub claim: Claim,
}

/// A generation as it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The canvas, masks included.
    pub canvas: Vec<u32>,
    /// How sure the model was of each of its tokens when it settled; 1 where it was given.
    pub confidences: Vec<f32>,
    /// How many tokens of it will not change.
    pub settled: usize,
    /// Denoising passes so far.
    pub steps: u32,
    /// How many were predicted for the blocks that began, after the first pass of each.
    pub predicted_steps: u32,
    /// How many those blocks take when one token settles in each.
    pub fixed_steps: u32,
    /// Blocks that took passes, finished.
    pub blocks: u32,
    /// Tokens unmasked so far.
    pub unmasked: u32,
    /// How many positions of the prompt another sequence had computed already.
    pub reused: usize,
    /// Whether it is complete.
    pub is_done: bool,
}

/// A generation under way. Dropping it cancels the work.
#[derive(Debug)]
pub struct Generation {
    receiver: watch::Receiver<Result<Snapshot, Late>>,
    is_over: bool,
}

impl Generation {
    /// Returns the newest state since the last call, `None` after the complete one.
    ///
    /// States that nobody fetched are replaced by newer ones. Cancel-safe.
    ///
    /// # Errors
    /// When the engine stops before the generation is complete, or did not begin it by its deadline.
    pub async fn next(&mut self) -> Result<Option<Snapshot>, EngineError> {
        if self.is_over {
            return Ok(None);
        }
        self.receiver.changed().await.map_err(|_| EngineError::Stopped)?;
        let snapshot = self.receiver.borrow_and_update().clone()?;
        self.is_over = snapshot.is_done;
        Ok(Some(snapshot))
    }

    /// Returns the complete state.
    ///
    /// # Errors
    /// As [`Generation::next`].
    pub async fn finish(mut self) -> Result<Snapshot, EngineError> {
        let mut last = Snapshot::default();
        while let Some(snapshot) = self.next().await? {
            last = snapshot;
        }
        Ok(last)
    }
}

/// The engine, or one of its tuned forms. All share one thread, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    /// Whose experts this handle's requests run through; the base's when `None`.
    adapter: Option<Arc<Adapter>>,
}

#[derive(Debug)]
struct Shared {
    jobs: SyncSender<Job>,
    config: EngineConfig,
    model: ModelConfig,
    predictor: StepPredictor,
    load: Arc<Load>,
    /// Positions that the cache has room for.
    capacity: usize,
    tokenizer: Tokenizer,
    structures: Structures,
    folder: PathBuf,
    /// What tells the loaded weights from others.
    fingerprint: String,
    weight_bytes: usize,
    /// What computes, where it takes no adapters.
    without_adapters: Option<String>,
}

impl Engine {
    /// Loads the checkpoint in `folder` and starts the engine's thread.
    ///
    /// # Errors
    /// When the checkpoint is missing or unusable.
    ///
    /// # Blocking
    /// As long as reading and packing the weights takes.
    pub fn start(folder: &Path, config: EngineConfig) -> Result<Engine, EngineError> {
        Engine::start_watched(folder, config, |_, _| {})
    }

    /// [`Engine::start`] that tells `progress` of each layer that has been loaded, and of how many.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_watched(
        folder: &Path,
        config: EngineConfig,
        progress: impl FnMut(usize, usize),
    ) -> Result<Engine, EngineError> {
        let model_config = ModelConfig::read(folder)?;
        let predictor = StepPredictor::read(folder)?;
        let tokenizer = Tokenizer::read(folder)?;
        let weights = Weights::open(folder)?;
        let fingerprint = weights.fingerprint();
        let backend = device::load(config.device, model_config.clone(), &weights, config.quant, progress)?;
        let weight_bytes = backend.weight_bytes();
        let without_adapters = (!backend.takes_adapters()).then(|| backend.device());
        // The thread empties the channel at each step; how many wait in both is counted, and one more
        // is refused.
        let (jobs, receiver) = sync_channel(config.max_waiting.max(1));
        let load = Arc::new(Load::default());
        let runner = Runner::new(backend, config.kv_cache_mib << 20);
        let capacity = runner.capacity();
        worker::spawn(runner, receiver, config.clone(), Arc::clone(&load))
            .map_err(|error| EngineError::Threads(error.to_string()))?;
        let folder = folder.to_owned();
        let (model, structures) = (model_config, Structures::default());
        let shared = Shared {
            jobs,
            config,
            model,
            predictor,
            load,
            capacity,
            tokenizer,
            structures,
            folder,
            fingerprint,
            weight_bytes,
            without_adapters,
        };
        Ok(Engine { shared: Arc::new(shared), adapter: None })
    }

    /// Loads an adapter and returns a handle whose requests run through its experts, among all others'
    /// requests. The adapter's memory is free when the last such handle and its requests are gone.
    ///
    /// # Errors
    /// When the file is no adapter, was tuned on another base, or does not fit the model.
    ///
    /// # Blocking
    /// As long as reading and packing the changed experts takes.
    pub fn tuned(&self, path: &Path) -> Result<Engine, AdapterError> {
        let Shared { model, config, folder, fingerprint, load, without_adapters, .. } = &*self.shared;
        if let Some(device) = without_adapters {
            return Err(AdapterError::OnGpu { device: device.clone() });
        }
        let file = AdapterFile::read(path)?;
        file.check_base(fingerprint)?;
        let weights = Weights::open(folder)?;
        if weights.fingerprint() != *fingerprint {
            return Err(AdapterError::BaseChanged { folder: folder.clone() });
        }
        let adapter = Adapter::new(model, &weights, config.quant, &file, Arc::clone(load))?;
        Ok(Engine { shared: Arc::clone(&self.shared), adapter: Some(Arc::new(adapter)) })
    }

    /// Returns the adapter of a handle that was tuned.
    pub fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.adapter.as_ref()
    }

    /// Returns the model's shapes.
    pub fn model(&self) -> &ModelConfig {
        &self.shared.model
    }

    /// Returns how the engine runs.
    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// Returns a structure over the model's vocabulary; compiled once for all who ask for it.
    ///
    /// # Errors
    /// When it has an error, asks for what cannot be enforced, or is too large.
    ///
    /// # Blocking
    /// Milliseconds when it is new; up to seconds near the limits and for large vocabularies.
    pub fn structure(&self, constraint: &Constraint) -> Result<Arc<Automaton>, ConstraintError> {
        self.shared.structures.compile(constraint, &self.shared.tokenizer)
    }

    /// Returns the checkpoint's folder.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Returns what the engine has to do and has done.
    pub fn load(&self) -> &Load {
        &self.shared.load
    }

    /// Returns how many bytes the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.shared.weight_bytes
    }

    /// Starts denoising.
    ///
    /// # Errors
    /// At once when the engine is overloaded or stopped, or the request is too long.
    pub fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        let model = &self.shared.model;
        let given = request.prompt.iter().chain(request.canvas.iter().flatten());
        let block = request.block_length.unwrap_or_else(|| model.block_length()).max(1);
        self.check(request.prompt.len() + request.canvas.len(), block, given)?;
        let form = Form { block, cache: self.shared.config.cache, ..Form::of(model) };
        let mut generate = request.generate;
        // A mask that settles as a mask would never be done.
        generate.banned.push(model.mask_token_id);
        generate.rule = match generate.rule {
            // What must keep to a structure may not move.
            Rule::Levenshtein(rule) if request.constraint.is_some() => rule.without_instructions(),
            rule => rule,
        };
        if !matches!(generate.rule, Rule::Levenshtein(_)) {
            generate.banned.extend(model.instructions());
        }
        let mut sequence = Sequence::generate(&request.prompt, &request.canvas, form, generate);
        sequence.predictor = self.shared.predictor;
        if let Some(constraint) = &request.constraint {
            sequence.enforce(constraint, model.vocab_size)?;
        }
        let (sender, receiver) = watch::channel(Ok(Snapshot::default()));
        let adapter = self.adapter.clone();
        self.send(Job { sequence, adapter, claim: request.claim, reader: Reader::Generate(sender) })?;
        Ok(Generation { receiver, is_over: false })
    }

    /// Returns the probabilities of `labels` among themselves at the masked position of `tokens`.
    ///
    /// # Errors
    /// When the engine is overloaded or stopped, the request is too long, or the deadline of its claim
    /// passed before it began.
    ///
    /// # Cancellation
    /// Dropping the future drops the work.
    pub async fn score(
        &self,
        tokens: &[u32],
        position: usize,
        labels: Vec<u32>,
        claim: Claim,
    ) -> Result<Vec<f32>, EngineError> {
        let model = &self.shared.model;
        self.check(tokens.len(), model.block_length(), tokens.iter().chain(&labels))?;
        if position >= tokens.len() {
            return Err(EngineError::Position { position, tokens: tokens.len() });
        }
        let sequence = Sequence::score(tokens, position, Form::of(model));
        let (sender, receiver) = oneshot::channel();
        let adapter = self.adapter.clone();
        self.send(Job { sequence, adapter, claim, reader: Reader::Score(labels, sender) })?;
        Ok(receiver.await.map_err(|_| EngineError::Stopped)??)
    }

    fn check<'a>(
        &self,
        tokens: usize,
        block: usize,
        ids: impl Iterator<Item = &'a u32>,
    ) -> Result<(), EngineError> {
        let limit = self.shared.config.max_tokens.min(self.shared.model.max_position_embeddings);
        // Sequences are laid out in whole blocks.
        let limit = limit.min(self.shared.capacity.saturating_sub(block - 1));
        if tokens == 0 || tokens > limit {
            return Err(EngineError::TooLong { tokens, limit });
        }
        let instructions = self.shared.model.instructions();
        for id in ids.copied() {
            if id as usize >= self.shared.model.vocab_size {
                return Err(EngineError::Token(id));
            }
            if instructions.contains(&id) {
                return Err(EngineError::Instruction(id));
            }
        }
        Ok(())
    }

    fn send(&self, job: Job) -> Result<(), EngineError> {
        let Shared { jobs, config, load, .. } = &*self.shared;
        // Counted before it is sent: the thread may take it at once.
        let is_full = load.waiting.fetch_add(1, Relaxed) >= config.max_waiting.max(1);
        let sent = if is_full { Err(TrySendError::Full(job)) } else { jobs.try_send(job) };
        sent.map_err(|error| {
            load.waiting.fetch_sub(1, Relaxed);
            match error {
                TrySendError::Full(_) => EngineError::Overloaded(config.max_waiting),
                TrySendError::Disconnected(_) => EngineError::Stopped,
            }
        })
    }
}
