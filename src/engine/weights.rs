//! Checkpoint folders in the Hugging Face layout: one `model.safetensors` or shards with an index,
//! memory-mapped, numbers of 16 or 32 bits.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::SafeTensors;
use serde::Deserialize;

/// The bytes before the header, which hold its length.
const HEADER_LENGTH_BYTES: usize = 8;

/// Says why weights cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file is missing or unreadable.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("cannot understand {path}: {reason}")]
    Format {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A tensor is not there.
    #[error("tensor {name} is missing in {folder}")]
    Missing {
        /// The tensor.
        name: String,
        /// The checkpoint.
        folder: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The configuration's.
        expected: Vec<usize>,
    },
    /// A tensor's numbers have a type that is not supported.
    #[error("tensor {name} has type {dtype:?}, expected F32, F16 or BF16")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
}

/// An opened checkpoint folder.
#[derive(Debug)]
pub struct Weights {
    folder: PathBuf,
    files: Vec<Mmap>,
    places: HashMap<String, Place>,
}

/// Where a tensor is; read once, for a header with thousands of tensors takes a while.
#[derive(Debug)]
struct Place {
    /// The index of its file.
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Its bytes within the file.
    bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors` or the shards that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// When a file is missing, truncated or has another format.
    pub fn open(folder: &Path) -> Result<Weights, WeightsError> {
        let mut weights = Weights { folder: folder.to_owned(), files: Vec::new(), places: HashMap::new() };
        let index_path = folder.join("model.safetensors.index.json");
        if !index_path.exists() {
            weights.add_file(folder.join("model.safetensors"))?;
            return Ok(weights);
        }
        let path = index_path.display().to_string();
        let text = std::fs::read_to_string(&index_path)
            .map_err(|source| WeightsError::Open { path: path.clone(), source })?;
        let index: Index = serde_json::from_str(&text)
            .map_err(|error| WeightsError::Format { path: path.clone(), reason: error.to_string() })?;
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort();
        names.dedup();
        for name in names {
            if name.contains(['/', '\\']) {
                let reason = format!("shard name {name:?} leaves the folder");
                return Err(WeightsError::Format { path, reason });
            }
            weights.add_file(folder.join(name))?;
        }
        Ok(weights)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), WeightsError> {
        let open = |source| WeightsError::Open { path: path.display().to_string(), source };
        let file = File::open(&path).map_err(open)?;
        // SAFETY: the file is mapped read-only; whoever changes a checkpoint while it is being
        // loaded gets what a read would give them too, wrong numbers; nothing is executed.
        let map = unsafe { Mmap::map(&file) }.map_err(open)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| WeightsError::Format {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        let data = HEADER_LENGTH_BYTES + header;
        for (name, tensor) in metadata.tensors() {
            let bytes = data + tensor.data_offsets.0..data + tensor.data_offsets.1;
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            self.places.insert(name, Place { file: self.files.len(), dtype, shape, bytes });
        }
        self.files.push(map);
        Ok(())
    }

    /// Returns whether the checkpoint has a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Returns a tensor's numbers in f32, row-major.
    ///
    /// # Errors
    /// When it is missing, has another shape or a type that is not supported.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let Some(place) = self.places.get(name) else {
            let folder = self.folder.display().to_string();
            return Err(WeightsError::Missing { name: name.to_owned(), folder });
        };
        if place.shape != shape {
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                found: place.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        numbers(name, place.dtype, &self.files[place.file][place.bytes.clone()])
    }
}

fn numbers(name: &str, dtype: Dtype, data: &[u8]) -> Result<Vec<f32>, WeightsError> {
    let pairs = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        Dtype::F32 => {
            Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        Dtype::F16 => Ok(pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect()),
        Dtype::BF16 => Ok(pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect()),
        dtype => Err(WeightsError::Type { name: name.to_owned(), dtype }),
    }
}
