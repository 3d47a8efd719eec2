//! `chatdlm eval model`: what the model knows, on labelled calls that it did not learn from.
//!
//! Bits per byte (the block-diffusion bound on the likelihood of calls), emotion macro-F1 beside the
//! majority class, and drafts as a call would get them, from searched cards: the share of the gold
//! facts that stand in the draft and ROUGE-L with the real answer, beside copying the best passage.

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use futures_util::StreamExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use crate::assist::draft::DraftRequest;
use crate::assist::draft::Drafter;
use crate::command::eval::TENANT;
use crate::command::eval::open_base;
use crate::command::eval::split;
use crate::config::ModelConfig;
use crate::corpus::service::Company;
use crate::corpus::service::Split;
use crate::corpus::tasks::redacted_turns;
use crate::engine::adapter::AdapterFile;
use crate::engine::handle::Engine;
use crate::engine::scheduler::Claim;
use crate::engine::train::checkpoint::read_network;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::tune;
use crate::event::DraftState;
use crate::event::Emotion;
use crate::event::Speaker;
use crate::knowledge::Knowledge;
use crate::knowledge::Question;
use crate::knowledge::term::Term;
use crate::knowledge::term::terms;
use crate::monitor::emotion::EmotionReader;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// Requests that are under way at once.
const AT_ONCE: usize = 16;
/// Turns of a call that its likelihood is computed of.
const CALL_TURNS: usize = 14;

/// Measures bits per byte, emotion macro-F1 and drafts on labelled calls.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Company folders: articles/, calls.{split}.jsonl.
    #[arg(required = true)]
    companies: Vec<PathBuf>,
    /// The checkpoint's folder; the bundled model when missing.
    #[arg(long)]
    model: Option<PathBuf>,
    /// A tuned form of the model, made by `chatdlm train --tune`.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Which labelled part to measure on: train or dev.
    #[arg(long, default_value = "dev", value_parser = split)]
    split: Split,
    /// The most drafts to write.
    #[arg(long, default_value_t = 300)]
    drafts: usize,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// A question with its gold answer.
struct Asked {
    request: DraftRequest,
    answer: String,
    facts: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let folder = ModelConfig { dir: args.model.clone(), ..ModelConfig::default() }.folder();
    let mut engine = Engine::start(&folder, Default::default())?;
    if let Some(file) = &args.adapter {
        engine = engine.tuned(file)?;
    }
    let index = std::env::temp_dir().join(format!("chatdlm-eval-{:016x}", rand::random::<u64>()));
    let data = labelled(&args, &Knowledge::new(&index));
    if index.exists() {
        std::fs::remove_dir_all(&index).with_context(|| format!("cannot remove {}", index.display()))?;
    }
    let (calls, emotions, asked) = data?;
    let bits = bits_per_byte(&folder, args.adapter.as_deref(), &engine, &calls)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (f1, majority, accuracy) = runtime.block_on(emotion_scores(&engine, &emotions))?;
    let drafts = runtime.block_on(draft_scores(&engine, &asked))?;
    let report = json!({
        "model": folder.display().to_string(), "adapter": engine.adapter().map(|adapter| &adapter.name), "calls": calls.len(), "bits_per_byte": bits,
        "emotion": {"turns": emotions.len(), "macro_f1": f1, "macro_f1_majority": majority, "accuracy": accuracy},
        "drafts": drafts,
    });
    if args.json {
        println!("{report}");
    } else {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

type Labelled = (Vec<Vec<Turn>>, Vec<(Vec<Turn>, Emotion)>, Vec<Asked>);

/// Returns calls, turns with emotions, and questions with cards found as in a running call.
fn labelled(args: &Args, knowledge: &Knowledge) -> anyhow::Result<Labelled> {
    let (mut calls, mut emotions, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for folder in &args.companies {
        let company = Company::new(folder.clone());
        open_base(knowledge, &company)?;
        for call in company.calls(args.split)? {
            let turns = redacted_turns(&call);
            for (i, turn) in call.turns.iter().enumerate() {
                emotions.extend(turn.emotion_label().map(|label| (turns[..=i].to_vec(), label)));
                let answer =
                    call.turns.get(i + 1).filter(|a| !turn.articles.is_empty() && !a.facts.is_empty());
                if let Some(answer) = answer {
                    let bases = vec![company.base.clone()];
                    let question = Question { turns: turns[..=i].to_vec(), bases, limit: 3 };
                    let cards = knowledge.search(TENANT, &question)?;
                    let turns = turns[..=i].to_vec();
                    let request = DraftRequest { turns, cards, instruction: None, claim: Claim::default() };
                    asked.push(Asked { request, answer: answer.text.clone(), facts: answer.facts.clone() });
                }
            }
            calls.push(turns);
        }
    }
    let step = asked.len().div_ceil(args.drafts.max(1)).max(1);
    Ok((calls, emotions, asked.into_iter().step_by(step).collect()))
}

/// Returns the bound on bits per byte of text: E_t[1/t · Σ masked nats] over bytes (MDLM, arXiv 2406.07524).
fn bits_per_byte(
    folder: &Path,
    adapter: Option<&Path>,
    engine: &Engine,
    calls: &[Vec<Turn>],
) -> anyhow::Result<f64> {
    let mut network = read_network(folder)?;
    if let Some(file) = adapter {
        tune::apply(&AdapterFile::read(file)?, &mut network)?;
    }
    let noising = Noising {
        mask: network.config.mask_token_id,
        pad: network.config.pad_token_id,
        block: network.config.block_length(),
    };
    let mut rng = StdRng::seed_from_u64(1);
    let (mut nats, mut bytes) = (0.0, 0);
    for turns in calls {
        let turns = &turns[..turns.len().min(CALL_TURNS)];
        let mut pieces = Vec::new();
        prompt::turns(&mut pieces, turns, turns.len());
        pieces.push(Piece::Control(Control::End));
        let example = Example { tokens: prompt::encode(&pieces, engine.tokenizer())?, labels: vec![] };
        let batch = objective::noise_evenly(&[&example], noising, &mut rng);
        nats += network.evaluate(&batch).weighted;
        bytes += turns.iter().map(|t| t.text.len()).sum::<usize>();
    }
    Ok(nats / std::f64::consts::LN_2 / bytes.max(1) as f64)
}

/// Returns macro-F1 over the labels that occur, that of always saying the commonest, and accuracy.
async fn emotion_scores(engine: &Engine, turns: &[(Vec<Turn>, Emotion)]) -> anyhow::Result<(f64, f64, f64)> {
    let reader = EmotionReader::new(engine.clone())?;
    let guesses: Vec<_> = futures_util::stream::iter(turns)
        .map(|(turns, gold)| {
            let reader = &reader;
            async move {
                let scores = reader.read(turns, Claim::default()).await?;
                let best = scores.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(label, _)| label);
                anyhow::Ok((best.unwrap_or(Emotion::Neutral), *gold))
            }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let pairs: Vec<(Emotion, Emotion)> = guesses.into_iter().collect::<anyhow::Result<_>>()?;
    let mut counts: HashMap<Emotion, usize> = HashMap::new();
    pairs.iter().for_each(|(_, gold)| *counts.entry(*gold).or_default() += 1);
    let commonest = counts.iter().max_by_key(|(_, n)| **n).map_or(Emotion::Neutral, |(label, _)| *label);
    let majority: Vec<_> = pairs.iter().map(|(_, gold)| (commonest, *gold)).collect();
    let hits = pairs.iter().filter(|(guess, gold)| guess == gold).count();
    Ok((macro_f1(&pairs), macro_f1(&majority), hits as f64 / pairs.len().max(1) as f64))
}

fn macro_f1(pairs: &[(Emotion, Emotion)]) -> f64 {
    let mut sum = 0.0;
    let mut labels = 0;
    for label in Emotion::ALL {
        let gold = pairs.iter().filter(|(_, g)| *g == label).count();
        if gold > 0 {
            let said = pairs.iter().filter(|(s, _)| *s == label).count();
            let hits = pairs.iter().filter(|(s, g)| s == g && *g == label).count();
            sum += 2.0 * hits as f64 / (gold + said) as f64;
            labels += 1;
        }
    }
    sum / f64::from(labels.max(1))
}

async fn draft_scores(engine: &Engine, asked: &[Asked]) -> anyhow::Result<serde_json::Value> {
    let drafter = Drafter::new(engine.clone())?;
    let drafts: Vec<(String, u32, u32, bool)> = futures_util::stream::iter(asked)
        .map(|asked| {
            let mut stream = drafter.draft(asked.request.clone());
            async move {
                let mut last = None;
                while let Some(update) = stream.next().await {
                    last = Some(update);
                }
                last.map_or((String::new(), 0, 0, true), |u| {
                    (u.text, u.steps, u.tokens, u.state != DraftState::Done)
                })
            }
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    let copied = |asked: &Asked| asked.request.cards.first().map_or(String::new(), |c| c.passage.clone());
    let mean = |of: &dyn Fn(&Asked, usize) -> f64| {
        asked.iter().enumerate().map(|(i, a)| of(a, i)).sum::<f64>() / asked.len().max(1) as f64
    };
    let steps: u32 = drafts.iter().map(|d| d.1).sum();
    let tokens: u32 = drafts.iter().map(|d| d.2).sum();
    let examples: Vec<_> = asked
        .iter()
        .zip(&drafts)
        .step_by((asked.len() / 8).max(1))
        .map(|(a, d)| {
            let said = a.request.turns.iter().rev().find(|t| t.speaker == Speaker::Customer);
            json!({"customer": said.map(|t| &t.text), "draft": d.0, "answer": a.answer})
        })
        .collect();
    Ok(json!({
        "written": asked.len(), "none_written": drafts.iter().filter(|d| d.3).count(),
        "facts_share": mean(&|a, i| facts_share(&drafts[i].0, &a.facts)),
        "facts_share_copy": mean(&|a, _| facts_share(&copied(a), &a.facts)),
        "rouge_l": mean(&|a, i| rouge_l(&drafts[i].0, &a.answer)),
        "rouge_l_copy": mean(&|a, _| rouge_l(&copied(a), &a.answer)),
        "tokens_per_step": f64::from(tokens) / f64::from(steps.max(1)),
        "examples": examples,
    }))
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// Returns the share of the gold facts' terms that stand in the draft, averaged over the facts;
/// numbers are compared as values, however they are said.
fn facts_share(draft: &str, facts: &[String]) -> f64 {
    let said: HashSet<String> = terms(draft).into_iter().map(|term| term.text).collect();
    let facts: Vec<Vec<Term>> =
        facts.iter().map(|fact| terms(fact)).filter(|fact| !fact.is_empty()).collect();
    let kept = |fact: &Vec<Term>| fact.iter().filter(|term| said.contains(&term.text)).count() as f64;
    facts.iter().map(|fact| kept(fact) / fact.len() as f64).sum::<f64>() / facts.len().max(1) as f64
}

/// Returns ROUGE-L: the F-measure of the longest common subsequence of words (Lin 2004).
fn rouge_l(draft: &str, answer: &str) -> f64 {
    let (a, b) = (words(draft), words(answer));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut row = vec![0_usize; b.len() + 1];
    for x in &a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    2.0 * row[b.len()] as f64 / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rouge_l_is_the_longest_common_subsequence() {
        assert_eq!(rouge_l("a b c", "a b c"), 1.0);
        assert_eq!(rouge_l("a x c", "a b c"), 4.0 / 6.0);
        assert_eq!(rouge_l("", "a"), 0.0);
    }

    #[test]
    fn always_saying_the_commonest_label_scores_low() {
        let pairs = [(Emotion::Neutral, Emotion::Neutral), (Emotion::Neutral, Emotion::Angry)];
        assert!((macro_f1(&pairs) - (2.0 / 3.0) / 2.0).abs() < 1e-9);
    }
}
