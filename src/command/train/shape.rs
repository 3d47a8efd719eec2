//! The shape of the model that is trained: what `train` and `bench train` ask for in the same words.

use serde::Serialize;

use crate::engine::config::Drafting;
use crate::engine::model::llada2::Llada2Config;
use crate::engine::model::llada2::Rest;
use crate::engine::tokenizer::Tokenizer;
use crate::prompt::Control;

/// The model's shape.
#[derive(Debug, Clone, Serialize, clap::Args)]
pub struct Shape {
    /// Width of the residual stream.
    #[arg(long, default_value_t = 192)]
    pub hidden: usize,
    /// Number of layers.
    #[arg(long, default_value_t = 4)]
    pub layers: usize,
    /// Width of a head; hidden must be a multiple.
    #[arg(long, default_value_t = 64)]
    pub head: usize,
    /// Routed experts, of which two are active.
    #[arg(long, default_value_t = 32)]
    pub experts: usize,
    /// Width of one expert.
    #[arg(long, default_value_t = 96)]
    pub expert_width: usize,
    /// Tokens of the vocabulary.
    #[arg(long, default_value_t = 8192)]
    pub vocabulary: usize,
    /// Block length.
    #[arg(long, default_value_t = 16)]
    pub block: usize,
}

impl Shape {
    /// Returns the model's configuration with this vocabulary.
    ///
    /// # Errors
    /// When heads do not fit, or the vocabulary lacks a control token.
    pub fn config(&self, tokenizer: &Tokenizer) -> anyhow::Result<Llada2Config> {
        anyhow::ensure!(
            self.hidden.is_multiple_of(self.head),
            "--hidden {} must be a multiple of --head {}",
            self.hidden,
            self.head
        );
        let heads = self.hidden / self.head;
        Ok(Llada2Config {
            architectures: vec!["LLaDA2MoeModelLM".to_owned()],
            model_type: "llada2_moe".to_owned(),
            vocab_size: tokenizer.size(),
            hidden_size: self.hidden,
            intermediate_size: self.hidden * 4,
            num_hidden_layers: self.layers,
            num_attention_heads: heads,
            num_key_value_heads: if heads.is_multiple_of(2) { heads / 2 } else { 1 },
            head_dim: self.head,
            rms_norm_eps: 1e-6,
            rope_theta: Some(100_000.0),
            partial_rotary_factor: Some(0.5),
            max_position_embeddings: 131_072,
            num_experts: self.experts,
            num_experts_per_tok: 2,
            num_shared_experts: 2,
            n_group: 1,
            topk_group: 1,
            routed_scaling_factor: 1.0,
            moe_intermediate_size: self.expert_width,
            first_k_dense_replace: 0,
            tie_word_embeddings: true,
            block_size: Some(self.block),
            mask_token_id: tokenizer.control(Control::Mask.token())?,
            eos_token_id: tokenizer.control(Control::End.token())?,
            pad_token_id: tokenizer.control(Control::Pad.token())?,
            drafting: Some(Drafting::Quote),
            rest: Rest::default(),
        })
    }
}
