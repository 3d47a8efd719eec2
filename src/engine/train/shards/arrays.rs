//! A rank's part of a step on the processor: gradients are summed, brought to their owners and used up.

use std::ops::Range;
use std::rc::Rc;

use crate::engine::train::batch::Batch;
use crate::engine::train::collective::Collective;
use crate::engine::train::loss::Loss;
use crate::engine::train::memory::Memory;
use crate::engine::train::network::Network;
use crate::engine::train::optimizer::Gradients;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::train::optimizer::Update;
use crate::engine::train::ownership::BUCKET;
use crate::engine::train::ownership::Ownership;
use crate::engine::train::ownership::Run;
use crate::engine::train::shards::Sharding;
use crate::engine::train::shards::Stage;
use crate::engine::train::sink::Sink;

/// What a rank keeps of gradients beside the network's own.
#[derive(Debug)]
pub(super) struct Arrays {
    collective: Rc<Collective>,
    ownership: Ownership,
    stage: Stage,
    /// At stage 2 the gradients of what this rank owns, one piece behind the other.
    owned: Vec<f32>,
    /// At stage 2 what the backward pass writes into: as long as the longest part.
    work: Vec<f32>,
    /// Where messages arrive.
    received: Vec<f32>,
}

impl Arrays {
    /// Makes this rank's part; parts of a pass have at most `longest` parameters.
    pub(super) fn new(sharding: &Sharding, ownership: &Ownership, longest: usize) -> Arrays {
        let Sharding { collective, stage } = sharding;
        let rank = collective.rank();
        let (mut owned, mut work) = (Vec::new(), Vec::new());
        if *stage == Stage::Gradients {
            owned = vec![0.0; ownership.len_of(rank)];
            work = Vec::with_capacity(longest);
        }
        let longest_message = if collective.size() > 1 { BUCKET.min(ownership.len_of(rank)) } else { 0 };
        Arrays {
            collective: Rc::clone(collective),
            ownership: ownership.clone(),
            stage: *stage,
            owned,
            work,
            received: Vec::with_capacity(longest_message),
        }
    }

    /// Runs the passes that fall to this rank and brings the sum of all ranks' gradients to their owners.
    pub(super) fn accumulate(&mut self, network: &mut Network, batches: &[Batch], scale: f32) -> Loss {
        match self.stage {
            Stage::Moments => self.accumulate_whole(network, batches, scale),
            Stage::Gradients => self.accumulate_parts(network, batches, scale),
        }
    }

    /// Returns the gradients of what this rank owns; at stage 1 they are within the network's.
    pub(super) fn gradients<'a>(&'a mut self, of_network: &'a mut [f32]) -> Gradients<'a> {
        match self.stage {
            Stage::Moments => Gradients::Within(of_network),
            Stage::Gradients => Gradients::Apart(&mut self.owned),
        }
    }

    /// Moves what this rank owns, gives it to the others and takes what they own; clears all gradients.
    pub(super) fn step(&mut self, network: &mut Network, optimizer: &mut Optimizer, update: Update) {
        let Network { parameters, gradients, .. } = network;
        optimizer.step(parameters, self.gradients(gradients), update);
        let rank = self.collective.rank();
        for Run { range, owner } in self.ownership.buckets(&(0..parameters.len()), BUCKET) {
            self.collective.broadcast(&mut parameters[range.clone()], owner);
            if owner != rank && self.stage == Stage::Moments {
                gradients[range].fill(0.0);
            }
        }
    }

    /// Returns what all this takes, with the network's own and the optimizer's.
    pub(super) fn memory(&self, network: &Network, optimizer: &Optimizer) -> Memory {
        let gradients = [&network.gradients, &self.owned, &self.work];
        Memory {
            parameters: 4 * network.parameters.capacity(),
            gradients: 4 * gradients.iter().map(|numbers| numbers.capacity()).sum::<usize>(),
            messages: 4 * self.received.capacity(),
            moments: 4 * optimizer.moment_count(),
            activations: network.activation_bytes(),
            ..Memory::default()
        }
    }

    fn accumulate_whole(&mut self, network: &mut Network, batches: &[Batch], scale: f32) -> Loss {
        let Arrays { collective, ownership, received, .. } = self;
        let mine = batches.iter().skip(collective.rank()).step_by(collective.size());
        let loss = mine.map(|batch| network.accumulate(batch, scale)).fold(Loss::default(), Loss::plus);
        for Run { range, owner } in ownership.buckets(&(0..network.gradients.len()), BUCKET) {
            collective.reduce(&mut network.gradients[range], owner, received);
        }
        loss
    }

    fn accumulate_parts(&mut self, network: &mut Network, batches: &[Batch], scale: f32) -> Loss {
        let Arrays { collective, ownership, owned, work, received, .. } = self;
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
