//! Turns numbers into text, and is the only place that rounds. One unit per row, three significant
//! digits, and never an interval that rounds to nothing.

use crate::metric::Unit;
pub use crate::units::three_digits;

/// Shown for a value that does not exist.
pub const DASH: &str = "–";

/// Changes beyond this factor are shown by their order of magnitude.
const HUGE: f64 = 100.0;

/// How a number is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A whole number: counts, ids.
    Count,
    /// Three significant digits, without a unit: `0.800`, `41.3`.
    Significant,
    /// This many decimals.
    Fixed(usize),
    /// This many decimals and an exponent: `2.5e-7`.
    Scientific(usize),
    /// A share as `4.2 %`, `14 %`.
    Share,
    /// A share in percent with this many decimals.
    Percent(usize),
    /// A signed change with three digits: `-6.03 %`, `+12.3 %`, `+240 %`.
    Change,
    /// A signed change in tenths of a percent: `+6.8 %`.
    ChangeTenths,
    /// The same with a true minus sign: `−0.4 %`; whole percents from 100 % on.
    ChangeMinus,
    /// A probability: `0.737`, `<0.001`.
    P,
    /// A probability without its leading zero: `.737`, `<.0001`.
    PShort,
    /// For programs: twelve digits, more than any clock has and fewer than rounding errors reach.
    Twelve,
    /// For programs: every digit, so that the text reads back as the same number.
    Exact,
}

/// A number in its form.
pub fn text(x: f64, form: Form) -> String {
    match form {
        Form::Count => format!("{x}"),
        Form::Significant => three_digits(x),
        Form::Fixed(places) => format!("{x:.places$}"),
        Form::Scientific(_) if x == 0.0 => "0".into(),
        Form::Scientific(places) => format!("{x:.places$e}"),
        Form::Share if x >= HUGE => format!("{:.0e} %", 100.0 * x),
        Form::Share => format!("{:.*} %", usize::from(x.abs() < 0.0995), 100.0 * x),
        Form::Percent(places) => format!("{:.places$} %", 100.0 * x),
        Form::Change if x == 0.0 => "0 %".into(),
        Form::Change if x.abs() >= HUGE => format!("{:+.0e} %", 100.0 * x),
        Form::Change => format!("{:+.*} %", change_places(x), 100.0 * x),
        Form::ChangeTenths => format!("{:+.1} %", 100.0 * x),
        Form::ChangeMinus => {
            let percent = 100.0 * x;
            let digits = format!("{:.*}", usize::from(percent.abs() < 99.95), percent.abs());
            let sign = if percent < 0.0 && digits != "0.0" { "−" } else { "+" };
            format!("{sign}{digits} %")
        }
        Form::P if x < 0.001 => "<0.001".into(),
        Form::P => format!("{x:.3}"),
        Form::PShort if x < 0.0001 => "<.0001".into(),
        Form::PShort if x < 0.001 => format!("{x:.4}").trim_start_matches('0').into(),
        Form::PShort => format!("{x:.3}").trim_start_matches('0').into(),
        Form::Twelve => format!("{x:.11e}").parse().unwrap_or(x).to_string(),
        Form::Exact => format!("{x:?}"),
    }
}

/// Both ends of an interval in a form, with the same number of digits: `-7.12 … -4.90 %`,
/// `0.795–0.805`.
pub fn interval([low, high]: [f64; 2], form: Form) -> String {
    match form {
        Form::Significant => format!("{}–{}", text(low, form), text(high, form)),
        Form::Change if low == high => text(low, form),
        Form::Change if high >= HUGE => {
            format!("{} … {}", text(low, form).trim_end_matches(" %"), text(high, form))
        }
        Form::Change => {
            let places = change_places(low.abs().max(high.abs()));
            format!("{:+.places$} … {:+.places$} %", 100.0 * low, 100.0 * high)
        }
        _ => format!("{} … {}", text(low, form), text(high, form)),
    }
}

fn change_places(x: f64) -> usize {
    match x.abs() {
        x if x < 0.09995 => 2,
        x if x < 0.9995 => 1,
        _ => 0,
    }
}

/// A share with all its digits, as a user types it: `5 %`, `2.5 %`.
pub fn share(x: f64) -> String {
    let text = format!("{:.3}", 100.0 * x);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `1 launch`, `5 launches`.
pub fn count(n: usize, one: &str) -> String {
    let ending = match one.ends_with("ch") {
        true => "es",
        false => "s",
    };
    format!("{n} {one}{}", if n == 1 { "" } else { ending })
}

/// The common unit of numbers of one metric that are shown side by side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    pub unit: &'static str,
    /// Shown value = value × factor.
    pub factor: f64,
    /// Decimals for all of them; absent if each has its own three significant digits.
    pub digits: Option<usize>,
}

impl Scale {
    /// The unit in which both the smallest and the largest value read well.
    pub fn of(unit: Unit, values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut greatest) = (f64::INFINITY, 0.0f64);
        for size in values.map(f64::abs) {
            greatest = greatest.max(size);
            if size > 0.0 {
                least = least.min(size);
            }
        }
        let (unit, factor) = unit_for(unit, least.min(greatest), greatest);
        Self { unit, factor, digits: None }
    }

    /// One digit more than in a single table, and the same for all, so that small differences
    /// between neighbours show.
    pub fn fine(unit: Unit, values: impl Iterator<Item = f64> + Clone) -> Self {
        let scale = Self::of(unit, values.clone());
        let most = values.map(f64::abs).fold(0.0, f64::max) * scale.factor;
        Self { digits: Some(decimals(most) + usize::from(most < 1000.0)), ..scale }
    }

    /// The value and half of its interval.
    pub fn parts(self, mean: f64, half_width: Option<f64>) -> (String, Option<String>) {
        let value = mean * self.factor;
        let digits = self.digits.unwrap_or_else(|| decimals(value));
        let half = half_width.map(|half| {
            let half = half * self.factor;
            match self.digits {
                Some(digits) => format!("{half:.digits$}"),
                None if half == 0.0 => "0".to_string(),
                // A half-width that would round to nothing gets the digits it needs.
                None if half > 0.0 && format!("{half:.digits$}").parse() == Ok(0.0) => {
                    let needed = (-half.log10()).ceil().clamp(0.0, 9.0) as usize;
                    format!("{half:.needed$}")
                }
                None => format!("{half:.digits$}"),
            }
        });
        (format!("{value:.digits$}"), half)
    }

    /// `38.41 ± 0.62`.
    pub fn text(self, mean: f64, half_width: Option<f64>) -> String {
        match self.parts(mean, half_width) {
            (value, Some(half)) => format!("{value} ± {half}"),
            (value, None) => value,
        }
    }
}

/// `2.01×`; with a tilde if the interval leaves open which of the two is better.
pub fn ratio(times: f64, open: bool) -> String {
    format!("{}{times:.*}×", if open { "~" } else { "" }, decimals(times))
}

/// Decimals for three significant digits: none from 100 on, and only two between 0.1 and 1.
fn decimals(x: f64) -> usize {
    if x == 0.0 || !x.is_finite() {
        return 0;
    }
    if (0.0995..1.0).contains(&x.abs()) {
        return 2;
    }
    // Smaller ones would round to nothing.
    if x.abs() < 1e-11 {
        return 12;
    }
    // Uses the rounded value, so that 9.996 becomes 10.0.
    let magnitude = |x: f64| x.abs().log10().floor() as i32;
    let first = (2 - magnitude(x)).clamp(0, 12);
    let scale = 10f64.powi(first);
    (2 - magnitude((x * scale).round() / scale)).clamp(0, 12) as usize
}

fn unit_for(unit: Unit, least: f64, greatest: f64) -> (&'static str, f64) {
    match unit {
        Unit::Seconds if greatest < 0.9995e-3 => ("µs", 1e6),
        Unit::Seconds if greatest < 0.9995 => ("ms", 1e3),
        Unit::Seconds if least < 0.9995 && greatest < 9.995 => ("ms", 1e3),
        Unit::Seconds if least < 0.0995 && greatest < 99.95 => ("ms", 1e3),
        Unit::Seconds => ("s", 1.0),
        Unit::Bytes if greatest < 999.5e3 => ("kB", 1e-3),
        Unit::Bytes if greatest < 999.5e6 || greatest < 99.5e9 && least < 99.5e6 => ("MB", 1e-6),
        Unit::Bytes => ("GB", 1e-9),
        Unit::BytesPerSecond if greatest < 999.5e3 => ("kB/s", 1e-3),
        Unit::BytesPerSecond if greatest < 999.5e6 => ("MB/s", 1e-6),
        Unit::BytesPerSecond => ("GB/s", 1e-9),
        Unit::Share => ("%", 100.0),
        Unit::Ratio => ("", 1.0),
        Unit::TokensPerSecond
        | Unit::PerSecond
        | Unit::TokensPerSecondPerGb
        | Unit::JoulesPerToken
        | Unit::Megahertz => (unit.as_str(), 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Unit;

    #[test]
    fn a_row_has_one_unit_in_which_all_its_values_read_well() {
        let unit = |unit, values: &[f64]| Scale::of(unit, values.iter().copied()).unit;
        assert_eq!(unit(Unit::Seconds, &[0.0413, 0.39]), "ms");
        assert_eq!(unit(Unit::Seconds, &[0.0413, 4.87]), "ms");
        assert_eq!(unit(Unit::Seconds, &[0.39, 31.2]), "s");
        assert_eq!(unit(Unit::Bytes, &[0.7e9, 5.6e9]), "GB");
        assert_eq!(unit(Unit::BytesPerSecond, &[0.7e6, 56e6]), "MB/s");
        assert_eq!(Scale::of(Unit::Share, [0.78].into_iter()).text(0.78, None), "78.0");
    }

    #[test]
    fn digits_follow_the_value_and_an_interval_never_rounds_to_nothing() {
        let decode = |mean, half| {
            Scale::of(Unit::TokensPerSecond, [mean].into_iter()).text(mean, Some(half))
        };
        assert_eq!(decode(41.234, 0.61), "41.2 ± 0.6");
        assert_eq!(decode(9.996, 0.61), "10.0 ± 0.6");
        assert_eq!(decode(1784.0, 35.2), "1784 ± 35");
        assert_eq!(decode(41.234, 0.004), "41.2 ± 0.004");
        assert_eq!(decode(41.234, 0.0), "41.2 ± 0");
        assert_eq!(decode(0.0, 0.0), "0 ± 0");
    }

    #[test]
    fn each_form_shows_what_it_says() {
        assert_eq!(text(-0.0603, Form::Change), "-6.03 %");
        assert_eq!(text(2.4, Form::Change), "+240 %");
        assert_eq!(text(-0.004, Form::ChangeMinus), "−0.4 %");
        assert_eq!(text(-1e-9, Form::ChangeMinus), "+0.0 %");
        assert_eq!(text(0.00004, Form::PShort), "<.0001");
        assert_eq!(text(0.1 + 0.2, Form::Twelve), "0.3");
        assert_eq!(text(41.0, Form::Exact), "41.0");
        assert_eq!(text(f64::NAN, Form::Twelve), "NaN");
        assert_eq!(interval([-0.0712, -0.049], Form::Change), "-7.12 … -4.90 %");
        assert_eq!(interval([0.0, 0.0], Form::Change), "0 %");
        assert_eq!(share(0.025), "2.5 %");
        assert_eq!(count(1, "launch") + ", " + &count(2, "launch"), "1 launch, 2 launches");
    }
}
