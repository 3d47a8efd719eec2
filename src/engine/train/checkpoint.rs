//! Training state on disk: a checkpoint that the engine loads, and beside it what resuming needs.
//!
//! ```text
//! config.json, tokenizer.json, model-0000N-of-0000M.safetensors, model.safetensors.index.json
//! train/state.json, train/parameters.bin, train/first.bin, train/second.bin      (f32, little-endian)
//! ```
//! The resume state is written to a new folder that is renamed into place, so a crash leaves the
//! old one whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde::Serialize;

use crate::engine::model::llada2::Llada2Config;
use crate::engine::train::layout::Layout;
use crate::engine::train::network::Network;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::weights::Weights;

/// The largest shard, in bytes.
const SHARD_BYTES: usize = 15 << 20;

/// Where training stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Passes over the data begun, from 0.
    pub epoch: u64,
    /// The next example of this pass.
    pub cursor: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds of training, over all runs.
    pub seconds: f64,
    /// For each layer, the routing bias of every expert.
    pub expert_bias: Vec<Vec<f32>>,
    /// How many examples the data has: a resumed run must see the same.
    pub examples: usize,
}

/// Writes the resume state to `folder/train`, replacing an older one only when the new one is whole.
///
/// # Errors
/// When the disk is full or the folder cannot be written.
pub fn write_state(folder: &Path, state: &State, network: &Network, optimizer: &Optimizer) -> io::Result<()> {
    let (new, current, old) = (folder.join("train.new"), folder.join("train"), folder.join("train.old"));
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir_all(&new)?;
    write_numbers(&new.join("parameters.bin"), &network.parameters)?;
    write_numbers(&new.join("first.bin"), &optimizer.first)?;
    write_numbers(&new.join("second.bin"), &optimizer.second)?;
    fs::write(new.join("state.json"), serde_json::to_vec_pretty(state)?)?;
    if current.exists() {
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        fs::rename(&current, &old)?;
    }
    fs::rename(&new, &current)?;
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    Ok(())
}

/// Reads the resume state of `folder/train` into a network and an optimizer; `None` when there is none.
///
/// # Errors
/// When the state is damaged or belongs to another shape.
pub fn read_state(
    folder: &Path,
    network: &mut Network,
    optimizer: &mut Optimizer,
) -> io::Result<Option<State>> {
    let mut at = folder.join("train");
    if !at.exists() {
        // A crash between the two renames leaves only the older state.
        at = folder.join("train.old");
    }
    if !at.exists() {
        return Ok(None);
    }
    let state: State = serde_json::from_slice(&fs::read(at.join("state.json"))?)?;
    read_numbers(&at.join("parameters.bin"), &mut network.parameters)?;
    read_numbers(&at.join("first.bin"), &mut optimizer.first)?;
    read_numbers(&at.join("second.bin"), &mut optimizer.second)?;
    network.expert_bias.clone_from(&state.expert_bias);
    Ok(Some(state))
}

/// Reads a checkpoint folder into the training form.
///
/// # Errors
/// When a file is missing or the trainer does not know the architecture.
pub fn read_network(folder: &Path) -> io::Result<Network> {
    let config = Llada2Config::read(folder).map_err(io::Error::other)?;
    let layout = Layout::new(&config).map_err(io::Error::other)?;
    let weights = Weights::open(folder).map_err(io::Error::other)?;
    let mut parameters = vec![0.0; layout.len];
    for tensor in &layout.tensors {
        let numbers = weights.tensor(&tensor.name, &tensor.shape).map_err(io::Error::other)?;
        parameters[tensor.range.clone()].copy_from_slice(&numbers);
    }
    let bias: Result<Vec<_>, _> = (0..config.num_hidden_layers)
        .map(|i| weights.tensor(&format!("model.layers.{i}.mlp.gate.expert_bias"), &[config.num_experts]))
        .collect();
    Network::new(config, parameters, bias.map_err(io::Error::other)?).map_err(io::Error::other)
}

/// Writes `config.json` and sharded safetensors with the published names; matrices in bf16, the router in f32.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_model(folder: &Path, network: &Network) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for tensor in &network.layout.tensors {
        let numbers = &network.parameters[tensor.range.clone()];
        let is_router = tensor.name.ends_with("mlp.gate.weight");
        let (dtype, bytes) = if is_router {
            (Dtype::F32, numbers.iter().flat_map(|v| v.to_le_bytes()).collect())
        } else {
            (Dtype::BF16, numbers.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect())
        };
        tensors.push((tensor.name.clone(), dtype, tensor.shape.clone(), bytes));
    }
    for (i, bias) in network.expert_bias.iter().enumerate() {
        let bytes = bias.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((format!("model.layers.{i}.mlp.gate.expert_bias"), Dtype::F32, vec![bias.len()], bytes));
    }
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let mut size = 0;
    for (i, (.., bytes)) in tensors.iter().enumerate() {
        if size + bytes.len() > SHARD_BYTES && size > 0 {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes.len();
        shards.last_mut().expect("there is a shard").push(i);
    }
    let mut weight_map = BTreeMap::new();
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        let mut views = Vec::new();
        for i in shard {
            let (name, dtype, shape, bytes) = &tensors[*i];
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(io::Error::other)?;
            views.push((name.clone(), view));
            weight_map.insert(name.clone(), file.clone());
        }
        let bytes = safetensors::serialize(views, metadata.clone()).map_err(io::Error::other)?;
        write_whole(&folder.join(file), &bytes)?;
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
    write_whole(&folder.join("model.safetensors.index.json"), &serde_json::to_vec_pretty(&index)?)?;
    write_whole(&folder.join("config.json"), &serde_json::to_vec_pretty(&network.config)?)
}

/// Writes a file beside its place and renames it, so that readers see the old or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, bytes)?;
    fs::rename(&name, path)
}

fn write_numbers(path: &Path, numbers: &[f32]) -> io::Result<()> {
    let mut file = io::BufWriter::new(fs::File::create(path)?);
    for number in numbers {
        file.write_all(&number.to_le_bytes())?;
    }
    file.into_inner()?.sync_all()
}

fn read_numbers(path: &Path, numbers: &mut [f32]) -> io::Result<()> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    if bytes.len() != numbers.len() * 4 {
        let reason =
            format!("{} holds {} bytes, expected {}", path.display(), bytes.len(), numbers.len() * 4);
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    for (number, b) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
        *number = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    }
    Ok(())
}
