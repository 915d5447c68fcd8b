//! Finds what a reader must know of the cards that a record was measured on: clocks that left the
//! band of the others, throttling, other users, a split card, what the driver did not tell.

use std::collections::BTreeMap;

use super::ok_launches;
use crate::device::Device;
use crate::number::{Form, count, text};
use crate::record::{Arm, GpuState, Launch, Record};
use crate::units::three_digits;

/// A launch whose median SM clock differs from the middle of all launches of its engine by more
/// than this share left the band of the others: less than the smallest margin in use, as for stolen time.
pub const CLOCK_BAND: f64 = 0.02;
/// Seconds with a reason for a lowered clock, as a share of the windows, from which it is said.
const THROTTLED: f64 = 0.05;

/// Something to know of a card before quoting a number.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum OfCard {
    /// Launches by number from 1, with their clocks in MHz.
    Clock {
        launches: Vec<(u32, f64)>,
        others: f64,
    },
    /// Reason → how many launches it was seen in.
    Throttled {
        reasons: BTreeMap<String, usize>,
        of: usize,
    },
    /// Waited for until it no longer slowed itself down.
    Waited {
        launches: usize,
        of: usize,
        longest: f64,
    },
    Shared {
        launches: usize,
        of: usize,
        most: u32,
    },
    Split,
    /// What → why.
    Unread {
        what: BTreeMap<String, String>,
    },
    /// Its bandwidth is not known.
    Ceiling {
        device: Device,
        why: String,
    },
}

/// Of one arm.
pub(super) fn findings(record: &Record, arm: &Arm) -> Vec<OfCard> {
    let launches: Vec<(&Launch, &GpuState)> =
        ok_launches(arm).filter_map(|l| Some((l, l.environment.gpu.as_ref()?))).collect();
    let of = launches.len();
    let mut found = Vec::new();
    found.extend(off_the_band(record, arm));
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (launch, gpu) in &launches {
        let window = measured_seconds(launch);
        let long = gpu.throttled_s.iter().filter(|(_, s)| **s > THROTTLED * window);
        long.for_each(|(reason, _)| *reasons.entry(reason.clone()).or_default() += 1);
    }
    if !reasons.is_empty() {
        found.push(OfCard::Throttled { reasons, of });
    }
    let waited: Vec<f64> = launches.iter().filter_map(|(_, gpu)| gpu.waited_s).collect();
    if let Some(longest) = waited.iter().copied().reduce(f64::max) {
        found.push(OfCard::Waited { launches: waited.len(), of, longest });
    }
    let others = launches.iter().filter_map(|(_, gpu)| gpu.other_processes).filter(|n| *n > 0);
    let others: Vec<u32> = others.collect();
    if let Some(most) = others.iter().copied().max() {
        found.push(OfCard::Shared { launches: others.len(), of, most });
    }
    if launches.iter().any(|(_, gpu)| gpu.mig == Some(true)) {
        found.push(OfCard::Split);
    }
    let what: BTreeMap<String, String> =
        launches.iter().flat_map(|(_, gpu)| gpu.unread.clone()).collect();
    if !what.is_empty() {
        found.push(OfCard::Unread { what });
    }
    if let Some(device) = arm.point.device
        && let Some(why) = record.host.gpu_of(device).and_then(|gpu| gpu.unmeasured.clone())
    {
        found.push(OfCard::Ceiling { device, why });
    }
    found
}

/// First token to last, of the measured generations together.
fn measured_seconds(launch: &Launch) -> f64 {
    let measured = launch.prompts.iter().filter(|run| run.role == crate::record::Role::Measured);
    let window = |run: &crate::record::PromptRun| {
        let (first, last) = (run.token_ns.first()?, run.token_ns.last()?);
        Some((last - first) as f64 / 1e9)
    };
    measured.filter_map(window).sum()
}

/// The band is that of the same engine on the same file and device, whichever build or label: two
/// builds that are compared need the same clock.
fn off_the_band(record: &Record, arm: &Arm) -> Option<OfCard> {
    let place = |arm: &Arm| {
        let point = &arm.point;
        (arm.engine.clone(), point.model.clone(), point.quant.clone(), point.device)
    };
    let clock = |launch: &Launch| {
        let clock = launch.environment.gpu.as_ref()?.sm_clock_mhz?;
        Some((launch.index + 1, clock.median))
    };
    let peers = record.arms.iter().filter(|other| place(other) == place(arm));
    let mut band: Vec<f64> =
        peers.flat_map(ok_launches).filter_map(clock).map(|(_, mhz)| mhz).collect();
    band.sort_by(f64::total_cmp);
    let others = *band.get(band.len() / 2)?;
    let off = |(_, mhz): &(u32, f64)| (mhz / others - 1.0).abs() > CLOCK_BAND;
    let launches: Vec<(u32, f64)> = ok_launches(arm).filter_map(clock).filter(off).collect();
    (!launches.is_empty()).then_some(OfCard::Clock { launches, others })
}

impl OfCard {
    /// Stable name, for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            OfCard::Clock { .. } => "gpu_clock",
            OfCard::Throttled { .. } => "gpu_throttled",
            OfCard::Waited { .. } => "gpu_waited",
            OfCard::Shared { .. } => "gpu_shared",
            OfCard::Split => "gpu_split",
            OfCard::Unread { .. } => "gpu_unread",
            OfCard::Ceiling { .. } => "gpu_ceiling",
        }
    }

    pub fn message(&self, arm: &str) -> String {
        match self {
            OfCard::Clock { launches, others } => {
                let each = launches.iter().map(|(n, mhz)| format!("#{n} at {mhz:.0} MHz"));
                format!(
                    "{arm}: the card's SM clock left the band of the others ({others:.0} MHz \
                     ± {}) in {}",
                    text(CLOCK_BAND, Form::Percent(0)),
                    each.collect::<Vec<_>>().join(", ")
                )
            }
            OfCard::Throttled { reasons, of } => {
                let each = reasons.iter().map(|(reason, n)| format!("{reason} in {n}"));
                format!(
                    "{arm}: the card lowered its clock: {} of {}",
                    each.collect::<Vec<_>>().join(", "),
                    count(*of, "launch")
                )
            }
            OfCard::Waited { launches, of, longest } => format!(
                "{arm}: {launches} of {} waited up to {} s for a card that slowed itself down",
                count(*of, "launch"),
                three_digits(*longest)
            ),
            OfCard::Shared { launches, of, most } => format!(
                "{arm}: {} of others held the card before {launches} of {}",
                count(*most as usize, "program"),
                count(*of, "launch")
            ),
            OfCard::Split => format!(
                "{arm}: the card is split into instances (MIG): energy, clocks and its memory in \
                 use are those of the whole card"
            ),
            OfCard::Unread { what } => {
                let each = what.iter().map(|(name, why)| format!("{name} ({why})"));
                format!("{arm}: not read from the card: {}", each.collect::<Vec<_>>().join("; "))
            }
            OfCard::Ceiling { device, why } => {
                format!(
                    "{arm}: the read bandwidth of {device} is not known, so there is no MBU: {why}"
                )
            }
        }
    }

    pub fn advice(&self) -> &'static str {
        match self {
            OfCard::Clock { .. } | OfCard::Throttled { .. } => {
                "let it cool, or lock its clock below what it holds (`sudo nvidia-smi -lgc MHZ`), \
                 and run again"
            }
            OfCard::Waited { .. } => "look at its cooling and power; llm-bench doctor shows them",
            OfCard::Shared { .. } => "end them (`nvidia-smi` lists them) and run again",
            OfCard::Split => "measure on a whole card before quoting its energy",
            OfCard::Unread { .. } => {
                "what was not read is absent from the figures; llm-bench doctor shows what the \
                 driver reports"
            }
            OfCard::Ceiling { .. } => "llm-bench doctor measures it again, with the reason",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;
    use crate::record::Spread;

    /// Launches of one arm at these SM clocks.
    fn record(clocks: &[f64]) -> Record {
        let mut record = testing::record();
        record.arms.truncate(1);
        let launches = &mut record.arms[0].launches;
        let one = launches[0].clone();
        launches.clear();
        for (index, mhz) in clocks.iter().enumerate() {
            let spread = Spread { min: *mhz, median: *mhz, max: *mhz };
            let gpu = GpuState { sm_clock_mhz: Some(spread), ..GpuState::default() };
            let mut launch = Launch { index: index as u32, ..one.clone() };
            launch.environment.gpu = Some(gpu);
            launches.push(launch);
        }
        record
    }

    fn found(record: &Record) -> Vec<OfCard> {
        findings(record, &record.arms[0])
    }

    #[test]
    fn a_launch_whose_clock_left_the_band_of_the_others_is_named() {
        assert_eq!(found(&record(&[1980.0, 1965.0, 1980.0])), []);
        let off = found(&record(&[1980.0, 1605.0, 1980.0, 1980.0]));
        assert_eq!(off, [OfCard::Clock { launches: vec![(2, 1605.0)], others: 1980.0 }]);
        assert!(off[0].message("candle").contains("#2 at 1605 MHz"), "{}", off[0].message("x"));
        // Two builds of one engine: the second runs at a lower clock as a whole.
        let mut builds = record(&[1980.0; 4]);
        let mut second = record(&[1755.0; 3]).arms.remove(0);
        second.label = "candidate".into();
        builds.arms.push(second);
        assert_eq!(found(&builds), []);
        let off = findings(&builds, &builds.arms[1]);
        assert!(matches!(&off[..], [OfCard::Clock { launches, .. }] if launches.len() == 3));
        let warnings = crate::analysis::warnings(&record(&[1980.0, 1605.0, 1980.0]));
        assert!(warnings.iter().any(|w| w.code == "gpu_clock" && w.arm.is_some()));
    }

    #[test]
    fn what_disturbs_a_card_is_said() {
        let mut record = record(&[1980.0; 3]);
        record.arms[0].point.device = Some(Device::Cuda(1));
        record.host.gpu = vec![crate::record::Gpu {
            index: Some(1),
            unmeasured: Some("no code".into()),
            ..Default::default()
        }];
        let gpu = record.arms[0].launches[1].environment.gpu.as_mut().unwrap();
        gpu.throttled_s.insert("power_cap".into(), 1e6);
        gpu.throttled_s.insert("sync_boost".into(), 1e-9);
        (gpu.waited_s, gpu.other_processes, gpu.mig) = (Some(3.0), Some(2), Some(true));
        gpu.unread.insert("energy".into(), "not available".into());
        let found = found(&record);
        let codes: Vec<_> = found.iter().map(OfCard::code).collect();
        let all =
            ["gpu_throttled", "gpu_waited", "gpu_shared", "gpu_split", "gpu_unread", "gpu_ceiling"];
        assert_eq!(codes, all);
        let text: Vec<String> = found.iter().map(|f| f.message("a")).collect();
        assert!(text[0].contains("power_cap in 1 of 3") && !text[0].contains("sync"), "{text:?}");
        assert!(text[5].contains("cuda:1") && text[5].contains("no MBU"), "{text:?}");
    }
}
