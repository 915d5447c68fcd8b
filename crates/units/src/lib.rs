//! Quantities with their units as types, so that a bare `f64` never crosses a module border,
//! and the clock that harness and engines share.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on CLOCK_MONOTONIC in nanoseconds: the same clock in every process of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonoNs(pub u64);

impl MonoNs {
    pub fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: MonoNs) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0) as f64 / 1e9)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl Seconds {
    pub fn from_ns(ns: u64) -> Self {
        Self(ns as f64 / 1e9)
    }
}

impl From<Duration> for Seconds {
    fn from(d: Duration) -> Self {
        Self(d.as_secs_f64())
    }
}

impl fmt::Display for Seconds {
    /// Three significant digits: `832 ns`, `41.3 µs`, `12.9 ms`, `4.21 s`, `3 min 07 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        match s.abs() {
            a if a >= 119.5 => {
                let whole = s.round() as u64;
                f.pad(&format!("{} min {:02} s", whole / 60, whole % 60))
            }
            a if a >= 0.9995 => f.pad(&format!("{} s", three_digits(s))),
            a if a >= 0.9995e-3 => f.pad(&format!("{} ms", three_digits(s * 1e3))),
            a if a >= 0.9995e-6 => f.pad(&format!("{} µs", three_digits(s * 1e6))),
            0.0 => f.pad("0 s"),
            _ => f.pad(&format!("{} ns", three_digits(s * 1e9))),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    /// Decimal units, three significant digits: `767 MB`, `2.48 GB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.0 as f64;
        match b {
            b if b >= 999.5e6 => f.pad(&format!("{} GB", three_digits(b / 1e9))),
            b if b >= 999.5e3 => f.pad(&format!("{} MB", three_digits(b / 1e6))),
            b if b >= 999.5 => f.pad(&format!("{} kB", three_digits(b / 1e3))),
            b => f.pad(&format!("{b} B")),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BytesPerSecond(pub f64);

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} GB/s", three_digits(self.0 / 1e9)))
    }
}

/// Multiply-accumulate operations per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MacsPerSecond(pub f64);

impl fmt::Display for MacsPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} GMAC/s", three_digits(self.0 / 1e9)))
    }
}

/// A number with three significant digits and no exponent: `0.0412`, `4.12`, `41.2`, `412`.
pub fn three_digits(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return format!("{x}");
    }
    let magnitude = x.abs().log10().floor() as i32;
    // 9.996 has magnitude 0 but prints as 10.0, so this rounds before it counts.
    let scale = 10f64.powi(2 - magnitude);
    let rounded = (x * scale).round() / scale;
    let magnitude = rounded.abs().log10().floor() as i32;
    format!("{:.*}", (2 - magnitude).max(0) as usize, rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_with_three_digits_and_a_fitting_unit() {
        assert_eq!(Seconds(0.0129).to_string(), "12.9 ms");
        assert_eq!(Seconds(0.9999).to_string(), "1.00 s");
        assert_eq!(Seconds(187.0).to_string(), "3 min 07 s");
        assert_eq!(Seconds(0.0).to_string(), "0 s");
        assert_eq!(Bytes(767_000_000).to_string(), "767 MB");
        assert_eq!(Bytes(999_600_000).to_string(), "1.00 GB");
        assert_eq!(Bytes(12).to_string(), "12 B");
        assert_eq!(BytesPerSecond(33.41e9).to_string(), "33.4 GB/s");
        assert_eq!(three_digits(9.996), "10.0");
        assert_eq!(three_digits(-0.04123), "-0.0412");
    }

    #[test]
    fn the_shared_clock_runs_forward() {
        let a = MonoNs::now();
        let b = MonoNs::now();
        assert!(b >= a);
        assert_eq!(a.since(MonoNs(u64::MAX)), Seconds(0.0));
    }
}
