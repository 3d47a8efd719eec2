//! How a family names the tensors of a checkpoint: the loader is the same for all.

use crate::engine::config::Family;
use crate::engine::model::dream;
use crate::engine::model::llada;
use crate::engine::model::llada2;
use crate::engine::model::lladamoe;
use crate::engine::model::sdar;

/// The tensors' names without `.weight` and `.bias`; those of a layer follow its prefix and number.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// `[vocabulary, hidden]`.
    pub embeddings: &'static str,
    /// `[hidden]`, before the head.
    pub norm: &'static str,
    /// `[vocabulary, hidden]`, unless it is the embedding table.
    pub head: &'static str,
    /// What stands before a layer's number.
    pub layers: &'static str,
    /// `[hidden]`, before the attention.
    pub input_norm: &'static str,
    /// Queries, keys and values.
    pub qkv: Projections,
    /// `[head_dim]`, or all heads' width where a row is normed together.
    pub query_norm: &'static str,
    /// The same for keys.
    pub key_norm: &'static str,
    /// `[hidden, heads·head_dim]`.
    pub output: &'static str,
    /// `[hidden]`, before the feed-forward part.
    pub post_norm: &'static str,
    /// Gate, up and down of a dense feed-forward part.
    pub feed_forward: [&'static str; 3],
    /// `[experts, hidden]`; its `.expert_bias` is `[experts]`.
    pub router: &'static str,
    /// What stands before an expert's number; it has `gate_proj`, `up_proj` and `down_proj`.
    pub experts: &'static str,
    /// The shared expert; likewise.
    pub shared: &'static str,
}

/// How queries, keys and values are projected.
#[derive(Debug, Clone, Copy)]
pub enum Projections {
    /// By one layer, rows in this order.
    Fused(&'static str),
    /// By three.
    Separate([&'static str; 3]),
}

/// The names that the families share which follow Llama's.
pub const LLAMA: Names = Names {
    embeddings: "model.embed_tokens",
    norm: "model.norm",
    head: "lm_head",
    layers: "model.layers",
    input_norm: "input_layernorm",
    qkv: Projections::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    query_norm: "self_attn.q_norm",
    key_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    post_norm: "post_attention_layernorm",
    feed_forward: ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    router: "mlp.gate",
    experts: "mlp.experts",
    shared: "shared_expert",
};

/// Returns the names of a family.
pub fn names(family: Family) -> &'static Names {
    match family {
        Family::Llada2 => &llada2::NAMES,
        Family::LladaMoe => &lladamoe::NAMES,
        Family::Llada => &llada::NAMES,
        Family::Dream => &dream::NAMES,
        Family::Sdar => &sdar::NAMES,
    }
}
