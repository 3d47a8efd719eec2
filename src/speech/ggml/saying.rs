//! A model file that says the same words of whatever it hears, for tests of all that lies around the
//! recogniser: whisper.cpp loads and decodes it as any other.
//!
//! Every layer of the decoder adds nothing, so what follows a position is told by the position alone: its
//! embedding is that of the token which comes next, and the last norm makes the choice a sure one.

use std::io;
use std::path::Path;

use crate::speech::ggml::random::RandomShape;
use crate::speech::ggml::random::SplitMix;
use crate::speech::ggml::random::token;
use crate::speech::ggml::random::write;

/// The end of a text and the first of the times, as whisper.cpp counts them for English.
const END: u32 = 50_256;
const FIRST_TIME: u32 = 50_363;
/// The token that stands for the first word.
const FIRST_WORD: u32 = 1_000;
/// How much a position outweighs the token that stands there, and how sure the choice is.
const POSITION_WEIGHT: f32 = 40.0;
const SURENESS: f32 = 30.0;
/// Steps of 20 ms that each word is said to take.
const WORD_STEPS: u32 = 15;

/// Writes a small model that hears these words in everything.
///
/// # Errors
/// When the file cannot be written.
pub fn write_saying(path: &Path, words: &[&str]) -> io::Result<()> {
    let shape = RandomShape::SMALLEST;
    let count = words.len() as u32;
    // What is said at each position: a time, the words, a time, the end.
    let said = |position: u32| match position {
        0 => FIRST_TIME,
        at if at <= count => FIRST_WORD + at - 1,
        at if at == count + 1 => FIRST_TIME + count * WORD_STEPS,
        _ => END,
    };
    let word = |index: u32| {
        let at = index.checked_sub(FIRST_WORD).and_then(|at| words.get(at as usize));
        at.map_or_else(|| token(index), |word| format!(" {word}").into_bytes())
    };
    let width = shape.state as usize;
    let embedding = |token: u32| {
        // Of each token its own seed, so that a position finds it again.
        let mut random = SplitMix { state: u64::from(token) << 20 };
        (0..width).map(move |_| random.small()).collect::<Vec<f32>>()
    };
    let mut random = SplitMix { state: 1 };
    write(path, &shape, word, |tensor| match tensor.name.as_str() {
        "decoder.token_embedding.weight" => (0..shape.vocab).flat_map(embedding).collect(),
        "decoder.positional_embedding" => (0..shape.text_ctx)
            .flat_map(|position| embedding(said(position)).into_iter().map(|weight| weight * POSITION_WEIGHT))
            .collect(),
        "decoder.ln.weight" => vec![SURENESS; width],
        name if name.starts_with("decoder.") => vec![0.0; tensor.numbers() as usize],
        _ => (0..tensor.numbers()).map(|_| random.small()).collect(),
    })
}
