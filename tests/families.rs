//! What the families share: full attention with and without an approximate cache, shifted logits,
//! tied heads, and all of it through the engine. Fixtures prove the numbers (`tests/engine.rs`).

use std::path::Path;

use chatdlm::engine::config::EditTokens;
use chatdlm::engine::config::FeedForwardShape;
use chatdlm::engine::config::ModelConfig;
use chatdlm::engine::handle::Engine;
use chatdlm::engine::handle::EngineConfig;
use chatdlm::engine::handle::EngineError;
use chatdlm::engine::handle::GenerateRequest;
use chatdlm::engine::handle::Snapshot;
use chatdlm::engine::levenshtein::Levenshtein;
use chatdlm::engine::model::cpu::Cpu;
use chatdlm::engine::model::forward::Sight;
use chatdlm::engine::model::linear::Quant;
use chatdlm::engine::model::llada2::Llada2Config;
use chatdlm::engine::model::transformer::Model;
use chatdlm::engine::runner::Runner;
use chatdlm::engine::sampler::Rule;
use chatdlm::engine::scheduler::Claim;
use chatdlm::engine::sequence::CacheMode;
use chatdlm::engine::sequence::Form;
use chatdlm::engine::sequence::Generate;
use chatdlm::engine::sequence::Sequence;
use chatdlm::engine::tokenizer::Tokenizer;
use chatdlm::engine::weights::Weights;
use serde_json::json;

const MASK: u32 = 319;
const FAMILIES: [&str; 7] =
    ["dream", "llada", "llada2_moe", "llada2_moe_block_routing", "lladamoe", "sdar", "sdar_moe"];
const FULL: [&str; 3] = ["dream", "llada", "lladamoe"];

fn fixture(family: &str) -> std::path::PathBuf {
    Path::new("tests/fixtures").join(family)
}

fn runner(folder: &Path, quant: Quant) -> Runner {
    let config = ModelConfig::read(folder).unwrap();
    let model = Model::load(config, &Weights::open(folder).unwrap(), quant, |_, _| {}).unwrap();
    Runner::new(Box::new(Cpu::new(model)), 1 << 24)
}

fn generate(steps: usize) -> Generate {
    Generate {
        rule: Rule::LowConfidence { steps },
        banned: vec![MASK],
        banned_at: vec![],
        stops_at_end: false,
        sampling: None,
        min_passes: 0,
        ..Generate::default()
    }
}

/// Denoises 12 tokens after 9 in blocks of 4; returns them and how many rows each pass computed.
fn denoise(runner: &mut Runner, cache: CacheMode, steps: usize) -> (Vec<u32>, Vec<usize>) {
    let form = Form { block: 4, cache, ..Form::of(runner.config()) };
    let prompt: Vec<u32> = (40..49).collect();
    let mut slot =
        runner.slot(Sequence::generate(&prompt, &[None; 12], form, generate(steps)), vec![]).unwrap();
    let mut rows = Vec::new();
    while !slot.sequence.is_done {
        rows.push(runner.step(&mut [(&mut slot, 1)])[0].rows);
    }
    (slot.sequence.canvas().to_vec(), rows)
}

#[test]
fn full_attention_decodes_as_a_forward_pass_over_everything_says() {
    for family in FULL {
        let mut runner = runner(&fixture(family), Quant::F32);
        let config = runner.config().clone();
        let (found, rows) = denoise(&mut runner, CacheMode::Exact, 2);
        assert_eq!(rows, [21; 6], "{family}: every pass computes every row");
        let mut tokens: Vec<u32> = (40..49).chain([MASK; 12]).collect();
        for pass in 0..6 {
            let logits = runner.logits(&tokens, Sight::Below(21));
            let block = 9 + pass / 2 * 4..9 + pass / 2 * 4 + 4;
            let mut candidates: Vec<(f32, usize, u32)> = block
                .filter(|position| tokens[*position] == MASK)
                .map(|position| {
                    let row = (position - config.logits_shift) * config.vocab_size;
                    let row = &logits[row..row + MASK as usize];
                    let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f32 = row.iter().map(|l| (l - best).exp()).sum();
                    let token = row.iter().position(|l| *l == best).unwrap();
                    (1.0 / sum, position, token as u32)
                })
                .collect();
            candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
            candidates[..2].iter().for_each(|(_, position, token)| tokens[*position] = *token);
        }
        assert_eq!(found, tokens[9..], "{family}");
    }
}

#[test]
fn a_cache_changes_nothing_in_the_pass_that_begins_a_block() {
    for family in FULL {
        let mut runner = runner(&fixture(family), Quant::F32);
        let (exact, rows) = denoise(&mut runner, CacheMode::Exact, 1);
        for cache in [CacheMode::Prefix, CacheMode::Dual] {
            let found = denoise(&mut runner, cache, 1);
            assert_eq!(found, (exact.clone(), rows.clone()), "{family} {cache:?}");
        }
    }
}

#[test]
fn a_cache_saves_the_rows_around_the_block() {
    for family in FULL {
        let mut runner = runner(&fixture(family), Quant::F32);
        let shift = runner.config().logits_shift;
        let (prefix, rows) = denoise(&mut runner, CacheMode::Prefix, 2);
        assert_eq!(rows, [21, 12 + shift, 21, 8 + shift, 21, 4 + shift], "{family}");
        let (dual, rows) = denoise(&mut runner, CacheMode::Dual, 2);
        assert_eq!(rows, [21, 4 + shift, 21, 4 + shift, 21, 4 + shift], "{family}");
        assert!(!prefix.contains(&MASK) && !dual.contains(&MASK), "{family}");
    }
}

#[test]
fn a_cache_is_exact_where_nothing_is_around_the_block() {
    for family in FULL {
        let mut runner = runner(&fixture(family), Quant::F32);
        let mut tokens = [CacheMode::Exact, CacheMode::Prefix, CacheMode::Dual].map(|cache| {
            let form = Form { block: 8, cache, ..Form::of(runner.config()) };
            let sequence = Sequence::generate(&[], &[None; 8], form, generate(4));
            let mut slot = runner.slot(sequence, vec![]).unwrap();
            while !slot.sequence.is_done {
                runner.step(&mut [(&mut slot, 8)]);
            }
            slot.sequence.tokens
        });
        let exact = std::mem::take(&mut tokens[0]);
        assert_eq!(tokens[1..], [exact.clone(), exact], "{family}");
    }
}

#[test]
fn block_causal_families_take_no_approximate_cache() {
    for family in ["llada2_moe", "llada2_moe_block_routing", "sdar", "sdar_moe"] {
        let mut runner = runner(&fixture(family), Quant::F32);
        let exact = denoise(&mut runner, CacheMode::Exact, 2);
        assert_eq!(denoise(&mut runner, CacheMode::Dual, 2), exact, "{family}");
    }
}

/// Copies a fixture's checkpoint to a folder, its configuration changed.
fn copy(family: &str, folder: &Path, change: impl Fn(&mut serde_json::Value)) {
    let from = fixture(family);
    std::fs::copy(from.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let text = std::fs::read(from.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    change(&mut config);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn a_tied_head_is_the_embedding_table() {
    for family in ["dream", "lladamoe", "sdar"] {
        let folder = tempfile::tempdir().unwrap();
        copy(family, folder.path(), |config| config["tie_word_embeddings"] = true.into());
        let tokens: Vec<u32> = (10..30).collect();
        let tied = runner(folder.path(), Quant::F32).logits(&tokens, Sight::Below(20));
        let own = runner(&fixture(family), Quant::F32).logits(&tokens, Sight::Below(20));
        assert_ne!(tied, own, "{family}");
        // The head's own tensor replaced by the table, untied.
        let bytes = std::fs::read(fixture(family).join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let table = tensors.tensor("model.embed_tokens.weight").unwrap();
        let views = tensors.tensors().into_iter().map(|(name, view)| match name.as_str() {
            "lm_head.weight" => (name, table.clone()),
            _ => (name, view),
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        copy(family, folder.path(), |_| {});
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let replaced = runner(folder.path(), Quant::F32).logits(&tokens, Sight::Below(20));
        assert_eq!(tied, replaced, "{family}");
    }
}

#[test]
fn what_is_asked_for_and_not_supported_is_named() {
    let check = |family: &str, field: &str, value: serde_json::Value, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        copy(family, folder.path(), |config| config[field] = value.clone());
        let error = ModelConfig::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains(expected), "{family} {field}: {error}");
    };
    let yarn = || json!({"rope_type": "yarn", "factor": 4.0});
    check("llada2_moe", "architectures", json!(["GPT2LMHeadModel"]), "GPT2LMHeadModel");
    check("llada2_moe", "norm_head", json!(true), "norm_head");
    check("llada2_moe", "hidden_act", json!("gelu"), "hidden_act \"gelu\"");
    check("llada2_moe", "score_function", json!("softmax"), "score_function");
    check("llada2_moe", "rope_scaling", yarn(), "rope scaling \"yarn\"");
    check("llada2_moe", "rope_parameters", yarn(), "rope scaling \"yarn\"");
    check("llada2_moe", "topk_group", json!(5), "5 of 4 groups of 16 experts");
    check("llada2_moe", "num_experts_per_tok", json!(9), "9 experts cannot be chosen from 8");
    check("llada2_moe", "mask_token_id", json!(320), "mask token 320 is outside");
    check("llada2_moe_block_routing", "expert_capacity", json!(3), "4 experts cannot be chosen from 3");
    check("lladamoe", "moe_router_enable_expert_bias", json!(true), "moe_router_enable_expert_bias");
    check("lladamoe", "moe_router_score_function", json!("sigmoid"), "moe_router_score_function");
    check("lladamoe", "moe_layer_freq", json!([1, 1]), "moe_layer_freq names 2 layers");
    check("llada", "block_type", json!("sequential"), "block_type \"sequential\"");
    check("llada", "alibi", json!(true), "alibi");
    check("llada", "layer_norm_type", json!("default"), "layer_norm_type");
    check("llada", "clip_qkv", json!(8.0), "clip_qkv");
    check("dream", "use_sliding_window", json!(true), "use_sliding_window");
    check("sdar", "num_key_value_heads", json!(3), "3 key and value heads do not divide 4");
    check("sdar_moe", "moe_intermediate_size", json!(null), "a sparse layer needs");
}

#[test]
fn a_configuration_is_read_in_all_its_published_forms() {
    let read = |family: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let folder = tempfile::tempdir().unwrap();
        copy(family, folder.path(), change);
        ModelConfig::read(folder.path()).unwrap()
    };
    let plain = |family: &str| read(family, &|_| {});
    // The rotation as Transformers 5 writes it.
    let moved = read("llada2_moe", &|config| {
        let theta = config["rope_theta"].take();
        config["partial_rotary_factor"].take();
        config["rope_parameters"] =
            json!({"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5});
    });
    assert_eq!(moved, plain("llada2_moe"));
    // What has a default: heads of keys, width of a head, several ends of text.
    let short = read("lladamoe", &|config| {
        config["num_key_value_heads"].take();
        config["moe_layer_freq"].take();
        config["eos_token_id"] = json!([318, 317]);
    });
    assert_eq!(short, plain("lladamoe"));
    let mixed = read("sdar_moe", &|config| {
        config["decoder_sparse_step"] = json!(2);
        config["mlp_only_layers"] = json!([1]);
    });
    assert_eq!(mixed.layers, [FeedForwardShape::Dense(128); 3], "layer 1 would be sparse");
    let grouped = read("llada", &|config| {
        config["n_kv_heads"].take();
        config["multi_query_attention"] = json!(true);
        config["mlp_hidden_size"].take();
    });
    assert_eq!((grouped.num_key_value_heads, &grouped.layers[0]), (1, &FeedForwardShape::Dense(256)));
}

#[test]
fn the_bundled_configuration_is_written_as_it_is_published() {
    let folder = Path::new("models/nano");
    let written = serde_json::to_string_pretty(&Llada2Config::read(folder).unwrap()).unwrap();
    assert_eq!(written, std::fs::read_to_string(folder.join("config.json")).unwrap());
}

#[test]
fn a_clip_takes_effect_where_values_are_beyond_it() {
    let tokens: Vec<u32> = (10..30).collect();
    let logits = |limit: Option<f32>| {
        let folder = tempfile::tempdir().unwrap();
        copy("lladamoe", folder.path(), |config| config["clip_qkv"] = json!(limit));
        runner(folder.path(), Quant::F32).logits(&tokens, Sight::Below(20))
    };
    assert_eq!(logits(Some(1e6)), logits(None));
    assert_ne!(logits(Some(0.1)), logits(None));
}

#[test]
fn a_missing_bias_is_named() {
    let folder = tempfile::tempdir().unwrap();
    copy("sdar", folder.path(), |config| config["attention_bias"] = true.into());
    let config = ModelConfig::read(folder.path()).unwrap();
    let weights = Weights::open(folder.path()).unwrap();
    let error = Model::load(config, &weights, Quant::Q8, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.self_attn.q_proj.bias"), "{error}");
}

/// Returns how two rows of numbers vary together, from −1 to 1.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let mean = |of: &[f32]| of.iter().map(|v| f64::from(*v)).sum::<f64>() / of.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a) - mean_a, f64::from(*b) - mean_b);
        both += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    both / (of_a * of_b).sqrt()
}

#[test]
fn few_bits_keep_the_logits() {
    for family in FAMILIES {
        let tokens: Vec<u32> = (10..42).collect();
        let logits = |quant| runner(&fixture(family), quant).logits(&tokens, Sight::Below(32));
        let exact = logits(Quant::F32);
        // These models are small and their weights random: what a weight loses shows more than in trained
        // ones, most of all where it makes a row take another expert.
        for (quant, least, most) in [(Quant::Q8, 0.96, 0.9999), (Quant::Q4, 0.7, 0.96)] {
            let found = correlation(&logits(quant), &exact);
            assert!((least..most).contains(&found), "{family} {quant:?}: {found}");
        }
    }
}

#[test]
fn the_bundled_model_says_the_same_in_4_bits() {
    let folder = Path::new("models/nano");
    let tokenizer = Tokenizer::read(folder).unwrap();
    let mut tokens = Vec::new();
    let text = "Your internet connection is slow? Restart the router, wait two minutes and try again. \
                If it is still slow after that, we will send a technician to your home.";
    tokenizer.encode(text, &mut tokens).unwrap();
    tokens.truncate(32);
    let vocabulary = ModelConfig::read(folder).unwrap().vocab_size;
    // Every third token is to be guessed.
    let mut asked = tokens.clone();
    let mask = ModelConfig::read(folder).unwrap().mask_token_id;
    asked.iter_mut().step_by(3).for_each(|token| *token = mask);
    let best = |quant| -> Vec<(usize, f32)> {
        let logits = runner(folder, quant).logits(&asked, Sight::Blocks(16));
        let best = |row: &[f32]| {
            let best = (0..vocabulary).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            (best, 1.0 / row.iter().map(|logit| (logit - row[best]).exp()).sum::<f32>())
        };
        logits.chunks_exact(vocabulary).map(best).collect()
    };
    let (exact, four) = (best(Quant::F32), best(Quant::Q4));
    let sure: Vec<_> = exact.iter().zip(&four).filter(|((_, probability), _)| *probability > 0.5).collect();
    assert!(sure.len() > 5, "{exact:?}");
    for ((token, probability), (found, in_four)) in sure {
        assert_eq!(token, found);
        assert!((probability - in_four).abs() < 0.25, "{token}: {probability} became {in_four}");
    }
}

#[test]
fn planned_bytes_are_those_that_are_taken() {
    for (family, quant) in
        FAMILIES.into_iter().flat_map(|f| [Quant::F32, Quant::Q8, Quant::Q4].map(|q| (f, q)))
    {
        let config = ModelConfig::read(&fixture(family)).unwrap();
        let weights = Weights::open(&fixture(family)).unwrap();
        let mut progress = Vec::new();
        let model =
            Model::load(config.clone(), &weights, quant, |done, of| progress.push((done, of))).unwrap();
        assert_eq!(Model::bytes_of(&config, quant), model.bytes(), "{family} {quant:?}");
        let layers = config.layers.len();
        assert_eq!(progress, (1..=layers).map(|i| (i, layers)).collect::<Vec<_>>());
    }
}

#[test]
fn weights_made_up_of_nothing_run_in_every_family() {
    for family in FAMILIES {
        let config = ModelConfig::read(&fixture(family)).unwrap();
        let load = |seed, quant| {
            let weights = Weights::Random { seed };
            let model = Model::load(config.clone(), &weights, quant, |_, _| {}).unwrap();
            Runner::new(Box::new(Cpu::new(model)), 1 << 24)
        };
        let tokens: Vec<u32> = (10..42).collect();
        let logits = |seed, quant| load(seed, quant).logits(&tokens, Sight::Below(32));
        let exact = logits(1, Quant::F32);
        assert!(exact.iter().all(|logit| logit.is_finite()), "{family}");
        assert!(correlation(&exact, &logits(2, Quant::F32)) < 0.5, "{family}: seeds differ");
        assert!(correlation(&exact, &logits(1, Quant::Q4)) > 0.7, "{family}");
    }
}

async fn finish(engine: &Engine, request: GenerateRequest) -> Snapshot {
    engine.generate(request).unwrap().finish().await.unwrap()
}

#[tokio::test]
async fn every_family_runs_in_the_engine_the_same_alone_and_in_a_batch() {
    let families = ["dream", "llada", "lladamoe", "llada2_moe_block_routing", "sdar", "sdar_moe"];
    for family in families {
        let folder = tempfile::tempdir().unwrap();
        copy(family, folder.path(), |_| {});
        let texts = ["one two three four five six seven"];
        let controls = ["<|mask|>", "<|end|>", "<|pad|>"];
        Tokenizer::train(texts.into_iter(), 300, &controls).unwrap().write(folder.path()).unwrap();
        // A budget of fewer rows than a pass of full attention has.
        let config = EngineConfig { step_rows: 16, ..EngineConfig::default() };
        let engine = Engine::start(folder.path(), config).unwrap();
        let request = |i: u32| GenerateRequest {
            prompt: (20..25 + i * 7).collect(),
            canvas: vec![None; 21],
            block_length: Some(8),
            generate: Generate { banned: vec![], ..generate(3) },
            constraint: None,
            claim: Claim::default(),
        };
        let mut alone = Vec::new();
        for i in 0..4 {
            alone.push(finish(&engine, request(i)).await.canvas);
        }
        let together = futures_util::future::join_all((0..4).map(|i| finish(&engine, request(i)))).await;
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(alone, &together.canvas, "{family}");
            assert!(!alone.contains(&MASK), "{family}: no mask is left");
        }
        let scores = engine.score(&[20, 21, MASK, 22], 2, vec![30, 31, 32], Claim::default()).await.unwrap();
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{family}");
    }
}

#[test]
fn instructions_are_those_of_the_file_or_of_llada2_2() {
    let read = |change: &dyn Fn(&mut serde_json::Value)| {
        let folder = tempfile::tempdir().unwrap();
        copy("llada2_moe_block_routing", folder.path(), change);
        ModelConfig::read(folder.path()).map(|config| config.edits)
    };
    let edits = |delete, insert| Some(EditTokens { delete, insert });
    assert_eq!(read(&|_| {}).unwrap(), None, "the vocabulary has no such tokens");
    assert_eq!(read(&|c| c["vocab_size"] = 157_184.into()).unwrap(), edits(156_930, 156_931));
    let without_pools = |c: &mut serde_json::Value| {
        c["vocab_size"] = 157_184.into();
        c["expert_capacity"] = serde_json::Value::Null;
    };
    assert_eq!(read(&without_pools).unwrap(), None, "LLaDA2.0 and 2.1 have none");
    let named = |delete: u32, insert: Option<u32>| {
        move |c: &mut serde_json::Value| {
            (c["delete_token_id"], c["split_token_id"]) = (delete.into(), insert.into());
        }
    };
    assert_eq!(read(&named(7, Some(8))).unwrap(), edits(7, 8));
    for (change, reason) in [
        (named(7, None), "go together"),
        (named(7, Some(7)), "token 7 cannot"),
        (named(7, Some(320)), "token 320 cannot"),
        (named(MASK, Some(8)), "token 319 cannot"),
    ] {
        let error = read(&change).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// No reference trace of LLaDA2.2's decoder is at hand: here are the promises that it must keep.
#[tokio::test]
async fn a_model_that_deletes_and_inserts_ends_and_given_tokens_stay() {
    let request = |rule: Rule, i: u32| {
        let mut canvas = vec![None; 45];
        (canvas[3], canvas[10], canvas[11]) = (Some(50), Some(51), Some(52));
        GenerateRequest {
            prompt: (20..25 + i * 7).collect(),
            canvas,
            block_length: Some(16),
            generate: Generate { rule, ..Generate::default() },
            ..GenerateRequest::default()
        }
    };
    let start = |change: &dyn Fn(&mut serde_json::Value)| {
        let folder = tempfile::tempdir().unwrap();
        copy("llada2_moe_block_routing", folder.path(), change);
        let texts = ["one two three four five six seven"];
        Tokenizer::train(texts.into_iter(), 300, &["<|mask|>", "<|end|>"])
            .unwrap()
            .write(folder.path())
            .unwrap();
        Engine::start(folder.path(), EngineConfig { step_rows: 32, ..EngineConfig::default() }).unwrap()
    };
    // The two tokens that it likes best become the instructions, so that it gives them all the time.
    let plain = start(&|_| {});
    let threshold = Rule::Threshold { threshold: 0.1, steps: 16 };
    let mut counts = std::collections::BTreeMap::<u32, usize>::new();
    for i in 0..4 {
        for id in finish(&plain, request(threshold, i)).await.canvas {
            *counts.entry(id).or_default() += usize::from(![50, 51, 52].contains(&id));
        }
    }
    let mut liked: Vec<u32> = counts.keys().copied().collect();
    liked.sort_by_key(|id| std::cmp::Reverse(counts[id]));
    let (delete, insert) = (liked[0], liked[1]);
    let engine = start(&|config| {
        (config["delete_token_id"], config["split_token_id"]) = (delete.into(), insert.into());
    });
    let rule =
        Levenshtein { threshold: 0.1, editing_threshold: 0.0, steps: 16, max_post_steps: 5, delete, insert };
    let edited = |i| request(Rule::Levenshtein(rule), i);
    let together = futures_util::future::join_all((0..4).map(|i| finish(&engine, edited(i)))).await;
    let mut moved = 0;
    for (i, found) in (0..).zip(&together) {
        assert_eq!(found.canvas, finish(&engine, edited(i)).await.canvas, "alone as in a batch");
        assert_eq!(found.canvas.len(), 45);
        assert_eq!([3, 10, 11].map(|at| found.canvas[at]), [50, 51, 52]);
        assert!(found.canvas.iter().all(|id| ![MASK, delete, insert].contains(id)), "{:?}", found.canvas);
        assert!(
            found.steps <= found.blocks * (16 + 5 + 1),
            "{} passes of {} blocks",
            found.steps,
            found.blocks
        );
        moved += usize::from(found.unmasked as usize > 42 + 16);
    }
    assert!(moved > 0, "some masks were settled more than once: places vanished and were opened");
    // Elsewhere instructions are no text: not written, and not taken.
    let canvas = finish(&engine, request(threshold, 0)).await.canvas;
    assert!(!canvas.contains(&delete) && !canvas.contains(&insert));
    let mut asked = edited(0);
    asked.prompt.push(insert);
    assert!(matches!(engine.generate(asked), Err(EngineError::Instruction(id)) if id == insert));
    let mut asked = edited(0);
    asked.canvas[0] = Some(delete);
    assert!(matches!(engine.generate(asked), Err(EngineError::Instruction(id)) if id == delete));
}
