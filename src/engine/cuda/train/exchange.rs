//! How ranks exchange the numbers that lie on their GPUs: by NCCL between GPUs of their own, else by MPI through
//! the processor's memory.

use std::rc::Rc;

use crate::engine::cuda::driver;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::cuda::nccl;
use crate::engine::cuda::nccl::Communicator;
use crate::engine::train::collective::Collective;
use crate::engine::train::ownership::BUCKET;

/// Numbers on a GPU that go to or come from a rank.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    /// Where they begin.
    pub address: u64,
    /// How many there are.
    pub count: usize,
    /// Who gets their sum, or has them.
    pub rank: usize,
}

/// The way to the other ranks. All must make the same calls in the same order.
#[derive(Debug)]
pub enum Exchange {
    /// There are none.
    Alone,
    /// From GPU to GPU.
    Direct(Communicator),
    /// Through the processor's memory.
    Staged(Box<Staged>),
}

/// What staging needs.
#[derive(Debug)]
pub struct Staged {
    gpu: Gpu,
    collective: Rc<Collective>,
    numbers: Vec<f32>,
    received: Vec<f32>,
}

impl Exchange {
    /// Finds the best way that all ranks can go.
    ///
    /// # Errors
    /// When NCCL is there and does not start.
    pub fn new(gpu: &Gpu, collective: &Rc<Collective>) -> Result<Exchange, CudaError> {
        if collective.size() == 1 {
            return Ok(Exchange::Alone);
        }
        // NCCL wants a GPU for each rank.
        let stream = gpu.stream().filter(|_| nccl::is_there() && collective.local_size() <= driver::count());
        let mut without = [f64::from(u8::from(stream.is_none()))];
        collective.sum(&mut without);
        if let ([0.0], Some(stream)) = (without, stream) {
            gpu.wait()?;
            let id = if collective.is_first() { nccl::id()? } else { Vec::new() };
            let id = collective.broadcast_bytes(id);
            let communicator = Communicator::start(stream, &id, collective.rank(), collective.size())?;
            tracing::info!(version = nccl::version(), "GPUs exchange gradients by NCCL");
            return Ok(Exchange::Direct(communicator));
        }
        tracing::info!(
            "GPUs exchange gradients through the processor: libnccl.so, or a GPU for each rank, is missing"
        );
        let (gpu, collective) = (Gpu::clone(gpu), Rc::clone(collective));
        Ok(Exchange::Staged(Box::new(Staged { gpu, collective, numbers: Vec::new(), received: Vec::new() })))
    }

    /// Returns the most numbers of a message.
    pub fn longest(&self) -> usize {
        match self {
            Exchange::Alone | Exchange::Direct(_) => usize::MAX,
            Exchange::Staged(_) => BUCKET,
        }
    }

    /// Replaces each message's numbers on its rank by their sum over all ranks; those of others may be anything
    /// afterwards.
    ///
    /// # Errors
    /// When a copy fails; so with the other.
    pub fn reduce(&mut self, messages: &[Message]) -> Result<(), CudaError> {
        match self {
            Exchange::Alone => Ok(()),
            Exchange::Direct(communicator) => communicator.reduce(messages),
            Exchange::Staged(staged) => messages.iter().try_for_each(|message| staged.reduce(*message)),
        }
    }

    /// Replaces each message's numbers by those of its rank.
    ///
    /// # Errors
    /// As [`Exchange::reduce`].
    pub fn broadcast(&mut self, messages: &[Message]) -> Result<(), CudaError> {
        match self {
            Exchange::Alone => Ok(()),
            Exchange::Direct(communicator) => communicator.broadcast(messages),
            Exchange::Staged(staged) => messages.iter().try_for_each(|message| staged.broadcast(*message)),
        }
    }
}

impl Staged {
    fn reduce(&mut self, Message { address, count, rank }: Message) -> Result<(), CudaError> {
        self.numbers.resize(count, 0.0);
        self.gpu.download(bytes_of_mut(&mut self.numbers), address)?;
        self.collective.reduce(&mut self.numbers, rank, &mut self.received);
        if rank == self.collective.rank() {
            self.gpu.upload(address, bytes_of(&self.numbers))?;
        }
        Ok(())
    }

    fn broadcast(&mut self, Message { address, count, rank }: Message) -> Result<(), CudaError> {
        self.numbers.resize(count, 0.0);
        let is_mine = rank == self.collective.rank();
        if is_mine {
            self.gpu.download(bytes_of_mut(&mut self.numbers), address)?;
        }
        self.collective.broadcast(&mut self.numbers, rank);
        if is_mine { Ok(()) } else { self.gpu.upload(address, bytes_of(&self.numbers)) }
    }
}
