//! One draft on its way: canvas, rounds of denoising, and the check of what the model wrote.
//!
//! What the model wrote is read against transcript and cards: a stretch that claims what they do not
//! say is denoised again with the offending token forbidden, and in the end left out. So is a stretch
//! that the model is not sure of.

use std::sync::Arc;

use crate::assist::canvas::Canvas;
use crate::assist::canvas::Part;
use crate::assist::draft::DraftRequest;
use crate::assist::draft::DraftUpdate;
use crate::assist::draft::EditRequest;
use crate::assist::ground::Sources;
use crate::assist::quote;
use crate::assist::rewrite::Rewrite;
use crate::engine::config::Drafting;
use crate::engine::handle::Engine;
use crate::engine::handle::EngineError;
use crate::engine::handle::GenerateRequest;
use crate::engine::handle::Generation;
use crate::engine::handle::Snapshot;
use crate::engine::sampler::Rule;
use crate::engine::scheduler::Claim;
use crate::engine::sequence::Generate;
use crate::engine::tokenizer::MASK_CHAR;
use crate::engine::tokenizer::TokenizerError;
use crate::event::DraftState;
use crate::prompt;
use crate::prompt::Control;

/// Tokens that the model writes before the first quote.
const LEAD_TOKENS: usize = 9;
/// Tokens that the model may write after the last quote.
const CLOSE_TOKENS: usize = 12;
/// Tokens of an answer that rests on no card.
const PLAIN_TOKENS: usize = 22;
/// Tokens of a free answer.
const FREE_TOKENS: usize = 56;
/// How often a stretch that claims too much is written again.
const MOST_ROUNDS: usize = 3;
/// How sure the model must be of a stretch, in the geometric mean of its tokens, to show it.
const LEAST_SURE: f32 = 0.6;
/// How sure a token of a draft must be to settle early, and the most passes of a block.
const RULE: Rule = Rule::Threshold { threshold: 0.7, steps: 12 };

/// Says why a draft cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// The model is not loaded.
    #[error("{0}")]
    NoModel(String),
    /// The engine refused or stopped.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The vocabulary does not do.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Nothing was left that may be shown.
    #[error("no card answers this, and the model is not sure of its own words")]
    Nothing,
    /// Every round of a rewrite claimed or said what it may not.
    #[error("no other wording was found that keeps to transcript, cards and the forbidden words")]
    NoWording,
}

/// The engine with what every draft needs of its vocabulary.
#[derive(Debug)]
pub struct Writer {
    engine: Engine,
    drafting: Drafting,
    /// Controls, and every token with a digit: the model writes no figures.
    banned: Vec<u32>,
    mask: u32,
    end: u32,
    pad: u32,
}

impl Writer {
    /// Looks up the tokens that drafts need.
    pub fn new(engine: Engine, drafting: Drafting) -> Result<Writer, TokenizerError> {
        let tokenizer = engine.tokenizer();
        let mut banned = Vec::new();
        for control in Control::ALL.into_iter().filter(|c| *c != Control::End && *c != Control::Pad) {
            // A vocabulary that has no such token cannot write it.
            banned.extend(tokenizer.control(control.token()).ok());
        }
        for id in 0..engine.model().vocab_size as u32 {
            if tokenizer.spelling(id).is_some_and(|s| s.chars().any(|c| c.is_ascii_digit())) {
                banned.push(id);
            }
        }
        Ok(Writer {
            banned,
            mask: tokenizer.control(Control::Mask.token())?,
            end: tokenizer.control(Control::End.token())?,
            pad: tokenizer.control(Control::Pad.token())?,
            drafting,
            engine,
        })
    }

    /// Returns the same with another form of the same model.
    pub fn with_engine(&self, engine: &Engine) -> Writer {
        Writer { engine: engine.clone(), banned: self.banned.clone(), ..*self }
    }

    /// Starts a whole draft.
    pub fn draft(self: &Arc<Self>, mut request: DraftRequest) -> Result<Writing, DraftError> {
        let quotes = match self.drafting {
            Drafting::Quote => quote::quotes(&request.cards, &request.turns, request.instruction.as_deref()),
            Drafting::Free => Vec::new(),
        };
        let open = |tokens| Part::Open { tokens, is_spaced: true };
        let mut parts = Vec::new();
        if quotes.is_empty() {
            let rests_on_cards = self.drafting == Drafting::Free && !request.cards.is_empty();
            parts.push(open(if rests_on_cards { FREE_TOKENS } else { PLAIN_TOKENS }));
        } else {
            parts.push(open(LEAD_TOKENS));
            for (i, quote) in quotes.iter().enumerate() {
                parts.push(Part::Fixed { text: format!(" {}", quote.text), is_quote: true });
                // What was an item of a list there is none here.
                if !quote.has_end() {
                    let end = if i + 1 < quotes.len() { ";" } else { "." };
                    parts.push(Part::Fixed { text: end.to_owned(), is_quote: false });
                }
            }
            parts.push(open(CLOSE_TOKENS));
        }
        let mut cards: Vec<String> = quotes.iter().map(|q| q.card.clone()).collect();
        cards.dedup();
        if !quotes.is_empty() {
            // What is not quoted of them only takes room.
            request.cards.retain(|card| cards.contains(&card.id));
        }
        Writing::start(self, &request, parts, cards, Vec::new(), true)
    }

    /// Starts a rewrite of some spans.
    pub fn edit(self: &Arc<Self>, request: &EditRequest) -> Result<Writing, DraftError> {
        let rewrite = Rewrite::new(request, self.engine.tokenizer())?;
        let cards = request.context.cards.iter().map(|c| c.id.clone()).collect();
        let mut writing = Writing::start(self, &request.context, rewrite.parts, cards, rewrite.old, false)?;
        writing.forbidden =
            request.forbid.iter().map(|f| f.to_lowercase()).filter(|f| !f.is_empty()).collect();
        Ok(writing)
    }

    /// Returns whether the model can be trusted with a word: a small one makes words up from pieces.
    fn knows(&self, word: &str) -> bool {
        let mut ids = Vec::new();
        let encoded = self.engine.tokenizer().encode(&format!(" {word}"), &mut ids);
        self.drafting == Drafting::Free || encoded.is_ok() && ids.len() == 1
    }
}

/// A draft on its way through one or more rounds of denoising.
#[derive(Debug)]
pub struct Writing {
    writer: Arc<Writer>,
    asked: Asked,
    sources: Sources,
    cards: Vec<String>,
    forbidden: Vec<String>,
    round: usize,
    generation: Generation,
    steps_before: u32,
    tokens_before: u32,
}

impl Writing {
    fn start(
        writer: &Arc<Writer>,
        request: &DraftRequest,
        parts: Vec<Part>,
        cards: Vec<String>,
        banned_first: Vec<Vec<u32>>,
        is_whole_draft: bool,
    ) -> Result<Writing, DraftError> {
        let tokenizer = writer.engine.tokenizer();
        let wish = request.instruction.as_deref().map(|wish| (prompt::INSTRUCTION_TITLE, wish));
        let passages = request.cards.iter().map(|c| (c.title.as_str(), c.passage.as_str()));
        let passages: Vec<(&str, &str)> = passages.chain(wish).collect();
        let prompt = prompt::encode(&prompt::reply(&passages, &request.turns), tokenizer)?;
        let canvas = Canvas::new(parts, tokenizer)?;
        let fixed = canvas.parts.iter().filter_map(|(part, _)| match part {
            Part::Fixed { text, .. } => Some(text.as_str()),
            Part::Open { .. } => None,
        });
        let said = request.turns.iter().map(|t| t.text.as_str());
        let known = passages.iter().flat_map(|(title, passage)| [*title, *passage]);
        let sources = Sources::new(said.chain(known).chain(fixed));
        let tokens = canvas.tokens.clone();
        let firsts = canvas.open().map(|range| range.start).zip(&banned_first);
        let banned_at: Vec<(usize, u32)> =
            firsts.flat_map(|(at, ids)| ids.iter().map(move |id| (at, *id))).collect();
        let asked = Asked { prompt, canvas, banned_at, is_whole_draft, claim: request.claim };
        let generation = asked.denoise(writer, tokens)?;
        Ok(Writing {
            writer: Arc::clone(writer),
            asked,
            sources,
            cards,
            forbidden: Vec::new(),
            round: 1,
            generation,
            steps_before: 0,
            tokens_before: 0,
        })
    }

    /// Returns the next update; it is complete when its state is done. Cancel-safe.
    pub async fn advance(&mut self) -> Result<DraftUpdate, DraftError> {
        loop {
            let Some(mut snapshot) = self.generation.next().await? else {
                return Err(EngineError::Stopped.into());
            };
            // The engine's canvas is longer: it was filled up to a whole block.
            snapshot.canvas.truncate(self.asked.canvas.tokens.len());
            if !snapshot.is_done {
                return Ok(self.update(&snapshot.canvas, &snapshot, false));
            }
            // What a draft that ended early left masked is not part of it.
            for id in snapshot.canvas.iter_mut().filter(|id| **id == self.writer.mask) {
                *id = self.writer.end;
            }
            if let Some(ids) = self.check(&snapshot)? {
                let update = self.update(&ids, &snapshot, true);
                if update.text.is_empty() {
                    return Err(DraftError::Nothing);
                }
                debug_assert!(!update.text.contains(MASK_CHAR), "a finished draft has no masks");
                return Ok(update);
            }
        }
    }

    /// Reads a finished canvas; starts another round for what claims too much, `None` when nothing does.
    fn check(&mut self, snapshot: &Snapshot) -> Result<Option<Vec<u32>>, DraftError> {
        let writer = Arc::clone(&self.writer);
        let tokenizer = writer.engine.tokenizer();
        let mut again: Vec<Option<u32>> = snapshot.canvas.iter().map(|id| Some(*id)).collect();
        let mut ids = snapshot.canvas.clone();
        let mut is_clean = true;
        for range in self.asked.canvas.open() {
            let mine = &snapshot.canvas[range.clone()];
            let text = tokenizer.decode_masked(mine, writer.mask, &[writer.end]);
            let confidences = snapshot.confidences.get(range.clone()).unwrap_or(&[]);
            if self.asked.is_whole_draft && sureness(mine, confidences, writer.end) < LEAST_SURE {
                // Padding gives no text, and does not end the canvas as an end of text would.
                ids[range.clone()].fill(writer.pad);
                again[range].fill(Some(writer.pad));
                continue;
            }
            let lower = text.to_lowercase();
            let forbidden =
                self.forbidden.iter().filter_map(|f| lower.find(f.as_str()).map(|at| at..at + f.len()));
            let bad: Vec<_> = self
                .sources
                .unsupported(&text, |word| writer.knows(word))
                .into_iter()
                .chain(forbidden)
                .collect();
            if bad.is_empty() {
                continue;
            }
            is_clean = false;
            for stretch in bad {
                // The token in which the stretch's first character stands.
                let at = (1..=mine.len()).find(|n| tokenizer.decode(&mine[..*n]).len() > stretch.start);
                if let Some(at) = at {
                    self.asked.banned_at.push((range.start + at - 1, mine[at - 1]));
                }
            }
            again[range.clone()].fill(None);
            // What is left out if no round is left: the whole stretch.
            ids[range].fill(writer.pad);
        }
        if is_clean {
            return Ok(Some(ids));
        }
        if self.round >= MOST_ROUNDS {
            return if self.asked.is_whole_draft { Ok(Some(ids)) } else { Err(DraftError::NoWording) };
        }
        self.round += 1;
        self.steps_before += snapshot.steps;
        self.tokens_before += snapshot.unmasked;
        self.generation = self.asked.denoise(&writer, again)?;
        Ok(None)
    }

    fn update(&self, ids: &[u32], snapshot: &Snapshot, is_done: bool) -> DraftUpdate {
        let writer = &self.writer;
        let settled = if is_done {
            ids.len()
        } else if self.round == 1 {
            snapshot.settled
        } else {
            0
        };
        let rendered =
            self.asked.canvas.render(ids, settled, writer.engine.tokenizer(), writer.mask, writer.end);
        DraftUpdate {
            text: if is_done { rendered.text.trim_end().to_owned() } else { rendered.text },
            tentative_text: (!is_done).then_some(rendered.tentative),
            quotes: rendered.quotes,
            cards: self.cards.clone(),
            state: if is_done { DraftState::Done } else { DraftState::Writing },
            steps: self.steps_before + snapshot.steps,
            tokens: self.tokens_before + snapshot.unmasked,
            error: None,
        }
    }
}

/// Returns the geometric mean of the confidences of the tokens before the end of text.
fn sureness(ids: &[u32], confidences: &[f32], end: u32) -> f32 {
    let length = ids.iter().position(|id| *id == end).unwrap_or(ids.len()).min(confidences.len());
    let logs: f32 = confidences[..length].iter().map(|c| c.max(1e-9).ln()).sum();
    (logs / length.max(1) as f32).exp()
}

/// What the engine is asked for, round after round.
#[derive(Debug)]
struct Asked {
    prompt: Vec<u32>,
    canvas: Canvas,
    /// (position in the canvas, token) that may not stand there.
    banned_at: Vec<(usize, u32)>,
    /// Whether the last open part may end early, and open parts may be left out.
    is_whole_draft: bool,
    claim: Claim,
}

impl Asked {
    /// Asks the engine to denoise what is `None` in `tokens`.
    fn denoise(&self, writer: &Writer, mut tokens: Vec<Option<u32>>) -> Result<Generation, DraftError> {
        let open: Vec<_> = self.canvas.open().collect();
        let mut banned: Vec<(usize, u32)> =
            self.banned_at.iter().map(|(at, id)| (self.prompt.len() + at, *id)).collect();
        for (i, range) in open.iter().enumerate() {
            let is_last = i + 1 == open.len() && range.end == tokens.len();
            if !(self.is_whole_draft && is_last) {
                let at = range.clone().flat_map(|at| {
                    [(self.prompt.len() + at, writer.end), (self.prompt.len() + at, writer.pad)]
                });
                banned.extend(at);
            }
        }
        // The rest of the last block is padding: nobody reads it, so nobody waits for it.
        let block = writer.engine.model().block_length();
        let whole = (self.prompt.len() + tokens.len()).next_multiple_of(block) - self.prompt.len();
        let may_still_end = self.is_whole_draft && open.last().is_some_and(|r| r.end == tokens.len());
        for i in tokens.len()..whole {
            tokens.push(Some(if i == self.canvas.tokens.len() && !may_still_end {
                writer.end
            } else {
                writer.pad
            }));
        }
        let generate = Generate {
            rule: RULE,
            banned: writer.banned.clone(),
            banned_at: banned,
            stops_at_end: self.is_whole_draft,
            stops_in_block: self.is_whole_draft,
            ..Generate::default()
        };
        let request = GenerateRequest {
            prompt: self.prompt.clone(),
            canvas: tokens,
            block_length: None,
            generate,
            constraint: None,
            claim: self.claim,
        };
        Ok(writer.engine.generate(request)?)
    }
}
