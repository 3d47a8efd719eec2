//! The tensors of a LLaDA-MoE model, by their names here and in GGUF files.

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::model::names::LLAMA;
use crate::engine::model::names::Projections;

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name there.
    pub gguf: String,
    /// The tensors of the checkpoint that it has one after the other.
    pub parts: Vec<String>,
    /// Rows of a part; 0 for a vector.
    pub rows: usize,
    /// Columns of a part.
    pub columns: usize,
    /// Whether it is never rounded.
    pub is_exact: bool,
}

impl Tensor {
    fn matrix(gguf: &str, part: &str, rows: usize, columns: usize) -> Tensor {
        let name = |name: &str| format!("{name}.weight");
        Tensor { gguf: name(gguf), parts: vec![name(part)], rows, columns, is_exact: rows == 0 }
    }

    fn vector(gguf: &str, part: &str, columns: usize) -> Tensor {
        Tensor::matrix(gguf, part, 0, columns)
    }

    /// Returns its sizes, the columns last.
    pub fn shape(&self) -> Vec<usize> {
        match (self.parts.len(), self.rows) {
            (1, 0) => vec![self.columns],
            (1, rows) => vec![rows, self.columns],
            (parts, rows) => vec![parts, rows, self.columns],
        }
    }
}

/// Returns all tensors in the order of the file.
pub fn tensors(config: &ModelConfig) -> Vec<Tensor> {
    let (hidden, vocabulary, head) = (config.hidden_size, config.vocab_size, config.head_dim);
    let (queries, keys) = (config.num_attention_heads * head, config.num_key_value_heads * head);
    let head_name = if config.tie_word_embeddings { LLAMA.embeddings } else { LLAMA.head };
    let mut all = vec![
        Tensor::matrix("token_embd", LLAMA.embeddings, vocabulary, hidden),
        Tensor::vector("output_norm", LLAMA.norm, hidden),
        Tensor::matrix("output", head_name, vocabulary, hidden),
    ];
    for (i, layer) in config.layers.iter().enumerate() {
        let here = |name: &str| format!("{}.{i}.{name}", LLAMA.layers);
        let there = |name: &str| format!("blk.{i}.{name}");
        all.push(Tensor::vector(&there("attn_norm"), &here(LLAMA.input_norm), hidden));
        if let Projections::Separate(names) = LLAMA.qkv {
            let outputs = [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)];
            for (name, (gguf, rows)) in names.into_iter().zip(outputs) {
                all.push(Tensor::matrix(&there(gguf), &here(name), rows, hidden));
            }
        }
        all.push(Tensor::vector(&there("attn_q_norm"), &here(LLAMA.query_norm), head));
        all.push(Tensor::vector(&there("attn_k_norm"), &here(LLAMA.key_norm), head));
        all.push(Tensor::matrix(&there("attn_output"), &here(LLAMA.output), hidden, queries));
        all.push(Tensor::vector(&there("ffn_norm"), &here(LLAMA.post_norm), hidden));
        if let FeedForwardShape::Sparse(sparse) = layer {
            let router = Tensor::matrix(&there("ffn_gate_inp"), &here(LLAMA.router), sparse.experts, hidden);
            all.push(Tensor { is_exact: true, ..router });
            let kinds = [
                ("ffn_gate_exps", "gate_proj", sparse.width, hidden),
                ("ffn_up_exps", "up_proj", sparse.width, hidden),
                ("ffn_down_exps", "down_proj", hidden, sparse.width),
            ];
            for (gguf, name, rows, columns) in kinds {
                let part = |expert| format!("{}.{expert}.{name}.weight", here(LLAMA.experts));
                let parts = (0..sparse.experts).map(part).collect();
                all.push(Tensor { parts, ..Tensor::matrix(&there(gguf), "", rows, columns) });
            }
        }
    }
    all
}
