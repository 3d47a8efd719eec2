//! Spans of 1 to 5 tokens in turns of conversations: written with both sides seen, and with the left side
//! only, by the same model.
//!
//! With both sides the canvas is the span and what follows it, to the end of a block; how much of that
//! a block-causal model sees, its block decides. With the left side only the canvas ends with the span.

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::command::eval::measure::bag_f1;
use crate::command::eval::measure::mean;
use crate::command::eval::model::Bench;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::command::eval::model::spread;
use crate::engine::handle::GenerateRequest;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Generate;
use crate::engine::tokenizer::Tokenizer;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// The longest span, in tokens.
const LONGEST: usize = 5;
/// Tokens of the turn that stand at least before a span, and after it.
const BESIDE: usize = 2;
/// Spans of one conversation.
const OF_DIALOGUE: usize = 3;
/// Turns before the span's.
const TURNS_BEFORE: usize = 5;
/// The most tokens that are given after a span, before what fills the last block.
const MOST_AFTER: usize = 64;

/// A span with what stands around it.
#[derive(Debug, Clone, PartialEq)]
struct Span {
    /// The number of its conversation.
    unit: usize,
    before: Vec<u32>,
    tokens: Vec<u32>,
    after: Vec<u32>,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let tokenizer = bench.engine.tokenizer();
    let mut section = Section::default();
    for set in bench.data.sets.iter().filter(|set| !set.dialogues.is_empty()) {
        let mut rng = StdRng::seed_from_u64(1);
        let mut spans = Vec::new();
        for (unit, turns) in set.dialogues.iter().enumerate() {
            for _ in 0..OF_DIALOGUE {
                spans.extend(span(unit, turns, tokenizer, &mut rng)?);
            }
        }
        let spans = spread(spans, bench.args.spans);
        if spans.is_empty() {
            continue;
        }
        let both = bench.ask(&format!("infill, {}", set.name), &spans, |span| fill(bench, span, true))?;
        let left = bench
            .ask(&format!("infill, {}, left side", set.name), &spans, |span| fill(bench, span, false))?;
        let scored = |written: &[Vec<u32>], score: fn(&[u32], &[u32]) -> f64| {
            mean(spans.iter().zip(written).map(|(span, written)| (span.unit, score(written, &span.tokens))))
        };
        for (name, score) in [
            ("exact match", exact as fn(&[u32], &[u32]) -> f64),
            ("token F1", bag_f1 as fn(&[u32], &[u32]) -> f64),
        ] {
            let row = Row::new(format!("infill, {}: {name}", set.name), scored(&both, score));
            section
                .rows
                .push(row.beside("left side", scored(&left, score).value).aim("+30 % over left side"));
        }
    }
    Ok(section)
}

fn exact(written: &[u32], gold: &[u32]) -> f64 {
    f64::from(u8::from(written == gold))
}

/// Draws a span of a turn that is long enough; `None` if the turn that was drawn is not.
fn span(
    unit: usize,
    turns: &[Turn],
    tokenizer: &Tokenizer,
    rng: &mut StdRng,
) -> anyhow::Result<Option<Span>> {
    let at = rng.random_range(0..turns.len());
    let length = rng.random_range(1..=LONGEST);
    let mut pieces = Vec::new();
    prompt::turns(&mut pieces, &turns[at.saturating_sub(TURNS_BEFORE)..=at], turns.len());
    let Some(Piece::Text(text)) = pieces.pop() else { return Ok(None) };
    let mut before = prompt::encode(&pieces, tokenizer)?;
    let mut turn = Vec::new();
    tokenizer.encode(&text, &mut turn)?;
    let Some(last) = turn.len().checked_sub(length + BESIDE).filter(|last| *last >= BESIDE) else {
        return Ok(None);
    };
    let start = rng.random_range(BESIDE..=last);
    let mut after = turn.split_off(start + length);
    let tokens = turn.split_off(start);
    before.extend(turn);
    let mut pieces = Vec::new();
    prompt::turns(&mut pieces, &turns[at + 1..], turns.len());
    pieces.push(Piece::Control(Control::End));
    after.extend(prompt::encode(&pieces, tokenizer)?);
    after.truncate(MOST_AFTER);
    Ok(Some(Span { unit, before, tokens, after }))
}

async fn fill(bench: &Bench, span: &Span, sees_both: bool) -> anyhow::Result<Vec<u32>> {
    let model = bench.engine.model();
    let block = model.block_length();
    let mut canvas = vec![None; span.tokens.len()];
    if sees_both {
        canvas.extend(span.after.iter().copied().map(Some));
        let whole = (span.before.len() + canvas.len()).next_multiple_of(block) - span.before.len();
        canvas.resize(whole, Some(model.pad_token_id));
    }
    let generate = Generate {
        rule: Rule::Threshold { threshold: 0.9, steps: block },
        banned: bench.banned(&[]),
        ..Generate::default()
    };
    let request =
        GenerateRequest { prompt: span.before.clone(), canvas, generate, ..GenerateRequest::default() };
    let mut written = bench.engine.generate(request)?.finish().await?.canvas;
    written.truncate(span.tokens.len());
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Speaker;

    #[test]
    fn spans_lie_within_a_turn_and_lose_nothing() {
        let controls: Vec<&str> = Control::ALL.iter().map(|c| c.token()).collect();
        let tokenizer = Tokenizer::train(["the bill is due on friday"].into_iter(), 300, &controls).unwrap();
        let turn = |speaker, text: &str| Turn { speaker, text: text.to_owned() };
        let turns = [
            turn(Speaker::Agent, "hi"),
            turn(Speaker::Customer, "when is the bill due, please tell me"),
            turn(Speaker::Agent, "the bill is due on friday at noon"),
        ];
        let mut pieces = Vec::new();
        prompt::turns(&mut pieces, &turns, turns.len());
        pieces.push(Piece::Control(Control::End));
        let all = prompt::encode(&pieces, &tokenizer).unwrap();
        let mut rng = StdRng::seed_from_u64(5);
        let mut lengths = Vec::new();
        for _ in 0..200 {
            let Some(span) = span(7, &turns, &tokenizer, &mut rng).unwrap() else { continue };
            let joined = [span.before.as_slice(), &span.tokens, &span.after].concat();
            assert_eq!(joined, all[..joined.len()]);
            assert!(joined.len() == all.len() || span.after.len() == MOST_AFTER);
            assert!(span.tokens.iter().all(|token| *token >= controls.len() as u32), "no control is masked");
            lengths.push(span.tokens.len());
        }
        lengths.sort_unstable();
        assert_eq!((lengths[0], lengths.last()), (1, Some(&LONGEST)));
        assert!(span(0, &turns[..1], &tokenizer, &mut rng).unwrap().is_none(), "too short a turn");
    }

    #[test]
    fn a_span_matches_exactly_or_not() {
        assert_eq!((exact(&[1, 2], &[1, 2]), exact(&[2, 1], &[1, 2])), (1.0, 0.0));
        assert_eq!(bag_f1(&[2, 1], &[1, 2]), 1.0);
    }
}
