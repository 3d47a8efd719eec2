//! A model's weights in a GPU's memory: a checkpoint's, or random ones of any shape made there.

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::config::SparseShape;
use crate::engine::cuda::arguments::WeightAddress;
use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::pack::Form;
use crate::engine::cuda::pack::Packed;
use crate::engine::model::feed_forward;
use crate::engine::model::feed_forward::Mlp;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::loader::Loader;
use crate::engine::weights;

/// How large random weights are.
const RANDOM_SIZE: f32 = 0.02;
/// The root mean square of an even byte, and of a level of 4 bits.
const RANDOM_BYTE: f32 = 74.0;
/// Blocks of 256 threads that fill random weights.
const FILLING: usize = 1024;

/// All weights.
#[derive(Debug)]
pub struct Weights {
    /// `[vocabulary, hidden]` in bf16, or f32 when all is.
    pub embeddings: Buffer,
    /// From the first to the last.
    pub layers: Vec<Layer>,
    /// `[hidden]`, before the head.
    pub norm: Buffer,
    /// What makes logits of rows.
    pub head: Weight,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// `[hidden]`, before the attention.
    pub input_norm: Buffer,
    /// Rows Q, K, V.
    pub qkv: Weight,
    /// Norms of queries and keys, where there are any.
    pub query_key_norms: Option<[Buffer; 2]>,
    /// The output of the attention.
    pub output: Weight,
    /// `[hidden]`, before the feed-forward part.
    pub post_norm: Buffer,
    /// The feed-forward part.
    pub feed_forward: FeedForward,
}

/// The feed-forward part of a layer.
#[derive(Debug)]
pub enum FeedForward {
    /// One for every row.
    Dense(Box<Gated>),
    /// Some of many for each row.
    Sparse(Box<Sparse>),
}

/// `down(silu(gate(x)) · up(x))`, of one or of many experts.
#[derive(Debug)]
pub struct Gated {
    /// Gates beside their ups.
    pub gate_up: Weight,
    /// Back to the residual stream.
    pub down: Weight,
}

/// Routed experts.
#[derive(Debug)]
pub struct Sparse {
    /// How many, and how they are chosen.
    pub shape: SparseShape,
    /// `[experts, hidden]` f32.
    pub router: Buffer,
    /// `[experts]` f32.
    pub bias: Buffer,
    /// All of them.
    pub experts: Gated,
    /// The one that takes every row.
    pub shared: Option<Gated>,
}

/// A weight, or one of each expert.
#[derive(Debug)]
pub struct Weight {
    /// The shape of one.
    pub form: Form,
    /// How many there are.
    pub count: usize,
    /// The address of the first; that of all when `table` is there.
    pub address: WeightAddress,
    /// The addresses of each expert's.
    pub table: Option<Buffer>,
    /// What the addresses are of: numbers, scales, biases.
    #[expect(dead_code, reason = "it is held, not read")]
    memory: Vec<Buffer>,
}

impl Weight {
    /// Puts a packed weight on a GPU.
    ///
    /// # Errors
    /// When the GPU has too little memory.
    pub fn of_one(gpu: &Gpu, form: Form, packed: &Packed, bias: Option<&[f32]>) -> Result<Weight, CudaError> {
        let bias = bias.map(|bias| Buffer::with(gpu, bytes_of(bias))).transpose()?;
        let (words, scales) = (Buffer::with(gpu, &packed.words)?, Buffer::with(gpu, &packed.scales)?);
        weight(gpu, form, 1, words, scales, bias)
    }

    /// Returns how many bytes one takes.
    pub fn bytes_of_one(&self) -> usize {
        self.form.word_bytes() + self.form.scale_bytes()
    }
}

impl Gated {
    /// Returns how many bytes one takes.
    pub fn bytes_of_one(&self) -> usize {
        self.gate_up.bytes_of_one() + self.down.bytes_of_one()
    }
}

impl Weights {
    /// Reads a checkpoint, layer by layer; `progress` is told of each and of how many.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or the GPU has too little memory.
    pub fn load(
        gpu: &Gpu,
        config: &ModelConfig,
        weights: &weights::Weights,
        quant: Quant,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Weights, CudaError> {
        if let weights::Weights::Random { seed } = weights {
            return Maker { gpu, quant, seed: *seed }.weights(config);
        }
        let loader = Loader::new(config, weights, Quant::F32);
        let packer = Packer { gpu, quant };
        let hidden = config.hidden_size;
        let table = loader.exact_embeddings()?;
        let embeddings = if quant == Quant::F32 {
            Buffer::with(gpu, bytes_of(&table))?
        } else {
            let table: Vec<half::bf16> = table.iter().copied().map(half::bf16::from_f32).collect();
            Buffer::with(gpu, bytes_of(&table))?
        };
        let head = packer.weight(&[&loader.head()?], false)?;
        let norm = Buffer::with(gpu, bytes_of(&loader.norm()?))?;
        let mut layers = Vec::with_capacity(config.layers.len());
        for (i, shape) in config.layers.iter().enumerate() {
            let layer = loader.layer(i)?;
            let vector = |numbers: &[f32]| Buffer::with(gpu, bytes_of(numbers));
            let query_key_norms = match config.query_key_norm {
                QueryKeyNorm::None => None,
                _ => Some([vector(&layer.query_norm)?, vector(&layer.key_norm)?]),
            };
            layers.push(Layer {
                input_norm: vector(&layer.input_norm)?,
                qkv: packer.weight(&[&layer.qkv], false)?,
                query_key_norms,
                output: packer.weight(&[&layer.output], false)?,
                post_norm: vector(&layer.post_norm)?,
                feed_forward: packer.feed_forward(&layer.mlp, shape, hidden)?,
            });
            progress(i + 1, config.layers.len());
        }
        Ok(Weights { embeddings, layers, norm, head })
    }

    /// Returns how many bytes the weights take.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| {
            let feed_forward = match &layer.feed_forward {
                FeedForward::Dense(dense) => dense.bytes_of_one(),
                FeedForward::Sparse(sparse) => {
                    sparse.bytes_of_every_row() + sparse.shape.experts * sparse.experts.bytes_of_one()
                }
            };
            layer.qkv.bytes_of_one() + layer.output.bytes_of_one() + feed_forward
        });
        self.embeddings.bytes + self.head.bytes_of_one() + layers.sum::<usize>()
    }
}

impl Sparse {
    /// Returns how many bytes are read whatever is chosen.
    pub fn bytes_of_every_row(&self) -> usize {
        self.router.bytes + self.shared.as_ref().map_or(0, Gated::bytes_of_one)
    }
}

/// Puts a checkpoint's numbers on a GPU.
struct Packer<'a> {
    gpu: &'a Gpu,
    quant: Quant,
}

impl Packer<'_> {
    /// Packs matrices of one shape, and their biases.
    fn weight(&self, linears: &[&Linear], is_gated: bool) -> Result<Weight, CudaError> {
        let (_, input) = linears[0].exact().expect("the loader reads in full precision");
        let outputs = linears[0].output() / if is_gated { 2 } else { 1 };
        let form = Form { quant: self.quant, input, outputs, is_gated };
        let pack = |linear: &Linear| {
            let (numbers, input) = linear.exact().expect("the loader reads in full precision");
            form.pack(|row, to| to.copy_from_slice(&numbers[row * input..(row + 1) * input]))
        };
        if let [linear] = linears {
            return Weight::of_one(self.gpu, form, &pack(linear), linear.bias());
        }
        let (mut words, mut scales) = (Vec::new(), Vec::new());
        for linear in linears {
            let packed = pack(linear);
            words.extend(packed.words);
            scales.extend(packed.scales);
        }
        let (words, scales) = (Buffer::with(self.gpu, &words)?, Buffer::with(self.gpu, &scales)?);
        // Experts have no biases.
        weight(self.gpu, form, linears.len(), words, scales, None)
    }

    fn gated(&self, experts: &[&feed_forward::FeedForward]) -> Result<Gated, CudaError> {
        let gate_ups: Vec<&Linear> = experts.iter().map(|expert| &expert.gate_up).collect();
        let downs: Vec<&Linear> = experts.iter().map(|expert| &expert.down).collect();
        Ok(Gated { gate_up: self.weight(&gate_ups, true)?, down: self.weight(&downs, false)? })
    }

    fn feed_forward(
        &self,
        mlp: &Mlp,
        shape: &FeedForwardShape,
        hidden: usize,
    ) -> Result<FeedForward, CudaError> {
        let (sparse, shape) = match (mlp, shape) {
            (Mlp::Dense(dense), _) => return Ok(FeedForward::Dense(Box::new(self.gated(&[dense])?))),
            (Mlp::Sparse(sparse), FeedForwardShape::Sparse(shape)) => (sparse, *shape),
            (Mlp::Sparse(_), FeedForwardShape::Dense(_)) => unreachable!("the loader follows the shape"),
        };
        debug_assert_eq!(sparse.router.len(), shape.experts * hidden, "a row for each expert");
        let experts: Vec<&feed_forward::FeedForward> = sparse.experts.iter().collect();
        let shared = match &sparse.shared {
            Some(shared) => Some(self.gated(&[shared])?),
            None => None,
        };
        Ok(FeedForward::Sparse(Box::new(Sparse {
            shape,
            router: Buffer::with(self.gpu, bytes_of(&sparse.router))?,
            bias: Buffer::with(self.gpu, bytes_of(&sparse.bias))?,
            experts: self.gated(&experts)?,
            shared,
        })))
    }
}

/// Puts a weight together from its memory.
fn weight(
    gpu: &Gpu,
    form: Form,
    count: usize,
    words: Buffer,
    scales: Buffer,
    bias: Option<Buffer>,
) -> Result<Weight, CudaError> {
    let address = |i: usize| WeightAddress {
        words: words.address + (i * form.word_bytes()) as u64,
        scales: scales.address + (i * form.scale_bytes()) as u64,
        bias: bias.as_ref().map_or(0, |bias| bias.address),
    };
    let first = address(0);
    let table = if count == 1 {
        None
    } else {
        let addresses: Vec<WeightAddress> = (0..count).map(address).collect();
        Some(Buffer::with(gpu, bytes_of(&addresses))?)
    };
    let memory = [Some(words), Some(scales), bias].into_iter().flatten().collect();
    Ok(Weight { form, count, address: first, table, memory })
}

/// Makes random weights on a GPU.
struct Maker<'a> {
    gpu: &'a Gpu,
    quant: Quant,
    seed: u64,
}

impl Maker<'_> {
    fn weights(mut self, config: &ModelConfig) -> Result<Weights, CudaError> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads * config.head_dim);
        let keys = config.num_key_value_heads * config.head_dim;
        let embeddings = self.numbers(config.vocab_size * hidden, self.quant == Quant::F32)?;
        let mut layers = Vec::with_capacity(config.layers.len());
        for shape in &config.layers {
            let query_key_norms = match config.query_key_norm {
                QueryKeyNorm::None => None,
                QueryKeyNorm::Head => Some([self.ones(config.head_dim)?, self.ones(config.head_dim)?]),
                QueryKeyNorm::Row => Some([self.ones(heads)?, self.ones(keys)?]),
            };
            layers.push(Layer {
                input_norm: self.ones(hidden)?,
                qkv: self.weight(hidden, config.qkv_width(), false, 1)?,
                query_key_norms,
                output: self.weight(heads, hidden, false, 1)?,
                post_norm: self.ones(hidden)?,
                feed_forward: self.feed_forward(shape, hidden)?,
            });
        }
        Ok(Weights {
            embeddings,
            layers,
            norm: self.ones(hidden)?,
            head: self.weight(hidden, config.vocab_size, false, 1)?,
        })
    }

    fn feed_forward(&mut self, shape: &FeedForwardShape, hidden: usize) -> Result<FeedForward, CudaError> {
        Ok(match shape {
            FeedForwardShape::Dense(width) => FeedForward::Dense(Box::new(self.gated(hidden, *width, 1)?)),
            FeedForwardShape::Sparse(shape) => FeedForward::Sparse(Box::new(Sparse {
                shape: *shape,
                router: self.numbers(shape.experts * hidden, true)?,
                bias: self.filled("fill_f32", shape.experts, 0.0)?,
                experts: self.gated(hidden, shape.width, shape.experts)?,
                shared: match shape.shared_width {
                    0 => None,
                    width => Some(self.gated(hidden, width, 1)?),
                },
            })),
        })
    }

    fn gated(&mut self, hidden: usize, width: usize, count: usize) -> Result<Gated, CudaError> {
        Ok(Gated {
            gate_up: self.weight(hidden, width, true, count)?,
            down: self.weight(width, hidden, false, count)?,
        })
    }

    fn weight(
        &mut self,
        input: usize,
        outputs: usize,
        is_gated: bool,
        count: usize,
    ) -> Result<Weight, CudaError> {
        let form = Form { quant: self.quant, input, outputs, is_gated };
        let words = match self.quant {
            Quant::F32 => return Err(CudaError::Shape("random weights in 32-bit floats".to_owned())),
            Quant::Bf16 => self.numbers(count * form.word_bytes() / size_of::<half::bf16>(), false)?,
            Quant::Q8 | Quant::Q4 => {
                let words = Buffer::new(self.gpu, count * form.word_bytes())?;
                let seed = self.next_seed();
                let count = (words.bytes / size_of::<u32>()) as u64;
                run!(self.gpu, filling("random_bytes"); words.address, count, seed)?;
                words
            }
        };
        let scales = match self.quant {
            Quant::F32 | Quant::Bf16 => Buffer::new(self.gpu, 0)?,
            Quant::Q8 => {
                let count = count * form.scale_bytes() / size_of::<f32>();
                self.filled("fill_f32", count, RANDOM_SIZE / RANDOM_BYTE)?
            }
            Quant::Q4 => {
                let count = count * form.scale_bytes() / size_of::<u32>();
                self.filled("fill_bf16", count, RANDOM_SIZE / RANDOM_BYTE)?
            }
        };
        weight(self.gpu, form, count, words, scales, None)
    }

    /// Returns random numbers in bf16, or in f32 from the processor, which makes the few that a router has.
    fn numbers(&mut self, count: usize, is_exact: bool) -> Result<Buffer, CudaError> {
        let seed = self.next_seed();
        if is_exact {
            let mut numbers = vec![0.0; count];
            weights::random::normal(seed, 0, &mut numbers);
            numbers.iter_mut().for_each(|number| *number *= RANDOM_SIZE);
            return Buffer::with(self.gpu, bytes_of(&numbers));
        }
        let buffer = Buffer::new(self.gpu, (count * size_of::<half::bf16>()).next_multiple_of(4))?;
        let count = (buffer.bytes / size_of::<u32>()) as u64;
        // Of even numbers within a size the root mean square is a root of a third of it.
        run!(self.gpu, filling("random_bf16"); buffer.address, count, seed, RANDOM_SIZE * 3.0_f32.sqrt())?;
        Ok(buffer)
    }

    fn ones(&self, count: usize) -> Result<Buffer, CudaError> {
        self.filled("fill_f32", count, 1.0)
    }

    /// Returns words of one value.
    fn filled(&self, kernel: &str, count: usize, value: f32) -> Result<Buffer, CudaError> {
        let buffer = Buffer::new(self.gpu, count * size_of::<u32>())?;
        run!(self.gpu, filling(kernel); buffer.address, count as u64, value)?;
        Ok(buffer)
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x1000_0000_0000);
        self.seed
    }
}

fn filling(kernel: &str) -> Launch<'_> {
    Launch { kernel, grid: [FILLING, 1, 1], threads: 256, shared: 0 }
}
