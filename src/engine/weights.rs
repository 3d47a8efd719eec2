//! Checkpoint folders in the Hugging Face layout: one `model.safetensors` or shards with an index,
//! memory-mapped, numbers of 16 or 32 bits. Or [`random`] weights of any shape, for measuring.
//!
//! A matrix is read row by row, so that a large one is never in memory in f32.
#![allow(unsafe_code)]

pub mod random;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::SafeTensors;
use serde::Deserialize;
use sha2::Digest;
use sha2::Sha256;

/// The bytes before the header, which hold its length.
const HEADER_LENGTH_BYTES: usize = 8;
/// How many bytes of a tensor's beginning, and of its middle, are in a fingerprint.
const FINGERPRINT_BYTES: usize = 64;

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

/// Where the tensors of a model come from.
#[derive(Debug)]
pub enum Weights {
    /// An opened checkpoint.
    Folder(Folder),
    /// Made up as they are asked for.
    Random {
        /// Other weights with another one.
        seed: u64,
    },
}

/// An opened checkpoint folder.
#[derive(Debug)]
pub struct Folder {
    folder: PathBuf,
    files: Vec<Mmap>,
    places: HashMap<String, Place>,
}

/// A tensor of two dimensions, to be read row by row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    rows: Rows<'a>,
    columns: usize,
}

#[derive(Debug, Clone, Copy)]
enum Rows<'a> {
    Stored { dtype: Dtype, data: &'a [u8] },
    Random { key: u64 },
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
        let mut opened = Folder { folder: folder.to_owned(), files: Vec::new(), places: HashMap::new() };
        let index_path = folder.join("model.safetensors.index.json");
        if !index_path.exists() {
            opened.add_file(folder.join("model.safetensors"))?;
            return Ok(Weights::Folder(opened));
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
            opened.add_file(folder.join(name))?;
        }
        Ok(Weights::Folder(opened))
    }

    /// Returns whether there is a tensor.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Weights::Folder(folder) => folder.places.contains_key(name),
            Weights::Random { .. } => true,
        }
    }

    /// Returns what tells these weights from others: a hash of every tensor's name, type and shape and of
    /// some of its numbers. However many shards there are, and however large they are, it is the same and
    /// cheap; training changes it, for it moves every tensor.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        match self {
            Weights::Folder(folder) => folder.hash(&mut hasher),
            Weights::Random { seed } => hasher.update(format!("random {seed}")),
        }
        hex::encode(hasher.finalize())
    }

    /// Returns a tensor's numbers in f32, row-major.
    ///
    /// # Errors
    /// When it is missing, has another shape or a type that is not supported.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let mut numbers = vec![0.0; shape.iter().product()];
        match self {
            Weights::Folder(folder) => {
                let (dtype, data) = folder.tensor(name, shape)?;
                decode(dtype, data, &mut numbers);
            }
            Weights::Random { .. } => match shape {
                [rows, columns] => {
                    let matrix = self.matrix(name, *rows, *columns)?;
                    let rows = numbers.chunks_exact_mut(*columns).enumerate();
                    rows.for_each(|(i, row)| matrix.read(i, row));
                }
                _ => numbers.fill(random::constant(name)),
            },
        }
        Ok(numbers)
    }

    /// Returns a matrix `[rows, columns]`, to be read.
    ///
    /// # Errors
    /// When it is missing, has another shape or a type that is not supported.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix<'_>, WeightsError> {
        let rows = match self {
            Weights::Folder(folder) => {
                let (dtype, data) = folder.tensor(name, &[rows, columns])?;
                Rows::Stored { dtype, data }
            }
            Weights::Random { seed } => Rows::Random { key: random::key(*seed, name) },
        };
        Ok(Matrix { rows, columns })
    }
}

impl Matrix<'_> {
    /// Writes a row's numbers in f32.
    pub fn read(&self, row: usize, numbers: &mut [f32]) {
        match self.rows {
            Rows::Stored { dtype, data } => {
                let bytes = self.columns * width(dtype);
                decode(dtype, &data[row * bytes..(row + 1) * bytes], numbers);
            }
            Rows::Random { key } => {
                random::normal(key, row as u64, numbers);
                // Keeps the outputs as large as the inputs.
                let scale = 1.0 / (self.columns as f32).sqrt();
                numbers.iter_mut().for_each(|v| *v *= scale);
            }
        }
    }
}

impl Folder {
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

    fn hash(&self, hasher: &mut Sha256) {
        let mut names: Vec<&String> = self.places.keys().collect();
        names.sort();
        for name in names {
            let place = &self.places[name];
            hasher.update(format!("{name} {:?} {:?}\n", place.dtype, place.shape));
            let bytes = &self.files[place.file][place.bytes.clone()];
            for from in [0, bytes.len() / 2] {
                hasher.update(&bytes[from..bytes.len().min(from + FINGERPRINT_BYTES)]);
            }
        }
    }

    /// Returns the type and the bytes of a tensor.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<(Dtype, &[u8]), WeightsError> {
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
        if !matches!(place.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(WeightsError::Type { name: name.to_owned(), dtype: place.dtype });
        }
        Ok((place.dtype, &self.files[place.file][place.bytes.clone()]))
    }
}

/// Returns how many bytes a number has: of the types that are supported.
fn width(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

/// Writes the numbers of a supported type.
fn decode(dtype: Dtype, data: &[u8], numbers: &mut [f32]) {
    let pairs = data.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        Dtype::F32 => {
            for (number, b) in numbers.iter_mut().zip(data.chunks_exact(4)) {
                *number = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::F16 => {
            numbers.iter_mut().zip(pairs).for_each(|(n, b)| *n = half::f16::from_le_bytes(b).to_f32());
        }
        _ => {
            numbers.iter_mut().zip(pairs).for_each(|(n, b)| *n = half::bf16::from_le_bytes(b).to_f32());
        }
    }
}
