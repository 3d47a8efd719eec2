//! LLaDA-MoE-7B-A1B (`LLaDAMoEModelLM`): full attention, norm of queries and keys by head,
//! experts by softmax over all of them, whose weights stay as they are.

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

/// The name that a `config.json` gives.
pub const ARCHITECTURE: &str = "LLaDAMoEModelLM";

/// The tensors of a checkpoint.
pub const NAMES: Names = LLAMA;

/// `<|mask|>` and `<|endoftext|>` of published checkpoints whose file does not state them.
const MASK: u32 = 156_895;
const END_OF_TEXT: u32 = 156_892;
/// What requests are denoised by when they name no block length; the family works with any.
const BLOCK_LENGTH: usize = 32;

/// A `config.json` as it is published, without what changes no result.
#[derive(Debug, Clone, Deserialize)]
pub struct LladaMoeConfig {
    vocab_size: usize,
    hidden_size: usize,
    dense_intermediate_size: Option<usize>,
    expert_intermediate_size: usize,
    shared_expert_intermediate_size: Option<usize>,
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
    clip_qkv: Option<f32>,
    num_experts: usize,
    num_experts_per_tok: usize,
    norm_topk_prob: Option<bool>,
    qk_layernorm: Option<bool>,
    /// For each layer 0 when it is dense; all are sparse when missing.
    moe_layer_freq: Option<Vec<usize>>,
    moe_router_enable_expert_bias: Option<bool>,
    moe_router_score_function: Option<String>,
    routed_scaling_factor: Option<f32>,
    router_num_group: Option<usize>,
    router_topk_group: Option<usize>,
    mask_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
    pad_token_id: Option<u32>,
}

impl LladaMoeConfig {
    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        reject(activation != "silu", format_args!("hidden_act {activation:?}"))?;
        let score = self.moe_router_score_function.as_deref().unwrap_or("softmax");
        reject(score != "softmax", format_args!("moe_router_score_function {score:?}"))?;
        reject(self.moe_router_enable_expert_bias == Some(true), "moe_router_enable_expert_bias")?;
        reject(self.router_num_group.is_some_and(|groups| groups > 1), "router_num_group")?;
        reject(self.router_topk_group.is_some_and(|groups| groups > 1), "router_topk_group")?;
        reject(self.routed_scaling_factor.is_some_and(|scale| scale != 1.0), "routed_scaling_factor")?;
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1));
        let (rope_theta, rotary_dim) = self.rotation.normalise(head_dim)?;
        let sparse = FeedForwardShape::Sparse(SparseShape {
            experts: self.num_experts,
            width: self.expert_intermediate_size,
            shared_width: self.shared_expert_intermediate_size.unwrap_or(0),
            routing: Routing {
                score: Score::Softmax,
                chosen: self.num_experts_per_tok,
                groups: 1,
                kept_groups: 1,
                capacity: None,
                normalise: self.norm_topk_prob.unwrap_or(false),
                scale: 1.0,
            },
            may_have_bias: false,
        });
        let dense = FeedForwardShape::Dense(self.dense_intermediate_size.unwrap_or(0));
        let layers: Vec<FeedForwardShape> = match &self.moe_layer_freq {
            None => vec![sparse; self.num_hidden_layers],
            Some(kinds) => kinds.iter().map(|kind| if *kind == 0 { dense } else { sparse }).collect(),
        };
        if layers.len() != self.num_hidden_layers {
            let (kinds, layers) = (layers.len(), self.num_hidden_layers);
            return Err(format!("moe_layer_freq names {kinds} layers, num_hidden_layers says {layers}"));
        }
        let eos_token_id = TokenIds::first_or(self.eos_token_id.as_ref(), END_OF_TEXT);
        Ok(ModelConfig {
            family: Family::LladaMoe,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            attention: Attention::Full,
            query_key_norm: match self.qk_layernorm {
                Some(true) => QueryKeyNorm::Head,
                _ => QueryKeyNorm::None,
            },
            clip_qkv: self.clip_qkv,
            biases: Biases { qkv: self.attention_bias, output: self.attention_bias, ..Biases::default() },
            rotary_dim,
            rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            max_position_embeddings: self.max_position_embeddings,
            tie_word_embeddings: self.tie_word_embeddings,
            logits_shift: 0,
            default_block_length: BLOCK_LENGTH,
            mask_token_id: self.mask_token_id.unwrap_or(MASK),
            eos_token_id,
            pad_token_id: self.pad_token_id.unwrap_or(eos_token_id),
            drafting: None,
        })
    }
}
