//! `chatdlm eval steps`: how many passes blocks take, how well that is predicted, and what fewer cost.
//!
//! Each prompt is answered at several thresholds and once with one token settling in each pass, the
//! fixed schedule. Passes are compared with what was predicted after the first of each block, answers
//! with those of the fixed schedule. `--fit` fits the prediction to one half of the prompts and writes
//! it to the checkpoint's folder; the figures are always of the other half.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

use crate::command::eval::TENANT;
use crate::command::eval::open_base;
use crate::command::eval::split;
use crate::config::ModelConfig as ModelPlace;
use crate::corpus::service::Company;
use crate::corpus::service::Split;
use crate::corpus::tasks::redacted_turns;
use crate::engine::config::ModelConfig;
use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::kv_cache::PAGE;
use crate::engine::model::linear::Quant;
use crate::engine::runner::Runner;
use crate::engine::runner::Slot;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Form;
use crate::engine::sequence::Generate;
use crate::engine::sequence::Sequence;
use crate::engine::steps::FILE;
use crate::engine::steps::Features;
use crate::engine::steps::StepPredictor;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::weights::Weights;
use crate::knowledge::Knowledge;
use crate::knowledge::Question;
use crate::knowledge::seed::seeds;
use crate::prompt;
use crate::prompt::Control;

/// Sequences that are denoised together.
const AT_ONCE: usize = 16;
/// Tokens of an article that are the prompt when no company is named.
const ARTICLE_TOKENS: usize = 96;
/// Thresholds that the passes are counted at.
const THRESHOLDS: [f32; 6] = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9];

/// Measures passes against their prediction and against a fixed schedule.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Company folders: articles/, calls.{split}.jsonl; the bundled articles when missing.
    companies: Vec<PathBuf>,
    /// The checkpoint's folder; the bundled model when missing.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Which labelled part to measure on: train or dev.
    #[arg(long, default_value = "train", value_parser = split)]
    split: Split,
    /// The most prompts.
    #[arg(long, default_value_t = 120)]
    prompts: usize,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 48)]
    tokens: usize,
    /// Fits the prediction to half of the prompts and writes it to the checkpoint's folder.
    #[arg(long)]
    fit: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// The model and how its sequences are laid out.
pub(super) struct Bench {
    runner: Runner,
    /// How sequences are laid out.
    pub form: Form,
    banned: Vec<u32>,
    tokens: usize,
    /// Whether a text ends where its end has settled, and not with its canvas.
    pub stops: bool,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    anyhow::ensure!(args.prompts > 1 && args.tokens > 0, "--prompts must be 2 or more, --tokens positive");
    let folder = ModelPlace { dir: args.model.clone(), ..ModelPlace::default() }.folder();
    let prompts = prompts(&args, &Tokenizer::read(&folder)?)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut bench = Bench::load(&folder, longest, args.tokens)?;

    let fixed = bench.answers(&prompts, Rule::LowConfidence { steps: bench.form.block });
    let adaptive = THRESHOLDS
        .map(|threshold| bench.answers(&prompts, Rule::Threshold { threshold, steps: bench.form.block }));
    let blocks_of = |half: usize, answers: &[Sequence]| -> Vec<(Features, u32)> {
        let some = answers.iter().skip(half).step_by(2);
        some.flat_map(|s| s.history.iter().map(|block| (block.features, block.taken))).collect()
    };
    let predictor = if args.fit {
        let blocks: Vec<_> = adaptive.iter().flat_map(|answers| blocks_of(0, answers)).collect();
        let fitted = StepPredictor::fit(&blocks);
        let fitted = fitted.with_context(|| format!("{} blocks are too few to fit to", blocks.len()))?;
        let note = json!({"blocks": blocks.len(), "prompts": prompts.len() / 2, "thresholds": THRESHOLDS});
        let text = serde_json::to_string_pretty(&fitted.to_json(note))?;
        let file = folder.join(FILE);
        std::fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        fitted
    } else {
        StepPredictor::read(&folder)?
    };
    let rows: Vec<Value> = THRESHOLDS
        .iter()
        .zip(&adaptive)
        .map(|(threshold, answers)| {
            let mut row = compared(answers, &fixed, bench.form);
            row["threshold"] = json!(threshold);
            row["prediction"] = quality(&predictor, &blocks_of(1, answers));
            row
        })
        .collect();
    let all: Vec<_> = adaptive.iter().flat_map(|answers| blocks_of(1, answers)).collect();
    let report = json!({
        "model": folder.display().to_string(), "prompts": prompts.len() / 2, "block_length": bench.form.block,
        "prediction": quality(&predictor, &all),
        "rule_of_thumb": quality(&StepPredictor::default(), &all),
        "thresholds": rows,
    });
    if args.json {
        println!("{report}");
    } else {
        print(&report);
    }
    Ok(())
}

impl Bench {
    /// Loads a checkpoint for prompts and answers of so many tokens.
    ///
    /// # Errors
    /// When the checkpoint cannot be used.
    pub fn load(folder: &Path, longest_prompt: usize, tokens: usize) -> anyhow::Result<Bench> {
        let config = ModelConfig::read(folder)?;
        let tokenizer = Tokenizer::read(folder)?;
        let weights = Weights::open(folder)?;
        let backend = device::load(Device::Auto, config.clone(), &weights, Quant::Q8, |_, _| {})?;
        let (longest, bytes) = (longest_prompt + tokens + 2 * PAGE, backend.bytes_per_position());
        let runner = Runner::new(backend, AT_ONCE * longest * bytes);
        let controls = Control::ALL.into_iter().filter(|c| *c != Control::End && *c != Control::Pad);
        let mut banned: Vec<u32> = controls.filter_map(|c| tokenizer.control(c.token()).ok()).collect();
        banned.push(config.mask_token_id);
        banned.extend(config.instructions());
        Ok(Bench { runner, form: Form::of(&config), banned, tokens, stops: true })
    }

    /// Denoises an answer to every prompt.
    pub fn answers(&mut self, prompts: &[Vec<u32>], rule: Rule) -> Vec<Sequence> {
        let mut answers = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(AT_ONCE) {
            let slot = |prompt: &Vec<u32>| {
                let banned = self.banned.clone();
                let (stops_at_end, stops_in_block) = (self.stops, self.stops);
                let generate = Generate { rule, banned, stops_at_end, stops_in_block, ..Generate::default() };
                let sequence = Sequence::generate(prompt, &vec![None; self.tokens], self.form, generate);
                self.runner.slot(sequence, Vec::new()).expect("the cache was made for as many")
            };
            let mut slots: Vec<Slot> = prompts.iter().map(slot).collect();
            loop {
                let mut running: Vec<(&mut Slot, usize)> =
                    slots.iter_mut().filter(|s| !s.sequence.is_done).map(|s| (s, usize::MAX / 2)).collect();
                if running.is_empty() {
                    break;
                }
                self.runner.step(&mut running);
            }
            slots.iter().for_each(|slot| self.runner.release(slot));
            answers.extend(slots.into_iter().map(|slot| slot.sequence));
        }
        answers
    }
}

/// Returns how well a prediction fits blocks: the mean absolute error in passes, and the share of the
/// variance that it explains.
fn quality(predictor: &StepPredictor, blocks: &[(Features, u32)]) -> Value {
    let count = blocks.len().max(1) as f64;
    let mean = blocks.iter().map(|(_, taken)| f64::from(*taken)).sum::<f64>() / count;
    let (mut absolute, mut squares, mut variance, mut sum) = (0.0, 0.0, 0.0, 0.0);
    for (features, taken) in blocks {
        let (predicted, taken) = (predictor.passes(features), f64::from(*taken));
        sum += predicted;
        absolute += (predicted - taken).abs();
        squares += (predicted - taken).powi(2);
        variance += (taken - mean).powi(2);
    }
    json!({
        "blocks": blocks.len(), "passes_mean": mean, "predicted_mean": sum / count,
        "mean_absolute_error": absolute / count,
        "r2": if variance > 0.0 { Some(1.0 - squares / variance) } else { None },
    })
}

/// Compares answers of the second half with those of the fixed schedule.
fn compared(answers: &[Sequence], fixed: &[Sequence], form: Form) -> Value {
    let (mut passes, mut passes_fixed, mut tokens, mut differing) = (0, 0, 0, 0);
    let (mut logs, mut logs_fixed, mut written, mut written_fixed) = (0.0, 0.0, 0, 0);
    for (answer, fixed) in answers.iter().zip(fixed).skip(1).step_by(2) {
        passes += answer.steps;
        passes_fixed += fixed.steps;
        let (mine, others) = (text(answer, form), text(fixed, form));
        tokens += mine.len().max(others.len());
        differing += mine.len().max(others.len()) - mine.iter().zip(others).filter(|(a, b)| a == b).count();
        logs += log_probability(answer, mine.len());
        logs_fixed += log_probability(fixed, others.len());
        (written, written_fixed) = (written + mine.len(), written_fixed + others.len());
    }
    let mean = |sum: f64, count: usize| sum / count.max(1) as f64;
    json!({
        "passes": passes, "passes_fixed": passes_fixed,
        "passes_saved": 1.0 - f64::from(passes) / f64::from(passes_fixed.max(1)),
        "tokens_differing": differing as f64 / tokens.max(1) as f64,
        "mean_log_probability": mean(logs, written),
        "mean_log_probability_fixed": mean(logs_fixed, written_fixed),
    })
}

/// Returns the tokens before the end of text.
pub(super) fn text(sequence: &Sequence, form: Form) -> &[u32] {
    let canvas = sequence.canvas();
    let is_over = |id: &u32| [form.end_of_text, form.pad, form.mask].contains(id);
    &canvas[..canvas.iter().position(is_over).unwrap_or(canvas.len())]
}

/// Returns the sum of the logarithms of the first confidences.
fn log_probability(sequence: &Sequence, tokens: usize) -> f64 {
    sequence.confidences()[..tokens].iter().map(|c| f64::from(c.max(1e-9)).ln()).sum()
}

/// Returns what is answered: customers of calls with the cards found for them, or articles that go on.
fn prompts(args: &Args, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut prompts = Vec::new();
    if args.companies.is_empty() {
        for article in seeds()?.into_iter().flat_map(|seed| seed.articles) {
            let mut ids = Vec::new();
            tokenizer.encode(&article.body, &mut ids)?;
            prompts.extend(ids.chunks_exact(ARTICLE_TOKENS).map(<[u32]>::to_vec));
        }
    } else {
        let index = std::env::temp_dir().join(format!("chatdlm-eval-{:016x}", rand::random::<u64>()));
        let found = replies(args, &Knowledge::new(&index), tokenizer);
        if index.exists() {
            std::fs::remove_dir_all(&index).with_context(|| format!("cannot remove {}", index.display()))?;
        }
        prompts = found?;
    }
    let step = prompts.len().div_ceil(args.prompts).max(1);
    let prompts: Vec<Vec<u32>> = prompts.into_iter().step_by(step).collect();
    anyhow::ensure!(prompts.len() > 1, "the folders have {} prompts, 2 are needed", prompts.len());
    Ok(prompts)
}

fn replies(args: &Args, knowledge: &Knowledge, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut prompts = Vec::new();
    for folder in &args.companies {
        let company = Company::new(folder.clone());
        open_base(knowledge, &company)?;
        for call in company.calls(args.split)? {
            let turns = redacted_turns(&call);
            for i in (0..call.turns.len()).filter(|i| !call.turns[*i].articles.is_empty()) {
                let question =
                    Question { turns: turns[..=i].to_vec(), bases: vec![company.base.clone()], limit: 3 };
                let cards = knowledge.search(TENANT, &question)?;
                let cards: Vec<(&str, &str)> =
                    cards.iter().map(|c| (c.title.as_str(), c.passage.as_str())).collect();
                prompts.push(prompt::encode(&prompt::reply(&cards, &turns[..=i]), tokenizer)?);
            }
        }
    }
    Ok(prompts)
}

fn print(report: &Value) {
    let number = |value: &Value, digits: usize| match value.as_f64() {
        Some(number) => format!("{number:.digits$}"),
        None => "-".to_owned(),
    };
    for (name, of) in [("prediction", &report["prediction"]), ("rule of thumb", &report["rule_of_thumb"])] {
        println!(
            "{name}: off by {} passes in the mean, R2 {}, of {} blocks",
            number(&of["mean_absolute_error"], 2),
            number(&of["r2"], 3),
            of["blocks"]
        );
    }
    println!(
        "{:>9} {:>7} {:>7} {:>9} {:>6} {:>6} {:>7} {:>10} {:>9} {:>9}",
        "threshold", "passes", "saved", "predicted", "actual", "error", "R2", "differing", "log p", "fixed"
    );
    for row in report["thresholds"].as_array().into_iter().flatten() {
        let prediction = &row["prediction"];
        println!(
            "{:>9} {:>7} {:>7} {:>9} {:>6} {:>6} {:>7} {:>10} {:>9} {:>9}",
            number(&row["threshold"], 2),
            row["passes"].to_string(),
            number(&row["passes_saved"], 3),
            number(&prediction["predicted_mean"], 2),
            number(&prediction["passes_mean"], 2),
            number(&prediction["mean_absolute_error"], 2),
            number(&prediction["r2"], 3),
            number(&row["tokens_differing"], 3),
            number(&row["mean_log_probability"], 3),
            number(&row["mean_log_probability_fixed"], 3)
        );
    }
}
