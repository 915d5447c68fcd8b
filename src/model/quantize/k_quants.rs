//! The K types (super-blocks of 256 weights). Fits scales and minimums by weighted least squares
//! over a small grid of step sizes. The search follows llama.cpp's step for step, so that the bytes
//! equal those of `llama-quantize` (tested); candle's own quantizers of these types fit worse.
//!
//! Each lane is one group. All groups of a super-block are searched together, each summed in the
//! order of its weights, which is fast and changes no rounding.

use half::f16;

/// A group below this counts as zeros.
const TINY: f32 = 1e-15;

/// Step sizes around the one that spans a group from its minimum to its largest weight: `levels +
/// first + 0.1 · i` steps instead of `levels`, for `i` from 0 to `last`.
#[derive(Clone, Copy)]
struct Grid {
    levels: f32,
    first: f32,
    last: u32,
}

const Q4_K: Grid = Grid { levels: 15.0, first: -1.0, last: 20 };
const Q5_K: Grid = Grid { levels: 31.0, first: -0.5, last: 15 };

/// `weight ≈ scale · quant + min` for each of eight groups.
#[derive(Clone, Copy)]
struct Fit {
    scale: [f32; 8],
    min: [f32; 8],
    /// The quants of the search are `(weight − origin) · steps`, rounded.
    origin: [f32; 8],
    steps: [f32; 8],
}

/// Rounds to the nearest whole number, ties to even, for |x| < 2²², in a form that every vector
/// unit has.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// `x` between bounds; NaN becomes `low`.
#[inline(always)]
fn between(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// `LANES` groups of `LEN` consecutive weights, side by side.
fn side_by_side<const LANES: usize, const LEN: usize>(x: &[f32; 256]) -> [[f32; LANES]; LEN] {
    std::array::from_fn(|i| std::array::from_fn(|lane| x[lane * LEN + i]))
}

/// Fits scale and minimum of eight groups of 32. The error of each weight is weighted by `|x|` plus
/// the root mean square of its group.
fn fit(x: &[f32; 256], grid: Grid) -> Fit {
    let x: [[f32; 8]; 32] = side_by_side(x);
    let mut square = [0.0f32; 8];
    for x in &x {
        for g in 0..8 {
            square[g] += x[g] * x[g];
        }
    }
    let rms = square.map(|s| (s / 32.0).sqrt());
    let mut importance = [[0.0f32; 8]; 32];
    let (mut low, mut high) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = ([0.0; 8], [0.0; 8]);
    for (x, w) in x.iter().zip(&mut importance) {
        for g in 0..8 {
            w[g] = rms[g] + x[g].abs();
            low[g] = if x[g] < low[g] { x[g] } else { low[g] };
            high[g] = if x[g] > high[g] { x[g] } else { high[g] };
            sum_w[g] += w[g];
            sum_x[g] += w[g] * x[g];
        }
    }
    // The format stores a minimum to subtract, so a positive one becomes 0.
    low = low.map(|x| if x > 0.0 { 0.0 } else { x });

    // The plain span comes first; its scale and minimum are not refined.
    let mut steps = [0.0; 8];
    let mut best = Fit { scale: [0.0; 8], min: low, origin: low, steps };
    for g in 0..8 {
        steps[g] = grid.levels / (high[g] - low[g]);
        best.scale[g] = 1.0 / steps[g];
    }
    best.steps = steps;
    let mut quants = [[0.0f32; 8]; 32];
    quantize(&x, &low, &steps, grid.levels, &mut quants);
    let mut least = error(&x, &importance, &quants, &best.scale, &best.min);
    for i in 0..=grid.last {
        // A better minimum moves the candidates that follow.
        let origin = best.min;
        let levels = grid.first + 0.1 * i as f32 + grid.levels;
        for g in 0..8 {
            steps[g] = levels / (high[g] - origin[g]);
        }
        quantize(&x, &origin, &steps, grid.levels, &mut quants);
        let (mut sum_q, mut sum_qq, mut sum_xq) = ([0.0; 8], [0.0; 8], [0.0; 8]);
        for ((x, w), q) in x.iter().zip(&importance).zip(&quants) {
            for g in 0..8 {
                let wq = w[g] * q[g];
                sum_q[g] += wq;
                sum_qq[g] += wq * q[g];
                sum_xq[g] += wq * x[g];
            }
        }
        let (mut scale, mut min, mut solved) = ([0.0; 8], [0.0; 8], [false; 8]);
        for g in 0..8 {
            let determinant = sum_w[g] * sum_qq[g] - sum_q[g] * sum_q[g];
            solved[g] = determinant > 0.0;
            scale[g] = (sum_w[g] * sum_xq[g] - sum_x[g] * sum_q[g]) / determinant;
            min[g] = (sum_qq[g] * sum_x[g] - sum_q[g] * sum_xq[g]) / determinant;
            if min[g] > 0.0 {
                min[g] = 0.0;
                scale[g] = sum_xq[g] / sum_qq[g];
            }
        }
        let error = error(&x, &importance, &quants, &scale, &min);
        for g in 0..8 {
            if solved[g] && error[g] < least[g] {
                least[g] = error[g];
                (best.scale[g], best.min[g]) = (scale[g], min[g]);
                (best.origin[g], best.steps[g]) = (origin[g], steps[g]);
            }
        }
    }
    for g in 0..8 {
        if high[g] == low[g] {
            (best.scale[g], best.min[g], best.steps[g]) = (0.0, low[g], 0.0);
        }
    }
    best
}

#[inline(always)]
fn quantize(
    x: &[[f32; 8]; 32],
    origin: &[f32; 8],
    steps: &[f32; 8],
    levels: f32,
    quants: &mut [[f32; 8]; 32],
) {
    for (x, q) in x.iter().zip(quants) {
        for g in 0..8 {
            q[g] = nearest(between(steps[g] * (x[g] - origin[g]), 0.0, levels));
        }
    }
}

/// Weighted sum of squares of each group.
#[inline(always)]
fn error(
    x: &[[f32; 8]; 32],
    importance: &[[f32; 8]; 32],
    quants: &[[f32; 8]; 32],
    scale: &[f32; 8],
    min: &[f32; 8],
) -> [f32; 8] {
    let mut sum = [0.0; 8];
    for ((x, w), q) in x.iter().zip(importance).zip(quants) {
        for g in 0..8 {
            let off = scale[g] * q[g] + min[g] - x[g];
            sum[g] += w[g] * (off * off);
        }
    }
    sum
}

/// Packs a super-block of eight groups: two f16 scales, then the packed scales and minimums.
/// Returns the 256 quants for the caller to pack.
fn with_minimums(x: &[f32; 256], grid: Grid, out: &mut [u8]) -> [u8; 256] {
    let fit = fit(x, grid);
    let largest =
        |of: [f32; 8]| of.into_iter().fold(0.0, |most, v| if v > most { v } else { most });
    let below = fit.min.map(|m| -m);
    let (max_scale, max_min) = (largest(fit.scale), largest(below));
    let per = |most: f32| if most > 0.0 { 63.0 / most } else { 0.0 };
    let (per_scale, per_min) = (per(max_scale), per(max_min));
    let six_bits = |v: f32| between(nearest(v), 0.0, 63.0) as u8;
    let scales = fit.scale.map(|scale| six_bits(per_scale * scale));
    let mins = below.map(|min| six_bits(per_min * min));
    let (d, dmin) = (f16::from_f32(max_scale / 63.0), f16::from_f32(max_min / 63.0));
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&dmin.to_le_bytes());
    pack_scales_and_mins(&mut out[4..16], &scales, &mins);

    let mut quants = [0; 256];
    let groups = x.as_chunks::<32>().0.iter().zip(quants.as_chunks_mut::<32>().0);
    for (g, (x, quants)) in groups.enumerate() {
        let step = d.to_f32() * f32::from(scales[g]);
        let min = dmin.to_f32() * f32::from(mins[g]);
        for (q, &x) in quants.iter_mut().zip(x) {
            // If the scale is too small to store, the group decodes to one value whatever its
            // quants.
            let v = match step {
                0.0 => fit.steps[g] * (x - fit.origin[g]),
                step => (x + min) / step,
            };
            *q = nearest(between(v, 0.0, grid.levels)) as u8;
        }
    }
    quants
}

/// One block of Q4_K, 144 bytes.
pub fn q4_k(x: &[f32; 256], out: &mut [u8]) {
    let quants = with_minimums(x, Q4_K, out);
    for (out, q) in out[16..].chunks_exact_mut(32).zip(quants.as_chunks::<64>().0) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = q[i] | q[i + 32] << 4;
        }
    }
}

/// One block of Q5_K, 176 bytes: the fifth bits come before the others.
pub fn q5_k(x: &[f32; 256], out: &mut [u8]) {
    let quants = with_minimums(x, Q5_K, out);
    let (fifth, low) = out[16..].split_at_mut(32);
    fifth.fill(0);
    for (pair, (low, q)) in low.chunks_exact_mut(32).zip(quants.as_chunks::<64>().0).enumerate() {
        for i in 0..32 {
            low[i] = q[i] & 15 | (q[i + 32] & 15) << 4;
            fifth[i] |= (q[i] >> 4 | q[i + 32] >> 4 << 1) << (2 * pair);
        }
    }
}

/// Fits `weight ≈ scale · quant` for each of sixteen groups of sixteen, with quants from −32 to 31.
/// The error of each weight is weighted by its square. Returns the scales, and the steps that the
/// quants were rounded with.
fn fit_symmetric(x: &[f32; 256]) -> ([f32; 16], [f32; 16]) {
    let x: [[f32; 16]; 16] = side_by_side(x);
    let mut extreme = [0.0f32; 16];
    for x in &x {
        for g in 0..16 {
            extreme[g] = if x[g].abs() > extreme[g].abs() { x[g] } else { extreme[g] };
        }
    }
    // The plain span comes first, then up to 0.9 steps less or more.
    let (mut best_scale, mut best_steps, mut gain) = ([0.0; 16], [0.0; 16], [f32::MIN; 16]);
    for tenths in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let steps = extreme.map(|x| -(32.0 + 0.1 * tenths as f32) / x);
        let (mut sum_xq, mut sum_qq) = ([0.0; 16], [0.0; 16]);
        for x in &x {
            for g in 0..16 {
                let q = nearest(between(steps[g] * x[g], -32.0, 31.0));
                let w = x[g] * x[g];
                sum_xq[g] += w * x[g] * q;
                sum_qq[g] += w * q * q;
            }
        }
        for g in 0..16 {
            let better = sum_xq[g] * sum_xq[g] > gain[g] * sum_qq[g];
            if sum_qq[g] > 0.0 && better {
                best_scale[g] = sum_xq[g] / sum_qq[g];
                best_steps[g] = steps[g];
                gain[g] = best_scale[g] * sum_xq[g];
            }
        }
    }
    for g in 0..16 {
        if extreme[g].abs() < TINY {
            (best_scale[g], best_steps[g]) = (0.0, 0.0);
        }
    }
    (best_scale, best_steps)
}

/// One block of Q6_K, 210 bytes.
pub fn q6_k(x: &[f32; 256], out: &mut [u8]) {
    let (scale, steps) = fit_symmetric(x);
    let largest =
        scale.into_iter().fold(0.0f32, |most, s| if s.abs() > most.abs() { s } else { most });
    if largest.abs() < TINY {
        return out.fill(0);
    }
    let per_scale = -128.0 / largest;
    let d = f16::from_f32(1.0 / per_scale);
    let scales = scale.map(|s| between(nearest(per_scale * s), -128.0, 127.0) as i8);
    let mut quants = [0u8; 256];
    let groups = x.as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<16>().0);
    for (g, (x, quants)) in groups.enumerate() {
        let step = d.to_f32() * f32::from(scales[g]);
        for (q, &x) in quants.iter_mut().zip(x) {
            let v = match step {
                0.0 if scale[g] == 0.0 => -32.0,
                0.0 => steps[g] * x,
                step => x / step,
            };
            *q = (nearest(between(v, -32.0, 31.0)) + 32.0) as u8;
        }
    }
    let (low, rest) = out.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    let halves = low.chunks_exact_mut(64).zip(high.chunks_exact_mut(32));
    for ((low, high), q) in halves.zip(quants.as_chunks::<128>().0) {
        for i in 0..32 {
            let [a, b, c, e] = [q[i], q[i + 32], q[i + 64], q[i + 96]];
            low[i] = a & 15 | (c & 15) << 4;
            low[i + 32] = b & 15 | (e & 15) << 4;
            high[i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | e >> 4 << 6;
        }
    }
    for (out, scale) in rest.iter_mut().zip(scales) {
        *out = scale as u8;
    }
    rest[16..18].copy_from_slice(&d.to_le_bytes());
}

/// Packs eight six-bit scales and minimums into twelve bytes; `get_scale_min_k4` in llama.cpp's
/// `ggml-quants.c` unpacks them.
pub fn pack_scales_and_mins(out: &mut [u8], scales: &[u8; 8], mins: &[u8; 8]) {
    for i in 0..4 {
        out[i] = scales[i] | (scales[i + 4] >> 4) << 6;
        out[i + 4] = mins[i] | (mins[i + 4] >> 4) << 6;
        out[i + 8] = (scales[i + 4] & 15) | (mins[i + 4] & 15) << 4;
    }
}
