//! What a checkpoint's `config.json` says: shapes, routing and the special tokens.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

/// Says why a checkpoint's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not the JSON that is expected.
    #[error("cannot understand {path}: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A value is impossible or not supported.
    #[error("{path}: {reason}")]
    Unsupported {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// The shapes and rules of an `LLaDA2MoeModelLM`, as its `config.json` names them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
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
    pub rope_theta: f32,
    /// Share of each head that is rotated.
    #[serde(default = "one")]
    pub partial_rotary_factor: f32,
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
    pub mask_token_id: u32,
    /// The id that ends a text.
    pub eos_token_id: u32,
    /// The id that fills the last block.
    pub pad_token_id: u32,
    /// How drafts are written with this checkpoint: `quote` or `free`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafting: Option<Drafting>,
}

/// How a checkpoint drafts answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drafting {
    /// Sentences of cards are pinned, the model writes around and between them.
    Quote,
    /// The model writes the whole answer.
    Free,
}

fn one() -> f32 {
    1.0
}

fn one_group() -> usize {
    1
}

/// The block length of published LLaDA2 checkpoints, which do not state it.
pub const DEFAULT_BLOCK_LENGTH: usize = 32;

impl ModelConfig {
    /// Reads `config.json` of a checkpoint folder.
    ///
    /// # Errors
    /// When the file is missing, is not JSON of this form, or asks for what is not supported.
    pub fn read(folder: &Path) -> Result<ModelConfig, ConfigError> {
        let file = folder.join("config.json");
        let path = file.display().to_string();
        let text = std::fs::read_to_string(&file)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let config: ModelConfig = serde_json::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.clone(), source })?;
        config.check().map_err(|reason| ConfigError::Unsupported { path, reason })?;
        Ok(config)
    }

    /// Returns the block length to denoise with.
    pub fn block_length(&self) -> usize {
        self.block_size.unwrap_or(DEFAULT_BLOCK_LENGTH)
    }

    /// Returns how many dimensions of a head are rotated.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim as f32 * self.partial_rotary_factor) as usize
    }

    /// Returns how many outputs the fused query, key and value projection has.
    pub fn qkv_width(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }

    /// Returns the width of the fused shared expert; 0 when there is none.
    pub fn shared_width(&self) -> usize {
        self.num_shared_experts * self.moe_intermediate_size
    }

    fn check(&self) -> Result<(), String> {
        if !self.architectures.iter().any(|a| a == "LLaDA2MoeModelLM") {
            return Err(format!(
                "architecture {:?} is not supported, only LLaDA2MoeModelLM is",
                self.architectures
            ));
        }
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("num_experts", self.num_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("n_group", self.n_group),
            ("topk_group", self.topk_group),
            ("moe_intermediate_size", self.moe_intermediate_size),
            ("block_size", self.block_length()),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be positive"));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err("num_attention_heads must be a multiple of num_key_value_heads".to_owned());
        }
        if !self.num_experts.is_multiple_of(self.n_group) || self.topk_group > self.n_group {
            return Err("n_group must divide num_experts and be at least topk_group".to_owned());
        }
        if self.num_experts_per_tok > self.num_experts / self.n_group * self.topk_group {
            return Err("num_experts_per_tok is larger than the experts of topk_group groups".to_owned());
        }
        if !self.rotary_dim().is_multiple_of(2) {
            return Err("the rotated part of a head must be even".to_owned());
        }
        for (name, id) in [
            ("mask_token_id", self.mask_token_id),
            ("eos_token_id", self.eos_token_id),
            ("pad_token_id", self.pad_token_id),
        ] {
            if id as usize >= self.vocab_size {
                return Err(format!("{name} {id} is outside the vocabulary of {}", self.vocab_size));
            }
        }
        Ok(())
    }
}
