//! Dream-7B (`DreamModel`): dense, full attention, in the manner of Qwen2 with biases of queries,
//! keys and values. The logits of a position predict the next one, as in the model it began as.

use serde::Deserialize;

use crate::engine::config::Attention;
use crate::engine::config::Biases;
use crate::engine::config::Family;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::model::common::CommonFields;
use crate::engine::model::common::Defaults;
use crate::engine::model::names::LLAMA;
use crate::engine::model::names::Names;

/// The name that a `config.json` gives.
pub const ARCHITECTURE: &str = "DreamModel";

/// The tensors of a checkpoint.
pub const NAMES: Names = LLAMA;

/// The family works with any block length.
const DEFAULTS: Defaults = Defaults {
    family: Family::Dream,
    attention: Attention::Full,
    mask: 151_666,
    end_of_text: 151_643,
    block_length: 32,
};

/// A `config.json` as it is published, without what changes no result.
#[derive(Debug, Clone, Deserialize)]
pub struct DreamConfig {
    #[serde(flatten)]
    common: CommonFields,
    intermediate_size: usize,
}

impl DreamConfig {
    /// Returns the description that the engine runs by, or what it does not support.
    pub fn normalise(&self) -> Result<ModelConfig, String> {
        let layers = vec![FeedForwardShape::Dense(self.intermediate_size); self.common.num_hidden_layers];
        Ok(ModelConfig {
            biases: Biases { qkv: true, ..Biases::default() },
            logits_shift: 1,
            ..self.common.normalise(DEFAULTS, layers)?
        })
    }
}
