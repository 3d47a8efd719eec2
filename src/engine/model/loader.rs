//! From the tensors of a checkpoint to the layers of a model, by the names of its family.
//!
//! Tensors go row by row from the file to the precision of the model, on all threads.

use rayon::prelude::*;

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::config::SparseShape;
use crate::engine::model::feed_forward::FeedForward;
use crate::engine::model::feed_forward::Mlp;
use crate::engine::model::feed_forward::Sparse;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::names::Names;
use crate::engine::model::names::Projections;
use crate::engine::model::names::names;
use crate::engine::model::transformer::Layer;
use crate::engine::weights::Matrix;
use crate::engine::weights::Weights;
use crate::engine::weights::WeightsError;

/// Reads one checkpoint.
#[derive(Debug)]
pub struct Loader<'a> {
    config: &'a ModelConfig,
    names: &'static Names,
    weights: &'a Weights,
    quant: Quant,
}

impl<'a> Loader<'a> {
    /// Prepares reading a checkpoint of a configuration.
    pub fn new(config: &'a ModelConfig, weights: &'a Weights, quant: Quant) -> Loader<'a> {
        Loader { config, names: names(config.family), weights, quant }
    }

    /// Opens the embedding table, `[vocabulary, hidden]`.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape or type; so with the others below.
    pub fn embeddings(&self) -> Result<Matrix<'a>, WeightsError> {
        self.weights.matrix(&self.table(), self.config.vocab_size, self.config.hidden_size)
    }

    /// Reads the embedding table in full precision.
    pub fn exact_embeddings(&self) -> Result<Vec<f32>, WeightsError> {
        self.weights.tensor(&self.table(), &[self.config.vocab_size, self.config.hidden_size])
    }

    /// Reads the head, which may be the embedding table.
    pub fn head(&self) -> Result<Linear, WeightsError> {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let is_tied = self.config.tie_word_embeddings;
        let name = if is_tied { self.names.embeddings } else { self.names.head };
        self.linear(&[(name.to_owned(), vocabulary)], hidden, self.config.biases.head && !is_tied)
    }

    /// Reads the norm before the head.
    pub fn norm(&self) -> Result<Vec<f32>, WeightsError> {
        self.vector(self.names.norm, self.config.hidden_size)
    }

    /// Reads a layer.
    pub fn layer(&self, index: usize) -> Result<Layer, WeightsError> {
        let (config, names) = (self.config, self.names);
        let name = |rest: &str| format!("{}.{index}.{rest}", names.layers);
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let (queries, keys) = (config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim);
        let projections = match names.qkv {
            Projections::Fused(fused) => vec![(name(fused), queries + 2 * keys)],
            Projections::Separate([q, k, v]) => vec![(name(q), queries), (name(k), keys), (name(v), keys)],
        };
        let norm = |rest: &str, row: usize| match config.query_key_norm {
            QueryKeyNorm::None => Ok(Vec::new()),
            QueryKeyNorm::Head => self.vector(&name(rest), head_dim),
            QueryKeyNorm::Row => self.vector(&name(rest), row),
        };
        let mlp = match config.layers[index] {
            FeedForwardShape::Dense(width) => {
                let biases = config.biases.feed_forward;
                Mlp::Dense(self.feed_forward(names.feed_forward.map(name), width, biases)?)
            }
            FeedForwardShape::Sparse(shape) => Mlp::Sparse(self.sparse(&shape, name)?),
        };
        Ok(Layer {
            input_norm: self.vector(&name(names.input_norm), hidden)?,
            qkv: self.linear(&projections, hidden, config.biases.qkv)?,
            query_norm: norm(names.query_norm, queries)?,
            key_norm: norm(names.key_norm, keys)?,
            output: self.linear(&[(name(names.output), hidden)], queries, config.biases.output)?,
            post_norm: self.vector(&name(names.post_norm), hidden)?,
            mlp,
        })
    }

    fn sparse(
        &self,
        shape: &SparseShape,
        name: impl Fn(&str) -> String + Sync,
    ) -> Result<Sparse, WeightsError> {
        let names = self.names;
        let three = |of: &str| ["gate_proj", "up_proj", "down_proj"].map(|part| format!("{of}.{part}"));
        let expert =
            |i| self.feed_forward(three(&format!("{}.{i}", name(names.experts))), shape.width, false);
        let experts: Result<Vec<FeedForward>, WeightsError> =
            (0..shape.experts).into_par_iter().map(expert).collect();
        let (router, hidden) = (name(names.router), self.config.hidden_size);
        let bias = format!("{router}.expert_bias");
        let has_bias = shape.may_have_bias && self.weights.has(&bias);
        Ok(Sparse {
            router: self.weights.tensor(&format!("{router}.weight"), &[shape.experts, hidden])?,
            bias: if has_bias {
                self.weights.tensor(&bias, &[shape.experts])?
            } else {
                vec![0.0; shape.experts]
            },
            routing: shape.routing,
            experts: experts?,
            shared: match shape.shared_width {
                0 => None,
                width => Some(self.feed_forward(three(&name(names.shared)), width, false)?),
            },
        })
    }

    fn feed_forward(
        &self,
        [gate, up, down]: [String; 3],
        width: usize,
        has_biases: bool,
    ) -> Result<FeedForward, WeightsError> {
        let hidden = self.config.hidden_size;
        Ok(FeedForward {
            gate_up: self.linear(&[(gate, width), (up, width)], hidden, has_biases)?,
            down: self.linear(&[(down, hidden)], width, has_biases)?,
            width,
        })
    }

    /// Returns the name of the embedding table.
    fn table(&self) -> String {
        format!("{}.weight", self.names.embeddings)
    }

    /// Reads one linear layer, or several with the same input as one: (name, outputs) of each.
    fn linear(
        &self,
        parts: &[(String, usize)],
        input: usize,
        has_bias: bool,
    ) -> Result<Linear, WeightsError> {
        let (mut matrices, mut bias, mut end) = (Vec::with_capacity(parts.len()), Vec::new(), 0);
        for (name, output) in parts {
            matrices.push((end, self.weights.matrix(&format!("{name}.weight"), *output, input)?));
            end += output;
            if has_bias {
                bias.extend(self.weights.tensor(&format!("{name}.bias"), &[*output])?);
            }
        }
        let fill = |row: usize, numbers: &mut [f32]| {
            let part = matrices.iter().rev().find(|(start, _)| *start <= row);
            let (start, matrix) = part.expect("the first part starts at row 0");
            matrix.read(row - start, numbers);
        };
        Ok(Linear::from_rows(self.quant, input, end, has_bias.then_some(bias), fill))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, WeightsError> {
        self.weights.tensor(&format!("{name}.weight"), &[len])
    }
}
