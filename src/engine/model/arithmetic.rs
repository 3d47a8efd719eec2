//! The operations of a forward pass in the precision of the model.

use crate::engine::model::linear::Quant;
use crate::engine::ops::attention::Attend;
use crate::engine::ops::attention::attend;
use crate::engine::ops::exact;
use crate::engine::ops::norm::rms_norm;
use crate::engine::ops::project::project;
use crate::engine::ops::softmax::softmax;
use crate::engine::ops::swiglu::swiglu;

/// One function for each operation, chosen once for many rows.
#[derive(Debug, Clone, Copy)]
pub struct Arithmetic {
    /// `y = x·wᵀ`.
    pub project: fn(&mut [f32], &[f32], &[f32], usize),
    /// The attention of some queries over pages.
    pub attend: Attend,
    /// The root-mean-square norm of rows.
    pub rms_norm: fn(&mut [f32], &[f32], &[f32], f32),
    /// The softmax of one row.
    pub softmax: fn(&mut [f32]),
    /// `silu(gate) · up` of rows.
    pub swiglu: fn(&mut [f32], &[f32], usize),
}

impl Arithmetic {
    /// Returns the operations for a precision.
    pub fn of(quant: Quant) -> Arithmetic {
        match quant {
            Quant::F32 => Arithmetic {
                project: exact::project,
                attend: exact::attend,
                rms_norm: exact::rms_norm,
                softmax: exact::softmax,
                swiglu: exact::swiglu,
            },
            Quant::Bf16 | Quant::Q8 | Quant::Q4 => Arithmetic { project, attend, rms_norm, softmax, swiglu },
        }
    }
}
