//! The weights of a LLaDA-MoE model as a GGUF file (version 3), so that others can be measured on them.
//!
//! Its vocabulary is made up: token 17 is spelled `<t17>`, so that a prompt of any ids can be given and
//! an answer be read as ids, whatever tokenizer the model has.

use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;

use half::bf16;
use half::f16;

use crate::command::bench::peers::tensors::Tensor;
use crate::command::bench::peers::tensors::tensors;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::weights::Weights;

/// Where each tensor's bytes begin.
const ALIGNMENT: usize = 32;
/// Numbers of a group with one scale.
const GROUP: usize = 32;
/// A token that is found in a text wherever it stands.
const USER_DEFINED: i32 = 4;
/// Shows the messages as they are.
const TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}{% endfor %}";

/// How the matrices are stored; vectors and routers are in f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Not rounded.
    F32,
    /// 16 bits.
    Bf16,
    /// 8 bits and an f16 scale for each 32 numbers.
    Q8,
    /// 4 bits and an f16 scale for each 32 numbers.
    Q4,
}

impl Numbers {
    /// Returns GGML's number of the type.
    fn code(self) -> u32 {
        match self {
            Numbers::F32 => 0,
            Numbers::Q4 => 2,
            Numbers::Q8 => 8,
            Numbers::Bf16 => 30,
        }
    }

    /// Returns the bytes of `count` numbers, a multiple of a group.
    fn bytes(self, count: usize) -> usize {
        match self {
            Numbers::F32 => 4 * count,
            Numbers::Bf16 => 2 * count,
            Numbers::Q8 => count / GROUP * (2 + GROUP),
            Numbers::Q4 => count / GROUP * (2 + GROUP / 2),
        }
    }

    /// Appends a row.
    fn write(self, row: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Numbers::F32 => row.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
            Numbers::Bf16 => row.iter().for_each(|v| bytes.extend(bf16::from_f32(*v).to_le_bytes())),
            Numbers::Q8 => row.chunks_exact(GROUP).for_each(|group| eight_bits(group, bytes)),
            Numbers::Q4 => row.chunks_exact(GROUP).for_each(|group| four_bits(group, bytes)),
        }
    }
}

/// Appends a group as `Q8_0`: its scale, then its numbers over the scale, rounded.
fn eight_bits(group: &[f32], bytes: &mut Vec<u8>) {
    let largest = group.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
    let scale = largest / 127.0;
    let over = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    bytes.extend(f16::from_f32(scale).to_le_bytes());
    bytes.extend(group.iter().map(|v| (v * over).round() as i8 as u8));
}

/// Appends a group as `Q4_0`: its scale, then sixteen even steps from -8 to 7, the number that is farthest
/// from zero at -8; the first half of the group in the low bits.
fn four_bits(group: &[f32], bytes: &mut Vec<u8>) {
    let farthest = group.iter().fold(0.0_f32, |far, v| if v.abs() > far.abs() { *v } else { far });
    let scale = farthest / -8.0;
    let over = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    bytes.extend(f16::from_f32(scale).to_le_bytes());
    let step = |v: f32| (v.mul_add(over, 8.5) as u8).min(15);
    let (low, high) = group.split_at(GROUP / 2);
    bytes.extend(low.iter().zip(high).map(|(low, high)| step(*low) | step(*high) << 4));
}

/// Returns how token `id` is spelled.
pub fn spelling(id: u32) -> String {
    format!("<t{id}>")
}

/// Writes a model. Its family must be LLaDA-MoE.
///
/// # Errors
/// When a tensor is missing, or the file cannot be written.
pub fn write(path: &Path, config: &ModelConfig, weights: &Weights, numbers: Numbers) -> anyhow::Result<()> {
    let tensors = tensors(config);
    let stored = |tensor: &Tensor| if tensor.is_exact { Numbers::F32 } else { numbers };
    let mut header = metadata(config, tensors.len());
    let mut offset = 0;
    for tensor in &tensors {
        text(&mut header, &tensor.gguf);
        header.extend((tensor.shape().len() as u32).to_le_bytes());
        tensor.shape().iter().rev().for_each(|size| header.extend((*size as u64).to_le_bytes()));
        header.extend(stored(tensor).code().to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        let bytes = stored(tensor).bytes(tensor.shape().iter().product());
        offset += bytes.next_multiple_of(ALIGNMENT);
    }
    let mut file = BufWriter::new(File::create(path)?);
    padded(&mut file, &header)?;
    let mut row = vec![0.0; 0];
    for tensor in &tensors {
        let mut bytes = Vec::new();
        for part in &tensor.parts {
            if tensor.rows == 0 {
                stored(tensor).write(&weights.tensor(part, &[tensor.columns])?, &mut bytes);
                continue;
            }
            let matrix = weights.matrix(part, tensor.rows, tensor.columns)?;
            row.resize(tensor.columns, 0.0);
            for i in 0..tensor.rows {
                matrix.read(i, &mut row);
                stored(tensor).write(&row, &mut bytes);
            }
        }
        padded(&mut file, &bytes)?;
    }
    file.flush()?;
    Ok(())
}

/// Returns what stands before the list of tensors.
fn metadata(config: &ModelConfig, tensors: usize) -> Vec<u8> {
    let mut values = Values { bytes: Vec::new(), count: 0 };
    let (experts, width, chosen) = match config.layers[0] {
        FeedForwardShape::Sparse(sparse) => (sparse.experts, sparse.width, sparse.routing.chosen),
        FeedForwardShape::Dense(width) => (0, width, 0),
    };
    values.text("general.architecture", "llada-moe");
    let key = |name: &str| format!("llada-moe.{name}");
    values.integer(&key("block_count"), config.layers.len());
    values.integer(&key("context_length"), config.max_position_embeddings);
    values.integer(&key("embedding_length"), config.hidden_size);
    values.integer(&key("feed_forward_length"), width);
    values.integer(&key("expert_feed_forward_length"), width);
    values.integer(&key("expert_count"), experts);
    values.integer(&key("expert_used_count"), chosen);
    values.integer(&key("attention.head_count"), config.num_attention_heads);
    values.integer(&key("attention.head_count_kv"), config.num_key_value_heads);
    values.real(&key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    values.real(&key("rope.freq_base"), config.rope_theta);
    values.truth("diffusion.shift_logits", config.logits_shift > 0);
    values.text("tokenizer.ggml.model", "llama");
    let ids = 0..config.vocab_size as u32;
    values.list("tokenizer.ggml.tokens", TEXT, config.vocab_size);
    ids.clone().for_each(|id| text(&mut values.bytes, &spelling(id)));
    values.list("tokenizer.ggml.scores", REAL, config.vocab_size);
    ids.clone().for_each(|_| values.bytes.extend(0.0_f32.to_le_bytes()));
    values.list("tokenizer.ggml.token_type", SIGNED, config.vocab_size);
    ids.for_each(|_| values.bytes.extend(USER_DEFINED.to_le_bytes()));
    values.integer("tokenizer.ggml.mask_token_id", config.mask_token_id as usize);
    values.integer("tokenizer.ggml.eos_token_id", config.eos_token_id as usize);
    values.truth("tokenizer.ggml.add_bos_token", false);
    values.truth("tokenizer.ggml.add_space_prefix", false);
    values.text("tokenizer.chat_template", TEMPLATE);
    let mut header = b"GGUF".to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((tensors as u64).to_le_bytes());
    header.extend(values.count.to_le_bytes());
    header.extend(values.bytes);
    header
}

const INTEGER: u32 = 4;
const SIGNED: u32 = 5;
const REAL: u32 = 6;
const TRUTH: u32 = 7;
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// Keys with values, as they are written.
struct Values {
    bytes: Vec<u8>,
    count: u64,
}

impl Values {
    fn key(&mut self, key: &str, kind: u32) {
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }

    fn integer(&mut self, key: &str, value: usize) {
        self.key(key, INTEGER);
        self.bytes.extend((value as u32).to_le_bytes());
    }

    fn real(&mut self, key: &str, value: f32) {
        self.key(key, REAL);
        self.bytes.extend(value.to_le_bytes());
    }

    fn truth(&mut self, key: &str, value: bool) {
        self.key(key, TRUTH);
        self.bytes.push(u8::from(value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, TEXT);
        text(&mut self.bytes, value);
    }

    /// Begins a list, whose values follow.
    fn list(&mut self, key: &str, kind: u32, length: usize) {
        self.key(key, LIST);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((length as u64).to_le_bytes());
    }
}

/// Appends a text with its length.
fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Writes bytes, and zeros up to where the next tensor may begin.
fn padded(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.write_all(&vec![0; bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Vec<f32> {
        (0..GROUP).map(|i| (i as f32 - 20.0) / 7.0).collect()
    }

    fn scale(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }

    #[test]
    fn eight_bits_come_back_within_half_a_step() {
        let mut bytes = Vec::new();
        Numbers::Q8.write(&group(), &mut bytes);
        assert_eq!(bytes.len(), Numbers::Q8.bytes(GROUP));
        for (number, byte) in group().iter().zip(&bytes[2..]) {
            assert!((number - f32::from(*byte as i8) * scale(&bytes)).abs() < 0.52 * scale(&bytes));
        }
    }

    #[test]
    fn four_bits_come_back_within_a_step_and_the_farthest_exactly() {
        let mut bytes = Vec::new();
        Numbers::Q4.write(&group(), &mut bytes);
        assert_eq!(bytes.len(), Numbers::Q4.bytes(GROUP));
        let back = |i: usize| {
            let pair = bytes[2 + i % (GROUP / 2)];
            let step = if i < GROUP / 2 { pair & 15 } else { pair >> 4 };
            (f32::from(step) - 8.0) * scale(&bytes)
        };
        for (i, number) in group().iter().enumerate() {
            assert!((number - back(i)).abs() <= scale(&bytes).abs(), "{i}: {number} {}", back(i));
        }
        assert!((group()[0] - back(0)).abs() < 1e-3);
    }

    #[test]
    fn a_group_of_zeros_stays_one() {
        let mut bytes = Vec::new();
        Numbers::Q8.write(&[0.0; GROUP], &mut bytes);
        Numbers::Q4.write(&[0.0; GROUP], &mut bytes);
        assert_eq!(bytes[..34], [0; 34]);
        assert_eq!(scale(&bytes[34..]), 0.0);
        assert!(bytes[36..].iter().all(|pair| *pair == 0x88));
    }
}
