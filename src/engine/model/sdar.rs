//! SDAR, dense (`SDARForCausalLM`) and with experts (`SDARMoeForCausalLM`): block-causal attention
//! in the manner of Qwen3, experts by softmax with weights that are normalised when the file says so.

use serde::Deserialize;

use crate::engine::config::Attention;
use crate::engine::config::Biases;
use crate::engine::config::Family;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::config::Rotation;
use crate::engine::config::SparseShape;
use crate::engine::config::TokenIds;
use crate::engine::config::reject;
use crate::engine::model::names::LLAMA;
use crate::engine::model::names::Names;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::Score;

/// The name that a `config.json` of a dense checkpoint gives.
pub const DENSE: &str = "SDARForCausalLM";
/// The name that a `config.json` of a checkpoint with experts gives.
pub const MIXTURE: &str = "SDARMoeForCausalLM";

/// The tensors of a checkpoint.
pub const NAMES: Names = LLAMA;

/// The mask and the end of text of published checkpoints whose file does not state them.
const MASK: u32 = 151_669;
const END_OF_TEXT: u32 = 151_643;
/// The block length of published checkpoints, but for those whose name says another.
const BLOCK_LENGTH: usize = 4;

/// A `config.json` as it is published, without what changes no result.
#[derive(Debug, Clone, Deserialize)]
pub struct SdarConfig {
    architectures: Vec<String>,
    vocab_size: usize,
    hidden_size: usize,
    /// A checkpoint whose layers are all sparse need not state it.
    intermediate_size: Option<usize>,
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
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    norm_topk_prob: Option<bool>,
    /// Every how many layers one is sparse.
    decoder_sparse_step: Option<usize>,
    /// Layers that are dense all the same.
    mlp_only_layers: Option<Vec<usize>>,
    block_size: Option<usize>,
    mask_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
    pad_token_id: Option<u32>,
}

impl SdarConfig {
    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        reject(activation != "silu", format_args!("hidden_act {activation:?}"))?;
        reject(self.use_sliding_window, "use_sliding_window")?;
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1));
        let (rope_theta, rotary_dim) = self.rotation.normalise(head_dim)?;
        let eos_token_id = TokenIds::first_or(self.eos_token_id.as_ref(), END_OF_TEXT);
        Ok(ModelConfig {
            family: Family::Sdar,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            layers: (0..self.num_hidden_layers).map(|i| self.feed_forward(i)).collect(),
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            attention: Attention::BlockCausal,
            query_key_norm: QueryKeyNorm::Head,
            clip_qkv: None,
            biases: Biases { qkv: self.attention_bias, output: self.attention_bias, ..Biases::default() },
            rotary_dim,
            rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            max_position_embeddings: self.max_position_embeddings,
            tie_word_embeddings: self.tie_word_embeddings,
            logits_shift: 0,
            default_block_length: self.block_size.unwrap_or(BLOCK_LENGTH),
            mask_token_id: self.mask_token_id.unwrap_or(MASK),
            eos_token_id,
            pad_token_id: self.pad_token_id.unwrap_or(eos_token_id),
            drafting: None,
        })
    }

    /// Returns the kind of a layer's feed-forward part, by the rule of Qwen3-MoE.
    fn feed_forward(&self, layer: usize) -> FeedForwardShape {
        let has_experts = self.architectures.first().is_some_and(|name| name == MIXTURE);
        let experts = self.num_experts.unwrap_or(0);
        let step = self.decoder_sparse_step.unwrap_or(1).max(1);
        let is_sparse = has_experts && experts > 0 && (layer + 1).is_multiple_of(step);
        let is_dense_all_the_same = self.mlp_only_layers.as_ref().is_some_and(|dense| dense.contains(&layer));
        if !is_sparse || is_dense_all_the_same {
            return FeedForwardShape::Dense(self.intermediate_size.unwrap_or(0));
        }
        FeedForwardShape::Sparse(SparseShape {
            experts,
            width: self.moe_intermediate_size.unwrap_or(0),
            shared_width: 0,
            routing: Routing {
                score: Score::Softmax,
                chosen: self.num_experts_per_tok.unwrap_or(0),
                groups: 1,
                kept_groups: 1,
                capacity: None,
                normalise: self.norm_topk_prob.unwrap_or(false),
                scale: 1.0,
            },
            may_have_bias: false,
        })
    }
}
