//! What the cards did while an arm was measured: clock, heat, power, and where its figures of
//! memory and energy come from.

use crate::analysis::ok_launches;
use crate::number::three_digits;
use crate::record::{Arm, GpuMemoryHow, GpuState, Launch, Record};
use crate::text::clean;

/// One line for the head of a report; absent where nothing ran on a card.
pub(super) fn fact(record: &Record) -> Option<(String, String)> {
    let arms = record.arms.iter().filter_map(|arm| Some((&arm.label, line(arm)?)));
    let arms: Vec<(&String, String)> = arms.collect();
    let text = match &arms[..] {
        [] => return None,
        [(_, line)] if record.arms.len() == 1 => line.clone(),
        _ => {
            let each = arms.iter().map(|(label, line)| format!("{}: {line}", clean(label)));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    Some(("Card".into(), text))
}

fn line(arm: &Arm) -> Option<String> {
    let launches: Vec<(&Launch, &GpuState)> =
        ok_launches(arm).filter_map(|l| Some((l, l.environment.gpu.as_ref()?))).collect();
    let first = launches.first()?.0;
    let medians = |of: fn(&GpuState) -> Option<f64>| {
        let mut values: Vec<f64> = launches.iter().filter_map(|(_, gpu)| of(gpu)).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let mut parts = Vec::new();
    if let Some(mhz) = medians(|gpu| Some(gpu.sm_clock_mhz?.median)) {
        parts.push(format!("SM clock {mhz:.0} MHz"));
    }
    let heat = launches.iter().filter_map(|(_, gpu)| Some(gpu.temperature_c?.max));
    parts.extend(heat.reduce(f64::max).map(|c| format!("at most {c:.0} °C")));
    if let Some(watts) = medians(|gpu| Some(gpu.power_w?.median)) {
        // A reading soon after a launch still holds a part of it: the driver averages.
        let idle = launches.iter().filter_map(|(_, gpu)| gpu.idle_power_w).reduce(f64::min);
        let idle = idle.map_or(String::new(), |w| format!(" ({} W idle)", three_digits(w)));
        parts.push(format!("{} W{idle}", three_digits(watts)));
    }
    let energy = first.gpu_energy.as_ref();
    parts.extend(energy.map(|energy| format!("energy by {}", clean(&energy.source))));
    let how = first.memory.gpu.as_ref().and_then(|gpu| gpu.how);
    parts.extend(how.map(|how| match how {
        GpuMemoryHow::Process => "memory of the engine's processes".to_string(),
        GpuMemoryHow::Device => "memory by the rise of the whole card's use".into(),
    }));
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;
    use crate::record::{Energy, GpuMemory, Spread};

    #[test]
    fn an_arm_on_a_card_has_a_line_and_one_on_the_processor_has_none() {
        let mut record = testing::record();
        assert_eq!(fact(&record), None);
        let even = |x| Some(Spread { min: x, median: x, max: x });
        for launch in &mut record.arms[0].launches {
            launch.environment.gpu = Some(GpuState {
                sm_clock_mhz: even(1980.0),
                temperature_c: even(45.0),
                power_w: even(310.0),
                idle_power_w: Some(71.0),
                ..GpuState::default()
            });
            launch.gpu_energy = Some(Energy {
                source: "NVML energy counter".into(),
                joules: 1.0,
                seconds: 1.0,
                steps: 10,
                resolution_s: None,
                request_joules: None,
                request_seconds: None,
            });
            let how = Some(GpuMemoryHow::Device);
            launch.memory.gpu = Some(GpuMemory { how, ..GpuMemory::default() });
        }
        let (head, text) = fact(&record).unwrap();
        let label = &record.arms[0].label;
        assert_eq!(head, "Card");
        assert_eq!(
            text,
            format!(
                "{label}: SM clock 1980 MHz, at most 45 °C, 310 W (71.0 W idle), energy by NVML \
                 energy counter, memory by the rise of the whole card's use"
            )
        );
        record.arms.truncate(1);
        assert!(fact(&record).unwrap().1.starts_with("SM clock"));
    }
}
