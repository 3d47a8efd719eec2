//! `chatdlm bench engine`: the engine alone, many sequences at once; a checkpoint, or a shape with
//! random weights. Beside each speed stands what the machine allows at most.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use crate::command::bench::machine::Limits;
use crate::command::bench::machine::Work;
use crate::command::bench::machine::available_bytes;
use crate::command::bench::machine::products_of_row;
use crate::command::bench::peers::Ours;
use crate::command::bench::peers::Peers;
use crate::command::bench::peers::Task;
use crate::command::bench::shapes::Shape;
use crate::command::loading;
use crate::config::ModelConfig as ModelPlace;
use crate::engine::config::Attention;
use crate::engine::config::ModelConfig;
use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::kv_cache::KvCache;
use crate::engine::kv_cache::PAGE;
use crate::engine::model::linear::Quant;
use crate::engine::model::transformer::Model;
use crate::engine::runner::Runner;
use crate::engine::runner::Slot;
use crate::engine::sampler::Rule;
use crate::engine::sequence::CacheMode;
use crate::engine::sequence::Form;
use crate::engine::sequence::Generate;
use crate::engine::sequence::Sequence;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::weights::Weights;
use crate::engine::weights::random;
use crate::knowledge::seed::seeds;

/// Arguments of `bench engine`.
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// The checkpoint's folder; the bundled model when missing.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Random weights of this shape instead, made in memory.
    #[arg(long, value_enum, conflicts_with = "model")]
    shape: Option<Shape>,
    /// So many layers of the shape.
    #[arg(long, requires = "shape")]
    layers: Option<usize>,
    /// Sequences at once.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 256)]
    prompt_tokens: usize,
    /// Tokens that each sequence writes.
    #[arg(long, default_value_t = 128)]
    generate_tokens: usize,
    /// The least confidence that settles a token.
    #[arg(long, default_value_t = 0.7)]
    threshold: f32,
    /// The most passes of a block.
    #[arg(long, default_value_t = 12)]
    steps: usize,
    /// Exactly so many tokens settle in each pass of a block, whatever the confidences.
    #[arg(long, conflicts_with_all = ["threshold", "steps"])]
    tokens_per_step: Option<usize>,
    /// Precision of the weights.
    #[arg(long, value_enum, default_value_t = Quant::Q8)]
    quant: Quant,
    /// What passes of full attention keep of the pass that began a block.
    #[arg(long, value_enum, default_value_t = CacheMode::Exact)]
    cache: CacheMode,
    /// Threads; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Rows of one step while prompts are read.
    #[arg(long, default_value_t = 256)]
    step_rows: usize,
    /// How often the measurement is repeated; the fastest counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    #[command(flatten)]
    peers: Peers,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Beside weights and cache: what measuring and the buffers of a pass take.
const SPARE_BYTES: usize = 768 << 20;
/// The same random weights and prompts each time.
const SEED: u64 = 1;

/// What is measured, and with which prompts.
struct Subject {
    name: String,
    config: ModelConfig,
    weights: Weights,
    prompts: Vec<Vec<u32>>,
}

/// One measurement.
struct Figures {
    prefill_s: f64,
    denoise_s: f64,
    tokens: u32,
    steps: u32,
    blocks: u32,
    passes: u32,
    /// What the first sequence wrote.
    answer: Vec<u32>,
    /// Of all steps together.
    work: Work,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: EngineArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.batch > 0 && args.repeat > 0 && args.generate_tokens > 0 && args.prompt_tokens > 0,
        "--batch, --repeat, --prompt-tokens and --generate-tokens must be positive"
    );
    let Subject { name, config, weights, prompts } = Subject::new(&args)?;
    let rule = rule(&args, &config)?;
    args.peers.check(&config, args.batch)?;
    let positions = args.batch * (args.prompt_tokens + args.generate_tokens + 2 * PAGE);
    let cache_bytes = positions * KvCache::bytes_per_position(&config);
    let weight_bytes = Model::bytes_of(&config, args.quant);
    check_memory(weight_bytes + cache_bytes, available_bytes())?;
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().context("cannot start threads")?;
    let threads = pool.current_num_threads();
    let limits = pool.install(Limits::measure);
    let figures = pool.install(|| -> anyhow::Result<Figures> {
        let backend = device::load(Device::Cpu, config.clone(), &weights, args.quant, loading::bar())?;
        let mut runner = Runner::new(backend, cache_bytes);
        let runs = (0..args.repeat).map(|_| {
            // The prompt is computed anew each time.
            runner.forget(cache_bytes);
            measure(&mut runner, &args, rule, &prompts)
        });
        runs.min_by(|a, b| a.denoise_s.total_cmp(&b.denoise_s)).context("nothing was measured")
    })?;
    let prompt_tokens = args.batch * args.prompt_tokens;
    let steps = f64::from(figures.steps);
    let ms_per_step = 1e3 * figures.denoise_s / steps;
    let work = Work { bytes: figures.work.bytes / steps, products: figures.work.products / steps };
    let floor_ms = limits.floor_ms(work);
    // With full attention a prompt is computed anew in every pass, so there is nothing to read first.
    let reads_first = config.attention == Attention::BlockCausal;
    let prefill_tokens_per_s = reads_first.then(|| prompt_tokens as f64 / figures.prefill_s);
    let mut report = json!({
        "model": name, "device": "cpu", "quant": args.quant, "threads": threads,
        "batch": args.batch, "prompt_tokens": args.prompt_tokens, "generated_tokens": figures.tokens,
        "prefill_tokens_per_s": prefill_tokens_per_s,
        "tokens_per_s": f64::from(figures.tokens) / figures.denoise_s,
        "ms_per_step": ms_per_step,
        "steps_per_block": f64::from(figures.passes) / f64::from(figures.blocks.max(1)),
        "tokens_per_step": f64::from(figures.tokens) / f64::from(figures.passes.max(1)),
        "weight_bytes": weight_bytes, "bytes_touched_per_step": work.bytes,
        "copy_gb_per_s": limits.copy_gb_per_s, "read_gb_per_s": limits.read_gb_per_s,
        "int8_gop_per_s": limits.int8_gop_per_s,
        "floor_ms": floor_ms, "floor_ratio": ms_per_step / floor_ms,
    });
    if let Some(tokens_per_step) = args.tokens_per_step {
        let task = Task {
            config: &config,
            weights: &weights,
            quant: args.quant,
            prompt: &prompts[0],
            banned: &banned(&config),
            generate_tokens: args.generate_tokens,
            tokens_per_step,
            threads,
            repeat: args.repeat,
        };
        let seconds = figures.denoise_s + if reads_first { figures.prefill_s } else { 0.0 };
        let ours = Ours { seconds, passes: figures.passes, answer: &figures.answer };
        report["peers"] = args.peers.measure(&task, &ours)?;
    }
    if args.json {
        println!("{report}");
    } else {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

impl Subject {
    fn new(args: &EngineArgs) -> anyhow::Result<Subject> {
        if let Some(shape) = args.shape {
            let config = shape.config(args.layers)?;
            let mask = config.mask_token_id;
            let prompt = |i: usize| {
                let mut ids = random::tokens(i as u64, args.prompt_tokens, config.vocab_size);
                // A mask would be no text.
                ids.iter_mut().filter(|id| **id == mask).for_each(|id| *id = u32::from(mask == 0));
                ids
            };
            let prompts = (0..args.batch).map(prompt).collect();
            let weights = Weights::Random { seed: SEED };
            return Ok(Subject { name: shape.name().to_owned(), config, weights, prompts });
        }
        let folder = ModelPlace { dir: args.model.clone(), ..ModelPlace::default() }.folder();
        Ok(Subject {
            name: folder.display().to_string(),
            config: ModelConfig::read(&folder)?,
            prompts: prompts(args, &Tokenizer::read(&folder)?)?,
            weights: Weights::open(&folder)?,
        })
    }
}

/// Returns the rule that decides what settles.
fn rule(args: &EngineArgs, config: &ModelConfig) -> anyhow::Result<Rule> {
    let Some(tokens) = args.tokens_per_step else {
        return Ok(Rule::Threshold { threshold: args.threshold, steps: args.steps });
    };
    let block = config.block_length();
    anyhow::ensure!(
        tokens > 0 && block.is_multiple_of(tokens),
        "--tokens-per-step {tokens} does not divide a block of {block} tokens"
    );
    anyhow::ensure!(
        args.prompt_tokens.is_multiple_of(block) && args.generate_tokens.is_multiple_of(block),
        "with --tokens-per-step, --prompt-tokens and --generate-tokens must be multiples of {block}"
    );
    Ok(Rule::LowConfidence { steps: block / tokens })
}

/// Fails when the machine cannot hold so much, where it says how much it can.
fn check_memory(needed: usize, available: Option<usize>) -> anyhow::Result<()> {
    let Some(available) = available else { return Ok(()) };
    let gb = |bytes: usize| bytes as f64 / 1e9;
    anyhow::ensure!(
        needed + SPARE_BYTES <= available,
        "weights and cache take {:.1} GB, and {:.1} GB of memory are available; \
         try --quant q4, a smaller --batch or fewer --layers",
        gb(needed + SPARE_BYTES),
        gb(available)
    );
    Ok(())
}

/// Returns prompts of seed articles, each from another place.
fn prompts(args: &EngineArgs, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut ids = Vec::new();
    for seed in seeds()? {
        for article in &seed.articles {
            tokenizer.encode(&article.body, &mut ids)?;
        }
    }
    anyhow::ensure!(ids.len() > args.prompt_tokens, "the seed articles have {} tokens only", ids.len());
    let places = ids.len() - args.prompt_tokens;
    Ok((0..args.batch)
        .map(|i| {
            let start = i * 7919 % places;
            ids[start..start + args.prompt_tokens].to_vec()
        })
        .collect())
}

fn measure(runner: &mut Runner, args: &EngineArgs, rule: Rule, prompts: &[Vec<u32>]) -> Figures {
    let config = runner.config().clone();
    let config = &config;
    let block = config.block_length();
    let mut slots: Vec<Slot> = prompts
        .iter()
        .map(|prompt| {
            let generate = Generate {
                rule,
                banned: banned(config),
                banned_at: vec![],
                stops_at_end: false,
                sampling: None,
                min_passes: 0,
                ..Generate::default()
            };
            let canvas = vec![None; args.generate_tokens];
            let form = Form { cache: args.cache, ..Form::of(config) };
            let sequence = Sequence::generate(prompt, &canvas, form, generate);
            runner.slot(sequence, Vec::new()).expect("the cache was made for all of them")
        })
        .collect();
    let began = Instant::now();
    for slot in &mut slots {
        while slot.sequence.is_prefilling() {
            let rows = args.step_rows.min(slot.sequence.pending() - block);
            runner.step(&mut [(slot, rows)]);
        }
    }
    let prefill_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let mut steps = 0;
    let mut work = Work { bytes: 0.0, products: 0.0 };
    let (of_row, of_head) = (products_of_row(config), config.hidden_size * config.vocab_size);
    let of_position = KvCache::bytes_per_position(config);
    loop {
        let mut running: Vec<(&mut Slot, usize)> =
            slots.iter_mut().filter(|s| !s.sequence.is_done).map(|s| (s, usize::MAX / 2)).collect();
        if running.is_empty() {
            break;
        }
        for (slot, rows) in &running {
            let sequence = &slot.sequence;
            let end = sequence.pass_end(*rows);
            work.bytes += (end * of_position) as f64;
            let products = (end - sequence.cached) * of_row + sequence.wanted().len() * of_head;
            work.products += products as f64;
        }
        runner.step(&mut running);
        work.bytes += runner.touched_bytes() as f64;
        steps += 1;
    }
    let sum = |of: fn(&Sequence) -> u32| slots.iter().map(|s| of(&s.sequence)).sum();
    Figures {
        prefill_s,
        denoise_s: began.elapsed().as_secs_f64(),
        tokens: sum(|s| s.unmasked),
        steps,
        blocks: sum(|s| s.blocks),
        passes: sum(|s| s.steps),
        answer: slots[0].sequence.canvas().to_vec(),
        work,
    }
}

/// Returns the ids that are no text.
fn banned(config: &ModelConfig) -> Vec<u32> {
    vec![config.mask_token_id, config.eos_token_id, config.pad_token_id]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_do() {
        assert!(check_memory(8 << 30, Some(9 << 30)).is_ok());
        assert!(check_memory(8 << 30, None).is_ok());
        let error = check_memory(16_000_000_000, Some(8_000_000_000)).unwrap_err().to_string();
        assert!(error.contains("16.8 GB") && error.contains("8.0 GB") && error.contains("--quant q4"));
    }
}
