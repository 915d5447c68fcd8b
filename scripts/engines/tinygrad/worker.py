"""LLaMA on tinygrad: our GGUF reader, products over the file's integers, TinyJit with a symbolic position."""

from _shared import Engine, hello, serve

harness = hello("tinygrad")

import sys
import time
from importlib.metadata import version

import numpy as np
from tinygrad import Tensor, TinyJit, UOp
from tinygrad.helpers import GlobalCounters

from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf
from _shared.gguf_reader import Tensor as Stored
from _shared.llama import Config
from _shared.memory import in_memory
from _shared.spans import Spans
from _shared.tinygrad_compiler import use_ziglang
from _shared.tinygrad_tiles import THREADS, layers_of, sums_of, tensor_of
from attention import LANES, attend

CHUNK = 16  # positions of a prompt that run together; the last ones are padded
FEW = 3  # this many positions are faster one by one than padded

ZIGLANG = use_ziglang()
sys.setrecursionlimit(20_000)  # the graph of a whole model is deep


class Tinygrad(Engine):
    """Keys of a layer are `[kv_heads, blocks, head_dim, 16]`, values `[kv_heads, 16 * blocks, head_dim]`: a padded chunk may
    end beyond n_ctx."""

    @staticmethod
    def ready() -> dict:
        """tinygrad has read the number of threads from the harness's environment."""
        return {"versions": {"tinygrad": version("tinygrad"), "ziglang": ZIGLANG}, "threads": THREADS}

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        stages = Spans(self.sync)
        file = Gguf(path)
        self.config = c = Config.from_gguf(file)
        self.n_ctx, self.vocab, self.compile_ns = n_ctx, c.vocab, 0
        stages.end("parse")
        vector = lambda tensor: tensor_of(dequantize(tensor)[0].copy())
        self.embedding = file.tensor("token_embd.weight")
        self.head = layers_of([self.embedding if c.tied else file.tensor("output.weight", (c.vocab, c.dim))])
        self.output_norm = vector(file.tensor("output_norm.weight", (1, c.dim)))
        self.layers, self.caches, blocks = [], [], -(-(n_ctx + CHUNK) // LANES)
        shapes = (c.kv_heads, blocks, c.head_dim, LANES), (c.kv_heads, blocks * LANES, c.head_dim)
        stacks = [["attn_q", "attn_k", "attn_v"], ["attn_output"], ["ffn_gate", "ffn_up"], ["ffn_down"]]
        for i in range(c.layers):
            t = c.block(file, i)
            products = [layers_of([t[name] for name in stack]) for stack in stacks]
            self.layers.append((vector(t["attn_norm"]), vector(t["ffn_norm"]), *products))
            self.caches += [np.zeros(shape, np.float32) for shape in shapes]
        self.kv = [tensor_of(cache) for cache in self.caches]
        self.rope = tensor_of(c.rope(n_ctx + CHUNK))
        self.position = UOp.variable("position", 0, n_ctx)
        # A graph reads its input from the same memory each time.
        self.rows = {n: np.zeros((n, c.dim), np.float32) for n in (1, CHUNK)}
        self.inputs = {n: tensor_of(rows) for n, rows in self.rows.items()}
        self.jits = {(n, f): TinyJit(f) for n in (1, CHUNK) for f in (self._logits, self._hidden, self._step)}
        for jit in self.jits.values():
            jit.cnt = 1  # everything that a graph reads exists, so TinyJit need not run it once without capturing it
        stages.end("weights")
        self.stages = stages.take()

    def _products(self):
        return [product for stack in (self.head, *(s for layer in self.layers for s in layer[2:])) for product in stack]

    def facts(self) -> dict:
        """A decode step reads every weight but those of an embedding, which is looked up in the file."""
        labels = dict.fromkeys(product.label for product in self._products())
        return {
            "precision": {"weights": "+".join(labels), "compute": "f32", "kv": "f32"},
            "weight_bytes_per_token": sum(product.nbytes for product in self._products()),
            "settings": {"beam": 0, "chunk": CHUNK},
            "notes": [
                "Kernels of the products are written in tinygrad's UOps, with 16 rows side by side.",
                "Most of a cold start is tinygrad's scheduling in Python, which its compile cache does not keep.",
            ],
        }

    def memory(self) -> dict[str, int | None]:
        """Bytes held."""
        return {
            "weights_mapped_bytes": self.embedding.raw.nbytes,
            "weights_private_bytes": sum(product.nbytes for product in self._products()),
            "kv_bytes": sum(cache.nbytes for cache in self.caches),
            "kv_resident_bytes": sum(in_memory(cache.ctypes.data, cache.nbytes) for cache in self.caches),
            "activation_bytes": GlobalCounters.mem_used,  # tinygrad counts what it allocated itself
        }

    def prefill(self, tokens: list[int], start: int) -> np.ndarray:
        """Logits `[vocab]` of the last position."""
        for n, hidden in self._forward(tokens, start):
            last = hidden[n - 1 : n]
        return self._run(self._logits, last)[0]

    def fill(self, tokens: list[int]) -> None:
        """Fills the cache and computes no logits."""
        for _ in self._forward(tokens, 0):
            pass

    def decode(self, token: int, position: int) -> np.ndarray:
        """Logits `[vocab]`."""
        return self._run(self._step, self._embed([token]), position)[0]

    def score(self, tokens: list[int], first: int):
        """Logits of positions `first`…, some rows at a time."""
        for n, hidden in self._forward(tokens, 0):
            wanted, first = first, max(first - n, 0)
            if wanted < n:
                yield self._run(self._logits, hidden)[wanted:n]

    def _forward(self, tokens: list[int], start: int):
        """Yields a number of positions and their hidden states, chunk by chunk; states beyond that number are padding."""
        while tokens:
            n = min(len(tokens), CHUNK) if len(tokens) > FEW else 1
            yield n, self._run(self._hidden, self._embed(tokens[:n]), start)
            tokens, start = tokens[n:], start + n

    def _embed(self, tokens: list[int]) -> np.ndarray:
        """Their rows of the embedding."""
        t = self.embedding
        return dequantize(Stored(t.name, t.type, len(tokens), t.cols, t.raw[tokens]))

    def _run(self, function, rows: np.ndarray, position: int | None = None) -> np.ndarray:
        """Runs a graph on `rows`, padded to a size that is compiled."""
        n = 1 if len(rows) == 1 else CHUNK
        self.rows[n][: len(rows)] = rows
        jit, begin = self.jits[n, function], time.monotonic_ns()
        new = jit.captured is None
        out = jit(self.inputs[n], *([] if position is None else [self.position.bind(position)])).numpy()
        if new:
            self.compile_ns += time.monotonic_ns() - begin
        return out

    def _step(self, x: Tensor, position: UOp) -> Tensor:
        return self._logits(self._hidden(x, position))

    def _logits(self, x: Tensor) -> Tensor:
        return self._apply(self.head, self._norm(x, self.output_norm))[0].contiguous().realize()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + self.config.eps).rsqrt()
        return (x * scale * weight).contiguous()

    @staticmethod
    def _apply(products, x: Tensor, residual: Tensor | None = None) -> list[Tensor]:
        """The outputs of products that read the same input."""
        sums = sums_of(x) if any(p.sums for p in products) else None
        return [out for product in products for out in product(x, sums, residual)]

    def _hidden(self, x: Tensor, position: UOp) -> Tensor:
        """Hidden states `[positions, dim]` from embeddings."""
        for layer, keys, values in zip(self.layers, self.kv[::2], self.kv[1::2]):
            x = self._block(layer, keys, values, x, position).realize()  # by layers: tinygrad then finds the first one's schedule again
        return x

    def _block(self, layer: tuple, keys: Tensor, values: Tensor, x: Tensor, position: UOp) -> Tensor:
        """One layer."""
        attn_norm, ffn_norm, qkv, attn_output, gate_up, down = layer
        c, n, end = self.config, x.shape[0], position + x.shape[0]
        rope = self.rope[position:end]
        q, k, v = (a.reshape(n, -1, c.head_dim) for a in self._apply(qkv, self._norm(x, attn_norm)))
        by_position = keys.permute(0, 1, 3, 2).reshape(values.shape)
        keys = self._keep(keys, by_position[:, position:end], self._rotate(k, rope))
        values = self._keep(values, values[:, position:end], v)
        q = (self._rotate(q, rope) * c.head_dim**-0.5).transpose(0, 1).reshape(c.kv_heads, -1, c.head_dim)
        y = attend(q, keys, values, position, n).reshape(c.heads, n, c.head_dim).transpose(0, 1)
        x = self._apply(attn_output, y.reshape(n, -1).contiguous(), x)[0].contiguous()
        gate, up = self._apply(gate_up, self._norm(x, ffn_norm))
        return self._apply(down, (gate.silu() * up).contiguous(), x)[0].contiguous()

    @staticmethod
    def _keep(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
        """The cache after `new` `[positions, kv_heads, head_dim]` is stored in a part of it."""
        return Tensor(cache.uop.after(place.uop.store(new.transpose(0, 1).uop)))

    @staticmethod
    def _rotate(x: Tensor, rope: Tensor) -> Tensor:
        """Rotates pairs (2i, 2i + 1) of `[positions, heads, head_dim]`, the row order of a GGUF."""
        pairs = x.reshape(*x.shape[:2], -1, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        cos, sin = rope[:, 0].reshape(x.shape[0], 1, -1), rope[:, 1].reshape(x.shape[0], 1, -1)
        return Tensor.stack(a * cos - b * sin, a * sin + b * cos, dim=-1).reshape(*x.shape)


serve(harness, Tinygrad)
