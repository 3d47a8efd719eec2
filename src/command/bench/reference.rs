//! A trainer in PyTorch that is driven from outside: a script that trains the same architecture.
//!
//! ```text
//! SCRIPT --data FOLDER --service FOLDER --out FOLDER --minutes M --hidden … --layers … --experts …
//!        --expert-width … --vocabulary … --context … --block … --batch-tokens … --learning-rate …
//!        --seed … --causal-share 0 --books 1
//! ```
//! It prints JSON lines, the last with `final`, `steps` and `tokens`, and leaves a checkpoint with
//! `tokenizer.json` in its folder. It gets our documents as rows of text in which control tokens stand
//! as themselves, and one held-out call that says nothing, for its own evaluations take time that is
//! not training's.

use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::json;

use crate::command::train::shape::Shape;
use crate::corpus::tasks::Document;
use crate::engine::model::llada2::Llada2Config;
use crate::prompt::Control;
use crate::prompt::Piece;

/// The width of its heads.
const HEAD: usize = 64;
/// How hard the documents are compressed: not.
const ZSTD_LEVEL: i32 = 1;

/// What it is to do.
#[derive(Debug)]
pub struct Task<'a> {
    /// The interpreter.
    pub python: &'a Path,
    /// The script.
    pub script: &'a Path,
    /// How long it trains.
    pub minutes: f64,
    /// The model's shape.
    pub shape: &'a Shape,
    /// The longest document, in tokens.
    pub context: usize,
    /// Tokens of a step, padding included.
    pub batch_tokens: usize,
    /// The highest learning rate.
    pub learning_rate: f32,
    /// Threads.
    pub threads: usize,
    /// Seed of weights, order and noise.
    pub seed: u64,
}

/// What it did.
#[derive(Debug)]
pub struct Trained {
    /// Where its checkpoint is.
    pub folder: PathBuf,
    /// Where it ran.
    pub device: String,
    /// Steps.
    pub steps: u64,
    /// Tokens, without what fills its rows.
    pub tokens: u64,
    /// Seconds of training. It ends with the step that is under way then, so there may be one more.
    pub seconds: f64,
    /// Its own loss over the last steps, where it said one.
    pub loss: Option<f64>,
}

/// A line that it prints.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    device: Option<String>,
    #[serde(rename = "final")]
    is_final: bool,
    step: Option<u64>,
    steps: u64,
    tokens: u64,
    tokens_per_s: Option<f64>,
    loss: Option<f64>,
}

/// Fails when the script cannot train the shape.
pub fn check(shape: &Shape) -> anyhow::Result<()> {
    anyhow::ensure!(shape.head == HEAD, "the reference has heads of {HEAD}, not --head {}", shape.head);
    anyhow::ensure!(
        shape.hidden.is_multiple_of(HEAD),
        "--hidden {} must be a multiple of {HEAD}, the width of the reference's heads",
        shape.hidden
    );
    Ok(())
}

/// Gives a model of ours the heads that the script makes: two of keys and values where it can.
pub fn adopt_heads(config: &mut Llada2Config) {
    config.num_key_value_heads = if config.num_attention_heads.is_multiple_of(2) { 2 } else { 1 };
}

/// Trains with the script on our documents, in a folder that it may fill.
///
/// # Errors
/// When it cannot be run, fails, or says something else than is expected.
pub fn train(task: &Task, documents: &[Document], folder: &Path) -> anyhow::Result<Trained> {
    let (data, service, out) = (folder.join("data"), folder.join("service"), folder.join("pytorch"));
    write_documents(&data, documents).context("cannot write the documents for PyTorch")?;
    write_silence(&service, task.context).context("cannot write the held-out call for PyTorch")?;
    let Shape { hidden, layers, experts, expert_width, vocabulary, block, .. } = task.shape;
    let complaints = folder.join("complaints.txt");
    let mut command = Command::new(task.python);
    command.arg(task.script).arg("--data").arg(&data).arg("--service").arg(&service).arg("--out").arg(&out);
    let mut option = |name: &str, value: &dyn ToString| {
        command.args([format!("--{name}"), value.to_string()]);
    };
    option("minutes", &task.minutes);
    option("hidden", hidden);
    option("layers", layers);
    option("experts", experts);
    option("expert-width", expert_width);
    option("vocabulary", vocabulary);
    option("context", &task.context);
    option("block", block);
    option("batch-tokens", &task.batch_tokens);
    option("learning-rate", &task.learning_rate);
    option("seed", &task.seed);
    // Block diffusion from the first step, and every document.
    option("causal-share", &0);
    option("books", &1);
    command.env("OMP_NUM_THREADS", task.threads.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&complaints)?);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", task.python.display()))?;
    let bar = ProgressBar::new_spinner();
    bar.set_message("PyTorch prepares its data");
    let mut trained = Trained {
        folder: out,
        device: String::new(),
        steps: 0,
        tokens: 0,
        seconds: 60.0 * task.minutes,
        loss: None,
    };
    let began = Instant::now();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        // Warnings, and numbers that are none, are not ours to judge.
        let Ok(line) = serde_json::from_str::<Line>(&line?) else { continue };
        trained.device = line.device.unwrap_or(trained.device);
        trained.loss = line.loss.or(trained.loss);
        if line.is_final {
            (trained.steps, trained.tokens) = (line.steps, line.tokens);
        }
        let speed = line.tokens_per_s.map_or_else(String::new, |speed| format!(", {speed:.0} tokens/s"));
        let step = line.step.map_or_else(String::new, |step| format!(", step {step}"));
        bar.set_message(format!("PyTorch, {:.1} min{step}{speed}", began.elapsed().as_secs_f64() / 60.0));
        bar.tick();
    }
    bar.finish_and_clear();
    let status = child.wait()?;
    let complaints = fs::read_to_string(&complaints).unwrap_or_default();
    let last: Vec<&str> = complaints.trim().lines().rev().take(4).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
    anyhow::ensure!(status.success(), "{} failed ({status}): {last}", task.script.display());
    anyhow::ensure!(
        trained.steps > 0 && trained.tokens > 0,
        "{} trained no step in {} minutes: give more --minutes",
        task.script.display(),
        task.minutes
    );
    Ok(trained)
}

/// Writes documents as the script reads them: it adds the end of a text itself.
fn write_documents(folder: &Path, documents: &[Document]) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("emotion_labels.json"), json!({"files": {}}).to_string())?;
    let file = File::create(folder.join("documents.jsonl.zst"))?;
    let mut file = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL)?;
    for document in documents {
        let piece = |piece: &Piece| match piece {
            Piece::Control(Control::End) => String::new(),
            Piece::Control(control) => control.token().to_owned(),
            Piece::Text(text) => text.clone(),
        };
        let text: String = document.pieces.iter().map(piece).collect();
        writeln!(file, "{}", json!({ "text": text }))?;
    }
    file.finish()?;
    Ok(())
}

/// Writes a company with one held-out call, long enough to fill a row.
fn write_silence(folder: &Path, context: usize) -> anyhow::Result<()> {
    let company = folder.join("silence");
    fs::create_dir_all(&company)?;
    for file in ["calls.train.jsonl", "queries.train.jsonl", "queries.dev.jsonl"] {
        fs::write(company.join(file), "")?;
    }
    let turn = json!({ "speaker": "customer", "text": "hello ".repeat(2 * context) });
    let call = json!({ "turns": [turn], "summary": "Hello.", "disposition": "none" });
    fs::write(company.join("calls.dev.jsonl"), format!("{call}\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::rows;
    use crate::corpus::tasks::Task as DocumentTask;

    fn shape() -> Shape {
        let head = HEAD;
        Shape { hidden: 64, layers: 1, head, experts: 4, expert_width: 16, vocabulary: 300, block: 8 }
    }

    fn documents() -> Vec<Document> {
        let pieces = vec![
            Piece::Control(Control::Customer),
            Piece::Text(" Hello \"you\".".to_owned()),
            Piece::Control(Control::End),
        ];
        vec![Document { task: DocumentTask::Language, pieces }]
    }

    /// Runs a shell script in the place of the reference.
    fn run(script: &str) -> anyhow::Result<Trained> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script.sh");
        fs::write(&path, script).unwrap();
        let task = Task {
            python: Path::new("sh"),
            script: &path,
            minutes: 0.5,
            shape: &shape(),
            context: 64,
            batch_tokens: 256,
            learning_rate: 0.002,
            threads: 1,
            seed: 1,
        };
        train(&task, &documents(), folder.path())
    }

    #[test]
    fn documents_are_rows_of_text_with_their_controls() {
        let folder = tempfile::tempdir().unwrap();
        write_documents(folder.path(), &documents()).unwrap();
        let rows = rows::read::<serde_json::Value>(&folder.path().join("documents.jsonl.zst")).unwrap();
        let texts: Vec<String> = rows.map(|row| row.unwrap()["text"].as_str().unwrap().to_owned()).collect();
        assert_eq!(texts, ["<|customer|> Hello \"you\"."]);
    }

    #[test]
    fn what_the_script_says_last_counts() {
        let said = r#"echo '{"parameters": 5, "device": "cpu"}'
echo 'a warning'
echo '{"step": 50, "tokens": 900, "loss": 6.5, "tokens_per_s": 30}'
echo '{"final": true, "steps": 60, "tokens": 1100, "dev_loss": 1.0}'
test "$OMP_NUM_THREADS" = 1 && test "$1 $5" = "--data --out""#;
        let trained = run(said).unwrap();
        assert_eq!((trained.steps, trained.tokens, trained.seconds), (60, 1100, 30.0));
        assert_eq!((trained.device.as_str(), trained.loss), ("cpu", Some(6.5)));
    }

    #[test]
    fn a_script_that_fails_or_trains_nothing_is_named() {
        let error = run("echo 'no module named torch' >&2; exit 1").unwrap_err().to_string();
        assert!(error.contains("script.sh failed") && error.ends_with("no module named torch"), "{error}");
        let error = run("echo '{\"final\": true, \"steps\": 0}'").unwrap_err().to_string();
        assert!(error.contains("give more --minutes"), "{error}");
        assert!(check(&Shape { head: 32, ..shape() }).is_err() && check(&shape()).is_ok());
    }
}
