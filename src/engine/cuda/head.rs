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
use crate::engine::model::forward::Asked;
use crate::engine::model::forward::Read;
use crate::engine::model::head::Likeliest;

/// Rows whose logits are in memory at once.
const LOGIT_ROWS: usize = 64;

impl Cuda {
    /// Returns the likeliest token of each row asked for, and its probability.
    pub(super) fn ask(&mut self, asked: &[Asked]) -> Result<Vec<Likeliest>, CudaError> {
        let count = asked.len();
        let mut closed_starts = vec![0];
        let mut closed = Vec::new();
        for asked in asked {
            closed.extend(asked.closed.iter().chain(&asked.closed_here));
            closed_starts.push(closed.len() as u32);
        }
        // The bounds of the rows, which rows they are, and what is closed.
        let mut numbers = vec![0, count as u32];
        numbers.extend(asked.iter().map(|asked| asked.row as u32));
        numbers.extend(&closed_starts);
        numbers.extend(&closed);
        let rows = &mut self.rows;
        rows.asked.reserve((numbers.len() * size_of::<u32>()).next_power_of_two())?;
        self.gpu.upload(rows.asked.address, bytes_of(&numbers))?;
        let head = &self.weights.head;
        rows.peaks.reserve(count.next_power_of_two() * linear::peak_bytes(head))?;
        rows.answers.reserve(2 * count.next_power_of_two() * size_of::<u32>())?;
        let of = |number: usize| rows.asked.address + (number * size_of::<u32>()) as u64;
        let operands = Operands {
            x: rows.rows.address,
            x_scales: rows.scales.address,
            peaks: rows.peaks.address,
            bounds: of(0),
            gather: of(2),
            closed_starts: of(2 + count),
            closed: of(2 + count + count + 1),
            ..Operands::default()
        };
        let groups =
            linear::apply(&self.gpu, head, Ending::Head, operands, count).map(|()| linear::groups(head))?;
        let probabilities = rows.answers.address + (count * size_of::<u32>()) as u64;
        let launch = Launch { kernel: "head_reduce", grid: [count, 1, 1], threads: 256, shared: 0 };
        run!(self.gpu, launch; rows.answers.address, probabilities, rows.peaks.address, of(1), groups as i32)?;
        let mut answers = vec![0_u32; 2 * count];
        self.gpu.download(bytes_of_mut(&mut answers), rows.answers.address)?;
        let (tokens, probabilities) = answers.split_at(count);
        let answer = |(token, probability): (&u32, &u32)| Likeliest {
            token: *token,
            probability: f32::from_bits(*probability),
        };
        Ok(tokens.iter().zip(probabilities).map(answer).collect())
    }

    /// Copies the logits of rows, some at a time, and lets them be read.
    pub(super) fn read_logits(&mut self, rows: &[usize], read: Read) -> Result<(), CudaError> {
        let vocabulary = self.config.vocab_size;
        for (piece, some) in rows.chunks(LOGIT_ROWS).enumerate() {
            let mut numbers = vec![0, some.len() as u32];
            numbers.extend(some.iter().map(|row| *row as u32));
            let buffers = &mut self.rows;
            buffers.asked.reserve(numbers.len() * size_of::<u32>())?;
            buffers.logits.reserve(LOGIT_ROWS.min(rows.len()) * vocabulary * size_of::<f32>())?;
            self.gpu.upload(buffers.asked.address, bytes_of(&numbers))?;
            let operands = Operands {
                x: buffers.rows.address,
                x_scales: buffers.scales.address,
                y: buffers.logits.address,
                bounds: buffers.asked.address,
                gather: buffers.asked.address + 2 * size_of::<u32>() as u64,
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
