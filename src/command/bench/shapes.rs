//! Shapes of published models, to be filled with random weights.

use serde_json::Value;
use serde_json::json;

use crate::engine::config::ConfigError;
use crate::engine::config::ModelConfig;

/// A model's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// LLaDA2.0-mini: 16 B parameters, 1.4 B of them for a token.
    #[value(name = "llada2-mini")]
    Llada2Mini,
    /// LLaDA-MoE-7B-A1B.
    #[value(name = "llada-moe-7b")]
    LladaMoe7b,
    /// The same architecture with 218 M parameters, to be measured beside others in minutes.
    #[value(name = "llada-moe-218m")]
    LladaMoe218m,
    /// 7 B parameters, block-causal, 2 of 64 experts and a shared one.
    #[value(name = "chatdlm-7b")]
    Chatdlm7b,
    /// The bundled model.
    #[value(name = "nano")]
    Nano,
}

impl Shape {
    /// Returns the name that the command line has for it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Llada2Mini => "llada2-mini",
            Shape::LladaMoe7b => "llada-moe-7b",
            Shape::LladaMoe218m => "llada-moe-218m",
            Shape::Chatdlm7b => "chatdlm-7b",
            Shape::Nano => "nano",
        }
    }

    /// Returns its configuration, with another number of layers if that is given.
    ///
    /// # Errors
    /// When there cannot be so many layers.
    pub fn config(self, layers: Option<usize>) -> Result<ModelConfig, ConfigError> {
        let mut published = self.published();
        if let Some(layers) = layers {
            published["num_hidden_layers"] = layers.into();
        }
        ModelConfig::parse(self.name(), &published.to_string())
    }

    fn published(self) -> Value {
        match self {
            Shape::Llada2Mini => json!({
                "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 157_184,
                "hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 20,
                "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "rms_norm_eps": 1e-6,
                "rope_theta": 600_000.0, "partial_rotary_factor": 0.5, "max_position_embeddings": 32_768,
                "num_experts": 256, "num_experts_per_tok": 8, "num_shared_experts": 1, "n_group": 8,
                "topk_group": 4, "routed_scaling_factor": 2.5, "moe_intermediate_size": 512,
                "first_k_dense_replace": 1,
            }),
            Shape::LladaMoe7b => json!({
                "architectures": ["LLaDAMoEModelLM"], "model_type": "llada", "vocab_size": 157_184,
                "hidden_size": 2048, "dense_intermediate_size": 8192, "expert_intermediate_size": 1024,
                "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16,
                "head_dim": 128, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
                "rope_theta": 50_000.0, "num_experts": 64, "num_experts_per_tok": 8, "qk_layernorm": true,
            }),
            Shape::LladaMoe218m => json!({
                "architectures": ["LLaDAMoEModelLM"], "model_type": "llada", "vocab_size": 8192,
                "hidden_size": 512, "dense_intermediate_size": 2048, "expert_intermediate_size": 512,
                "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
                "head_dim": 64, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
                "rope_theta": 50_000.0, "num_experts": 32, "num_experts_per_tok": 4, "qk_layernorm": true,
                "mask_token_id": 8191, "eos_token_id": 8190, "pad_token_id": 8190,
            }),
            Shape::Chatdlm7b => json!({
                "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 157_184,
                "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "rms_norm_eps": 1e-6,
                "rope_theta": 600_000.0, "partial_rotary_factor": 0.5, "max_position_embeddings": 131_072,
                "num_experts": 64, "num_experts_per_tok": 2, "num_shared_experts": 1,
                "moe_intermediate_size": 1024,
            }),
            Shape::Nano => serde_json::from_str(include_str!("../../../models/nano/config.json"))
                .expect("the bundled configuration is JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::linear::Quant;
    use crate::engine::model::transformer::Model;

    #[test]
    fn shapes_have_the_size_that_their_names_say() {
        let check = |shape: Shape, quant: Quant, expected_gb: std::ops::Range<f64>| {
            let bytes = Model::bytes_of(&shape.config(None).unwrap(), quant) as f64 / 1e9;
            assert!(expected_gb.contains(&bytes), "{shape:?} {quant:?}: {bytes}");
        };
        check(Shape::Llada2Mini, Quant::Q8, 16.0..17.0);
        check(Shape::Llada2Mini, Quant::Q4, 9.2..9.8);
        check(Shape::LladaMoe7b, Quant::Q8, 7.3..7.8);
        check(Shape::LladaMoe218m, Quant::Q8, 0.21..0.24);
        check(Shape::Chatdlm7b, Quant::Q4, 4.2..4.8);
        check(Shape::Nano, Quant::Q8, 0.010..0.020);
        assert_eq!(Shape::Llada2Mini.config(Some(3)).unwrap().layers.len(), 3);
        assert!(Shape::Nano.config(Some(0)).is_err());
    }
}
