"""PyTorch with quantized products that tinygrad compiles, in the frame of hybrid.py."""

import time

import torch
from tinygrad import Device, Tensor, TinyJit, dtypes

from _shared import gguf_reader
from _shared.tinygrad_compiler import use_ziglang
from _shared.tinygrad_tiles import Tiles, sums_of
from hybrid import HybridModel, Product
from linear import PLAIN

CHUNK = 16  # positions of a prompt that run together; the last ones are padded

use_ziglang()


class Tiny(Product):
    """Quantized weights, with their inputs and outputs in tensors of torch that both libraries see."""

    compile_ns = 0

    def __init__(self, tensors: list[gguf_reader.Tensor]):
        super().__init__(tensors)
        self.tiles, self.graphs = Tiles(tensors), {}
        self.private_bytes, self.label = self.tiles.nbytes, self.tiles.label

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


class TinyModel(HybridModel):
    """The model over tinygrad's layers."""

    library, layer = "tinygrad", Tiny
    how = "Products of quantized weights are compiled by tinygrad and called through a custom operation."

    def __init__(self, *args):
        self._before = Tiny.compile_ns
        super().__init__(*args)

    @property
    def compile_ns(self) -> int:
        """tinygrad's part; there is no other."""
        return Tiny.compile_ns - self._before

    @compile_ns.setter
    def compile_ns(self, _):
        pass

    def _part(self, group: list[gguf_reader.Tensor]):
        return self._torchs(group, "float weights are torch's") if group[0].type in PLAIN else super()._part(group)
