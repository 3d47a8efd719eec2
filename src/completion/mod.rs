//! Text in, text out, for programs and the terminal: conversations, prompts and texts with holes, to
//! the engine's canvas and back.
//!
//! In reading order: [`chat`] (a conversation to token ids), [`tools`] (calls in what was written),
//! [`canvas`] (what stands, what the model writes, and how that reads), [`placing`] (what must stand in
//! what it writes), [`forbid`] (what may not), [`writing`] (a text on its way). It knows nothing of calls; drafts of
//! the assistant are made in `assist`.

pub mod canvas;
pub mod chat;
pub mod forbid;
pub mod placing;
pub mod tools;
pub mod writing;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use tokio::sync::Semaphore;

use crate::completion::canvas::Canvas;
use crate::completion::canvas::Part;
use crate::completion::canvas::Reading;
use crate::completion::chat::ChatForm;
use crate::completion::chat::Prompt;
use crate::completion::forbid::Forbid;
use crate::completion::writing::Writing;
use crate::engine::config::EditTokens;
use crate::engine::constraint::tokens::Automaton;
use crate::engine::handle::Engine;
use crate::engine::handle::EngineError;
use crate::engine::handle::GenerateRequest;
use crate::engine::handle::Generation;
use crate::engine::levenshtein::Levenshtein;
use crate::engine::sampler::Rule;
use crate::engine::sampling::Sampling;
use crate::engine::scheduler::Claim;
use crate::engine::sequence::Form;
use crate::engine::sequence::Generate;
use crate::engine::template::Message;
use crate::engine::template::TemplateError;
use crate::engine::tokenizer::TokenizerError;
use crate::prompt::Control;

/// How sure a token must be to settle early when a request does not say.
const THRESHOLD: f32 = 0.9;
/// The threshold that a deadline leaves at least when a request does not say.
const LEAST_THRESHOLD: f32 = 0.5;
/// Passes after nothing is masked that may still replace tokens when a request does not say.
const EDIT_STEPS: usize = 16;
/// Names under which published vocabularies end a turn; texts end there too.
const TURN_ENDS: [&str; 3] = ["<|role_end|>", "<|im_end|>", "<|eot_id|>"];

/// Says why a text cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CompletionError {
    /// The chat template is damaged or refuses the conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The checkpoint has neither a chat template nor the tokens of a conversation's turns.
    #[error("the model has no chat template: ask for a completion instead")]
    NoTemplate,
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The engine refused or stopped.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// As many texts as may be are being written; nothing was queued.
    #[error("the model is overloaded: {0} texts are being written")]
    Busy(usize),
    /// A text that must stand in what is written takes more tokens than any hole has.
    #[error("no open part has room for {text:?}, which takes {needed} tokens")]
    NoRoom {
        /// The text.
        text: String,
        /// The tokens it takes.
        needed: usize,
    },
    /// A text that must stand there holds one that may not.
    #[error("{included:?} must be included and holds {forbidden:?}, which is forbidden")]
    Contradiction {
        /// What must stand there.
        included: String,
        /// What may not.
        forbidden: String,
    },
    /// Whatever was written held it.
    #[error("no wording without {0:?} was found")]
    Forbidden(String),
}

/// How a text is written. The default is greedy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Tokens denoised together; the checkpoint's own when `None`.
    pub block_length: Option<usize>,
    /// The most passes of a block; one a token when `None`. With an edit threshold: the most passes
    /// after nothing is masked.
    pub max_steps: Option<usize>,
    /// The fewest passes of a block that has as many masks.
    pub min_steps: usize,
    /// The least confidence that settles a token early.
    pub threshold: Option<f32>,
    /// The least confidence that replaces a settled token of the block; never replaced when `None`.
    pub edit_threshold: Option<f32>,
    /// How far the threshold is lowered at most when the deadline of the claim would be missed.
    pub min_threshold: Option<f32>,
    /// For whom the text is written, and until when it must have begun.
    pub claim: Claim,
    /// How tokens are drawn; the likeliest when `None`.
    pub sampling: Option<Sampling>,
    /// Texts that end the text before them.
    pub stop: Vec<String>,
    /// What the text must be.
    pub constraint: Option<Arc<Automaton>>,
    /// What may not stand in what is written: [`Completer::forbid`].
    pub forbid: Arc<Forbid>,
}

impl Options {
    /// Returns the rule for blocks of this length, with the instructions that the model has.
    fn rule(&self, block: usize, instructions: Option<EditTokens>) -> Rule {
        let threshold = self.threshold.unwrap_or(THRESHOLD);
        let Some(editing_threshold) = self.edit_threshold else {
            return Rule::Threshold { threshold, steps: self.max_steps.unwrap_or(block) };
        };
        let max_post_steps = self.max_steps.unwrap_or(EDIT_STEPS);
        match instructions {
            Some(EditTokens { delete, insert }) => Rule::Levenshtein(Levenshtein {
                threshold,
                editing_threshold,
                steps: block,
                max_post_steps,
                delete,
                insert,
            }),
            None => Rule::ThresholdEdit { threshold, editing_threshold, max_post_steps },
        }
    }

    /// Returns how candidate `index` is written: each draws other numbers.
    pub fn drawn(&self, index: u64) -> Options {
        let mut options = self.clone();
        if let Some(sampling) = &mut options.sampling {
            sampling.seed = sampling.seed.wrapping_add(index);
        }
        options
    }

    /// Returns how far the threshold may be lowered: only for a deadline.
    fn least_threshold(&self) -> Option<f32> {
        self.claim.deadline.map(|_| self.min_threshold.unwrap_or(LEAST_THRESHOLD))
    }
}

/// The engine with what every text needs of its vocabulary. Clones share it.
#[derive(Debug, Clone)]
pub struct Completer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    name: String,
    created: u64,
    form: ChatForm,
    /// Never written: the controls of this project's own checkpoints. Masks the engine itself forbids.
    banned: Vec<u32>,
    /// Each of these ends a text.
    ends: Vec<u32>,
    /// How many texts may be written at once. Overflow rule: one more is refused.
    places: Arc<Semaphore>,
    most: usize,
    done: AtomicU64,
    cancelled: AtomicU64,
}

impl Completer {
    /// Reads what the checkpoint says about texts: its chat template and what ends one.
    ///
    /// # Errors
    /// When one of its files is damaged.
    ///
    /// # Blocking
    /// Reads small files.
    pub fn new(engine: Engine) -> Result<Completer, CompletionError> {
        let (model, tokenizer) = (engine.model(), engine.tokenizer());
        let form = ChatForm::read(engine.folder(), tokenizer)?;
        let mut banned = Vec::new();
        for control in Control::ALL.into_iter().filter(|c| *c != Control::End && *c != Control::Pad) {
            banned.extend(tokenizer.control(control.token()).ok());
        }
        let mut ends = vec![model.eos_token_id, model.pad_token_id];
        ends.extend(chat::ends(engine.folder())?);
        ends.extend(TURN_ENDS.iter().filter_map(|name| tokenizer.control(name).ok()));
        let name = engine.folder().canonicalize().ok();
        let name = name.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
        let name = name.map_or_else(|| "model".to_owned(), |name| name.into_owned());
        let written = std::fs::metadata(engine.folder().join("config.json")).and_then(|file| file.modified());
        let created = written.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let created = created.map_or(0, |since| since.as_secs());
        // Half of what may wait is left to calls.
        let most = engine.config().max_running + engine.config().max_waiting / 2;
        let places = Arc::new(Semaphore::new(most));
        let (done, cancelled) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Shared { engine, name, created, form, banned, ends, places, most, done, cancelled };
        Ok(Completer { shared: Arc::new(shared) })
    }

    /// Returns the model's name: that of its folder.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Returns when the model's files were written, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.shared.created
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// Returns the most tokens of prompt and text together.
    pub fn token_limit(&self) -> usize {
        let engine = &self.shared.engine;
        engine.config().max_tokens.min(engine.model().max_position_embeddings)
    }

    /// Returns how many texts are being written.
    pub fn running(&self) -> usize {
        self.shared.most - self.shared.places.available_permits()
    }

    /// Returns how many texts were completed.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Relaxed)
    }

    /// Returns how many texts were dropped before they were complete.
    pub fn cancelled(&self) -> u64 {
        self.shared.cancelled.load(Relaxed)
    }

    /// Returns how many tokens a text has.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn count(&self, text: &str) -> Result<usize, CompletionError> {
        let mut ids = Vec::new();
        self.shared.engine.tokenizer().encode(text, &mut ids)?;
        Ok(ids.len())
    }

    /// Returns whether the checkpoint brings a chat template.
    pub fn has_template(&self) -> bool {
        matches!(self.shared.form, ChatForm::Template(_))
    }

    /// Returns whether tools can be offered and their answers told.
    pub fn knows_tools(&self) -> bool {
        self.shared.form.knows_tools()
    }

    /// Returns the prompt that a conversation's next answer follows, which may call tools.
    ///
    /// # Errors
    /// When the model has no form for conversations, or its template refuses this one.
    pub fn conversation(&self, messages: &[Message], tools: &[Value]) -> Result<Prompt, CompletionError> {
        self.shared.form.prompt(messages, tools, self.shared.engine.tokenizer())
    }

    /// Lays out a prompt and the parts of the text after it.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn canvas(
        &self,
        prompt: &Prompt,
        parts: &[Part],
        options: &Options,
    ) -> Result<Canvas, CompletionError> {
        let model = self.shared.engine.model();
        let block = options.block_length.unwrap_or_else(|| model.block_length());
        let form = Form { block, ..Form::of(model) };
        Ok(Canvas::new(prompt, parts, self.shared.engine.tokenizer(), form)?)
    }

    /// Starts writing what is open in a canvas.
    ///
    /// # Errors
    /// At once when too much is being written, or the canvas is longer than the engine takes.
    pub fn write(&self, canvas: Canvas, options: &Options) -> Result<Writing, CompletionError> {
        let shared = &self.shared;
        let place = Arc::clone(&shared.places).try_acquire_owned();
        let place = place.map_err(|_| CompletionError::Busy(shared.most))?;
        let generation = self.generate(&canvas, options, Vec::new())?;
        Ok(Writing::new(self.clone(), generation, canvas, options.clone(), place))
    }

    /// Asks the engine for what is open in a canvas, without some tokens at some positions.
    fn generate(
        &self,
        canvas: &Canvas,
        options: &Options,
        banned_at: Vec<(usize, u32)>,
    ) -> Result<Generation, CompletionError> {
        let shared = &self.shared;
        let generate = Generate {
            rule: options.rule(canvas.form.block, shared.engine.model().edits),
            banned: [shared.banned.as_slice(), &options.forbid.tokens].concat(),
            banned_at,
            stops_at_end: canvas.is_open_ended(),
            stops_in_block: canvas.is_open_ended(),
            sampling: options.sampling,
            min_passes: options.min_steps,
            least_threshold: options.least_threshold(),
        };
        let request = GenerateRequest {
            prompt: canvas.prompt.clone(),
            canvas: canvas.tokens.clone(),
            block_length: Some(canvas.form.block),
            generate,
            constraint: options.constraint.clone(),
            claim: options.claim,
        };
        Ok(shared.engine.generate(request)?)
    }

    /// Returns what is needed to read what the engine wrote.
    fn reading<'a>(&'a self, stop: &'a [String]) -> Reading<'a> {
        let Shared { engine, ends, .. } = &*self.shared;
        Reading { tokenizer: engine.tokenizer(), mask: engine.model().mask_token_id, ends, stop }
    }
}
