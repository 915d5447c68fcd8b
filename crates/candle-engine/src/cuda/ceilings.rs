//! What a card can do at most, measured with kernels of our own: the ceilings that MBU and `doctor`
//! hold against.

use serde::{Deserialize, Serialize};

use super::card::Card;
use super::device::{Device, Fault, Launch, Result, launch};

/// Rates of one card.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read from its memory a second, each once, far more than its caches hold.
    pub read_bytes_per_s: f64,
    /// Bytes read plus bytes written by a copy inside its memory.
    pub copy_bytes_per_s: f64,
    /// Bytes a second from pinned host memory.
    pub upload_bytes_per_s: f64,
    /// Multiplications plus additions of the tensor cores, f16 with sums in f32.
    pub f16_flops: f64,
    /// The same for int8 with sums in int32.
    pub int8_ops: f64,
}

/// Bytes that the measurements read: many times the caches.
const BYTES: usize = 2 << 30;
const ROUNDS: usize = 5;

/// Measures card `index` in this process, which then holds a context on it: call it in a process of its
/// own.
pub fn ceilings(index: u32) -> std::result::Result<Ceilings, String> {
    let mut card = Card::open(index, 1)?;
    measure(&mut card).map_err(|fault| match fault {
        Fault::OutOfMemory { bytes } => {
            format!("cuda:{index}: no room for the {bytes} bytes that measuring its memory takes")
        }
        Fault::Other(text) => text,
    })
}

fn measure(card: &mut Card) -> Result<Ceilings> {
    let (from, to) = (card.allocate(BYTES)?, card.allocate(BYTES / 2)?);
    let blocks = [card.processors() * 4, 1, 1];
    let words = (BYTES / 4) as u64;
    launch!(card, Launch::of("fill_words", blocks, 512), from, words, u32::MAX >> 1)?;
    launch!(card, Launch::of("fill_words", blocks, 512), to, words / 2, u32::MAX >> 1)?;
    let read = best(card, |card| {
        launch!(card, Launch::of("read_all", blocks, 512), from, (BYTES / 16) as u64, to)
    })?;
    let half = (BYTES / 32) as u64;
    let copy =
        best(card, |card| launch!(card, Launch::of("copy_all", blocks, 512), from, to, half))?;
    let upload_bytes = 256 << 20;
    let mut uploads = Vec::new();
    for _ in 0..ROUNDS {
        uploads.push(card.seconds_of_upload(to, upload_bytes)?);
    }
    let upload = uploads.into_iter().fold(f64::INFINITY, f64::min);
    let turns = 4096u32;
    let macs_of_warp = |k: f64| f64::from(turns) * 8.0 * 16.0 * 8.0 * k;
    let warps = f64::from(blocks[0]) * 8.0;
    let f16 = best(card, |card| launch!(card, Launch::of("peak_f16", blocks, 256), to, turns))?;
    let int8 = best(card, |card| launch!(card, Launch::of("peak_int8", blocks, 256), to, turns))?;
    Ok(Ceilings {
        read_bytes_per_s: BYTES as f64 / read,
        copy_bytes_per_s: BYTES as f64 / copy,
        upload_bytes_per_s: upload_bytes as f64 / upload,
        f16_flops: 2.0 * warps * macs_of_warp(16.0) / f16,
        int8_ops: 2.0 * warps * macs_of_warp(32.0) / int8,
    })
}

/// The shortest of some rounds, after one that does not count: what the card can do.
fn best(card: &mut Card, mut work: impl FnMut(&mut Card) -> Result<()>) -> Result<f64> {
    card.seconds(&mut work)?;
    let mut shortest = f64::INFINITY;
    for _ in 0..ROUNDS {
        shortest = shortest.min(card.seconds(&mut work)?);
    }
    Ok(shortest)
}
