//! How the times between tokens are distributed and how they run over a generation. Each launch
//! gives one value of each; samples of several launches are never pooled for a quantile.

use super::ok_launches;
use crate::record::{Arm, Launch, PromptRun, Role};
use crate::stats::Sample;
use crate::units::Seconds;

/// From low to high; the last is the longest gap.
pub const QUANTILES: [f64; 7] = [0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];
/// Gaps of a launch below which the quantile 0.99 says nothing, as for the metric.
const FEWEST_FOR_P99: usize = 100;

/// One token, or several neighbours, over the generations that have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Number of the (first) token, from 2: before the first there is no gap.
    pub token: u32,
    pub median: Seconds,
    /// The smallest and the largest of the launches.
    pub least: Seconds,
    pub most: Seconds,
}

/// Mean over launches of each of `QUANTILES` of the gaps in the measured generations of a launch:
/// what the metrics `itl_*` are. `None` without gaps.
pub fn gap_quantiles(arm: &Arm) -> Option<[Option<Seconds>; 7]> {
    let launches: Vec<(usize, Sample)> = ok_launches(arm)
        .filter_map(|launch| {
            let gaps: Vec<f64> = runs(launch, Role::Measured).flat_map(gaps).collect();
            Some((gaps.len(), Sample::new(&gaps).ok()?))
        })
        .collect();
    let fewest = launches.iter().map(|(n, _)| *n).min()?;
    let mean = |q: f64| {
        let values: Vec<f64> = launches.iter().map(|(_, s)| s.quantile(q)).collect();
        Sample::new(&values).ok().map(|s| Seconds(s.mean()))
    };
    Some(QUANTILES.map(|q| mean(q).filter(|_| q != 0.99 || fewest >= FEWEST_FOR_P99)))
}

/// The gap before each token of the measured generations, at most `places` of them: the median of a
/// launch's generations, then the median of the launches.
pub fn over_tokens(arm: &Arm, places: usize) -> Vec<Step> {
    steps(arm, Role::Measured, places)
}

/// The same of the first generation of each process, with nothing warmed up.
pub fn cold(arm: &Arm, places: usize) -> Vec<Step> {
    steps(arm, Role::Cold, places)
}

fn steps(arm: &Arm, role: Role, places: usize) -> Vec<Step> {
    let launches: Vec<Vec<Vec<f64>>> = ok_launches(arm)
        .map(|launch| runs(launch, role).map(|run| gaps(run).collect()).collect())
        .collect();
    let longest = launches.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let size = longest.div_ceil(places.max(1)).max(1);
    let place = |start: usize| {
        let of_launch = |runs: &Vec<Vec<f64>>| {
            let ends = |run: &Vec<f64>| start.min(run.len())..(start + size).min(run.len());
            let gaps: Vec<f64> = runs.iter().flat_map(|run| run[ends(run)].to_vec()).collect();
            Sample::new(&gaps).ok().map(|s| s.median())
        };
        let medians: Vec<f64> = launches.iter().filter_map(of_launch).collect();
        let over = Sample::new(&medians).ok()?;
        let [median, least, most] = [over.median(), over.min(), over.max()].map(Seconds);
        Some(Step { token: start as u32 + 2, median, least, most })
    };
    (0..longest).step_by(size).filter_map(place).collect()
}

fn runs(launch: &Launch, role: Role) -> impl Iterator<Item = &PromptRun> {
    launch.prompts.iter().filter(move |run| run.role == role)
}

fn gaps(run: &PromptRun) -> impl Iterator<Item = f64> + '_ {
    run.token_ns.windows(2).map(|w| Seconds::from_ns(w[1].saturating_sub(w[0])).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    #[test]
    fn a_step_is_the_median_of_launches_and_a_slow_launch_shows_as_the_largest() {
        let mut arm = testing::arm(&testing::CANDLE, 3);
        for run in &mut arm.launches[1].prompts {
            run.token_ns.iter_mut().skip(5).for_each(|t| *t += 80_000_000);
        }
        let all = over_tokens(&arm, 100);
        assert_eq!((all.len(), all[0].token), (63, 2));
        let sixth = all.iter().find(|s| s.token == 6).unwrap();
        assert!(sixth.most.0 > sixth.median.0 + 0.07, "{sixth:?}");
        assert!(all[0].most.0 < 0.04, "{:?}", all[0]);
        let few = over_tokens(&arm, 10);
        assert_eq!((few.len(), few[1].token), (9, 9));
        assert_eq!(cold(&arm, 100).len(), 63);
    }

    #[test]
    fn quantiles_are_means_over_launches_and_p99_needs_a_hundred_gaps() {
        let mut arm = testing::arm(&testing::CANDLE, 2);
        let quantiles = gap_quantiles(&arm).unwrap();
        let gap = |i: usize| quantiles[i].unwrap().0;
        assert!(gap(0) < gap(2) && gap(2) < gap(4) && gap(4) <= gap(6), "{quantiles:?}");
        assert!(quantiles[5].is_some(), "63 gaps of 6 generations");
        for launch in &mut arm.launches {
            launch.prompts.retain(|run| run.role != Role::Measured || run.iteration == 1);
            launch.prompts.truncate(3);
        }
        assert_eq!(gap_quantiles(&arm).unwrap()[5], None);
        arm.launches.clear();
        assert_eq!(gap_quantiles(&arm), None);
    }
}
