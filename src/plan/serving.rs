//! What `serve-bench` adds to a workload: the levels of load, how long each lasts, and what counts as
//! good service.

use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Requests that a server of ours answers at once in an open loop; others wait for their turn.
const OPEN: u32 = 16;

/// How a server is loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    /// Levels of a closed loop: users, each of whom waits for an answer before the next request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concurrency: Vec<u32>,
    /// Levels of an open loop: requests a second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_rate: Vec<f64>,
    /// How the requests of an open loop are spaced.
    pub arrivals: Spacing,
    /// Requests of each level; absent: as many as begin within the duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// No request of a level begins later than this, in seconds.
    pub duration_s: f64,
    /// What a request must keep to be good service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<Slo>,
    /// The first tokens that all prompts share.
    #[serde(default)]
    pub shared_prefix: u32,
}

/// How the requests of an open loop are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// Random and independent, as from many users
    Poisson,
    /// Equal
    Constant,
}

/// Level of load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level {
    Users(u32),
    Rate(f64),
}

impl Level {
    /// Its name in tables: `c8`, `r2.5`.
    pub fn id(self) -> String {
        match self {
            Level::Users(n) => format!("c{n}"),
            Level::Rate(rate) => format!("r{rate}"),
        }
    }
}

impl Serving {
    /// All levels in order.
    pub fn levels(&self) -> Vec<Level> {
        let users = self.concurrency.iter().copied().map(Level::Users);
        users.chain(self.request_rate.iter().copied().map(Level::Rate)).collect()
    }

    /// Requests that a server of ours is prepared to answer at once.
    pub fn streams(&self) -> u32 {
        let users = self.concurrency.iter().copied().max();
        let open = (!self.request_rate.is_empty()).then_some(OPEN);
        users.max(open).unwrap_or(1)
    }

    /// Checks what clap cannot check.
    pub fn check(&self) -> Result<(), String> {
        let levels = self.concurrency.len() + self.request_rate.len();
        if levels == 0 || levels > 64 {
            return Err(format!("expected 1 to 64 levels of load, found {levels}"));
        }
        if let Some(n) = self.concurrency.iter().find(|n| !(1..=1024).contains(*n)) {
            return Err(format!("--concurrency {n}: expected 1 to 1024"));
        }
        if let Some(rate) = self.request_rate.iter().find(|r| !(0.001..=100_000.0).contains(*r)) {
            return Err(format!(
                "--request-rate {rate}: expected requests a second, 0.001 to 100000"
            ));
        }
        if !(0.1..=86_400.0).contains(&self.duration_s) {
            return Err(format!(
                "--duration {}: expected seconds from 0.1 to 86400",
                self.duration_s
            ));
        }
        Ok(())
    }
}

/// Service level objectives of a request: `ttft=200ms,tpot=50ms,e2e=5s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot_s: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2e_s: Option<f64>,
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?}: expected ttft=200ms,tpot=50ms,e2e=5s or some of them");
        let mut slo = Self::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(expected)?;
            let value = seconds(value.trim()).ok_or_else(expected)?;
            let place = match name.trim() {
                "ttft" => &mut slo.ttft_s,
                "tpot" => &mut slo.tpot_s,
                "e2e" | "e2el" => &mut slo.e2e_s,
                _ => return Err(expected()),
            };
            *place = Some(value);
        }
        Ok(slo)
    }
}

/// `200ms`, `1.5s`, or milliseconds without a unit, as vLLM has them.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(ms), _) => (ms, 1e-3),
        (None, Some(s)) => (s, 1.0),
        (None, None) => (text, 1e-3),
    };
    let value = number.trim().parse::<f64>().ok()? * unit;
    (value.is_finite() && value > 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_have_units_and_unknown_ones_are_refused() {
        let slo: Slo = "ttft=200ms, tpot=50,e2e=5s".parse().unwrap();
        assert_eq!((slo.ttft_s, slo.tpot_s, slo.e2e_s), (Some(0.2), Some(0.05), Some(5.0)));
        for bad in ["", "ttft", "ttft=x", "ttft=-1ms", "speed=1s", "ttft=nan"] {
            assert!(bad.parse::<Slo>().unwrap_err().contains("expected ttft="), "{bad}");
        }
    }
}
