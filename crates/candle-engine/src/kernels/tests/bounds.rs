//! Tests that no kernel reads or writes outside its slices, with forbidden pages on both sides of them.

use super::super::activations::Rounded;
use super::super::amx::{DEPTH, STEPS, Tile, TileCpu, TilePanel};
use super::super::format::{self, BLOCK, BlockFormat, FloatFormat};
use super::super::pack::{BLOCKS, FloatPanel, Int8Panel, ROWS};
use super::super::{Cpu, Isa, SPAN, STREAMS, with_cpu};
use super::rounded;

/// Numbers directly next to forbidden memory: a kernel that reads or writes beyond a slice crashes.
struct Guarded<T> {
    map: *mut u8,
    map_len: usize,
    first: *mut T,
    len: usize,
}

/// The side of the numbers on which the forbidden page lies.
#[derive(Debug, Clone, Copy)]
enum Edge {
    Before,
    Behind,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], edge: Edge) -> Self {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
        let page = rustix::param::page_size();
        let bytes = size_of_val(values);
        let inside = bytes.next_multiple_of(page).max(page);
        let map_len = inside + 2 * page;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping that nothing else knows. The numbers lie between its first and its
        // last page, which become forbidden, and both ends of the numbers are aligned.
        unsafe {
            let map = mmap_anonymous(std::ptr::null_mut(), map_len, prot, MapFlags::PRIVATE);
            let map: *mut u8 = map.unwrap().cast();
            for guard in [map, map.add(page + inside)] {
                mprotect(guard.cast(), page, MprotectFlags::empty()).unwrap();
            }
            let first: *mut T = match edge {
                Edge::Before => map.add(page).cast(),
                Edge::Behind => map.add(page + inside - bytes).cast(),
            };
            first.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Self { map, map_len, first, len: values.len() }
        }
    }
}

impl<T> std::ops::Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote them.
        unsafe { std::slice::from_raw_parts(self.first, self.len) }
    }
}

impl<T> std::ops::DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `new` wrote them.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no slice outlives it.
        unsafe { rustix::mm::munmap(self.map.cast(), self.map_len).unwrap() };
    }
}

/// The results of every kernel that reads `row`, stored as `F`; the row may be anywhere.
fn int8_results<C: TileCpu, F: BlockFormat>(cpu: C, row: &[u8], x: &Rounded) -> Vec<f32> {
    let mut results = cpu.int8_dot::<F, 1>(row, x, 0).to_vec();
    results.extend(cpu.int8_dot::<F, 1>(row, x, 1));
    results.extend(cpu.int8_dot::<F, 4>(row, x, 0));
    let blocks = row.len() / F::SIZE * F::VALUES / BLOCK;
    for n_rows in [1, ROWS - 1, ROWS] {
        let (mut panel, mut out) = (Int8Panel::new(), [[0.0; ROWS]; 4]);
        for first in (0..blocks).step_by(BLOCKS) {
            let n = BLOCKS.min(blocks - first);
            cpu.pack_int8::<F>(&mut panel, &vec![row; n_rows], first, n);
            cpu.int8_gemm::<F>(panel.blocks(), first, n, &x.rows, &mut out);
        }
        results.extend(out.iter().flat_map(|out| &out[..n_rows]));
    }
    results.extend(int8_gemv_results::<C, F>(cpu, row, x));
    let (mut panel, n) = (TilePanel::new(), blocks.min(STEPS));
    cpu.pack_tiles::<F>(&mut panel, 31, &[row], 0, n);
    results.extend((0..n).flat_map(|step| panel.row(0, 31, step).map(|bits| bits as f32)));
    results
}

/// A token's products with rows in several places; both rows of a stream are the same.
fn int8_gemv_results<C: Cpu, F: BlockFormat>(cpu: C, row: &[u8], x: &Rounded) -> Vec<f32> {
    let mut out = [[[0.0; 1]; STREAMS]; 1];
    cpu.int8_gemv::<F, 1>([row; STREAMS], x, 0, &mut out);
    let [alone] = cpu.int8_dot::<F, 1>(row, x, 0);
    let near = |value: &f32| (value - alone).abs() <= 1e-4 * alone.abs().max(1.0);
    assert!(out.as_flattened().as_flattened().iter().all(near), "{}: {out:?}, {alone}", cpu.name());
    let mut results = out.as_flattened().as_flattened().to_vec();
    let mut out = [[[0.0; 4]; STREAMS]; 1];
    cpu.int8_gemv::<F, 4>([row; STREAMS], x, 0, &mut out);
    results.extend(out.as_flattened().as_flattened());
    results
}

fn float_results<C: TileCpu, F: FloatFormat>(cpu: C, row: &[u8], x: &[f32]) -> Vec<f32> {
    let mut results = cpu.float_dot::<F, 1>(row, [x]).to_vec();
    results.extend(cpu.float_dot::<F, 4>(row, [x; 4]));
    let mut out = [[[0.0; 2]; STREAMS]; 1];
    cpu.float_gemv::<F, 2>([row; STREAMS], [x; 2], &mut out);
    results.extend(out.as_flattened().as_flattened());
    let (mut panel, n) = (TilePanel::new(), x.len().min(STEPS * DEPTH));
    cpu.pack_float_tiles::<F>(&mut panel, 31, &[row], 0, n);
    let steps = 0..n.div_ceil(DEPTH);
    results.extend(steps.flat_map(|step| panel.row(0, 31, step).map(|bits| bits as f32)));
    for n_rows in [1, ROWS] {
        let (mut panel, mut out) = (FloatPanel::new(), [[0.0; ROWS]]);
        cpu.pack_float::<F>(&mut panel, &vec![row; n_rows], 0, x.len());
        cpu.float_gemm(&panel.0[..x.len()], ROWS, 0, x, x.len(), &mut out);
        results.extend(&out[0][..n_rows]);
    }
    results
}

/// Small bytes, which represent finite numbers in any format.
fn finite_bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 37 % 0x38) as u8).collect()
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no forbidden pages, and looks at every access itself")]
fn no_kernel_reads_beyond_a_row_of_weights() {
    fn int8<C: TileCpu, F: BlockFormat>(cpu: C, edge: Edge) {
        for n in [1, 2, 3, 4, 5, 8, 17] {
            let (stored, k) = (finite_bytes(n * F::SIZE), n * F::VALUES);
            let x: Vec<f32> = (0..4 * k).map(|i| (i * 31 % 17) as f32 - 8.0).collect();
            let x = rounded(cpu, &x, 4, k);
            let got = int8_results::<C, F>(cpu, &Guarded::new(&stored, edge), &x);
            assert_eq!(got, int8_results::<C, F>(cpu, &stored, &x), "{} {n}", cpu.name());
        }
    }
    fn float<C: TileCpu, F: FloatFormat>(cpu: C, edge: Edge) {
        for k in [1, 7, 8, 9, 15, 16, 17, 31, 33, 100, 128] {
            let stored = finite_bytes(k * F::SIZE);
            let x: Vec<f32> = (0..k).map(|i| (i * 31 % 17) as f32 - 8.0).collect();
            let (row, tokens) = (Guarded::new(&stored, edge), Guarded::new(&x, edge));
            let got = float_results::<C, F>(cpu, &row, &tokens);
            assert_eq!(got, float_results::<C, F>(cpu, &stored, &x), "{} {k}", cpu.name());
        }
    }
    for isa in Isa::all() {
        for edge in [Edge::Before, Edge::Behind] {
            with_cpu!(isa, cpu => {
                int8::<_, format::Q4_0>(cpu, edge);
                int8::<_, format::Q5_0>(cpu, edge);
                int8::<_, format::Q8_0>(cpu, edge);
                int8::<_, format::Q4K>(cpu, edge);
                int8::<_, format::Q6K>(cpu, edge);
                float::<_, format::F32>(cpu, edge);
                float::<_, format::F16>(cpu, edge);
                float::<_, format::Bf16>(cpu, edge);
            });
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no forbidden pages, and looks at every access itself")]
fn no_kernel_leaves_the_slices_of_activations_and_of_the_cache() {
    let numbers = |n: usize| (0..n).map(|i| (i * 31 % 17) as f32 - 8.0).collect::<Vec<f32>>();
    for isa in Isa::all() {
        for edge in [Edge::Before, Edge::Behind] {
            let floats = |n: usize| Guarded::new(&numbers(n), edge);
            for dim in [2, 8, 15, 16, 17, 40, 64, 80, 128] {
                let (keys, query) = (floats(dim * SPAN), floats(dim));
                with_cpu!(isa, cpu => {
                    let four = cpu.scores::<4>(&keys, [&*query; 4]);
                    let [one] = cpu.scores::<1>(&keys, [&*query]);
                    assert_eq!(four, [one; 4], "{}", isa.name());
                });
                for n in [1, 3, 16] {
                    let (values, weights) = (floats(n * dim), floats(n));
                    let mut sums: [Guarded<f32>; 4] = std::array::from_fn(|_| floats(dim));
                    let mut alone = floats(dim);
                    with_cpu!(isa, cpu => {
                        let sums = sums.each_mut().map(|sum| &mut **sum);
                        cpu.weigh::<4>(&values, [&*weights; 4], sums);
                        cpu.weigh::<1>(&values, [&*weights], [&mut alone]);
                    });
                    assert!(sums.iter().all(|sum| **sum == *alone), "{}", isa.name());
                }
            }
            for n in [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33] {
                let (values, mut wide) = (floats(n), floats(n));
                let mut halves = Guarded::new(&vec![0u16; n], edge);
                with_cpu!(isa, cpu => {
                    cpu.narrow(&values, &mut halves);
                    cpu.widen(&halves, &mut wide);
                });
                assert_eq!(*wide, *values, "{}", isa.name());
                let mut tiles = Guarded::new(&vec![Tile::ZERO; n.div_ceil(DEPTH)], edge);
                with_cpu!(isa, cpu => cpu.tile_tokens(&values, n, [&mut tiles, &mut []]));
                let x = floats(n * BLOCK);
                let mut bytes = Guarded::new(&vec![0i8; n * BLOCK], edge);
                let mut scales = Guarded::new(&vec![0.0; n], edge);
                let mut sums = Guarded::new(&vec![[0; 2]; n], edge);
                with_cpu!(isa, cpu => cpu.round(&x, &mut bytes, &mut scales, &mut sums));
                let total: i32 = bytes.iter().map(|&byte| byte as i32).sum();
                assert_eq!(total, sums.as_flattened().iter().sum::<i32>(), "{}", isa.name());
            }
        }
    }
}
