//! Effect size: a difference in units of its spread.

use super::{Sample, beta};

/// Hedges' g (1981): (mean a − mean b) / pooled sd, times the exact correction for its bias,
/// J = Γ(m/2) / (√(m/2) · Γ((m − 1)/2)) with m = n_a + n_b − 2. Absent for samples of one value and
/// where neither varies.
pub fn hedges_g(a: &Sample, b: &Sample) -> Option<f64> {
    let (free_a, free_b) = ((a.n() - 1) as f64, (b.n() - 1) as f64);
    let m = free_a + free_b;
    // Shares of the sums of squares, not the squares: tiny spreads do not underflow.
    let (sd_a, sd_b) = (a.sd()?, b.sd()?);
    let pooled = (sd_a * (free_a / m).sqrt()).hypot(sd_b * (free_b / m).sqrt());
    let d = (a.mean() - b.mean()) / pooled;
    d.is_finite().then(|| d * correction(m))
}

/// Of `m` degrees of freedom, m ≥ 2.
fn correction(m: f64) -> f64 {
    beta::half_step((m - 1.0) / 2.0) / (m / 2.0).sqrt()
}
