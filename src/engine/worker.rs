//! The engine's thread: receive · drop cancelled · schedule · run · report.
//!
//! It never waits for a reader: generations are reported through a watch channel that keeps the
//! newest state only, and whoever dropped the other end has cancelled.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::TryRecvError;

use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::engine::handle::EngineConfig;
use crate::engine::handle::Snapshot;
use crate::engine::load::Load;
use crate::engine::runner::Room;
use crate::engine::runner::Runner;
use crate::engine::runner::Slot;
use crate::engine::scheduler::Priority;
use crate::engine::scheduler::Waiting;
use crate::engine::scheduler::pack;
use crate::engine::sequence::Sequence;

/// Work for the engine.
#[derive(Debug)]
pub enum Job {
    /// Denoise and report every step.
    Generate(Sequence, watch::Sender<Snapshot>),
    /// Score labels and report once.
    Score(Sequence, Vec<u32>, oneshot::Sender<Vec<f32>>),
}

enum Reader {
    Generate(watch::Sender<Snapshot>),
    Score(oneshot::Sender<Vec<f32>>),
}

struct Running {
    slot: Slot,
    reader: Reader,
    arrival: u64,
}

impl Running {
    fn is_cancelled(&self) -> bool {
        match &self.reader {
            Reader::Generate(sender) => sender.is_closed(),
            Reader::Score(sender) => sender.is_closed(),
        }
    }

    fn waiting(&self) -> Waiting {
        let priority = match self.reader {
            Reader::Generate(_) => Priority::Draft,
            Reader::Score(_) => Priority::Score,
        };
        let sequence = &self.slot.sequence;
        Waiting { priority, arrival: self.arrival, pending: sequence.pending(), unit: sequence.unit() }
    }
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
        pool.install(move || run(runner, jobs, &config, &load));
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

fn run(mut runner: Runner, jobs: Receiver<Job>, config: &EngineConfig, load: &Load) {
    let mut running: Vec<Running> = Vec::new();
    // The oldest job, when the cache has no room for it until others end.
    let mut held: Option<Job> = None;
    let mut arrival = 0;
    loop {
        while running.len() < config.max_running {
            let job = if let Some(job) = held.take() {
                Ok(job)
            } else if running.is_empty() {
                jobs.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                jobs.try_recv()
            };
            match job {
                Ok(job) => {
                    let Some(room) = runner.reserve(job.sequence()) else {
                        held = Some(job);
                        break;
                    };
                    let admitted = job.admit(room, arrival);
                    arrival += 1;
                    load.waiting.fetch_sub(1, Relaxed);
                    load.prompt_tokens.fetch_add(admitted.slot.sequence.prompt as u64, Relaxed);
                    load.reused_tokens.fetch_add(admitted.slot.reused as u64, Relaxed);
                    running.push(admitted);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if running.is_empty() => return,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        running.retain(|r| {
            let goes_on = !r.is_cancelled();
            if !goes_on {
                runner.release(&r.slot);
            }
            goes_on
        });
        load.running.store(running.len(), Relaxed);
        step(&mut runner, &mut running, config.step_rows, load);
        load.running.store(running.len(), Relaxed);
    }
}

impl Job {
    fn sequence(&self) -> &Sequence {
        match self {
            Job::Generate(sequence, _) | Job::Score(sequence, ..) => sequence,
        }
    }

    /// Begins to run in the room that was reserved.
    fn admit(self, room: Room, arrival: u64) -> Running {
        let (sequence, labels, reader) = match self {
            Job::Generate(sequence, sender) => (sequence, Vec::new(), Reader::Generate(sender)),
            Job::Score(sequence, labels, sender) => (sequence, labels, Reader::Score(sender)),
        };
        Running { slot: Slot::new(sequence, labels, room), reader, arrival }
    }
}

/// Runs one step and reports it; what is complete leaves.
fn step(runner: &mut Runner, running: &mut Vec<Running>, budget: usize, load: &Load) {
    // A canvas without a mask is complete before its first step.
    report_finished(runner, running);
    let waiting: Vec<Waiting> = running.iter().map(Running::waiting).collect();
    let mut rows = vec![0; running.len()];
    for (i, share) in pack(&waiting, budget) {
        rows[i] = share;
    }
    let mut slots: Vec<(&mut Slot, usize)> = running
        .iter_mut()
        .zip(&rows)
        .filter(|(_, rows)| **rows > 0)
        .map(|(r, rows)| (&mut r.slot, *rows))
        .collect();
    if slots.is_empty() {
        return;
    }
    let outcomes = runner.step(&mut slots);
    load.steps.fetch_add(1, Relaxed);
    load.rows.fetch_add(outcomes.iter().map(|o| o.rows as u64).sum(), Relaxed);
    let unmasked = outcomes.iter().filter_map(|o| o.change.as_ref()).map(|c| c.unmasked as u64).sum();
    load.tokens.fetch_add(unmasked, Relaxed);
    let stepped = running.iter().zip(&rows).filter(|(_, rows)| **rows > 0).map(|(r, _)| r);
    for (running, outcome) in stepped.zip(outcomes) {
        if let (Reader::Generate(sender), Some(_), false) =
            (&running.reader, outcome.change, running.slot.sequence.is_done)
        {
            // The receiver may be gone; then the next round drops the sequence.
            sender.send_replace(snapshot(&running.slot));
        }
    }
    report_finished(runner, running);
}

fn report_finished(runner: &mut Runner, running: &mut Vec<Running>) {
    let mut i = 0;
    while i < running.len() {
        if !running[i].slot.sequence.is_done {
            i += 1;
            continue;
        }
        let Running { slot, reader, .. } = running.swap_remove(i);
        runner.release(&slot);
        match reader {
            Reader::Generate(sender) => {
                sender.send_replace(snapshot(&slot));
            }
            // A receiver that is gone does not want the answer any more.
            Reader::Score(sender) => drop(sender.send(slot.scores)),
        }
    }
}

fn snapshot(slot: &Slot) -> Snapshot {
    let sequence = &slot.sequence;
    Snapshot {
        reused: slot.reused,
        canvas: sequence.canvas().to_vec(),
        confidences: sequence.confidences().to_vec(),
        settled: sequence.settled(),
        steps: sequence.steps,
        blocks: sequence.blocks,
        unmasked: sequence.unmasked,
        is_done: sequence.is_done,
    }
}
