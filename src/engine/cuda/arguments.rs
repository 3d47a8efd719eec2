//! What kernels are given, laid out as their sources declare it.

use crate::engine::cuda::machine::Plain;

/// Runs a kernel: `run!(gpu, launch; arguments)`.
macro_rules! run {
    ($gpu:expr, $launch:expr; $($argument:expr),+ $(,)?) => {
        $gpu.launch($launch, &[$($crate::engine::cuda::machine::bytes_of(&[$argument])),+])
    };
}
pub(super) use run;

/// Where a weight is: `Weight` in `kernels/linear.cu`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WeightAddress {
    /// The numbers.
    pub words: u64,
    /// Their scales.
    pub scales: u64,
    /// `[outputs]` f32; 0 for none.
    pub bias: u64,
}

/// A linear layer's arguments: `Linear` in `kernels/linear.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct LinearArguments {
    /// The one weight.
    pub one: WeightAddress,
    /// The address of each expert's; 0 for one weight.
    pub many: u64,
    /// Where the rows of each expert begin.
    pub bounds: u64,
    /// Which rows of x they are; 0 for their own numbers.
    pub gather: u64,
    /// Rows.
    pub x: u64,
    /// Their scales.
    pub x_scales: u64,
    /// The result.
    pub y: u64,
    /// The result of the head's form.
    pub peaks: u64,
    /// Where the closed tokens of each row begin.
    pub closed_starts: u64,
    /// The closed tokens.
    pub closed: u64,
    /// Steps of a row.
    pub steps: i32,
    /// Outputs.
    pub outputs: i32,
    /// Tiles of outputs.
    pub tiles: i32,
    /// Nothing.
    pub gap: i32,
}

/// Bytes of a `Peak` in `kernels/linear.cu`.
pub const PEAK_BYTES: usize = 12;

/// `RopeShape` in `kernels/rope.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct RopeShape {
    /// Query heads.
    pub heads: i32,
    /// Heads of keys and values.
    pub kv_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// How much of it turns.
    pub rotary_dim: i32,
    /// 0 for no norm, 1 for each head, 2 for all heads of a row.
    pub norm: i32,
    /// Layers of the model.
    pub layers: i32,
    /// This layer.
    pub layer: i32,
    /// Added to the mean square.
    pub eps: f32,
    /// Infinity for none.
    pub clip: f32,
}

/// `AttendShape` in `kernels/attention.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AttendShape {
    /// Query heads.
    pub heads: i32,
    /// Heads of keys and values.
    pub kv_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// Layers of the model.
    pub layers: i32,
    /// This layer.
    pub layer: i32,
    /// Whether pieces that nobody wants are passed over.
    pub only_wanted: i32,
    /// The most rows of a piece.
    pub most_rows: i32,
    /// Multiplies the scores.
    pub scale: f32,
}

/// `RouteShape` in `kernels/route.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct RouteShape {
    /// Experts.
    pub experts: i32,
    /// How many a row takes.
    pub chosen: i32,
    /// Groups of experts.
    pub groups: i32,
    /// Groups that stay.
    pub kept_groups: i32,
    /// Whether weights are divided by their sum.
    pub normalise: i32,
    /// Multiplies the weights.
    pub scale: f32,
}

impl Plain for WeightAddress {}
impl Plain for LinearArguments {}
impl Plain for RopeShape {}
impl Plain for AttendShape {}
impl Plain for RouteShape {}
