//! The fields that the files of most families have in common: Hugging Face's own names.

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

/// What a family's published checkpoints mean when their file does not state it.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// The family.
    pub family: Family,
    /// Which positions a position sees.
    pub attention: Attention,
    /// The id that stands for "not denoised yet".
    pub mask: u32,
    /// The id that ends a text.
    pub end_of_text: u32,
    /// What requests are denoised by when they name no block length.
    pub block_length: usize,
}

/// The fields that Dream, SDAR and LLaDA-MoE share.
#[derive(Debug, Clone, Deserialize)]
pub struct CommonFields {
    vocab_size: usize,
    hidden_size: usize,
    pub(super) num_hidden_layers: usize,
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
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    mask_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
    pad_token_id: Option<u32>,
}

impl CommonFields {
    /// Returns the description that the engine runs by, with nothing special about the attention, or
    /// what it does not support.
    pub fn normalise(
        &self,
        defaults: Defaults,
        layers: Vec<FeedForwardShape>,
    ) -> Result<ModelConfig, String> {
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        reject(activation != "silu", format_args!("hidden_act {activation:?}"))?;
        reject(self.use_sliding_window, "use_sliding_window")?;
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1));
        let (rope_theta, rotary_dim) = self.rotation.normalise(head_dim)?;
        let eos_token_id = TokenIds::first_or(self.eos_token_id.as_ref(), defaults.end_of_text);
        Ok(ModelConfig {
            family: defaults.family,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            attention: defaults.attention,
            query_key_norm: QueryKeyNorm::None,
            clip_qkv: None,
            biases: Biases { qkv: self.attention_bias, output: self.attention_bias, ..Biases::default() },
            rotary_dim,
            rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            max_position_embeddings: self.max_position_embeddings,
            tie_word_embeddings: self.tie_word_embeddings,
            logits_shift: 0,
            default_block_length: defaults.block_length,
            mask_token_id: self.mask_token_id.unwrap_or(defaults.mask),
            eos_token_id,
            pad_token_id: self.pad_token_id.unwrap_or(eos_token_id),
            drafting: None,
        })
    }
}
