//! One step of several ranks: passes dealt out, gradients brought to their owners, parameters back.
//!
//! Stage 1 of ZeRO (arXiv 1910.02054): each rank sums the gradients of its passes, owners get the sums
//! at the end of the step. Stage 2: gradients go to their owners after every pass, part by part, so
//! that no rank has all of them at any time; what is sent is as many times more as a rank has passes.
//! A rank without a pass sends zeros, since all must make the same calls. Where GPUs compute, all of this lies on
//! them and [`crate::engine::cuda::train::shard`] does it there.

use std::ops::Range;
use std::rc::Rc;

use crate::engine::cuda::CudaError;
use crate::engine::cuda::train::shard::Shard;
use crate::engine::train::batch::Batch;
use crate::engine::train::collective::Collective;
use crate::engine::train::loss::Loss;
use crate::engine::train::memory::Memory;
use crate::engine::train::network::Network;
use crate::engine::train::network::must;
use crate::engine::train::optimizer::Gradients;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::train::ownership::BUCKET;
use crate::engine::train::ownership::Ownership;
use crate::engine::train::ownership::Run;
use crate::engine::train::sink::Sink;

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

/// What a rank keeps of gradients on the processor.
#[derive(Debug)]
struct Arrays {
    stage: Stage,
    /// At stage 2 the gradients of what this rank owns, one piece behind the other.
    owned: Vec<f32>,
    /// At stage 2 what the backward pass writes into: as long as the longest part.
    work: Vec<f32>,
    /// Where messages arrive.
    received: Vec<f32>,
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
            None => Kept::Here(Arrays::new(sharding, &ownership, network.layout.len, longest)),
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
                let loss = arrays.accumulate(&self.collective, &self.ownership, network, batches, scale);
                (loss, optimizer.square(arrays.gradients(network)))
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
            Kept::OnGpu(shard) => must(shard.step(network, optimizer, update)),
            Kept::Here(arrays) => {
                let Network { parameters, gradients, .. } = network;
                optimizer.step(parameters, arrays.of(gradients), update);
                let rank = self.collective.rank();
                for Run { range, owner } in self.ownership.buckets(&(0..parameters.len()), BUCKET) {
                    self.collective.broadcast(&mut parameters[range.clone()], owner);
                    if owner != rank && arrays.stage == Stage::Moments {
                        gradients[range].fill(0.0);
                    }
                }
            }
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
            Kept::Here(Arrays { owned, work, received, .. }) => Memory {
                parameters: 4 * network.parameters.capacity(),
                gradients: 4 * (network.gradients.capacity() + owned.capacity() + work.capacity()),
                messages: 4 * received.capacity(),
                moments: 4 * optimizer.moment_count(),
                activations: network.activation_bytes(),
                ..Memory::default()
            },
        };
        memory.measured().of_all(&self.collective)
    }
}

impl Arrays {
    fn new(sharding: &Sharding, ownership: &Ownership, parameters: usize, longest: usize) -> Arrays {
        let Sharding { collective, stage } = sharding;
        let (mut owned, mut work) = (Vec::new(), Vec::new());
        if *stage == Stage::Gradients {
            owned = vec![0.0; ownership.len_of(collective.rank())];
            work = Vec::with_capacity(longest);
        }
        let buckets = ownership.buckets(&(0..parameters), BUCKET).into_iter();
        let arriving = buckets.filter(|bucket| collective.size() > 1 && bucket.owner == collective.rank());
        let received = Vec::with_capacity(arriving.map(|bucket| bucket.range.len()).max().unwrap_or(0));
        Arrays { stage: *stage, owned, work, received }
    }

    /// Returns the gradients of what this rank owns.
    fn gradients<'a>(&'a mut self, network: &'a mut Network) -> Gradients<'a> {
        self.of(&mut network.gradients)
    }

    fn of<'a>(&'a mut self, whole: &'a mut [f32]) -> Gradients<'a> {
        match self.stage {
            Stage::Moments => Gradients::Within(whole),
            Stage::Gradients => Gradients::Apart(&mut self.owned),
        }
    }

    fn accumulate(
        &mut self,
        collective: &Collective,
        ownership: &Ownership,
        network: &mut Network,
        batches: &[Batch],
        scale: f32,
    ) -> Loss {
        match self.stage {
            Stage::Moments => self.accumulate_whole(collective, ownership, network, batches, scale),
            Stage::Gradients => self.accumulate_parts(collective, ownership, network, batches, scale),
        }
    }

    fn accumulate_whole(
        &mut self,
        collective: &Collective,
        ownership: &Ownership,
        network: &mut Network,
        batches: &[Batch],
        scale: f32,
    ) -> Loss {
        let mine = batches.iter().skip(collective.rank()).step_by(collective.size());
        let loss = mine.map(|batch| network.accumulate(batch, scale)).fold(Loss::default(), Loss::plus);
        for Run { range, owner } in ownership.buckets(&(0..network.gradients.len()), BUCKET) {
            collective.reduce(&mut network.gradients[range], owner, &mut self.received);
        }
        loss
    }

    fn accumulate_parts(
        &mut self,
        collective: &Collective,
        ownership: &Ownership,
        network: &mut Network,
        batches: &[Batch],
        scale: f32,
    ) -> Loss {
        let Arrays { owned, work, received, .. } = self;
        let rank = collective.rank();
        let mut bring = |part: Range<usize>, gradients: &mut [f32]| {
            for bucket in ownership.buckets(&part, BUCKET) {
                let here = bucket.range.start - part.start..bucket.range.end - part.start;
                let sum = &mut gradients[here];
                collective.reduce(sum, bucket.owner, received);
                if bucket.owner == rank {
                    let own = &mut owned[ownership.place(&bucket)];
                    own.iter_mut().zip(sum).for_each(|(own, sum)| *own += *sum);
                }
            }
        };
        let mut loss = Loss::default();
        for round in batches.chunks(collective.size()) {
            let mut sink = Sink::Parts { work: &mut *work, done: &mut bring };
            match round.get(rank) {
                Some(batch) => loss = loss.plus(network.accumulate_into(batch, scale, &mut sink)),
                None => network.parts().into_iter().for_each(|part| sink.skip(part)),
            }
        }
        loss
    }
}
