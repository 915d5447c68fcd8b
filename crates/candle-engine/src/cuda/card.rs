//! An NVIDIA card through its driver, which is opened at run time: the program needs no CUDA to be
//! built, and none but the driver to run.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};

use cudarc::driver::{DriverError, result, sys};

use super::device::{Address, Device, Fault, Launch, MAILBOX, Result, Source};

/// Bytes of each of the two staging buffers of an upload.
const STAGE: usize = 16 << 20;

/// Machine code and, for cards that it does not fit, the portable form that the driver compiles.
const IMAGES: [(i32, i32, &[u8]); 2] = [
    (9, 0, include_bytes!("../../cuda/built/kernels.sm_90.cubin")),
    (8, 0, include_bytes!("../../cuda/built/kernels.compute_80.ptx")),
];

fn failed(what: &str) -> impl FnOnce(DriverError) -> Fault + '_ {
    move |error| {
        let text = |t: std::result::Result<&std::ffi::CStr, DriverError>| {
            t.map_or_else(|_| format!("{:?}", error.0), |t| t.to_string_lossy().into_owned())
        };
        Fault::Other(format!(
            "{what}: {} ({})",
            text(error.error_string()),
            text(error.error_name())
        ))
    }
}

/// Opens the driver.
pub fn open_driver() -> std::result::Result<(), String> {
    // SAFETY: loads the driver's library, whose initialization we trust as every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Err(
            "no NVIDIA driver: libcuda.so.1 cannot be opened; install the driver (no CUDA \
                    toolkit is needed), or measure with `--device cpu`"
                .into(),
        );
    }
    result::init().map_err(|e| match failed("the NVIDIA driver does not start")(e) {
        Fault::Other(text) => text,
        Fault::OutOfMemory { .. } => unreachable!("made by allocations only"),
    })
}

/// A card in use by this process.
pub struct Card {
    device: sys::CUdevice,
    stream: sys::CUstream,
    module: sys::CUmodule,
    functions: BTreeMap<&'static str, sys::CUfunction>,
    processors: u32,
    shared_memory: usize,
    allocations: Vec<Address>,
    allocated: usize,
    staging: Option<Staging>,
    mailbox: *mut c_void,
    mailbox_on_card: Address,
    /// Threads that copy into the staging buffers.
    threads: usize,
}

/// Two pinned buffers; while one is on its way, the other is filled.
struct Staging {
    buffers: [*mut u8; 2],
    sent: [sys::CUevent; 2],
    next: usize,
}

// SAFETY: the handles may be used from any thread that has made the context current; an engine lives
// on one thread, and `Card` is not `Sync`.
unsafe impl Send for Card {}

impl Card {
    /// Opens card `index` and loads the kernels; `threads` copy weights.
    pub fn open(index: u32, threads: usize) -> std::result::Result<Self, String> {
        open_driver()?;
        let count = result::device::get_count().map_err(|e| format!("cuDeviceGetCount: {e}"))?;
        if index as i64 >= count as i64 {
            return Err(format!(
                "--device cuda:{index}: this machine has {count} cards, from cuda:0"
            ));
        }
        Self::opened(index, threads).map_err(|fault| match fault {
            Fault::Other(text) => text,
            Fault::OutOfMemory { bytes } => format!("no memory for {bytes} bytes"),
        })
    }

    fn opened(index: u32, threads: usize) -> Result<Self> {
        use sys::CUdevice_attribute_enum as Attribute;
        let device = result::device::get(index as i32).map_err(failed("cuDeviceGet"))?;
        let get = |what| {
            // SAFETY: reads a number of a device that exists.
            unsafe { result::device::get_attribute(device, what) }
                .map_err(failed("cuDeviceGetAttribute"))
        };
        let major = get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let processors = get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let shared =
            get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        if major < 8 {
            let text = format!(
                "cuda:{index} has compute capability {major}.{minor}; 8.0 (Ampere) or later is needed"
            );
            return Err(Fault::Other(text));
        }
        // SAFETY: the primary context is retained once and released in `drop`.
        unsafe {
            let context =
                result::primary_ctx::retain(device).map_err(failed("cuDevicePrimaryCtxRetain"))?;
            result::ctx::set_current(context).map_err(failed("cuCtxSetCurrent"))?;
        }
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("cuStreamCreate"))?;
        let machine_code =
            IMAGES.iter().find(|i| i.0 == major && i.1 <= minor && !i.2.starts_with(b"//"));
        let (_, _, image) = machine_code.unwrap_or(&IMAGES[IMAGES.len() - 1]);
        // Portable code is text and must end with a zero.
        let ended = [image, &[0][..]].concat();
        // SAFETY: one of our own images, which outlives the call.
        let module = unsafe { result::module::load_data(ended.as_ptr().cast()) }
            .map_err(failed("the driver does not take the kernels (580 or later does)"))?;
        // SAFETY: allocates pinned words, freed in `drop`.
        let mailbox = unsafe { result::malloc_host(4 * MAILBOX, sys::CU_MEMHOSTALLOC_DEVICEMAP) }
            .map_err(failed("cuMemHostAlloc"))?;
        // SAFETY: bytes that were just allocated.
        unsafe { mailbox.cast::<u8>().write_bytes(0, 4 * MAILBOX) };
        let mut on_card = 0;
        // SAFETY: the memory was allocated as mapped.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&mut on_card, mailbox, 0) }
            .result()
            .map_err(failed("cuMemHostGetDevicePointer"))?;
        Ok(Self {
            device,
            stream,
            module,
            functions: BTreeMap::new(),
            processors,
            shared_memory: shared,
            allocations: Vec::new(),
            allocated: 0,
            staging: None,
            mailbox,
            mailbox_on_card: on_card,
            threads: threads.max(1),
        })
    }

    /// The kernel of this name, which may use all of the shared memory.
    fn function(&mut self, name: &'static str) -> Result<sys::CUfunction> {
        if let Some(function) = self.functions.get(name) {
            return Ok(*function);
        }
        let text = CString::new(name).expect("a kernel's name has no zero");
        // SAFETY: the module is loaded, and the attribute is one of its functions'.
        let function = unsafe {
            let function = result::module::get_function(self.module, text).map_err(failed(name))?;
            result::function::set_function_attribute(
                function,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                self.shared_memory as i32,
            )
            .map_err(failed(name))?;
            function
        };
        self.functions.insert(name, function);
        Ok(function)
    }

    fn staging(&mut self) -> Result<&mut Staging> {
        if self.staging.is_none() {
            // SAFETY: allocations and events that `drop` frees.
            let buffer =
                || unsafe { result::malloc_host(STAGE, 0) }.map_err(failed("pinned memory"));
            let event = || {
                let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
                result::event::create(flags).map_err(failed("cuEventCreate"))
            };
            let buffers = [buffer()?.cast(), buffer()?.cast()];
            self.staging = Some(Staging { buffers, sent: [event()?, event()?], next: 0 });
        }
        Ok(self.staging.as_mut().expect("made above"))
    }

    /// Gives the staging buffers back, after a load.
    pub fn drop_staging(&mut self) {
        if let Some(staging) = self.staging.take() {
            let _ = self.wait();
            for (buffer, sent) in staging.buffers.into_iter().zip(staging.sent) {
                // SAFETY: both were made by `staging` and are used by nobody now.
                let _ = unsafe { (result::free_host(buffer.cast()), result::event::destroy(sent)) };
            }
        }
    }

    /// Seconds that `work` takes on the card.
    pub fn seconds(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<f64> {
        let event = || {
            result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
                .map_err(failed("cuEventCreate"))
        };
        let (begin, end) = (event()?, event()?);
        // SAFETY: events and stream are alive; the events are destroyed once.
        unsafe {
            result::event::record(begin, self.stream).map_err(failed("cuEventRecord"))?;
            work(self)?;
            result::event::record(end, self.stream).map_err(failed("cuEventRecord"))?;
            result::event::synchronize(end).map_err(failed("the kernels"))?;
            let ms = result::event::elapsed(begin, end).map_err(failed("cuEventElapsedTime"))?;
            let _ = (result::event::destroy(begin), result::event::destroy(end));
            Ok(f64::from(ms) / 1e3)
        }
    }

    /// Seconds for a copy of `bytes` of pinned memory to the card: what an upload can reach at most.
    pub fn seconds_of_upload(&mut self, to: Address, bytes: usize) -> Result<f64> {
        let from = self.staging()?.buffers[0];
        let stream = self.stream;
        self.seconds(|_| {
            for at in (0..bytes).step_by(STAGE) {
                let n = STAGE.min(bytes - at);
                // SAFETY: the buffer has STAGE initialized or pinned bytes; the target has `bytes`.
                unsafe {
                    let source = std::slice::from_raw_parts(from, n);
                    result::memcpy_htod_async(to + at as u64, source, stream)
                }
                .map_err(failed("cuMemcpyHtoDAsync"))?;
            }
            Ok(())
        })
    }
}

impl Device for Card {
    fn name(&self) -> String {
        result::device::get_name(self.device).unwrap_or_else(|_| "NVIDIA card".into())
    }

    fn processors(&self) -> u32 {
        self.processors
    }

    fn shared_memory(&self) -> usize {
        self.shared_memory
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address> {
        // SAFETY: freed in `drop`.
        match unsafe { result::malloc_sync(bytes.max(256)) } {
            Ok(at) => {
                self.allocations.push(at);
                self.allocated += bytes;
                Ok(at)
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(Fault::OutOfMemory { bytes })
            }
            Err(error) => Err(failed("cuMemAlloc")(error)),
        }
    }

    fn allocated(&self) -> usize {
        self.allocated
    }

    fn upload_from(&mut self, to: Address, bytes: usize, source: &Source<'_>) -> Result<()> {
        let (stream, threads) = (self.stream, self.threads);
        let staging = self.staging()?;
        for at in (0..bytes).step_by(STAGE) {
            let n = STAGE.min(bytes - at);
            let slot = staging.next;
            staging.next = 1 - slot;
            // SAFETY: an event that was never recorded counts as done.
            unsafe { result::event::synchronize(staging.sent[slot]) }
                .map_err(failed("an upload"))?;
            // SAFETY: STAGE pinned bytes of our own; nobody reads them now, as the event says.
            let buffer = unsafe { std::slice::from_raw_parts_mut(staging.buffers[slot], n) };
            fill(buffer, at, threads, source)
                .map_err(|e| Fault::Other(format!("the weights cannot be read: {e}")))?;
            // SAFETY: the buffer stays until the event has been waited for; the caller's address has
            // room for `bytes`.
            unsafe {
                result::memcpy_htod_async(to + at as u64, buffer, stream)
                    .and_then(|()| result::event::record(staging.sent[slot], stream))
            }
            .map_err(failed("an upload"))?;
        }
        Ok(())
    }

    fn clear(&mut self, at: Address, bytes: usize) -> Result<()> {
        // SAFETY: the caller allocated `bytes` there.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream) }.map_err(failed("cuMemsetD8"))
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller allocated as many bytes there; the copy is waited for.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) }
            .map_err(failed("a download"))?;
        self.wait()
    }

    unsafe fn launch(&mut self, launch: Launch, arguments: &mut [*mut c_void]) -> Result<()> {
        let function = self.function(launch.kernel)?;
        let [x, y, z] = launch.grid;
        let (grid, block) = ((x, y, z), (launch.threads, 1, 1));
        let start = match launch.together {
            true => result::launch_cooperative_kernel,
            false => result::launch_kernel,
        };
        // SAFETY: the caller's promise.
        unsafe { start(function, grid, block, launch.shared, self.stream, arguments) }
            .map_err(failed(launch.kernel))
    }

    fn mailbox(&self) -> (Address, *const u32) {
        (self.mailbox_on_card, self.mailbox.cast())
    }

    fn idle(&self) -> Result<bool> {
        // SAFETY: the stream is alive.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(failed("a kernel")(DriverError(error))),
        }
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("a kernel"))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.drop_staging();
        // SAFETY: everything was made by this card, is freed once, and the work on it has ended.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for at in self.allocations.drain(..) {
                let _ = result::free_sync(at);
            }
            let _ = result::free_host(self.mailbox);
            let _ = result::module::unload(self.module);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Fills a buffer with what lies from `offset` on, by several threads: one does not reach the speed of
/// the bus.
fn fill(
    buffer: &mut [u8],
    offset: usize,
    threads: usize,
    source: &Source<'_>,
) -> std::io::Result<()> {
    let piece = buffer.len().div_ceil(threads.min(8)).max(1 << 20);
    if piece >= buffer.len() {
        return source(offset, buffer);
    }
    std::thread::scope(|scope| {
        let work: Vec<_> = buffer
            .chunks_mut(piece)
            .enumerate()
            .map(|(i, part)| scope.spawn(move || source(offset + i * piece, part)))
            .collect();
        work.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err(broken())))
    })
}

fn broken() -> std::io::Error {
    std::io::Error::other("a thread that reads them has died")
}
