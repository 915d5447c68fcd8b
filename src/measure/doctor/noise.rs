//! What the noise of a machine means for whoever measures on it, as findings.

use super::Finding;
use crate::analysis::noise::{MARGIN, Noise, Spread};
use crate::number::{Form, text, three_digits};
use crate::record::Environment;

/// More scatter than this between passes over memory is worth a warning.
const KERNEL_CV: f64 = 0.03;
/// The most launches of each side that a gate makes unless it is asked for more.
const MOST: u32 = 30;

/// One finding for the kernel, one for each metric of the launches, and those on what others took.
pub fn findings(noise: &Noise, threads: u32) -> Vec<Finding> {
    let mut found = vec![kernel(&noise.kernel)];
    found.extend(noise.launches.iter().map(|spread| launches(spread, threads)));
    found.extend(noise.steal.map(stolen));
    found.extend(noise.busy.map(busy));
    found
}

fn percent(share: f64) -> String {
    text(share, Form::Percent(1))
}

fn spread(s: &Spread) -> String {
    let drift =
        s.drift.map(|d| format!(", drift {}{}", if d > 0.0 { "+" } else { "" }, percent(d)));
    let (median, unit) = match s.unit.as_str() {
        "B/s" => (three_digits(s.median / 1e9), "GB/s"),
        "s" if s.median < 1.0 => (three_digits(s.median * 1e3), "ms"),
        unit => (three_digits(s.median), unit),
    };
    let (what, cv, drift) = (s.what.replace('_', " "), percent(s.cv), drift.unwrap_or_default());
    format!("{what} {median} {unit}: CV {cv} over {}{drift}", s.n)
}

fn drifting(s: &Spread) -> Option<String> {
    s.real_drift().map(|d| {
        let way = if d > 0.0 { "rises" } else { "falls" };
        format!(
            "it {way} while nothing changes: see whether the clock does, with `llm-bench run \
             --sustained 5 --engine candle`"
        )
    })
}

fn kernel(s: &Spread) -> Finding {
    let found = spread(s);
    match drifting(s) {
        Some(advice) => Finding::warn("kernel noise", found, advice),
        None if s.cv > KERNEL_CV => Finding::warn(
            "kernel noise",
            found,
            "something shares the memory: `ps -eo pcpu,args --sort=-pcpu | head -5` shows programs \
             of this machine; neighbours on the same host do not show",
        ),
        None => Finding::ok("kernel noise", found),
    }
}

fn launches(s: &Spread, threads: u32) -> Finding {
    let margin = text(MARGIN, Form::Percent(0));
    let needed = match s.launches_needed {
        Some(n) => format!("{n} launches of each side see a change of {margin}"),
        None => "nothing varies".into(),
    };
    let found = format!("{}; {needed}", spread(s));
    if let Some(advice) = drifting(s) {
        return Finding::warn("launch noise", found, advice);
    }
    match s.launches_needed {
        Some(n) if n > MOST => {
            let alone = if threads > 1 {
                "; `llm-bench doctor --noise -t 1` tells whether the hand-over between threads is the cause"
            } else {
                ""
            };
            let resolved = match s.margin_of(MOST) {
                Some(m) => {
                    let m = (100.0 * m).round();
                    format!("`llm-bench gate --margin {}={m}%` needs {MOST}", s.what)
                }
                None => "no margin below 100 % is resolved by 30 launches".into(),
            };
            Finding::warn("launch noise", found, format!("{resolved}{alone}"))
        }
        _ => Finding::ok("launch noise", found),
    }
}

fn stolen([mean, worst]: [f64; 2]) -> Finding {
    let found = format!(
        "the hypervisor took {} of the processors' time during launches, {} at worst",
        percent(mean),
        percent(worst)
    );
    match worst > Environment::STEAL_LIMIT {
        true => Finding::warn(
            "stolen time",
            found,
            "no command here gives it back: use a dedicated host, or compare interleaved launches \
             only (`llm-bench gate`, several engines in one `llm-bench run`)",
        ),
        false => Finding::ok("stolen time", found),
    }
}

fn busy([mean, worst]: [f64; 2]) -> Finding {
    let found = format!(
        "other programs used {} of the processors' time before launches, {} at worst",
        percent(mean),
        percent(worst)
    );
    match worst > Environment::BUSY_LIMIT {
        true => Finding::warn(
            "other programs",
            found,
            "stop the busiest: `ps -eo pid,pcpu,args --sort=-pcpu | head -5`",
        ),
        false => Finding::ok("other programs", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::doctor::State;
    use crate::metric::Metric;

    fn noise(values: impl Fn(usize) -> f64, steal: f64) -> Noise {
        let values: Vec<f64> = (0..30).map(values).collect();
        let spread = |what: &str| Spread::of(what, "tok/s", &values).unwrap();
        Noise {
            kernel: spread("read_bandwidth"),
            launches: vec![spread(Metric::DecodeTps.name())],
            steal: Some([steal / 2.0, steal]),
            busy: None,
        }
    }

    fn states(noise: &Noise, threads: u32) -> Vec<State> {
        findings(noise, threads).iter().map(|f| f.state).collect()
    }

    #[test]
    fn a_quiet_machine_is_fit_and_each_fault_of_another_has_its_command() {
        let quiet = noise(|i| 100.0 + (i % 2) as f64, 0.0);
        assert_eq!(states(&quiet, 2), [State::Ok; 3]);
        let noisy = noise(|i| 100.0 + 30.0 * (i % 2) as f64, 0.2);
        assert_eq!(states(&noisy, 2), [State::Warn; 3]);
        let advice: Vec<String> =
            findings(&noisy, 2).into_iter().map(|f| f.advice.unwrap()).collect();
        assert!(advice.iter().all(|a| a.contains('`')), "{advice:?}");
        assert!(
            advice[1].contains(&format!("gate --margin {}=", Metric::DecodeTps.name()))
                && advice[1].contains("-t 1")
        );
        let falling = noise(|i| 100.0 - i as f64, 0.0);
        assert!(findings(&falling, 1)[1].advice.as_ref().unwrap().contains("it falls"));
    }
}
