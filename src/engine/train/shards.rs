//! One step of several ranks: passes dealt out, gradients brought to their owners, parameters back.
//!
//! Stage 1 of ZeRO (arXiv 1910.02054): each rank sums the gradients of its passes, owners get the sums
//! at the end of the step. Stage 2: gradients go to their owners after every pass, part by part, so
//! that no rank has all of them at any time; what is sent is as many times more as a rank has passes.
//! A rank without a pass sends zeros, since all must make the same calls. Where GPUs compute, all of this lies on
//! them and [`crate::engine::cuda::train::shard`] does it there.

mod arrays;

use std::ops::Range;
use std::rc::Rc;

use crate::engine::cuda::CudaError;
use crate::engine::cuda::train::shard::Shard;
use crate::engine::device::must;
use crate::engine::train::batch::Batch;
use crate::engine::train::collective::Collective;
use crate::engine::train::loss::Loss;
use crate::engine::train::memory::Memory;
use crate::engine::train::network::Network;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::train::ownership::BUCKET;
use crate::engine::train::ownership::Ownership;
use crate::engine::train::shards::arrays::Arrays;

/// What is kept by its owner alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The optimizer's moments.
    #[default]
    #[value(name = "1")]
    Moments,
    /// Gradients too.
    #[value(name = "2")]
    Gradients,
}

/// Which processes train together, and what they share.
#[derive(Debug, Clone)]
pub struct Sharding {
    /// The processes.
    pub collective: Rc<Collective>,
    /// What each keeps alone.
    pub stage: Stage,
}

impl Default for Sharding {
    fn default() -> Self {
        Sharding { collective: Rc::new(Collective::Alone), stage: Stage::default() }
    }
}

/// What all ranks together have seen in a step.
#[derive(Debug)]
pub struct Totals {
    /// The loss of all passes.
    pub loss: Loss,
    /// For each layer, how many rows each expert took.
    pub load: Vec<Vec<usize>>,
    /// The gradient's norm, before clipping.
    pub norm: f32,
}

/// This rank's part in a run.
#[derive(Debug)]
pub struct Shards {
    /// The ranks.
    pub collective: Rc<Collective>,
    /// What each of them owns.
    pub ownership: Ownership,
    kept: Kept,
}

/// Where gradients and moments are.
#[derive(Debug)]
enum Kept {
    Here(Arrays),
    OnGpu(Box<Shard>),
}

impl Shards {
    /// Makes this rank's part of what `optimizer` moves; the network loses its own gradients at stage 2, and where a GPU
    /// computes. All ranks must call it.
    ///
    /// # Errors
    /// When a GPU computes and has too little memory, or GPUs cannot be connected.
    pub fn new(
        sharding: &Sharding,
        ownership: Ownership,
        network: &mut Network,
        optimizer: &Optimizer,
    ) -> Result<Shards, CudaError> {
        let longest = network.parts().iter().map(Range::len).max().unwrap_or(0);
        let is_whole = sharding.stage == Stage::Moments && network.trainer().is_none();
        if !is_whole {
            network.gradients = Vec::new();
        }
        let kept = match network.trainer() {
            Some(trainer) => {
                Kept::OnGpu(Box::new(Shard::new(trainer, sharding, &ownership, optimizer, longest)?))
            }
            None => Kept::Here(Arrays::new(sharding, &ownership, longest)),
        };
        Ok(Shards { collective: Rc::clone(&sharding.collective), ownership, kept })
    }

    /// Runs the passes that fall to this rank; brings the sum of all ranks' gradients to their owners.
    ///
    /// # Panics
    /// When a GPU fails; so with the others.
    pub fn accumulate(
        &mut self,
        network: &mut Network,
        optimizer: &Optimizer,
        batches: &[Batch],
        scale: f32,
    ) -> Totals {
        let (loss, square) = match &mut self.kept {
            Kept::Here(arrays) => {
                let loss = arrays.accumulate(network, batches, scale);
                (loss, optimizer.square(arrays.gradients(&mut network.gradients)))
            }
            Kept::OnGpu(shard) => {
                (must(shard.accumulate(network, batches, scale)), must(shard.square(network)))
            }
        };
        let mut load = network.take_load();
        let mut sums =
            vec![loss.weighted, loss.weight, loss.nats, loss.hits as f64, loss.rows as f64, square];
        sums.extend(load.iter().flatten().map(|rows| *rows as f64));
        self.collective.sum(&mut sums);
        load.iter_mut().flatten().zip(&sums[6..]).for_each(|(rows, sum)| *rows = *sum as usize);
        let loss = Loss {
            weighted: sums[0],
            weight: sums[1],
            nats: sums[2],
            hits: sums[3] as usize,
            rows: sums[4] as usize,
        };
        Totals { loss, load, norm: sums[5].sqrt() as f32 }
    }

    /// Moves what this rank owns, gives it to the others and takes what they own; clears all gradients.
    pub fn step(
        &mut self,
        network: &mut Network,
        optimizer: &mut Optimizer,
        norm: f32,
        step: u64,
        rate: f32,
    ) {
        let update = optimizer.config().update(norm, step, rate);
        match &mut self.kept {
            Kept::Here(arrays) => arrays.step(network, optimizer, update),
            Kept::OnGpu(shard) => must(shard.step(network, optimizer, update)),
        }
    }

    /// Brings parameters and moments from where they are computed to the network and the optimizer.
    pub fn fetch(&self, network: &mut Network, optimizer: &mut Optimizer) {
        network.fetch_parameters();
        if let Kept::OnGpu(shard) = &self.kept {
            must(shard.fetch(optimizer));
        }
    }

    /// Gives every rank the numbers of the first one.
    pub fn share_first(&self, numbers: &mut [f32]) {
        for message in numbers.chunks_mut(BUCKET) {
            self.collective.broadcast(message, 0);
        }
    }

    /// Returns the memory of every rank.
    pub fn memory(&self, network: &mut Network, optimizer: &Optimizer) -> Vec<Memory> {
        let memory = match &self.kept {
            Kept::OnGpu(shard) => shard.memory(network),
            Kept::Here(arrays) => arrays.memory(network, optimizer),
        };
        memory.measured().of_all(&self.collective)
    }
}
