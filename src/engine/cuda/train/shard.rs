//! A rank's part of a step where a GPU computes: gradients are summed, brought to their owners and used up there.

use std::ops::Range;

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::train::Trainer;
use crate::engine::cuda::train::exchange::Exchange;
use crate::engine::cuda::train::exchange::Message;
use crate::engine::cuda::train::launches::BLOCKS;
use crate::engine::cuda::train::launches::blocks;
use crate::engine::cuda::train::optimizer::Optimizer;
use crate::engine::cuda::train::steps::after;
use crate::engine::train::batch::Batch;
use crate::engine::train::loss::Loss;
use crate::engine::train::memory::Memory;
use crate::engine::train::network::Network;
use crate::engine::train::optimizer;
use crate::engine::train::optimizer::Update;
use crate::engine::train::ownership::Ownership;
use crate::engine::train::ownership::Run;
use crate::engine::train::shards::Sharding;
use crate::engine::train::shards::Stage;

/// What a rank keeps on its GPU beside parameters and activations.
#[derive(Debug)]
pub struct Shard {
    gpu: Gpu,
    rank: usize,
    ranks: usize,
    ownership: Ownership,
    exchange: Exchange,
    optimizer: Optimizer,
    /// Whether the moments have come from the processor.
    has_moments: bool,
    /// At stage 2 the gradients of what this rank owns, one piece behind the other.
    owned: Option<Buffer>,
}

impl Shard {
    /// Makes this rank's part of what `optimizer` moves; parts of a pass have at most `longest` parameters. All ranks
    /// must call it.
    ///
    /// # Errors
    /// When the GPU has too little memory, or the GPUs cannot be connected.
    pub fn new(
        trainer: &mut Trainer,
        sharding: &Sharding,
        ownership: &Ownership,
        optimizer: &optimizer::Optimizer,
        longest: usize,
    ) -> Result<Shard, CudaError> {
        let gpu = Gpu::clone(&trainer.gpu);
        let collective = &sharding.collective;
        let mut owned = None;
        if sharding.stage == Stage::Gradients {
            trainer.keep_parts(longest)?;
            let count = ownership.len_of(collective.rank());
            let buffer = Buffer::new(&gpu, size_of::<f32>() * count)?;
            trainer.fill(buffer.address, count)?;
            owned = Some(buffer);
        }
        Ok(Shard {
            rank: collective.rank(),
            ranks: collective.size(),
            ownership: ownership.clone(),
            exchange: Exchange::new(&gpu, collective)?,
            optimizer: Optimizer::new(&gpu, optimizer, sharding.stage)?,
            has_moments: false,
            owned,
            gpu,
        })
    }

    /// Runs the passes that fall to this rank and brings the sum of all ranks' gradients to their owners.
    ///
    /// # Errors
    /// When the GPU or the exchange fails; so with all that follow.
    ///
    /// # Panics
    /// When the network's passes are not computed on a GPU.
    pub fn accumulate(
        &mut self,
        network: &mut Network,
        batches: &[Batch],
        scale: f32,
    ) -> Result<Loss, CudaError> {
        let Shard { gpu, rank, ranks, ownership, exchange, owned, .. } = self;
        let Some(owned) = owned else {
            let mine = batches.iter().skip(*rank).step_by(*ranks);
            let loss = mine.map(|batch| network.accumulate(batch, scale)).fold(Loss::default(), Loss::plus);
            let gradients = trainer(network).gradients.address;
            let all = 0..network.layout.len;
            exchange.reduce(&messages(ownership, exchange.longest(), &all, gradients))?;
            return Ok(loss);
        };
        let mut bring = |part: Range<usize>, gradients: u64| {
            let longest = exchange.longest();
            let messages = messages(ownership, longest, &part, gradients);
            exchange.reduce(&messages)?;
            for (bucket, message) in ownership.buckets(&part, longest).iter().zip(&messages) {
                if bucket.owner == *rank {
                    let own = after(owned.address, ownership.place(bucket).start);
                    run!(gpu, blocks("train_add", BLOCKS); own, message.address, message.count as i64)?;
                }
            }
            Ok(())
        };
        let mut loss = Loss::default();
        for round in batches.chunks(*ranks) {
            match round.get(*rank) {
                Some(batch) => loss = loss.plus(network.accumulate_on_gpu(batch, scale, &mut bring)),
                None => {
                    let parts = network.parts();
                    parts.into_iter().try_for_each(|part| trainer(network).skip(part, &mut bring))?;
                }
            }
        }
        Ok(loss)
    }

    /// Returns the sum of the squares of the gradients of what this rank owns.
    ///
    /// # Errors
    /// As [`Shard::accumulate`].
    pub fn square(&self, network: &mut Network) -> Result<f64, CudaError> {
        self.optimizer.square(self.gradients(network))
    }

    /// Moves what this rank owns, gives it to the others and takes what they own; clears all gradients.
    ///
    /// # Errors
    /// As [`Shard::accumulate`].
    pub fn step(
        &mut self,
        network: &mut Network,
        optimizer: &optimizer::Optimizer,
        update: Update,
    ) -> Result<(), CudaError> {
        if !self.has_moments {
            self.optimizer.set(optimizer)?;
            self.has_moments = true;
        }
        let gradients = self.gradients(network);
        let trainer = trainer(network);
        let parameters = trainer.parameters.address;
        self.optimizer.step(parameters, gradients, update)?;
        let all = 0..trainer.layout.len;
        self.exchange.broadcast(&messages(&self.ownership, self.exchange.longest(), &all, parameters))?;
        if self.ranks > 1 && self.owned.is_none() { trainer.clear() } else { Ok(()) }
    }

    /// Gives the moments to an optimizer on the processor.
    ///
    /// # Errors
    /// As [`Shard::accumulate`].
    pub fn fetch(&self, optimizer: &mut optimizer::Optimizer) -> Result<(), CudaError> {
        if self.has_moments { self.optimizer.get(optimizer) } else { Ok(()) }
    }

    /// Returns what all this takes of the GPU's memory.
    pub fn memory(&self, network: &mut Network) -> Memory {
        let trainer = trainer(network);
        let [parameters, gradients] = trainer.bytes();
        Memory {
            parameters,
            gradients: gradients + self.owned.as_ref().map_or(0, |owned| owned.bytes),
            moments: self.optimizer.moment_bytes(),
            activations: trainer.activation_bytes() + self.optimizer.work_bytes(),
            ..Memory::default()
        }
    }

    /// Returns where the gradients begin.
    fn gradients(&self, network: &mut Network) -> u64 {
        self.owned.as_ref().map_or_else(|| trainer(network).gradients.address, |owned| owned.address)
    }
}

fn trainer(network: &mut Network) -> &mut Trainer {
    network.trainer().expect("a GPU computes")
}

/// Returns the messages in which a part of the parameters, whose numbers begin at an address, goes to its owners or
/// comes from them.
fn messages(ownership: &Ownership, longest: usize, part: &Range<usize>, address: u64) -> Vec<Message> {
    let message = |Run { range, owner }: Run| Message {
        address: after(address, range.start - part.start),
        count: range.len(),
        rank: owner,
    };
    ownership.buckets(part, longest).into_iter().map(message).collect()
}
