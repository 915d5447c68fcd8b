"""PyTorch with the products and the attention of candle's own kernels, in the frame of hybrid.py.

The kernels are the C library of crates/candle-abi. They read the weights in the file's map, and read and write torch's
memory. A layer that they cannot multiply, or multiply wrongly, stays torch's, and so does attention.
"""

from types import SimpleNamespace
from weakref import finalize

import torch

from _shared import gguf_reader
from abi import Weights, kernels
from hybrid import HybridModel, Product, operation
from linear import coarsest

SPAN = 16  # positions whose keys the cache interleaves
FLOAT, ROUNDED = 1e-4, 0.05  # relative errors of a product, or of attention, beyond which it is wrong
TYPES = {name: number for number, (name, *_) in gguf_reader.TYPES.items()}


class Mapped(Product):
    """Weights of any types, used where the file is mapped."""

    tokens = (1, 16)

    def __init__(self, tensors: list[gguf_reader.Tensor]):
        super().__init__(tensors)
        parts = [Weights(TYPES[t.type], t.rows, t.cols, t.raw.ctypes.data, t.raw.nbytes) for t in tensors]
        self.handle = kernels().done(kernels().layer_new((Weights * len(parts))(*parts), len(parts)))
        finalize(self, kernels().layer_free, self.handle)
        self.mapped_bytes = sum(t.raw.nbytes for t in tensors)
        self.label = "+".join(dict.fromkeys(t.type.lower() for t in tensors))
        self.computes = ["int8" if kernels().rounds(kernels().handle, TYPES[t.type]) else "f32" for t in tensors]
        self.compute = coarsest(self.computes)
        self.wrong = ROUNDED if self.compute == "int8" or kernels().note else FLOAT

    @staticmethod
    def together(first, second) -> bool:
        return True

    def run(self, x: torch.Tensor) -> torch.Tensor:
        x, out = x.float().contiguous(), torch.empty(x.shape[0], self.rows)
        given, made = (x.data_ptr(), x.numel()), (out.data_ptr(), out.numel())
        kernels().done(kernels().multiply(kernels().handle, self.handle, *given, *made))
        return out


def attend(qkv, keys, values, rope, heads: int, first: int) -> torch.Tensor:
    """Rotates, stores and attends: float32 `[T, rows of q, k and v]` at positions `first`… to `[T, heads * head_dim]`.

    The cache is float16 `[kv_heads, positions, head_dim]`, though the kernels lay out keys in another way.
    """
    kv_heads, _, dim = keys.shape
    qkv, rope, out = qkv.contiguous(), rope.contiguous(), torch.empty(qkv.shape[0], heads * dim)
    if keys.shape != values.shape or not keys.dtype == values.dtype == torch.half or not qkv.dtype == rope.dtype == torch.float:
        raise TypeError("expected keys and values of one shape in float16, and float32")
    cache = (keys.data_ptr(), values.data_ptr(), keys.numel())
    rest = (argument for t in (qkv, rope, out) for argument in (t.data_ptr(), t.numel()))
    kernels().done(kernels().attend(kernels().handle, heads, kv_heads, dim, *cache, first, *rest))
    return out


attention = operation(
    "attention(Tensor(a!) qkv, Tensor(b!) keys, Tensor(c!) values, Tensor rope, int heads, int first) -> Tensor",
    run=attend,
    shape=lambda qkv, keys, values, rope, heads, first: (qkv.shape[0], heads * keys.shape[2]),
)


class CandleModel(HybridModel):
    """The model over candle's kernels."""

    library, layer = "candle", Mapped
    how = (
        "Products and attention are candle's kernels, called through custom operations over torch's memory. Weights are "
        "used from the mapped file, without a copy."
    )

    def __init__(self, *args):
        kernels()
        super().__init__(*args)

    def _types(self, _file):
        error = self._attention_error()
        if not error < ROUNDED:
            self.kept[f"candle's attention has a relative error of {error:.0e}"] = self.config.layers
        self.attends = error < ROUNDED
        return torch.float32, torch.float16 if self.attends else torch.float32

    def _cache(self):
        c, positions = self.config, -(-self.n_ctx // SPAN) * SPAN if self.attends else self.n_ctx
        return torch.zeros(c.kv_heads, positions, c.head_dim, dtype=self.kv_dtype)

    def _attention_error(self, tokens: int = 20) -> float:
        """The relative error of attention against torch's."""
        c, rope = self.config, torch.from_numpy(self.config.rope(tokens))
        qkv = torch.randn(tokens, (c.heads + 2 * c.kv_heads) * c.head_dim, generator=torch.Generator().manual_seed(0))
        keys, values, *torchs = (torch.zeros(c.kv_heads, 2 * SPAN, c.head_dim, dtype=t) for t in (torch.half, torch.half, None, None))
        expected = super()._attention(qkv, SimpleNamespace(k_cache=torchs[0], v_cache=torchs[1]), rope, 0, None)
        return float((attention(qkv, keys, values, rope, c.heads, 0) - expected).abs().max() / expected.abs().max())

    def _attention(self, qkv, layer, rope, start, seen):
        if not self.attends:
            return super()._attention(qkv, layer, rope, start, seen)
        return attention(qkv, layer.k_cache, layer.v_cache, rope, self.config.heads, start)

    def _attention_step(self, qkv, layer, rope, position):
        if not self.attends:
            return super()._attention_step(qkv, layer, rope, position)
        return attention(qkv, layer.k_cache, layer.v_cache, rope, self.config.heads, int(position))

    def facts(self) -> dict:
        facts = super().facts()
        parts = [part for w in self.weights() for part in getattr(w, "parts", [w])]
        compute = dict.fromkeys(name for part in parts for name in getattr(part, "computes", ["f32"]))
        facts["precision"]["compute"] = "+".join(compute)
        facts["settings"]["kernels"] += f" {kernels().isa}"
        return facts

    def notes(self) -> list[str]:
        """What the kernels compute, and what not."""
        return super().notes() + ([kernels().note] if kernels().note else [])
