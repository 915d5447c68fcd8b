//! The candle engine's products and attention as C functions: `libllm_bench_kernels`. The variant
//! `pytorch-candle` (`scripts/engines/pytorch/candle.py`) is a user.
//!
//! Lengths count values, not bytes. A function that fails returns null, 0 or false, and
//! `llm_bench_last_error` says why; no panic leaves a function. Memory of the caller's is neither
//! copied nor kept, except that a layer reads its weights where they lie.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use llm_bench_candle_engine::layers::{Heads, Kernels, Layer, Part};

/// The version of these functions; it grows when one changes or goes.
const ABI: u32 = 1;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs `body`; `None` for an error or a panic, which is kept for `llm_bench_last_error`.
fn guarded<T>(body: impl FnOnce() -> Result<T, String>) -> Option<T> {
    // A panic leaves nothing half done but buffers, which the next call fills again.
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(error)) => error,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("a panic in the kernels: {}", text.unwrap_or("without a message"))
        }
    };
    let text = CString::new(error.replace('\0', " ")).unwrap_or_default();
    // A thread that ends has no place for it any more.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
    None
}

/// Checks a pointer to `len` values of `T`.
fn checked<T>(start: *const T, len: usize, what: &str) -> Result<(), String> {
    let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
    if start.is_null() || !start.is_aligned() || bytes.is_none() {
        return Err(format!(
            "{what}: expected an aligned address of {len} values, found {start:p}"
        ));
    }
    Ok(())
}

/// The `len` values at `start`.
///
/// # Safety
/// They are initialized, and nobody writes them while the result lives.
unsafe fn read<'a, T>(start: *const T, len: usize, what: &str) -> Result<&'a [T], String> {
    checked(start, len, what)?;
    // SAFETY: not null, aligned and of a possible length (checked); the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// The `len` values at `start`, to be written.
///
/// # Safety
/// They are initialized, and nobody else uses them while the result lives.
unsafe fn write<'a, T>(start: *mut T, len: usize, what: &str) -> Result<&'a mut [T], String> {
    checked(start, len, what)?;
    // SAFETY: as in `read`.
    Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
}

/// The object at a handle.
///
/// # Safety
/// Null, or a live object that this library made.
unsafe fn object<'a, T>(handle: *const T, what: &str) -> Result<&'a T, String> {
    // SAFETY: null is refused here, and anything else is an object by the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(|| format!("{what}: expected a handle, found null"))
}

/// Threads, buffers, and texts about them.
pub struct Handle {
    kernels: Mutex<Kernels>,
    /// What `llm_bench_kernels_isa` and `llm_bench_kernels_note` return.
    isa: CString,
    note: CString,
}

impl Handle {
    /// Runs `body` with the kernels, which one call at a time uses.
    fn with<T>(&self, body: impl FnOnce(&mut Kernels) -> T) -> T {
        body(&mut self.kernels.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One tensor of a layer.
#[repr(C)]
pub struct Tensor {
    /// `ggml_type`.
    pub kind: u32,
    pub rows: usize,
    /// Values in a row.
    pub columns: usize,
    /// The tensor's blocks as the GGUF file stores them, at a multiple of 4.
    pub bytes: *const u8,
    /// How many bytes they are.
    pub len: usize,
}

/// The version of the ABI. Every other function may change with it.
#[unsafe(no_mangle)]
pub extern "C" fn llm_bench_abi() -> u32 {
    ABI
}

/// Why the last function that failed on this thread did, in UTF-8; valid until the next one fails.
#[unsafe(no_mangle)]
pub extern "C" fn llm_bench_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Kernels on `threads` threads, one of which is the calling one; null on failure.
#[unsafe(no_mangle)]
pub extern "C" fn llm_bench_kernels_new(threads: usize) -> *mut Handle {
    let made = guarded(|| {
        let kernels = Kernels::new(threads)?;
        let text = |text: &str| CString::new(text).map_err(|e| e.to_string());
        let isa = text(kernels.isa())?;
        let note = text(&kernels.of_prompts().unwrap_or_default())?;
        Ok(Box::new(Handle { kernels: Mutex::new(kernels), isa, note }))
    });
    made.map_or(std::ptr::null_mut(), Box::into_raw)
}

/// Ends the threads. Null does nothing.
///
/// # Safety
/// `kernels` is null or came from `llm_bench_kernels_new`, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_kernels_free(kernels: *mut Handle) {
    if !kernels.is_null() {
        guarded(|| {
            // SAFETY: `Box::into_raw` made it, and this is its end, by the caller's promise.
            drop(unsafe { Box::from_raw(kernels) });
            Ok(())
        });
    }
}

/// Threads that products and attention run on; 0 for null.
///
/// # Safety
/// `kernels` is null or lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_kernels_threads(kernels: *const Handle) -> usize {
    // SAFETY: this function's own contract.
    guarded(|| Ok(unsafe { object(kernels, "kernels") }?.with(|k| k.threads()))).unwrap_or(0)
}

/// The instruction set in use, such as `avx512`; it lives as long as the kernels. Null for null.
///
/// # Safety
/// `kernels` is null or lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_kernels_isa(kernels: *const Handle) -> *const c_char {
    // SAFETY: this function's own contract.
    let isa = guarded(|| Ok(unsafe { object(kernels, "kernels") }?.isa.as_ptr()));
    isa.unwrap_or(std::ptr::null())
}

/// What readers of a measurement must know about prefill, or nothing; it lives as long as the
/// kernels. Null for null.
///
/// # Safety
/// `kernels` is null or lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_kernels_note(kernels: *const Handle) -> *const c_char {
    // SAFETY: this function's own contract.
    let note = guarded(|| Ok(unsafe { object(kernels, "kernels") }?.note.as_ptr()));
    note.unwrap_or(std::ptr::null())
}

/// A layer of `n` tensors of equal columns, whose products follow one another; null on failure. The
/// weights are used where they lie.
///
/// # Safety
/// `tensors` points to `n` tensors. The bytes of each stay readable and unchanged until
/// `llm_bench_layer_free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_layer_new(tensors: *const Tensor, n: usize) -> *mut Layer {
    let made = guarded(|| {
        // SAFETY: the caller's promise.
        let tensors = unsafe { read(tensors, n, "tensors") }?;
        let part = |t: &Tensor| {
            // SAFETY: the layer, which alone keeps them, lives no longer than the bytes do.
            let bytes: &'static [u8] = unsafe { read(t.bytes, t.len, "a tensor's bytes") }?;
            Ok(Part { kind: t.kind, rows: t.rows, columns: t.columns, bytes })
        };
        let parts = tensors.iter().map(part).collect::<Result<Vec<_>, String>>()?;
        Layer::new(&parts).map(Box::new)
    });
    made.map_or(std::ptr::null_mut(), Box::into_raw)
}

/// Forgets a layer. Null does nothing.
///
/// # Safety
/// `layer` is null or came from `llm_bench_layer_new`, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_layer_free(layer: *mut Layer) {
    if !layer.is_null() {
        guarded(|| {
            // SAFETY: `Box::into_raw` made it, and this is its end, by the caller's promise.
            drop(unsafe { Box::from_raw(layer) });
            Ok(())
        });
    }
}

/// Whether decode rounds activations to int8 for weights of this `ggml_type`: 1 if it does, 0 if it
/// computes in float32, -1 on failure (no such type).
///
/// # Safety
/// `kernels` is null or lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_rounds(kernels: *const Handle, kind: u32) -> i32 {
    // SAFETY: this function's own contract.
    let compute = guarded(|| unsafe { object(kernels, "kernels") }?.with(|k| k.compute(kind)));
    compute.map_or(-1, |compute| i32::from(compute == "int8"))
}

/// `out[t] = layer · x[t]`: `x` is `[tokens, columns]`, `out` is `[tokens, rows of all tensors]`; false
/// on failure. Where a token's `x` is not finite, its products are NaN.
///
/// # Safety
/// `kernels` and `layer` are null or live. `x` points to `x_len` and `out` to `out_len` values, which
/// do not overlap and which nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_multiply(
    kernels: *const Handle,
    layer: *const Layer,
    x: *const f32,
    x_len: usize,
    out: *mut f32,
    out_len: usize,
) -> bool {
    let done = guarded(|| {
        // SAFETY: this function's own contract.
        let (kernels, layer) = unsafe { (object(kernels, "kernels")?, object(layer, "layer")?) };
        // SAFETY: as above.
        let (x, out) = unsafe { (read(x, x_len, "x")?, write(out, out_len, "out")?) };
        kernels.with(|k| k.multiply(layer, x, out))
    });
    done.is_some()
}

/// Attention of tokens at positions `first`…: rotates their queries and keys in place, stores keys
/// and values in the cache, and attends to every position up to each token's own; false on failure.
///
/// `qkv` is `[tokens, heads + 2 kv_heads, head_dim]`. `angles` is `[tokens, 2, head_dim / 2]`: the
/// cosines for pairs (2i, 2i + 1), then their sines. `out` is `[tokens, heads, head_dim]`. The cache
/// holds f16 for whole spans of 16 positions: `keys` is `[kv_heads, positions / 16, head_dim, 16]`,
/// `values` is `[kv_heads, positions, head_dim]`, `cache_len` values each.
///
/// # Safety
/// `kernels` is null or lives. Every pointer is followed by as many values as its length says, none of
/// which overlap and which nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llm_bench_attend(
    kernels: *const Handle,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    keys: *mut u16,
    values: *mut u16,
    cache_len: usize,
    first: usize,
    qkv: *mut f32,
    qkv_len: usize,
    angles: *const f32,
    angles_len: usize,
    out: *mut f32,
    out_len: usize,
) -> bool {
    let done = guarded(|| {
        // SAFETY: this function's own contract.
        let kernels = unsafe { object(kernels, "kernels") }?;
        // SAFETY: as above.
        let cache =
            unsafe { (write(keys, cache_len, "keys")?, write(values, cache_len, "values")?) };
        // SAFETY: as above.
        let given = unsafe { (write(qkv, qkv_len, "qkv")?, read(angles, angles_len, "angles")?) };
        // SAFETY: as above.
        let out = unsafe { write(out, out_len, "out") }?;
        let heads = Heads { heads, kv_heads, head_dim };
        kernels.with(|k| k.attend(heads, cache, first, given, out))
    });
    done.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_of_its_thread() {
        let text = || {
            // SAFETY: a text, valid until the next failure.
            unsafe { std::ffi::CStr::from_ptr(llm_bench_last_error()) }
                .to_str()
                .unwrap()
                .to_string()
        };
        assert_eq!(guarded(|| Ok(3)), Some(3));
        assert_eq!((guarded::<()>(|| panic!("no {}", 3)), text().contains("no 3")), (None, true));
        assert_eq!(guarded::<()>(|| Err("zero\0byte".into())), None);
        assert_eq!(text(), "zero byte");
        std::thread::scope(|s| s.spawn(|| assert_eq!(text(), "")).join()).unwrap();
    }
}
