"""Packed weights on CUDA: the file's integers with f16 scales, multiplied by our Triton kernels in decode steps
and turned into 16-bit floats for cuBLAS in prefill. Every operation has a form in plain torch too, which
defines it, and which the CPU takes.
"""

from typing import Optional

import torch
import torch.nn.functional as F

from _shared.dequant import FOUR_BIT, WITH_OFFSET, unpack
from _shared.gguf_reader import Tensor
from linear import PLAIN, Stacked, materialize

ROWS = 4  # rows of a tile, as in kernels.py
STEP = 1 << 24  # weights packed at a time
STAGING = 32 << 20  # bytes of each of two page-locked buffers
# Warps of a program: the fastest is found for each shape at its first product. Each thread takes one word of a
# row at a time; with more, Triton exchanges x between threads through shared memory.
CHOICES = (1, 2, 4, 8, 16)


class Upload:
    """Copies parts of the file to the device through two page-locked buffers: one fills while the other drains."""

    def __init__(self, device: str):
        self.device, self._turn = torch.device(device), 0
        if self.device.type != "cpu":
            self._buffers = [torch.empty(STAGING, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
            self._drained = [torch.cuda.Event(), torch.cuda.Event()]

    def __call__(self, tensor: Tensor, first: int = 0, rows: int | None = None) -> torch.Tensor:
        """Rows of a tensor on the device, uint8 `[rows, bytes of a row]`; on the CPU a view of the file."""
        source = torch.from_numpy(tensor.raw[first : first + (rows or tensor.rows)])
        if self.device.type == "cpu":
            return source
        out, flat = torch.empty(source.shape, dtype=torch.uint8, device=self.device), source.reshape(-1)
        target = out.view(-1)
        for at in range(0, flat.numel(), STAGING):
            part, turn = flat[at : at + STAGING], self._turn
            self._turn = 1 - turn
            self._drained[turn].synchronize()
            staged = self._buffers[turn][: part.numel()]
            staged.copy_(part)
            target[at : at + part.numel()].copy_(staged, non_blocking=True)
            self._drained[turn].record()
        return out


class DeviceDense:
    """Float weights `[rows, cols]` on the device; quantized ones are made floats there."""

    def __init__(self, tensors: list[Tensor], dtype: torch.dtype, upload: Upload):
        rows, cols = sum(t.rows for t in tensors), tensors[0].cols
        self.weight = torch.empty(rows, cols, dtype=dtype, device=upload.device)
        for tensor, out in zip(tensors, self.weight.split([t.rows for t in tensors])):
            if tensor.type in PLAIN:
                out.copy_(upload(tensor).view(PLAIN[tensor.type]))
                continue
            step = max(1, STEP // cols)
            for first in range(0, tensor.rows, step):
                raw = upload(tensor, first, min(step, tensor.rows - first))
                with upload.device:
                    part = unpack(tensor.type, raw)
                w = part.q.view(part.q.shape[0], -1, part.group).float() * part.scale[..., None]
                if part.offset is not None:
                    w += part.offset[..., None]
                out[first : first + step] = w.view(part.q.shape)
        self.mapped_bytes, self.private_bytes = 0, self.weight.nbytes
        self.label = str(dtype).removeprefix("torch.").replace("float", "f")

    def gemm(self, x):
        """`[T, cols]` to `[T, rows]`."""
        return F.linear(x.to(self.weight.dtype), self.weight)

    gemv = gemm

    def fused(self, x):
        """float32 `[1, cols]` to float32 `[1, rows]`: one reduction over the weights as they are, by Inductor."""
        return (self.weight.float() * materialize(x)).sum(-1).unsqueeze(0)

    def lookup(self, ids):
        """Rows `ids` `[T]`, as `[T, cols]`."""
        return self.weight[ids]


class Packed:
    """Quantized weights: `words` int32 `[tiles, L, 4]`, `scales` and `offsets` float16 `[tiles, groups, 4]`.

    Field k of word j of a row holds the integer of column k * L + j: w = (field - bias) * scale + offset. Types
    of four bits have eight fields, all others four. Scales are exact but in K types, where the product of two
    scales is rounded once, by at most 2^-11. Fields are centred, so that offsets are small: those are rounded too.
    """

    def __init__(self, tensors: list[Tensor], dtype: torch.dtype, upload: Upload):
        kind = tensors[0].type
        self.rows, self.cols, self.dtype = sum(t.rows for t in tensors), tensors[0].cols, dtype
        self.bits, self.group = 4 if kind in FOUR_BIT else 8, 16 if kind == "Q6_K" else 32
        offsets = kind in WITH_OFFSET
        self.bias = 8 if self.bits == 4 else 16 if offsets else 128
        fields, tiles = 32 // self.bits, self.rows // ROWS
        empty = lambda *shape, dtype: torch.empty(*shape, ROWS, dtype=dtype, device=upload.device)
        self.words = empty(tiles, self.cols // fields, dtype=torch.int32)
        self.scales = empty(tiles, self.cols // self.group, dtype=torch.float16)
        self.offsets = torch.empty_like(self.scales) if offsets else None
        done = 0
        for tensor in tensors:
            step = max(1, STEP // self.cols // ROWS) * ROWS
            for first in range(0, tensor.rows, step):
                rows = min(step, tensor.rows - first)
                raw = upload(tensor, first, rows)
                with upload.device:
                    part = unpack(kind, raw)
                where = slice(done // ROWS, (done + rows) // ROWS)
                side_by_side = lambda t: t.view(rows // ROWS, ROWS, -1).transpose(1, 2)
                q = (part.q.to(torch.int32) + (0 if offsets else self.bias)).view(rows, fields, -1)
                words = q[:, 0].clone()
                for k in range(1, fields):
                    words |= q[:, k] << (k * self.bits)
                self.words[where] = side_by_side(words)
                self.scales[where] = side_by_side(part.scale.to(torch.float16))
                if self.offsets is not None:
                    self.offsets[where] = side_by_side((part.offset + self.bias * part.scale).to(torch.float16))
                done += rows
        self.private_bytes = sum(t.nbytes for t in (self.words, self.scales, self.offsets) if t is not None)
        self.mapped_bytes, self.label = 0, kind.lower()

    def fused(self, x, norm=None, residual=None, swiglu=False, eps=0.0):
        """float32 `[1, cols]` to float32 `[1, rows]`, or half as many with `swiglu`."""
        shape = (self.rows, self.cols, self.bits, self.group, self.bias)
        return gemv(x, self.words, self.scales, self.offsets, norm, residual, *shape, eps, swiglu)

    def gemv(self, x):
        """`[1, cols]` to `[1, rows]` of the same type."""
        return self.fused(x.float()).to(x.dtype)

    def gemm(self, x):
        """16-bit `[T, cols]` to `[T, rows]`: makes the weights dense, then uses cuBLAS."""
        shape = (self.rows, self.cols, self.bits, self.group, self.bias)
        return F.linear(x.to(self.dtype), dense_weights(self.words, self.scales, self.offsets, *shape, self.dtype))

    def lookup(self, ids):
        """Rows `ids` `[T]`, as float32 `[T, cols]`."""
        tile, row = ids // ROWS, ids % ROWS
        offsets = None if self.offsets is None else self.offsets[tile, :, row]
        return multiplied(self.words[tile, :, row], self.scales[tile, :, row], offsets, self.bits, self.group, self.bias)


def multiplied(words, scales, offsets, bits: int, group: int, bias: int):
    """Rows `[n, L]` of words with their scales `[n, groups]` to float32 `[n, cols]`."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    q = ((words[:, None, :] >> shifts[None, :, None]) & ((1 << bits) - 1)).flatten(1) - bias
    w = q.unflatten(1, (-1, group)).float() * scales.float().unsqueeze(-1)
    if offsets is not None:
        w = w + offsets.float().unsqueeze(-1)
    return w.flatten(1)


def _plain(words, scales, offsets, rows: int, bits: int, group: int, bias: int):
    flat = lambda t: None if t is None else t.transpose(1, 2).reshape(rows, -1)
    return multiplied(flat(words), flat(scales), flat(offsets), bits, group, bias)


@torch.library.custom_op("llm_bench::gemv", mutates_args=())
def gemv(
    x: torch.Tensor,
    words: torch.Tensor,
    scales: torch.Tensor,
    offsets: Optional[torch.Tensor],
    norm: Optional[torch.Tensor],
    residual: Optional[torch.Tensor],
    rows: int,
    cols: int,
    bits: int,
    group: int,
    bias: int,
    eps: float,
    swiglu: bool,
) -> torch.Tensor:
    """W x for one position, float32; `kernels.gemv_kernel` says what the options add."""
    out = x.new_empty(1, rows // 2 if swiglu else rows)
    if x.device.type != "cpu":
        launch_gemv(x, words, scales, offsets, norm, residual, out, cols, bits, group, bias, eps, swiglu)
        return out
    v = x if norm is None else x * norm * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    y = v @ _plain(words, scales, offsets, rows, bits, group, bias).T
    if swiglu:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    return y if residual is None else y + residual


@gemv.register_fake
def _(x, words, scales, offsets, norm, residual, rows, cols, bits, group, bias, eps, swiglu):
    return x.new_empty(1, rows // 2 if swiglu else rows)


def launch_gemv(x, words, scales, offsets, norm, residual, out, cols, bits, group, bias, eps, swiglu, choice=None):
    """Runs the kernel as fast as it was found to run for this shape, or as `choice` says."""
    from kernels import gemv_kernel

    rows = out.shape[1]
    none = scales  # a pointer that is not read
    fixed = {"BITS": bits, "GROUP": group, "BIAS": bias, "NORM": norm is not None, "OFFSETS": offsets is not None}
    fixed |= {"RESIDUAL": residual is not None, "SWIGLU": swiglu}
    given = lambda t: none if t is None else t

    def launch(warps):
        gemv_kernel[(rows // ROWS,)](
            x, given(norm), words, scales, given(offsets), given(residual), out, rows, cols, eps,
            **fixed, BLOCK=32 * warps, num_warps=warps,
        )  # fmt: skip

    launch(choice or _fastest((rows, cols, *fixed.values()), launch))


_choices: dict[tuple, int] = {}


def _fastest(key: tuple, launch) -> int:
    """The fastest choice for this kind of product, with weights that are not in the cache."""
    if key not in _choices:
        flush = torch.empty(1 << 27, dtype=torch.uint8, device="cuda")
        times = {}
        for choice in CHOICES:
            launch(choice)
            spent = []
            for _ in range(7):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                flush.zero_()
                begin.record()
                launch(choice)
                end.record()
                end.synchronize()
                spent.append(begin.elapsed_time(end))
            times[choice] = sorted(spent)[len(spent) // 2]
        _choices[key] = min(times, key=times.get)
    return _choices[key]


@torch.library.custom_op("llm_bench::dense_weights", mutates_args=())
def dense_weights(
    words: torch.Tensor,
    scales: torch.Tensor,
    offsets: Optional[torch.Tensor],
    rows: int,
    cols: int,
    bits: int,
    group: int,
    bias: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The weights as `dtype` `[rows, cols]`, computed in float32 and rounded once."""
    if words.device.type == "cpu":
        return _plain(words, scales, offsets, rows, bits, group, bias).to(dtype)
    from kernels import dense_kernel

    out = torch.empty(rows, cols, dtype=dtype, device=words.device)
    length = cols * bits // 32
    block = 128 if length >= 128 else 32
    dense_kernel[(rows // ROWS, -(-length // block))](
        words, scales, scales if offsets is None else offsets, out, rows, cols,
        BITS=bits, GROUP=group, BIAS=bias, OFFSETS=offsets is not None, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out


@dense_weights.register_fake
def _(words, scales, offsets, rows, cols, bits, group, bias, dtype):
    return torch.empty(rows, cols, dtype=dtype, device=words.device)


def parts_of(n_ctx: int) -> tuple[int, int]:
    """Into how many chunks the cache is split for attention, and of how many positions each: at most 64 chunks."""
    chunk = max(32, -(-n_ctx // 64 // 32) * 32)
    return -(-n_ctx // chunk), chunk


@torch.library.custom_op("llm_bench::attend", mutates_args=())
def attend(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """One query `[heads, 1, head_dim]` over the cache `[kv_heads, n_ctx, head_dim]` up to `position` `[1]`.

    Returns float32 `[1, heads * head_dim]`. On the device it reads only the filled part of the cache.
    """
    (heads, _, dim), (kv_heads, n_ctx, _) = q.shape, k_cache.shape
    if q.device.type != "cpu":
        out = torch.empty(1, heads * dim, dtype=torch.float32, device=q.device)
        launch_attend(q.contiguous(), k_cache, v_cache, position, out)
        return out
    grouped = q.view(kv_heads, -1, dim).float() * dim**-0.5
    scores = grouped @ k_cache.float().transpose(1, 2)
    scores = scores.masked_fill(torch.arange(n_ctx) > position, float("-inf"))
    return (torch.softmax(scores, -1) @ v_cache.float()).view(1, -1)


def launch_attend(q, k_cache, v_cache, position, out):
    """Runs the two kernels of attention."""
    from kernels import attend_kernel, join_kernel
    from triton import next_power_of_2

    (heads, _, dim), (kv_heads, n_ctx, _) = q.shape, k_cache.shape
    parts, chunk = parts_of(n_ctx)
    scratch = lambda *shape: torch.empty(*shape, dtype=torch.float32, device=q.device)
    sums, most, weights = scratch(heads, parts, dim), scratch(heads, parts), scratch(heads, parts)
    dims = {"DIM": dim, "DIM2": next_power_of_2(dim)}
    group = heads // kv_heads
    attend_kernel[(kv_heads, parts)](
        q, k_cache, v_cache, position, sums, most, weights, n_ctx, chunk, dim**-0.5,
        GROUP=group, GROUP2=next_power_of_2(group), **dims, BLOCK=32, num_warps=4,
    )  # fmt: skip
    join_kernel[(heads,)](sums, most, weights, out, parts, **dims, PARTS=next_power_of_2(parts), num_warps=4)


@attend.register_fake
def _(q, k_cache, v_cache, position):
    return q.new_empty(1, q.shape[0] * q.shape[2], dtype=torch.float32)


def apply(weights, x, eps: float, norm=None, residual=None, swiglu: bool = False):
    """A product of a decode step with what surrounds it, float32 `[1, cols]` to `[1, rows]`: RMS norm with weight
    `norm` before, silu(gate) * up and the residual after. Packed weights do it in one kernel."""
    if isinstance(weights, Packed):
        return weights.fused(x, norm, residual, swiglu, eps)
    if norm is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * norm
    parts = weights.parts if isinstance(weights, Stacked) else [weights]
    y = torch.cat([part.fused(x) for part in parts], dim=-1)
    if swiglu:
        gate, up = y.chunk(2, dim=-1)
        y = F.silu(gate) * up
    return y if residual is None else y + residual


def make_device_linear(tensors: list[Tensor], dtype: torch.dtype, upload: Upload, packed: bool):
    """The best layer for `tensors`, stacked by rows; neighbours of one type become one."""
    groups: list[list[Tensor]] = []
    for tensor in tensors:
        if groups and groups[-1][0].type == tensor.type:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
    parts = []
    for group in groups:
        fits = group[0].type not in PLAIN and all(t.rows % (2 * ROWS) == 0 for t in group)
        parts.append((Packed if packed and fits else DeviceDense)(group, dtype, upload))
        for tensor in group:
            tensor.release()
    return parts[0] if len(parts) == 1 else Stacked(parts)
