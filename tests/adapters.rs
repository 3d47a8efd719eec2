//! Tuned forms of one model side by side: each answers as its own checkpoint would, whoever else is
//! asked for, and tenants switch between them while calls go on.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use chatdlm::assist;
use chatdlm::assist::Calls;
use chatdlm::assist::Parts;
use chatdlm::assist::adapters;
use chatdlm::assist::adapters::Adapters;
use chatdlm::assist::intake;
use chatdlm::assist::intake::Incoming;
use chatdlm::engine::adapter::AdapterError;
use chatdlm::engine::adapter::AdapterFile;
use chatdlm::engine::adapter::Delta;
use chatdlm::engine::adapter::Form;
use chatdlm::engine::adapter::Kind;
use chatdlm::engine::config::ModelConfig;
use chatdlm::engine::handle::Engine;
use chatdlm::engine::handle::EngineConfig;
use chatdlm::engine::handle::GenerateRequest;
use chatdlm::engine::handle::Snapshot;
use chatdlm::engine::model::linear::Quant;
use chatdlm::engine::model::llada2::Llada2Config;
use chatdlm::engine::model::tuned;
use chatdlm::engine::sampler::Rule;
use chatdlm::engine::scheduler::Claim;
use chatdlm::engine::sequence::Generate;
use chatdlm::engine::tokenizer::Tokenizer;
use chatdlm::engine::train::checkpoint::write_model;
use chatdlm::engine::train::layout::Layout;
use chatdlm::engine::train::network::Network;
use chatdlm::engine::weights::Weights;
use chatdlm::engine::weights::random;
use chatdlm::event::Emotion;
use chatdlm::event::Event;
use chatdlm::event::Speaker;
use chatdlm::monitor::emotion::EmotionReader;
use chatdlm::prompt::Control;
use chatdlm::prompt::Turn;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Families with block-causal attention and routed experts.
const FAMILIES: [&str; 2] = ["llada2_moe", "sdar_moe"];
/// Lengths of prompts of two pages and more, which begin alike.
const PROMPTS: [u32; 3] = [140, 149, 158];

/// Puts a fixture's checkpoint with a tokenizer into `folder`; what `change` does not add to its numbers is
/// as it was.
fn checkpoint(family: &str, folder: &Path, file: Option<&AdapterFile>) {
    let fixture = Path::new("tests/fixtures").join(family);
    std::fs::copy(fixture.join("config.json"), folder.join("config.json")).unwrap();
    let bytes = std::fs::read(fixture.join("model.safetensors")).unwrap();
    let weights = Weights::open(&fixture).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let mut numbers = weights.tensor(&name, view.shape()).unwrap();
        if let Some(delta) = file.and_then(|file| file.deltas.get(&name)) {
            let rows = numbers.chunks_exact_mut(delta.shape[1]).enumerate();
            rows.for_each(|(row, numbers)| delta.add(row, numbers));
        }
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        tensors.push((name, view.shape().to_vec(), bytes));
    }
    let view = |shape: &Vec<usize>, bytes| TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
    let views = tensors.iter().map(|(name, shape, bytes)| (name, view(shape, bytes)));
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    let controls: Vec<&str> = Control::ALL.iter().map(|control| control.token()).collect();
    let texts = ["one two three four five six seven", "the quick brown fox and my bill is wrong"];
    Tokenizer::train(texts.into_iter(), 300, &controls).unwrap().write(folder).unwrap();
}

/// Makes an adapter of a checkpoint by chance: some experts in 8 bits, some of low rank, some not at all.
fn adapter(folder: &Path, name: &str) -> AdapterFile {
    let mut deltas = BTreeMap::new();
    let mut shapes: Vec<_> = tuned::shapes(&ModelConfig::read(folder).unwrap()).into_iter().collect();
    shapes.sort();
    for (i, (tensor, shape)) in shapes.into_iter().enumerate() {
        let numbers = |count: usize, size: f32| {
            let mut numbers = vec![0.0; count];
            random::normal(random::key(9, &format!("{name} {tensor}")), 0, &mut numbers);
            numbers.iter().map(|number| number * size).collect::<Vec<f32>>()
        };
        let all = numbers(shape[0] * shape[1], 0.05);
        let delta = match i % 7 {
            _ if tensor.ends_with(".gate.weight") => Delta { shape, form: Form::Exact(all) },
            0 | 1 => continue,
            2 | 3 => Delta::eight(shape, &all),
            _ => Delta::low_rank(shape, &numbers(2 * shape[1], 0.3), &numbers(2 * shape[0], 0.3)),
        };
        deltas.insert(tensor, delta);
    }
    let base = Weights::open(folder).unwrap().fingerprint();
    AdapterFile { name: name.to_owned(), kind: Kind::LowRank { rank: 2 }, base, deltas }
}

fn start(folder: &Path, quant: Quant) -> Engine {
    let config = EngineConfig { quant, step_rows: 64, kv_cache_mib: 8, ..EngineConfig::default() };
    Engine::start(folder, config).unwrap()
}

/// The longer a prompt is, the more pages others that begin the same share with it.
fn request(engine: &Engine, prompt: u32) -> GenerateRequest {
    let model = engine.model();
    let generate = Generate {
        rule: Rule::Threshold { threshold: 0.5, steps: 6 },
        banned: vec![model.mask_token_id],
        ..Generate::default()
    };
    GenerateRequest {
        prompt: (0..prompt).map(|at| 20 + at * 7 % 200).collect(),
        canvas: vec![None; 20],
        generate,
        ..GenerateRequest::default()
    }
}

async fn finish(engine: &Engine, prompt: u32) -> Snapshot {
    engine.generate(request(engine, prompt)).unwrap().finish().await.unwrap()
}

async fn scores(engine: &Engine) -> Vec<f32> {
    let tokens: Vec<u32> = (0..90).map(|at| 20 + at * 7 % 200).collect();
    engine.score(&tokens, 70, vec![30, 31, 32, 33], Claim::default()).await.unwrap()
}

#[tokio::test]
async fn an_adapter_answers_as_a_checkpoint_with_its_changes_does() {
    for family in FAMILIES {
        let (base, summed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        checkpoint(family, base.path(), None);
        let file = adapter(base.path(), "a");
        checkpoint(family, summed.path(), Some(&file));
        let path = base.path().join("a.safetensors");
        file.write(&path).unwrap();
        for quant in [Quant::F32, Quant::Q8, Quant::Q4] {
            let (engine, summed) = (start(base.path(), quant), start(summed.path(), quant));
            let tuned = engine.tuned(&path).unwrap();
            let (found, expected) = (finish(&tuned, 30).await, finish(&summed, 30).await);
            assert_eq!(
                (found.canvas, found.confidences),
                (expected.canvas, expected.confidences),
                "{family}"
            );
            assert_eq!(scores(&tuned).await, scores(&summed).await, "{family} {quant:?}");
            assert_ne!(scores(&tuned).await, scores(&engine).await, "{family} {quant:?}");
            assert_eq!(finish(&engine, 30).await.canvas, finish(&start(base.path(), quant), 30).await.canvas);
            let bytes = tuned.adapter().unwrap().bytes;
            assert!(bytes > 0 && bytes < engine.weight_bytes(), "{bytes} of {}", engine.weight_bytes());
        }
    }
}

#[tokio::test]
async fn answers_are_the_same_alone_and_among_sequences_of_other_adapters() {
    for family in FAMILIES {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(family, folder.path(), None);
        let paths = ["a", "b"].map(|name| {
            let path = folder.path().join(format!("{name}.safetensors"));
            adapter(folder.path(), name).write(&path).unwrap();
            path
        });
        // Each alone in an engine of its own, so that nothing can be shared.
        let mut alone = Vec::new();
        for which in 0..3 {
            for prompt in PROMPTS {
                let engine = start(folder.path(), Quant::Q8);
                let handle = if which == 0 { engine } else { engine.tuned(&paths[which - 1]).unwrap() };
                alone.push((finish(&handle, prompt).await, scores(&handle).await));
            }
        }
        let engine = start(folder.path(), Quant::Q8);
        let handles = [engine.clone(), engine.tuned(&paths[0]).unwrap(), engine.tuned(&paths[1]).unwrap()];
        for round in 0..2 {
            let all = handles.iter().flat_map(|handle| PROMPTS.map(move |prompt| (handle, prompt)));
            let asked = all
                .map(|(handle, prompt)| async move { (finish(handle, prompt).await, scores(handle).await) });
            let together = futures_util::future::join_all(asked).await;
            for (at, (alone, together)) in alone.iter().zip(&together).enumerate() {
                let ((alone, scores), (found, found_scores)) = (alone, together);
                assert_eq!(alone.canvas, found.canvas, "{family}, {at}, round {round}");
                assert_eq!(alone.confidences, found.confidences, "{family}, {at}, round {round}");
                assert_eq!(scores, found_scores, "{family}, {at}, round {round}");
                // The second time each finds its own beginning, and it is right.
                assert!(round == 0 || found.reused >= 128, "{family}, {at}: {} reused", found.reused);
            }
        }
        let different: std::collections::HashSet<_> = alone.iter().map(|(found, _)| &found.canvas).collect();
        assert!(different.len() > 6, "{family}: adapters change answers");
    }
}

#[tokio::test]
async fn what_one_adapter_computed_is_never_the_beginning_of_anothers_sequence() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint("llada2_moe", folder.path(), None);
    let path = folder.path().join("a.safetensors");
    adapter(folder.path(), "a").write(&path).unwrap();
    let engine = start(folder.path(), Quant::Q8);
    let tuned = engine.tuned(&path).unwrap();
    assert_eq!(finish(&engine, 140).await.reused, 0);
    assert_eq!(finish(&tuned, 140).await.reused, 0, "the base's pages are not its own");
    assert!(finish(&tuned, 140).await.reused >= 128);
    // The same file loaded again is another adapter: it may have changed.
    assert_eq!(finish(&engine.tuned(&path).unwrap(), 140).await.reused, 0);
}

#[tokio::test]
async fn an_adapter_is_gone_when_nobody_holds_it() {
    use std::sync::atomic::Ordering::Relaxed;
    let folder = tempfile::tempdir().unwrap();
    checkpoint("llada2_moe", folder.path(), None);
    let path = folder.path().join("a.safetensors");
    adapter(folder.path(), "a").write(&path).unwrap();
    let engine = start(folder.path(), Quant::Q8);
    let held = || (engine.load().adapters.load(Relaxed), engine.load().adapter_bytes.load(Relaxed));
    let tuned = engine.tuned(&path).unwrap();
    let adapter = std::sync::Arc::downgrade(tuned.adapter().unwrap());
    assert_eq!(held(), (1, tuned.adapter().unwrap().bytes));
    let generation = tuned.generate(request(&tuned, 140)).unwrap();
    drop(tuned);
    // What runs still has it.
    let done = generation.finish().await.unwrap();
    assert!(done.is_done);
    // The engine's thread lets go of a finished sequence before it begins the next one.
    finish(&engine, 30).await;
    assert!(adapter.upgrade().is_none());
    assert_eq!(held(), (0, 0));
}

#[test]
fn an_adapter_of_another_base_or_of_a_changed_one_is_refused_by_name() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint("llada2_moe", folder.path(), None);
    let mut file = adapter(folder.path(), "tel");
    checkpoint("llada2_moe", other.path(), Some(&file));
    let path = folder.path().join("a.safetensors");
    file.write(&path).unwrap();
    let error = start(other.path(), Quant::Q8).tuned(&path).unwrap_err();
    assert!(error.to_string().contains("the adapter tel was tuned on another base model"), "{error}");

    let engine = start(folder.path(), Quant::Q8);
    let (name, delta) = file.deltas.iter().next().map(|(name, delta)| (name.clone(), delta.clone())).unwrap();
    file.deltas
        .insert(name.clone(), Delta::eight([delta.shape[0] + 1, 2], &vec![0.1; delta.shape[0] * 2 + 2]));
    file.write(&path).unwrap();
    assert!(matches!(engine.tuned(&path), Err(AdapterError::Shape { tensor, .. }) if tensor == name));
    file.deltas.remove(&name);
    file.deltas.insert("model.norm.weight".to_owned(), Delta::eight([1, 64], &[0.1; 64]));
    file.write(&path).unwrap();
    assert!(matches!(engine.tuned(&path), Err(AdapterError::Unknown { .. })));

    let file = adapter(folder.path(), "tel");
    file.write(&path).unwrap();
    checkpoint("llada2_moe", folder.path(), Some(&file));
    assert!(matches!(engine.tuned(&path), Err(AdapterError::BaseChanged { .. })));
}

#[test]
fn a_fingerprint_is_the_same_however_weights_are_sharded() {
    let (whole, parted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    checkpoint("llada2_moe", whole.path(), None);
    let bytes = std::fs::read(whole.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let mut places = serde_json::Map::new();
    for (number, shard) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
        let file = format!("part-{number}.safetensors");
        places.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone().into())));
        let views = shard.iter().map(|(name, view)| {
            (name, TensorView::new(view.dtype(), view.shape().to_vec(), view.data()).unwrap())
        });
        std::fs::write(parted.path().join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let index = serde_json::json!({ "weight_map": places }).to_string();
    std::fs::write(parted.path().join("model.safetensors.index.json"), index).unwrap();
    let fingerprint = |folder: &Path| Weights::open(folder).unwrap().fingerprint();
    assert_eq!(fingerprint(whole.path()), fingerprint(parted.path()));
    checkpoint("llada2_moe", whole.path(), Some(&adapter(whole.path(), "a")));
    assert_ne!(fingerprint(whole.path()), fingerprint(parted.path()));
}

/// Writes a tiny model that the trainer knows, of random weights.
fn trainable(folder: &Path, seed: u64) {
    let config: Llada2Config = serde_json::from_value(serde_json::json!({
        "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 300,
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5, "max_position_embeddings": 512, "num_experts": 4,
        "num_experts_per_tok": 2, "num_shared_experts": 1, "moe_intermediate_size": 16,
        "tie_word_embeddings": true, "block_size": 8,
        "mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }))
    .unwrap();
    let layout = Layout::new(&config).unwrap();
    let mut parameters = vec![0.0; layout.len];
    random::normal(random::key(seed, "all"), 0, &mut parameters);
    parameters.iter_mut().for_each(|number| *number *= 0.1);
    let network = Network::new(config, parameters, vec![vec![0.0; 4]; 2]).unwrap();
    write_model(folder, &network).unwrap();
    let controls: Vec<&str> = Control::ALL.iter().map(|control| control.token()).collect();
    Tokenizer::train(["a bill costs"].into_iter(), 300, &controls).unwrap().write(folder).unwrap();
}

#[test]
fn an_adapter_is_made_given_to_a_tenant_listed_and_taken_away_by_commands() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for (name, seed) in [("base", 1), ("other", 2)] {
        std::fs::create_dir(at(name)).unwrap();
        trainable(&at(name), seed);
    }
    std::fs::create_dir(at("tel")).unwrap();
    std::fs::write(at("tel/fees.md"), "# Fees\n\nA paper bill costs 2 euros a month. It is free over 70.")
        .unwrap();
    let run = |model: &str, arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_chatdlm"))
            .env("CHATDLM_MODEL_DIR", at(model))
            .current_dir(root.path())
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let tune =
        ["train", "--tune", "low-rank", "--from", "base", "--knowledge", "tel", "--out", "tel.safetensors"];
    let (is_ok, report, errors) = run(
        "base",
        &[&tune[..], &["--rank", "2", "--steps", "3", "--batch-tokens", "256", "--json"]].concat(),
    );
    assert!(is_ok, "{errors}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["name"], &report["kind"]), (&"tel".into(), &"low-rank 2".into()));
    assert_eq!(
        report["bytes"].as_u64(),
        std::fs::metadata(at("tel.safetensors")).ok().map(|about| about.len())
    );
    assert!(report["tokens"].as_u64() >= Some(3 * 256), "{report}");
    for (arguments, reason) in [
        (vec!["train", "--tune", "experts", "--out", "x"], "there is nothing to tune to"),
        (vec!["train", "--tune", "experts", "--knowledge", "tel", "--out", "x", "--layers", "2"], "--layers"),
        (
            vec!["train", "--tune", "experts", "--knowledge", "tel", "--out", "x", "--rank", "2"],
            "--rank goes with",
        ),
        (vec!["train", "--rank", "2", "--out", "x"], "--tune"),
    ] {
        let (is_ok, _, errors) = run("base", &arguments);
        assert!(!is_ok && errors.contains(reason), "{errors}");
    }

    let install = ["adapter", "install", "main", "tel.safetensors", "--data-dir", "data"];
    let (is_ok, _, errors) = run("other", &install);
    assert!(!is_ok && errors.contains("tuned on another base model"), "{errors}");
    assert!(
        run("base", &["adapter", "install", "../x", "tel.safetensors", "--data-dir", "data"])
            .2
            .contains("name")
    );
    assert!(run("base", &install).0);
    let list = || {
        let (_, text, _) = run("base", &["adapter", "list", "--data-dir", "data", "--json"]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["adapters"].clone()
    };
    let listed = list();
    assert_eq!((&listed[0]["tenant"], &listed[0]["bytes"]), (&"main".into(), &report["bytes"]));
    assert!(run("base", &["adapter", "remove", "main", "--data-dir", "data"]).0);
    assert_eq!(list(), serde_json::json!([]));
    let (is_ok, _, errors) = run("base", &["adapter", "remove", "main", "--data-dir", "data"]);
    assert!(!is_ok && errors.contains("main has no adapter"), "{errors}");
}

/// Has one customer say one thing in a new call of a tenant; returns how the emotion was read.
async fn call(calls: &Calls, key: &str) -> BTreeMap<Emotion, f32> {
    let key = common::call_key(key);
    let Ok(Incoming::Start(start)) = intake::read(&common::start_message(key.call.as_str()).to_string())
    else {
        panic!("a start")
    };
    let Ok(Incoming::Segment(spoken)) = intake::read(&common::segment(1, "my bill is wrong").to_string())
    else {
        panic!("a segment")
    };
    let feed = calls.feed(&key.tenant, start).await.unwrap();
    feed.say(spoken).await.await.unwrap().unwrap();
    feed.end("hangup".to_owned()).await.await.unwrap().unwrap();
    let events = calls.parts().store.events_after(&key, 0, 100).await.unwrap();
    let scores = events.into_iter().find_map(|envelope| match envelope.event {
        Event::Emotion { scores, .. } => Some(scores),
        _ => None,
    });
    scores.expect("the emotion is read before the call ends")
}

/// Reads the emotion of what [`call`] says.
async fn read(reader: &EmotionReader) -> BTreeMap<Emotion, f32> {
    let turn = Turn { speaker: Speaker::Customer, text: "my bill is wrong".to_owned() };
    reader.read(&[turn], Claim::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_file_serves_the_calls_that_open_after_it_and_no_other_tenants() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint("llada2_moe", folder.path(), None);
    let install = |tenant: &str, bytes: &[u8]| {
        let path = adapters::path(folder.path(), tenant).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        chatdlm::engine::adapter::put(&path, bytes).unwrap();
    };
    let written = |name: &str| {
        let path = folder.path().join("made.safetensors");
        adapter(folder.path(), name).write(&path).unwrap();
        std::fs::read(&path).unwrap()
    };
    let engine = start(folder.path(), Quant::Q8);
    let without =
        common::calls(folder.path(), assist::Config { ending_ms: 60_000, ..Default::default() }).await;
    let reader = EmotionReader::new(engine.clone()).unwrap();
    let parts = Parts {
        emotions: Some(reader.clone()),
        adapters: Adapters::new(engine.clone(), folder.path()),
        engine: Some(engine.clone()),
        ..without.parts().clone()
    };
    let known = parts.adapters.clone();
    let calls = Calls::new(parts, tokio::runtime::Handle::current());
    let base = read(&reader).await;
    let mut expected = Vec::new();
    for name in ["a", "b"] {
        let path = folder.path().join(format!("{name}.expected.safetensors"));
        std::fs::write(&path, written(name)).unwrap();
        expected.push(read(&reader.with_engine(&engine.tuned(&path).unwrap())).await);
    }
    let [first, second] = &expected[..] else { panic!("two adapters") };
    let (first, second) = (first.clone(), second.clone());
    assert!(base != first && first != second && base != second);

    // What is there at the start serves the first call.
    install("tel", &written("a"));
    known.load_all().await;
    assert_eq!(call(&calls, "tel c-1").await, first);
    assert_eq!(call(&calls, "air c-1").await, base);
    // A new file is met by a call and serves those after it.
    install("tel", &written("b"));
    assert_eq!(call(&calls, "tel c-2").await, first);
    known.settled().await;
    assert_eq!(call(&calls, "tel c-3").await, second);
    assert_eq!(call(&calls, "air c-3").await, base);
    // A file that is none costs no call anything.
    install("tel", b"no adapter");
    assert_eq!(call(&calls, "tel c-4").await, second);
    known.settled().await;
    assert_eq!(call(&calls, "tel c-5").await, base);
    // Back again, and gone at once when the file is.
    install("tel", &written("a"));
    call(&calls, "tel c-6").await;
    known.settled().await;
    assert_eq!(call(&calls, "tel c-7").await, first);
    std::fs::remove_file(adapters::path(folder.path(), "tel").unwrap()).unwrap();
    assert_eq!(call(&calls, "tel c-8").await, base);
}
