//! When a session ends: after a fixed number of launches, when the figures are precise enough, or
//! at one of two looks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plan::Spec;
use crate::plan::fit::LEAST;

/// The rule by which a session ends. Launches are of each arm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stated", into = "Stated")]
pub enum Stop {
    /// All planned launches, however long they take. An arm that fails does not end the others.
    Fixed { launches: u32 },
    /// The same, but as many of each arm as fit into the time (`plan::fit`).
    Fitted { launches: u32, minutes: f64 },
    /// After each mirrored block from `least` on, until the caller has enough, or launches or
    /// time are used up.
    Precision { least: u32, most: u32, minutes: f64 },
    /// One look after `least`, one after `most`.
    Extension { least: u32, most: u32, minutes: f64 },
}

/// How long a session may take; launches are of each arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nobody is asked whether it is enough before these are in.
    pub least: u32,
    pub most: u32,
    /// No block begins that would end later, judged by the longest one so far. The first block
    /// always begins.
    pub time: Duration,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The caller had enough.
    Enough,
    /// The most launches are in.
    Launches,
    /// The time is used up.
    Time,
    /// An arm has failed in a way that will not pass.
    Failed,
    Interrupted,
    /// The record cannot be kept any more.
    Unkept,
}

impl Ended {
    /// Whether launches of the plan are missing that can still be made.
    pub fn is_cut_off(self) -> bool {
        matches!(self, Ended::Interrupted | Ended::Unkept)
    }
}

/// The form in `run.config`.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Stated {
    least: u32,
    most: u32,
    minutes: f64,
    extension: bool,
}

impl From<Stated> for Stop {
    fn from(Stated { least, most, minutes, extension }: Stated) -> Self {
        match extension {
            true => Stop::Extension { least, most, minutes },
            false => Stop::Precision { least, most, minutes },
        }
    }
}

impl From<Stop> for Stated {
    fn from(stop: Stop) -> Self {
        let Limits { least, most, .. } = stop.limits();
        Self { least, most, minutes: stop.minutes(), extension: stop.is_extension() }
    }
}

impl Stop {
    /// What the settings of `run` and `sweep` mean.
    pub fn of(spec: &Spec) -> Self {
        let launches = spec.launches;
        match spec.max_minutes {
            Some(minutes) => Stop::Fitted { launches, minutes },
            None => Stop::Fixed { launches },
        }
    }

    /// Of launches that are there already.
    pub const STORED: Stop = Stop::Fixed { launches: 2 };

    pub fn limits(self) -> Limits {
        let (least, most) = match self {
            Stop::Fixed { launches } => (launches, launches),
            Stop::Fitted { launches, .. } => (launches.min(LEAST), launches),
            Stop::Precision { least, most, .. } | Stop::Extension { least, most, .. } => {
                (least, most)
            }
        };
        let minutes = self.minutes().clamp(0.0, 1e9);
        Limits { least, most, time: Duration::from_secs_f64(minutes * 60.0) }
    }

    fn minutes(self) -> f64 {
        match self {
            Stop::Fixed { .. } => 1e9,
            Stop::Fitted { minutes, .. }
            | Stop::Precision { minutes, .. }
            | Stop::Extension { minutes, .. } => minutes,
        }
    }

    pub fn is_extension(self) -> bool {
        matches!(self, Stop::Extension { .. })
    }

    /// Whether a command line could have asked for it.
    pub fn is_plausible(self) -> bool {
        let Limits { least, most, .. } = self.limits();
        let minutes =
            matches!(self, Stop::Fixed { .. }) || (0.0..=10_000.0).contains(&self.minutes());
        (2..=1000).contains(&most) && least <= most && minutes
    }

    /// Why measuring ended, for readers.
    pub fn reason(self, ended: Ended) -> String {
        let extension = self.is_extension();
        match ended {
            Ended::Enough if extension => "decided at the first look".into(),
            Ended::Enough => "every deciding metric is known to half its margin".into(),
            Ended::Launches if extension => "the second look of two".into(),
            Ended::Launches => {
                format!("{} launches of each side, the most allowed", self.limits().most)
            }
            Ended::Time => format!("{} minutes, the most allowed", self.minutes()),
            Ended::Failed => "a side failed in a way that will not pass".into(),
            Ended::Interrupted => "interrupted".into(),
            Ended::Unkept => "there was no room for the result".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_records_state_it() {
        let json = r#"{"least":6,"most":12,"minutes":4.0,"extension":true}"#;
        let stop: Stop = serde_json::from_str(json).unwrap();
        assert_eq!(stop, Stop::Extension { least: 6, most: 12, minutes: 4.0 });
        assert_eq!(serde_json::to_string(&stop).unwrap(), json);
        assert_eq!(stop.limits().time, Duration::from_secs(240));
    }
}
