//! Two rows of logits as distributions of the next token.

/// What two rows `[n_vocab]` say of each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// KL(first ‖ second) in nats.
    pub kl: f64,
    /// ln Σ exp(logit) of each row.
    pub log_z: [f64; 2],
    /// Index of each row's largest logit, the lower one of equals.
    pub top: [usize; 2],
}

/// Compares two rows. `None` if a logit is not finite or the rows differ in length.
pub fn compare(first: &[f32], second: &[f32]) -> Option<Compared> {
    if first.len() != second.len() || first.is_empty() {
        return None;
    }
    let top = [largest(first)?, largest(second)?];
    let (top_p, top_q) = (first[top[0]], second[top[1]]);
    // Σ p·(ln p − ln q), both shifted by their largest logit, so that no exp overflows.
    let (mut z_p, mut z_q, mut cross) = (0f64, 0f64, 0f64);
    for (&p, &q) in first.iter().zip(second) {
        let (p, q) = (f64::from(p - top_p), f64::from(q - top_q));
        let e = p.exp();
        z_p += e;
        z_q += q.exp();
        cross += e * (p - q);
    }
    let kl = (cross / z_p - z_p.ln() + z_q.ln()).max(0.0);
    Some(Compared { kl, log_z: [f64::from(top_p) + z_p.ln(), f64::from(top_q) + z_q.ln()], top })
}

/// Index of the largest value; `None` if a value is not finite.
fn largest(row: &[f32]) -> Option<usize> {
    let mut best = 0;
    for (i, &x) in row.iter().enumerate() {
        if !x.is_finite() {
            return None;
        }
        if x > row[best] {
            best = i;
        }
    }
    Some(best)
}
