//! What a checkpoint is: one description of shapes and rules for every family.
//!
//! Each family publishes its own `config.json`; the names of those files stay in the family's file
//! in [`crate::engine::model`], which turns them into the [`ModelConfig`] here. What a file asks
//! for and the engine does not do is an error that names it.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::engine::model::dream;
use crate::engine::model::llada;
use crate::engine::model::llada2;
use crate::engine::model::lladamoe;
use crate::engine::model::sdar;
use crate::engine::ops::route::Routing;

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

/// The published architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// LLaDA2.0, 2.1 and 2.2.
    Llada2,
    /// LLaDA-MoE-7B-A1B.
    LladaMoe,
    /// LLaDA-8B.
    Llada,
    /// Dream-7B.
    Dream,
    /// SDAR, dense and with experts.
    Sdar,
}

/// Which positions a position sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Its own block and all before it: what is settled never changes and is cached exactly.
    BlockCausal,
    /// All of the sequence: whatever settles changes every row.
    Full,
}

/// What is normed before the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// Nothing.
    None,
    /// Each head by itself, with one weight for all.
    Head,
    /// All heads of a row together.
    Row,
}

/// Which linear layers add a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output of the attention.
    pub output: bool,
    /// The feed-forward layers.
    pub feed_forward: bool,
    /// The head.
    pub head: bool,
}

/// The feed-forward part of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeedForwardShape {
    /// One of this width.
    Dense(usize),
    /// Routed experts.
    Sparse(SparseShape),
}

/// A sparse feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseShape {
    /// Routed experts.
    pub experts: usize,
    /// Width of one.
    pub width: usize,
    /// Width of the expert that takes every row; 0 for none.
    pub shared_width: usize,
    /// How experts are chosen.
    pub routing: Routing,
    /// Whether the router may have a bias that moves its choice: it is used when the tensor is there.
    pub may_have_bias: bool,
}

/// The shapes and rules of a checkpoint, of whatever family.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Decides the names of the tensors.
    pub family: Family,
    /// Number of token ids, rows of the embedding table and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// The feed-forward part of each layer.
    pub layers: Vec<FeedForwardShape>,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Which positions a position sees.
    pub attention: Attention,
    /// What is normed before the rotation.
    pub query_key_norm: QueryKeyNorm,
    /// Queries, keys and values are kept within this of zero, before the rotation.
    pub clip_qkv: Option<f32>,
    /// Which linear layers add a bias.
    pub biases: Biases,
    /// How many dimensions of a head are rotated.
    pub rotary_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Added to the mean square before its root.
    pub rms_norm_eps: f32,
    /// The most positions.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// How many positions before its own a token's logits are: 0, or 1 where they are shifted.
    pub logits_shift: usize,
    /// See [`ModelConfig::block_length`].
    pub(super) default_block_length: usize,
    /// The id that stands for "not denoised yet".
    pub mask_token_id: u32,
    /// The id that ends a text.
    pub eos_token_id: u32,
    /// The id that fills what is not used.
    pub pad_token_id: u32,
    /// The instructions that its decoder follows beside text: to delete a token, to insert one.
    pub edits: Option<EditTokens>,
    /// How drafts are written with this checkpoint, when it says so.
    pub drafting: Option<Drafting>,
}

/// The ids with which a model edits its block (LLaDA2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EditTokens {
    /// Takes a token out.
    pub delete: u32,
    /// Opens a place before a token.
    pub insert: u32,
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

/// The part of every family's file that names the architecture.
#[derive(Deserialize)]
struct Header {
    architectures: Vec<String>,
}

impl ModelConfig {
    /// Reads `config.json` of a checkpoint folder, of any family.
    ///
    /// # Errors
    /// When the file is missing, is not JSON of a family's form, or asks for what is not supported.
    pub fn read(folder: &Path) -> Result<ModelConfig, ConfigError> {
        let (path, text) = read_text(folder)?;
        ModelConfig::parse(&path, &text)
    }

    /// Reads the text of a `config.json`; `path` names it in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn parse(path: &str, text: &str) -> Result<ModelConfig, ConfigError> {
        let header: Header = parse(path, text)?;
        let normalised = match header.architectures.first().map_or("", String::as_str) {
            llada2::ARCHITECTURE => parse::<llada2::Llada2Config>(path, text)?.normalise(),
            lladamoe::ARCHITECTURE => parse::<lladamoe::LladaMoeConfig>(path, text)?.normalise(),
            llada::ARCHITECTURE => parse::<llada::LladaConfig>(path, text)?.normalise(),
            dream::ARCHITECTURE => parse::<dream::DreamConfig>(path, text)?.normalise(),
            sdar::DENSE | sdar::MIXTURE => parse::<sdar::SdarConfig>(path, text)?.normalise(),
            other => Err(format!("architecture {other:?} is not supported")),
        };
        let checked = normalised.and_then(|config| config.check().map(|()| config));
        checked.map_err(|reason| ConfigError::Unsupported { path: path.to_owned(), reason })
    }

    /// Returns the block length to denoise with when a request names none.
    pub fn block_length(&self) -> usize {
        self.default_block_length
    }

    /// Returns the ids that are instructions to the decoder and never text.
    pub fn instructions(&self) -> Vec<u32> {
        self.edits.iter().flat_map(|edits| [edits.delete, edits.insert]).collect()
    }

    /// Returns how many outputs the fused query, key and value projection has.
    pub fn qkv_width(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }

    /// Fails when a number is impossible.
    pub(super) fn check(&self) -> Result<(), String> {
        let positive = [
            ("the vocabulary", self.vocab_size),
            ("the hidden size", self.hidden_size),
            ("the number of layers", self.layers.len()),
            ("the number of attention heads", self.num_attention_heads),
            ("the number of key and value heads", self.num_key_value_heads),
            ("the width of a head", self.head_dim),
            ("the block length", self.default_block_length),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be positive"));
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!("{kv_heads} key and value heads do not divide {heads} attention heads"));
        }
        if !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            return Err(format!("{} of {} dimensions cannot be rotated", self.rotary_dim, self.head_dim));
        }
        for layer in &self.layers {
            match layer {
                FeedForwardShape::Dense(0) => return Err("a feed-forward layer has no width".to_owned()),
                FeedForwardShape::Dense(_) => {}
                FeedForwardShape::Sparse(sparse) => sparse.check()?,
            }
        }
        let tokens = [("mask", self.mask_token_id), ("end", self.eos_token_id), ("pad", self.pad_token_id)];
        for (name, id) in tokens {
            if id as usize >= self.vocab_size {
                return Err(format!("{name} token {id} is outside the vocabulary of {}", self.vocab_size));
            }
        }
        Ok(())
    }
}

impl SparseShape {
    fn check(&self) -> Result<(), String> {
        let Routing { chosen, groups, kept_groups, capacity, .. } = self.routing;
        if self.experts == 0 || self.width == 0 || chosen == 0 || kept_groups == 0 {
            return Err("a sparse layer needs experts, their width and how many are chosen".to_owned());
        }
        if groups == 0 || groups > 64 || !self.experts.is_multiple_of(groups) || kept_groups > groups {
            let experts = self.experts;
            return Err(format!("{kept_groups} of {groups} groups of {experts} experts cannot be kept"));
        }
        let open =
            capacity.map_or(self.experts / groups * kept_groups, |capacity| capacity.min(self.experts));
        if chosen > open {
            return Err(format!("{chosen} experts cannot be chosen from {open}"));
        }
        Ok(())
    }
}

/// Returns the path of a folder's `config.json` and its text.
pub(super) fn read_text(folder: &Path) -> Result<(String, String), ConfigError> {
    let file = folder.join("config.json");
    let path = file.display().to_string();
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(ConfigError::Read { path, source }),
    }
}

/// Reads JSON, naming the file when it has another form.
pub(super) fn parse<'a, T: Deserialize<'a>>(path: &str, text: &'a str) -> Result<T, ConfigError> {
    serde_json::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
}

/// Fails with the field's name when a file asks for something that is not supported.
pub(super) fn reject(asked_for: bool, what: impl std::fmt::Display) -> Result<(), String> {
    if asked_for { Err(format!("{what} is not supported")) } else { Ok(()) }
}

/// A token id, or several of which the first counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// One.
    One(u32),
    /// Several.
    Many(Vec<u32>),
}

impl TokenIds {
    /// Returns the first id, `fallback` when there is none.
    pub fn first_or(ids: Option<&TokenIds>, fallback: u32) -> u32 {
        match ids {
            Some(TokenIds::One(id)) => *id,
            Some(TokenIds::Many(ids)) => ids.first().copied().unwrap_or(fallback),
            None => fallback,
        }
    }
}

/// How files written by Transformers 5 state the rotation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RopeParameters {
    /// `default`: the only one that is supported.
    #[serde(default)]
    pub rope_type: Option<String>,
    /// Base of the rotary frequencies.
    #[serde(default)]
    pub rope_theta: Option<f32>,
    /// Share of each head that is rotated.
    #[serde(default)]
    pub partial_rotary_factor: Option<f32>,
}

/// The rotation as a published file states it, in the old form and the new.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Rotation {
    /// Base of the rotary frequencies.
    pub rope_theta: Option<f32>,
    /// Share of each head that is rotated.
    pub partial_rotary_factor: Option<f32>,
    /// How positions are stretched.
    pub rope_scaling: Option<serde_json::Value>,
    /// The new form.
    pub rope_parameters: Option<RopeParameters>,
}

impl Rotation {
    /// Returns the base and how many of `head_dim` dimensions are rotated.
    pub fn normalise(&self, head_dim: usize) -> Result<(f32, usize), String> {
        let new = self.rope_parameters.clone().unwrap_or_default();
        let scaling = self.rope_scaling.as_ref().filter(|value| !value.is_null());
        let old_type = scaling.map(|s| s["rope_type"].as_str().or(s["type"].as_str()).unwrap_or("unnamed"));
        for kind in [old_type, new.rope_type.as_deref()].into_iter().flatten() {
            reject(kind != "default", format_args!("rope scaling {kind:?}"))?;
        }
        let theta = new.rope_theta.or(self.rope_theta).ok_or("rope_theta is missing")?;
        let share = new.partial_rotary_factor.or(self.partial_rotary_factor).unwrap_or(1.0);
        Ok((theta, (head_dim as f32 * share) as usize))
    }
}
