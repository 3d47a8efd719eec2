//! Model files with random weights, for tests: whisper.cpp loads and runs them, and what it writes means
//! nothing.

use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;

use half::f16;

use crate::speech::ggml::ENGLISH_VOCAB;
use crate::speech::ggml::FREQUENCIES;
use crate::speech::ggml::MAGIC;
use crate::speech::ggml::Storage;
use crate::speech::ggml::Tensor;
use crate::speech::ggml::WhisperHeader;

/// Samples a second of all Whisper models.
const SAMPLE_RATE_HZ: f64 = 16_000.0;
/// Tokens that a file lists; whisper.cpp makes up the special ones that follow.
const LISTED_TOKENS: u32 = 50_257;

/// The shape of a model of random weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomShape {
    /// Width of encoder and decoder.
    pub state: u32,
    /// Attention heads of each.
    pub heads: u32,
    /// Layers of each.
    pub layers: u32,
    /// Positions of the encoder's output: 1500 for 30 s.
    pub audio_ctx: u32,
    /// Positions of the decoder, in tokens.
    pub text_ctx: u32,
    /// Tokens: 51864 for English, 51865 for more languages. whisper.cpp knows the special ones by
    /// number, so it can be no less.
    pub vocab: u32,
}

impl RandomShape {
    /// The sizes of tiny.en: 78 MB, as slow as the real one.
    pub const TINY_EN: RandomShape =
        RandomShape { state: 384, heads: 6, layers: 4, audio_ctx: 1500, text_ctx: 448, vocab: ENGLISH_VOCAB };
    /// As small as whisper.cpp runs with its vocabulary: 8 MB, nearly all of it the tokens' embedding.
    pub const SMALLEST: RandomShape = RandomShape { state: 64, heads: 1, layers: 1, ..RandomShape::TINY_EN };
}

/// Writes a whole model file with random weights: what it writes as text means nothing.
///
/// Large weights are f16, all others f32, as whisper.cpp's converter stores them. The same shape and
/// seed give the same bytes.
///
/// # Errors
/// When the file cannot be written.
///
/// # Blocking
/// Up to a second for the larger shape.
pub fn write_random(path: &Path, shape: &RandomShape, seed: u64) -> io::Result<()> {
    let mut random = SplitMix { state: seed };
    write(path, shape, token, |tensor| {
        // Norms scale by about one, everything else is about zero.
        let is_norm = tensor.name.ends_with("ln.weight") || tensor.name.ends_with("ln_post.weight");
        let middle = if is_norm { 1.0 } else { 0.0 };
        (0..tensor.numbers()).map(|_| middle + random.small()).collect()
    })
}

/// Writes a model file with these tokens and weights.
pub(super) fn write(
    path: &Path,
    shape: &RandomShape,
    token: impl Fn(u32) -> Vec<u8>,
    mut weights: impl FnMut(&Tensor) -> Vec<f32>,
) -> io::Result<()> {
    let header = WhisperHeader {
        vocab: shape.vocab,
        audio_ctx: shape.audio_ctx,
        audio_state: shape.state,
        audio_heads: shape.heads,
        audio_layers: shape.layers,
        text_ctx: shape.text_ctx,
        text_state: shape.state,
        text_heads: shape.heads,
        text_layers: shape.layers,
        mels: 80,
        ftype: 1,
    };
    let mut file = BufWriter::new(File::create(path)?);
    write_numbers(&mut file, &[MAGIC])?;
    write_numbers(&mut file, &header.numbers())?;
    write_numbers(&mut file, &[header.mels, FREQUENCIES])?;
    for weight in mel_filters(header.mels) {
        file.write_all(&weight.to_le_bytes())?;
    }
    write_numbers(&mut file, &[LISTED_TOKENS])?;
    for index in 0..LISTED_TOKENS {
        let token = token(index);
        write_numbers(&mut file, &[u32::try_from(token.len()).map_err(io::Error::other)?])?;
        file.write_all(&token)?;
    }
    for tensor in header.tensors() {
        let (dims, name) = (tensor.dims.len(), tensor.name.as_bytes());
        let sizes = [dims, name.len()].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        write_numbers(&mut file, &[sizes[0], sizes[1], tensor.storage.id])?;
        write_numbers(&mut file, &tensor.dims)?;
        file.write_all(name)?;
        for weight in weights(&tensor) {
            if tensor.storage == Storage::F32 {
                file.write_all(&weight.to_le_bytes())?;
            } else {
                file.write_all(&f16::from_f32(weight).to_le_bytes())?;
            }
        }
    }
    file.flush()
}

fn write_numbers(file: &mut impl Write, numbers: &[u32]) -> io::Result<()> {
    numbers.iter().try_for_each(|number| file.write_all(&number.to_le_bytes()))
}

/// Returns a token: the 256 bytes, then made-up words of up to four syllables, none of them twice.
pub(super) fn token(index: u32) -> Vec<u8> {
    const CONSONANTS: &[u8; 10] = b"bdfgklmnst";
    const VOWELS: &[u8; 4] = b"aeio";
    if let Ok(byte) = u8::try_from(index) {
        return vec![byte];
    }
    let mut word = vec![b' '];
    let mut rest = index as usize - 256 + 1;
    while rest > 0 {
        let syllable = (rest - 1) % 40;
        word.extend([CONSONANTS[syllable / 4], VOWELS[syllable % 4]]);
        rest = (rest - 1) / 40;
    }
    word
}

/// Returns the mel filter bank `[mels, 201]`: triangles of equal area, evenly spaced on Slaney's scale from
/// 0 to 8000 Hz.
///
/// Source: M. Slaney, Auditory Toolbox, 1998 (linear below 1000 Hz, then logarithmic).
fn mel_filters(mels: u32) -> Vec<f32> {
    const LINEAR_HZ: f64 = 200.0 / 3.0;
    const BREAK_HZ: f64 = 1000.0;
    const BREAK_MEL: f64 = BREAK_HZ / LINEAR_HZ;
    let step = 6.4_f64.ln() / 27.0;
    let most_hz = SAMPLE_RATE_HZ / 2.0;
    let most_mel = BREAK_MEL + (most_hz / BREAK_HZ).ln() / step;
    let hz = |point: u32| {
        let mel = most_mel * f64::from(point) / f64::from(mels + 1);
        if mel < BREAK_MEL { mel * LINEAR_HZ } else { BREAK_HZ * ((mel - BREAK_MEL) * step).exp() }
    };
    let mut filters = Vec::new();
    for mel in 0..mels {
        let (low, middle, high) = (hz(mel), hz(mel + 1), hz(mel + 2));
        for frequency in 0..FREQUENCIES {
            let at = most_hz * f64::from(frequency) / f64::from(FREQUENCIES - 1);
            let height = ((at - low) / (middle - low)).min((high - at) / (high - middle)).max(0.0);
            filters.push((height * 2.0 / (high - low)) as f32);
        }
    }
    filters
}

/// A generator whose numbers never change with a library.
///
/// Source: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, 2014.
pub(super) struct SplitMix {
    pub state: u64,
}

impl SplitMix {
    /// Returns a number from -0.05 to 0.05.
    pub fn small(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The upper 24 bits are exact in an f32.
        ((bits >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_token_is_there_twice() {
        let tokens: HashSet<Vec<u8>> = (0..LISTED_TOKENS).map(token).collect();
        assert_eq!(tokens.len(), LISTED_TOKENS as usize);
        assert_eq!(token(256), b" ba");
        assert_eq!(token(0xe4), [0xe4]);
    }

    #[test]
    fn mel_filters_are_those_of_whisper() {
        let filters = mel_filters(80);
        assert_eq!(filters.len(), 80 * 201);
        // From mel_filters.npz of openai/whisper: four bands where they are highest, and the last where it ends.
        let check = |mel: usize, frequency: usize, expected: f32| {
            let found = filters[mel * 201 + frequency];
            assert!((found - expected).abs() < 1e-6, "{mel} {frequency}: {found}");
        };
        check(0, 1, 0.024_862_595);
        check(1, 2, 0.022_871_772);
        check(39, 41, 0.011_486_922);
        check(79, 192, 0.003_164_712);
        check(79, 200, 0.0);
    }
}
