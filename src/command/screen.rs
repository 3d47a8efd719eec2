//! What `generate`, `infill` and `chat` share: the model with its options, and a text that settles
//! before one's eyes.
//!
//! On a terminal the text is drawn in place: what is settled stands, what may still change is dim,
//! what is masked is `░`. Lines that cannot change any more are left behind, so a long text scrolls.
//! Elsewhere each step is a line, and the text follows.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use console::Term;
use serde_json::Value;
use serde_json::json;
use tokio::sync::mpsc;

use crate::command::loading;
use crate::completion::Completer;
use crate::completion::CompletionError;
use crate::completion::Options;
use crate::completion::canvas::Written;
use crate::completion::writing::Update;
use crate::completion::writing::Writing;
use crate::config::ModelConfig;
use crate::engine::handle::Engine;
use crate::engine::sampling::Sampling;
use crate::engine::tokenizer::MASK_CHAR;

/// How many steps may wait to be drawn. Overflow rule: the engine's states are not fetched, newer
/// ones replace them.
const FRAMES: usize = 1024;
/// The narrowest terminal that is drawn on.
const NARROWEST: usize = 20;

/// Which model writes, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// The checkpoint's folder; the bundled model when missing.
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    /// A tuned form of the model, made by `chatdlm train --tune`.
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    adapter: Option<PathBuf>,
    /// Tokens denoised together; the checkpoint's own when missing.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=512), help_heading = "Model")]
    block_length: Option<u16>,
    /// The most passes over a block; one a token when missing.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=512), help_heading = "Model")]
    steps: Option<u16>,
    /// How sure a token must be to settle early, 0 to 1 [default: 0.9].
    #[arg(long, value_parser = share, help_heading = "Model")]
    threshold: Option<f32>,
    /// How sure another token must be to replace a settled one of the block, 0 to 1; none is when missing.
    #[arg(long, value_parser = share, help_heading = "Model")]
    edit_threshold: Option<f32>,
    /// Above 0 tokens are drawn by chance, the more evenly the higher; 2 at most.
    #[arg(long, default_value_t = 0.0, value_parser = temperature, help_heading = "Model")]
    temperature: f32,
    /// Tokens are drawn from the likeliest that together have this probability.
    #[arg(long, default_value_t = 1.0, value_parser = share, help_heading = "Model")]
    top_p: f32,
    /// The same seed draws the same tokens; another each time when missing.
    #[arg(long, help_heading = "Model")]
    seed: Option<u64>,
}

/// Whether the steps are shown.
#[derive(Debug, Clone, clap::Args)]
pub struct ShowArgs {
    /// Draw each block as it settles.
    #[arg(long)]
    pub show_steps: bool,
    /// How long each step stays on the terminal with --show-steps, in milliseconds.
    #[arg(long, default_value_t = 40, value_name = "MS")]
    pace: u64,
}

fn share(text: &str) -> Result<f32, String> {
    within(text, 1.0)
}

fn temperature(text: &str) -> Result<f32, String> {
    within(text, 2.0)
}

fn within(text: &str, most: f32) -> Result<f32, String> {
    let number: f32 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.0..=most).contains(&number) { Ok(number) } else { Err(format!("must be from 0 to {most}")) }
}

impl ModelArgs {
    /// Loads the model.
    ///
    /// # Errors
    /// When the checkpoint cannot be used.
    pub fn completer(&self) -> anyhow::Result<Completer> {
        let place = ModelConfig { dir: self.model.clone(), ..ModelConfig::default() };
        let folder = place.folder();
        let engine = Engine::start_watched(&folder, place.engine, loading::bar());
        let engine = engine.with_context(|| format!("cannot load the model in {}", folder.display()))?;
        let engine = match &self.adapter {
            Some(file) => engine.tuned(file)?,
            None => engine,
        };
        Ok(Completer::new(engine)?)
    }

    /// Returns how a text is written.
    pub fn options(&self) -> Options {
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: 0,
            seed: self.seed.unwrap_or_else(rand::random),
        };
        Options {
            block_length: self.block_length.map(usize::from),
            max_steps: self.steps.map(usize::from),
            threshold: self.threshold,
            edit_threshold: self.edit_threshold,
            sampling: (self.temperature > 0.0).then_some(sampling),
            ..Options::default()
        }
    }
}

/// A text that was written.
pub struct Finished {
    /// What the engine said last.
    pub update: Update,
    /// How long it took, without the time spent showing it.
    pub took: Duration,
}

impl Finished {
    /// Returns the figures as JSON.
    pub fn json(&self, completer: &Completer) -> Value {
        let usage = &self.update.usage;
        json!({
            "model": completer.name(),
            "prompt_tokens": usage.prompt_tokens, "cached_tokens": usage.cached_tokens,
            "generated_tokens": usage.completion_tokens, "steps": usage.steps,
            "predicted_steps": usage.predicted_steps, "saved_steps": usage.saved_steps,
            "tokens_per_step": usage.tokens_per_step(),
            "tokens_per_s": usage.completion_tokens as f64 / self.took.as_secs_f64(),
        })
    }

    fn figures(&self) -> String {
        let usage = &self.update.usage;
        format!(
            "{} tokens in {} steps, {:.1} a step, {:.2} s",
            usage.completion_tokens,
            usage.steps,
            usage.tokens_per_step(),
            self.took.as_secs_f64(),
        )
    }
}

/// Returns how many tokens may be written, if the model takes so many.
///
/// # Errors
/// When it does not.
pub fn checked_tokens(completer: &Completer, tokens: u32) -> anyhow::Result<usize> {
    let tokens = usize::try_from(tokens)?;
    check_tokens(completer, tokens)?;
    Ok(tokens)
}

/// Refuses to write more tokens than the model takes.
///
/// # Errors
/// When it does not take so many.
pub fn check_tokens(completer: &Completer, tokens: usize) -> anyhow::Result<()> {
    let limit = completer.token_limit();
    anyhow::ensure!(
        tokens <= limit,
        "{tokens} tokens are too many: the model takes {limit}, prompt included"
    );
    Ok(())
}

/// Returns what was written as it is shown: settled, then what may change. What no block has reached
/// yet is one mask, so that the line it stands in is not left behind.
pub fn stretches(written: &[Written], settled: Style) -> Vec<Stretch> {
    let shown = |written: &Written| {
        let is_unreached = !written.is_complete && written.tentative.is_empty();
        let tentative = if is_unreached { MASK_CHAR.to_string() } else { written.tentative.clone() };
        [Stretch::new(settled, &*written.text), Stretch::new(Style::Tentative, tentative)]
    };
    written.iter().flat_map(shown).collect()
}

/// Waits for a text without showing it.
///
/// # Errors
/// When the engine stops.
pub async fn wait(writing: Writing) -> anyhow::Result<Finished> {
    let began = Instant::now();
    let update = writing.finish().await?;
    Ok(Finished { update, took: began.elapsed() })
}

/// Shows a text settle and ends with its figures; `piece_together` lays out what stands and what is
/// written, from first to last.
///
/// # Errors
/// When the engine stops or the terminal is gone.
pub async fn show(
    writing: Writing,
    args: &ShowArgs,
    piece_together: impl Fn(&[Written]) -> Vec<Stretch>,
) -> anyhow::Result<Finished> {
    let began = Instant::now();
    let (sender, mut frames) = mpsc::channel(FRAMES);
    let reading = tokio::spawn(read(writing, sender));
    let mut drawing = Drawing::new();
    let mut last = Update::default();
    while let Some(update) = frames.recv().await {
        drawing.draw(&piece_together(&update.written), update.usage.steps)?;
        if drawing.is_terminal && !update.is_done {
            tokio::time::sleep(Duration::from_millis(args.pace)).await;
        }
        last = update;
    }
    let ended = reading.await.context("the reader of the engine's steps failed")??;
    let finished = Finished { update: last, took: ended - began };
    drawing.finish(&piece_together(&finished.update.written), &finished.figures())?;
    Ok(finished)
}

/// Passes on every state that comes; returns when the last did.
async fn read(mut writing: Writing, frames: mpsc::Sender<Update>) -> Result<Instant, CompletionError> {
    while let Some(update) = writing.next().await? {
        // Nobody draws any more: the text is dropped, which cancels it.
        if frames.send(update).await.is_err() {
            break;
        }
    }
    Ok(Instant::now())
}

/// How a stretch of text is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Stands, or is settled.
    Plain,
    /// Was written and is settled, among what stood before.
    Filled,
    /// May still change.
    Tentative,
}

impl Style {
    /// Returns the sequence that begins it on a terminal (ECMA-48, SGR).
    fn ansi(self) -> &'static str {
        match self {
            Style::Plain => "\x1b[0m",
            Style::Filled => "\x1b[0;36m",
            Style::Tentative => "\x1b[0;2m",
        }
    }
}

/// Text of one style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// How it is shown.
    pub style: Style,
    /// The text.
    pub text: String,
}

impl Stretch {
    /// Makes a stretch.
    pub fn new(style: Style, text: impl Into<String>) -> Stretch {
        Stretch { style, text: text.into() }
    }
}

/// A text that is drawn again and again.
struct Drawing {
    terminal: Term,
    is_terminal: bool,
    width: usize,
    /// Lines that are left behind.
    left: usize,
    /// Lines below those, drawn anew each time.
    lines: usize,
}

impl Drawing {
    fn new() -> Drawing {
        let terminal = Term::stdout();
        let width = usize::from(terminal.size().1).max(NARROWEST);
        Drawing { is_terminal: terminal.is_term(), terminal, width, left: 0, lines: 0 }
    }

    fn draw(&mut self, stretches: &[Stretch], step: u32) -> std::io::Result<()> {
        if !self.is_terminal {
            let text: String = stretches.iter().map(|stretch| stretch.text.as_str()).collect();
            return writeln!(std::io::stdout(), "{step:>4}  {}", text.replace('\n', "⏎").trim_end());
        }
        let masks: usize = stretches.iter().map(|stretch| stretch.text.matches(MASK_CHAR).count()).sum();
        let status = format!("\x1b[0;2mstep {step}, {masks} masked\x1b[0m");
        self.redraw(stretches, &["", &status])
    }

    fn finish(&mut self, stretches: &[Stretch], figures: &str) -> std::io::Result<()> {
        if self.is_terminal {
            let figures = format!("\x1b[0;2m{figures}\x1b[0m");
            return self.redraw(stretches, &["", &figures]);
        }
        let text: String = stretches.iter().map(|stretch| stretch.text.as_str()).collect();
        writeln!(std::io::stdout(), "\n{text}\n\n{figures}")
    }

    fn redraw(&mut self, stretches: &[Stretch], below: &[&str]) -> std::io::Result<()> {
        // In one write, or it flickers. Line up, first column, clear to the end of the screen.
        let mut output = String::new();
        if self.lines > 0 {
            let _ = write!(output, "\x1b[{}A", self.lines);
        }
        output.push_str("\r\x1b[J");
        let (lines, settled) = wrapped(stretches, self.width - 1);
        for line in &lines[self.left.min(lines.len())..] {
            output.push_str(line);
            output.push('\n');
        }
        for line in below {
            output.push_str(line);
            output.push('\n');
        }
        self.left = settled.max(self.left);
        self.lines = lines.len().saturating_sub(self.left) + below.len();
        self.terminal.write_all(output.as_bytes())?;
        self.terminal.flush()
    }
}

/// Breaks text into lines of at most `width` columns, at spaces where there are some; returns them
/// with their styles, and how many of the first cannot change any more.
fn wrapped(stretches: &[Stretch], width: usize) -> (Vec<String>, usize) {
    let mut lines = Vec::new();
    let mut settled = None;
    let mut line: Vec<(char, Style)> = Vec::new();
    let styled = |stretch: &Stretch| -> Vec<(char, Style)> {
        stretch.text.chars().map(|c| (c, stretch.style)).collect()
    };
    for (c, style) in stretches.iter().flat_map(styled) {
        if style == Style::Tentative && settled.is_none() {
            settled = Some(lines.len());
        }
        if c == '\n' {
            lines.push(painted(&std::mem::take(&mut line)));
            continue;
        }
        line.push((c, style));
        if columns(&line) > width {
            let space =
                line.iter().rposition(|(c, _)| *c == ' ').filter(|at| *at > 0 && *at + 1 < line.len());
            let rest = match space {
                Some(at) => line.split_off(at + 1),
                None => line.split_off(line.len() - 1),
            };
            lines.push(painted(&line));
            line = rest;
        }
    }
    let settled = settled.unwrap_or(lines.len());
    lines.push(painted(&line));
    (lines, settled)
}

fn columns(line: &[(char, Style)]) -> usize {
    let text: String = line.iter().map(|(c, _)| c).collect();
    console::measure_text_width(&text)
}

fn painted(line: &[(char, Style)]) -> String {
    let mut text = String::new();
    for run in line.chunk_by(|a, b| a.1 == b.1) {
        text.push_str(run[0].1.ansi());
        // What a model writes must not steer the terminal.
        text.extend(run.iter().map(|(c, _)| if c.is_control() && *c != '\t' { '·' } else { *c }));
    }
    text + "\x1b[0m"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stretches: &[(Style, &str)], width: usize, expected: &[&str], settled: usize) {
        let stretches: Vec<Stretch> =
            stretches.iter().map(|(style, text)| Stretch::new(*style, *text)).collect();
        let (lines, found) = wrapped(&stretches, width);
        let plain: Vec<String> =
            lines.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect();
        assert_eq!((plain, found), (expected.iter().map(|&line| line.to_owned()).collect(), settled));
    }

    #[test]
    fn lines_break_at_spaces_and_only_settled_ones_are_left_behind() {
        check(&[(Style::Plain, "one two three")], 8, &["one two ", "three"], 1);
        check(&[(Style::Plain, "one two th"), (Style::Tentative, "ree░░")], 8, &["one two ", "three░░"], 1);
        check(&[(Style::Plain, "one"), (Style::Tentative, " two three")], 8, &["one two ", "three"], 0);
        check(&[(Style::Plain, "abcdefghij")], 4, &["abcd", "efgh", "ij"], 2);
        check(&[(Style::Plain, "a\n\nb")], 9, &["a", "", "b"], 2);
        check(&[], 9, &[""], 0);
    }

    #[test]
    fn wide_characters_take_two_columns_and_control_characters_do_nothing() {
        check(&[(Style::Plain, "漢字漢字")], 5, &["漢字", "漢字"], 1);
        check(&[(Style::Filled, "a\x1bb")], 9, &["a·b"], 0);
    }
}
