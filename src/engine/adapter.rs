//! A tuning as a file: what changed of a base model's routed experts and routers.
//!
//! ```text
//! metadata   format, version, name, kind, rank, base (the fingerprint of the base's weights)
//! T.delta    I8 [rows, columns] with T.scale F32 [rows]     a matrix of an expert, tuned in full
//! T.b, T.a   BF16 [rows, rank], BF16 [rank, columns]        the same, of low rank: Δ = b·a
//! T.delta    F32 [rows, columns]                            a router
//! ```
//! T is the tensor's published name. What a file does not name is the base's. Here is the file's form only:
//! [`crate::engine::model::tuned`] makes experts of it, [`crate::engine::train::tune`] makes it.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use half::bf16;
use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::engine::weights::WeightsError;

/// What the metadata calls these files.
const FORMAT: &str = "chatdlm-adapter";
/// The version of the form.
const VERSION: &str = "1";
/// The largest 8-bit number in use: the range is symmetric.
const LARGEST: f32 = 127.0;

/// Says why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file is missing, or cannot be read or written.
    #[error("cannot open the adapter {path}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no adapter, or damaged.
    #[error("{path} is not an adapter: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A newer program wrote it.
    #[error("the adapter {path} has version {found}, this program reads version {VERSION}", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// It was tuned from other weights.
    #[error(
        "the adapter {name} was tuned on another base model ({found:.12}…, this one is {expected:.12}…): \
         load that model, or tune again with --from this one"
    )]
    OtherBase {
        /// The adapter.
        name: String,
        /// The fingerprint in the file.
        found: String,
        /// The model's.
        expected: String,
    },
    /// The checkpoint on disk is not the one that was loaded.
    #[error("the checkpoint {folder} has changed since it was loaded: restart first", folder = folder.display())]
    BaseChanged {
        /// The folder.
        folder: PathBuf,
    },
    /// A GPU computes, which has no other experts than the base's.
    #[error("adapters run on the processor only, and {device} computes: set model.engine.device to \"cpu\"")]
    OnGpu {
        /// The GPU.
        device: String,
    },
    /// It changes what is neither an expert nor a router of the model.
    #[error("the adapter {name} changes {tensor}, which is no routed expert or router of this model")]
    Unknown {
        /// The adapter.
        name: String,
        /// The tensor.
        tensor: String,
    },
    /// A change has another shape than what it changes.
    #[error("the adapter {name} has shape {found:?} for {tensor}, the model has {expected:?}")]
    Shape {
        /// The adapter.
        name: String,
        /// The tensor.
        tensor: String,
        /// The shape in the file, rows and columns.
        found: [usize; 2],
        /// The model's.
        expected: [usize; 2],
    },
    /// The base's weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// What was tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every number of the experts.
    Experts,
    /// A change of low rank of each matrix (LoRA, arXiv 2106.09685); routers in full.
    LowRank {
        /// The rank.
        rank: usize,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Experts => f.write_str("experts"),
            Kind::LowRank { rank } => write!(f, "low-rank {rank}"),
        }
    }
}

/// What is added to one matrix `[rows, columns]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The numbers.
    pub form: Form,
}

/// How the numbers of a change are kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// As they are, `[rows, columns]`.
    Exact(Vec<f32>),
    /// In 8 bits.
    Eight {
        /// One for each row.
        scales: Vec<f32>,
        /// `[rows, columns]`, to be multiplied by their row's scale.
        numbers: Vec<i8>,
    },
    /// `b·a`.
    LowRank {
        /// `[rank, columns]`.
        a: Vec<bf16>,
        /// `[rows, rank]`.
        b: Vec<bf16>,
    },
}

impl Delta {
    /// Rounds a change `[rows, columns]` to 8 bits.
    pub fn eight(shape: [usize; 2], values: &[f32]) -> Delta {
        let mut scales = Vec::with_capacity(shape[0]);
        let mut numbers = Vec::with_capacity(values.len());
        for row in values.chunks_exact(shape[1]) {
            let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let scale = largest / LARGEST;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            scales.push(scale);
            numbers.extend(row.iter().map(|value| (value * inverse).round().clamp(-LARGEST, LARGEST) as i8));
        }
        Delta { shape, form: Form::Eight { scales, numbers } }
    }

    /// Rounds the factors `a` `[rank, columns]` and `b` `[rows, rank]` of a change.
    pub fn low_rank(shape: [usize; 2], a: &[f32], b: &[f32]) -> Delta {
        let rounded = |values: &[f32]| values.iter().map(|value| bf16::from_f32(*value)).collect();
        Delta { shape, form: Form::LowRank { a: rounded(a), b: rounded(b) } }
    }

    /// Adds a row of the change to the row that it changes.
    pub fn add(&self, row: usize, numbers: &mut [f32]) {
        let columns = self.shape[1];
        match &self.form {
            Form::Exact(values) => {
                let values = &values[row * columns..(row + 1) * columns];
                numbers.iter_mut().zip(values).for_each(|(n, value)| *n += value);
            }
            Form::Eight { scales, numbers: values } => {
                let values = &values[row * columns..(row + 1) * columns];
                numbers.iter_mut().zip(values).for_each(|(n, value)| *n += scales[row] * f32::from(*value));
            }
            Form::LowRank { a, b } => {
                let rank = a.len() / columns;
                let factors = &b[row * rank..(row + 1) * rank];
                for (factor, a) in factors.iter().zip(a.chunks_exact(columns)) {
                    let factor = factor.to_f32();
                    numbers.iter_mut().zip(a).for_each(|(n, a)| *n += factor * a.to_f32());
                }
            }
        }
    }

    /// Returns whether nothing changes.
    pub fn is_zero(&self) -> bool {
        match &self.form {
            Form::Exact(values) => values.iter().all(|value| *value == 0.0),
            Form::Eight { numbers, .. } => numbers.iter().all(|number| *number == 0),
            Form::LowRank { a, b } => {
                let is_zero = |factors: &[bf16]| factors.iter().all(|factor| factor.to_f32() == 0.0);
                is_zero(a) || is_zero(b)
            }
        }
    }
}

/// A tuning, as it is written and read.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// What people call it.
    pub name: String,
    /// What was tuned.
    pub kind: Kind,
    /// The fingerprint of the weights that it was tuned from.
    pub base: String,
    /// The changes by the published names of the tensors.
    pub deltas: BTreeMap<String, Delta>,
}

impl AdapterFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is no adapter or is damaged.
    ///
    /// # Blocking
    /// Reads all of it.
    pub fn read(path: &Path) -> Result<AdapterFile, AdapterError> {
        let bytes =
            std::fs::read(path).map_err(|source| AdapterError::Open { path: path.to_owned(), source })?;
        let format = |reason: String| AdapterError::Format { path: path.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| format(error.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let field = |name: &str| {
            metadata.get(name).cloned().ok_or_else(|| format(format!("its metadata has no {name:?}")))
        };
        if field("format")? != FORMAT {
            return Err(format(format!("its metadata does not say {FORMAT:?}")));
        }
        let version = field("version")?;
        if version != VERSION {
            return Err(AdapterError::Version { path: path.to_owned(), found: version });
        }
        let kind = match (field("kind")?.as_str(), field("rank")?.parse()) {
            ("experts", _) => Kind::Experts,
            ("low-rank", Ok(rank)) => Kind::LowRank { rank },
            (kind, _) => return Err(format(format!("kind {kind:?} and its rank are not known"))),
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| format(error.to_string()))?;
        let mut parts: BTreeMap<String, HashMap<String, TensorView>> = BTreeMap::new();
        for (name, view) in tensors.tensors() {
            let (of, part) = name.rsplit_once('.').ok_or_else(|| format(format!("it holds {name:?}")))?;
            parts.entry(of.to_owned()).or_default().insert(part.to_owned(), view);
        }
        let mut deltas = BTreeMap::new();
        for (name, parts) in parts {
            let delta = delta(&parts).map_err(|reason| format(format!("{name}: {reason}")))?;
            deltas.insert(name, delta);
        }
        Ok(AdapterFile { name: field("name")?, kind, base: field("base")?, deltas })
    }

    /// Writes the file beside its place and renames it; returns its size in bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<u64, AdapterError> {
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, delta) in &self.deltas {
            let shape = delta.shape.to_vec();
            let mut add = |part: &str, dtype, shape, bytes| {
                tensors.push((format!("{name}.{part}"), dtype, shape, bytes));
            };
            let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
            match &delta.form {
                Form::Exact(values) => add("delta", Dtype::F32, shape, f32s(values)),
                Form::Eight { scales, numbers } => {
                    add("scale", Dtype::F32, vec![scales.len()], f32s(scales));
                    add("delta", Dtype::I8, shape, numbers.iter().flat_map(|n| n.to_le_bytes()).collect());
                }
                Form::LowRank { a, b } => {
                    let rank = a.len() / delta.shape[1];
                    let bf16s = |values: &[bf16]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    add("a", Dtype::BF16, vec![rank, delta.shape[1]], bf16s(a));
                    add("b", Dtype::BF16, vec![delta.shape[0], rank], bf16s(b));
                }
            }
        }
        let damaged = |error: safetensors::SafeTensorError| AdapterError::Format {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let mut views = Vec::with_capacity(tensors.len());
        for (name, dtype, shape, bytes) in &tensors {
            views.push((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(damaged)?));
        }
        let (kind, rank) = match self.kind {
            Kind::Experts => ("experts", 0),
            Kind::LowRank { rank } => ("low-rank", rank),
        };
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("name", self.name.clone()),
            ("kind", kind.to_owned()),
            ("rank", rank.to_string()),
            ("base", self.base.clone()),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(damaged)?;
        put(path, &bytes).map_err(|source| AdapterError::Open { path: path.to_owned(), source })?;
        Ok(bytes.len() as u64)
    }

    /// Checks that it was tuned from weights of this fingerprint.
    ///
    /// # Errors
    /// [`AdapterError::OtherBase`] when it was not.
    pub fn check_base(&self, fingerprint: &str) -> Result<(), AdapterError> {
        if self.base == fingerprint {
            return Ok(());
        }
        let (name, found) = (self.name.clone(), self.base.clone());
        Err(AdapterError::OtherBase { name, found, expected: fingerprint.to_owned() })
    }

    /// Checks that it changes nothing but the tensors of `shapes`, each in its shape.
    ///
    /// # Errors
    /// Names the first that does not fit.
    pub fn check_shapes(&self, shapes: &HashMap<String, [usize; 2]>) -> Result<(), AdapterError> {
        for (tensor, delta) in &self.deltas {
            let (name, tensor) = (self.name.clone(), tensor.clone());
            match shapes.get(&tensor) {
                None => return Err(AdapterError::Unknown { name, tensor }),
                Some(expected) if *expected != delta.shape => {
                    let (found, expected) = (delta.shape, *expected);
                    return Err(AdapterError::Shape { name, tensor, found, expected });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Writes bytes beside their place and renames them, so that readers see the old file or the new one.
///
/// # Errors
/// When the folder cannot be written.
pub fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let file = std::fs::File::create(&beside)?;
    std::io::Write::write_all(&mut &file, bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// Puts the parts of one change together.
fn delta(parts: &HashMap<String, TensorView>) -> Result<Delta, String> {
    let part = |name: &str| parts.get(name).map(|view| (view.dtype(), view.shape(), view.data()));
    let mut names: Vec<&str> = parts.keys().map(String::as_str).collect();
    names.sort_unstable();
    let found = match (part("delta"), part("scale"), part("a"), part("b")) {
        (Some((Dtype::F32, [rows, columns], data)), None, None, None) => {
            Delta { shape: [*rows, *columns], form: Form::Exact(f32s(data)) }
        }
        (Some((Dtype::I8, [rows, columns], data)), Some((Dtype::F32, [scales], scale)), None, None)
            if rows == scales =>
        {
            let numbers = data.iter().map(|byte| i8::from_le_bytes([*byte])).collect();
            Delta { shape: [*rows, *columns], form: Form::Eight { scales: f32s(scale), numbers } }
        }
        (None, None, Some((Dtype::BF16, [rank, columns], a)), Some((Dtype::BF16, [rows, same], b)))
            if rank == same && *rank > 0 =>
        {
            Delta { shape: [*rows, *columns], form: Form::LowRank { a: bf16s(a), b: bf16s(b) } }
        }
        _ => return Err(format!("{names:?} do not make a change, or their types and shapes do not fit")),
    };
    let is_finite = match &found.form {
        Form::Exact(values) | Form::Eight { scales: values, .. } => values.iter().all(|v| v.is_finite()),
        Form::LowRank { a, b } => a.iter().chain(b).all(|v| v.is_finite()),
    };
    if is_finite && found.shape[1] > 0 { Ok(found) } else { Err("a number is not finite".to_owned()) }
}

fn f32s(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bf16s(data: &[u8]) -> Vec<bf16> {
    data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> AdapterFile {
        let values: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin() * 0.01).collect();
        let deltas = BTreeMap::from([
            ("x.router".to_owned(), Delta { shape: [3, 4], form: Form::Exact(values.clone()) }),
            ("x.eight".to_owned(), Delta::eight([3, 4], &values)),
            ("x.low".to_owned(), Delta::low_rank([2, 5], &values[..10], &values[8..])),
        ]);
        let kind = Kind::LowRank { rank: 2 };
        AdapterFile { name: "air".to_owned(), kind, base: "abc".to_owned(), deltas }
    }

    fn row(delta: &Delta, row: usize) -> Vec<f32> {
        let mut numbers = vec![1.0; delta.shape[1]];
        delta.add(row, &mut numbers);
        numbers.iter().map(|n| n - 1.0).collect()
    }

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let bytes = file().write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
        assert_eq!(AdapterFile::read(&path).unwrap(), file());
    }

    #[test]
    fn rounding_to_8_bits_keeps_a_127th_of_the_largest_of_a_row() {
        let file = file();
        let exact = &file.deltas["x.router"];
        for at in 0..3 {
            let (exact, rounded) = (row(exact, at), row(&file.deltas["x.eight"], at));
            let largest = exact.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            for (a, b) in exact.iter().zip(&rounded) {
                assert!((a - b).abs() <= largest / 127.0 * 0.51 + 1e-6, "{exact:?} and {rounded:?}");
            }
        }
        assert!(Delta::eight([2, 2], &[0.0; 4]).is_zero());
        assert!(Delta::low_rank([2, 2], &[1.0, 2.0], &[0.0, 0.0]).is_zero());
        assert!(!file.deltas["x.low"].is_zero());
    }

    #[test]
    fn a_change_of_low_rank_is_the_product_of_its_factors() {
        // Numbers that bf16 holds exactly.
        let delta = Delta::low_rank([2, 3], &[1.0, 2.0, 3.0, -1.0, 0.5, 0.25], &[2.0, 4.0, 0.0, -8.0]);
        assert_eq!(row(&delta, 0), [2.0 - 4.0, 4.0 + 2.0, 6.0 + 1.0]);
        assert_eq!(row(&delta, 1), [8.0, -4.0, -2.0]);
    }

    #[test]
    fn what_is_no_adapter_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            AdapterFile::read(&path).unwrap_err().to_string()
        };
        assert!(read(b"nothing").contains("is not an adapter"));
        let numbers = [0_u8; 4];
        let view = || TensorView::new(Dtype::I8, vec![2, 2], &numbers).unwrap();
        let metadata = |version: &str| {
            let fields = [("format", FORMAT), ("version", version), ("kind", "experts"), ("rank", "0")];
            let fields = fields.into_iter().chain([("name", "a"), ("base", "b")]);
            Some(fields.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
        };
        let bytes = |name: &str, metadata| safetensors::serialize([(name, view())], metadata).unwrap();
        assert!(read(&bytes("x.delta", None)).contains("no \"format\""));
        assert!(read(&bytes("x.delta", metadata("2"))).contains("has version 2"));
        assert!(read(&bytes("x.delta", metadata("1"))).contains("x: [\"delta\"] do not make a change"));
        let mut torn = file();
        torn.deltas.insert("x.bad".to_owned(), Delta { shape: [1, 1], form: Form::Exact(vec![f32::NAN]) });
        torn.write(&path).unwrap();
        assert!(AdapterFile::read(&path).unwrap_err().to_string().contains("not finite"));
        assert!(matches!(AdapterFile::read(&folder.path().join("b")), Err(AdapterError::Open { .. })));
    }

    #[test]
    fn another_base_another_shape_and_another_tensor_are_refused_by_name() {
        let file = file();
        assert!(file.check_base("abc").is_ok());
        let error = file.check_base("0123456789abcdef").unwrap_err().to_string();
        assert!(
            error.contains("air") && error.contains("another base model") && error.contains("0123456789ab…")
        );
        let shapes = |low| HashMap::from([("x.router", [3, 4]), ("x.eight", [3, 4]), ("x.low", low)]);
        let check = |shapes: HashMap<&str, [usize; 2]>| {
            let shapes = shapes.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
            file.check_shapes(&shapes)
        };
        assert!(check(shapes([2, 5])).is_ok());
        let error = check(shapes([5, 2])).unwrap_err().to_string();
        assert!(error.contains("[2, 5] for x.low, the model has [5, 2]"), "{error}");
        let error = check(HashMap::from([("x.router", [3, 4])])).unwrap_err().to_string();
        assert!(error.contains("changes x.eight"), "{error}");
    }
}
