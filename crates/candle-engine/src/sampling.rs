//! Draws a token from logits: temperature, top-p, and a uniform number that depends only on seed
//! and step, so that equal logits give equal tokens in every engine (defined in docs/PROTOCOL.md).

use llm_bench_protocol::{EngineError, Sampling};

use crate::internal;
use crate::math::argmax;

/// Draws tokens; keeps its buffers between steps.
#[derive(Debug)]
pub struct Sampler {
    settings: Sampling,
    /// Sort keys: the order of the logit in the high half, the id in the low half.
    keys: Vec<u64>,
    /// Weights in the order of `keys`.
    weights: Vec<f64>,
}

impl Sampler {
    /// Refuses a temperature that is not above 0 and a top-p outside (0, 1].
    pub fn new(settings: Sampling) -> Result<Self, EngineError> {
        let Sampling { temperature, top_p, .. } = settings;
        if !(temperature.is_finite() && temperature > 0.0) {
            let message = format!("temperature {temperature}: expected a number above 0");
            return Err(internal(message));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let message = format!("top_p {top_p}: expected above 0 and at most 1");
            return Err(internal(message));
        }
        Ok(Self { settings, keys: Vec::new(), weights: Vec::new() })
    }

    /// The token of generation step `step`, from 0. Never draws a NaN. If the largest logit is not
    /// finite there is no distribution, and the first of the largest is returned.
    pub fn draw(&mut self, logits: &[f32], step: u64) -> u32 {
        let top = argmax(logits);
        let largest = f64::from(logits[top]);
        if !largest.is_finite() {
            return top as u32;
        }
        self.keys.clear();
        let finite = logits.iter().zip(0u32..).filter(|(l, _)| **l > f32::NEG_INFINITY);
        self.keys.extend(finite.map(|(&l, id)| u64::from(descending(l)) << 32 | u64::from(id)));
        self.keys.sort_unstable();
        let logit = |key: u64| f64::from(logits[(key & 0xffff_ffff) as usize]);
        self.weights.clear();
        let weight = |&key: &u64| ((logit(key) - largest) / self.settings.temperature).exp();
        self.weights.extend(self.keys.iter().map(weight));

        let mass = self.settings.top_p * self.weights.iter().sum::<f64>();
        let mut kept = 0.0;
        let mut n = 0;
        while n < self.weights.len() && (n == 0 || kept < mass) {
            kept += self.weights[n];
            n += 1;
        }
        let target = uniform(self.settings.seed, step) * kept;
        let mut sum = 0.0;
        let drawn = self.weights[..n].iter().position(|w| {
            sum += w;
            sum > target
        });
        self.keys[drawn.unwrap_or(n - 1)] as u32
    }
}

/// Maps a number to bits that rise as the number falls; both zeros give the same bits.
fn descending(x: f32) -> u32 {
    let bits = (x + 0.0).to_bits();
    let rising = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !rising
}

/// A number in [0, 1) with 53 bits: SplitMix64 at this step of this seed.
fn uniform(seed: u64, step: u64) -> f64 {
    let mut z = seed.wrapping_add(step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64, seed: u64) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, seed }).unwrap()
    }

    /// How often each token is drawn at step 0 of many seeds.
    fn frequencies(logits: &[f32], temperature: f64, top_p: f64, seeds: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for seed in 0..seeds {
            counts[sampler(temperature, top_p, seed).draw(logits, 0) as usize] += 1.0;
        }
        counts.iter().map(|c| c / seeds as f64).collect()
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> =
            logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|w| w / sum).collect()
    }

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The published first outputs for the seed 1234567.
        let outputs = [6457827717110365317u64, 3203168211198807973, 9817491932198370423];
        for (step, output) in (0..).zip(outputs) {
            assert_eq!(uniform(1234567, step), (output >> 11) as f64 / 2f64.powi(53));
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_their_probability_says() {
        let logits = [1.0, -2.0, 3.0, 0.5, 3.0, -0.0, 0.0];
        for temperature in [0.5, 1.0, 3.0] {
            let n = 20_000;
            let got = frequencies(&logits, temperature, 1.0, n);
            for (got, p) in got.iter().zip(softmax(&logits, temperature)) {
                // Five standard errors: a chance of one in a million.
                let limit = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
                assert!((got - p).abs() <= limit, "{got} {p} at {temperature}");
            }
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_it() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        let kept = |top_p| {
            let got = frequencies(&logits, 1.0, top_p, 2_000);
            (0..4).filter(|i| got[*i] > 0.0).collect::<Vec<_>>()
        };
        assert_eq!(kept(0.4), [1]);
        assert_eq!(kept(0.6), [1, 3]);
        assert_eq!(kept(0.8), [0, 1, 3], "of equals the lower id comes first");
        assert_eq!(kept(1.0), [0, 1, 2, 3]);
        let got = frequencies(&logits, 1.0, 0.6, 20_000);
        assert!((got[1] - 2.0 / 3.0).abs() < 0.02, "what is kept is scaled to 1: {got:?}");
    }

    #[test]
    fn the_step_and_the_seed_choose_and_nothing_else() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin()).collect();
        let draws = |seed| {
            let mut sampler = sampler(1.0, 0.95, seed);
            (0..20).map(|step| sampler.draw(&logits, step)).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        let mut backwards = sampler(1.0, 0.95, 7);
        let mut other: Vec<u32> = (0..20).rev().map(|s| backwards.draw(&logits, s)).collect();
        other.reverse();
        assert_eq!(draws(7), other);
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_broken_logits_do_not_panic() {
        let logits = [1.0, 5.0, f32::NAN, 4.0, f32::NEG_INFINITY];
        assert_eq!(sampler(1e-9, 1.0, 3).draw(&logits, 0), 1);
        assert_eq!(sampler(1.0, 0.5, 3).draw(&[f32::NAN; 3], 0), 0);
        assert_eq!(sampler(1.0, 0.5, 3).draw(&[0.0, f32::INFINITY], 0), 1);
        let got = frequencies(&logits, 100.0, 1.0, 1_000);
        assert!(got[2] == 0.0 && got[4] == 0.0 && got[0] > 0.2, "{got:?}");
        for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, 1.1)] {
            let settings = Sampling { temperature, top_p, seed: 0 };
            assert!(Sampler::new(settings).is_err(), "{temperature} {top_p}");
        }
    }
}
