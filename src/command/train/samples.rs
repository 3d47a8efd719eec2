//! What a checkpoint answers to a few held-out prompts, for the report.

use std::path::Path;

use anyhow::Context;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde::Serialize;

use crate::completion::Completer;
use crate::completion::Options;
use crate::completion::canvas::Part;
use crate::completion::chat::Prompt;
use crate::corpus::tasks::Document;
use crate::corpus::tasks::Task;
use crate::engine::handle::Engine;
use crate::engine::handle::EngineConfig;
use crate::engine::tokenizer::Tokenizer;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;

/// How many prompts of each task are answered.
const OF_EACH_TASK: usize = 3;
/// The most tokens of an answer.
const TOKENS: usize = 64;
/// Memory for keys and values of the answers: they run beside the trainer.
const CACHE_MIB: usize = 64;

/// A held-out prompt and its real answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    prompt: Vec<Piece>,
    real: String,
}

/// A stretch of a prompt as people read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Who said it, or what it is.
    pub who: String,
    /// The text.
    pub text: String,
}

/// A prompt with what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt; its last stretch says what was asked for.
    pub prompt: Vec<Said>,
    /// What the model wrote.
    pub written: String,
    /// What a person wrote.
    pub real: String,
    /// Denoising passes.
    pub passes: u32,
}

/// Picks held-out documents that ask for an answer, evenly over the list, as long as was trained at most.
///
/// # Errors
/// When the tokenizer fails.
pub fn pick(documents: &[Document], tokenizer: &Tokenizer, context: usize) -> anyhow::Result<Vec<Asked>> {
    let mut picked = Vec::new();
    for task in [Task::Reply, Task::Summary] {
        let mut fitting = Vec::new();
        for asked in documents.iter().filter(|document| document.task == task).filter_map(asked) {
            if prompt::encode(&asked.prompt, tokenizer)?.len() + TOKENS <= context {
                fitting.push(asked);
            }
        }
        let step = (fitting.len() / OF_EACH_TASK).max(1);
        picked.extend(fitting.into_iter().skip(step / 2).step_by(step).take(OF_EACH_TASK));
    }
    Ok(picked)
}

/// Parts a document where its answer begins.
fn asked(document: &Document) -> Option<Asked> {
    let asks = |piece: &Piece| matches!(piece, Piece::Control(Control::Reply | Control::Summary));
    let at = document.pieces.iter().rposition(asks)?;
    match document.pieces.get(at + 1) {
        Some(Piece::Text(real)) => {
            Some(Asked { prompt: document.pieces[..=at].to_vec(), real: real.trim().to_owned() })
        }
        _ => None,
    }
}

/// Has the checkpoint in `folder` answer.
///
/// # Errors
/// When it cannot be loaded or does not answer, even where its code panics: training goes on.
pub fn write(folder: &Path, asked: &[Asked]) -> anyhow::Result<Vec<Sample>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("samples".to_owned());
        let thread =
            thread.spawn_scoped(scope, || answers(folder, asked)).context("cannot start a thread")?;
        thread.join().unwrap_or_else(|_| anyhow::bail!("writing samples panicked"))
    })
}

fn answers(folder: &Path, asked: &[Asked]) -> anyhow::Result<Vec<Sample>> {
    let config = EngineConfig { kv_cache_mib: CACHE_MIB, ..EngineConfig::default() };
    let completer = Completer::new(Engine::start(folder, config)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(try_join_all(asked.iter().map(|asked| answer(&completer, asked))))
}

async fn answer(completer: &Completer, asked: &Asked) -> anyhow::Result<Sample> {
    let ids = prompt::encode(&asked.prompt, completer.engine().tokenizer())?;
    let options = Options::default();
    let canvas =
        completer.canvas(&Prompt { ids, begins_with_space: true }, &[Part::Open(TOKENS)], &options)?;
    let update = completer.write(canvas, &options)?.finish().await?;
    Ok(Sample {
        prompt: read(&asked.prompt),
        written: update.written.first().map_or_else(String::new, |written| written.text.clone()),
        real: asked.real.clone(),
        passes: update.usage.steps,
    })
}

/// Returns a prompt as people read it.
fn read(pieces: &[Piece]) -> Vec<Said> {
    let mut said: Vec<Said> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Control(control) => {
                let who = control.token().trim_matches(['<', '|', '>']).to_owned();
                said.push(Said { who, text: String::new() });
            }
            Piece::Text(text) => match said.last_mut() {
                Some(last) => last.text.push_str(text.trim()),
                None => said.push(Said { who: "text".to_owned(), text: text.trim().to_owned() }),
            },
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(task: Task, pieces: Vec<Piece>) -> Document {
        Document { task, pieces }
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    #[test]
    fn a_prompt_ends_where_the_answer_begins() {
        let controls: Vec<&str> = Control::ALL.iter().map(|control| control.token()).collect();
        let tokenizer =
            Tokenizer::train(["where is my order it is on its way"].into_iter(), 300, &controls).unwrap();
        let reply = |question: &str| {
            let pieces = vec![
                Piece::Control(Control::Customer),
                text(question),
                Piece::Control(Control::Reply),
                text(" It is on its way."),
                Piece::Control(Control::End),
            ];
            document(Task::Reply, pieces)
        };
        let language = document(Task::Language, vec![Piece::Control(Control::Customer), text(" Hello.")]);
        let documents = [language, reply(" Where is it?"), reply(&" where is my order".repeat(60))];
        let picked = pick(&documents, &tokenizer, 200).unwrap();
        assert_eq!(picked.len(), 1, "one asks, and one that asks is too long");
        assert_eq!(picked[0].real, "It is on its way.");
        let said = |who: &str, text: &str| Said { who: who.to_owned(), text: text.to_owned() };
        assert_eq!(read(&picked[0].prompt), [said("customer", "Where is it?"), said("reply", "")]);
    }

    #[test]
    fn a_folder_without_a_checkpoint_is_an_error_and_no_prompt_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Asked { prompt: vec![Piece::Control(Control::Reply)], real: String::new() };
        assert!(write(folder.path(), &[asked]).is_err());
        assert_eq!(write(folder.path(), &[]).unwrap(), []);
    }

    #[test]
    fn the_bundled_model_answers() {
        let model = crate::config::ModelConfig::default().folder();
        let question = vec![
            Piece::Control(Control::Customer),
            text(" Where is my order?"),
            Piece::Control(Control::Reply),
        ];
        let asked = Asked { prompt: question, real: "On its way.".to_owned() };
        let samples = write(&model, &[asked]).unwrap();
        assert!(!samples[0].written.is_empty() && samples[0].passes > 0, "{samples:?}");
    }
}
