"""PyTorch with quantized products that tinygrad compiles: a custom operation over the memory of torch's tensors.

Everything else is the eager float32 model. A layer that tinygrad cannot multiply, or multiplies wrongly, stays torch's,
and a note says which and why.
"""

import time

import numpy as np
import torch
from tinygrad import Device, Tensor, TinyJit, dtypes

from _shared import gguf_reader
from _shared.dequant import dequantize
from _shared.tinygrad_compiler import use_ziglang
from _shared.tinygrad_tiles import Tiles, sums_of
from linear import PLAIN, Dense, Stacked
from model import Model

CHUNK = 16  # positions of a prompt that run together; the last ones are padded
WRONG = 1e-4  # relative error of a product beyond which torch computes it
LAYERS: list["Tiny"] = []  # by the number that the operation gets

use_ziglang()


class Tiny:
    """Quantized weights, stacked by rows, with their inputs and outputs in tensors of torch that both libraries see."""

    mapped_bytes, compile_ns = 0, 0

    def __init__(self, tensors: list[gguf_reader.Tensor]):
        self.first, self.tiles, self.graphs = tensors[0], Tiles(tensors), {}
        self.cols, self.rows = self.tiles.cols, sum(self.tiles.rows)
        self.private_bytes, self.label = self.tiles.nbytes, self.tiles.label
        self.number = len(LAYERS)
        LAYERS.append(self)

    def _graph(self, positions: int):
        """Input, output and the function that computes one from the other, made at its first use."""
        if positions not in self.graphs:
            x = torch.zeros(positions, self.cols)
            out = torch.zeros(self.rows // self.tiles.lanes, positions, self.tiles.lanes)
            wrap = lambda t: Tensor.from_blob(t.data_ptr(), tuple(t.shape), dtype=dtypes.float, device="CPU")
            there, result = wrap(x), wrap(out)
            run = TinyJit(lambda: self.tiles.into(result, there, sums_of(there) if self.tiles.sums else None).realize())
            run.cnt = 1  # everything that it reads exists, so TinyJit need not run it once without capturing it
            begin = time.monotonic_ns()
            run()
            Tiny.compile_ns += time.monotonic_ns() - begin
            self.graphs[positions] = x, out, run
        return self.graphs[positions]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """float32 `[T, cols]` to `[T, rows]`."""
        done = []
        for part in x.split(CHUNK):
            given, out, run = self._graph(1 if len(part) == 1 else CHUNK)
            given[: len(part)] = part
            run()
            Device["CPU"].synchronize()  # tinygrad's thread writes the output
            done.append(out.transpose(0, 1).reshape(-1, self.rows)[: len(part)])
            if len(part) < len(x):
                done[-1] = done[-1].clone()
        return torch.cat(done)  # a copy: the next product writes into the same memory

    def gemm(self, x):
        """float32 `[T, cols]` to `[T, rows]`."""
        return product(x, self.number)

    gemv = gemm

    def lookup(self, ids):
        """Rows `ids` `[T]` of an only tensor, from the file."""
        t, ids = self.first, ids.tolist()
        return torch.from_numpy(dequantize(gguf_reader.Tensor(t.name, t.type, len(ids), t.cols, t.raw[ids])))

    def error(self) -> float:
        """The relative error of the first rows of a product."""
        t, rows = self.first, min(self.first.rows, 64)
        x = torch.randn(1, self.cols, generator=torch.Generator().manual_seed(0))
        expected = x.numpy() @ dequantize(gguf_reader.Tensor(t.name, t.type, rows, t.cols, t.raw[:rows])).T
        return float(np.abs(self.run(x).numpy()[:, :rows] - expected).max() / np.abs(expected).max())


@torch.library.custom_op("llm_bench::tinygrad_product", mutates_args=())
def product(x: torch.Tensor, layer: int) -> torch.Tensor:
    """A product of a `Tiny` layer."""
    return LAYERS[layer].run(x)


@product.register_fake
def _(x, layer):
    return x.new_empty(x.shape[0], LAYERS[layer].rows)


class TinyModel(Model):
    """The float32 model over these layers."""

    def __init__(self, *args):
        self.reasons: dict[str, str | None] = {}  # by kind of product: why torch computes it
        self.kept: dict[str, int] = {}  # number of layers by reason
        self._before = Tiny.compile_ns
        super().__init__(*args)
        if not self.kept:
            torch.set_num_threads(1)  # its pool would wait for work on the processors that tinygrad's threads need

    @property
    def compile_ns(self) -> int:
        """tinygrad's part; there is no other."""
        return Tiny.compile_ns - self._before

    @compile_ns.setter
    def compile_ns(self, _):
        pass

    def _linear(self, tensors: list[gguf_reader.Tensor], lookup: bool = False):
        groups: list[list[gguf_reader.Tensor]] = []
        for tensor in tensors:
            if groups and groups[-1][0].type == tensor.type and tensor.type not in PLAIN:
                groups[-1].append(tensor)
            else:
                groups.append([tensor])
        parts = [self._part(group) for group in groups]
        return parts[0] if len(parts) == 1 else Stacked(parts)

    def _part(self, group: list[gguf_reader.Tensor]):
        kind = f"{group[0].type} {sum(t.rows for t in group)}x{group[0].cols}"
        layer, reason = None, "float weights are torch's" if group[0].type in PLAIN else self.reasons.get(kind)
        if reason is None:
            try:
                layer = Tiny(group)
                if kind not in self.reasons and not (error := layer.error()) < WRONG:
                    reason = f"tinygrad's product has a relative error of {error:.0e}"
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error)[:200]}"
            self.reasons[kind] = reason
        if reason is None:
            return layer
        self.kept[reason] = self.kept.get(reason, 0) + 1
        return Dense(group, torch.float32, "cpu")

    def notes(self) -> list[str]:
        """What tinygrad computes, and what not."""
        kept = [f"{count} layers are torch's: {reason}." for reason, count in self.kept.items()]
        how = "Products of quantized weights are compiled by tinygrad and called through a custom operation."
        return [how, *kept] if kept else [f"{how} torch itself runs on one thread."]
