//! The engine's thread: receive · drop what nobody waits for · admit · run a step · report.
//!
//! It never waits for a reader: generations are reported through a watch channel that keeps the
//! newest state only, and whoever dropped the other end has cancelled, whether the work runs
//! already or still waits.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::engine::handle::EngineConfig;
use crate::engine::handle::Snapshot;
use crate::engine::kv_cache::PAGE;
use crate::engine::load::Load;
use crate::engine::model::tuned::Adapter;
use crate::engine::runner::Outcome;
use crate::engine::runner::Room;
use crate::engine::runner::Runner;
use crate::engine::runner::Slot;
use crate::engine::scheduler::Claim;
use crate::engine::scheduler::Owner;
use crate::engine::scheduler::Priority;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::Waiting;
use crate::engine::sequence::Sequence;

/// How much of what is known about the time of a step the last one makes up.
const NEWEST_SHARE: f64 = 0.2;

/// What share of the cache drafts leave to scores, as long as there is another draft.
const KEPT_FOR_SCORES: usize = 16;

/// Says why work was refused after it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline passed before the model came to the request")]
pub struct Late;

/// Work for the engine.
#[derive(Debug)]
pub struct Job {
    /// What is computed.
    pub sequence: Sequence,
    /// With whose experts; the base's when `None`.
    pub adapter: Option<Arc<Adapter>>,
    /// For whom.
    pub claim: Claim,
    /// Who waits for it.
    pub reader: Reader,
}

/// Who waits for work.
#[derive(Debug)]
pub enum Reader {
    /// Sees the newest state of a generation.
    Generate(watch::Sender<Result<Snapshot, Late>>),
    /// Gets the probabilities of these labels.
    Score(Vec<u32>, oneshot::Sender<Result<Vec<f32>, Late>>),
}

impl Reader {
    fn is_gone(&self) -> bool {
        match self {
            Reader::Generate(sender) => sender.is_closed(),
            Reader::Score(_, sender) => sender.is_closed(),
        }
    }

    fn priority(&self) -> Priority {
        match self {
            Reader::Generate(_) => Priority::Draft,
            Reader::Score(..) => Priority::Score,
        }
    }

    fn refuse(self) {
        match self {
            Reader::Generate(sender) => drop(sender.send_replace(Err(Late))),
            // A receiver that is gone does not want to know.
            Reader::Score(_, sender) => drop(sender.send(Err(Late))),
        }
    }
}

/// A job that waits for its first step.
struct Queued {
    job: Job,
    arrival: u64,
}

struct Running {
    slot: Slot,
    reader: Reader,
    claim: Claim,
    arrival: u64,
}

/// Starts the thread. It ends when every sender of jobs is gone.
///
/// # Errors
/// When a thread cannot be started.
pub fn spawn(
    runner: Runner,
    jobs: Receiver<Job>,
    config: EngineConfig,
    load: Arc<Load>,
) -> std::io::Result<()> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(config.threads)
        .thread_name(|i| format!("engine-{i}"))
        .build()
        .map_err(std::io::Error::other)?;
    std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
        // Inside the pool the loop's own thread computes too, instead of waiting for others.
        let _ended = Ended(Arc::clone(&load));
        let mut worker = Worker {
            runner,
            config,
            load,
            queue: Vec::new(),
            running: Vec::new(),
            arrivals: 0,
            scheduler: Scheduler::default(),
            step_time: None,
        };
        pool.install(move || while worker.round(&jobs) {});
    })?;
    Ok(())
}

/// Tells that the thread has ended, also when it panicked.
struct Ended(Arc<Load>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.has_stopped.store(true, Relaxed);
    }
}

/// What the thread knows.
struct Worker {
    runner: Runner,
    config: EngineConfig,
    load: Arc<Load>,
    /// Taken, and not begun. Overflow rule: the handle refuses what is beyond `max_waiting`.
    queue: Vec<Queued>,
    running: Vec<Running>,
    /// Jobs that came so far.
    arrivals: u64,
    scheduler: Scheduler,
    /// How long a step takes, as a mean in which older ones count less and less.
    step_time: Option<Duration>,
}

impl Worker {
    /// Takes what came and runs a step; returns whether there will be more to do.
    fn round(&mut self, jobs: &Receiver<Job>) -> bool {
        if !self.receive(jobs) {
            return false;
        }
        self.drop_unwanted();
        let running = self.running.iter().map(Running::waiting);
        let all: Vec<Waiting> = self.queue.iter().map(Queued::waiting).chain(running).collect();
        self.scheduler.enrol(&all);
        self.admit();
        self.load.running.store(self.running.len(), Relaxed);
        self.step();
        self.load.running.store(self.running.len(), Relaxed);
        true
    }

    /// Takes all jobs that came; waits for one when there is nothing else to do. Returns `false` when
    /// there never will be.
    fn receive(&mut self, jobs: &Receiver<Job>) -> bool {
        loop {
            let is_idle = self.running.is_empty() && self.queue.is_empty();
            let job = if is_idle { jobs.recv().map_err(TryRecvError::from) } else { jobs.try_recv() };
            match job {
                Ok(job) => {
                    self.queue.push(Queued { job, arrival: self.arrivals });
                    self.arrivals += 1;
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !is_idle,
            }
        }
    }

    /// Drops work whose reader has gone, and refuses what did not begin by its deadline.
    fn drop_unwanted(&mut self) {
        let now = Instant::now();
        let is_unwanted = |queued: &mut Queued| {
            let Job { claim, reader, .. } = &queued.job;
            reader.is_gone() || claim.deadline.is_some_and(|deadline| deadline <= now)
        };
        for queued in self.queue.extract_if(.., is_unwanted) {
            self.load.waiting.fetch_sub(1, Relaxed);
            queued.job.reader.refuse();
        }
        for running in self.running.extract_if(.., |running| running.reader.is_gone()) {
            self.runner.release(&running.slot);
        }
    }

    /// Lets jobs begin while there is room: the most urgent first, and none before it.
    fn admit(&mut self) {
        loop {
            let running = self.running.iter().filter(|r| r.reader.priority() == Priority::Draft).count();
            // A score takes few passes and its rows are counted: it does not wait for a draft to end.
            let may_begin =
                |queued: &Queued| running < self.config.max_running || queued.priority() == Priority::Score;
            let open: Vec<usize> = (0..self.queue.len()).filter(|i| may_begin(&self.queue[*i])).collect();
            let waiting: Vec<Waiting> = open.iter().map(|i| self.queue[*i].waiting()).collect();
            let Some(first) = self.scheduler.first(&waiting).map(|at| open[at]) else { return };
            // Whatever came later waits too, or what is long would wait forever.
            if running > 0 && !self.leaves_room(&self.queue[first]) {
                return;
            }
            let Job { sequence, adapter, .. } = &self.queue[first].job;
            let Some(room) = self.runner.reserve(sequence, adapter.as_ref()) else { return };
            let running = self.queue.swap_remove(first).begin(room);
            self.load.waiting.fetch_sub(1, Relaxed);
            self.load.prompt_tokens.fetch_add(running.slot.sequence.prompt as u64, Relaxed);
            self.load.reused_tokens.fetch_add(running.slot.reused as u64, Relaxed);
            self.running.push(running);
        }
    }

    /// Returns whether scores would find pages while this runs, whatever it shares with others. A score is
    /// not to wait until a draft ends.
    fn leaves_room(&self, queued: &Queued) -> bool {
        let needed = queued.job.sequence.tokens.len().next_multiple_of(PAGE);
        let kept = self.runner.capacity() / KEPT_FOR_SCORES;
        queued.priority() == Priority::Score || self.runner.available() >= needed + kept
    }

    /// Runs one step and reports it; what is complete leaves.
    fn step(&mut self) {
        // A canvas without a mask is complete before its first step.
        self.report_finished();
        // What runs through the same experts stands together; who goes first does not depend on it.
        self.running.sort_by_key(|running| running.slot.adapter_id());
        let waiting: Vec<Waiting> = self.running.iter().map(Running::waiting).collect();
        let mut rows = vec![0; self.running.len()];
        for (i, share) in self.scheduler.pack(&waiting, self.config.step_rows) {
            rows[i] = share;
        }
        if rows.iter().all(|rows| *rows == 0) {
            return;
        }
        let began = Instant::now();
        for running in &mut self.running {
            running.hurry(began, self.step_time, self.config.step_rows);
        }
        let mut slots: Vec<(&mut Slot, usize)> = self
            .running
            .iter_mut()
            .zip(&rows)
            .filter(|(_, rows)| **rows > 0)
            .map(|(r, rows)| (&mut r.slot, *rows))
            .collect();
        let outcomes = self.runner.step(&mut slots);
        let took = began.elapsed();
        self.step_time = Some(
            self.step_time
                .map_or(took, |before| before.mul_f64(1.0 - NEWEST_SHARE) + took.mul_f64(NEWEST_SHARE)),
        );
        count(&self.load, &outcomes);
        let stepped = self.running.iter().zip(&rows).filter(|(_, rows)| **rows > 0).map(|(r, _)| r);
        for (running, outcome) in stepped.zip(outcomes) {
            if let (Reader::Generate(sender), Some(_), false) =
                (&running.reader, outcome.change, running.slot.sequence.is_done)
            {
                // The receiver may be gone; then the next round drops the sequence.
                drop(sender.send_replace(Ok(snapshot(&running.slot))));
            }
        }
        self.report_finished();
    }

    fn report_finished(&mut self) {
        for Running { slot, reader, .. } in self.running.extract_if(.., |r| r.slot.sequence.is_done) {
            self.runner.release(&slot);
            match reader {
                Reader::Generate(sender) => drop(sender.send_replace(Ok(snapshot(&slot)))),
                // A receiver that is gone does not want the answer any more.
                Reader::Score(_, sender) => drop(sender.send(Ok(slot.scores))),
            }
        }
    }
}

impl Queued {
    fn priority(&self) -> Priority {
        self.job.reader.priority()
    }

    fn waiting(&self) -> Waiting {
        waiting(&self.job.sequence, &self.job.reader, &self.job.claim, self.arrival)
    }

    /// Begins to run in the room that was reserved.
    fn begin(self, room: Room) -> Running {
        let Job { sequence, claim, reader, .. } = self.job;
        let labels = match &reader {
            Reader::Generate(_) => Vec::new(),
            Reader::Score(labels, _) => labels.clone(),
        };
        Running { slot: Slot::new(sequence, labels, room), reader, claim, arrival: self.arrival }
    }
}

impl Running {
    fn waiting(&self) -> Waiting {
        waiting(&self.slot.sequence, &self.reader, &self.claim, self.arrival)
    }

    /// Tells a sequence with a deadline how many passes are left until then.
    fn hurry(&mut self, now: Instant, step_time: Option<Duration>, step_rows: usize) {
        let (Some(deadline), Some(step_time)) = (self.claim.deadline, step_time) else { return };
        let sequence = &mut self.slot.sequence;
        let left = deadline.saturating_duration_since(now).as_secs_f64();
        let passes = (left / step_time.as_secs_f64().max(1e-6)) as usize;
        // What is left of the prompt takes steps too.
        let prompt = sequence.pending().saturating_sub(sequence.form.block) / step_rows.max(1);
        sequence.passes_left = Some(passes.saturating_sub(prompt));
    }
}

fn waiting(sequence: &Sequence, reader: &Reader, claim: &Claim, arrival: u64) -> Waiting {
    Waiting {
        priority: reader.priority(),
        owner: Owner::of(claim, arrival),
        turn: claim.turn,
        passes: sequence.predicted_left(),
        arrival,
        pending: sequence.pending(),
        unit: sequence.unit(),
    }
}

fn count(load: &Load, outcomes: &[Outcome]) {
    load.steps.fetch_add(1, Relaxed);
    load.rows.fetch_add(outcomes.iter().map(|o| o.rows as u64).sum(), Relaxed);
    let unmasked = outcomes.iter().filter_map(|o| o.change.as_ref()).map(|c| c.unmasked as u64).sum();
    load.tokens.fetch_add(unmasked, Relaxed);
}

fn snapshot(slot: &Slot) -> Snapshot {
    let sequence = &slot.sequence;
    Snapshot {
        reused: slot.reused,
        canvas: sequence.canvas().to_vec(),
        confidences: sequence.confidences().to_vec(),
        settled: sequence.settled(),
        steps: sequence.steps,
        predicted_steps: sequence.predicted_steps(),
        fixed_steps: sequence.fixed_steps(),
        blocks: sequence.blocks,
        unmasked: sequence.unmasked,
        is_done: sequence.is_done,
    }
}

#[cfg(test)]
mod tests;
