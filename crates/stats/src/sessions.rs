//! Two sessions compared: launches share their session's luck, so the variance between sessions
//! belongs to the error of a difference (Kalibera and Jones 2013).

use super::{Interval, ShiftTest, normal_quantile, student};

/// How much sessions of the same program on the same machine differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between {
    /// Standard deviation of the sessions' levels on the log scale, n − 1.
    pub sd: f64,
    /// How many sessions it was computed from.
    pub sessions: u32,
}

/// Sessions whose difference nobody measured are taken to differ by this part of theta at least.
const ASSUMED: f64 = 0.5;
/// Fewer sessions say too little: Satterthwaite's degrees of freedom do not keep the level with one.
const FEWEST: u32 = 3;

/// The spread of earlier sessions, one list of positive values each. Each session's level is the
/// median of the means of all pairs of its logarithms (Hodges and Lehmann), which one stall does not
/// move. The levels scatter by their launches too, which errs on the safe side. `None` for fewer
/// than two sessions with values, or for a value that is not positive.
pub fn between_sessions<'a>(sessions: impl IntoIterator<Item = &'a [f64]>) -> Option<Between> {
    let mut levels = Vec::new();
    for values in sessions.into_iter().filter(|v| !v.is_empty()) {
        if !values.iter().all(|v| v.is_finite() && *v > 0.0) {
            return None;
        }
        let logs: Vec<f64> = values.iter().map(|v| v.ln()).collect();
        let pairs =
            logs.iter().enumerate().flat_map(|(i, a)| logs[i..].iter().map(move |b| 0.5 * (a + b)));
        levels.push(super::sample::median(&mut pairs.collect::<Vec<_>>()));
    }
    let sample = super::Sample::new(&levels).ok()?;
    Some(Between { sd: sample.sd()?, sessions: levels.len() as u32 })
}

/// The standard deviation between sessions that a test against `theta` takes, and its degrees of
/// freedom: what is known of at least three; of fewer, what is known and at least half of theta.
pub fn session_spread(known: Option<Between>, theta: f64) -> (f64, f64) {
    match known.filter(|k| k.sd.is_finite()) {
        Some(known) if known.sessions >= FEWEST => (known.sd, f64::from(known.sessions - 1)),
        Some(known) => (known.sd.max(ASSUMED * theta), f64::INFINITY),
        None => (ASSUMED * theta, f64::INFINITY),
    }
}

/// The test of launches, made a test of sessions: to the variance of the difference, taken from the
/// width of its interval, twice the variance between sessions is added, with the degrees of freedom
/// of Satterthwaite (1946). Each p is the larger one of both tests.
///
/// With fewer than three earlier sessions the sessions are taken to differ by half of theta or more.
pub fn over_sessions(launches: &ShiftTest, known: Option<Between>, theta: f64) -> ShiftTest {
    let (sd, sessions_df) = session_spread(known, theta);
    let between = 2.0 * sd * sd;
    let nothing = ShiftTest {
        interval90: None,
        interval95: None,
        p: 1.0,
        p_reg: 1.0,
        p_ok: 1.0,
        p_improved: 1.0,
        ..*launches
    };
    let (Some(inner), Some(z)) = (launches.interval90, normal_quantile(0.95)) else {
        return nothing;
    };
    let within = ((inner.high - inner.low) / 2.0 / z).powi(2);
    let variance = within + between;
    if !(variance > 0.0 && variance.is_finite()) {
        return *launches;
    }
    let squares = within * within / launches.df + between * between / sessions_df;
    // A t with this many degrees of freedom equals the normal.
    let df = (variance * variance / squares).min(1e9);
    let error = variance.sqrt();
    let upper = |distance: f64| student::upper_tail(distance / error, df).unwrap_or(1.0);
    let outer = |interval: Option<Interval>, confidence: f64| {
        let reach = student::two_sided_quantile(confidence, df)? * error;
        let (low, high) = (launches.worse_by - reach, launches.worse_by + reach);
        let own = interval?;
        Some(Interval { low: low.min(own.low), high: high.max(own.high) })
    };
    let by = launches.worse_by;
    ShiftTest {
        interval90: outer(launches.interval90, 0.90),
        interval95: outer(launches.interval95, 0.95),
        p: launches.p.max((2.0 * upper(by.abs())).min(1.0)),
        p_reg: launches.p_reg.max(upper(by - theta)),
        p_ok: launches.p_ok.max(upper(theta - by)),
        p_improved: launches.p_improved.max(upper(-by - theta)),
        ..*launches
    }
}
