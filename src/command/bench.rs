//! `chatdlm bench engine`: the engine alone, many sequences at once.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use crate::config::ModelConfig as ModelPlace;
use crate::engine::config::ModelConfig;
use crate::engine::kv_cache::KvCache;
use crate::engine::kv_cache::PAGE;
use crate::engine::model::linear::Quant;
use crate::engine::model::transformer::Model;
use crate::engine::runner::Runner;
use crate::engine::runner::Slot;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Form;
use crate::engine::sequence::Generate;
use crate::engine::sequence::Sequence;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::weights::Weights;
use crate::knowledge::seed::seeds;

/// Measures speed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Tokens a second of the engine: prompts first, then denoising.
    Engine(EngineArgs),
}

/// Arguments of `bench engine`.
#[derive(Debug, clap::Args)]
struct EngineArgs {
    /// The checkpoint's folder; the bundled model when missing.
    #[arg(long)]
    model: Option<PathBuf>,
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
    /// Precision of the weights.
    #[arg(long, value_enum, default_value_t = Quant::Q8)]
    quant: Quant,
    /// Threads; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Rows of one step while prompts are read.
    #[arg(long, default_value_t = 256)]
    step_rows: usize,
    /// How often the measurement is repeated; the fastest counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One measurement.
struct Figures {
    prefill_s: f64,
    denoise_s: f64,
    tokens: u32,
    steps: u32,
    blocks: u32,
    passes: u32,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let What::Engine(args) = args.what;
    anyhow::ensure!(
        args.batch > 0 && args.repeat > 0 && args.generate_tokens > 0,
        "--batch, --repeat and --generate-tokens must be positive"
    );
    let folder = ModelPlace { dir: args.model.clone(), ..ModelPlace::default() }.folder();
    let config = ModelConfig::read(&folder)?;
    let tokenizer = Tokenizer::read(&folder)?;
    let prompts = prompts(&args, &tokenizer)?;
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().context("cannot start threads")?;
    let model = Model::load(config.clone(), &Weights::open(&folder)?, args.quant, |_, _| {})?;
    let threads = pool.current_num_threads();
    let best = pool.install(move || {
        let positions = args.batch * (args.prompt_tokens + args.generate_tokens + 2 * PAGE);
        let cache_bytes = positions * KvCache::bytes_per_position(&config);
        let mut runner = Runner::new(model, cache_bytes);
        let runs = (0..args.repeat).map(|_| {
            // The prompt is computed anew each time.
            runner.forget(cache_bytes);
            measure(&mut runner, &args, &config, &prompts)
        });
        let fastest = runs.min_by(|a, b| a.denoise_s.total_cmp(&b.denoise_s));
        fastest.map(|figures| (figures, args))
    });
    let (figures, args) = best.context("nothing was measured")?;
    let prompt_tokens = args.batch * args.prompt_tokens;
    let report = json!({
        "model": folder.display().to_string(), "device": "cpu", "quant": args.quant, "threads": threads,
        "batch": args.batch, "prompt_tokens": args.prompt_tokens, "generated_tokens": figures.tokens,
        "prefill_tokens_per_s": prompt_tokens as f64 / figures.prefill_s,
        "tokens_per_s": f64::from(figures.tokens) / figures.denoise_s,
        "ms_per_step": 1e3 * figures.denoise_s / f64::from(figures.steps),
        "steps_per_block": f64::from(figures.passes) / f64::from(figures.blocks.max(1)),
        "tokens_per_step": f64::from(figures.tokens) / f64::from(figures.passes.max(1)),
    });
    if args.json {
        println!("{report}");
    } else {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
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

fn measure(runner: &mut Runner, args: &EngineArgs, config: &ModelConfig, prompts: &[Vec<u32>]) -> Figures {
    let block = config.block_length();
    let rule = Rule::Threshold { threshold: args.threshold, steps: args.steps };
    let mut slots: Vec<Slot> = prompts
        .iter()
        .map(|prompt| {
            let banned = vec![config.mask_token_id, config.eos_token_id, config.pad_token_id];
            let generate = Generate {
                rule,
                banned,
                banned_at: vec![],
                stops_at_end: false,
                sampling: None,
                min_passes: 0,
                ..Generate::default()
            };
            let canvas = vec![None; args.generate_tokens];
            let sequence = Sequence::generate(prompt, &canvas, Form::of(config), generate);
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
    loop {
        let mut running: Vec<(&mut Slot, usize)> =
            slots.iter_mut().filter(|s| !s.sequence.is_done).map(|s| (s, usize::MAX / 2)).collect();
        if running.is_empty() {
            break;
        }
        runner.step(&mut running);
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
    }
}
