//! Whisper model files in whisper.cpp's ggml form: looking through one before whisper.cpp loads it.
//!
//! whisper.cpp ends the process or reads past its tables on some files that it cannot load; what
//! [`inspect`] lets through, it loads. The weights themselves are not read. [`random`] writes such files.

pub mod random;
pub mod saying;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// The first four bytes of a file, little-endian.
const MAGIC: u32 = 0x6767_6d6c;
/// Frequencies of a mel filter: of 400 samples' spectrum.
const FREQUENCIES: u32 = 201;
/// The vocabulary of models for English only; from one more on, a model knows languages.
const ENGLISH_VOCAB: u32 = 51_864;
/// The largest vocabulary: whisper.cpp knows the names of 100 languages and falls over the next one.
const LARGEST_VOCAB: u32 = 51_866;
/// The longest token in bytes: real ones have up to 128.
const TOKEN_MAX_BYTES: u32 = 1024;
/// The longest name of a tensor in bytes: real ones have up to 37.
const NAME_MAX_BYTES: u32 = 64;
/// The 11 numbers after the magic, in the file's order, with the least and the most that is sound.
const FIELDS: [(&str, u32, u32); 11] = [
    ("n_vocab", ENGLISH_VOCAB, LARGEST_VOCAB),
    ("n_audio_ctx", 1, 1500),
    ("n_audio_state", 16, 4096),
    ("n_audio_head", 1, 64),
    ("n_audio_layer", 1, 64),
    ("n_text_ctx", 32, 4096),
    ("n_text_state", 16, 4096),
    ("n_text_head", 1, 64),
    ("n_text_layer", 1, 64),
    ("n_mels", 1, 128),
    // Thousands are the version of the quantization.
    ("ftype", 0, 9999),
];

/// Says what is wrong with a model file.
#[derive(Debug, thiserror::Error)]
#[error("the speech model {}: {fault}", path.display())]
pub struct ModelFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a model file.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be opened or read.
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    /// It is something else.
    #[error("it is no Whisper model in ggml form, as ggml-tiny.en.bin is: it begins with {0:?}")]
    NotWhisper(String),
    /// It ends too early.
    #[error("it is cut short at byte {at}: fetch it again")]
    CutShort {
        /// Its length in bytes.
        at: u64,
    },
    /// It is one of those that whisper.cpp's own tests use.
    #[error("it has a header and a vocabulary but no weights: it is a file for tests")]
    NoWeights,
    /// The header says something that cannot be.
    #[error("its {field} is {value}, expected {expected}")]
    Header {
        /// The number as whisper.cpp names it.
        field: &'static str,
        /// What the file says.
        value: i32,
        /// What would do.
        expected: String,
    },
    /// A tensor has other dimensions than the header says.
    #[error("its tensor {tensor} has the shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its dimensions in the file, the innermost first.
        found: Vec<u32>,
        /// The dimensions that follow from the header.
        expected: Vec<u32>,
    },
    /// A tensor's numbers are stored in another way than the header says.
    #[error("its tensor {tensor} has ggml's type {found}, expected {expected}")]
    Type {
        /// The tensor.
        tensor: String,
        /// ggml's number of the type in the file.
        found: u32,
        /// ggml's number of the type that follows from the header.
        expected: u32,
    },
    /// A tensor is there twice, or Whisper has none of this name.
    #[error("its tensor {0:?} does not belong there")]
    Stray(String),
    /// Tensors are not there.
    #[error("{missing} tensors are missing, {tensor} among them: fetch it again")]
    Missing {
        /// One of them.
        tensor: String,
        /// How many there are.
        missing: usize,
    },
}

/// The hyper-parameters of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhisperHeader {
    /// Tokens that the model writes.
    pub vocab: u32,
    /// Positions of the encoder's output: 1500 for 30 s.
    pub audio_ctx: u32,
    /// Width of the encoder.
    pub audio_state: u32,
    /// Attention heads of the encoder.
    pub audio_heads: u32,
    /// Layers of the encoder.
    pub audio_layers: u32,
    /// Positions of the decoder, in tokens.
    pub text_ctx: u32,
    /// Width of the decoder.
    pub text_state: u32,
    /// Attention heads of the decoder.
    pub text_heads: u32,
    /// Layers of the decoder.
    pub text_layers: u32,
    /// Mel bands of the input.
    pub mels: u32,
    /// How the large weights are stored, as ggml numbers files: 1 is f16.
    pub ftype: u32,
}

impl WhisperHeader {
    /// Returns whether the model knows other languages than English.
    pub fn is_multilingual(&self) -> bool {
        self.vocab > ENGLISH_VOCAB
    }

    /// Returns the header of these 11 numbers.
    fn of(numbers: [u32; 11]) -> Result<WhisperHeader, Fault> {
        for ((field, least, most), number) in FIELDS.into_iter().zip(numbers) {
            if !(least..=most).contains(&number) {
                return Err(wrong(field, number, format!("{least} to {most}")));
            }
        }
        let [vocab, audio_ctx, audio_state, audio_heads, audio_layers, ..] = numbers;
        let [.., text_ctx, text_state, text_heads, text_layers, mels, ftype] = numbers;
        for (field, heads, state) in
            [("n_audio_head", audio_heads, audio_state), ("n_text_head", text_heads, text_state)]
        {
            if state % heads != 0 {
                return Err(wrong(field, heads, format!("a divisor of {state}")));
            }
        }
        if text_state != audio_state {
            return Err(wrong("n_text_state", text_state, format!("{audio_state} as n_audio_state")));
        }
        let Some(storage) = Storage::of_weights(ftype) else {
            return Err(wrong("ftype", ftype, "a way to store weights that ggml knows".to_owned()));
        };
        if !u64::from(audio_state).is_multiple_of(storage.block) {
            let expected = format!("a multiple of {} for ftype {ftype}", storage.block);
            return Err(wrong("n_audio_state", audio_state, expected));
        }
        Ok(WhisperHeader {
            vocab,
            audio_ctx,
            audio_state,
            audio_heads,
            audio_layers,
            text_ctx,
            text_state,
            text_heads,
            text_layers,
            mels,
            ftype,
        })
    }

    /// Returns the 11 numbers in the file's order.
    fn numbers(&self) -> [u32; 11] {
        [
            self.vocab,
            self.audio_ctx,
            self.audio_state,
            self.audio_heads,
            self.audio_layers,
            self.text_ctx,
            self.text_state,
            self.text_heads,
            self.text_layers,
            self.mels,
            self.ftype,
        ]
    }

    /// Returns all tensors of such a model.
    fn tensors(&self) -> Vec<Tensor> {
        let large = Storage::of_weights(self.ftype).unwrap_or(Storage::F16);
        // Convolutions are never quantized.
        let convolution = if self.ftype == 0 { Storage::F32 } else { Storage::F16 };
        let (mels, width) = (self.mels, self.audio_state);
        let mut tensors = Vec::new();
        let mut add = |name: String, dims: &[u32], storage| {
            tensors.push(Tensor { name, dims: dims.to_vec(), storage });
        };
        add("encoder.positional_embedding".to_owned(), &[width, self.audio_ctx], Storage::F32);
        for (name, channels) in [("encoder.conv1", mels), ("encoder.conv2", width)] {
            add(format!("{name}.weight"), &[3, channels, width], convolution);
            add(format!("{name}.bias"), &[1, width], Storage::F32);
        }
        add("decoder.positional_embedding".to_owned(), &[width, self.text_ctx], Storage::F32);
        add("decoder.token_embedding.weight".to_owned(), &[width, self.vocab], large);
        for name in ["encoder.ln_post", "decoder.ln"] {
            add(format!("{name}.weight"), &[width], Storage::F32);
            add(format!("{name}.bias"), &[width], Storage::F32);
        }
        let encoder = (0..self.audio_layers).map(|layer| (format!("encoder.blocks.{layer}"), false));
        let decoder = (0..self.text_layers).map(|layer| (format!("decoder.blocks.{layer}"), true));
        for (block, is_decoder) in encoder.chain(decoder) {
            let attentions: &[&str] = if is_decoder { &["attn", "cross_attn"] } else { &["attn"] };
            for attention in attentions {
                for part in ["query", "key", "value", "out"] {
                    add(format!("{block}.{attention}.{part}.weight"), &[width, width], large);
                    if part != "key" {
                        add(format!("{block}.{attention}.{part}.bias"), &[width], Storage::F32);
                    }
                }
                add(format!("{block}.{attention}_ln.weight"), &[width], Storage::F32);
                add(format!("{block}.{attention}_ln.bias"), &[width], Storage::F32);
            }
            add(format!("{block}.mlp_ln.weight"), &[width], Storage::F32);
            add(format!("{block}.mlp_ln.bias"), &[width], Storage::F32);
            add(format!("{block}.mlp.0.weight"), &[width, 4 * width], large);
            add(format!("{block}.mlp.0.bias"), &[4 * width], Storage::F32);
            add(format!("{block}.mlp.2.weight"), &[4 * width, width], large);
            add(format!("{block}.mlp.2.bias"), &[width], Storage::F32);
        }
        tensors
    }
}

fn wrong(field: &'static str, value: u32, expected: String) -> Fault {
    Fault::Header { field, value: value.cast_signed(), expected }
}

/// A tensor as the header says it must be.
struct Tensor {
    name: String,
    /// The innermost first.
    dims: Vec<u32>,
    storage: Storage,
}

impl Tensor {
    fn numbers(&self) -> u64 {
        self.dims.iter().map(|&dim| u64::from(dim)).product()
    }

    fn bytes(&self) -> u64 {
        self.numbers() / self.storage.block * self.storage.block_bytes
    }
}

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Storage {
    /// ggml's number of the type.
    id: u32,
    /// Numbers that are stored together.
    block: u64,
    /// Bytes that they take.
    block_bytes: u64,
}

impl Storage {
    const F32: Storage = Storage { id: 0, block: 1, block_bytes: 4 };
    const F16: Storage = Storage { id: 1, block: 1, block_bytes: 2 };

    /// Returns how the large weights of a file are stored.
    ///
    /// Source: `ggml_ftype_to_ggml_type` in ggml.c and the blocks of ggml-common.h.
    fn of_weights(ftype: u32) -> Option<Storage> {
        let (id, block, block_bytes) = match ftype % 1000 {
            0 => return Some(Storage::F32),
            1 => return Some(Storage::F16),
            2 => (2, 32, 18),
            3 => (3, 32, 20),
            7 => (8, 32, 34),
            8 => (6, 32, 22),
            9 => (7, 32, 24),
            10 => (10, 256, 84),
            11 => (11, 256, 110),
            12 => (12, 256, 144),
            13 => (13, 256, 176),
            14 => (14, 256, 210),
            _ => return None,
        };
        Some(Storage { id, block, block_bytes })
    }
}

/// Looks through a model file: its header, and that all tensors are there, of the right shape and whole.
///
/// # Errors
/// When the file cannot be read, or whisper.cpp could not use it.
///
/// # Blocking
/// Reads about a megabyte and seeks over the rest.
pub fn inspect(path: &Path) -> Result<WhisperHeader, ModelFileError> {
    let header = Reader::open(path).map_err(Fault::from).and_then(|mut reader| header_of(&mut reader));
    header.map_err(|fault| ModelFileError { path: path.to_owned(), fault })
}

fn header_of(reader: &mut Reader) -> Result<WhisperHeader, Fault> {
    let magic: [u8; 4] = reader.bytes()?;
    if u32::from_le_bytes(magic) != MAGIC {
        return Err(Fault::NotWhisper(magic.escape_ascii().to_string()));
    }
    let mut numbers = [0; 11];
    for number in &mut numbers {
        *number = reader.number()?;
    }
    let header = WhisperHeader::of(numbers)?;
    for (field, expected) in [("filter table's n_mel", header.mels), ("filter table's n_fft", FREQUENCIES)] {
        let found = reader.number()?;
        if found != expected {
            return Err(wrong(field, found, expected.to_string()));
        }
    }
    reader.skip(u64::from(header.mels * FREQUENCIES) * 4)?;
    let tokens = reader.number()?;
    if tokens > header.vocab {
        return Err(wrong("number of tokens", tokens, format!("at most {}", header.vocab)));
    }
    for _ in 0..tokens {
        let length = reader.number()?;
        if length > TOKEN_MAX_BYTES {
            return Err(wrong("length of a token", length, format!("at most {TOKEN_MAX_BYTES}")));
        }
        reader.skip(u64::from(length))?;
    }
    if reader.is_at_end() {
        return Err(Fault::NoWeights);
    }
    let tensors = header.tensors();
    let mut missing: HashMap<&str, &Tensor> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    while !reader.is_at_end() {
        let (dims, length, storage) = (reader.number()?, reader.number()?, reader.number()?);
        if !(1..=3).contains(&dims) {
            return Err(wrong("number of a tensor's dimensions", dims, "1 to 3".to_owned()));
        }
        let dims = (0..dims).map(|_| reader.number()).collect::<Result<Vec<_>, _>>()?;
        if length > NAME_MAX_BYTES {
            return Err(wrong("length of a tensor's name", length, format!("at most {NAME_MAX_BYTES}")));
        }
        let name = reader.text(length)?;
        let Some(tensor) = missing.remove(name.as_str()) else { return Err(Fault::Stray(name)) };
        if tensor.dims != dims {
            return Err(Fault::Shape { tensor: name, found: dims, expected: tensor.dims.clone() });
        }
        if tensor.storage.id != storage {
            return Err(Fault::Type { tensor: name, found: storage, expected: tensor.storage.id });
        }
        reader.skip(tensor.bytes())?;
    }
    // The first in the model's order, so that the message does not change from run to run.
    match tensors.iter().find(|tensor| missing.contains_key(tensor.name.as_str())) {
        None => Ok(header),
        Some(tensor) => Err(Fault::Missing { tensor: tensor.name.clone(), missing: missing.len() }),
    }
}

/// A file that knows where it is and where it ends.
struct Reader {
    file: BufReader<File>,
    at: u64,
    length: u64,
}

impl Reader {
    fn open(path: &Path) -> io::Result<Reader> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Reader { file: BufReader::new(file), at: 0, length })
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.length
    }

    /// Goes forward.
    fn advance(&mut self, bytes: u64) -> Result<(), Fault> {
        self.at = self.at.saturating_add(bytes);
        if self.at > self.length {
            return Err(Fault::CutShort { at: self.length });
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.advance(N as u64)?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self, length: u32) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        self.advance(u64::from(length))?;
        self.file.by_ref().take(u64::from(length)).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Fault> {
        self.advance(bytes)?;
        // Within the file, so it fits.
        Ok(self.file.seek_relative(bytes.cast_signed())?)
    }
}

#[cfg(test)]
mod tests;
