//! Rotary positions in the half-split form (arXiv 2104.09864): of each head the first `rotary_dim`
//! dimensions turn, pair (i, i + rotary_dim / 2) by `position · theta^(−2i / rotary_dim)`; the rest pass.

/// Cosines and sines for positions that were asked for, grown on demand.
#[derive(Debug, Clone)]
pub struct Rope {
    frequencies: Vec<f32>,
    /// `[position][rotary_dim / 2]` pairs of cosine and sine.
    table: Vec<(f32, f32)>,
}

/// Returns by how much each pair turns from one position to the next, `[rotary_dim / 2]`.
pub fn frequencies(rotary_dim: usize, theta: f32) -> Vec<f32> {
    let frequency = |i: usize| (1.0 / f64::from(theta).powf(2.0 * i as f64 / rotary_dim as f64)) as f32;
    (0..rotary_dim / 2).map(frequency).collect()
}

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As the forward pass does.
    Forward,
    /// Back, as its gradient does.
    Back,
}

impl Rope {
    /// Prepares the frequencies for heads of which `rotary_dim` dimensions turn.
    pub fn new(rotary_dim: usize, theta: f32) -> Rope {
        Rope { frequencies: frequencies(rotary_dim, theta), table: Vec::new() }
    }

    /// Returns the cosines and sines of the reserved positions, `[position][rotary_dim / 2]`.
    pub fn table(&self) -> &[(f32, f32)] {
        &self.table
    }

    /// Makes sure that positions below `end` are in the table.
    pub fn reserve(&mut self, end: usize) {
        let half = self.frequencies.len();
        if half == 0 {
            return;
        }
        for position in self.table.len() / half..end {
            for frequency in &self.frequencies {
                let (sine, cosine) = (position as f32 * frequency).sin_cos();
                self.table.push((cosine, sine));
            }
        }
    }

    /// Turns one head vector, `[head_dim]`, at a reserved position.
    #[inline(always)]
    pub fn turn(&self, head: &mut [f32], position: usize, turn: Turn) {
        let half = self.frequencies.len();
        let (low, high) = head.split_at_mut(half);
        let angles = &self.table[position * half..(position + 1) * half];
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        for ((a, b), (cosine, sine)) in low.iter_mut().zip(high).zip(angles) {
            let sine = sine * sign;
            (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
        }
    }
}
