//! The cards: what the driver says of them, what they deliver, and who else uses them.

use serde::Serialize;

use super::{Finding, ModelNeed};
use crate::number::{count, three_digits};
use crate::record::Gpu;
use crate::sensors::gpu::ceilings::note;
use crate::sensors::nvml::{Library, Missing, Unread};
use crate::units::{Bytes, BytesPerSecond};
use crate::worker::cuda::Ceilings;

/// The highest speed that a model could reach on a card.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CardRoofline {
    pub model: String,
    /// `cuda:0`.
    pub device: String,
    /// Read bandwidth over the weights that a token reads.
    pub decode_tps: f64,
    /// f16 arithmetic over the multiply-adds of a token. Attention is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_tps: Option<f64>,
}

/// Examines every card that CUDA shows. What `measure` finds goes into the cards of the host.
pub fn findings(
    library: &Result<Library, Missing>,
    gpus: &mut Vec<Gpu>,
    measure: &dyn Fn(u32) -> Result<Ceilings, String>,
) -> Vec<Finding> {
    let library = match library {
        Ok(library) => library,
        Err(Missing::Driver) => {
            let advice = "load it: `sudo modprobe nvidia`; `nvidia-smi` then lists the cards";
            return vec![Finding::warn("GPU", "NVIDIA's driver is not loaded", advice)];
        }
        Err(_) if measure(0).is_ok() => {
            note(0, measure(0), gpus);
            let found = "cuda:0 answers, but NVIDIA's management library (libnvidia-ml.so.1) is \
                         not there";
            let advice = "its memory, energy and clocks stay unknown: install the library, or give \
                          the container the capability (NVIDIA_DRIVER_CAPABILITIES=compute,utility)";
            return vec![Finding::warn("GPU", found, advice), delivers(&gpus[gpus.len() - 1])];
        }
        Err(_) => return vec![Finding::ok("GPU", "none that NVML reports")],
    };
    if gpus.is_empty() {
        return vec![Finding::ok("GPU", "none that NVML reports")];
    }
    let mut found = Vec::new();
    let shown: Vec<Option<u32>> = gpus.iter().map(|gpu| gpu.index).collect();
    for (at, index) in shown.into_iter().enumerate() {
        found.push(named(&gpus[at]));
        let Some(index) = index else { continue };
        // A measurement shows the clock that the card reaches, so the rest is read after it.
        note(index, measure(index), gpus);
        if let Ok(card) = library.card(index) {
            found.extend(of_card(&card, &gpus[at]));
        }
        found.push(delivers(&gpus[at]));
    }
    found
}

fn named(gpu: &Gpu) -> Finding {
    let driver = gpu.driver.as_deref().unwrap_or("unknown");
    let text = format!("{}, {}, driver {driver}", gpu.name, Bytes(gpu.memory_bytes));
    match gpu.index {
        Some(n) => Finding::ok("GPU", format!("cuda:{n}: {text}")),
        None => Finding::ok("GPU", format!("{text}; hidden by CUDA_VISIBLE_DEVICES")),
    }
}

fn of_card(card: &crate::sensors::nvml::Card, gpu: &Gpu) -> Vec<Finding> {
    let mut unread = Unread::new();
    let now = card.read(&mut unread);
    let others = card.holders(&mut unread);
    let mut found = Vec::new();

    let clock = now.sm_clock_mhz.map(|mhz| {
        let most = card.max_sm_clock_mhz().map_or(String::new(), |most| format!(" of {most}"));
        let heat = now.temperature_c.map_or(String::new(), |c| format!(", {c} °C"));
        format!("SM clock {mhz}{most} MHz{heat}")
    });
    found.push(match (clock, now.throttle.is_empty()) {
        (None, _) => Finding::unknown("GPU clock", "not reported"),
        (Some(clock), true) => Finding::ok("GPU clock", clock),
        (Some(clock), false) => Finding::warn(
            "GPU clock",
            format!("{clock}, lowered by {}", now.throttle.join(", ")),
            "look at its cooling and its power limit (`nvidia-smi -q -d PERFORMANCE,POWER`)",
        ),
    });
    found.push(match card.persistent() {
        None => Finding::unknown("GPU persistence", "not reported"),
        Some(true) => Finding::ok("GPU persistence", "on"),
        Some(false) => Finding::warn(
            "GPU persistence",
            "off: the driver lets the card go when nobody uses it, and each cold start waits for it",
            "`sudo nvidia-smi -pm 1`",
        ),
    });
    found.push(match gpu.mig {
        None => Finding::ok("GPU instances", "the card cannot be split"),
        Some(false) => Finding::ok("GPU instances", "not split (MIG is off)"),
        Some(true) => Finding::warn(
            "GPU instances",
            "the card is split (MIG): energy and clocks are those of the whole card, and the \
             other instances share its power",
            "`sudo nvidia-smi -mig 0`, or quote speeds only",
        ),
    });
    found.push(match others {
        None => Finding::unknown("GPU programs", "not reported"),
        Some(others) if others.is_empty() => Finding::ok("GPU programs", "none of others"),
        Some(others) => Finding::warn(
            "GPU programs",
            format!("{} of others on the card", count(others.len(), "program")),
            "stop them while you measure (`nvidia-smi` lists them)",
        ),
    });
    found.push(match (now.energy, now.power_mw) {
        (Some(_), Some(mw)) => {
            let watts = three_digits(f64::from(mw) / 1e3);
            Finding::ok("GPU energy", format!("counter, {watts} W now"))
        }
        (Some(_), None) => Finding::ok("GPU energy", "counter"),
        (None, Some(_)) => Finding::unknown("GPU energy", "no counter: power is summed up instead"),
        (None, None) => {
            let why = unread.get("energy").cloned().unwrap_or_default();
            Finding::unknown("GPU energy", format!("not reported: {why}"))
        }
    });
    found
}

/// What the card was measured to deliver.
fn delivers(gpu: &Gpu) -> Finding {
    const CHECK: &str = "GPU ceilings";
    if let Some(why) = &gpu.unmeasured {
        let advice = "without its read bandwidth there is no MBU on it";
        return Finding::warn(CHECK, format!("not measured: {why}"), advice);
    }
    let rate = |what: &str, rate: Option<f64>| Some(format!("{what} {}", BytesPerSecond(rate?)));
    let peak =
        |what: &str, rate: Option<f64>| Some(format!("{what} {} T/s", three_digits(rate? / 1e12)));
    let parts = [
        rate("reads", gpu.measured_read_bandwidth_bytes_per_s),
        rate("copies", gpu.measured_copy_bandwidth_bytes_per_s),
        rate("upload", gpu.measured_upload_bandwidth_bytes_per_s),
        peak("f16", gpu.measured_f16_flops),
        peak("int8", gpu.measured_int8_ops),
    ];
    Finding::ok(CHECK, parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// The ceilings of each model on each measured card.
pub fn rooflines(gpus: &[Gpu], models: &[ModelNeed]) -> Vec<CardRoofline> {
    let of = |gpu: &Gpu, model: &ModelNeed| {
        let rate = gpu.measured_read_bandwidth_bytes_per_s?;
        let macs = gpu.measured_f16_flops.map(|flops| flops / 2.0);
        Some(CardRoofline {
            model: model.name.clone(),
            device: format!("cuda:{}", gpu.index?),
            decode_tps: rate / model.read_per_token.0 as f64,
            prefill_tps: macs.map(|macs| macs / model.macs_per_token),
        })
    };
    gpus.iter().flat_map(|gpu| models.iter().filter_map(move |m| of(gpu, m))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::doctor::State;
    use crate::sensors::gpu::fake::Fake;

    const H100: Ceilings = Ceilings {
        read_bytes_per_s: 3e12,
        copy_bytes_per_s: 1.4e12,
        upload_bytes_per_s: 5.5e10,
        f16_flops: 7e14,
        int8_ops: 1.4e15,
    };

    fn examined(state: &[&str], measured: Result<Ceilings, String>) -> (Vec<Finding>, Vec<Gpu>) {
        let library = Fake::of(state).library();
        let mut gpus = library.as_ref().map_or_else(|_| Vec::new(), Library::cards);
        (findings(&library, &mut gpus, &|_| measured.clone()), gpus)
    }

    fn of<'a>(found: &'a [Finding], check: &str) -> &'a Finding {
        found.iter().find(|f| f.check == check).unwrap_or_else(|| panic!("{check}: {found:#?}"))
    }

    #[test]
    fn a_card_is_shown_with_its_ceilings_and_what_it_allows() {
        let (found, gpus) = examined(&[], Ok(H100));
        assert_eq!(of(&found, "GPU").found, "cuda:0: NVIDIA FAKE100, 80.0 GB, driver 580.95.05");
        assert_eq!(of(&found, "GPU clock").found, "SM clock 1980 of 1980 MHz, 41 °C");
        assert_eq!(of(&found, "GPU energy").found, "counter, 100 W now");
        let delivers = &of(&found, "GPU ceilings").found;
        assert!(
            delivers.contains("reads 3000 GB/s") && delivers.contains("f16 700 T/s"),
            "{delivers}"
        );
        let off = of(&found, "GPU persistence");
        assert!(off.state == State::Warn && off.advice.as_ref().unwrap().contains("-pm 1"));
        let warned = found.iter().filter(|f| f.state == State::Warn).count();
        assert_eq!(warned, 1, "{found:#?}");
        let need = ModelNeed {
            name: "m".into(),
            file: Bytes(1),
            read_per_token: Bytes(1_000_000_000),
            macs_per_token: 1e9,
            format: crate::measure::arithmetic::Format::Int8,
        };
        let roofline = &rooflines(&gpus, &[need])[0];
        assert_eq!((roofline.decode_tps, roofline.prefill_tps), (3000.0, Some(350_000.0)));
    }

    #[test]
    fn what_disturbs_on_a_card_is_warned_of() {
        let state = ["MIG=1", "OTHER=1", "THROTTLE=0x4|0x20"];
        let (found, gpus) = examined(&state, Err("no code".into()));
        for (check, word) in [
            ("GPU instances", "MIG"),
            ("GPU programs", "1 program"),
            ("GPU clock", "power_cap, sw_thermal"),
            ("GPU ceilings", "no code"),
        ] {
            let finding = of(&found, check);
            assert!(finding.state == State::Warn && finding.found.contains(word), "{finding:?}");
        }
        assert_eq!(rooflines(&gpus, &[]), []);
    }

    #[test]
    fn a_driver_that_tells_nothing_is_no_failure() {
        let (found, _) = examined(&["ALL=4"], Ok(H100));
        for check in ["GPU clock", "GPU persistence", "GPU programs", "GPU energy"] {
            assert_eq!(of(&found, check).state, State::Unknown, "{found:#?}");
        }
        let (found, _) = examined(&["INIT=9"], Err("no driver".into()));
        assert_eq!(of(&found, "GPU").state, State::Warn);
        let (found, _) = examined(&["COUNT=0"], Err("no driver".into()));
        assert_eq!((found.len(), found[0].state), (1, State::Ok));
        let none = Err(Missing::Library("not found".into()));
        let mut gpus = Vec::new();
        assert_eq!(findings(&none, &mut gpus, &|_| Err("no".into()))[0].state, State::Ok);
        let found = findings(&none, &mut gpus, &|_| Ok(H100));
        assert!(found[0].found.contains("libnvidia-ml") && found[1].check == "GPU ceilings");
    }
}
