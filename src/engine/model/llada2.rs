//! LLaDA2.0, 2.1 and 2.2 (`LLaDA2MoeModelLM`): block-causal attention, norm of queries and keys,
//! half of each head rotated, sigmoid-routed experts in groups, one shared expert.
//!
//! LLaDA2.2 routes by block: `expert_capacity` experts are open to a block, groups are not read.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::engine::config;
use crate::engine::config::Attention;
use crate::engine::config::Biases;
use crate::engine::config::ConfigError;
use crate::engine::config::Drafting;
use crate::engine::config::EditTokens;
use crate::engine::config::Family;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::config::RopeParameters;
use crate::engine::config::Rotation;
use crate::engine::config::SparseShape;
use crate::engine::config::reject;
use crate::engine::model::names::Names;
use crate::engine::model::names::Projections;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::Score;

/// The name that a `config.json` gives.
pub const ARCHITECTURE: &str = "LLaDA2MoeModelLM";

/// The block length of published checkpoints, which do not state it.
const BLOCK_LENGTH: usize = 32;
/// `<|mask|>` and `<|endoftext|>` of published checkpoints whose file does not state them.
const MASK: u32 = 156_895;
const END_OF_TEXT: u32 = 156_892;
/// The instructions to delete and to insert of published LLaDA2.2, whose file does not state them.
const DELETE: u32 = 156_930;
const INSERT: u32 = 156_931;

/// The tensors of a checkpoint.
pub const NAMES: Names = Names {
    embeddings: "model.word_embeddings",
    norm: "model.norm",
    head: "lm_head",
    layers: "model.layers",
    input_norm: "input_layernorm",
    qkv: Projections::Fused("attention.query_key_value"),
    query_norm: "attention.query_layernorm",
    key_norm: "attention.key_layernorm",
    output: "attention.dense",
    post_norm: "post_attention_layernorm",
    feed_forward: ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    router: "mlp.gate",
    experts: "mlp.experts",
    shared: "mlp.shared_experts",
};

/// A `config.json` as it is published. The trainer writes this form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Llada2Config {
    /// Architecture names; the first decides which code runs.
    pub architectures: Vec<String>,
    /// The family's short name.
    pub model_type: String,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of a dense feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Added to the mean square before its root.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    #[serde(default)]
    pub rope_theta: Option<f32>,
    /// Share of each head that is rotated.
    #[serde(default)]
    pub partial_rotary_factor: Option<f32>,
    /// The most positions.
    pub max_position_embeddings: usize,
    /// Routed experts of a sparse layer.
    pub num_experts: usize,
    /// Experts a token is sent to.
    pub num_experts_per_tok: usize,
    /// Shared experts, fused to one of `num_shared_experts` times the width; 0 for none.
    #[serde(default)]
    pub num_shared_experts: usize,
    /// Groups of experts.
    #[serde(default = "one_group")]
    pub n_group: usize,
    /// Groups a token may choose from.
    #[serde(default = "one_group")]
    pub topk_group: usize,
    /// Multiplies the normalised routing weights.
    #[serde(default = "one")]
    pub routed_scaling_factor: f32,
    /// Width of one expert.
    pub moe_intermediate_size: usize,
    /// How many first layers are dense.
    #[serde(default)]
    pub first_k_dense_replace: usize,
    /// Whether the head is the embedding table.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Block length the checkpoint was trained with, when it says so.
    #[serde(default)]
    pub block_size: Option<usize>,
    /// The id that stands for "not denoised yet".
    #[serde(default = "mask")]
    pub mask_token_id: u32,
    /// The id that ends a text.
    #[serde(default = "end_of_text")]
    pub eos_token_id: u32,
    /// The id that fills the last block.
    #[serde(default = "end_of_text")]
    pub pad_token_id: u32,
    /// How drafts are written with this checkpoint: `quote` or `free`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafting: Option<Drafting>,
    /// What only some checkpoints state.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The fields that our own checkpoints leave out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rest {
    /// Experts open to a block (LLaDA2.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_capacity: Option<usize>,
    /// The instruction to take a token out (LLaDA2.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_token_id: Option<u32>,
    /// The instruction to open a place before a token (LLaDA2.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_token_id: Option<u32>,
    /// Activation of the feed-forward layers: `silu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_act: Option<String>,
    /// Whether queries and keys are normed; they are when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_qk_norm: Option<bool>,
    /// Whether the projections of queries, keys and values have biases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_qkv_bias: Option<bool>,
    /// Whether the output of the attention has a bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_bias: Option<bool>,
    /// Whether the head's rows are normed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_head: Option<bool>,
    /// Whether a window limits the attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_sliding_window: Option<bool>,
    /// Whether the weights of the chosen experts are normalised; they are when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_topk_prob: Option<bool>,
    /// The router's activation: `sigmoid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_function: Option<String>,
    /// Whether the router has a bias that moves its choice; it may have one when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moe_router_enable_expert_bias: Option<bool>,
    /// How positions are stretched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<serde_json::Value>,
    /// The rotation as Transformers 5 states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
}

fn one() -> f32 {
    1.0
}

fn one_group() -> usize {
    1
}

fn mask() -> u32 {
    MASK
}

fn end_of_text() -> u32 {
    END_OF_TEXT
}

impl Llada2Config {
    /// Reads `config.json` of a checkpoint folder of this family.
    ///
    /// # Errors
    /// When the file is missing, has another form or asks for what is not supported.
    pub fn read(folder: &Path) -> Result<Llada2Config, ConfigError> {
        let (path, text) = config::read_text(folder)?;
        let config: Llada2Config = config::parse(&path, &text)?;
        match config.normalise().and_then(|normalised| normalised.check()) {
            Ok(()) => Ok(config),
            Err(reason) => Err(ConfigError::Unsupported { path, reason }),
        }
    }

    /// Returns the block length to denoise with.
    pub fn block_length(&self) -> usize {
        self.block_size.unwrap_or(BLOCK_LENGTH)
    }

    /// Returns the base of the rotary frequencies and how many dimensions of a head are rotated.
    ///
    /// # Errors
    /// When the file asks for a rotation that is not supported.
    pub fn rotation(&self) -> Result<(f32, usize), String> {
        let rotation = Rotation {
            rope_theta: self.rope_theta,
            partial_rotary_factor: self.partial_rotary_factor,
            rope_scaling: self.rest.rope_scaling.clone(),
            rope_parameters: self.rest.rope_parameters.clone(),
        };
        rotation.normalise(self.head_dim)
    }

    /// Returns how many outputs the fused query, key and value projection has.
    pub fn qkv_width(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }

    /// Returns the width of the fused shared expert; 0 when there is none.
    pub fn shared_width(&self) -> usize {
        self.num_shared_experts * self.moe_intermediate_size
    }

    /// Returns how experts are chosen.
    pub fn routing(&self) -> Routing {
        let capacity = self.rest.expert_capacity;
        Routing {
            score: Score::Sigmoid,
            chosen: self.num_experts_per_tok,
            groups: if capacity.is_some() { 1 } else { self.n_group },
            kept_groups: if capacity.is_some() { 1 } else { self.topk_group },
            capacity,
            // The reference leaves the weight of a single expert as it is.
            normalise: self.num_experts_per_tok > 1 && self.rest.norm_topk_prob.unwrap_or(true),
            scale: self.routed_scaling_factor,
        }
    }

    /// Returns the instructions of the decoder: those that the file states, or those of LLaDA2.2, which
    /// is known by its routing, where the vocabulary has them.
    fn edits(&self) -> Result<Option<EditTokens>, String> {
        let (delete, insert) = match (self.rest.delete_token_id, self.rest.split_token_id) {
            (Some(delete), Some(insert)) => (delete, insert),
            (None, None) if self.rest.expert_capacity.is_none() => return Ok(None),
            (None, None) if self.vocab_size <= INSERT as usize => return Ok(None),
            (None, None) => (DELETE, INSERT),
            _ => return Err("delete_token_id and split_token_id go together".to_owned()),
        };
        for id in [delete, insert] {
            let is_taken = [self.mask_token_id, self.eos_token_id, self.pad_token_id].contains(&id);
            if is_taken || id as usize >= self.vocab_size || delete == insert {
                return Err(format!("token {id} cannot be an instruction to delete or to insert"));
            }
        }
        Ok(Some(EditTokens { delete, insert }))
    }

    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let rest = &self.rest;
        let is = |value: Option<bool>| value.unwrap_or(false);
        reject(is(rest.norm_head), "norm_head")?;
        reject(is(rest.use_sliding_window), "use_sliding_window")?;
        let activation = rest.hidden_act.as_deref().unwrap_or("silu");
        reject(activation != "silu", format_args!("hidden_act {activation:?}"))?;
        let score = rest.score_function.as_deref().unwrap_or("sigmoid");
        reject(score != "sigmoid", format_args!("score_function {score:?}"))?;
        let (rope_theta, rotary_dim) = self.rotation()?;
        let sparse = FeedForwardShape::Sparse(SparseShape {
            experts: self.num_experts,
            width: self.moe_intermediate_size,
            shared_width: self.shared_width(),
            routing: self.routing(),
            may_have_bias: rest.moe_router_enable_expert_bias.unwrap_or(true),
        });
        let dense = FeedForwardShape::Dense(self.intermediate_size);
        let layer = |i| if i < self.first_k_dense_replace { dense } else { sparse };
        Ok(ModelConfig {
            family: Family::Llada2,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            layers: (0..self.num_hidden_layers).map(layer).collect(),
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            attention: Attention::BlockCausal,
            query_key_norm: match rest.use_qk_norm {
                Some(false) => QueryKeyNorm::None,
                _ => QueryKeyNorm::Head,
            },
            clip_qkv: None,
            biases: Biases { qkv: is(rest.use_qkv_bias), output: is(rest.use_bias), ..Biases::default() },
            rotary_dim,
            rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            max_position_embeddings: self.max_position_embeddings,
            tie_word_embeddings: self.tie_word_embeddings,
            logits_shift: 0,
            default_block_length: self.block_length(),
            mask_token_id: self.mask_token_id,
            eos_token_id: self.eos_token_id,
            pad_token_id: self.pad_token_id,
            edits: self.edits()?,
            drafting: self.drafting,
        })
    }
}
