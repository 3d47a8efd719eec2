//! Dream-7B (`DreamModel`): dense, full attention, in the manner of Qwen2 with biases of queries,
//! keys and values. The logits of a position predict the next one, as in the model it began as.

use serde::Deserialize;

use crate::engine::config::Attention;
use crate::engine::config::Biases;
use crate::engine::config::Family;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::config::Rotation;
use crate::engine::config::TokenIds;
use crate::engine::config::reject;
use crate::engine::model::names::LLAMA;
use crate::engine::model::names::Names;

/// The name that a `config.json` gives.
pub const ARCHITECTURE: &str = "DreamModel";

/// The tensors of a checkpoint.
pub const NAMES: Names = LLAMA;

/// The mask and the end of text of published checkpoints whose file does not state them.
const MASK: u32 = 151_666;
const END_OF_TEXT: u32 = 151_643;
/// What requests are denoised by when they name no block length; the family works with any.
const BLOCK_LENGTH: usize = 32;

/// A `config.json` as it is published, without what changes no result.
#[derive(Debug, Clone, Deserialize)]
pub struct DreamConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(flatten)]
    rotation: Rotation,
    #[serde(default)]
    use_sliding_window: bool,
    mask_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
    pad_token_id: Option<u32>,
}

impl DreamConfig {
    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        reject(activation != "silu", format_args!("hidden_act {activation:?}"))?;
        reject(self.use_sliding_window, "use_sliding_window")?;
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1));
        let (rope_theta, rotary_dim) = self.rotation.normalise(head_dim)?;
        let eos_token_id = TokenIds::first_or(self.eos_token_id.as_ref(), END_OF_TEXT);
        Ok(ModelConfig {
            family: Family::Dream,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            layers: vec![FeedForwardShape::Dense(self.intermediate_size); self.num_hidden_layers],
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            attention: Attention::Full,
            query_key_norm: QueryKeyNorm::None,
            clip_qkv: None,
            biases: Biases { qkv: true, ..Biases::default() },
            rotary_dim,
            rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            max_position_embeddings: self.max_position_embeddings,
            tie_word_embeddings: self.tie_word_embeddings,
            logits_shift: 1,
            default_block_length: BLOCK_LENGTH,
            mask_token_id: self.mask_token_id.unwrap_or(MASK),
            eos_token_id,
            pad_token_id: self.pad_token_id.unwrap_or(eos_token_id),
            drafting: None,
        })
    }
}
