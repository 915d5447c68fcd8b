"""Linear layers over GGUF weights in tinygrad: the file's integers, multiplied by kernels written in UOps.

Clang may not reorder the sum that a row's product is, so it stays scalar. Here 16 rows are interleaved: 16 lanes then
multiply 16 rows. One 8192x2048 product on one thread of a Zen 5, 1 position and each of 16 together, in ms, timed once
with a script that was not kept:

                                                            4 bits           8 bits           f16
    a matrix product of tinygrad over rows                                                    5.0
    these kernels, vectors of four (tinygrad's own)         1.26             1.10             1.28
    these kernels, plain statements (tinygrad_compiler)     0.64 / 0.23      0.58 / 0.21      1.23 / 0.21
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tinygrad import Tensor, UOp, dtypes
from tinygrad.codegen.opt import Opt, OptOps
from tinygrad.uop.ops import AxisType, KernelInfo, Ops

from . import gguf_reader
from .dequant import CHUNK, FOUR_BIT, WITH_OFFSET, unpack

LANES = 16  # rows in a tile: the float32 lanes of a 512-bit register
TOGETHER = 8  # positions of a prompt that share one read of the weights
PLAIN = {"F32": np.float32, "F16": np.float16}
THREADS = int(os.environ.get("NUM_CPU_THREADS", os.cpu_count()))


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor over the memory of an array, which lives as long."""
    dtype = {"f2": dtypes.half, "f4": dtypes.float, "i1": dtypes.char, "u1": dtypes.uchar}[array.dtype.str[1:]]
    tensor = Tensor.from_blob(array.ctypes.data, array.shape, dtype=dtype, device="CPU")
    tensor.uop.buffer.array = array
    return tensor


class Tiles:
    """Rows of some tensors of one type, stacked, in tiles of `lanes` rows.

    Integers are int8 `[tiles, groups, group, lanes]`, or uint8 `[tiles, groups, 16, lanes]` with weight j of a group of
    32 in the low and weight j + 16 in the high half of a byte. Scales and offsets are `[tiles, groups, lanes]`, f16 as in the
    file, or f32 in K types, whose scales are products of two. Floats are `[tiles, cols, lanes]`.
    """

    def __init__(self, tensors: list[gguf_reader.Tensor]):
        kind, self.cols, self.rows = tensors[0].type, tensors[0].cols, [t.rows for t in tensors]
        self.lanes = next(n for n in (16, 8, 4, 2, 1) if all(rows % n == 0 for rows in self.rows))
        tiles, self.four_bit = sum(self.rows) // self.lanes, kind in FOUR_BIT
        self.bias = 8 if kind == "Q4_0" else 0  # four bits are stored as 0…15
        self.label = kind.lower()
        if kind in PLAIN or kind == "BF16":
            self.group, shape = 0, (tiles, self.cols, self.lanes)
            arrays = [np.empty(shape, PLAIN.get(kind, np.float32))]
            self.label = "f16" if kind == "F16" else "f32"
        else:
            self.group = 16 if kind == "Q6_K" else 32
            groups = self.cols // self.group
            shape = (tiles, groups, 16 if self.four_bit else self.group, self.lanes)
            scales = np.empty((tiles, groups, self.lanes), np.float32 if "K" in kind else np.float16)
            arrays = [np.empty(shape, np.uint8 if self.four_bit else np.int8), scales]
            if kind in WITH_OFFSET:
                arrays.append(np.empty_like(arrays[1]))
        step, first = max(1, CHUNK // self.cols // self.lanes), 0
        with ThreadPoolExecutor(THREADS) as pool:
            for tensor in tensors:
                parts = range(0, tensor.rows // self.lanes, step)
                list(pool.map(lambda at: self._fill(tensor, at, step, [array[first:] for array in arrays]), parts))
                first += tensor.rows // self.lanes
                tensor.release()
        self.nbytes = sum(array.nbytes for array in arrays)
        self.weights = [tensor_of(array) for array in arrays]
        self.sums = self.bias > 0 or len(arrays) == 3  # whether `__call__` needs them

    def _fill(self, tensor: gguf_reader.Tensor, at: int, step: int, arrays: list[np.ndarray]) -> None:
        """Writes tiles `at`…`at + step` of a tensor."""
        raw = tensor.raw[at * self.lanes : (at + step) * self.lanes]
        tiles = slice(at, at + len(raw) // self.lanes)
        interleave = lambda a: np.moveaxis(a.reshape(-1, self.lanes, *a.shape[1:]), 1, -1)
        if tensor.type == "BF16":
            raw = raw.view(np.uint16).astype(np.uint32) << 16
        if not self.group:
            arrays[0][tiles] = interleave(raw.view(arrays[0].dtype))
            return
        if tensor.type == "Q4_0":  # its blocks already hold the bytes of a tile
            blocks = raw.reshape(len(raw), -1, 18)
            parts = blocks[..., 2:], blocks[..., :2].copy().view(np.float16)[..., 0]
        else:
            read = unpack(tensor.type, raw)
            q = read.q.reshape(len(raw), -1, self.group)
            parts = q[..., :16] | (q[..., 16:] << 4) if self.four_bit else q, read.scale, read.offset
        for array, part in zip(arrays, parts):
            array[tiles] = interleave(part)

    def __call__(self, x: Tensor, sums: Tensor | None, residual: Tensor | None = None) -> list[Tensor]:
        """Products with `x` `[positions, cols]`, `[positions, rows]` for each tensor; `residual` is added to an only one."""
        out = Tensor.empty(self.weights[0].shape[0], x.shape[0], self.lanes, device="CPU")
        out = self.into(out, x, sums, residual).permute(1, 0, 2).reshape(x.shape[0], -1)
        return list(out.split(self.rows, dim=1))

    def into(self, out: Tensor, x: Tensor, sums: Tensor | None, residual: Tensor | None = None) -> Tensor:
        """The same, written to `out` `[tiles, positions, lanes]`. `sums` are those of `sums_of`, for layers that need them."""
        more = ([sums] if self.sums else []) + ([] if residual is None else [residual])
        return out.custom_kernel(*self.weights, x, *more, fxn=self._kernel)[0]

    def _kernel(self, out: UOp, q: UOp, *rest: UOp) -> UOp:
        """Sums by groups first and applies the scales then: that is twice as fast as scaling every product."""
        tiles, positions, lanes = out.shape
        rest, f32 = list(rest), dtypes.float
        t, m, lane = UOp.range(tiles, 0), UOp.range(positions, 1), UOp.range(lanes, 2)
        scale = rest.pop(0) if self.group else None
        offset = rest.pop(0) if len(self.weights) == 3 else None
        x, sums = rest.pop(0), rest.pop(0) if self.sums else None
        if scale is None:
            column = UOp.range(self.cols, 3, AxisType.REDUCE)
            y = (q[t, column, lane].cast(f32) * x[m, column]).reduce(column, arg=Ops.ADD)
        else:
            g, j = UOp.range(self.cols // self.group, 3, AxisType.REDUCE), UOp.range(q.shape[2], 4, AxisType.REDUCE)
            w, column = q[t, g, j, lane], g * self.group + j
            if self.four_bit:
                y = (w & 15).cast(f32) * x[m, column] + (w >> 4).cast(f32) * x[m, column + 16]
            else:
                y = w.cast(f32) * x[m, column]
            y = y.reduce(j, arg=Ops.ADD)
            if self.bias:
                y = y - sums[m, g] * float(self.bias)
            y = y * scale[t, g, lane].cast(f32)
            if offset is not None:
                y = y + sums[m, g] * offset[t, g, lane].cast(f32)
            y = y.reduce(g, arg=Ops.ADD)
        if rest:
            y = y + rest[0][m, t * lanes + lane]
        body = out[t, m, lane].store(y).end(*(r for r in (t, m, lane) if r.op is Ops.RANGE))
        return body.sink(arg=KernelInfo(name=f"product_{self.label}", opts_to_apply=self._opts(tiles, positions, lanes)))

    def _opts(self, tiles: int, positions: int, lanes: int) -> tuple[Opt, ...]:
        """Lanes and positions side by side, tiles on threads. A range of one is no axis."""
        opts, axis = [], (tiles > 1) + (positions > 1)
        if lanes > 1:
            opts.append(Opt(OptOps.UPCAST, axis, lanes))
        if positions % TOGETHER == 0:
            opts.append(Opt(OptOps.UPCAST, axis - 1, TOGETHER))
        inner = 1 if self.group and self.cols > self.group else 0
        opts.append(Opt(OptOps.UNROLL, inner, 4))
        return (*opts, *threaded(tiles))


def threaded(n: int) -> list[Opt]:
    """The first axis, of n, on as many threads as divide it."""
    threads = max(t for t in range(1, THREADS + 1) if n % t == 0)
    return [Opt(OptOps.THREAD, 0, threads)] if threads > 1 else []


def sums_of(x: Tensor) -> Tensor:
    """Sums of 32 columns, which offsets are multiplied by."""
    return x.reshape(x.shape[0], -1, 32).sum(-1).contiguous()


def layers_of(tensors: list[gguf_reader.Tensor]) -> list[Tiles]:
    """Layers for these tensors, in order; neighbours of one type are stacked."""
    groups: list[list[gguf_reader.Tensor]] = []
    for tensor in tensors:
        if groups and groups[-1][0].type == tensor.type:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
    return [Tiles(group) for group in groups]
