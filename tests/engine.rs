//! The engine from a trained checkpoint to text: training, resuming, caching, batching, cancelling.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use chatdlm::engine::config::ModelConfig;
use chatdlm::engine::constraint::Constraint;
use chatdlm::engine::constraint::ConstraintError;
use chatdlm::engine::device::Device;
use chatdlm::engine::handle::Engine;
use chatdlm::engine::handle::EngineConfig;
use chatdlm::engine::handle::EngineError;
use chatdlm::engine::handle::GenerateRequest;
use chatdlm::engine::handle::Snapshot;
use chatdlm::engine::kv_cache::KvCache;
use chatdlm::engine::kv_cache::PAGE;
use chatdlm::engine::model::cpu::Cpu;
use chatdlm::engine::model::forward::Sight;
use chatdlm::engine::model::linear::Quant;
use chatdlm::engine::model::llada2::Llada2Config;
use chatdlm::engine::model::transformer::Model;
use chatdlm::engine::runner::Runner;
use chatdlm::engine::sampler::Rule;
use chatdlm::engine::sampling::Sampling;
use chatdlm::engine::scheduler::Claim;
use chatdlm::engine::sequence::Form;
use chatdlm::engine::sequence::Generate;
use chatdlm::engine::sequence::Sequence;
use chatdlm::engine::tokenizer::Tokenizer;
use chatdlm::engine::train::objective::Example;
use chatdlm::engine::train::objective::Objective;
use chatdlm::engine::train::optimizer::OptimizerConfig;
use chatdlm::engine::train::optimizer::Schedule;
use chatdlm::engine::train::shards::Sharding;
use chatdlm::engine::train::shards::Stage;
use chatdlm::engine::train::trainer;
use chatdlm::engine::train::trainer::TrainOptions;
use chatdlm::engine::weights::Weights;
use regex::Regex;

const FAMILIES: [&str; 7] =
    ["dream", "llada", "llada2_moe", "llada2_moe_block_routing", "lladamoe", "sdar", "sdar_moe"];

const CONTROLS: [&str; 3] = ["<|mask|>", "<|end|>", "<|pad|>"];

fn config() -> Llada2Config {
    serde_json::from_value(serde_json::json!({
        "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 300,
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5, "max_position_embeddings": 256, "num_experts": 4,
        "num_experts_per_tok": 2, "num_shared_experts": 1, "moe_intermediate_size": 16,
        "tie_word_embeddings": true, "block_size": 8,
        "mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }))
    .unwrap()
}

/// Counting up by one from different starts: easy to learn, easy to check.
fn examples() -> Vec<Example> {
    (0..64)
        .map(|i| Example { tokens: (0..24).map(|n| 20 + (i * 3 + n) % 60).collect(), labels: vec![] })
        .collect()
}

fn options(out: &Path, steps: u64) -> TrainOptions {
    TrainOptions {
        device: Device::Cpu,
        out: out.to_owned(),
        from: None,
        objective: Objective::BlockDiffusion,
        batch_tokens: 256,
        pass_tokens: 2048,
        schedule: Schedule { warm_up: 5, decay: 1, steps },
        optimizer: OptimizerConfig { learning_rate: 5e-3, ..OptimizerConfig::default() },
        checkpoint_every: 10,
        log_every: 10,
        seed: 3,
        recomputes: false,
        sharding: Sharding::default(),
    }
}

fn train(out: &Path, steps: u64) -> Vec<f64> {
    train_with(&options(out, steps))
}

fn train_with(options: &TrainOptions) -> Vec<f64> {
    let mut losses = Vec::new();
    trainer::train(config(), &examples(), &examples()[..8], options, |progress| {
        losses.push(progress.loss);
        true
    })
    .unwrap();
    losses
}

/// A checkpoint of random weights with a tokenizer beside it.
fn checkpoint(folder: &Path) {
    train(folder, 10);
    let texts = ["one two three four five six seven", "the quick brown fox"];
    Tokenizer::train(texts.into_iter(), 300, &CONTROLS).unwrap().write(folder).unwrap();
}

fn request(prompt: &[u32], tokens: usize) -> GenerateRequest {
    let rule = Rule::Threshold { threshold: 0.5, steps: 8 };
    let generate = Generate {
        rule,
        banned: vec![0],
        banned_at: vec![],
        stops_at_end: false,
        sampling: None,
        min_passes: 0,
        ..Generate::default()
    };
    GenerateRequest {
        prompt: prompt.to_vec(),
        canvas: vec![None; tokens],
        block_length: None,
        generate,
        constraint: None,
        claim: Claim::default(),
    }
}

async fn finish(engine: &Engine, request: GenerateRequest) -> Snapshot {
    engine.generate(request).unwrap().finish().await.unwrap()
}

#[test]
fn a_run_may_begin_with_the_weights_of_another_objective() {
    let folders = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let with = |objective, i: usize| TrainOptions { objective, ..options(folders[i].path(), 60) };
    for (i, objective) in [Objective::Masked, Objective::Autoregressive].into_iter().enumerate() {
        let losses = train_with(&with(objective, i));
        assert!(losses[5] < 0.7 * losses[0], "{objective:?} is learned: {losses:?}");
    }
    let afresh = train(folders[2].path(), 10);
    let from = Some(folders[0].path().to_owned());
    let converted = train_with(&TrainOptions { from, ..options(folders[3].path(), 10) });
    assert!(converted[0] < 0.8 * afresh[0], "{converted:?} after masked, {afresh:?} from nothing");
}

#[test]
fn reference_fixtures_of_every_family_reproduce() {
    let folders = FAMILIES.map(|family| format!("tests/fixtures/{family}"));
    let output = Command::new(env!("CARGO_BIN_EXE_chatdlm"))
        .args(["eval", "fixtures"])
        .args(&folders)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for family in FAMILIES {
        assert!(text.contains(&format!("ok    {family} forward 0")), "{text}");
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_chatdlm"))
        .args(["eval", "fixtures", "tests/none"])
        .output()
        .unwrap();
    assert!(!missing.status.success());
}

#[test]
fn training_learns_and_resumes_to_the_same_loss() {
    let whole = tempfile::tempdir().unwrap();
    let losses = train(whole.path(), 40);
    assert!(losses.last().unwrap() < &(losses[0] - 0.3), "{losses:?}");
    let parts = tempfile::tempdir().unwrap();
    // The schedule is that of the whole run; the first part is cut short by whoever watches.
    let mut first = Vec::new();
    trainer::train(config(), &examples(), &examples()[..8], &options(parts.path(), 40), |progress| {
        first.push(progress.loss);
        progress.step < 20
    })
    .unwrap();
    let second = train(parts.path(), 40);
    assert_eq!([first, second].concat(), losses);
}

#[test]
fn gradients_by_parts_and_layers_computed_again_train_alike() {
    let losses = |zero, recomputes| {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path(), 20);
        (options.sharding.stage, options.recomputes) = (zero, recomputes);
        let mut losses = Vec::new();
        let network = trainer::train(config(), &examples(), &examples()[..8], &options, |progress| {
            losses.extend([progress.loss, progress.dev_loss.unwrap()]);
            let [memory] = progress.memory[..] else { panic!("{:?}", progress.memory) };
            losses.push(memory.moments as f64);
            true
        });
        assert_eq!(network.unwrap().gradients.is_empty(), zero == Stage::Gradients);
        losses
    };
    let whole = losses(Stage::Moments, false);
    assert_eq!(losses(Stage::Moments, true), whole);
    // The embeddings' gradients are summed in another order.
    for (parts, whole) in losses(Stage::Gradients, true).iter().zip(&whole) {
        assert!((parts - whole).abs() < 1e-3 * whole, "{parts} and {whole}");
    }
}

#[test]
fn a_run_on_other_data_does_not_resume() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), 10);
    let fewer = &examples()[..10];
    let error = trainer::train(config(), fewer, fewer, &options(folder.path(), 20), |_| true).unwrap_err();
    assert!(error.to_string().contains("64 examples"), "{error}");
}

#[test]
fn the_cache_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), 10);
    let weights = Weights::open(folder.path()).unwrap();
    let model = ModelConfig::read(folder.path()).unwrap();
    let form = Form::of(&model);
    let mut runner = Runner::new(
        Box::new(Cpu::new(Model::load(model, &weights, Quant::F32, |_, _| {}).unwrap())),
        1 << 24,
    );
    let prompt: Vec<u32> = (20..45).collect();
    let GenerateRequest { canvas, generate, .. } = request(&prompt, 20);
    let sequence = Sequence::generate(&prompt, &canvas, form, generate);
    // Cached, in small chunks.
    let mut slot = runner.slot(sequence, vec![]).unwrap();
    while !slot.sequence.is_done {
        runner.step(&mut [(&mut slot, 8)]);
    }
    // The last block's tokens by a forward pass over everything, without a cache.
    let tokens = slot.sequence.tokens.clone();
    let mut masked = tokens.clone();
    let last = tokens.len() - 8;
    masked[last..].fill(0);
    let logits = runner.logits(&masked, Sight::Blocks(8));
    let GenerateRequest { generate, .. } = request(&prompt, 20);
    let canvas: Vec<Option<u32>> = tokens[25..last].iter().map(|t| Some(*t)).chain([None; 4]).collect();
    runner.release(&slot);
    runner.forget(1 << 24);
    let mut fresh = runner.slot(Sequence::generate(&prompt, &canvas, form, generate), vec![]).unwrap();
    while !fresh.sequence.is_done {
        runner.step(&mut [(&mut fresh, 1000)]);
    }
    assert_eq!(fresh.sequence.tokens, tokens, "prefilled at once or block by block");
    assert!(logits.iter().all(|l| l.is_finite()));
}

/// Runs a generation of the prompt to its end; returns tokens, confidences and reused positions.
fn run(runner: &mut Runner, prompt: &[u32]) -> (Vec<u32>, Vec<f32>, usize) {
    let GenerateRequest { canvas, generate, .. } = request(prompt, 30);
    let form = Form::of(runner.config());
    let mut slot = runner.slot(Sequence::generate(prompt, &canvas, form, generate), vec![]).unwrap();
    while !slot.sequence.is_done {
        runner.step(&mut [(&mut slot, 24)]);
    }
    runner.release(&slot);
    (slot.sequence.tokens.clone(), slot.sequence.confidences().to_vec(), slot.reused)
}

#[test]
fn a_warm_prefix_changes_no_bit_of_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let weights = Weights::open(folder.path()).unwrap();
    let model = ModelConfig::read(folder.path()).unwrap();
    for quant in [Quant::Q8, Quant::Q4] {
        let loaded = Model::load(model.clone(), &weights, quant, |_, _| {}).unwrap();
        let mut runner = Runner::new(Box::new(Cpu::new(loaded)), 1 << 24);
        let short: Vec<u32> = (20..90).collect();
        let long: Vec<u32> = (20..145).collect();
        let (tokens, confidences, reused) = run(&mut runner, &short);
        assert_eq!(reused, 0);
        let warm = run(&mut runner, &short);
        assert_eq!(warm, (tokens, confidences, 64), "the full page of the prompt is there");
        let warm = run(&mut runner, &long);
        assert_eq!(warm.2, 64, "what the prompts have in common");
        runner.forget(1 << 24);
        let cold = run(&mut runner, &long);
        assert_eq!((cold.0, cold.1), (warm.0, warm.1));
    }
}

#[test]
fn cancelling_at_any_step_leaks_no_page() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let weights = Weights::open(folder.path()).unwrap();
    let model = ModelConfig::read(folder.path()).unwrap();
    let form = Form::of(&model);
    let bytes = 12 * PAGE * KvCache::bytes_per_position(&model);
    let mut runner =
        Runner::new(Box::new(Cpu::new(Model::load(model, &weights, Quant::Q8, |_, _| {}).unwrap())), bytes);
    assert_eq!(runner.available(), 12 * PAGE);
    for steps in 0..12 {
        let mut slots = Vec::new();
        for i in 0..4 {
            let prompt: Vec<u32> = (20..40 + i * 25).collect();
            let GenerateRequest { canvas, generate, .. } = request(&prompt, 20);
            // The last does not fit beside the others, unless they share enough.
            slots.extend(runner.slot(Sequence::generate(&prompt, &canvas, form, generate), vec![]));
        }
        for _ in 0..steps {
            let mut running: Vec<_> =
                slots.iter_mut().filter(|slot| !slot.sequence.is_done).map(|slot| (slot, 16)).collect();
            runner.step(&mut running);
        }
        assert!(runner.available() < 12 * PAGE);
        slots.iter().for_each(|slot| runner.release(slot));
        assert_eq!(runner.available(), 12 * PAGE, "after {steps} steps");
    }
}

#[tokio::test]
async fn greedy_output_is_the_same_alone_and_in_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    for quant in [Quant::Q8, Quant::Q4] {
        let engine = Engine::start(folder.path(), EngineConfig { quant, ..EngineConfig::default() }).unwrap();
        let prompts: Vec<Vec<u32>> = (0..6).map(|i| (20..25 + i * 7).collect()).collect();
        let mut alone = Vec::new();
        for prompt in &prompts {
            alone.push(finish(&engine, request(prompt, 21)).await);
        }
        let together =
            futures_util::future::join_all(prompts.iter().map(|p| finish(&engine, request(p, 21)))).await;
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!((&alone.canvas, &alone.confidences), (&together.canvas, &together.confidences));
            assert!(!alone.canvas.contains(&0), "no mask is left");
        }
    }
}

#[tokio::test]
async fn dropping_a_generation_cancels_it_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let config = EngineConfig { max_running: 1, max_waiting: 4, ..EngineConfig::default() };
    let engine = Engine::start(folder.path(), config).unwrap();
    for _ in 0..20 {
        // One runs at a time: if the dropped one went on, the queue would fill up and refuse.
        match engine.generate(request(&[20; 40], 200)) {
            Ok(generation) => drop(generation),
            Err(EngineError::Overloaded(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    let mut done = None;
    while done.is_none() {
        match engine.generate(request(&[20; 5], 8)) {
            Ok(generation) => done = Some(generation.finish().await.unwrap()),
            Err(EngineError::Overloaded(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(done.unwrap().unmasked, 11, "eight and the rest of the last block");
}

#[tokio::test]
async fn scores_are_probabilities_and_bad_requests_are_named() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let engine =
        Engine::start(folder.path(), EngineConfig { max_tokens: 64, ..EngineConfig::default() }).unwrap();
    let scores = engine.score(&[20, 21, 0, 1], 2, vec![22, 23, 24], Claim::default()).await.unwrap();
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    assert!(matches!(
        engine.generate(request(&[20; 60], 10)),
        Err(EngineError::TooLong { tokens: 70, limit: 64 })
    ));
    assert!(matches!(engine.generate(request(&[300], 8)), Err(EngineError::Token(300))));
    assert!(engine.score(&[], 0, vec![], Claim::default()).await.is_err());
    assert!(matches!(
        engine.score(&[20], 1, vec![22], Claim::default()).await,
        Err(EngineError::Position { .. })
    ));
    // The scored position ends a block of a prompt that is read in several steps.
    let config = EngineConfig { step_rows: 8, ..EngineConfig::default() };
    let slow = Engine::start(folder.path(), config).unwrap();
    let scores = slow.score(&[20; 25], 23, vec![22, 23, 24], Claim::default()).await.unwrap();
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
}

#[tokio::test]
async fn a_deadline_refuses_what_is_late_and_changes_nothing_in_time() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let engine = Engine::start(folder.path(), EngineConfig::default()).unwrap();
    let now = Instant::now();
    let claim = |deadline| Claim { deadline: Some(deadline), ..Claim::default() };
    let late = GenerateRequest { claim: claim(now), ..request(&[20; 9], 20) };
    assert!(matches!(engine.generate(late).unwrap().next().await, Err(EngineError::Late(_))));
    let late = engine.score(&[20, 21, 0, 1], 2, vec![22, 23], claim(now)).await;
    assert!(matches!(late, Err(EngineError::Late(_))));
    let mut in_time =
        GenerateRequest { claim: claim(now + Duration::from_secs(3600)), ..request(&[20; 9], 20) };
    in_time.generate.least_threshold = Some(0.0);
    let (in_time, free) = (finish(&engine, in_time).await, finish(&engine, request(&[20; 9], 20)).await);
    assert_eq!((&in_time.canvas, in_time.steps), (&free.canvas, free.steps));
    assert!(free.predicted_steps >= free.blocks && free.fixed_steps >= free.steps, "{free:?}");
}

#[tokio::test]
async fn a_structure_holds_around_pinned_stretches() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let engine = Engine::start(folder.path(), EngineConfig::default()).unwrap();
    let tokenizer = engine.tokenizer();
    let ids = |text: &str| {
        let mut ids = Vec::new();
        tokenizer.encode(text, &mut ids).unwrap();
        ids
    };
    let (first, second) = (ids(" quick"), ids("-seven"));
    let fixed = |ids: &[u32]| ids.iter().copied().map(Some).collect::<Vec<_>>();
    let canvas = [vec![None; 7], fixed(&first), vec![None; 9], fixed(&second), vec![None; 12]].concat();
    let pattern = "[a-z]{3,9}(, [a-z]+)* quick( [0-9]{2}|x)+-seven(y(ab|c)*z){0,2}";
    let whole = Regex::new(&format!("^(?:{pattern})$")).unwrap();
    let constraint = Constraint::Regex(pattern.to_owned()).compile(tokenizer).unwrap();
    let asked = |seed: u64| {
        let mut asked = request(&[20, 21, 22], 0);
        (asked.canvas, asked.constraint) = (canvas.clone(), Some(Arc::clone(&constraint)));
        let sampling = Sampling { temperature: 1.5, top_p: 1.0, top_k: 0, seed };
        asked.generate.sampling = (seed > 0).then_some(sampling);
        asked
    };
    let together = futures_util::future::join_all((0..6).map(|seed| finish(&engine, asked(seed)))).await;
    for (seed, found) in (0..).zip(together) {
        for (place, pinned) in canvas.iter().zip(&found.canvas) {
            assert!(place.is_none_or(|id| id == *pinned), "seed {seed}: given tokens stay");
        }
        let end = found.canvas.iter().position(|id| *id == 1).unwrap_or(found.canvas.len());
        let text = tokenizer.decode(&found.canvas[..end]);
        assert!(whole.is_match(&text), "seed {seed}: {text:?}");
        assert_eq!(finish(&engine, asked(seed)).await.canvas, found.canvas, "alone as in a batch");
    }
    // What is pinned may leave no way.
    let pattern = "[a-z]+ quick[a-z]+";
    let constraint = Constraint::Regex(pattern.to_owned()).compile(tokenizer).unwrap();
    let refused = engine.generate(GenerateRequest { constraint: Some(constraint), ..asked(0) });
    assert!(matches!(refused, Err(EngineError::Constraint(ConstraintError::Unfillable { .. }))));
}

#[test]
fn damaged_checkpoints_are_named() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(folder.path());
    let start = || Engine::start(folder.path(), EngineConfig::default()).map(|_| ()).unwrap_err().to_string();
    let shard = folder.path().join("model-00001-of-00001.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    assert!(start().contains("model-00001-of-00001.safetensors"), "{}", start());
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert!(start().contains("tokenizer.json"), "{}", start());
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert!(start().contains("config.json"), "{}", start());
}
