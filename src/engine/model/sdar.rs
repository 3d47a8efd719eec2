//! SDAR, dense (`SDARForCausalLM`) and with experts (`SDARMoeForCausalLM`): block-causal attention
//! in the manner of Qwen3, experts by softmax with weights that are normalised when the file says so.

use serde::Deserialize;

use crate::engine::config::Attention;
use crate::engine::config::Family;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::config::SparseShape;
use crate::engine::model::common::CommonFields;
use crate::engine::model::common::Defaults;
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

/// Published checkpoints have this block length but for those whose name says another.
const DEFAULTS: Defaults = Defaults {
    family: Family::Sdar,
    attention: Attention::BlockCausal,
    mask: 151_669,
    end_of_text: 151_643,
    block_length: 4,
};

/// A `config.json` as it is published, without what changes no result.
#[derive(Debug, Clone, Deserialize)]
pub struct SdarConfig {
    #[serde(flatten)]
    common: CommonFields,
    architectures: Vec<String>,
    /// A checkpoint whose layers are all sparse need not state it.
    intermediate_size: Option<usize>,
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    norm_topk_prob: Option<bool>,
    /// Every how many layers one is sparse.
    decoder_sparse_step: Option<usize>,
    /// Layers that are dense all the same.
    mlp_only_layers: Option<Vec<usize>>,
    block_size: Option<usize>,
}

impl SdarConfig {
    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let layers = (0..self.common.num_hidden_layers).map(|i| self.feed_forward(i)).collect();
        let defaults =
            Defaults { block_length: self.block_size.unwrap_or(DEFAULTS.block_length), ..DEFAULTS };
        let config = self.common.normalise(defaults, layers)?;
        Ok(ModelConfig { query_key_norm: QueryKeyNorm::Head, ..config })
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
