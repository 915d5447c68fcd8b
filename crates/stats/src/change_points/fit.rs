//! How well flat levels and ramps fit stretches of a series whose noise is autocorrelated, AR(1).
//!
//! Each stretch starts anew: its first value is a draw from the stationary distribution. Then the
//! stretches are independent, and the generalized least squares of each take O(1) time from
//! prefix sums that do not depend on the autocorrelation.

/// Prefix sums of a series y: entry t holds the sum over the values before t.
pub(super) struct Sums {
    y: Vec<f64>,
    sum: Vec<f64>,
    squares: Vec<f64>,
    /// y[t]·y[t − 1].
    lagged: Vec<f64>,
    /// t·y[t].
    timed: Vec<f64>,
}

/// A stretch of the series and the shape that is fitted to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub start: usize,
    pub end: usize,
    /// A straight line that may rise or fall, instead of a level.
    pub ramp: bool,
}

/// What was fitted: the value at the first and the last session, equal for a level, and their
/// variances in units of the innovations' variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub first: f64,
    pub last: f64,
    pub first_variance: f64,
    pub last_variance: f64,
}

impl Stretch {
    pub fn len(&self) -> usize {
        self.end - self.start
    }
}

/// The normal equations of a stretch.
struct Normal {
    /// Products of the regressors: constant × constant, constant × time, time × time.
    gram: [f64; 3],
    /// Products of the regressors with the values.
    right: [f64; 2],
    squares: f64,
}

impl Sums {
    pub fn new(y: Vec<f64>) -> Self {
        let running = |term: &dyn Fn(usize) -> f64| {
            let mut total = 0.0;
            let sums = (0..y.len()).map(|t| {
                total += term(t);
                total
            });
            [0.0].into_iter().chain(sums).collect::<Vec<f64>>()
        };
        let sum = running(&|t| y[t]);
        let squares = running(&|t| y[t] * y[t]);
        let lagged = running(&|t| if t == 0 { 0.0 } else { y[t] * y[t - 1] });
        let timed = running(&|t| t as f64 * y[t]);
        Self { y, sum, squares, lagged, timed }
    }

    pub fn len(&self) -> usize {
        self.y.len()
    }

    pub fn values(&self) -> &[f64] {
        &self.y
    }

    /// Mean of a stretch.
    pub fn mean(&self, start: usize, end: usize) -> f64 {
        (self.sum[end] - self.sum[start]) / (end - start) as f64
    }

    fn normal(&self, a: usize, b: usize, phi: f64) -> Normal {
        let (first, rest) = (1.0 - phi * phi, 1.0 - phi);
        let between = |sums: &[f64], from: usize, to: usize| sums[to] - sums[from];
        // The innovations u[t] = y[t] − φ·y[t − 1] of a < t < b, with k = t − a.
        let lag_sum = between(&self.sum, a, b - 1);
        let u = between(&self.sum, a + 1, b) - phi * lag_sum;
        let uu = between(&self.squares, a + 1, b) - 2.0 * phi * between(&self.lagged, a + 1, b)
            + phi * phi * between(&self.squares, a, b - 1);
        let lag_timed = between(&self.timed, a, b - 1) + lag_sum;
        let ku = between(&self.timed, a + 1, b) - phi * lag_timed - a as f64 * u;
        let m = (b - a - 1) as f64;
        let (k, kk) = (m * (m + 1.0) / 2.0, m * (m + 1.0) * (2.0 * m + 1.0) / 6.0);
        Normal {
            gram: [
                first + m * rest * rest,
                rest * (rest * k + phi * m),
                rest * rest * kk + 2.0 * rest * phi * k + phi * phi * m,
            ],
            right: [first * self.y[a] + rest * u, rest * ku + phi * u],
            squares: first * self.y[a] * self.y[a] + uu,
        }
    }

    /// The sums of squared innovations about the best level and about the best ramp.
    pub fn costs(&self, a: usize, b: usize, phi: f64) -> [f64; 2] {
        let Normal { gram: [g, h, k], right: [p, q], squares } = self.normal(a, b, phi);
        let level = squares - p * p / g;
        // The time regressor without its part along the constant.
        let (own, along) = (k - h * h / g, q - h * p / g);
        let ramp = if own > 0.0 { level - along * along / own } else { level };
        [level.max(0.0), ramp.max(0.0)]
    }

    /// The sum of squared innovations over all stretches.
    pub fn cost(&self, stretches: &[Stretch], phi: f64) -> f64 {
        stretches.iter().map(|s| self.costs(s.start, s.end, phi)[usize::from(s.ramp)]).sum()
    }

    pub fn line(&self, stretch: &Stretch, phi: f64) -> Line {
        let Normal { gram: [g, h, k], right: [p, q], .. } =
            self.normal(stretch.start, stretch.end, phi);
        let own = k - h * h / g;
        if !stretch.ramp || own <= 0.0 {
            let (level, variance) = (p / g, 1.0 / g);
            return Line {
                first: level,
                last: level,
                first_variance: variance,
                last_variance: variance,
            };
        }
        let slope = (q - h * p / g) / own;
        let first = (p - h * slope) / g;
        let reach = (stretch.len() - 1) as f64;
        let variance = |at: f64| 1.0 / g + (at - h / g).powi(2) / own;
        Line {
            first,
            last: first + reach * slope,
            first_variance: variance(0.0),
            last_variance: variance(reach),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same least squares, term by term.
    fn slowly(y: &[f64], phi: f64, level: f64, slope: f64) -> f64 {
        let e: Vec<f64> = y.iter().enumerate().map(|(k, v)| v - level - slope * k as f64).collect();
        (1.0 - phi * phi) * e[0] * e[0]
            + e.windows(2).map(|w| (w[1] - phi * w[0]).powi(2)).sum::<f64>()
    }

    #[test]
    fn prefix_sums_give_the_least_squares_of_the_definition() {
        let y = [0.3, -0.2, 0.5, 1.1, 0.9, 1.4, -0.2, 1.0, 0.7];
        let sums = Sums::new(y.to_vec());
        for phi in [0.0, 0.4, 0.9] {
            for (start, end) in [(0, 9), (2, 5), (3, 9)] {
                let costs = sums.costs(start, end, phi);
                for ramp in [false, true] {
                    let line = sums.line(&Stretch { start, end, ramp }, phi);
                    let slope = (line.last - line.first) / (end - start - 1) as f64;
                    let at = |level, slope| slowly(&y[start..end], phi, level, slope);
                    let least = at(line.first, slope);
                    assert!((least - costs[usize::from(ramp)]).abs() < 1e-12);
                    assert!(at(line.first + 1e-3, slope) > least);
                    assert!(at(line.first - 1e-3, slope) > least);
                    if ramp {
                        assert!(at(line.first, slope + 1e-3) > least);
                        assert!(at(line.first, slope - 1e-3) > least);
                    }
                }
            }
        }
    }
}
