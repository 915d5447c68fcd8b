"""The float32 model with products of another library, called through a custom operation over torch's own memory.

What such variants share: a layer's number in the operation, the check of its first rows, and the way back to torch,
whose reason a note gives.
"""

from itertools import count
from weakref import WeakValueDictionary

import numpy as np
import torch

from _shared import gguf_reader
from _shared.dequant import dequantize
from linear import PLAIN, Dense, Stacked
from model import Model

CHECKED = 64  # rows of each tensor that a product is checked by


class Product:
    """Weights, stacked by rows, that the library multiplies. A library adds `run`, `label` and the bytes that it holds."""

    mapped_bytes = private_bytes = 0
    wrong = 1e-4  # relative error beyond which torch computes the product
    tokens = (1,)  # how many the check multiplies together: one for each way that the library has
    all: WeakValueDictionary[int, "Product"] = WeakValueDictionary()  # by the number that the operation gets
    _numbers = count()

    def __init__(self, tensors: list[gguf_reader.Tensor]):
        self.tensors, self.cols, self.rows = tensors, tensors[0].cols, sum(t.rows for t in tensors)
        self.number = next(self._numbers)
        self.all[self.number] = self

    @staticmethod
    def together(first: gguf_reader.Tensor, second: gguf_reader.Tensor) -> bool:
        """Whether both can be in one layer."""
        return first.type == second.type and first.type not in PLAIN

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """float32 `[T, cols]` to `[T, rows]`, in memory of its own."""
        raise NotImplementedError

    def gemm(self, x):
        """float32 `[T, cols]` to `[T, rows]`."""
        return product(x, self.number)

    gemv = gemm

    def lookup(self, ids):
        """Rows `ids` `[T]` of an only tensor, from the file."""
        t, ids = self.tensors[0], ids.tolist()
        return torch.from_numpy(dequantize(gguf_reader.Tensor(t.name, t.type, len(ids), t.cols, t.raw[ids])))

    def error(self) -> float:
        """The largest relative error of each tensor's first rows against dequantized weights."""
        errors = []
        for tokens in self.tokens:
            x = torch.randn(tokens, self.cols, generator=torch.Generator().manual_seed(0))
            parts = self.run(x).split([t.rows for t in self.tensors], dim=1)
            for t, part in zip(self.tensors, parts):
                rows = min(t.rows, CHECKED)
                expected = x.numpy() @ dequantize(gguf_reader.Tensor(t.name, t.type, rows, t.cols, t.raw[:rows])).T
                errors.append(np.abs(part[:, :rows].numpy() - expected).max() / np.abs(expected).max())
        return float(np.max(errors))


def operation(schema: str, run, shape):
    """A custom operation on the CPU: `run` computes it, `shape` gives the result's shape alone.

    `torch.library.custom_op` would do the same, but its first call imports torch's compiler: a second of loading.
    """
    name, bracket, rest = schema.partition("(")
    torch.library.define(f"llm_bench::{name}", bracket + rest)
    torch.library.impl(f"llm_bench::{name}", "CPU", run)
    torch.library.register_fake(f"llm_bench::{name}", lambda x, *rest: x.new_empty(shape(x, *rest)))
    return getattr(torch.ops.llm_bench, name).default


product = operation(
    "product(Tensor x, int layer) -> Tensor",
    run=lambda x, layer: Product.all[layer].run(x),
    shape=lambda x, layer: (x.shape[0], Product.all[layer].rows),
)


class HybridModel(Model):
    """The float32 model over these layers."""

    library: str  # its name
    layer: type[Product]
    how: str  # what a note says about it

    def __init__(self, *args):
        self.reasons: dict[str, str | None] = {}  # by kind of product: why torch computes it
        self.kept: dict[str, int] = {}  # number of layers by reason
        super().__init__(*args)
        if not self.kept:
            torch.set_num_threads(1)  # its pool would wait for work on the processors that the library's threads need

    def _linear(self, tensors: list[gguf_reader.Tensor], lookup: bool = False):
        groups: list[list[gguf_reader.Tensor]] = []
        for tensor in tensors:
            if groups and self.layer.together(groups[-1][-1], tensor):
                groups[-1].append(tensor)
            else:
                groups.append([tensor])
        parts = [self._part(group) for group in groups]
        return parts[0] if len(parts) == 1 else Stacked(parts)

    def _part(self, group: list[gguf_reader.Tensor]):
        kind = " ".join(f"{t.type} {t.rows}x{t.cols}" for t in group)
        reason = self.reasons.get(kind)
        if reason is None:
            try:
                layer = self.layer(group)
                if kind not in self.reasons and not (error := layer.error()) < layer.wrong:
                    reason = f"{self.library}'s product has a relative error of {error:.0e}"
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error)[:200]}"
            self.reasons[kind] = reason
        return layer if reason is None else self._torchs(group, reason)

    def _torchs(self, group: list[gguf_reader.Tensor], reason: str):
        """Torch's layer for these weights."""
        self.kept[reason] = self.kept.get(reason, 0) + 1
        return Dense(group, torch.float32, "cpu")

    def notes(self) -> list[str]:
        """What the library computes, and what not."""
        kept = [f"{count} layers are torch's: {reason}." for reason, count in self.kept.items()]
        return [self.how, *kept] if kept else [f"{self.how} torch itself runs on one thread."]
