//! A device that runs the CUDA kernels on the processor: `cuda/shim.cpp`, compiled by the C++ compiler
//! of the machine. It shows that kernels compute what they must; it says nothing of speed, nor of
//! what only hardware does, such as races between blocks.

use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::device::{Address, Device, Fault, Launch, MAILBOX, Result, Source};

type LaunchFn =
    unsafe extern "C" fn(*const c_char, u32, u32, u32, u32, u32, *mut *mut c_void) -> bool;

/// The library of the kernels, built once: for cards with Hopper's copy engine, or for those before.
fn library(copy_engine: bool) -> &'static libloading::Library {
    static LIBRARIES: [OnceLock<libloading::Library>; 2] = [const { OnceLock::new() }; 2];
    LIBRARIES[usize::from(copy_engine)].get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        let out = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../target")
            .join(format!("cuda-kernels-{}-{copy_engine}.so", std::process::id()));
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
        let built = Command::new(&compiler)
            .args(["-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"])
            .args((!copy_engine).then_some("-DLLM_BENCH_NO_COPY_ENGINE"))
            .args(["-Wno-unknown-pragmas", "-o"])
            .arg(&out)
            .arg(sources.join("shim.cpp"))
            .output()
            .unwrap_or_else(|e| panic!("{compiler} is needed to test the CUDA kernels: {e}"));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        // SAFETY: our own code, without initializers that do anything.
        let library =
            unsafe { libloading::Library::new(&out) }.expect("the library that was built");
        let _ = std::fs::remove_file(out);
        library
    })
}

/// Whether pieces of these sizes pass through a ring of weights unharmed.
pub fn ring_holds(bytes: u32, sizes: &[u32]) -> bool {
    type RingFn = unsafe extern "C" fn(u32, *const u32, u32) -> bool;
    // SAFETY: the signature of `shim.cpp`; it reads as many sizes as there are.
    unsafe {
        let check = library(true).get::<RingFn>(b"shim_ring\0").expect("shim_ring");
        check(bytes, sizes.as_ptr(), sizes.len() as u32)
    }
}

/// Memory of this process as a card's. Every allocation has exact bounds and its own end.
pub struct Shim {
    memory: Vec<Vec<u128>>,
    mailbox: Vec<u32>,
    processors: u32,
    copy_engine: bool,
    allocated: usize,
}

// One at a time: the shim's fibers share global state.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Shim {
    /// A card with this many multiprocessors.
    pub fn new(processors: u32) -> Self {
        let mailbox = vec![0; MAILBOX];
        Self { memory: Vec::new(), mailbox, processors, copy_engine: true, allocated: 0 }
    }

    /// One of before Hopper, whose threads copy.
    pub fn before_hopper(processors: u32) -> Self {
        Self { copy_engine: false, ..Self::new(processors) }
    }
}

impl Device for Shim {
    fn name(&self) -> String {
        "the processor, as a card".into()
    }

    fn processors(&self) -> u32 {
        self.processors
    }

    fn shared_memory(&self) -> usize {
        227 << 10
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        // Filled with NaN of every width, so that what is read before it was written shows.
        let mut memory = vec![u128::MAX; bytes.div_ceil(16).max(1) + 15];
        let at = memory.as_mut_ptr() as u64;
        self.memory.push(memory);
        self.allocated += bytes;
        Ok(at.next_multiple_of(256))
    }

    fn allocated(&self) -> usize {
        self.allocated
    }

    fn upload_from(&mut self, to: Address, bytes: usize, source: &Source<'_>) -> Result<()> {
        // SAFETY: the caller allocated as much there.
        let memory = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
        // In odd pieces, as a card may take it.
        for (i, piece) in memory.chunks_mut(1009).enumerate() {
            source(i * 1009, piece).map_err(|e| Fault::Other(e.to_string()))?;
        }
        Ok(())
    }

    fn clear(&mut self, at: Address, bytes: usize) -> Result<()> {
        // SAFETY: the caller allocated as much there.
        unsafe { (at as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller allocated as much there.
        unsafe {
            std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    unsafe fn launch(&mut self, launch: Launch, arguments: &mut [*mut c_void]) -> Result<()> {
        // SAFETY: the signature of `shim.cpp`.
        let run = unsafe { library(self.copy_engine).get::<LaunchFn>(b"shim_launch\0") }
            .expect("shim_launch");
        let name = CString::new(launch.kernel).unwrap();
        let [x, y, z] = launch.grid;
        assert!(launch.shared as usize <= self.shared_memory());
        let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the caller's promise about the arguments.
        let known = unsafe {
            run(name.as_ptr(), x, y, z, launch.threads, launch.shared, arguments.as_mut_ptr())
        };
        known.then_some(()).ok_or_else(|| Fault::Other(format!("no kernel {}", launch.kernel)))
    }

    fn mailbox(&self) -> (Address, *const u32) {
        (self.mailbox.as_ptr() as u64, self.mailbox.as_ptr())
    }

    fn idle(&self) -> Result<bool> {
        Ok(true)
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}
