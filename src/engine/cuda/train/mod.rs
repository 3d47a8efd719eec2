//! The trainer's pass on a GPU: the loss of a batch and the gradient of every parameter.
//!
//! The same pass as [`crate::engine::train::network`], which it is tested against, over the kernels of
//! `kernels/train`. With bf16 the factors of products are rounded; sums, norms, the router and the loss are in f32, as
//! are the parameters. Parameters and gradients stay on the GPU, where [`shard`] and [`optimizer`] use them up.

pub mod exchange;
mod launches;
mod layer;
pub mod optimizer;
pub mod shard;
mod steps;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::cuda::train::launches::Arena;
use crate::engine::cuda::train::launches::TargetLoss;
use crate::engine::cuda::train::launches::TrainHeads;
use crate::engine::cuda::train::launches::blocks;
use crate::engine::model::llada2::Llada2Config;
use crate::engine::ops::matmul::Precision;
use crate::engine::ops::rope::Rope;
use crate::engine::train::batch::Batch;
use crate::engine::train::batch::Sight;
use crate::engine::train::layout::Layout;
use crate::engine::train::loss::Loss;
use crate::engine::train::loss::Target;
use crate::engine::train::network::How;
use crate::engine::train::network::Passed;

/// Logits that are in memory at once.
const LOGITS: usize = 1 << 26;

/// Gets a part's place among the parameters and the address of its gradients.
pub type Done<'a> = &'a mut dyn FnMut(Range<usize>, u64) -> Result<(), CudaError>;

/// A GPU that computes losses and gradients.
#[derive(Debug)]
pub struct Trainer {
    gpu: Gpu,
    config: Llada2Config,
    layout: Layout,
    parameters: Buffer,
    /// Of all parameters, or of one part at a time.
    gradients: Buffer,
    /// The parameter that the first gradient is of.
    first_gradient: usize,
    expert_bias: Buffer,
    arena: Arena,
    rotary_dim: usize,
    rope_theta: f32,
}

/// What a pass works on.
#[derive(Debug, Clone, Copy)]
struct Rows {
    /// Of a stream.
    tokens: usize,
    /// Of both.
    all: usize,
    /// `[all]` token ids.
    ids: u64,
    /// `[all]`.
    positions: u64,
    cosines: u64,
    sines: u64,
    /// `[tokens]`.
    row_document: u64,
    documents: u64,
    /// The number of all rows, and behind it that of a stream's.
    counts: u64,
    heads: TrainHeads,
    precision: Precision,
}

/// What is kept of a layer: addresses.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    x: u64,
    normed: u64,
    qkv: u64,
    q: u64,
    k: u64,
    v: u64,
    attended: u64,
    stats: u64,
    middle: u64,
    post: u64,
    scores: u64,
    chosen: u64,
    slot_row: u64,
    slot_of: u64,
    starts: u64,
    slot_weights: u64,
    gate_up: u64,
    shared_gate_up: u64,
}

/// A forward pass up to the last norm.
#[derive(Debug)]
struct Forward {
    rows: Rows,
    kept: Vec<Kept>,
    /// What goes into the last norm.
    last: u64,
    /// For each layer, how many rows each expert took.
    load: Vec<Vec<usize>>,
}

impl Trainer {
    /// Prepares a GPU for a network.
    ///
    /// # Errors
    /// When the kernels do not take its shape or the GPU has too little memory.
    pub fn new(gpu: Gpu, config: &Llada2Config, layout: &Layout) -> Result<Trainer, CudaError> {
        let (rope_theta, rotary_dim) = config.rotation().map_err(CudaError::Shape)?;
        let head_dim = config.head_dim;
        if !head_dim.is_multiple_of(4) || head_dim > 128 {
            return Err(CudaError::Shape(format!("training with heads of {head_dim} dimensions")));
        }
        if config.num_experts_per_tok > 16 || config.num_experts > 256 {
            return Err(CudaError::Shape("training with more than 16 of 256 experts".to_owned()));
        }
        let numbers = size_of::<f32>() * layout.len;
        let trainer = Trainer {
            parameters: Buffer::new(&gpu, numbers)?,
            gradients: Buffer::new(&gpu, numbers)?,
            first_gradient: 0,
            expert_bias: Buffer::new(&gpu, size_of::<f32>() * config.num_hidden_layers * config.num_experts)?,
            arena: Arena::default(),
            config: config.clone(),
            layout: layout.clone(),
            rotary_dim,
            rope_theta,
            gpu,
        };
        trainer.clear()?;
        Ok(trainer)
    }

    /// Returns what computes, in a word.
    pub fn device(&self) -> String {
        self.gpu.name()
    }

    /// Keeps gradients of one part at a time only, of at most so many parameters.
    ///
    /// # Errors
    /// When the GPU has too little memory.
    pub fn keep_parts(&mut self, longest: usize) -> Result<(), CudaError> {
        self.gradients = Buffer::new(&self.gpu, 0)?;
        self.gradients = Buffer::new(&self.gpu, size_of::<f32>() * longest)?;
        Ok(())
    }

    /// Returns how many bytes of the GPU's memory parameters and gradients take.
    pub fn bytes(&self) -> [usize; 2] {
        [self.parameters.bytes, self.gradients.bytes]
    }

    /// Returns how many bytes of the GPU's memory activations and scratch take.
    pub fn activation_bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// Takes the parameters as they are now.
    ///
    /// # Errors
    /// When the copy fails; so with the others.
    pub fn set(&mut self, parameters: &[f32]) -> Result<(), CudaError> {
        self.gpu.upload(self.parameters.address, bytes_of(parameters))
    }

    /// Gives the parameters as they are on the GPU.
    ///
    /// # Errors
    /// As [`Trainer::set`].
    pub fn get(&self, parameters: &mut [f32]) -> Result<(), CudaError> {
        self.gpu.download(bytes_of_mut(parameters), self.parameters.address)
    }

    /// Gives all gradients, and clears them on the GPU.
    ///
    /// # Errors
    /// As [`Trainer::set`].
    pub fn take_gradients(&self, gradients: &mut [f32]) -> Result<(), CudaError> {
        self.gpu.download(bytes_of_mut(gradients), self.gradients.address)?;
        self.clear()
    }

    fn clear(&self) -> Result<(), CudaError> {
        self.fill(self.gradients.address, self.gradients.bytes / size_of::<f32>())
    }

    /// Returns the loss of a batch, and where each row went.
    ///
    /// # Errors
    /// As [`Trainer::set`].
    pub fn evaluate(&mut self, batch: &Batch, bias: &[Vec<f32>], how: How) -> Result<Passed, CudaError> {
        let Forward { rows, last, load, .. } = self.forward(batch, bias, how)?;
        let normed = self.last_norm(&rows, last)?;
        let loss = self.head(&rows, normed, &batch.targets, None)?;
        Ok(Passed { loss, load })
    }

    /// Returns the loss of a batch and adds `scale` times its gradient to the gradients; where one part is kept at
    /// a time, hands each over.
    ///
    /// # Errors
    /// As [`Trainer::set`], or what `done` returns.
    pub fn accumulate(
        &mut self,
        batch: &Batch,
        bias: &[Vec<f32>],
        how: How,
        scale: f32,
        mut done: Option<Done>,
    ) -> Result<Passed, CudaError> {
        let Forward { rows, kept, last, load } = self.forward(batch, bias, how)?;
        let hidden = self.config.hidden_size;
        let (head, norm) = (self.layout.embeddings.clone(), self.layout.norm.clone());
        let normed = self.last_norm(&rows, last)?;
        let dnormed = self.zeros(rows.tokens * hidden)?;
        self.begin(&head, &done)?;
        let loss = self.head(&rows, normed, &batch.targets, Some((dnormed, scale)))?;
        self.end(head.clone(), &mut done)?;
        let dx = self.zeros(rows.all * hidden)?;
        self.begin(&norm, &done)?;
        self.norm_backward(dx, &norm, [dnormed, last], rows.tokens)?;
        self.end(norm, &mut done)?;
        for (i, kept) in kept.iter().enumerate().rev() {
            let mark = self.arena.mark();
            let mut kept = *kept;
            if how.recomputes {
                (kept, _) = self.layer(&rows, i, kept.x)?;
            }
            let part = self.layout.layers[i].range();
            self.begin(&part, &done)?;
            self.layer_backward(&rows, i, &kept, dx)?;
            self.end(part, &mut done)?;
            self.arena.back_to(mark);
        }
        let ids: Vec<u32> = batch.noised.iter().chain(&batch.clean).copied().collect();
        let order: Vec<(u32, u32)> = ids.iter().zip(0..).map(|(id, row)| (*id, row)).collect();
        self.begin(&head, &done)?;
        self.scatter(self.gradient(&head), dx, order)?;
        self.end(head, &mut done)?;
        Ok(Passed { loss, load })
    }

    /// Hands over a part without gradients.
    ///
    /// # Errors
    /// What `done` returns.
    pub fn skip(&mut self, part: Range<usize>, done: Done) -> Result<(), CudaError> {
        let mut done = Some(done);
        self.begin(&part, &done)?;
        self.end(part, &mut done)
    }

    /// Makes room for a part's gradients, where one is kept at a time.
    fn begin(&mut self, part: &Range<usize>, done: &Option<Done>) -> Result<(), CudaError> {
        if done.is_none() {
            return Ok(());
        }
        self.first_gradient = part.start;
        self.fill(self.gradients.address, part.len())
    }

    /// Hands over the part that was begun last.
    fn end(&self, part: Range<usize>, done: &mut Option<Done>) -> Result<(), CudaError> {
        done.as_mut().map_or(Ok(()), |done| done(part, self.gradients.address))
    }

    fn forward(&mut self, batch: &Batch, bias: &[Vec<f32>], how: How) -> Result<Forward, CudaError> {
        self.arena.begin();
        let rows = self.rows(batch, how.precision)?;
        let bias: Vec<f32> = bias.iter().flatten().copied().collect();
        self.gpu.upload(self.expert_bias.address, bytes_of(&bias))?;
        let hidden = self.config.hidden_size;
        let mut x = self.take(rows.all * hidden)?;
        let table = self.parameter(&self.layout.embeddings);
        run!(self.gpu, blocks("train_embed", rows.all); x, table, rows.ids, rows.all as i32, hidden as i32)?;
        let (mut kept, mut load) = (Vec::new(), Vec::new());
        for i in 0..self.layout.layers.len() {
            // What goes on is taken before what may be given up.
            let next = self.take(rows.all * hidden)?;
            let mark = self.arena.mark();
            let (of_layer, out) = self.layer(&rows, i, x)?;
            self.gpu.copy(next, out, self.rows_of(&rows, i) * hidden * size_of::<f32>())?;
            load.push(self.load(of_layer.starts)?);
            kept.push(of_layer);
            if how.recomputes {
                self.arena.back_to(mark);
            }
            x = next;
        }
        Ok(Forward { rows, kept, last: x, load })
    }

    /// Returns how many rows of a layer have queries and go through the experts.
    fn rows_of(&self, rows: &Rows, layer: usize) -> usize {
        if layer + 1 == self.layout.layers.len() { rows.tokens } else { rows.all }
    }

    /// Puts what a batch's rows are on the GPU.
    fn rows(&mut self, batch: &Batch, precision: Precision) -> Result<Rows, CudaError> {
        let (tokens, all) = (batch.noised.len(), batch.rows());
        let config = &self.config;
        let (is_paired, block) = match batch.sight {
            Sight::Paired => (1, config.block_length()),
            Sight::Single(block) => (0, block),
        };
        let heads = TrainHeads {
            heads: config.num_attention_heads as i32,
            kv_heads: config.num_key_value_heads as i32,
            head_dim: config.head_dim as i32,
            block: block as i32,
            tokens: tokens as i32,
            rows: 0,
            all: all as i32,
            is_paired,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        };
        let longest = batch.documents.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let mut rope = Rope::new(self.rotary_dim, self.rope_theta);
        rope.reserve(longest);
        let (cosines, sines): (Vec<f32>, Vec<f32>) = rope.table().iter().copied().unzip();
        let once = || batch.documents.iter().flat_map(|document| 0..document.len() as u32);
        let positions: Vec<u32> =
            if is_paired == 1 { once().chain(once()).collect() } else { once().collect() };
        let ids: Vec<u32> = batch.noised.iter().chain(&batch.clean).copied().collect();
        let of_row = |(i, document): (usize, &Range<usize>)| std::iter::repeat_n(i as u32, document.len());
        let row_document: Vec<u32> = batch.documents.iter().enumerate().flat_map(of_row).collect();
        let documents: Vec<u32> = batch
            .documents
            .iter()
            .flat_map(|document| [document.start as u32, document.end as u32])
            .collect();
        Ok(Rows {
            tokens,
            all,
            ids: self.put(&ids)?,
            positions: self.put(&positions)?,
            cosines: self.put(&cosines)?,
            sines: self.put(&sines)?,
            row_document: self.put(&row_document)?,
            documents: self.put(&documents)?,
            counts: self.put(&[all as u32, tokens as u32])?,
            heads,
            precision,
        })
    }

    /// Returns the loss of targets over normed rows; adds the rows' gradients to the first address given, and
    /// the head's to the gradients.
    fn head(
        &mut self,
        rows: &Rows,
        normed: u64,
        targets: &[Target],
        gradient: Option<(u64, f32)>,
    ) -> Result<Loss, CudaError> {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let table = self.parameter(&self.layout.embeddings);
        let mut sum = Loss::default();
        for targets in targets.chunks((LOGITS / vocabulary).max(1)) {
            let mark = self.arena.mark();
            let count = targets.len();
            let of_rows: Vec<u32> = targets.iter().map(|target| target.row as u32).collect();
            let tokens: Vec<u32> = targets.iter().map(|target| target.token).collect();
            let weights: Vec<f32> = targets.iter().map(|target| target.weight).collect();
            let (index, tokens, weights) = (self.put(&of_rows)?, self.put(&tokens)?, self.put(&weights)?);
            let x = self.take(count * hidden)?;
            run!(self.gpu, blocks("train_gather", count); x, normed, index, count as i32, hidden as i32)?;
            let logits = self.take(count * vocabulary)?;
            self.linear(rows.precision, x, table, logits, [count, vocabulary, hidden])?;
            let losses = self.take(count * (size_of::<TargetLoss>() / size_of::<f32>()))?;
            let scale = gradient.map_or(0.0, |(_, scale)| scale);
            run!(self.gpu, blocks("train_loss", count);
                losses, logits, tokens, weights, count as i32, vocabulary as i32, scale,
                i32::from(gradient.is_some()))?;
            if let Some((dnormed, _)) = gradient {
                let dx = self.take(count * hidden)?;
                self.input(rows.precision, logits, table, dx, [count, hidden, vocabulary], false)?;
                let dtable = self.gradient(&self.layout.embeddings);
                self.weight(rows.precision, logits, x, dtable, [vocabulary, hidden, count])?;
                let order = of_rows.iter().zip(0..).map(|(row, i)| (*row, i)).collect();
                self.scatter(dnormed, dx, order)?;
            }
            let mut found = vec![TargetLoss::default(); count];
            self.gpu.download(bytes_of_mut(&mut found), losses)?;
            for of_target in found {
                sum = sum.plus(Loss {
                    weighted: f64::from(of_target.weighted),
                    weight: f64::from(of_target.weight),
                    nats: f64::from(of_target.nats),
                    hits: usize::from(of_target.hit > 0.0),
                    rows: 1,
                });
            }
            self.arena.back_to(mark);
        }
        Ok(sum)
    }
}
