//! The product of one panel of weights with a few rows, by whatever instructions there are.

use half::bf16;

use crate::engine::ops::quantized::DEPTH;
use crate::engine::ops::quantized::GROUP;
use crate::engine::ops::quantized::LANES;
use crate::engine::ops::quantized::ROWS;
use crate::engine::ops::quantized::four_bits::UNSIGNED;
use crate::engine::ops::quantized::rows::Octet;
#[cfg(target_arch = "x86_64")]
use crate::engine::ops::quantized::x86;

/// The outputs of up to eight rows.
pub type Tile = [[f32; LANES]; ROWS];

/// The weights of sixteen outputs.
#[derive(Debug, Clone, Copy)]
pub enum Panel<'a> {
    /// In 8 bits.
    Eight {
        /// `[input / 4][lane][input % 4]`, unsigned.
        weights: &'a [u8],
        /// `[lane]`.
        scales: &'a [f32],
    },
    /// In 4 bits.
    Four {
        /// `[input / 8][lane][input % 4]`, of eight inputs the first four in the low halves.
        weights: &'a [u8],
        /// `[group][lane]`.
        scales: &'a [bf16],
    },
}

/// Which instructions compute the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// None in particular.
    Plain,
}

impl Kernel {
    /// Returns all that this machine has, the best first.
    pub fn all() -> Vec<Kernel> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let has_vnni = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni");
            if has_vnni {
                all.push(Kernel::Vnni);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Kernel::Avx2);
            }
        }
        all.push(Kernel::Plain);
        all
    }

    /// Returns the best of this machine.
    pub fn best() -> Kernel {
        static BEST: std::sync::LazyLock<Kernel> = std::sync::LazyLock::new(|| Kernel::all()[0]);
        *BEST
    }

    /// Writes the outputs of the rows `x` to `tile`.
    pub fn multiply(self, panel: Panel, x: Octet, tile: &mut Tile) {
        assert!(
            x.count <= ROWS
                && x.bytes.len() == x.count * x.stride
                && x.scales.len() == x.count * x.groups
                && x.corrections.len() == x.count * x.groups,
            "rows of activations"
        );
        let is_whole = match panel {
            Panel::Eight { weights, scales } => {
                weights.len() == LANES * x.stride
                    && scales.len() == LANES
                    && x.groups == 1
                    && x.stride.is_multiple_of(DEPTH)
            }
            Panel::Four { weights, scales } => {
                weights.len() == LANES / 2 * x.stride
                    && scales.len() == LANES * x.groups
                    && x.stride == x.groups * GROUP
            }
        };
        assert!(is_whole, "a panel for these rows");
        match self {
            // SAFETY: whoever has this kernel has the features, and the asserts above keep reads inside.
            #[cfg(target_arch = "x86_64")]
            Kernel::Vnni => unsafe { x86::vnni(panel, x, tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { x86::avx2(panel, x, tile) },
            Kernel::Plain => plain(panel, x, tile),
        }
    }
}

/// The reference: what the other kernels must equal to the bit.
fn plain(panel: Panel, x: Octet, tile: &mut Tile) {
    for (row, outputs) in tile.iter_mut().enumerate().take(x.count) {
        let bytes = &x.bytes[row * x.stride..(row + 1) * x.stride];
        *outputs = [0.0; LANES];
        for (group, bytes) in bytes.chunks_exact(x.stride / x.groups).enumerate() {
            let at = row * x.groups + group;
            let mut sums = [x.corrections[at]; LANES];
            for (step, inputs) in bytes.chunks_exact(DEPTH).enumerate() {
                let step = group * (x.stride / x.groups / DEPTH) + step;
                for (lane, sum) in sums.iter_mut().enumerate() {
                    for (d, input) in inputs.iter().enumerate() {
                        *sum += weight(panel, step, lane * DEPTH + d) * i32::from(*input);
                    }
                }
            }
            for (lane, (output, sum)) in outputs.iter_mut().zip(sums).enumerate() {
                let scale = match panel {
                    Panel::Eight { scales, .. } => scales[lane],
                    Panel::Four { scales, .. } => scales[group * LANES + lane].to_f32(),
                };
                *output = (sum as f32).mul_add(scale * x.scales[at], *output);
            }
        }
    }
}

/// Returns the unsigned weight of four inputs by sixteen lanes, `at` of `[lane][input % 4]`.
fn weight(panel: Panel, step: usize, at: usize) -> i32 {
    match panel {
        Panel::Eight { weights, .. } => i32::from(weights[step * LANES * DEPTH + at]),
        Panel::Four { weights, .. } => {
            let pair = weights[step / 2 * LANES * DEPTH + at];
            let code = if step.is_multiple_of(2) { pair & 15 } else { pair >> 4 };
            i32::from(UNSIGNED[code as usize])
        }
    }
}
