//! Where every parameter lies in one flat array, so that optimizer, clipping and checkpoints are loops.

use std::ops::Range;

use crate::engine::config::Biases;
use crate::engine::config::QueryKeyNorm;
use crate::engine::model::llada2::Llada2Config;

/// One tensor of a checkpoint within the flat array.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The published name.
    pub name: String,
    /// The shape, row-major.
    pub shape: Vec<usize>,
    /// Where its numbers are.
    pub range: Range<usize>,
}

/// The parameters of one layer.
#[derive(Debug, Clone)]
pub struct LayerLayout {
    /// `[hidden]`.
    pub input_norm: Range<usize>,
    /// `[(heads + 2·kv_heads)·head_dim, hidden]`, rows Q, K, V.
    pub qkv: Range<usize>,
    /// `[head_dim]`.
    pub query_norm: Range<usize>,
    /// `[head_dim]`.
    pub key_norm: Range<usize>,
    /// `[hidden, heads·head_dim]`.
    pub dense: Range<usize>,
    /// `[hidden]`.
    pub post_norm: Range<usize>,
    /// `[experts, hidden]`.
    pub gate: Range<usize>,
    /// `[experts][2·width, hidden]`, rows gate then up.
    pub expert_gate_up: Range<usize>,
    /// `[experts][hidden, width]`.
    pub expert_down: Range<usize>,
    /// `[2·shared_width, hidden]`, rows gate then up.
    pub shared_gate_up: Range<usize>,
    /// `[hidden, shared_width]`.
    pub shared_down: Range<usize>,
}

impl LayerLayout {
    /// Returns where the whole layer lies.
    pub fn range(&self) -> Range<usize> {
        self.input_norm.start..self.shared_down.end
    }

    /// Returns the same places counted from the layer's start.
    pub fn relative(&self) -> LayerLayout {
        let start = self.input_norm.start;
        let moved = |range: &Range<usize>| range.start - start..range.end - start;
        LayerLayout {
            input_norm: moved(&self.input_norm),
            qkv: moved(&self.qkv),
            query_norm: moved(&self.query_norm),
            key_norm: moved(&self.key_norm),
            dense: moved(&self.dense),
            post_norm: moved(&self.post_norm),
            gate: moved(&self.gate),
            expert_gate_up: moved(&self.expert_gate_up),
            expert_down: moved(&self.expert_down),
            shared_gate_up: moved(&self.shared_gate_up),
            shared_down: moved(&self.shared_down),
        }
    }
}

/// The parameters of a model with tied embeddings and sparse layers only.
#[derive(Debug, Clone)]
pub struct Layout {
    /// `[vocabulary, hidden]`.
    pub embeddings: Range<usize>,
    /// The layers in order.
    pub layers: Vec<LayerLayout>,
    /// `[hidden]`.
    pub norm: Range<usize>,
    /// Everything by its published name.
    pub tensors: Vec<Tensor>,
    /// How many numbers there are.
    pub len: usize,
}

impl Layout {
    /// Lays out the parameters of `config`.
    ///
    /// # Errors
    /// When the configuration has what the trainer does not know: dense layers, groups, a capacity,
    /// biases, an own head.
    pub fn new(config: &Llada2Config) -> Result<Layout, String> {
        let model = config.normalise()?;
        let routing = config.routing();
        let is_known = config.first_k_dense_replace == 0
            && config.tie_word_embeddings
            && (routing.groups, routing.capacity, routing.normalise) == (1, None, true)
            && model.query_key_norm == QueryKeyNorm::Head
            && model.biases == Biases::default();
        if !is_known {
            return Err("the trainer knows tied embeddings, normed queries and keys, no biases, sparse \
                        layers and one group of two experts or more only"
                .to_owned());
        }
        let (hidden, width) = (config.hidden_size, config.moe_intermediate_size);
        let (head, shared) = (config.head_dim, config.shared_width());
        let attention = config.num_attention_heads * head;
        let mut builder = Builder::default();
        let embeddings = builder.add("model.word_embeddings.weight", &[config.vocab_size, hidden]);
        let mut layers = Vec::new();
        for i in 0..config.num_hidden_layers {
            let name = |rest: &str| format!("model.layers.{i}.{rest}.weight");
            let input_norm = builder.add(&name("input_layernorm"), &[hidden]);
            let qkv = builder.add(&name("attention.query_key_value"), &[config.qkv_width(), hidden]);
            let query_norm = builder.add(&name("attention.query_layernorm"), &[head]);
            let key_norm = builder.add(&name("attention.key_layernorm"), &[head]);
            let dense = builder.add(&name("attention.dense"), &[hidden, attention]);
            let post_norm = builder.add(&name("post_attention_layernorm"), &[hidden]);
            let gate = builder.add(&name("mlp.gate"), &[config.num_experts, hidden]);
            let start = builder.len;
            for e in 0..config.num_experts {
                builder.add(&name(&format!("mlp.experts.{e}.gate_proj")), &[width, hidden]);
                builder.add(&name(&format!("mlp.experts.{e}.up_proj")), &[width, hidden]);
            }
            let expert_gate_up = start..builder.len;
            for e in 0..config.num_experts {
                builder.add(&name(&format!("mlp.experts.{e}.down_proj")), &[hidden, width]);
            }
            let expert_down = expert_gate_up.end..builder.len;
            let start = builder.len;
            if shared > 0 {
                builder.add(&name("mlp.shared_experts.gate_proj"), &[shared, hidden]);
                builder.add(&name("mlp.shared_experts.up_proj"), &[shared, hidden]);
            }
            let shared_gate_up = start..builder.len;
            if shared > 0 {
                builder.add(&name("mlp.shared_experts.down_proj"), &[hidden, shared]);
            }
            let shared_down = shared_gate_up.end..builder.len;
            layers.push(LayerLayout {
                input_norm,
                qkv,
                query_norm,
                key_norm,
                dense,
                post_norm,
                gate,
                expert_gate_up,
                expert_down,
                shared_gate_up,
                shared_down,
            });
        }
        let norm = builder.add("model.norm.weight", &[hidden]);
        Ok(Layout { embeddings, layers, norm, len: builder.len, tensors: builder.tensors })
    }
}

#[derive(Default)]
struct Builder {
    tensors: Vec<Tensor>,
    len: usize,
}

impl Builder {
    fn add(&mut self, name: &str, shape: &[usize]) -> Range<usize> {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), range: range.clone() });
        range
    }
}
