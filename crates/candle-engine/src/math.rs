//! Elementwise parts of a transformer, written in lanes that the compiler vectorizes for the `Cpu`
//! whose `run` calls them.

use crate::kernels::Cpu;
use crate::kernels::portable::madd;

const LANES: usize = 16;

/// Sum of `f(x)` over a slice, in 16 partial sums.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&x| f(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// `out = x / rms(x) · weight`.
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * w;
    }
}

/// `x = (x − mean) / sqrt(variance + eps) · weight + bias`.
#[inline(always)]
pub fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let n = x.len() as f32;
    let mean = sum(x, |x| x) / n;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for ((x, &w), &b) in x.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * w + b;
    }
}

/// `x · Φ(x)`, Φ the normal distribution: GELU with the error function, not with tanh.
///
/// The error function is the rational approximation of Eigen and XLA, without a branch.
#[inline(always)]
pub fn gelu<C: Cpu>(_: C, x: f32) -> f32 {
    // Beyond this, the error function is ±1 in f32.
    const END: f32 = 3.92;
    let z = (x * std::f32::consts::FRAC_1_SQRT_2).clamp(-END, END);
    let z2 = z * z;
    let p = madd::<C>(z2, -2.726_142_3e-10, 2.770_681_4e-8);
    let p = madd::<C>(z2, p, -2.101_024e-6);
    let p = madd::<C>(z2, p, -5.692_506_4e-5);
    let p = madd::<C>(z2, p, -7.349_906_3e-4);
    let p = madd::<C>(z2, p, -2.954_6e-3);
    let p = madd::<C>(z2, p, -1.609_603_3e-2);
    let q = madd::<C>(z2, -1.456_607_2e-5, -2.133_740_6e-4);
    let q = madd::<C>(z2, q, -1.682_827e-3);
    let q = madd::<C>(z2, q, -7.373_329_2e-3);
    let q = madd::<C>(z2, q, -1.426_473_9e-2);
    let erf = if z.abs() == END { z / END } else { z * p / q };
    let half = 0.5 * x;
    madd::<C>(half, erf, half)
}

/// e^x for x <= 88, to about two units in the last place; 0 below −87; NaN stays NaN.
///
/// Uses the polynomial of Cephes' `expf` after reduction by powers of two, without a branch, so
/// that loops over it vectorize.
#[inline(always)]
pub fn exp<C: Cpu>(_: C, x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to the nearest integer
    let clamped = if x < -87.0 { -87.0 } else { x };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts, the first with few bits, so that n · ln 2 is exact.
    let r = madd::<C>(n, -0.693_359_4, clamped);
    let r = madd::<C>(n, 2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = madd::<C>(p, r, 1.398_199_9e-3);
    let p = madd::<C>(p, r, 8.333_452e-3);
    let p = madd::<C>(p, r, 4.166_579_6e-2);
    let p = madd::<C>(p, r, 1.666_666_5e-1);
    let p = madd::<C>(p, r, 0.5);
    let p = madd::<C>(p, r * r, r) + 1.0;
    // The integer is in the low bits of `rounded`: a conversion would not vectorize.
    let power = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let power = f32::from_bits(power);
    if x < -87.0 { 0.0 } else { p * power }
}

/// `gate[i] = silu(gate[i]) · up[i]`, with silu(x) = x / (1 + e^−x).
#[inline(always)]
pub fn silu_times<C: Cpu>(cpu: C, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        // Above 88, e^-(-x) would leave the range of `exp`; silu is 0 there to 36 digits.
        let e = exp(cpu, if g < -87.0 { 87.0 } else { -g });
        *out = g / (1.0 + e) * u;
    }
}

/// Turns scores, multiplied by `scale`, into weights that sum to one.
#[inline(always)]
pub fn softmax<C: Cpu>(cpu: C, scores: &mut [f32], scale: f32) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = scores.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(x);
        }
    }
    let largest = lanes.iter().fold(rest, |a, &b| a.max(b));
    for x in scores.iter_mut() {
        *x = exp(cpu, (*x - largest) * scale);
    }
    let inverse = 1.0 / sum(scores, |x| x);
    for x in scores.iter_mut() {
        *x *= inverse;
    }
}

/// The index of the largest value; the lowest index among equals. NaN never wins; 0 if all are NaN.
pub fn argmax(x: &[f32]) -> usize {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let largest =
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let chunk =
        chunks.iter().position(|c| c.iter().fold(false, |found, &x| found | (x == largest)));
    let start = chunk.map_or(chunks.len(), |c| c) * LANES;
    x[start..].iter().position(|&x| x == largest).map_or(0, |at| start + at)
}

/// Whether all are numbers: neither NaN nor infinite.
pub fn all_finite(x: &[f32]) -> bool {
    // The exponent of one that is not is all ones. No branch inside, so that it vectorizes.
    let not = |x: &f32| x.to_bits() & 0x7f80_0000 == 0x7f80_0000;
    x.chunks(4096).all(|part| !part.iter().fold(false, |found, x| found | not(x)))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::kernels::portable::Portable;

    #[test]
    fn one_value_that_is_no_number_is_seen_wherever_it_is() {
        let mut x = vec![f32::MAX; 10_000];
        assert!(all_finite(&x) && all_finite(&[]) && all_finite(&[f32::MIN_POSITIVE, -0.0]));
        for (at, bad) in [(0, f32::NAN), (4095, f32::INFINITY), (9999, f32::NEG_INFINITY)] {
            let was = std::mem::replace(&mut x[at], bad);
            assert!(!all_finite(&x), "{at}");
            x[at] = was;
        }
    }

    #[test]
    fn exp_agrees_with_the_standard_library() {
        for i in 0..=200_000 {
            let x = -90.0 + i as f32 * 178.0 / 200_000.0;
            let (got, want) = (exp(Portable, x) as f64, (x as f64).exp());
            let absent = if x < -87.0 { 1e-37 } else { 0.0 };
            assert!((got - want).abs() <= want * 3e-7 + absent, "{x}: {got} {want}");
        }
        assert_eq!(exp(Portable, 0.0), 1.0);
        assert_eq!(exp(Portable, f32::NEG_INFINITY), 0.0);
        assert!(exp(Portable, f32::NAN).is_nan());
    }

    #[test]
    fn silu_is_right_at_the_extremes() {
        let g = [-1e30, -100.0, -3.0, 0.0, 3.0, 100.0, 1e30f32];
        let mut out = [0.0; 7];
        silu_times(Portable, &g, &[2.0; 7], &mut out);
        for (&g, &out) in g.iter().zip(&out) {
            let want = 2.0 * g as f64 / (1.0 + (-g as f64).exp());
            assert!((out as f64 - want).abs() <= want.abs() * 1e-6 + 1e-6, "{g}: {out} {want}");
        }
    }

    /// The error function by its series, all of whose terms have one sign.
    pub fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= 2.0 * x * x / (2 * n + 1) as f64;
            sum += term;
        }
        (sum * 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp()).clamp(-1.0, 1.0)
    }

    #[test]
    fn gelu_is_the_one_of_the_error_function() {
        for i in -80_000..=80_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x) * 0.5 * (1.0 + erf(f64::from(x) / 2f64.sqrt()));
            let got = f64::from(gelu(Portable, x));
            assert!((got - want).abs() <= 3e-7 * f64::from(x.abs().max(1.0)), "{x}: {got} {want}");
        }
        assert_eq!((gelu(Portable, 1e30), gelu(Portable, -1e30).abs()), (1e30, 0.0));
        assert!(gelu(Portable, f32::NAN).is_nan());
    }

    #[test]
    fn a_normed_row_has_the_mean_and_deviation_that_it_is_given() {
        let mut x: Vec<f32> = (0..67).map(|i| (i as f32).sin() * 3.0 + 100.0).collect();
        layer_norm(&mut x, &[2.0; 67], &[5.0; 67], 1e-12);
        let mean = x.iter().sum::<f32>() / 67.0;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 67.0;
        assert!((mean - 5.0).abs() < 1e-4 && (variance - 4.0).abs() < 1e-3, "{mean} {variance}");
    }

    #[test]
    fn softmax_sums_to_one_and_ignores_minus_infinity() {
        let mut x: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
        x[99] = f32::NEG_INFINITY;
        softmax(Portable, &mut x, 1.0);
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(x[99], 0.0);
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_no_nan() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, 1.0, f32::NAN]), 1);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), 1);
        assert_eq!(argmax(&[f32::NAN; 3]), 0);
    }
}
