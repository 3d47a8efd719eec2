//! The body of every family as the processor keeps it: embeddings, layers of attention and feed-forward, the head.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::model::feed_forward::Mlp;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::loader::Loader;
use crate::engine::weights::Weights;
use crate::engine::weights::WeightsError;

/// The weights, ready to serve.
#[derive(Debug)]
pub struct Model {
    /// The shapes.
    pub config: ModelConfig,
    /// The precision of the linear layers.
    pub quant: Quant,
    /// `[vocabulary, hidden]` in bf16: it is only looked up.
    embeddings: Vec<half::bf16>,
    /// The same in full precision, when the model is kept so.
    exact_embeddings: Vec<f32>,
    /// From the first to the last.
    pub layers: Vec<Layer>,
    /// `[hidden]`, before the head.
    pub norm: Vec<f32>,
    /// What makes logits of rows.
    pub head: Linear,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// `[hidden]`, before the attention.
    pub input_norm: Vec<f32>,
    /// Rows Q, K, V.
    pub qkv: Linear,
    /// `[head_dim]` for each head, `[heads·head_dim]` for a row, empty for none.
    pub query_norm: Vec<f32>,
    /// The same for keys.
    pub key_norm: Vec<f32>,
    /// The output of the attention.
    pub output: Linear,
    /// `[hidden]`, before the feed-forward part.
    pub post_norm: Vec<f32>,
    /// The feed-forward part.
    pub mlp: Mlp,
}

impl Model {
    /// Loads a checkpoint; `progress` is called with the share done.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(
        config: ModelConfig,
        weights: &Weights,
        quant: Quant,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Model, WeightsError> {
        let loader = Loader::new(&config, weights, quant);
        let hidden = config.hidden_size;
        let (head, norm) = (loader.head()?, loader.norm()?);
        let mut layers = Vec::with_capacity(config.layers.len());
        for i in 0..config.layers.len() {
            layers.push(loader.layer(i)?);
            progress(i + 1, config.layers.len());
        }
        let (mut embeddings, mut exact_embeddings) = (Vec::new(), Vec::new());
        if quant == Quant::F32 {
            exact_embeddings = loader.exact_embeddings()?;
        } else {
            let table = loader.embeddings()?;
            embeddings = vec![half::bf16::ZERO; config.vocab_size * hidden];
            let rows = embeddings.par_chunks_exact_mut(hidden).enumerate();
            rows.for_each_init(
                || vec![0.0; hidden],
                |numbers, (i, row)| {
                    table.read(i, numbers);
                    row.convert_from_f32_slice(numbers);
                },
            );
        }
        Ok(Model { norm, head, embeddings, exact_embeddings, layers, quant, config })
    }

    /// Returns how many bytes the weights of a configuration take in memory.
    pub fn bytes_of(config: &ModelConfig, quant: Quant) -> usize {
        let hidden = config.hidden_size;
        let linear = |input, output| Linear::bytes_of(quant, input, output);
        let feed_forward = |width: usize| linear(hidden, 2 * width) + linear(width, hidden);
        let mlp = |shape: &FeedForwardShape| match shape {
            FeedForwardShape::Dense(width) => feed_forward(*width),
            FeedForwardShape::Sparse(sparse) => {
                let shared = if sparse.shared_width == 0 { 0 } else { feed_forward(sparse.shared_width) };
                let router = size_of::<f32>() * sparse.experts * hidden;
                sparse.experts * feed_forward(sparse.width) + shared + router
            }
        };
        let attention =
            linear(hidden, config.qkv_width()) + linear(config.num_attention_heads * config.head_dim, hidden);
        let number = if quant == Quant::F32 { size_of::<f32>() } else { size_of::<half::bf16>() };
        let tables = number * config.vocab_size * hidden + linear(hidden, config.vocab_size);
        config.layers.iter().map(|shape| attention + mlp(shape)).sum::<usize>() + tables
    }

    /// Returns how many bytes the weights take in memory.
    pub fn bytes(&self) -> usize {
        let layer = |layer: &Layer| layer.mlp.bytes() + layer.qkv.bytes() + layer.output.bytes();
        let tables = 2 * self.embeddings.len() + 4 * self.exact_embeddings.len() + self.head.bytes();
        self.layers.iter().map(layer).sum::<usize>() + tables
    }

    /// Replaces `x` by the rows of some tokens, `[tokens, hidden]`.
    pub fn embed<'a>(&self, tokens: impl Iterator<Item = &'a u32>, x: &mut Vec<f32>) {
        let hidden = self.config.hidden_size;
        x.clear();
        for token in tokens {
            let at = *token as usize * hidden;
            match self.quant {
                Quant::F32 => x.extend_from_slice(&self.exact_embeddings[at..at + hidden]),
                _ => x.extend(self.embeddings[at..at + hidden].iter().map(|v| v.to_f32())),
            }
        }
    }
}
