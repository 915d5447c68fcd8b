//! What the engine needs of a card: memory, copies and launches. `Card` is a real one through the
//! driver; tests run the same kernels on the processor.

use std::ffi::c_void;

/// The result of a call: the text says what failed, for readers.
pub type Result<T> = std::result::Result<T, Fault>;

/// What a card answers instead of a result.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Its memory is too small for `bytes` more.
    OutOfMemory { bytes: usize },
    /// Anything else.
    Other(String),
}

/// Words of a device's mailbox.
pub const MAILBOX: usize = 64;

/// Writes the bytes from an offset on into a piece.
pub type Source<'a> = dyn Fn(usize, &mut [u8]) -> std::io::Result<()> + Sync + 'a;

/// An address in the card's memory.
pub type Address = u64;

/// How a kernel is started.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Whether all blocks must run at the same time, because they wait for each other.
    pub together: bool,
}

impl Launch {
    /// A launch of blocks that know nothing of each other.
    pub fn of(kernel: &'static str, grid: [u32; 3], threads: u32) -> Self {
        Self { kernel, grid, threads, shared: 0, together: false }
    }

    pub fn shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }
}

/// A card. Work is asynchronous and runs in the order of the calls.
pub trait Device: Send {
    /// Its name, for readers.
    fn name(&self) -> String;

    /// Multiprocessors; a step starts one block on each.
    fn processors(&self) -> u32;

    /// The most dynamic shared memory of a block in bytes.
    fn shared_memory(&self) -> usize;

    /// Allocates `bytes` at a multiple of 256, filled with anything. Freed with the device.
    fn allocate(&mut self, bytes: usize) -> Result<Address>;

    /// Bytes that were allocated.
    fn allocated(&self) -> usize;

    /// Copies `bytes` bytes to the card, which `source` writes piece by piece, from several threads.
    fn upload_from(&mut self, to: Address, bytes: usize, source: &Source<'_>) -> Result<()>;

    /// Copies to the card; `bytes` may change once the call returns.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.upload_from(to, bytes.len(), &|at, piece: &mut [u8]| {
            piece.copy_from_slice(&bytes[at..][..piece.len()]);
            Ok(())
        })
    }

    fn clear(&mut self, at: Address, bytes: usize) -> Result<()>;

    /// Copies from the card, after all work before it.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<()>;

    /// Starts a kernel.
    ///
    /// # Safety
    /// `arguments` point to values of the kernel's parameter types, and what these name is memory
    /// of this device of the size that the kernel uses.
    unsafe fn launch(&mut self, launch: Launch, arguments: &mut [*mut c_void]) -> Result<()>;

    /// `MAILBOX` words in the host's memory that kernels can write, zero at first: as the card sees
    /// them, and as the host does.
    fn mailbox(&self) -> (Address, *const u32);

    /// Whether all work is done. Reports what went wrong in it.
    fn idle(&self) -> Result<bool>;

    /// Waits until all work is done.
    fn wait(&self) -> Result<()>;
}

/// Starts a kernel with these arguments, each a value of the parameter's type.
macro_rules! launch {
    ($device:expr, $launch:expr, $($argument:expr),+ $(,)?) => {{
        let launch: $crate::cuda::device::Launch = $launch;
        // Each value lives in a tuple's place until the launch has copied it.
        #[allow(unused_mut)]
        let mut values = ($($argument,)+);
        let mut pointers = launch!(@pointers values; [$($argument),+]; []; 0 1 2 3 4 5 6 7 8 9 10 11);
        // SAFETY: the arguments are those of the kernel in `kernels.cu`, in its order and types, and
        // name memory that the model allocated for them.
        unsafe { $device.launch(launch, &mut pointers) }
    }};
    (@pointers $values:ident; []; [$($done:expr),*]; $($rest:tt)*) => { [$($done),*] };
    (@pointers $values:ident; [$first:expr $(, $more:expr)*]; [$($done:expr),*]; $at:tt $($rest:tt)*) => {
        launch!(@pointers $values; [$($more),*]; [$($done,)* (&raw mut $values.$at).cast::<std::ffi::c_void>()]; $($rest)*)
    };
}
pub(crate) use launch;
