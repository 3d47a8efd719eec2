//! Matrix products with bf16 factors and f32 sums, for processors with AVX-512 BF16.
//!
//! Operands stay f32 in memory. Each product rounds them to bf16 (to nearest, ties to even) while
//! it packs them, and `vdpbf16ps` then does twice the work of an f32 multiply-add.
//!
//! Both operands pack alike: panels of 16 lanes (rows of `a`, columns of `b`), where a line of 64
//! bytes holds two neighbours along k for every lane. That is the order in which `vdpbf16ps` wants
//! `b`, and a pair of `a` is one 32-bit broadcast. Missing lanes and an odd last k are zeros, so
//! only the write to the result needs masks.
//!
//! The instruction takes denormals for zeros; infinities and NaN pass through.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;

use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;

/// Lanes of a panel: the f32 in a register.
const LANES: usize = 16;
/// Rows of a tile. Eight rows by three registers are 24 sums: they hide the latency of the
/// instruction and leave registers for the operands.
const TILE_ROWS: usize = 8;
/// Registers across a tile.
const TILE_PANELS: usize = 3;
/// Size of a block along k, even: three panels of `b` that deep stay near the first-level cache.
const K_BLOCK: usize = 384;
/// Columns of a block of `b`, which is to stay in the second-level cache.
const N_BLOCK: usize = 12 * TILE_PANELS * LANES;
/// Rows of a block of `a`, a multiple of `LANES`.
const M_BLOCK: usize = 128;

/// Two neighbours along k, as bf16, of each lane of a panel.
type Line = __m512i;

thread_local! {
    /// Room for the packed blocks of `a` and `b`, kept because products are many and short.
    static PACKED: RefCell<(Vec<Line>, Vec<Line>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Whether this processor has the instructions.
pub fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Computes `dst = scale · a·b` or `dst += scale · a·b` on this thread; `dst` has rows `dst_stride` apart.
///
/// # Panics
/// When shapes do not fit the slices or [`is_supported`] is false: a bug of the caller.
pub fn matmul_bf16(dst: &mut [f32], dst_stride: usize, a: View, b: View, scale: f32, write: Write) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(is_supported(), "bf16 products on this processor");
    assert_eq!(k, b.rows, "inner sizes of a product");
    assert!(a.is_within() && b.is_within(), "operand of a product within its slice");
    assert!(n <= dst_stride && (m - 1) * dst_stride + n <= dst.len(), "result of a product within its slice");
    PACKED.with_borrow_mut(|(packed_a, packed_b)| {
        for from in (0..k.max(1)).step_by(K_BLOCK) {
            let depth = (k - from).min(K_BLOCK);
            let write = if from == 0 { write } else { Write::Add };
            let a = part(a, 0, m, from, depth);
            for left in (0..n).step_by(N_BLOCK) {
                let width = (n - left).min(N_BLOCK);
                // SAFETY: the processor has the instructions, by the first assert; the others
                // put every part of the operands and of the result within its slice.
                unsafe {
                    pack(packed_b, part(b.transposed(), left, width, from, depth));
                    let whole = Region { rows: m, columns: width, stride: dst_stride, scale, write };
                    multiply(&mut dst[left..], whole, a, packed_a, packed_b);
                }
            }
        }
    });
}

/// Returns `rows × columns` elements of `v` from (`top`, `left`) on.
fn part(v: View, top: usize, rows: usize, left: usize, columns: usize) -> View {
    let from = (top * v.row_stride + left * v.column_stride).min(v.data.len());
    View { data: &v.data[from..], rows, columns, ..v }
}

/// The mask of the first `count` of 16.
fn first(count: usize) -> __mmask16 {
    if count < LANES { (1 << count) - 1 } else { !0 }
}

/// Rounds `v`, whose rows are the lanes and whose columns run along k, and lays it out in panels.
///
/// # Safety
/// The processor must have the instructions and every element of `v` must lie in its slice.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack(packed: &mut Vec<Line>, v: View) {
    let pairs = v.columns.div_ceil(2);
    let size = v.rows.div_ceil(LANES) * pairs;
    if packed.len() < size {
        packed.resize(size, _mm512_setzero_si512());
    }
    // SAFETY: as for this function.
    unsafe {
        if v.column_stride == 1 {
            for (i, panel) in packed[..size].chunks_exact_mut(pairs.max(1)).enumerate() {
                let lanes = (v.rows - i * LANES).min(LANES);
                pack_along_k(panel, part(v, i * LANES, lanes, 0, v.columns));
            }
        } else {
            pack_across_k(&mut packed[..size], pairs, v);
        }
    }
}

/// [`pack`] for one panel whose lanes are contiguous along k: 16 pairs of every lane, transposed.
///
/// # Safety
/// As for [`pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_along_k(panel: &mut [Line], v: View) {
    for (i, lines) in panel.chunks_mut(LANES).enumerate() {
        let from = i * 2 * LANES;
        let low = first(v.columns - from);
        let high = first((v.columns - from).saturating_sub(LANES));
        let mut x = [_mm512_setzero_si512(); LANES];
        for (lane, x) in x.iter_mut().enumerate() {
            let (low, high) = if lane < v.rows { (low, high) } else { (0, 0) };
            let at = v.data.as_ptr().wrapping_add(lane * v.row_stride + from);
            // SAFETY: the masks admit elements of `v` only.
            unsafe {
                let low = _mm512_maskz_loadu_ps(low, at);
                let high = _mm512_maskz_loadu_ps(high, at.wrapping_add(LANES));
                *x = rounded(low, high);
            }
        }
        for (line, x) in lines.iter_mut().zip(transposed(x)) {
            *line = x;
        }
    }
}

/// [`pack`] for other strides: two columns at a time, interleaved.
///
/// # Safety
/// As for [`pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_across_k(packed: &mut [Line], pairs: usize, v: View) {
    let interleave: [u16; 2 * LANES] = std::array::from_fn(|i| (i / 2 + i % 2 * LANES) as u16);
    // SAFETY: both are 512 plain bits.
    let interleave: __m512i = unsafe { std::mem::transmute(interleave) };
    for pair in 0..pairs {
        let low = &v.data[2 * pair * v.column_stride..];
        // An odd last column pairs with zeros: no lane of it is taken.
        let (high, high_rows) =
            if 2 * pair + 1 < v.columns { (&low[v.column_stride..], v.rows) } else { (low, 0) };
        for (top, line) in (0..v.rows).step_by(LANES).zip(packed[pair..].iter_mut().step_by(pairs)) {
            // SAFETY: the rows counted are those of `v`.
            let (low, high) =
                unsafe { (lanes(low, top, v.rows, v.row_stride), lanes(high, top, high_rows, v.row_stride)) };
            let x = rounded(low, high);
            *line = _mm512_permutexvar_epi16(interleave, x);
        }
    }
}

/// Returns elements `top` to `top + 15` of a column of `rows` elements, `stride` apart, and zeros after its end.
///
/// # Safety
/// The processor must have the instructions and the column must lie in its slice.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn lanes(column: &[f32], top: usize, rows: usize, stride: usize) -> __m512 {
    let count = rows.saturating_sub(top);
    if stride == 1 {
        // SAFETY: the mask admits the elements of the column only.
        return unsafe { _mm512_maskz_loadu_ps(first(count), column.as_ptr().wrapping_add(top)) };
    }
    let mut x = [0.0; LANES];
    for (lane, x) in x.iter_mut().enumerate().take(count) {
        *x = column[(top + lane) * stride];
    }
    // SAFETY: the array is one register wide.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// Transposes 16 × 16 pairs: within 128-bit quarters first, then the quarters.
#[target_feature(enable = "avx512f")]
fn transposed(x: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut t = x;
    for i in (0..LANES).step_by(4) {
        let low = [_mm512_unpacklo_epi32(x[i], x[i + 1]), _mm512_unpacklo_epi32(x[i + 2], x[i + 3])];
        let high = [_mm512_unpackhi_epi32(x[i], x[i + 1]), _mm512_unpackhi_epi32(x[i + 2], x[i + 3])];
        t[i] = _mm512_unpacklo_epi64(low[0], low[1]);
        t[i + 1] = _mm512_unpackhi_epi64(low[0], low[1]);
        t[i + 2] = _mm512_unpacklo_epi64(high[0], high[1]);
        t[i + 3] = _mm512_unpackhi_epi64(high[0], high[1]);
    }
    let mut out = x;
    for i in 0..4 {
        let (a, b, c, d) = (t[i], t[i + 4], t[i + 8], t[i + 12]);
        let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d)];
        let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d)];
        out[i] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        out[i + 4] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        out[i + 8] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        out[i + 12] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    out
}

/// What to write: a region of the result.
#[derive(Clone, Copy)]
struct Region {
    rows: usize,
    columns: usize,
    stride: usize,
    scale: f32,
    write: Write,
}

/// Multiplies `a` by the packed block of `b`, a block of rows at a time.
///
/// # Safety
/// The processor must have the instructions, every element of `a` must lie in its slice, and
/// `packed_b` must hold `columns` lanes as deep as `a`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn multiply(dst: &mut [f32], whole: Region, a: View, packed_a: &mut Vec<Line>, packed_b: &[Line]) {
    let pairs = a.columns.div_ceil(2);
    let panels = whole.columns.div_ceil(LANES);
    for top in (0..whole.rows).step_by(M_BLOCK) {
        let rows = (whole.rows - top).min(M_BLOCK);
        // SAFETY: as for this function.
        unsafe { pack(packed_a, part(a, top, rows, 0, a.columns)) };
        let mut panel = 0;
        while panel < panels {
            // Four panels are better halved: a tile of one waits for its operands.
            let width = if panels - panel == 4 { 2 } else { (panels - panel).min(TILE_PANELS) };
            let b = &packed_b[panel * pairs..][..width * pairs];
            for row in (0..rows).step_by(TILE_ROWS) {
                let (a, lane) = (&packed_a[row / LANES * pairs..][..pairs], row % LANES);
                let dst = &mut dst[(top + row) * whole.stride + panel * LANES..];
                let rows = (rows - row).min(TILE_ROWS);
                let region = Region { rows, columns: whole.columns - panel * LANES, ..whole };
                // SAFETY: `a` and `b` are as deep and wide as the tile, which lies within the result.
                unsafe {
                    match width {
                        1 => tile::<1>(dst, region, a, lane, b),
                        2 => tile::<2>(dst, region, a, lane, b),
                        _ => tile::<3>(dst, region, a, lane, b),
                    }
                }
            }
            panel += width;
        }
    }
}

/// Computes a tile of the result: up to eight rows of `a`, from `lane` of its panel on, by
/// `PANELS` panels of `b`.
///
/// # Safety
/// The processor must have the instructions, `b` must hold `PANELS` panels as long as `a`, `lane`
/// must be 0 or 8, and as much of the tile as `region` has must lie in `dst`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile<const PANELS: usize>(dst: &mut [f32], region: Region, a: &[Line], lane: usize, b: &[Line]) {
    let pairs = a.len();
    let mut sums = [[_mm512_setzero_ps(); PANELS]; TILE_ROWS];
    for pair in 0..pairs {
        // SAFETY: both indices are within their panels.
        unsafe {
            let a = a.as_ptr().add(pair).cast::<i32>().add(lane);
            let mut y = [_mm512_setzero_si512(); PANELS];
            for (panel, y) in y.iter_mut().enumerate() {
                *y = *b.get_unchecked(panel * pairs + pair);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(*a.add(row));
                for (sum, y) in sums.iter_mut().zip(y) {
                    *sum = _mm512_dpbf16_ps(*sum, factors(x), factors(y));
                }
            }
        }
    }
    let scale = _mm512_set1_ps(region.scale);
    for (row, sums) in sums.iter().enumerate().take(region.rows) {
        for (panel, sum) in sums.iter().enumerate() {
            let mask = first(region.columns - panel * LANES);
            // SAFETY: the mask admits columns of the tile only.
            unsafe {
                let at = dst.as_mut_ptr().add(row * region.stride + panel * LANES);
                let value = match region.write {
                    Write::Replace => _mm512_mul_ps(*sum, scale),
                    Write::Add => _mm512_fmadd_ps(*sum, scale, _mm512_maskz_loadu_ps(mask, at)),
                };
                _mm512_mask_storeu_ps(at, mask, value);
            }
        }
    }
}

/// Rounds 32 numbers to bf16, those of `low` first.
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Takes bits for bf16 numbers.
#[target_feature(enable = "avx512f")]
fn factors(x: __m512i) -> __m512bh {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::numbers;

    /// A matrix of numbers in -0.5..0.5, of 12 bits so that some lie half-way between two bf16.
    fn factor(rows: usize, columns: usize, strides: (usize, usize), seed: u64) -> Vec<f32> {
        let last = rows.saturating_sub(1) * strides.0 + columns.saturating_sub(1) * strides.1;
        numbers(last + 1, 0.5, seed)
    }

    /// Element (i, j) rounded to bf16, to nearest and ties to even.
    fn at(v: &View, i: usize, j: usize) -> f64 {
        let bits = v.data[i * v.row_stride + j * v.column_stride].to_bits();
        f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
    }

    fn check((m, k, n): (usize, usize, usize), a_strides: (usize, usize), b_strides: (usize, usize)) {
        let (a, b) = (factor(m, k, a_strides, 1), factor(k, n, b_strides, 2));
        let a = View { data: &a, rows: m, columns: k, row_stride: a_strides.0, column_stride: a_strides.1 };
        let b = View { data: &b, rows: k, columns: n, row_stride: b_strides.0, column_stride: b_strides.1 };
        // What is there before is added to, or never read.
        let writes = [(Write::Replace, f32::NAN, 0.3, n + 3), (Write::Add, 7.0, -1.7, n + 1)];
        for (write, before, scale, stride) in writes {
            let mut dst = vec![before; (m - 1) * stride + n];
            matmul_bf16(&mut dst, stride, a, b, scale, write);
            for (place, value) in dst.iter().enumerate() {
                let (i, j) = (place / stride, place % stride);
                if j >= n {
                    assert_eq!(value.to_bits(), before.to_bits(), "between rows");
                    continue;
                }
                let terms = (0..k).map(|p| f64::from(scale) * at(&a, i, p) * at(&b, p, j));
                let start = if write == Write::Add { (7.0, 7.0) } else { (0.0, 0.0) };
                let (sum, size) = terms.fold(start, |(sum, size), x| (sum + x, size + x.abs()));
                let error = (f64::from(*value) - sum).abs();
                assert!(error <= 1e-6 * size, "{m}×{k}×{n} at ({i}, {j}): {value} for {sum}");
            }
        }
    }

    #[test]
    fn products_of_any_shape_and_strides_agree_with_plain_sums() {
        if !is_supported() {
            return;
        }
        let sizes =
            [(1, 1, 1), (3, 0, 2), (7, 2, 15), (8, 33, 48), (17, 31, 64), (70, 65, 97), (9, K_BLOCK + 1, 33)];
        for (m, k, n) in sizes {
            for a in [(k + 2, 1), (1, m + 1), (2 * k + 1, 2)] {
                for b in [(n + 1, 1), (1, k + 3), (3, 3 * k + 1)] {
                    check((m, k, n), a, b);
                }
            }
        }
        check((M_BLOCK + 5, 3, N_BLOCK + 20), (3, 1), (1, 3));
    }
}
