//! Energy of the processor packages, from RAPL's counters in /sys/class/powercap. The kernel lets
//! only some users read them; if they cannot be read, there is no sensor.
//!
//! A counter moves about once a millisecond, and a window is known only after its request. So a
//! thread reads the counters all the time, and the energy of a window is cut out of its samples
//! afterwards, interpolated linearly between two samples.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::windows::{Curve, Windows};
use super::{Mark, Sensor};
use crate::record::{Energy, Launch};
use crate::units::MonoNs;

/// Where the kernel puts the counters.
pub const POWERCAP: &str = "/sys/class/powercap";

/// Time between two readings; docs/METHODOLOGY.md states their cost.
const PERIOD: Duration = Duration::from_millis(50);

/// Windows with fewer counter steps than this get no energy: the two readings at the edges would
/// decide it.
const LEAST_STEPS: u32 = 10;

/// A running reader of the counters.
pub struct Rapl {
    source: String,
    stop: Sender<()>,
    reader: JoinHandle<Vec<Sample>>,
    windows: Windows,
}

/// The counter of one package, in microjoules. It wraps to 0 beyond `range`.
struct Package {
    path: PathBuf,
    range: u64,
}

/// Energy of all packages since the first sample.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    at: MonoNs,
    microjoules: u64,
}

impl Rapl {
    /// Starts to read the packages below `root`; `None` if no counter can be read.
    pub fn open(root: &Path) -> Option<Self> {
        Self::every(root, PERIOD)
    }

    fn every(root: &Path, period: Duration) -> Option<Self> {
        let mut found = packages(root);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let (names, packages): (Vec<String>, Vec<Package>) = found.into_iter().unzip();
        let first = counters(&packages).filter(|counters| !counters.is_empty())?;
        let (stop, stopped) = channel();
        let reader = crate::threads::start(move || {
            let mut samples = vec![Sample { at: MonoNs::now(), microjoules: 0 }];
            let (mut last, mut sum) = (first, 0);
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                let before = MonoNs::now();
                let Some(now) = counters(&packages) else { continue };
                let after = MonoNs::now();
                let ranges = packages.iter().map(|p| p.range);
                sum += last
                    .iter()
                    .zip(&now)
                    .zip(ranges)
                    .map(|((l, n), r)| step(*l, *n, r))
                    .sum::<u64>();
                last = now;
                let at = MonoNs(before.0.midpoint(after.0));
                samples.push(Sample { at, microjoules: sum });
            }
            samples
        });
        let reader = reader.ok()?;
        Some(Self {
            source: format!("RAPL {}", names.join(" + ")),
            stop,
            reader,
            windows: Windows::default(),
        })
    }
}

impl Sensor for Rapl {
    fn mark(&mut self, mark: Mark, at: MonoNs) {
        self.windows.mark(mark, at);
    }

    fn end(self: Box<Self>, launch: &mut Launch) {
        let Self { source, stop, reader, windows } = *self;
        drop(stop);
        let samples = reader.join().unwrap_or_default();
        launch.energy = energy(&samples, &windows, source);
    }
}

/// Counters that are asked between requests, by whoever needs no thread.
pub struct Meter {
    packages: Vec<Package>,
    last: Vec<u64>,
    microjoules: u64,
}

impl Meter {
    /// `None` if no counter below `root` can be read.
    pub fn open(root: &Path) -> Option<Self> {
        let packages: Vec<Package> =
            packages(root).into_iter().map(|(_, package)| package).collect();
        let last = counters(&packages).filter(|counters| !counters.is_empty())?;
        Some(Self { packages, last, microjoules: 0 })
    }

    /// Joules of all packages since it was opened. Asked more often than a counter wraps: minutes.
    pub fn joules(&mut self) -> Option<f64> {
        let now = counters(&self.packages)?;
        for ((last, now), package) in self.last.iter_mut().zip(now).zip(&self.packages) {
            self.microjoules += step(*last, now, package.range);
            *last = now;
        }
        Some(self.microjoules as f64 / 1e6)
    }
}

/// Name and counter of each package below `root`. Skips parts of a package (`intel-rapl:0:1`),
/// which its own counter includes, and `intel-rapl-mmio`, which counts the same package again.
fn packages(root: &Path) -> Vec<(String, Package)> {
    let package = |folder: PathBuf| {
        let index = folder.file_name()?.to_str()?.strip_prefix("intel-rapl:")?;
        index.parse::<u32>().ok()?;
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let name = text("name")?.trim().to_string();
        let range = text("max_energy_range_uj")?.trim().parse().ok()?;
        let path = folder.join("energy_uj");
        name.starts_with("package").then_some((name, Package { path, range }))
    };
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten();
    folders.filter_map(|entry| package(entry.path())).collect()
}

fn counters(packages: &[Package]) -> Option<Vec<u64>> {
    let read = |p: &Package| std::fs::read_to_string(&p.path).ok()?.trim().parse().ok();
    packages.iter().map(read).collect()
}

/// How far a counter rose.
fn step(last: u64, now: u64, range: u64) -> u64 {
    now.checked_sub(last).unwrap_or_else(|| range.saturating_sub(last) + now)
}

/// The energy of the windows; `None` if one of them lies outside the samples or the counters moved
/// too rarely inside them.
fn energy(samples: &[Sample], windows: &Windows, source: String) -> Option<Energy> {
    let curve = Curve(samples.iter().map(|s| (s.at, s.microjoules as f64 / 1e6)).collect());
    let steps = windows.measured.iter().map(|window| curve.steps(*window)).sum();
    let joules = curve.joules(&windows.measured).filter(|_| steps >= LEAST_STEPS)?;
    let request_joules = curve.joules(&windows.requests).filter(|_| !windows.requests.is_empty());
    Some(Energy {
        source,
        joules,
        seconds: Windows::seconds(&windows.measured),
        steps,
        resolution_s: None,
        request_joules,
        request_seconds: request_joules.map(|_| Windows::seconds(&windows.requests)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with one package, a part of it, and the same package under another path.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (folder, name) in [
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl-mmio:0", "package-0"),
            ("intel-rapl:1", "psys"),
        ] {
            let folder = root.path().join(folder);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("name"), format!("{name}\n")).unwrap();
            std::fs::write(folder.join("max_energy_range_uj"), "262143328850\n").unwrap();
            std::fs::write(folder.join("energy_uj"), "1000\n").unwrap();
        }
        root
    }

    fn ms(ms: u64) -> MonoNs {
        MonoNs(ms * 1_000_000)
    }

    /// 2 W, read every 10 ms from 100 ms on.
    fn samples() -> Vec<Sample> {
        (0..50).map(|i| Sample { at: ms(100 + 10 * i), microjoules: 20_000 * i }).collect()
    }

    #[test]
    fn a_machine_without_counters_has_no_sensor() {
        assert!(Rapl::open(Path::new("/no/such/folder")).is_none());
        let empty = tempfile::tempdir().unwrap();
        assert!(Rapl::open(empty.path()).is_none());
        let root = root();
        std::fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert!(Rapl::open(root.path()).is_none(), "a counter that cannot be read");
    }

    #[test]
    fn the_energy_of_a_window_is_cut_out_between_the_samples() {
        let measured = vec![(ms(155), ms(255)), (ms(300), ms(353))];
        let requests = vec![(ms(145), ms(255)), (ms(290), ms(353))];
        let windows = Windows { measured, requests, ..Windows::default() };
        let e = energy(&samples(), &windows, "x".into()).unwrap();
        assert!((e.request_joules.unwrap() - 2.0 * 0.173).abs() < 1e-9, "{e:?}");
        assert!((e.request_seconds.unwrap() - 0.173).abs() < 1e-9, "{e:?}");
        assert!((e.joules - 2.0 * 0.153).abs() < 1e-9, "{e:?}");
        assert!((e.seconds - 0.153).abs() < 1e-9, "{e:?}");
        assert_eq!(e.steps, 10 + 6);
    }

    #[test]
    fn a_window_with_few_steps_or_outside_the_samples_has_no_energy() {
        let of = |windows: &[(MonoNs, MonoNs)]| {
            let windows = Windows { measured: windows.to_vec(), ..Windows::default() };
            energy(&samples(), &windows, "x".into())
        };
        assert_eq!(of(&[(ms(155), ms(205))]), None);
        assert_eq!(of(&[(ms(50), ms(255))]), None);
        assert_eq!(of(&[(ms(155), ms(2000))]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_counter_that_starts_again_has_moved_on() {
        assert_eq!(step(100, 130, 1000), 30);
        assert_eq!(step(990, 20, 1000), 30);
    }

    #[test]
    fn the_packages_are_read_while_a_launch_goes_on() {
        let root = root();
        let mut rapl = Rapl::every(root.path(), Duration::from_millis(2)).unwrap();
        assert_eq!(rapl.source, "RAPL package-0");
        let mut launch = Launch::new((0, 0), String::new());
        let counter = root.path().join("intel-rapl:0/energy_uj");
        let spend = |from: u64| {
            for i in 1..=30 {
                // Replaces the file atomically, as the kernel does.
                let next = root.path().join("next");
                std::fs::write(&next, format!("{}\n", 1000 + (from + i) * 100_000)).unwrap();
                std::fs::rename(&next, &counter).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        spend(0);
        rapl.mark(Mark::Ready, MonoNs::now());
        let begin = MonoNs::now();
        spend(30);
        let end = MonoNs::now();
        spend(60);
        rapl.mark(Mark::WindowBegin, begin);
        rapl.mark(Mark::WindowEnd, end);
        Box::new(rapl).end(&mut launch);
        let energy = launch.energy.unwrap();
        // 30 steps of 0.1 J; a reading may lag at either edge.
        assert!((2.0..4.0).contains(&energy.joules), "{energy:?}");
        assert_eq!(energy.seconds, end.since(begin).0);
    }
}
