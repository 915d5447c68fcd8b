//! The card that a launch runs on: memory, energy, clocks, heat. A window is known only after its
//! request, so a thread reads the card all the time, and windows are cut out of its readings
//! afterwards. What the driver does not tell is absent, with its reason in the record.

pub mod ceilings;
mod energy;
#[cfg(test)]
pub(crate) mod fake;
mod summary;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::nvml::{Card, Holder, Missing, RECOVERS, Reading, Unread};
use super::windows::Windows;
use super::{Mark, Sensor};
use crate::device::Device;
use crate::engine::Pid;
use crate::interrupt;
use crate::processes::tree;
use crate::record::{GpuState, Launch};
use crate::units::MonoNs;

/// Time between two readings; docs/METHODOLOGY.md states their cost.
const PERIOD: Duration = Duration::from_millis(20);
/// Every so many readings all is read; between them the energy alone, so that a window sees one
/// question to the driver in 20 ms and no more.
const WHOLE_EVERY: usize = 5;
/// Readings before the launch, for what the card needs when it is idle.
const BEFORE: usize = 5;
/// How long to wait, after the launch, for the counter's next step.
const LAST_STEP: Duration = Duration::from_millis(500);
/// How long a launch waits at most for a card that slows itself down.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for all launches of this process: a fault that stays is not waited for each time.
static PATIENCE_LEFT: Mutex<Duration> = Mutex::new(Duration::from_secs(120));
/// A card this close to the temperature at which it halves its clock is still hot, in °C.
const MARGIN_C: u32 = 10;

/// Whether the device can be measured here, before anything is loaded.
///
/// # Errors
/// There is no driver, or no such card.
pub fn check(device: Device) -> Result<()> {
    let Device::Cuda(index) = device else { return Ok(()) };
    const ADVICE: &str = "`nvidia-smi -L` lists the cards; `--device cpu` needs none";
    let why = match Card::of(index) {
        Ok(_) => return Ok(()),
        Err(Missing::Driver) => bail!("--device {device}: {}; {ADVICE}", Missing::Driver),
        Err(why) => why,
    };
    // A container may have the driver without this library, and some cards are unknown to it.
    match (ceilings::of(index), why) {
        (Ok(_), _) => Ok(()),
        (Err(why), Missing::Library(_)) => bail!("--device {device}: {why}"),
        (Err(why), Missing::Answer(said)) => bail!("--device {device}: {said}; {why}"),
        (Err(_), why) => bail!("--device {device}: {why}; {ADVICE}"),
    }
}

/// The sensor.
pub struct GpuCard {
    card: Result<Card, String>,
    period: Duration,
    patience: Duration,
    waited: Duration,
    before: Vec<Reading>,
    /// Processes that held the card before the launch.
    others: Option<Vec<Holder>>,
    unread: Unread,
    reader: Option<Reader>,
    windows: Windows,
}

/// The thread that reads.
struct Reader {
    /// A message asks for a reading now; the end of the channel, for the last ones.
    ask: Sender<()>,
    /// The engine's process; 0 until it is there.
    engine: Arc<AtomicU32>,
    thread: JoinHandle<Readings>,
}

/// What the thread collects.
#[derive(Debug, Default)]
pub(super) struct Readings {
    all: Vec<Reading>,
    /// The most bytes that the engine's processes held, as far as the driver says.
    own_peak: Option<u64>,
    unread: Unread,
}

impl GpuCard {
    /// Reads `cuda:index`.
    pub fn of(index: u32) -> Self {
        Self::over(Card::of(index).map_err(|e| e.to_string()), PERIOD)
    }

    fn over(card: Result<Card, String>, period: Duration) -> Self {
        Self {
            card,
            period,
            patience: PATIENCE,
            waited: Duration::ZERO,
            before: Vec::new(),
            others: None,
            unread: Unread::new(),
            reader: None,
            windows: Windows::default(),
        }
    }

    /// Waits, for a bounded time, while the card lowers its clock because it is hot or lacks power.
    fn settle(&mut self, card: &Card) {
        let mut left = PATIENCE_LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = self.patience.min(*left);
        let limit = card.slowdown_c().map(|limit| limit.saturating_sub(MARGIN_C));
        let slowed = |reading: &Reading| {
            reading.throttle.iter().any(|reason| RECOVERS.contains(reason))
                || reading.temperature_c.zip(limit).is_some_and(|(now, limit)| now >= limit)
        };
        let began = Instant::now();
        while slowed(&card.read(&mut Unread::new()))
            && began.elapsed() < patience
            && !interrupt::requested()
        {
            std::thread::sleep(Duration::from_millis(100));
            self.waited = began.elapsed();
        }
        *left = left.saturating_sub(self.waited);
    }
}

impl Sensor for GpuCard {
    fn begin(&mut self) {
        let Ok(card) = self.card.clone() else { return };
        self.settle(&card);
        self.others = card.holders(&mut self.unread);
        for _ in 0..BEFORE {
            self.before.push(card.read(&mut self.unread));
            std::thread::sleep(self.period);
        }
        let (ask, asked) = channel();
        let engine = Arc::new(AtomicU32::new(0));
        let (period, of) = (self.period, Arc::clone(&engine));
        let others: Vec<u32> = self.others.iter().flatten().map(|(pid, _)| *pid).collect();
        let thread = crate::threads::start(move || watch(&card, &asked, period, &of, &others));
        match thread {
            Ok(thread) => self.reader = Some(Reader { ask, engine, thread }),
            Err(e) => drop(self.unread.insert("card".into(), e.to_string())),
        }
    }

    fn process(&mut self, Pid(pid): Pid) {
        self.reader.iter().for_each(|reader| reader.engine.store(pid, Ordering::Relaxed));
    }

    fn mark(&mut self, mark: Mark, at: MonoNs) {
        self.windows.mark(mark, at);
        if matches!(mark, Mark::Loaded | Mark::Finished) {
            // It ends only with this sensor.
            self.reader.iter().for_each(|reader| reader.ask.send(()).unwrap_or_default());
        }
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        let Self { card, before, others, mut unread, reader, windows, waited, .. } = *self;
        let card = match card {
            Ok(card) => card,
            Err(why) => {
                let unread = BTreeMap::from([("card".to_string(), why)]);
                launch.environment.gpu = Some(GpuState { unread, ..GpuState::default() });
                return;
            }
        };
        let readings = reader.map(|Reader { ask, thread, .. }| {
            drop(ask);
            thread.join().unwrap_or_default()
        });
        let readings = readings.unwrap_or_default();
        for (name, why) in &readings.unread {
            unread.entry(name.clone()).or_insert_with(|| why.clone());
        }
        launch.memory.gpu = Some(summary::memory(&before, &readings));
        match energy::of(&readings.all, &windows) {
            Ok(energy) => launch.gpu_energy = Some(energy),
            Err(why) => drop(unread.entry("energy".into()).or_insert(why)),
        }
        launch.environment.gpu = Some(GpuState {
            waited_s: Some(waited.as_secs_f64()).filter(|s| *s > 0.0),
            other_processes: others.map(|others| others.len() as u32),
            unread,
            ..summary::state(&card, &before, &readings.all, &windows)
        });
    }
}

/// Reads the card until the channel ends, and then until its energy counter has moved once more.
fn watch(
    card: &Card,
    asked: &Receiver<()>,
    period: Duration,
    engine: &AtomicU32,
    others: &[u32],
) -> Readings {
    let mut readings = Readings::default();
    let mut owners = Owners { engine, others, known: BTreeMap::new() };
    loop {
        match readings.all.len().is_multiple_of(WHOLE_EVERY) {
            true => readings.take(card, &mut owners),
            false => readings.all.push(card.read_energy(&mut readings.unread)),
        }
        match asked.recv_timeout(period) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) => readings.take(card, &mut owners),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let energy = |readings: &Readings| Some(readings.all.last()?.energy?.1);
    let (last, ended) = (energy(&readings), Instant::now());
    while last.is_some() && energy(&readings) == last && ended.elapsed() < LAST_STEP {
        std::thread::sleep(period);
        readings.all.push(card.read_energy(&mut readings.unread));
    }
    readings
}

impl Readings {
    fn take(&mut self, card: &Card, owners: &mut Owners<'_>) {
        self.all.push(card.read(&mut self.unread));
        let held = card.holders(&mut self.unread).and_then(|all| owners.held(&all));
        self.own_peak = self.own_peak.max(held);
    }
}

/// Which processes are the engine's.
struct Owners<'a> {
    engine: &'a AtomicU32,
    others: &'a [u32],
    /// By process: whether it is the engine's.
    known: BTreeMap<u32, bool>,
}

impl Owners<'_> {
    /// Bytes that the engine's processes hold; `None` where the driver lists none of them, or does
    /// not say how much.
    fn held(&mut self, holders: &[Holder]) -> Option<u64> {
        let engine = self.engine.load(Ordering::Relaxed);
        if engine == 0 {
            return None;
        }
        let own = |(pid, _): &&Holder| {
            !self.others.contains(pid)
                && *self.known.entry(*pid).or_insert_with(|| tree(engine).contains(pid))
        };
        let own: Vec<&Holder> = holders.iter().filter(own).collect();
        let bytes = own.iter().map(|(_, bytes)| *bytes);
        bytes.sum::<Option<u64>>().filter(|_| !own.is_empty())
    }
}

#[cfg(test)]
mod tests;
