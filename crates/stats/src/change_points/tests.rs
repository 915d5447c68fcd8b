//! Tests that changes are found where the tests put them and named, and nothing else is; and the
//! simulation that the prices come from.

use super::*;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Noise(ChaCha8Rng);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        let u: f64 = 1.0 - self.0.random::<f64>();
        let turn: f64 = self.0.random();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    }

    /// Session means around a course of levels, with AR(1) noise of this standard deviation.
    fn around(&mut self, levels: &[f64], sd: f64, phi: f64) -> Vec<f64> {
        let mut x = self.normal();
        let mut next = |level: &f64| {
            let value = level * (sd * x).exp();
            x = phi * x + (1.0 - phi * phi).sqrt() * self.normal();
            value
        };
        levels.iter().map(&mut next).collect()
    }
}

/// Levels, each with its length.
fn course(parts: &[(f64, usize)]) -> Vec<f64> {
    parts.iter().flat_map(|&(level, length)| vec![level; length]).collect()
}

fn found(series: &[f64]) -> Vec<ChangePoint> {
    levels(series, &Search::default()).unwrap().changes
}

fn indices(series: &[f64]) -> Vec<usize> {
    found(series).iter().map(|c| c.index).collect()
}

/// How many of `runs` series have a change within two values of each true one; or, where none is
/// true, have any.
fn hits(runs: u32, levels: &[f64], sd: f64, phi: f64, truth: &[usize]) -> u32 {
    let mut noise = Noise::new(8);
    let hit = |at: &[usize]| match truth {
        [] => !at.is_empty(),
        _ => truth.iter().all(|t| at.iter().any(|a| a.abs_diff(*t) <= 2)),
    };
    (0..runs).filter(|_| hit(&indices(&noise.around(levels, sd, phi)))).count() as u32
}

#[test]
fn short_dips_steps_and_late_changes_are_found() {
    // The power of PELT (l2, penalty 3 ln n) on the same grid, which gives 2 % false alarms.
    let dip = |k| course(&[(100.0, 30), (80.0, k), (100.0, 30 - k)]);
    for k in [3, 4, 5, 6, 8, 10] {
        assert!(hits(100, &dip(k), 0.02, 0.0, &[30, 30 + k]) >= 99, "{k} sessions");
    }
    let step = |to| course(&[(100.0, 30), (to, 30)]);
    assert!(hits(100, &step(95.0), 0.02, 0.0, &[30]) >= 95);
    assert!(hits(100, &step(90.0), 0.02, 0.0, &[30]) >= 99);
    assert!(hits(100, &course(&[(100.0, 5), (80.0, 5)]), 0.02, 0.0, &[5]) >= 97);
    assert!(hits(100, &course(&[(100.0, 57), (80.0, 3)]), 0.02, 0.0, &[57]) >= 97);
    let two = course(&[(100.0, 20), (90.0, 20), (81.0, 20)]);
    assert!(hits(100, &two, 0.02, 0.0, &[20, 40]) >= 98);
}

#[test]
fn noise_gives_a_false_alarm_in_about_one_series_of_a_hundred() {
    for (n, runs, phi, most) in [
        (10, 600, 0.0, 12),
        (60, 600, 0.0, 12),
        (60, 600, 0.5, 14),
        (60, 600, 0.8, 14),
        (300, 60, 0.8, 3),
    ] {
        let wrong = hits(runs, &vec![100.0; n], 0.03, phi, &[]);
        assert!(wrong <= most, "{wrong} of {runs}: n {n}, autocorrelation {phi}");
    }
}

#[test]
fn outliers_are_no_levels() {
    let (mut noise, mut pairs) = (Noise::new(11), 0);
    for run in 0..50 {
        let mut series = noise.around(&[100.0; 60], 0.02, 0.0);
        series[run] = 40.0;
        series[(run + 9) % 60] = 250.0;
        assert_eq!(indices(&series), [0usize; 0], "run {run}");
        // Two neighbours, next to other ones only in a few runs.
        series[29..31].fill(70.0);
        pairs += usize::from(!indices(&series).is_empty());
    }
    assert!(pairs <= 4, "{pairs} of 50");
    // One session of eight is slow; somewhere three of them follow each other.
    let mut series = noise.around(&[100.0; 80], 0.01, 0.0);
    for i in (0..80).step_by(8).chain([24, 25, 26]) {
        series[i] *= 0.85;
    }
    assert_eq!(indices(&series), [0usize; 0]);
}

#[test]
fn a_dip_is_a_transient_with_its_extent_and_a_lasting_change_is_a_step() {
    let dip = course(&[(100.0, 30), (80.0, 4), (100.0, 26)]);
    let of_dip = found(&Noise::new(1).around(&dip, 0.01, 0.0));
    assert_eq!(of_dip.len(), 2);
    for (change, index) in of_dip.iter().zip([30, 34]) {
        assert_eq!((change.index, &change.kind), (index, &Kind::Transient(30..34)));
    }
    // Two levels away from the old one.
    let stairs = course(&[(100.0, 30), (80.0, 5), (70.0, 6), (100.0, 26)]);
    let stairs = found(&Noise::new(2).around(&stairs, 0.01, 0.0));
    assert_eq!(stairs.len(), 3);
    assert!(stairs.iter().all(|c| c.kind == Kind::Transient(30..41)));
    let steps = course(&[(100.0, 20), (80.0, 20), (90.0, 20)]);
    let steps = found(&Noise::new(3).around(&steps, 0.01, 0.0));
    assert!(steps.iter().all(|c| c.kind == Kind::Step) && steps.len() == 2);
}

#[test]
fn a_ramp_is_one_change_with_its_extent() {
    let mut noise = Noise::new(4);
    let levels: Vec<f64> =
        (0..60).map(|t| 100.0 * (1.0 - 0.2 * f64::from((t - 20).clamp(0, 20)) / 20.0)).collect();
    let mut ramps = 0;
    for _ in 0..50 {
        let changes = found(&noise.around(&levels, 0.02, 0.0));
        assert!(changes.iter().any(|c| (18..=42).contains(&c.index)), "{changes:?}");
        if let [ChangePoint { kind: Kind::Ramp(range), change, .. }] = &changes[..] {
            assert!((change + 0.2).abs() < 0.05);
            let near = range.start.abs_diff(21) <= 6 && range.end.abs_diff(40) <= 6;
            ramps += u32::from(near);
        }
    }
    assert!(ramps >= 30, "{ramps} of 50");
}

#[test]
fn a_change_that_is_surely_below_the_least_one_is_left_out() {
    let levels_of = course(&[(100.0, 40), (97.0, 40), (80.0, 40)]);
    let series = Noise::new(5).around(&levels_of, 0.005, 0.0);
    assert_eq!(indices(&series), [80]);
    let finer = Search { least_change: 0.01, ..Search::default() };
    let changes = levels(&series, &finer).unwrap().changes;
    assert_eq!(changes.iter().map(|c| c.index).collect::<Vec<_>>(), [40, 80]);
}

#[test]
fn the_intervals_of_levels_and_changes_hold_the_truth() {
    let steps = course(&[(100.0, 30), (80.0, 30)]);
    for phi in [0.0, 0.5] {
        let (mut noise, mut held, mut all) = (Noise::new(6), [0; 3], 0u32);
        for _ in 0..300 {
            if let [c] = &found(&noise.around(&steps, 0.02, phi))[..] {
                held[0] += u32::from(c.before_interval.contains(100.0));
                held[1] += u32::from(c.after_interval.contains(80.0));
                held[2] += u32::from(c.change_interval.contains(-0.2));
                all += 1;
            }
        }
        assert!(all > 270, "{all}");
        // 95 % of 300 is 285, with a standard error of 3.8.
        for held in held {
            let share = f64::from(held) / f64::from(all);
            assert!(share > if phi == 0.0 { 0.91 } else { 0.85 }, "{share} at {phi}");
        }
    }
}

#[test]
fn the_visible_change_is_one_that_four_searches_of_five_find() {
    for (n, sd, phi) in [(12, 0.03, 0.0), (30, 0.05, 0.0), (60, 0.05, 0.0), (60, 0.05, 0.5)] {
        let mut noise = Noise::new(7);
        let (mut least, mut runs) = (0.0, 0);
        while runs < 40 {
            let flat = levels(&noise.around(&vec![100.0; n], sd, phi), &Search::default()).unwrap();
            if flat.changes.is_empty() {
                least += flat.visible.unwrap() / 40.0;
                runs += 1;
            }
        }
        let mut seen = |change: f64| {
            let mut course = vec![100.0; n];
            course[n / 2..].fill(100.0 * (1.0 + change));
            (0..200).filter(|_| !indices(&noise.around(&course, sd, phi)).is_empty()).count()
        };
        let (all, half) = (seen(least), seen(least / 2.0));
        assert!(all >= 150 && half <= 170, "{all}, {half} of 200: {least}, n {n}, {sd}, {phi}");
    }
    let few = levels(&[100.0, 101.0, 99.0, 100.0, 100.5], &Search::default()).unwrap();
    assert_eq!(few.visible, None);
}

#[test]
fn thousands_of_sessions_are_searched_and_the_steps_placed() {
    let mut noise = Noise::new(9);
    let dip = course(&[(100.0, 2000), (80.0, 3), (100.0, 1997)]);
    assert_eq!(indices(&noise.around(&dip, 0.02, 0.0)), [2000, 2003]);
    let long = course(&[(100.0, 33_333), (90.0, 50_001), (100.0, 16_666)]);
    assert_eq!(indices(&noise.around(&long, 0.001, 0.0)), [33_333, 83_334]);
}

#[test]
fn short_constant_and_impossible_series() {
    assert_eq!(indices(&[]), [0usize; 0]);
    assert_eq!(indices(&[1.0, 2.0, 3.0]), [0usize; 0]);
    assert_eq!(indices(&[5.0; 50]), [0usize; 0]);
    assert_eq!(levels(&[1.0, f64::NAN], &Search::default()), None);
    assert_eq!(levels(&[1.0, 0.0], &Search::default()), None);
    // Levels without noise.
    assert_eq!(indices(&course(&[(10.0, 10), (12.0, 10)])), [10]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn the_unit_and_its_inverse_do_not_matter(
        seed in 0u64..1000, at in 15usize..45, unit in 1e-6f64..1e6,
    ) {
        let series = Noise::new(seed).around(&course(&[(100.0, at), (80.0, 60 - at)]), 0.01, 0.0);
        let scaled: Vec<f64> = series.iter().map(|v| v * unit).collect();
        let times: Vec<f64> = series.iter().map(|v| 1.0 / v).collect();
        let expected = indices(&series);
        prop_assert!(expected.contains(&at));
        prop_assert_eq!(&expected, &indices(&scaled));
        prop_assert_eq!(&expected, &indices(&times));
    }

    #[test]
    fn no_positive_series_makes_it_panic(
        series in proptest::collection::vec(1e-300f64..1e300, 0..40), shortest in 0usize..12,
    ) {
        let search = Search { shortest, ..Search::default() };
        let found = levels(&series, &search).unwrap().changes;
        prop_assert!(found.windows(2).all(|w| w[0].index < w[1].index));
    }
}

/// Prints the false alarms behind the prices: `cargo test --workspace --lib prices -- --ignored
/// --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn the_simulation_of_the_prices() {
    for (n, runs) in [(6, 4000), (10, 4000), (20, 4000), (60, 4000), (300, 500), (4000, 100)] {
        let share = |phi| f64::from(hits(runs, &vec![100.0; n], 0.03, phi, &[])) / f64::from(runs);
        let shares = [0.0, 0.3, 0.5, 0.8, 0.9].map(|phi| format!("{:5.2} %", 100.0 * share(phi)));
        println!("{n:5} sessions, {runs} series: {}", shares.join(" "));
    }
}
