"""Linear layers over GGUF weights: dense, ATen's int4 kernel, and tiles of integers that Inductor multiplies.

Each has `gemv` (one position: decode), `gemm` (many: prefill), `lookup` (rows, for the embedding), and `compute`,
the coarsest arithmetic of its products. `products` is the type in which weights that are kept in another one
multiply in prefill, some rows at a time.

Which kind is fastest depends on the processor, so probe.py measures them, and the notes of a run print its times. One
8192x2048 product, two threads of a Zen 5, and the same held to AVX2 (test_probe.py says how), ms, weights out of cache:

                                                       AVX-512             AVX2
                                                   decode  prefill   decode  prefill
    dense f32, ATen                                  3.0     26        3.0     25
    dense f32, Inductor                              1.3               1.4
    dense bf16, ATen (oneDNN with AVX-512)           0.64     5.2      0.62    71
    dense f16, float32 activations, Inductor         0.67              0.66
    int8 tiles, exact, Inductor                      0.43     9.9      6.3
    int4 tiles, exact, Inductor                      0.26     9.4      4.1
    _weight_int4pack_mm_for_cpu, bf16 scales         0.24    12.5      0.81    29

Tiles are slow with AVX2 because there Inductor loads eight bytes through 32 on the stack, which the next load
must wait for (`Vectorized<int8_t>::loadu(ptr, count)`). The bytes in 32-bit words are faster and still slower than 16 bits.
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from _shared.dequant import FOUR_BIT, multiply_out, unpack
from _shared.gguf_reader import Tensor

LANES = 16  # rows in a tile: the float32 lanes of a 512-bit register
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PREFILL_ROWS = 1024  # rows of tiles made dense at a time in prefill: 4 MB at 2048 columns, in cache
WIDENED_ROWS = 256  # rows of 16 bits made float32 at a time: they stay in the second cache


def short(dtype: torch.dtype) -> str:
    """`torch.bfloat16` as `bf16`."""
    return str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "f")


def coarsest(types) -> str:
    """The type with the fewest bits of mantissa; int8 is that of rounded activations."""
    return max(types, key=["f32", "f16", "bf16", "int8"].index)


def as_torch(tensor: Tensor) -> torch.Tensor:
    """The bytes in the file, without a copy: `[rows, cols]` for float types, otherwise uint8 `[rows, bytes]`."""
    raw = torch.from_numpy(tensor.raw)
    return raw.view(PLAIN[tensor.type]) if tensor.type in PLAIN else raw


def dense(tensor: Tensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """Weights as `dtype` `[rows, cols]`; a view of the file if it has that type and `out` is not given."""
    data = as_torch(tensor)
    if tensor.type in PLAIN:
        return data.to(dtype) if out is None else out.copy_(data)
    return multiply_out(tensor.type, data, torch.empty(tensor.rows, tensor.cols, dtype=dtype) if out is None else out)


class Dense:
    """Float weights `[rows, cols]`, in the file's map if they have the right type there.

    `fused`: a decode step multiplies them in float32, through Inductor.
    """

    def __init__(self, tensors: list[Tensor], dtype: torch.dtype, device: str, products=None, fused: bool = False):
        self.products, self.fused = products or dtype, fused
        exact = all(t.type == short(dtype).upper() for t in tensors) or dtype == torch.float32
        types = {short(self.products)} | (set() if fused and exact else {short(dtype)})
        self.compute = coarsest(types)
        if len(tensors) == 1:
            self.weight = dense(tensors[0], dtype).to(device)
        else:
            self.weight = torch.empty(sum(t.rows for t in tensors), tensors[0].cols, dtype=dtype)
            for tensor, part in zip(tensors, self.weight.split([t.rows for t in tensors])):
                dense(tensor, dtype, part)
            self.weight = self.weight.to(device)
        mapped = len(tensors) == 1 and self.weight.data_ptr() == tensors[0].raw.ctypes.data
        self.mapped_bytes = self.weight.nbytes if mapped else 0
        self.private_bytes = self.weight.nbytes - self.mapped_bytes
        self.label = short(dtype)

    def gemm(self, x):
        """`[T, cols]` to `[T, rows]`."""
        x = x.to(self.products)
        if self.products == self.weight.dtype:
            return F.linear(x, self.weight)
        return torch.cat([F.linear(x, part.to(self.products)) for part in self.weight.split(WIDENED_ROWS)], dim=1)

    def gemv(self, x):
        """`[1, cols]` to `[1, rows]`."""
        if self.fused:
            return (self.weight.float() * materialize(x.float())).sum(-1).unsqueeze(0)
        return F.linear(x.to(self.weight.dtype), self.weight)

    def lookup(self, ids):
        """Rows `ids` `[T]`, as `[T, cols]`."""
        return self.weight[ids]


class Int4Pack:
    """4-bit weights for `_weight_int4pack_mm_for_cpu`: groups of 32, scale and zero rounded to bf16.

    The kernel computes w = (q - 8) * scale + zero, so q is the file's own.
    """

    compute = "bf16"

    def __init__(self, tensors: list[Tensor]):
        packed, scales = zip(*(self._pack(t) for t in tensors))
        self.weight = torch.cat(packed)
        self.scales_and_zeros = torch.cat(scales, dim=1)
        self.mapped_bytes, self.private_bytes = 0, self.weight.nbytes + self.scales_and_zeros.nbytes
        self.label = tensors[0].type.lower()

    @staticmethod
    def _pack(tensor: Tensor):
        part = unpack(tensor.type, as_torch(tensor))
        # Q4_0 arrives as q - 8, the others as q with w = q * scale + offset.
        symmetric = part.offset is None
        q = (part.q + 8 if symmetric else part.q).view(torch.uint8)
        zero = torch.zeros_like(part.scale) if symmetric else part.offset + 8 * part.scale
        scales = torch.stack((part.scale, zero), dim=-1).to(torch.bfloat16).transpose(0, 1).contiguous()
        return int4pack(q.view(tensor.rows, tensor.cols)), scales

    def gemm(self, x):
        """`[T, cols]` to bf16 `[T, rows]`."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(torch.bfloat16), self.weight, 32, self.scales_and_zeros)

    def gemv(self, x):
        """`[1, cols]` to `[1, rows]` of the same type; bf16 in between."""
        return self.gemm(x).to(x.dtype)


def int4pack(q: torch.Tensor) -> torch.Tensor:
    """uint8 `[rows, cols]` of 0…15 to the layout of `_weight_int4pack_mm_for_cpu`.

    ATen's own packing wants int32 and takes seconds for a model. Its layout depends on the vector
    width, so this faster way is used only if a probe shows that it gives the same bytes.
    """
    if _quick_int4pack_agrees() and q.shape[0] % 64 == 0:
        return _quick_int4pack(q)
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1)


def _quick_int4pack(q):
    halves = q.view(-1, 2, 32, q.shape[1])
    tiles = torch.bitwise_or(halves[:, 0], halves[:, 1] << 4)  # [rows / 64, 32, cols]
    return tiles.transpose(1, 2).contiguous().view(q.shape[0], q.shape[1] // 2)


_probe: list[bool] = []


def _quick_int4pack_agrees() -> bool:
    if not _probe:
        q = torch.randint(0, 16, (128, 64), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        expected = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
        _probe.append(torch.equal(_quick_int4pack(q.to(torch.uint8)), expected.view(128, 32)))
    return _probe[0]


class Tiles:
    """The file's integers, with 16 rows interleaved so that 16 lanes multiply 16 rows. For `torch.compile`.

    weight: int8 `[tiles, groups, group, 16]`, or uint8 `[tiles, groups, 16, 16]` with weight j of a
    group of 32 in the low and weight j + 16 in the high half of a byte. scale, offset: float16
    `[tiles, groups, 16]`; that is exact for Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, and rounds the product
    of two scales by at most 2^-11 in the K types.
    """

    def __init__(self, tensors: list[Tensor], products: torch.dtype = torch.bfloat16):
        rows, cols = sum(t.rows for t in tensors), tensors[0].cols
        self.products = products
        self.compute = coarsest({short(products), "f16" if "K" in tensors[0].type else "f32"})
        self.four_bit = tensors[0].type in FOUR_BIT
        self.group = 16 if tensors[0].type == "Q6_K" else 32
        tiles, groups = rows // LANES, cols // self.group
        shape = (tiles, groups, 16 if self.four_bit else self.group, LANES)
        self.weight = torch.empty(shape, dtype=torch.uint8 if self.four_bit else torch.int8)
        self.scale = torch.empty(tiles, groups, LANES, dtype=torch.float16)
        self.offset = None
        # Four bits are stored as 0…15, so Q4_0's q - 8 becomes an offset that follows from the
        # scale.
        self.bias = 8.0 if tensors[0].type == "Q4_0" else 0.0
        first = 0
        for tensor in tensors:
            self._fill(tensor, slice(first, first := first + tensor.rows // LANES))
        self.private_bytes = sum(t.nbytes for t in (self.weight, self.scale, self.offset) if t is not None)
        self.mapped_bytes = 0
        self.label = tensors[0].type.lower()
        self.to_dense = dense_tiles  # compiled arms replace it with the compiled form

    def _fill(self, tensor: Tensor, where: slice):
        raw = as_torch(tensor)
        step = max(1, (1 << 22) // tensor.cols // LANES) * LANES
        for first in range(0, tensor.rows, step):
            rows = raw[first : first + step]
            tiles = slice(where.start + first // LANES, where.start + first // LANES + rows.shape[0] // LANES)
            interleave = lambda t: t.view(-1, LANES, *t.shape[1:]).movedim(1, -1)
            if tensor.type == "Q4_0":  # its blocks already hold the bytes of a tile
                blocks = rows.view(rows.shape[0], -1, 18)
                self.weight[tiles] = interleave(blocks[..., 2:])
                self.scale[tiles] = interleave(blocks[..., :2].contiguous().view(torch.float16).squeeze(-1))
                continue
            part = unpack(tensor.type, rows)
            q = part.q.view(rows.shape[0], -1, part.group)
            self.weight[tiles] = interleave(q[..., :16] | (q[..., 16:] << 4) if self.four_bit else q)
            self.scale[tiles] = interleave(part.scale.to(torch.float16))
            if part.offset is not None:
                if self.offset is None:
                    self.offset = torch.empty_like(self.scale)
                self.offset[tiles] = interleave(part.offset.to(torch.float16))

    def gemv(self, x):
        """float32 `[1, cols]` to float32 `[1, rows]`; slow unless Inductor fuses it."""
        groups = materialize(x).view(-1, self.group)
        # Sums by groups first and applies the scales then: twice as fast as scaling every product.
        if self.four_bit:
            q = self.weight.to(torch.int32)
            low, high = (q & 15).to(torch.float32), (q >> 4).to(torch.float32)
            xs = groups.view(1, -1, 2, 16, 1)
            sums = (low * xs[:, :, 0] + high * xs[:, :, 1]).sum(2)
        else:
            sums = (self.weight.to(torch.float32) * groups[None, :, :, None]).sum(2)
        if self.bias:
            sums = sums - materialize(self.bias * groups.sum(-1))[None, :, None]
        y = sums * self.scale.to(torch.float32)
        if self.offset is not None:
            y = y + self.offset.to(torch.float32) * materialize(groups.sum(-1))[None, :, None]
        return y.sum(1).view(1, -1)

    def pieces(self, tiles: int) -> list["Tiles"]:
        """The same weights as equal layers of at most `tiles` tiles: no copy, one compiled function for all."""
        step, out = _step(self.weight.shape[0], tiles), []
        for first in range(0, self.weight.shape[0], step):
            piece, part = copy.copy(self), slice(first, first + step)
            piece.weight, piece.scale = self.weight[part], self.scale[part]
            piece.offset = None if self.offset is None else self.offset[part]
            out.append(piece)
        return out

    def lookup(self, ids):
        """Rows `ids` `[T]`, as float32 `[T, cols]`."""
        tile, lane = ids // LANES, ids % LANES
        q = self.weight[tile, :, :, lane]
        if self.four_bit:
            q = torch.cat((q & 15, q >> 4), dim=-1)
        w = (q.to(torch.float32) - self.bias) * self.scale[tile, :, lane].to(torch.float32).unsqueeze(-1)
        if self.offset is not None:
            w = w + self.offset[tile, :, lane].to(torch.float32).unsqueeze(-1)
        return w.flatten(1)

    def gemm(self, x):
        """`[T, cols]` to `[T, rows]` of `products`: makes some rows at a time dense in that type."""
        x, out = x.to(self.products), []
        for piece in self.pieces(PREFILL_ROWS // LANES):
            scale, offset = piece.scale.to(torch.float32), None
            if piece.offset is not None:
                offset = piece.offset.to(torch.float32)
            elif self.bias:
                offset = -self.bias * scale
            w = self.to_dense(piece.weight, scale, offset, self.products)
            out.append(F.linear(x, w.flatten(1, 2).transpose(1, 2).reshape(w.shape[0] * LANES, -1)))
        return torch.cat(out, dim=1)


def _step(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`."""
    return max(step for step in range(1, most + 1) if n % step == 0)


def materialize(x):
    """x itself, contiguous. Otherwise Inductor would compute x again wherever it is read, here once for
    every row of a matrix; a strided view makes it store x first."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def dense_tiles(weight, scale, offset, dtype):
    """Tiles to `dtype` `[tiles, groups, group, 16]`; scale and offset in float32."""
    if weight.dtype == torch.uint8:
        shifts = torch.arange(0, 8, 4, dtype=torch.int32).view(1, 1, 2, 1, 1)
        q = ((weight.to(torch.int32).unsqueeze(2) >> shifts) & 15).flatten(2, 3)
    else:
        q = weight
    w = q.to(torch.float32) * scale.unsqueeze(2)
    if offset is not None:
        w = w + offset.unsqueeze(2)
    return w.to(dtype)


class Stacked:
    """Layers that read the same input but cannot be fused, because their types differ."""

    def __init__(self, parts):
        self.parts = parts
        self.mapped_bytes = sum(p.mapped_bytes for p in parts)
        self.private_bytes = sum(p.private_bytes for p in parts)
        self.label = "+".join(dict.fromkeys(p.label for p in parts))
        self.compute = coarsest({getattr(p, "compute", "f32") for p in parts})

    def gemm(self, x):
        """`[T, cols]` to `[T, rows of all]`."""
        return torch.cat([part.gemm(x) for part in self.parts], dim=1)

    def gemv(self, x):
        """`[1, cols]` to `[1, rows of all]`."""
        return torch.cat([part.gemv(x) for part in self.parts], dim=1)


def tune_inductor() -> None:
    """Multiply-add in one instruction, without which int8 tiles take nearly twice as long."""
    import torch._inductor.config as inductor

    inductor.cpp.enable_floating_point_contract_flag = "fast"


@dataclass(frozen=True)
class Choice:
    """How weights of one type are kept and multiplied: a path of PATHS, and the type of products in prefill."""

    path: str
    products: torch.dtype | None = None


# What each path keeps; `fused` ones need a compiler. f16 is never the type of activations: LLaMA's can overflow it.
PATHS = {
    "int4pack": lambda group, choice: Int4Pack(group),
    "tiles": lambda group, choice: Tiles(group, choice.products or torch.bfloat16),
    "bf16": lambda group, choice: Dense(group, torch.bfloat16, "cpu", choice.products),
    "f16": lambda group, choice: Dense(group, torch.float16, "cpu", choice.products, fused=True),
    "f32": lambda group, choice: Dense(group, torch.float32, "cpu", choice.products, fused=True),
}


def fits(path: str, kind: str, rows: int, lookup: bool = False, compiled: bool = True) -> bool:
    """Whether a path takes weights of this type and number of rows; `lookup` for an embedding, which int4pack is not."""
    if path == "int4pack":
        return kind in FOUR_BIT and rows % 64 == 0 and not lookup
    if path == "tiles":
        return compiled and kind not in PLAIN and rows % LANES == 0
    return compiled or path == "bf16"


def make_linear(tensors: list[Tensor], dtype: torch.dtype, device: str, choose):
    """A layer for `tensors`, stacked by rows. `choose(type, rows)` gives a Choice, or None for dense weights of
    `dtype`. Fuses neighbours of one type if that costs no copy."""
    groups: list[list[Tensor]] = []
    for tensor in tensors:
        quantized = tensor.type not in PLAIN
        if groups and groups[-1][0].type == tensor.type and (quantized or device != "cpu"):
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
    parts = []
    for group in groups:
        choice = choose(group[0].type, math.gcd(*(t.rows for t in group)))
        parts.append(PATHS[choice.path](group, choice) if choice else Dense(group, dtype, device))
        if not parts[-1].mapped_bytes:
            for tensor in group:
                tensor.release()
    return parts[0] if len(parts) == 1 else Stacked(parts)
