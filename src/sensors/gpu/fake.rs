//! A fake libnvidia-ml for tests, built from tests/data/nvml/fake_nvml.c.

use std::path::PathBuf;
use std::process::Command;

use crate::sensors::nvml::{Card, Library, Missing};

/// A library in a folder of its own.
pub struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    /// `state`: the macros that choose what the card does, such as `MIG=1`.
    pub fn of(state: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nvml/fake_nvml.c");
        let fake = Self { folder };
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(fake.path())
            .args(state.iter().map(|macro_| format!("-D{macro_}")))
            .arg(source)
            .output()
            .expect("this test needs the C compiler `cc`");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        fake
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// From now on, this process holds 2 GB of the card.
    pub fn held_by(&self, pid: u32) {
        std::fs::write(self.folder.path().join("holder"), pid.to_string()).unwrap();
    }

    pub fn library(&self) -> Result<Library, Missing> {
        Library::open(Some(self.path().as_os_str()))
    }

    pub fn card(&self) -> Card {
        self.library().unwrap().card(0).unwrap()
    }
}
