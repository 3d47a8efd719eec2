//! The ranks that `mpirun` started, by the system's MPI library.

use std::fmt;
use std::thread;

use mpi::Rank;
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;
use mpi::traits::CommunicatorCollectives;
use mpi::traits::Destination;
use mpi::traits::Root;
use mpi::traits::Source;

use crate::engine::train::collective::CollectiveError;

/// Bytes of one message of bytes; MPI counts in 31 bits.
const MESSAGE_BYTES: usize = 1 << 30;

/// The ranks that a launcher started. Dropped in a panic it ends all of them, else it waits for all.
pub struct World {
    ranks: SimpleCommunicator,
    /// How many ranks share this machine.
    local_size: usize,
    /// Ends MPI when dropped, so it comes last.
    _universe: Universe,
}

impl World {
    pub(super) fn start() -> Result<World, CollectiveError> {
        let failed = |reason: &str| CollectiveError::NotStarted(reason.to_owned());
        // Many threads compute, one communicates.
        let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| failed("it was started before"))?;
        if threading < Threading::Funneled {
            return Err(failed("the library does not support threads"));
        }
        let ranks = universe.world();
        let local_size = count(ranks.split_shared(ranks.rank()).size());
        Ok(World { ranks, local_size, _universe: universe })
    }

    pub(super) fn rank(&self) -> usize {
        count(self.ranks.rank())
    }

    pub(super) fn size(&self) -> usize {
        count(self.ranks.size())
    }

    pub(super) fn local_size(&self) -> usize {
        self.local_size
    }

    pub(super) fn reduce(&self, numbers: &mut [f32], owner: usize, received: &mut Vec<f32>) {
        let root = self.ranks.process_at_rank(rank(owner));
        if owner != self.rank() {
            root.reduce_into(numbers, SystemOperation::sum());
            return;
        }
        received.clear();
        received.resize(numbers.len(), 0.0);
        root.reduce_into_root(numbers, &mut received[..], SystemOperation::sum());
        numbers.copy_from_slice(received);
    }

    pub(super) fn broadcast(&self, numbers: &mut [f32], from: usize) {
        self.ranks.process_at_rank(rank(from)).broadcast_into(numbers);
    }

    pub(super) fn broadcast_bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let root = self.ranks.process_at_rank(0);
        let mut length = [bytes.len() as u64];
        root.broadcast_into(&mut length[..]);
        bytes.resize(length[0] as usize, 0);
        for message in bytes.chunks_mut(MESSAGE_BYTES) {
            root.broadcast_into(message);
        }
        bytes
    }

    pub(super) fn transfer(&self, numbers: &mut [f32], from: usize, to: usize) {
        if self.rank() == from {
            self.ranks.process_at_rank(rank(to)).send(numbers);
        } else if self.rank() == to {
            self.ranks.process_at_rank(rank(from)).receive_into(numbers);
        }
    }

    pub(super) fn sum(&self, numbers: &mut [f64]) {
        let mine = numbers.to_vec();
        self.ranks.all_reduce_into(&mine[..], numbers, SystemOperation::sum());
    }

    /// Ends all ranks: the others may be waiting for this one.
    pub fn abort(&self) -> ! {
        self.ranks.abort(1)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Ending MPI in order would wait for ranks that wait for this one.
        if thread::panicking() {
            self.abort();
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "World(rank {} of {})", self.rank(), self.size())
    }
}

fn rank(number: usize) -> Rank {
    Rank::try_from(number).expect("a rank that MPI has counted")
}

fn count(number: Rank) -> usize {
    usize::try_from(number).expect("MPI counts from 0")
}
