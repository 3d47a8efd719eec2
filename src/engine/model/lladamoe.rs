//! LLaDA-MoE-7B-A1B (`LLaDAMoEModelLM`): full attention, norm of queries and keys by head,
//! experts by softmax over all of them, whose weights stay as they are.

use serde::Deserialize;

use crate::engine::config::Attention;
use crate::engine::config::Family;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::config::SparseShape;
use crate::engine::config::reject;
use crate::engine::model::common::CommonFields;
use crate::engine::model::common::Defaults;
use crate::engine::model::names::LLAMA;
use crate::engine::model::names::Names;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::Score;

/// The name that a `config.json` gives.
pub const ARCHITECTURE: &str = "LLaDAMoEModelLM";

/// The tensors of a checkpoint.
pub const NAMES: Names = LLAMA;

/// `<|mask|>` and `<|endoftext|>`; the family works with any block length.
const DEFAULTS: Defaults = Defaults {
    family: Family::LladaMoe,
    attention: Attention::Full,
    mask: 156_895,
    end_of_text: 156_892,
    block_length: 32,
};

/// A `config.json` as it is published, without what changes no result.
#[derive(Debug, Clone, Deserialize)]
pub struct LladaMoeConfig {
    #[serde(flatten)]
    common: CommonFields,
    dense_intermediate_size: Option<usize>,
    expert_intermediate_size: usize,
    shared_expert_intermediate_size: Option<usize>,
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
}

impl LladaMoeConfig {
    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let score = self.moe_router_score_function.as_deref().unwrap_or("softmax");
        reject(score != "softmax", format_args!("moe_router_score_function {score:?}"))?;
        reject(self.moe_router_enable_expert_bias == Some(true), "moe_router_enable_expert_bias")?;
        reject(self.router_num_group.is_some_and(|groups| groups > 1), "router_num_group")?;
        reject(self.router_topk_group.is_some_and(|groups| groups > 1), "router_topk_group")?;
        reject(self.routed_scaling_factor.is_some_and(|scale| scale != 1.0), "routed_scaling_factor")?;
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
            None => vec![sparse; self.common.num_hidden_layers],
            Some(kinds) => kinds.iter().map(|kind| if *kind == 0 { dense } else { sparse }).collect(),
        };
        if layers.len() != self.common.num_hidden_layers {
            let (kinds, layers) = (layers.len(), self.common.num_hidden_layers);
            return Err(format!("moe_layer_freq names {kinds} layers, num_hidden_layers says {layers}"));
        }
        Ok(ModelConfig {
            query_key_norm: match self.qk_layernorm {
                Some(true) => QueryKeyNorm::Head,
                _ => QueryKeyNorm::None,
            },
            clip_qkv: self.clip_qkv,
            ..self.common.normalise(DEFAULTS, layers)?
        })
    }
}
