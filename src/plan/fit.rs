//! How many launches of each arm a time allows: fewer of a slow engine than of a fast one, never
//! fewer than the statistics need. Pure.

/// The fewest launches of an arm. Two arms of three launches each are the smallest that an exact
/// one-sided rank test tells apart at 5 %: one order of twenty.
pub const LEAST: u32 = 3;

/// Launches of each arm, those that are in included. `took` holds the seconds of one launch of each
/// arm, `done` the launches that are in; `left_s` seconds remain for the others. Each arm gets
/// [`LEAST`] at any price; what time remains goes to the arms that have used the least of it.
pub fn fit(took: &[f64], done: &[u32], most: u32, left_s: f64) -> Vec<u32> {
    let mut counts: Vec<u32> = done.iter().map(|n| (*n).max(LEAST).min(most)).collect();
    let mut left = left_s;
    for ((n, done), took) in counts.iter().zip(done).zip(took) {
        left -= f64::from(n.saturating_sub(*done)) * took;
    }
    loop {
        let affordable = (0..counts.len()).filter(|i| counts[*i] < most && took[*i] <= left);
        let used = |i: &usize| took[*i] * f64::from(counts[*i]);
        let Some(next) = affordable.min_by(|a, b| used(a).total_cmp(&used(b))) else {
            return counts;
        };
        counts[next] += 1;
        left -= took[next];
    }
}

/// Whether an arm of `count` launches, spread evenly over `most` blocks, with `done` of them in, is
/// launched in a block (from 0). The first block holds every arm.
pub fn is_due(block: u32, done: u32, count: u32, most: u32) -> bool {
    let until = (u64::from(block) + 1) * u64::from(count);
    u64::from(done) < until.div_ceil(u64::from(most.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slow_engine_gets_fewer_launches_and_none_gets_fewer_than_three() {
        // 8 · 1 s and 5 · 20 s are left of 110 s.
        assert_eq!(fit(&[1.0, 20.0], &[1, 1], 10, 110.0), [10, 6]);
        assert_eq!(fit(&[1.0, 20.0], &[1, 1], 10, 0.0), [3, 3]);
        assert_eq!(fit(&[1.0, 20.0], &[1, 1], 10, 1e9), [10, 10]);
        assert_eq!(fit(&[1.0, 1.0], &[1, 1], 2, 0.0), [2, 2], "no more than were asked for");
        assert_eq!(fit(&[1.0, 1.0], &[5, 1], 9, 0.0), [5, 3], "what is in stays");
    }

    #[test]
    fn launches_of_a_slow_arm_are_spread_over_the_session() {
        let blocks = |count: u32| {
            let mut done = 0;
            let due = (0..10).filter(|block| {
                let due = is_due(*block, done, count, 10);
                done += u32::from(due);
                due
            });
            due.collect::<Vec<u32>>()
        };
        assert_eq!(blocks(3), [0, 3, 6]);
        assert_eq!(blocks(10), (0..10).collect::<Vec<u32>>());
    }

    proptest! {
        #[test]
        fn every_launch_is_made_and_the_time_is_kept(
            took in prop::collection::vec(0.1f64..50.0, 1..6), most in 1u32..30, left in 0f64..1e4,
        ) {
            let done = vec![1; took.len()];
            let counts = fit(&took, &done, most, left);
            let cost: f64 = counts.iter().zip(&took).map(|(n, t)| f64::from(n - 1) * t).sum();
            let least: f64 = took.iter().map(|t| f64::from(LEAST.min(most) - 1) * t).sum();
            prop_assert!(cost <= left.max(least) + 1e-6);
            for count in counts {
                let mut made = 0;
                for block in 0..most {
                    made += u32::from(is_due(block, made, count, most));
                }
                prop_assert_eq!(made, count);
            }
        }
    }
}
