//! NVIDIA's management library, opened at run time: which card `cuda:N` is, and one reading of it.
//! What the driver does not tell, for want of a permission or of the counter, is absent with its
//! reason.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, OnceLock};

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use crate::record::Gpu;
use crate::units::{MonoNs, Seconds};

/// The environment variable that names another library, for tests.
pub const LIBRARY: &str = "LLM_BENCH_NVML";

/// Which cards CUDA shows, and in which order.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// Why a card cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The library is not there; a card may still be.
    #[error("{0}")]
    Library(String),
    /// The library does not answer; a card may still be there.
    #[error("{0}")]
    Answer(String),
    #[error("NVIDIA's driver is not loaded")]
    Driver,
    #[error("no such card: {}", cards.as_slice().join(", "))]
    Card { cards: Vec<String> },
}

/// The library, open.
#[derive(Clone)]
pub struct Library(Arc<Nvml>);

/// One card.
#[derive(Clone)]
pub struct Card {
    library: Library,
    /// Its number by NVML.
    place: u32,
}

/// The reasons for what could not be read, by name.
pub type Unread = BTreeMap<String, String>;

/// A reading of a card.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// When it began.
    pub at: MonoNs,
    pub took: Seconds,
    /// Whether more than the energy was asked for.
    pub whole: bool,
    /// Millijoules since the driver was loaded, and when that was read.
    pub energy: Option<(MonoNs, u64)>,
    pub power_mw: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub temperature_c: Option<u32>,
    /// Percent.
    pub utilization: Option<u32>,
    pub throttle: Vec<&'static str>,
    /// Bytes in use on the whole card.
    pub used: Option<u64>,
}

/// A process that holds a card, and how many bytes of it, where the driver says so.
pub type Holder = (u32, Option<u64>);

/// Reasons for a lowered clock. An idle card and clocks that somebody set are none.
const THROTTLES: [(ThrottleReasons, &str); 7] = [
    (ThrottleReasons::SW_POWER_CAP, "power_cap"),
    (ThrottleReasons::HW_SLOWDOWN, "hw_slowdown"),
    (ThrottleReasons::SYNC_BOOST, "sync_boost"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "sw_thermal"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hw_thermal"),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "hw_power_brake"),
    (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display_clock"),
];

/// Those of a card that is too hot or lacks power, which pass when it rests.
pub const RECOVERS: [&str; 4] = ["hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"];

impl Library {
    /// The library of this machine, opened once and kept open: opening it takes longer than a
    /// reading, and an open one keeps the driver from putting the card to sleep between launches.
    pub fn of_machine() -> Result<Self, Missing> {
        static OPEN: OnceLock<Result<Library, Missing>> = OnceLock::new();
        OPEN.get_or_init(Self::for_a_look).clone()
    }

    /// The same for a short look, after which the card may sleep.
    pub fn for_a_look() -> Result<Self, Missing> {
        Self::open(std::env::var_os(LIBRARY).filter(|path| !path.is_empty()).as_deref())
    }

    /// The library at `path`, or the driver's own.
    pub fn open(path: Option<&OsStr>) -> Result<Self, Missing> {
        let opened = match path {
            Some(path) => Nvml::builder().lib_path(path).init(),
            None => Nvml::init(),
        };
        match opened {
            Ok(nvml) => Ok(Self(Arc::new(nvml))),
            Err(NvmlError::DriverNotLoaded) => Err(Missing::Driver),
            Err(e @ NvmlError::LibloadingError(_)) => Err(Missing::Library(format!("NVML: {e}"))),
            Err(e) => Err(Missing::Answer(format!("NVML: {e}"))),
        }
    }

    /// Every card, with the N of `cuda:N` where CUDA shows it.
    pub fn cards(&self) -> Vec<Gpu> {
        let visible = std::env::var(VISIBLE).ok();
        let shown = self.shown(visible.as_deref());
        let driver = self.0.sys_driver_version().ok();
        let gpu = |place: u32| {
            let device = self.0.device_by_index(place).ok()?;
            let index = shown.iter().position(|other| *other == place);
            Some(Gpu {
                name: device.name().ok()?,
                // A card that shares the host's memory reports none.
                memory_bytes: device.memory_info().map_or(0, |memory| memory.total),
                driver: driver.clone(),
                index: index.map(|index| index as u32),
                uuid: device.uuid().ok(),
                mig: device.mig_mode().ok().map(|mode| mode.current != 0),
                ..Gpu::default()
            })
        };
        (0..self.0.device_count().unwrap_or(0)).filter_map(gpu).collect()
    }

    /// The cards that CUDA shows, by NVML's numbers: with `CUDA_DEVICE_ORDER=PCI_BUS_ID`, which
    /// engines get, both count alike. CUDA reads the list up to the first entry that names no card.
    fn shown(&self, visible: Option<&str>) -> Vec<u32> {
        let count = self.0.device_count().unwrap_or(0);
        let Some(list) = visible else { return (0..count).collect() };
        let of_uuid = |uuid: &str| {
            let whole = self.0.device_by_uuid(uuid);
            let card = match uuid.starts_with("MIG-") {
                true => whole.and_then(|instance| instance.mig_parent_device()),
                false => whole,
            };
            card.and_then(|card| card.index()).ok().or_else(|| {
                // A beginning that only one card has will do.
                let uuid_of = |place| self.0.device_by_index(place).and_then(|d| d.uuid()).ok();
                let fits = |place: &u32| uuid_of(*place).is_some_and(|u| u.starts_with(uuid));
                (0..count).find(fits)
            })
        };
        let place = |entry: &str| match entry.parse::<u32>() {
            Ok(place) => Some(place).filter(|place| *place < count),
            Err(_) if entry.is_empty() => None,
            Err(_) => of_uuid(entry),
        };
        list.split(',').map(str::trim).map_while(place).collect()
    }

    /// The card that is `cuda:index`.
    pub fn card(&self, index: u32) -> Result<Card, Missing> {
        let visible = std::env::var(VISIBLE).ok();
        match self.shown(visible.as_deref()).get(index as usize) {
            Some(place) => Ok(Card { library: self.clone(), place: *place }),
            None => Err(Missing::Card { cards: self.named(visible.as_deref()) }),
        }
    }

    /// `cuda:0 NVIDIA H100`, for readers of an error.
    fn named(&self, visible: Option<&str>) -> Vec<String> {
        let shown = self.cards().into_iter().filter_map(|card| Some((card.index?, card.name)));
        let mut named: Vec<String> = shown.map(|(n, name)| format!("cuda:{n} {name}")).collect();
        if named.is_empty() {
            named.push("the driver lists none".into());
        }
        named.extend(visible.map(|list| format!("with {VISIBLE}={list}")));
        named
    }
}

impl Reading {
    /// One that failed.
    pub fn nothing(at: MonoNs) -> Self {
        Self {
            at,
            took: Seconds(0.0),
            whole: false,
            energy: None,
            power_mw: None,
            sm_clock_mhz: None,
            memory_clock_mhz: None,
            temperature_c: None,
            utilization: None,
            throttle: Vec::new(),
            used: None,
        }
    }
}

impl Card {
    /// `cuda:index` of this machine.
    pub fn of(index: u32) -> Result<Self, Missing> {
        Library::of_machine()?.card(index)
    }

    fn device(&self) -> Result<nvml_wrapper::Device<'_>, NvmlError> {
        self.library.0.device_by_index(self.place)
    }

    /// The facts that do not change.
    pub fn facts(&self) -> Option<Gpu> {
        let uuid = self.device().and_then(|d| d.uuid()).ok()?;
        self.library.cards().into_iter().find(|gpu| gpu.uuid.as_deref() == Some(&uuid))
    }

    /// The energy alone: one question to the driver.
    pub fn read_energy(&self, unread: &mut Unread) -> Reading {
        let at = MonoNs::now();
        let device = known(unread, "card", self.device());
        let energy = device.and_then(|d| known(unread, "energy", d.total_energy_consumption()));
        let middle = MonoNs(at.0.midpoint(MonoNs::now().0));
        Reading { energy: energy.map(|mj| (middle, mj)), ..Reading::nothing(at) }
    }

    /// What the card does now.
    pub fn read(&self, unread: &mut Unread) -> Reading {
        let Reading { at, energy, .. } = self.read_energy(unread);
        let Ok(device) = self.device() else { return Reading::nothing(at) };
        let throttle = known(unread, "throttle reasons", device.current_throttle_reasons());
        let reading = Reading {
            at,
            took: Seconds(0.0),
            whole: true,
            energy,
            power_mw: known(unread, "power", device.power_usage()),
            sm_clock_mhz: known(unread, "SM clock", device.clock_info(Clock::SM)),
            memory_clock_mhz: known(unread, "memory clock", device.clock_info(Clock::Memory)),
            temperature_c: known(unread, "temperature", device.temperature(TemperatureSensor::Gpu)),
            utilization: known(unread, "utilization", device.utilization_rates()).map(|u| u.gpu),
            throttle: throttle.map(names).unwrap_or_default(),
            used: known(unread, "memory", device.memory_info()).map(|memory| memory.used),
        };
        Reading { took: MonoNs::now().since(at), ..reading }
    }

    /// The processes that hold the card.
    pub fn holders(&self, unread: &mut Unread) -> Option<Vec<Holder>> {
        let device = known(unread, "card", self.device())?;
        let all = known(unread, "memory by process", device.running_compute_processes())?;
        let holder = |p: nvml_wrapper::struct_wrappers::device::ProcessInfo| {
            let bytes = match p.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            (p.pid, bytes)
        };
        Some(all.into_iter().map(holder).collect())
    }

    /// The temperature at which the card halves its clock, in °C. Recent cards answer with their
    /// distance to it instead, which is no temperature.
    pub fn slowdown_c(&self) -> Option<u32> {
        let limit = self.device().ok()?.temperature_threshold(TemperatureThreshold::Slowdown);
        limit.ok().filter(|celsius| (60..150).contains(celsius))
    }

    /// The highest clock of the multiprocessors in MHz.
    pub fn max_sm_clock_mhz(&self) -> Option<u32> {
        self.device().ok()?.max_clock_info(Clock::SM).ok()
    }

    /// Whether the driver keeps the card ready while nobody uses it.
    pub fn persistent(&self) -> Option<bool> {
        self.device().ok()?.is_in_persistent_mode().ok()
    }
}

/// The answer, or none and why.
fn known<T>(unread: &mut Unread, name: &str, answer: Result<T, NvmlError>) -> Option<T> {
    answer.map_err(|e| unread.entry(name.into()).or_insert_with(|| e.to_string())).ok()
}

fn names(reasons: ThrottleReasons) -> Vec<&'static str> {
    THROTTLES.iter().filter(|(bit, _)| reasons.contains(*bit)).map(|(_, name)| *name).collect()
}
