//! Compiles a loop for the machine it runs on: one body, an AVX2 copy of it, chosen at run time.
//!
//! The default x86-64 target has 4-wide arithmetic without fused multiply-add; plain loops over
//! slices get 8-wide code here without a line of intrinsics. Elsewhere the body is used as it is.

/// Defines a function whose body is also compiled with AVX2 and FMA and dispatched at run time.
macro_rules! multiversion {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn plain($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($argument: $type),*) $(-> $result)? {
                    plain($($argument),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the features were just detected.
                    return unsafe { wide($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    };
}

pub(crate) use multiversion;

/// Adding 1.5·2²³ leaves no bits for a fraction: the sum's low bits are the whole number, rounded.
const ROUNDER: f32 = 12_582_912.0;

/// Returns e^x with a relative error below 2e-7, in a form that compilers vectorise.
///
/// Cody–Waite range reduction and a degree-6 polynomial (Cephes `expf`). Arguments below −87 give
/// a value near 1e-38 instead of 0, above 88 one near the largest f32.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // A conversion to an integer would saturate, which costs more than all the rest.
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let whole = rounded - ROUNDER;
    let rest = (x - whole * 0.693_359_4) - whole * -2.121_944_4e-4;
    let mut polynomial = 1.987_569_1e-4_f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial * rest + coefficient;
    }
    let mantissa = polynomial * rest * rest + rest + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    mantissa * power
}

/// Returns 1 / (1 + e^−x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_standard_library() {
        for i in -8_700..=8_700 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "exp({x})");
        }
    }
}
