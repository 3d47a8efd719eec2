//! What the processes of one training run tell each other: nothing when there is one, else by MPI.
//!
//! Every rank must make the same calls in the same order; only the thread that started may make
//! them. A failing call ends all ranks, which is what MPI does by default. Without the feature
//! `mpi` there is no other process, and a start by `mpirun` is an error instead of as many runs
//! that write over one another.

#[cfg_attr(not(feature = "mpi"), path = "collective/no_world.rs")]
mod world;

use std::env;

use world::World;

/// What a launcher tells the processes that it starts: Open MPI's, MPICH's and PMIx's variables.
const LAUNCHED: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"];

/// Says why the processes cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// Started by a launcher, but there is no MPI in this binary.
    #[error("this chatdlm was built without MPI: cargo build --release --features mpi")]
    NotBuilt,
    /// The MPI library does not start.
    #[error("cannot start MPI: {0}")]
    NotStarted(String),
}

/// The ranks of one run, of which this process is one.
#[derive(Debug)]
pub enum Collective {
    /// One process.
    Alone,
    /// Those that `mpirun` started.
    Mpi(World),
}

impl Collective {
    /// Joins the processes that a launcher started; alone when none did.
    ///
    /// # Errors
    /// When a launcher started it and MPI is not there or does not start.
    pub fn start() -> Result<Collective, CollectiveError> {
        if LAUNCHED.iter().all(|name| env::var_os(name).is_none()) {
            return Ok(Collective::Alone);
        }
        World::start().map(Collective::Mpi)
    }

    /// Returns this process's number, from 0. The first alone writes files and shows progress.
    pub fn rank(&self) -> usize {
        match self {
            Collective::Alone => 0,
            Collective::Mpi(world) => world.rank(),
        }
    }

    /// Returns whether this process writes files and shows progress.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Returns how many ranks there are.
    pub fn size(&self) -> usize {
        match self {
            Collective::Alone => 1,
            Collective::Mpi(world) => world.size(),
        }
    }

    /// Returns how many of the ranks run on this machine.
    pub fn local_size(&self) -> usize {
        match self {
            Collective::Alone => 1,
            Collective::Mpi(world) => world.local_size(),
        }
    }

    /// Replaces `numbers` of `owner` by the sum over all ranks; those of others stay. `received` is
    /// where a message arrives, kept by the caller so that it is allocated once.
    pub fn reduce(&self, numbers: &mut [f32], owner: usize, received: &mut Vec<f32>) {
        if let Collective::Mpi(world) = self {
            world.reduce(numbers, owner, received);
        }
    }

    /// Replaces `numbers` of every rank by those of `from`.
    pub fn broadcast(&self, numbers: &mut [f32], from: usize) {
        if let Collective::Mpi(world) = self {
            world.broadcast(numbers, from);
        }
    }

    /// Returns the bytes of the first rank, whatever the others give.
    pub fn broadcast_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Collective::Alone => bytes,
            Collective::Mpi(world) => world.broadcast_bytes(bytes),
        }
    }

    /// Copies the `numbers` of rank `from` to those of rank `to`; other ranks need not call it.
    pub fn transfer(&self, numbers: &mut [f32], from: usize, to: usize) {
        if let Collective::Mpi(world) = self
            && from != to
            && !numbers.is_empty()
        {
            world.transfer(numbers, from, to);
        }
    }

    /// Replaces every number by its sum over all ranks.
    pub fn sum(&self, numbers: &mut [f64]) {
        if let Collective::Mpi(world) = self {
            world.sum(numbers);
        }
    }

    /// Returns whether all ranks give the same bytes.
    pub fn is_same(&self, bytes: &[u8]) -> bool {
        let first = self.broadcast_bytes(bytes.to_vec());
        let mut differ = [f64::from(u8::from(first != bytes))];
        self.sum(&mut differ);
        differ == [0.0]
    }
}
