//! What the head says of rows of the last pass, and what comes back to the processor.

use rayon::prelude::*;

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::backend::Cuda;
use crate::engine::cuda::linear;
use crate::engine::cuda::linear::Ending;
use crate::engine::cuda::linear::Operands;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::model::forward::Read;
use crate::engine::model::head::Likeliest;

/// Rows whose logits are in memory at once.
const LOGIT_ROWS: usize = 64;

impl Cuda {
    /// Makes room for what the head says of so many rows.
    pub(super) fn reserve_answers(&mut self, rows: usize) -> Result<(), CudaError> {
        let peaks = linear::peak_bytes(&self.weights.head);
        self.rows.peaks.reserve(rows * peaks)?;
        self.rows.answers.reserve(2 * rows * size_of::<u32>())?;
        Ok(())
    }

    /// Lets the head say which token is the likeliest of each row that the pass is asked about, and how likely.
    pub(super) fn ask(&self) -> Result<(), CudaError> {
        let (rows, head, most) = (&self.rows, &self.weights.head, self.now.size.asked);
        let asked = self.plan.asked();
        let operands = Operands {
            x: rows.rows.address,
            x_scales: rows.scales.address,
            peaks: rows.peaks.address,
            bounds: asked.bounds,
            gather: asked.rows,
            closed_starts: asked.closed_starts,
            closed: asked.closed,
            ..Operands::default()
        };
        linear::apply(&self.gpu, head, Ending::Head, operands, most)?;
        let (tokens, groups) = (rows.answers.address, linear::groups(head) as i32);
        let probabilities = tokens + (most * size_of::<u32>()) as u64;
        let launch = Launch { kernel: "head_reduce", grid: [most, 1, 1], threads: 256, shared: 0 };
        run!(self.gpu, launch; tokens, probabilities, rows.peaks.address, asked.count, groups)
    }

    /// Reads what the head said of so many rows.
    pub(super) fn answers(&self, count: usize) -> Result<Vec<Likeliest>, CudaError> {
        let mut answers = vec![0_u32; 2 * self.now.size.asked];
        self.gpu.download(bytes_of_mut(&mut answers), self.rows.answers.address)?;
        let (tokens, probabilities) = answers.split_at(self.now.size.asked);
        let answer = |(token, probability): (&u32, &u32)| Likeliest {
            token: *token,
            probability: f32::from_bits(*probability),
        };
        Ok(tokens.iter().zip(probabilities).take(count).map(answer).collect())
    }

    /// Copies the logits of rows, some at a time, and lets them be read.
    pub(super) fn read_logits(&mut self, rows: &[usize], read: Read) -> Result<(), CudaError> {
        let vocabulary = self.config.vocab_size;
        for (piece, some) in rows.chunks(LOGIT_ROWS).enumerate() {
            let mut numbers = vec![0, some.len() as u32];
            numbers.extend(some.iter().map(|row| *row as u32));
            let buffers = &mut self.rows;
            buffers.read.reserve(numbers.len() * size_of::<u32>())?;
            buffers.logits.reserve(LOGIT_ROWS.min(rows.len()) * vocabulary * size_of::<f32>())?;
            self.gpu.upload(buffers.read.address, bytes_of(&numbers))?;
            let operands = Operands {
                x: buffers.rows.address,
                x_scales: buffers.scales.address,
                y: buffers.logits.address,
                bounds: buffers.read.address,
                gather: buffers.read.address + 2 * size_of::<u32>() as u64,
                ..Operands::default()
            };
            linear::apply(&self.gpu, &self.weights.head, Ending::Store, operands, some.len())?;
            let mut logits = vec![0.0_f32; some.len() * vocabulary];
            self.gpu.download(bytes_of_mut(&mut logits), buffers.logits.address)?;
            logits.par_chunks_exact_mut(vocabulary).enumerate().for_each(|(i, logits)| {
                read(piece * LOGIT_ROWS + i, logits);
            });
        }
        Ok(())
    }
}
