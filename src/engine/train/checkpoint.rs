//! Training state on disk: a checkpoint that the engine loads, and beside it what resuming needs.
//!
//! ```text
//! config.json, tokenizer.json, model-0000N-of-0000M.safetensors, model.safetensors.index.json
//! train/state.json, train/parameters.bin, train/first.bin, train/second.bin      (f32, little-endian)
//! ```
//! The resume state is written to a new folder that is renamed into place, so a crash leaves the
//! old one whole. With several ranks only the first reads and writes: it gets moments from their owners
//! piece by piece, so that a run may go on with another number of ranks.

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
use crate::engine::train::shards::Shards;
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
/// All ranks must call it; only the first one has anything to do with files.
///
/// # Errors
/// When the disk is full or the folder cannot be written.
pub fn write_state(
    folder: &Path,
    state: &State,
    network: &Network,
    optimizer: &mut Optimizer,
    shards: &Shards,
) -> io::Result<()> {
    let (new, current, old) = (folder.join("train.new"), folder.join("train"), folder.join("train.old"));
    let mut files = None;
    if shards.collective.is_first() {
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        fs::create_dir_all(&new)?;
        let mut parameters = Writer::create(&new.join("parameters.bin"))?;
        parameters.write(&network.parameters)?;
        parameters.finish()?;
        files = Some((Writer::create(&new.join("first.bin"))?, Writer::create(&new.join("second.bin"))?));
    }
    each_piece(optimizer, shards, |owner, first, second| {
        shards.collective.transfer(first, owner, 0);
        shards.collective.transfer(second, owner, 0);
        let Some((firsts, seconds)) = &mut files else { return Ok(()) };
        firsts.write(first)?;
        seconds.write(second)?;
        seconds.write_zeros(first.len() - second.len())
    })?;
    let Some((firsts, seconds)) = files else { return Ok(()) };
    firsts.finish()?;
    seconds.finish()?;
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
/// All ranks must call it; the first one reads and gives the others what is theirs.
///
/// # Errors
/// When the state is damaged or belongs to another shape.
pub fn read_state(
    folder: &Path,
    network: &mut Network,
    optimizer: &mut Optimizer,
    shards: &Shards,
) -> io::Result<Option<State>> {
    let is_first = shards.collective.is_first();
    let mut at = folder.join("train");
    if !at.exists() {
        // A crash between the two renames leaves only the older state.
        at = folder.join("train.old");
    }
    let text = if is_first && at.exists() { fs::read(at.join("state.json"))? } else { Vec::new() };
    let text = shards.collective.broadcast_bytes(text);
    if text.is_empty() {
        return Ok(None);
    }
    let state: State = serde_json::from_slice(&text)?;
    let count = network.parameters.len();
    let mut files = None;
    if is_first {
        Reader::open(&at.join("parameters.bin"), count)?.read(&mut network.parameters)?;
        let (first, second) = (at.join("first.bin"), at.join("second.bin"));
        files = Some((Reader::open(&first, count)?, Reader::open(&second, count)?));
    }
    shards.share_first(&mut network.parameters);
    network.moved();
    each_piece(optimizer, shards, |owner, first, second| {
        if let Some((firsts, seconds)) = &mut files {
            firsts.read(first)?;
            seconds.read(second)?;
            seconds.skip(first.len() - second.len())?;
        }
        shards.collective.transfer(first, 0, owner);
        shards.collective.transfer(second, 0, owner);
        Ok(())
    })?;
    network.expert_bias.clone_from(&state.expert_bias);
    Ok(Some(state))
}

/// Visits every piece with its owner and its moments: on the owner where they are kept, on the first rank
/// in passing, on others not at all. Matrices have no second moments; on disk those are 0.
fn each_piece(
    optimizer: &mut Optimizer,
    shards: &Shards,
    mut visit: impl FnMut(usize, &mut [f32], &mut [f32]) -> io::Result<()>,
) -> io::Result<()> {
    let mut kept = optimizer.moments().into_iter();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for piece in &shards.ownership.pieces {
        if piece.owner == shards.collective.rank() {
            let (first, second) = kept.next().expect("an optimizer of what this rank owns");
            visit(piece.owner, first, second)?;
        } else if shards.collective.is_first() {
            first.resize(piece.range.len(), 0.0);
            second.resize(piece.rule.second(piece.range.len()), 0.0);
            visit(piece.owner, &mut first, &mut second)?;
        }
    }
    Ok(())
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

/// A file of numbers being written.
struct Writer(io::BufWriter<fs::File>);

impl Writer {
    fn create(path: &Path) -> io::Result<Writer> {
        Ok(Writer(io::BufWriter::new(fs::File::create(path)?)))
    }

    fn write(&mut self, numbers: &[f32]) -> io::Result<()> {
        numbers.iter().try_for_each(|number| self.0.write_all(&number.to_le_bytes()))
    }

    fn write_zeros(&mut self, count: usize) -> io::Result<()> {
        (0..count).try_for_each(|_| self.0.write_all(&0.0_f32.to_le_bytes()))
    }

    fn finish(self) -> io::Result<()> {
        self.0.into_inner()?.sync_all()
    }
}

/// A file of numbers being read.
struct Reader(io::BufReader<fs::File>);

impl Reader {
    /// Opens a file that must hold `count` numbers.
    fn open(path: &Path, count: usize) -> io::Result<Reader> {
        let file = fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        if bytes != 4 * count as u64 {
            let reason = format!("{} holds {bytes} bytes, expected {}", path.display(), 4 * count);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(Reader(io::BufReader::new(file)))
    }

    fn read(&mut self, numbers: &mut [f32]) -> io::Result<()> {
        let mut bytes = [0; 4];
        for number in numbers {
            self.0.read_exact(&mut bytes)?;
            *number = f32::from_le_bytes(bytes);
        }
        Ok(())
    }

    fn skip(&mut self, count: usize) -> io::Result<()> {
        self.0.seek_relative(4 * count as i64)
    }
}
