//! Bits per byte of dialogue, beside a 5-gram model over the same tokens.
//!
//! The model's figure is the bound on the likelihood by its own objective: E_t[1/t · Σ masked nats]
//! (MDLM, arXiv 2406.07524), over the mean of some draws of the noise. Bytes are those of the turns'
//! texts; tokens that say who speaks and where a call ends cost bits in both and count no bytes.

use std::f64::consts::LN_2;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use crate::command::eval::measure::Share;
use crate::command::eval::measure::ratio;
use crate::command::eval::model::Bench;
use crate::command::eval::model::baseline::ngram::Ngram;
use crate::command::eval::model::progress;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::command::eval::model::spread;
use crate::engine::adapter::AdapterFile;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::train::checkpoint::read_network;
use crate::engine::train::network::Network;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::tune;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// Turns of a conversation that its likelihood is computed of.
const TURNS: usize = 14;
/// How often each conversation is noised.
const DRAWS: usize = 4;

/// A conversation as tokens.
#[derive(Debug, PartialEq)]
struct Document {
    tokens: Vec<u32>,
    /// Bytes of its turns.
    bytes: usize,
}

impl Document {
    fn of(turns: &[Turn], tokenizer: &Tokenizer) -> anyhow::Result<Document> {
        let mut pieces = Vec::new();
        prompt::turns(&mut pieces, turns, turns.len());
        let bytes = pieces.iter().map(|piece| match piece {
            // A text begins with a space that nobody said.
            Piece::Text(text) => text.len() - 1,
            Piece::Control(_) => 0,
        });
        let bytes = bytes.sum();
        pieces.push(Piece::Control(Control::End));
        Ok(Document { tokens: prompt::encode(&pieces, tokenizer)?, bytes })
    }
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let tokenizer = bench.engine.tokenizer();
    let sets: Vec<_> = bench.data.sets.iter().filter(|set| !set.dialogues.is_empty()).collect();
    if sets.is_empty() {
        return Ok(Section::default());
    }
    let trained = bench.data.sets.iter().flat_map(|set| &set.trained_dialogues).chain(&bench.data.texts);
    let trained: Vec<Vec<u32>> =
        trained.map(|turns| Ok(Document::of(turns, tokenizer)?.tokens)).collect::<anyhow::Result<_>>()?;
    let ngram = Ngram::train(trained.iter().map(Vec::as_slice), bench.engine.model().vocab_size);
    drop(trained);
    let mut network = read_network(&bench.folder)?;
    if let Some(file) = &bench.args.adapter {
        tune::apply(&AdapterFile::read(file)?, &mut network)?;
    }
    let mut causal = bench.args.autoregressive.as_deref().map(Causal::read).transpose()?;
    let noising = Noising {
        mask: network.config.mask_token_id,
        pad: network.config.pad_token_id,
        block: network.config.block_length(),
    };
    let mut rows = Vec::new();
    for set in sets {
        let dialogues = spread(set.dialogues.iter().collect(), bench.args.dialogues);
        let bar = progress(&format!("language, {}", set.name), dialogues.len())?;
        let mut rng = StdRng::seed_from_u64(1);
        let (mut ours, mut others, mut causals) = (Vec::new(), Vec::new(), Vec::new());
        for turns in dialogues {
            let turns = &turns[..turns.len().min(TURNS)];
            let document = Document::of(turns, tokenizer)?;
            let of = document.bytes as f64;
            if let Some(causal) = &mut causal {
                causals.push(Share { sum: causal.nats(turns, noising)? / LN_2, of });
            }
            others.push(Share { sum: ngram.nats(&document.tokens) / LN_2, of });
            let example = Example { tokens: document.tokens, labels: vec![] };
            let mut nats = 0.0;
            for _ in 0..DRAWS {
                nats += network.evaluate(&objective::noise_evenly(&[&example], noising, &mut rng)).weighted;
            }
            ours.push(Share { sum: nats / DRAWS as f64 / LN_2, of });
            bar.inc(1);
        }
        bar.finish_and_clear();
        let row = Row::new(format!("language, {}: bits per byte", set.name), ratio(&ours));
        let row = match ngram.tokens() {
            0 => row,
            _ => row.beside("5-gram", ratio(&others).value),
        };
        let row = match &causal {
            None => row,
            Some(_) => row.beside("autoregressive", ratio(&causals).value),
        };
        rows.push(row.aim("25 % below the 5-gram"));
    }
    Ok(Section { rows, details: json!({ "ngram_training_tokens": ngram.tokens() }) })
}

/// A model of the next token, with its own tokenizer.
struct Causal {
    network: Network,
    tokenizer: Tokenizer,
}

impl Causal {
    fn read(folder: &Path) -> anyhow::Result<Causal> {
        Ok(Causal { network: read_network(folder)?, tokenizer: Tokenizer::read(folder)? })
    }

    fn nats(&mut self, turns: &[Turn], noising: Noising) -> anyhow::Result<f64> {
        let tokens = Document::of(turns, &self.tokenizer)?.tokens;
        let batch = objective::follow(&[&Example { tokens, labels: vec![] }], noising);
        Ok(self.network.evaluate(&batch).nats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Speaker;

    #[test]
    fn bytes_are_those_of_what_was_said() {
        let controls: Vec<&str> = Control::ALL.iter().map(|c| c.token()).collect();
        let tokenizer = Tokenizer::train(["hello there"].into_iter(), 300, &controls).unwrap();
        let turn = |speaker, text: &str| Turn { speaker, text: text.to_owned() };
        let turns = [turn(Speaker::Customer, "hello"), turn(Speaker::Agent, "€5")];
        let document = Document::of(&turns, &tokenizer).unwrap();
        assert_eq!(document.bytes, 9);
        assert_eq!(document.tokens[0], tokenizer.control("<|customer|>").unwrap());
        assert_eq!(document.tokens.last(), Some(&tokenizer.control("<|end|>").unwrap()));
    }
}
