//! What a rank keeps in memory, counted and as the system sees it.

use std::fmt;
use std::fs;

use serde::Serialize;

use crate::engine::train::collective::Collective;

/// The memory of one rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Memory {
    /// The rank.
    pub rank: usize,
    /// Its process, for who wants to stop it.
    pub process: u32,
    /// The threads that compute.
    pub threads: usize,
    /// Bytes of parameters: each rank has all.
    pub parameters: usize,
    /// Bytes of gradients, with what the backward pass writes into.
    pub gradients: usize,
    /// Bytes in which gradients of other ranks arrive.
    pub messages: usize,
    /// Bytes of the optimizer's moments.
    pub moments: usize,
    /// Bytes of the activations of a pass, 0 before the first.
    pub activations: usize,
    /// Bytes of the process in memory now, its data and program included; 0 where the system does not say.
    pub resident: usize,
    /// The most so far.
    pub peak: usize,
}

/// How many numbers a rank's line has when ranks tell each other.
const FIELDS: usize = 10;

impl Memory {
    /// Fills in what the system knows of this process.
    pub fn measured(self) -> Memory {
        let bytes = |field| {
            let size = status(field).and_then(|text| text.strip_suffix(" kB")?.parse::<usize>().ok());
            size.unwrap_or(0) * 1024
        };
        Memory {
            process: std::process::id(),
            threads: rayon::current_num_threads(),
            resident: bytes("VmRSS"),
            peak: bytes("VmHWM"),
            ..self
        }
    }

    /// Returns the memory of every rank.
    pub fn of_all(self, collective: &Collective) -> Vec<Memory> {
        let mine = [
            collective.rank(),
            self.process as usize,
            self.threads,
            self.parameters,
            self.gradients,
            self.messages,
            self.moments,
            self.activations,
            self.resident,
            self.peak,
        ];
        // Every rank fills its own places of the sum.
        let mut all = vec![0.0; FIELDS * collective.size()];
        let places = &mut all[FIELDS * collective.rank()..];
        places.iter_mut().zip(mine).for_each(|(place, number)| *place = number as f64);
        collective.sum(&mut all);
        let memory = |fields: &[f64]| {
            let n = |i: usize| fields[i] as usize;
            Memory {
                rank: n(0),
                process: fields[1] as u32,
                threads: n(2),
                parameters: n(3),
                gradients: n(4),
                messages: n(5),
                moments: n(6),
                activations: n(7),
                resident: n(8),
                peak: n(9),
            }
        };
        all.chunks_exact(FIELDS).map(memory).collect()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let megabytes = |bytes: usize| bytes as f64 / 1e6;
        write!(
            f,
            "rank {} (process {}, threads {}): parameters {:.1} MB, gradients {:.1} MB, moments {:.1} MB, \
             activations {:.1} MB, resident {:.1} MB, at most {:.1} MB",
            self.rank,
            self.process,
            self.threads,
            megabytes(self.parameters),
            megabytes(self.gradients),
            megabytes(self.moments),
            megabytes(self.activations),
            megabytes(self.resident),
            megabytes(self.peak)
        )
    }
}

/// Returns how many threads a rank should take: the ranks of one machine share its cores, unless the
/// launcher has bound each to cores of its own.
pub fn threads(collective: &Collective) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let allowed = status("Cpus_allowed_list").unwrap_or_default();
    let share = if collective.is_same(allowed.as_bytes()) { collective.local_size() } else { 1 };
    (cores / share).max(1)
}

/// Returns what Linux says of this process, without the spaces around it.
fn status(field: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}
