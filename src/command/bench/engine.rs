//! `chatdlm bench engine`: the engine alone, many sequences at once; a checkpoint, or a shape with
//! random weights. Beside each speed stands what the machine allows at most. On a GPU one run measures
//! every batch with every length of prompt, so that weights are made once.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

use crate::command::bench::machine::Work;
use crate::command::bench::machine::products_of_row;
use crate::command::bench::peers::Ours;
use crate::command::bench::peers::Peers;
use crate::command::bench::peers::Task;
use crate::command::bench::place::Place;
use crate::command::bench::place::Wanted;
use crate::command::bench::shapes::Shape;
use crate::config::ModelConfig as ModelPlace;
use crate::engine::config::Attention;
use crate::engine::config::ModelConfig;
use crate::engine::device::Device;
use crate::engine::kv_cache::PAGE;
use crate::engine::model::linear::Quant;
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
    /// Where it computes: a GPU where one can be used, else the processor.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// Sequences at once; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_value = "8")]
    batch: Vec<usize>,
    /// Tokens of each prompt; several numbers are measured one after the other.
    #[arg(long, alias = "prompt", value_delimiter = ',', default_value = "256")]
    prompt_tokens: Vec<usize>,
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
    /// Rows of one step while prompts are read; 256 on the processor and 2,048 on a GPU when missing.
    #[arg(long)]
    step_rows: Option<usize>,
    /// Tell how long each kernel of a GPU takes, one at a time.
    #[arg(long)]
    profile: bool,
    /// How often the measurement is repeated; the fastest counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    #[command(flatten)]
    peers: Peers,
    /// Print one JSON object for each batch and prompt, a line each.
    #[arg(long)]
    json: bool,
}

/// The same random weights and prompts each time.
const SEED: u64 = 1;

/// What is measured.
struct Subject {
    name: String,
    config: ModelConfig,
    weights: Weights,
    /// The ids of the seed articles, of which prompts of a checkpoint are taken.
    articles: Option<Vec<u32>>,
}

/// One batch of prompts of a length.
#[derive(Debug, Clone, Copy)]
struct Load {
    batch: usize,
    prompt_tokens: usize,
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
    let is_positive = |counts: &[usize]| counts.iter().all(|count| *count > 0);
    anyhow::ensure!(
        is_positive(&args.batch)
            && is_positive(&args.prompt_tokens)
            && args.repeat > 0
            && args.generate_tokens > 0,
        "--batch, --repeat, --prompt-tokens and --generate-tokens must be positive"
    );
    let subject = Subject::new(&args)?;
    let loads = loads(&args);
    for load in &loads {
        rule(&args, &subject.config, *load)?;
        args.peers.check(&subject.config, load.batch)?;
    }
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().context("cannot start threads")?;
    pool.install(|| {
        let mut place = Place::new(wanted(&args, &subject, &loads))?;
        for load in loads {
            match measure_one(&args, &subject, &mut place, load)? {
                Some(report) if args.json => println!("{report}"),
                Some(report) => println!("{}", serde_json::to_string_pretty(&report)?),
                None => {}
            }
        }
        Ok(())
    })
}

/// Returns where it is measured, and for how much there must be room.
fn wanted<'a>(args: &EngineArgs, subject: &'a Subject, loads: &[Load]) -> Wanted<'a> {
    Wanted {
        device: args.device,
        config: &subject.config,
        weights: &subject.weights,
        quant: args.quant,
        positions: loads.iter().map(|load| load.positions(args)).max().unwrap_or(0),
        step_rows: args.step_rows,
        is_watched: args.profile,
    }
}

/// Returns every batch with every length of prompt.
fn loads(args: &EngineArgs) -> Vec<Load> {
    let of_batch = |batch: &usize| {
        let batch = *batch;
        args.prompt_tokens.iter().map(move |prompt_tokens| Load { batch, prompt_tokens: *prompt_tokens })
    };
    args.batch.iter().flat_map(of_batch).collect()
}

/// Measures one batch and returns what was found; nothing when the GPU has too little memory for it.
fn measure_one(
    args: &EngineArgs,
    subject: &Subject,
    place: &mut Place,
    load: Load,
) -> anyhow::Result<Option<Value>> {
    let Load { batch, prompt_tokens } = load;
    let config = &subject.config;
    let cache_bytes = load.positions(args) * place.runner.bytes_per_position();
    if let Some(available) = place.cache_bytes.filter(|available| *available < cache_bytes) {
        let gb = |bytes: usize| bytes as f64 / 1e9;
        eprintln!(
            "batch {batch} with prompts of {prompt_tokens} is left out: keys and values take {:.1} GB, {:.1} GB are free",
            gb(cache_bytes),
            gb(available)
        );
        return Ok(None);
    }
    let rule = rule(args, config, load)?;
    let prompts = subject.prompts(load)?;
    let mut runs = Vec::with_capacity(args.repeat);
    let mut free_at_first = None;
    for _ in 0..args.repeat {
        // The prompt is computed anew each time.
        place.runner.forget(cache_bytes);
        runs.push(measure(place, args, rule, &prompts));
        free_at_first = free_at_first.or(place.free_bytes()?);
    }
    // What the first repetition needed is there for the others: any more would be lost.
    let lost_bytes = free_at_first.zip(place.free_bytes()?).map(|(first, last)| first.saturating_sub(last));
    let is_repeated = runs.iter().all(|run| run.answer == runs[0].answer);
    let figures = runs.into_iter().min_by(|a, b| a.denoise_s.total_cmp(&b.denoise_s));
    let figures = figures.context("nothing was measured")?;
    let steps = f64::from(figures.steps);
    let ms_per_step = 1e3 * figures.denoise_s / steps;
    let work = Work { bytes: figures.work.bytes / steps, products: figures.work.products / steps };
    let floor_ms = place.limits.floor_ms(work);
    // With full attention a prompt is computed anew in every pass, so there is nothing to read first.
    let reads_first = config.attention == Attention::BlockCausal;
    let prefill_tokens_per_s = reads_first.then(|| (batch * prompt_tokens) as f64 / figures.prefill_s);
    let mut report = json!({
        "model": subject.name, "device": place.device, "quant": args.quant, "threads": place.threads,
        "batch": batch, "prompt_tokens": prompt_tokens, "generated_tokens": figures.tokens,
        "prefill_s": reads_first.then_some(figures.prefill_s), "prefill_tokens_per_s": prefill_tokens_per_s,
        "tokens_per_s": f64::from(figures.tokens) / figures.denoise_s,
        "ms_per_step": ms_per_step,
        "steps_per_block": f64::from(figures.passes) / f64::from(figures.blocks.max(1)),
        "tokens_per_step": f64::from(figures.tokens) / f64::from(figures.passes.max(1)),
        "weight_bytes": place.weight_bytes, "bytes_touched_per_step": work.bytes,
        "copy_gb_per_s": place.limits.copy_gb_per_s, "read_gb_per_s": place.limits.read_gb_per_s,
        "matrix_gop_per_s": place.limits.matrix_gop_per_s,
        "floor_ms": floor_ms, "floor_ratio": ms_per_step / floor_ms,
        "every_repetition_wrote_the_same": is_repeated,
    });
    if let Some(lost_bytes) = lost_bytes {
        report["lost_bytes"] = json!(lost_bytes);
    }
    if let Some(watch) = &place.watch {
        let kernels = watch.take().into_iter().map(|(kernel, (launches, took))| {
            (kernel, json!({"launches": launches, "us": 1e6 * took.as_secs_f64() / launches as f64}))
        });
        report["kernels"] = kernels.collect();
    }
    if let Some(tokens_per_step) = args.tokens_per_step {
        let task = Task {
            config,
            weights: &subject.weights,
            quant: args.quant,
            prompt: &prompts[0],
            banned: &banned(config),
            generate_tokens: args.generate_tokens,
            tokens_per_step,
            threads: place.threads,
            device: if place.gpu.is_some() { "cuda" } else { "cpu" },
            repeat: args.repeat,
        };
        let seconds = figures.denoise_s + if reads_first { figures.prefill_s } else { 0.0 };
        let ours = Ours { seconds, passes: figures.passes, answer: &figures.answer };
        report["peers"] = args.peers.measure(&task, &ours)?;
    }
    Ok(Some(report))
}

impl Load {
    /// Returns how many positions the cache needs.
    fn positions(self, args: &EngineArgs) -> usize {
        self.batch * (self.prompt_tokens + args.generate_tokens + 2 * PAGE)
    }
}

impl Subject {
    fn new(args: &EngineArgs) -> anyhow::Result<Subject> {
        if let Some(shape) = args.shape {
            return Ok(Subject {
                name: shape.name().to_owned(),
                config: shape.config(args.layers)?,
                weights: Weights::Random { seed: SEED },
                articles: None,
            });
        }
        let folder = ModelPlace { dir: args.model.clone(), ..ModelPlace::default() }.folder();
        let tokenizer = Tokenizer::read(&folder)?;
        let mut ids = Vec::new();
        for seed in seeds()? {
            for article in &seed.articles {
                tokenizer.encode(&article.body, &mut ids)?;
            }
        }
        Ok(Subject {
            name: folder.display().to_string(),
            config: ModelConfig::read(&folder)?,
            weights: Weights::open(&folder)?,
            articles: Some(ids),
        })
    }

    /// Returns prompts of seed articles, each from another place; of a shape, random ones.
    fn prompts(&self, load: Load) -> anyhow::Result<Vec<Vec<u32>>> {
        let Load { batch, prompt_tokens } = load;
        let Some(ids) = &self.articles else {
            let (mask, vocabulary) = (self.config.mask_token_id, self.config.vocab_size);
            let prompt = |i: usize| {
                let mut ids = random::tokens(i as u64, prompt_tokens, vocabulary);
                // A mask would be no text.
                ids.iter_mut().filter(|id| **id == mask).for_each(|id| *id = u32::from(mask == 0));
                ids
            };
            return Ok((0..batch).map(prompt).collect());
        };
        anyhow::ensure!(ids.len() > prompt_tokens, "the seed articles have {} tokens only", ids.len());
        let places = ids.len() - prompt_tokens;
        let start = |i: usize| i * 7919 % places;
        Ok((0..batch).map(|i| ids[start(i)..start(i) + prompt_tokens].to_vec()).collect())
    }
}

/// Returns the rule that decides what settles.
fn rule(args: &EngineArgs, config: &ModelConfig, load: Load) -> anyhow::Result<Rule> {
    let Some(tokens) = args.tokens_per_step else {
        return Ok(Rule::Threshold { threshold: args.threshold, steps: args.steps });
    };
    let block = config.block_length();
    anyhow::ensure!(
        tokens > 0 && block.is_multiple_of(tokens),
        "--tokens-per-step {tokens} does not divide a block of {block} tokens"
    );
    anyhow::ensure!(
        load.prompt_tokens.is_multiple_of(block) && args.generate_tokens.is_multiple_of(block),
        "with --tokens-per-step, --prompt-tokens and --generate-tokens must be multiples of {block}"
    );
    Ok(Rule::LowConfidence { steps: block / tokens })
}

/// Lets prompts be read and answers be written.
fn measure(place: &mut Place, args: &EngineArgs, rule: Rule, prompts: &[Vec<u32>]) -> Figures {
    let Place { runner, step_rows, watch, .. } = place;
    let config = &runner.config().clone();
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
            let rows = (*step_rows).min(slot.sequence.pending() - block);
            runner.step(&mut [(slot, rows)]);
        }
    }
    let prefill_s = began.elapsed().as_secs_f64();
    // Denoising is what is told of each kernel.
    watch.iter().for_each(|watch| drop(watch.take()));
    let (mut steps, mut denoise_s) = (0, 0.0);
    let mut work = Work { bytes: 0.0, products: 0.0 };
    let (of_row, of_head) = (products_of_row(config), config.hidden_size * config.vocab_size);
    let of_position = runner.bytes_per_position();
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
        let began = Instant::now();
        runner.step(&mut running);
        denoise_s += began.elapsed().as_secs_f64();
        work.bytes += runner.touched_bytes() as f64;
        steps += 1;
    }
    let sum = |of: fn(&Sequence) -> u32| slots.iter().map(|s| of(&s.sequence)).sum();
    Figures {
        prefill_s,
        denoise_s,
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

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::engine::cuda;

    /// Measures a shape on an emulated GPU, every kernel by itself.
    #[test]
    fn a_gpu_is_measured_with_every_batch() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: EngineArgs,
        }
        let line = "bench --shape nano --layers 1 --batch 1,2 --prompt 32 --generate-tokens 16 \
                    --tokens-per-step 8 --repeat 2 --step-rows 32 --profile";
        let args = <Line as clap::Parser>::parse_from(line.split_whitespace()).args;
        let subject = Subject::new(&args).unwrap();
        let limits = cuda::limits::Limits { bytes_per_s: 1e9, operations_per_s: 1e12 };
        let loads = loads(&args);
        let wanted = wanted(&args, &subject, &loads);
        let mut place = Place::on_gpu(wanted, cuda::emulator::open(), limits).unwrap();
        assert_eq!(loads.len(), 2);
        for (load, tokens) in loads.into_iter().zip([16, 32]) {
            let report = measure_one(&args, &subject, &mut place, load).unwrap().unwrap();
            assert_eq!(report["generated_tokens"], tokens);
            assert_eq!(report["every_repetition_wrote_the_same"], true);
            assert!(report["kernels"]["attend_bf16_64"]["launches"].as_u64().unwrap() > 0, "{report}");
            assert!(report["bytes_touched_per_step"].as_f64().unwrap() > 1e5, "{report}");
        }
        // A megabyte of a terabyte's cache.
        place.cache_bytes = Some(1 << 20);
        let load = Load { batch: 64, prompt_tokens: 4096 };
        assert!(measure_one(&args, &subject, &mut place, load).unwrap().is_none(), "it is left out");
    }
}
