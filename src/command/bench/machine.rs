//! What the machine can do at most, measured in the same run as what it is held against.

use std::hint::black_box;
use std::time::Duration;
use std::time::Instant;

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::ops::peak;

/// What each thread copies and reads: more than caches hold.
const BUFFER_BYTES: usize = 128 << 20;
/// How long the processor multiplies.
const MULTIPLY_FOR: Duration = Duration::from_millis(200);
/// How often memory is copied and read; the fastest counts.
const REPEAT: usize = 5;

/// The limits of the machine with the threads of the current pool, or of a GPU.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes read and written, each counted, while memory is copied, in 10⁹ a second.
    pub copy_gb_per_s: f64,
    /// Bytes read, in 10⁹ a second.
    pub read_gb_per_s: f64,
    /// Operations of the linear layers' kind, two for each product, in 10⁹ a second.
    pub matrix_gop_per_s: f64,
}

/// What a pass has to do at least.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Bytes of weights, keys and values that it reads.
    pub bytes: f64,
    /// Products of the linear layers.
    pub products: f64,
}

impl Limits {
    /// Measures them; takes about a second.
    pub fn measure() -> Limits {
        let threads = rayon::current_num_threads();
        let mut from = vec![1_u64; threads * BUFFER_BYTES / 8];
        let mut to = from.clone();
        let (mut copy, mut read) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..REPEAT {
            let began = Instant::now();
            rayon::scope(|scope| {
                for (to, from) in to.chunks_mut(BUFFER_BYTES / 8).zip(from.chunks(BUFFER_BYTES / 8)) {
                    scope.spawn(move |_| to.copy_from_slice(from));
                }
            });
            copy = copy.min(began.elapsed().as_secs_f64());
            let began = Instant::now();
            rayon::scope(|scope| {
                for to in to.chunks(BUFFER_BYTES / 8) {
                    scope.spawn(|_| {
                        black_box(to.iter().fold(0_u64, |sum, v| sum.wrapping_add(*v)));
                    });
                }
            });
            read = read.min(began.elapsed().as_secs_f64());
            // Or a compiler might copy but once.
            black_box(&mut from);
        }
        let rates = rayon::broadcast(|_| {
            let (began, mut products) = (Instant::now(), 0);
            while began.elapsed() < MULTIPLY_FOR {
                products += peak::multiply(100_000);
            }
            2.0 * products as f64 / began.elapsed().as_secs_f64()
        });
        let bytes = (threads * BUFFER_BYTES) as f64;
        Limits {
            copy_gb_per_s: 2.0 * bytes / copy / 1e9,
            read_gb_per_s: bytes / read / 1e9,
            matrix_gop_per_s: rates.iter().sum::<f64>() / 1e9,
        }
    }

    /// Returns the least time of a pass: it has to read what it reads and multiply what it multiplies.
    pub fn floor_ms(&self, work: Work) -> f64 {
        let read_s = work.bytes / (self.read_gb_per_s * 1e9);
        let multiply_s = 2.0 * work.products / (self.matrix_gop_per_s * 1e9);
        1e3 * read_s.max(multiply_s)
    }
}

/// Returns how many products a row takes in the linear layers, without the head.
pub fn products_of_row(config: &ModelConfig) -> usize {
    let hidden = config.hidden_size;
    let attention = hidden * (config.qkv_width() + config.num_attention_heads * config.head_dim);
    let layer = |shape: &FeedForwardShape| match shape {
        FeedForwardShape::Dense(width) => 3 * hidden * width,
        FeedForwardShape::Sparse(sparse) => {
            3 * hidden * (sparse.routing.chosen * sparse.width + sparse.shared_width)
        }
    };
    config.layers.iter().map(|shape| attention + layer(shape)).sum()
}

/// Returns how many bytes of memory programs can have, where the system says so.
pub fn available_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    available_in(&text)
}

fn available_in(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_slower_of_reading_and_multiplying() {
        let limits = Limits { copy_gb_per_s: 8.0, read_gb_per_s: 10.0, matrix_gop_per_s: 1_000.0 };
        let check = |bytes, products, expected: f64| {
            let found = limits.floor_ms(Work { bytes, products });
            assert!((found - expected).abs() < 1e-9, "{found}");
        };
        check(1e9, 1e9, 100.0);
        check(1e6, 1e9, 2.0);
    }

    #[test]
    fn available_memory_is_read_as_linux_writes_it() {
        let text = "MemTotal:       24683048 kB\nMemAvailable:   22130880 kB\nBuffers: 1 kB\n";
        assert_eq!(available_in(text), Some(22_130_880 << 10));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
    }
}
