//! LLaDA-8B (`LLaDAModelLM`): dense, full attention, in the manner and with the names of OLMo.

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
use crate::engine::model::names::Names;
use crate::engine::model::names::Projections;

/// The name that a `config.json` gives.
pub const ARCHITECTURE: &str = "LLaDAModelLM";

/// The mask and the end of text of published checkpoints whose file does not state them.
const MASK: u32 = 126_336;
const END_OF_TEXT: u32 = 126_081;
/// What requests are denoised by when they name no block length; the family works with any.
const BLOCK_LENGTH: usize = 32;

/// The tensors of a checkpoint.
pub const NAMES: Names = Names {
    embeddings: "model.transformer.wte",
    norm: "model.transformer.ln_f",
    head: "model.transformer.ff_out",
    layers: "model.transformer.blocks",
    input_norm: "attn_norm",
    qkv: Projections::Separate(["q_proj", "k_proj", "v_proj"]),
    query_norm: "q_norm",
    key_norm: "k_norm",
    output: "attn_out",
    post_norm: "ff_norm",
    feed_forward: ["ff_proj", "up_proj", "ff_out"],
    router: "",
    experts: "",
    shared: "",
};

/// A `config.json` as it is published, without what changes no result.
#[derive(Debug, Clone, Deserialize)]
pub struct LladaConfig {
    d_model: usize,
    n_heads: usize,
    n_kv_heads: Option<usize>,
    multi_query_attention: Option<bool>,
    n_layers: usize,
    mlp_ratio: Option<usize>,
    mlp_hidden_size: Option<usize>,
    activation_type: String,
    block_type: String,
    block_group_size: Option<usize>,
    #[serde(default)]
    alibi: bool,
    #[serde(default)]
    rope: bool,
    #[serde(flatten)]
    rotation: Rotation,
    layer_norm_type: String,
    layer_norm_with_affine: Option<bool>,
    rms_norm_eps: f32,
    #[serde(default)]
    attention_layer_norm: bool,
    attention_layer_norm_with_affine: Option<bool>,
    max_sequence_length: usize,
    #[serde(default)]
    include_bias: bool,
    #[serde(default)]
    include_qkv_bias: bool,
    bias_for_layer_norm: Option<bool>,
    #[serde(default)]
    input_emb_norm: bool,
    #[serde(default)]
    scale_logits: bool,
    clip_qkv: Option<f32>,
    vocab_size: usize,
    embedding_size: Option<usize>,
    #[serde(default)]
    weight_tying: bool,
    mask_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
    pad_token_id: Option<u32>,
}

impl LladaConfig {
    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let is = |value: &str, what: &str, supported: &str| {
            reject(value != supported, format_args!("{what} {value:?}"))
        };
        is(&self.activation_type, "activation_type", "silu")?;
        is(&self.block_type, "block_type", "llama")?;
        is(&self.layer_norm_type, "layer_norm_type", "rms")?;
        reject(self.block_group_size.is_some_and(|size| size != 1), "block_group_size")?;
        reject(self.alibi, "alibi")?;
        reject(!self.rope, "a model without rope")?;
        reject(self.layer_norm_with_affine == Some(false), "a norm without weights")?;
        let row_norm_has_weights = self.attention_layer_norm_with_affine.unwrap_or(true);
        reject(self.attention_layer_norm && !row_norm_has_weights, "an attention norm without weights")?;
        reject(self.bias_for_layer_norm.unwrap_or(self.include_bias), "bias_for_layer_norm")?;
        reject(self.input_emb_norm, "input_emb_norm")?;
        reject(self.scale_logits, "scale_logits")?;
        reject(self.clip_qkv.is_some(), "clip_qkv")?;
        // Without either number the reference's blocks have as many key heads as query heads.
        let one_or_all = if self.multi_query_attention == Some(true) { 1 } else { self.n_heads };
        let head_dim = self.d_model / self.n_heads.max(1);
        let (rope_theta, rotary_dim) = self.rotation.normalise(head_dim)?;
        let width = self.mlp_hidden_size.or(self.mlp_ratio.map(|ratio| ratio * self.d_model));
        let eos_token_id = TokenIds::first_or(self.eos_token_id.as_ref(), END_OF_TEXT);
        Ok(ModelConfig {
            family: Family::Llada,
            // The tables may have more rows than there are tokens; the reference gives all logits.
            vocab_size: self.embedding_size.unwrap_or(self.vocab_size),
            hidden_size: self.d_model,
            layers: vec![FeedForwardShape::Dense(width.unwrap_or(0)); self.n_layers],
            num_attention_heads: self.n_heads,
            num_key_value_heads: self.n_kv_heads.unwrap_or(one_or_all),
            head_dim,
            attention: Attention::Full,
            query_key_norm: if self.attention_layer_norm { QueryKeyNorm::Row } else { QueryKeyNorm::None },
            clip_qkv: None,
            biases: Biases {
                qkv: self.include_bias || self.include_qkv_bias,
                output: self.include_bias,
                feed_forward: self.include_bias,
                head: self.include_bias && !self.weight_tying,
            },
            rotary_dim,
            rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            max_position_embeddings: self.max_sequence_length,
            tie_word_embeddings: self.weight_tying,
            logits_shift: 0,
            default_block_length: BLOCK_LENGTH,
            mask_token_id: self.mask_token_id.unwrap_or(MASK),
            eos_token_id,
            pad_token_id: self.pad_token_id.unwrap_or(eos_token_id),
            edits: None,
            drafting: None,
        })
    }
}
