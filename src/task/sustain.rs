//! Generates from one prompt again and again for minutes, and looks at the machine between the
//! generations: how long does the speed last?

use std::time::{Duration, Instant};

use super::generate::Generation;
use super::{Measured, Running, Task};
use crate::device::Device;
use crate::engine::Failure;
use crate::number::three_digits;
use crate::progress::say;
use crate::protocol::Feature;
use crate::record::{Moment, Role, Sustained};
use crate::sensors::watch::Watch;

/// The least time between two looks, and the most looks of a launch.
const PERIOD: Duration = Duration::from_secs(1);
const LOOKS: f64 = 600.0;

/// Seconds between two lines of progress.
const SAY_S: f64 = 30.0;

/// A generation of the first prompt, for this time.
pub struct Sustain<'a> {
    pub generation: Generation<'a>,
    pub minutes: f64,
    pub device: Device,
}

impl Task for Sustain<'_> {
    type Answer = ();

    fn needs(&self) -> &[Feature] {
        self.generation.needs()
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        let mut filled = None;
        self.generation.cold(launch, &mut filled)?;
        self.generation.generate(launch, &mut filled, 0, Role::Warmup, 0)?;
        let time = Duration::from_secs_f64(60.0 * self.minutes);
        let period = PERIOD.max(time.div_f64(LOOKS));
        let mut watch = Watch::begin(self.device);
        let (began, mut looked) = (Instant::now(), Instant::now());
        let (mut tokens, mut decode_s, mut say_at) = (0, 0.0, 0.0);
        launch.launch.sustained = Some(Sustained { minutes: self.minutes, moments: Vec::new() });
        for iteration in 0.. {
            let one =
                self.generation.generate(launch, &mut filled, 0, Role::Measured, iteration)?;
            if iteration > 0 {
                // The first one stands for all: thousands with the times of their tokens would fill
                // the record.
                launch.launch.prompts.pop();
            }
            let times = &one.value.t_tokens_ns;
            if let (Some(first), Some(last)) = (times.first(), times.last()) {
                tokens += times.len() as u64 - 1;
                decode_s += (last - first) as f64 / 1e9;
            }
            let is_over = began.elapsed() >= time;
            if looked.elapsed() >= period || is_over {
                let at_s = began.elapsed().as_secs_f64();
                let moment = Moment { at_s, tokens, decode_s, ..watch.look() };
                if at_s >= say_at {
                    say(&in_a_line(&moment));
                    say_at = at_s + SAY_S;
                }
                launch.launch.sustained.get_or_insert_default().moments.push(moment);
                (tokens, decode_s, looked) = (0, 0.0, Instant::now());
            }
            if is_over {
                break;
            }
        }
        launch.finished()
    }

    fn doubt(&self, measured: &Measured<'_>) -> Option<String> {
        self.generation.doubt(measured)
    }

    fn metrics(&self, measured: &mut Measured<'_>) {
        self.generation.metrics(measured);
    }
}

/// "90 s: decode 173 tok/s, 3900 MHz, 71 °C".
fn in_a_line(moment: &Moment) -> String {
    let rate = moment.tokens as f64 / moment.decode_s;
    let clock = moment.sm_mhz.or(moment.cpu_mhz).map(|mhz| format!("{mhz:.0} MHz"));
    let heat = moment.gpu_temperature_c.or(moment.temperature_c).map(|c| format!("{c:.0} °C"));
    let decode = format!("decode {} tok/s", three_digits(rate));
    let parts: Vec<String> = [Some(decode), clock, heat].into_iter().flatten().collect();
    format!("{} s: {}", three_digits(moment.at_s), parts.join(", "))
}
