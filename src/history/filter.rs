//! Selects lines of a history.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use super::Identity;

/// Every field that is set must match; an empty filter accepts everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// The engine's name or the label of its arm.
    pub engine: Option<String>,
    pub model: Option<String>,
    pub quant: Option<String>,
    /// Part of the name of the processor or of a GPU.
    pub host: Option<String>,
    /// The number that `history list` shows.
    pub identity: Option<i64>,
    /// Sessions at this time or later.
    pub since: Option<Timestamp>,
}

impl Filter {
    /// Whether the filter accepts lines of this identity.
    pub fn takes(&self, id: i64, identity: &Identity) -> bool {
        let equal = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(found))
        };
        let holds = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
        self.identity.is_none_or(|wanted| wanted == id)
            && (equal(&self.engine, &identity.engine) || equal(&self.engine, &identity.label))
            && equal(&self.model, &identity.model)
            && equal(&self.quant, &identity.quant)
            && self.host.as_ref().is_none_or(|part| {
                holds(&identity.cpu_model, part)
                    || identity.gpus.iter().any(|gpu| holds(&gpu.name, part))
            })
    }
}

/// A text that is not a point in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected a date (2026-03-01), a time (2026-03-01T10:15:30Z) or an age (90d, 12w), found {0:?}"
)]
pub struct BadSince(String);

/// Reads a date (midnight UTC), a time or an age.
pub fn since(text: &str) -> Result<Timestamp, BadSince> {
    let bad = || BadSince(text.to_string());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<Date>() {
        return date.to_zoned(TimeZone::UTC).map(|z| z.timestamp()).map_err(|_| bad());
    }
    let age: Span = text.parse().map_err(|_| bad())?;
    let then = Zoned::now().with_time_zone(TimeZone::UTC).checked_sub(age.abs());
    then.map(|z| z.timestamp()).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_times_and_ages_are_read_and_nothing_else() {
        assert_eq!(since("2026-03-01").unwrap().to_string(), "2026-03-01T00:00:00Z");
        let time = since("2026-03-01T10:15:30+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-03-01T09:15:30Z");
        let days = Timestamp::now().duration_since(since("30d").unwrap()).as_hours();
        assert!((719..=721).contains(&days), "{days} hours");
        for bad in ["", "soon", "2026-13-01", "9999999w"] {
            assert!(since(bad).unwrap_err().to_string().contains("expected a date"), "{bad}");
        }
    }
}
