//! Simulated launches: the noise of real machines, with a known truth behind it.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What makes launches of one program differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Noise {
    /// Log-normal, independent.
    Normal,
    /// One launch in ten takes three times as long.
    Stalls,
    /// Half of the launches take 10 % longer.
    Bimodal,
    /// A long tail on the slow side.
    Skewed,
    /// The candidate scatters three times as widely.
    Unequal,
    /// The machine becomes 10 % slower over the session.
    Drift,
    /// A first-order autoregression with φ = .9 and a deviation of 5 %.
    Autocorrelated,
}

pub const INDEPENDENT: [Noise; 5] =
    [Noise::Normal, Noise::Stalls, Noise::Bimodal, Noise::Skewed, Noise::Unequal];
pub const IN_TIME: [Noise; 2] = [Noise::Drift, Noise::Autocorrelated];

pub struct Machine {
    rng: ChaCha8Rng,
}

/// Launches of the baseline and of the candidate, in the order in which they were made.
pub type Sides = [Vec<f64>; 2];

impl Machine {
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// A standard normal number, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let u: f64 = 1.0 - self.rng.random::<f64>();
        let turn: f64 = self.rng.random();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    }

    /// Seconds per token, the candidate `worse` times as slow: all of one side after all of the
    /// other.
    pub fn apart(&mut self, noise: Noise, n: [usize; 2], worse: f64, cv: f64) -> Sides {
        let order = [vec![0; n[0]], vec![1; n[1]]].concat();
        self.in_order(&order, noise, worse, cv)
    }

    /// The same in blocks, ABBA or BAAB.
    pub fn interleaved(&mut self, noise: Noise, n: usize, worse: f64, cv: f64) -> Sides {
        let mut order = Vec::new();
        for _ in 0..n.div_ceil(2) {
            let first = usize::from(self.rng.random::<bool>());
            order.extend([first, 1 - first, 1 - first, first]);
        }
        order.truncate(2 * n);
        self.in_order(&order, noise, worse, cv)
    }

    fn in_order(&mut self, order: &[usize], noise: Noise, worse: f64, cv: f64) -> Sides {
        let mut sides = [vec![], vec![]];
        let mut memory = self.normal();
        for (place, &side) in order.iter().enumerate() {
            memory = 0.9 * memory + (1.0f64 - 0.81).sqrt() * self.normal();
            let z = self.normal();
            let chance: f64 = self.rng.random();
            let log = match noise {
                Noise::Normal => cv * z,
                Noise::Stalls => cv * z + if chance < 0.1 { 3f64.ln() } else { 0.0 },
                Noise::Bimodal => cv * z + if chance < 0.5 { 0.1 } else { 0.0 },
                Noise::Skewed => -1.5 * cv * (1.0 - chance).ln(),
                Noise::Unequal => cv * z * if side == 1 { 3.0 } else { 1.0 },
                Noise::Drift => cv * z + 0.1 * place as f64 / order.len() as f64,
                Noise::Autocorrelated => 0.05 * memory,
            };
            sides[side].push(0.025 * log.exp() * if side == 1 { worse } else { 1.0 });
        }
        sides
    }
}

/// The block of each launch of a side: two launches of each side in one.
pub fn blocks(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i / 2).collect()
}
