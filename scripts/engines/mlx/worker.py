"""LLaMA on MLX: our GGUF reader, MLX's fused norm, rotation and attention, a preallocated KV cache."""

from _shared import Engine, MissingDependency, hello, serve

harness = hello("mlx")

import os

import mlx.core as mx
import numpy as np

from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.llama import Config
from _shared.memory import in_memory
from _shared.spans import Spans
from bert import Bert
from linear import BLOCK, Linear

CHUNK = 256  # positions of a prompt that run together: limits the memory for scores and logits


class Mlx(Engine):
    """Keys and values of a layer are `[1, kv_heads, n_ctx, head_dim]` each."""

    devices = ("cpu", "metal")
    options = {"packed": False}

    @staticmethod
    def ready() -> dict:
        """A stream is a thread; there are as many as the harness allows."""
        return {"versions": {"mlx": mx.__version__}, "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))}

    @staticmethod
    def prepare(threads: int, options: dict) -> bool:
        """Makes the streams. The default one is the first."""
        Mlx.streams = [mx.default_stream(mx.cpu), *(mx.new_stream(mx.cpu) for _ in range(threads - 1))]
        return False

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        self.metal = device != "cpu"
        if self.metal and not mx.metal.is_available():
            raise MissingDependency(f"device '{device}': this MLX has no Metal; use --device cpu")
        mx.set_default_device(mx.gpu if self.metal else mx.cpu)
        streams = [mx.default_stream(mx.gpu)] if self.metal else self.streams
        self.packed, self.dtype = options["packed"] or self.metal, mx.float16 if self.metal else mx.float32
        stages = Spans(self.sync)
        file = Gguf(path)
        self.config = c = Config.from_gguf(file)
        self.n_ctx, self.vocab = n_ctx, c.vocab
        stages.end("parse")
        block = 1 << 30 if self.metal else BLOCK
        make = lambda *tensors: Linear(list(tensors), self.packed, self.dtype, streams, block, len(self.streams))
        self.embedding = file.tensor("token_embd.weight")
        self.head = make(self.embedding if c.tied else file.tensor("output.weight", (c.vocab, c.dim)))
        self.output_norm = self._vector(file.tensor("output_norm.weight", (1, c.dim)))
        self.layers, self.cache = [], []
        for i in range(c.layers):
            t = c.block(file, i)
            qkv, gate_up = make(t["attn_q"], t["attn_k"], t["attn_v"]), make(t["ffn_gate"], t["ffn_up"])
            norms = self._vector(t["attn_norm"]), self._vector(t["ffn_norm"])
            self.layers.append((*norms, qkv, make(t["attn_output"]), gate_up, make(t["ffn_down"])))
            self.cache.append([mx.zeros((1, c.kv_heads, n_ctx, c.head_dim), self.dtype) for _ in range(2)])
        # MLX takes the inverse of frequencies.
        self.periods = mx.array((1 / c.inv_freq).astype(np.float32))
        mx.eval(self.cache, self.periods)
        stages.end("weights")
        self.stages = stages.take()

    def _vector(self, tensor: Tensor) -> mx.array:
        return mx.array(dequantize(tensor)[0]).astype(self.dtype)

    def _linears(self) -> list[Linear]:
        return [self.head, *(linear for layer in self.layers for linear in layer[2:])]

    def facts(self) -> dict:
        """The embedding is only looked up, in the file."""
        labels, held = dict.fromkeys(label for linear in self._linears() for label in linear.labels), self._weights()
        name = "f16" if self.metal else "f32"
        how = ["MLX's CPU backend is unoptimized on Linux: a plain BLAS, one thread a stream. Layers are split among streams."]
        if self.metal:
            how = ["The Metal device of this engine is unverified."]
        elif not self.packed:
            how.append("Weights are f32, transposed: twice as fast here as mx.quantized_matmul over the file's integers.")
        dense = [label for label in labels if label == name]
        if self.packed and dense and len(labels) > 1:
            how.append(f"Types whose groups MLX lacks are {name}.")
        return {
            "precision": {"weights": "+".join(labels), "compute": name, "kv": name},
            "weight_bytes_per_token": held,
            "settings": {"streams": len(self.streams), "compile": False},
            "notes": how,
        }

    def _weights(self) -> int:
        norms = (norm for layer in self.layers for norm in layer[:2])
        return sum(linear.nbytes for linear in self._linears()) + sum(norm.nbytes for norm in norms) + self.output_norm.nbytes

    def memory(self) -> dict[str, int | None]:
        """Bytes held: MLX keeps freed buffers for reuse, and those count as activations."""
        caches = [array for pair in self.cache for array in pair]
        kv, weights = sum(array.nbytes for array in caches), self._weights()
        return {
            "weights_mapped_bytes": self.embedding.raw.nbytes,
            "weights_private_bytes": weights,
            "kv_bytes": kv,
            "kv_resident_bytes": None if self.metal else sum(in_memory(np.asarray(a).ctypes.data, a.nbytes) for a in caches),
            "activation_bytes": max(mx.get_active_memory() + mx.get_cache_memory() - weights - kv, 0),
        }

    def prefill(self, tokens: list[int], start: int) -> mx.array:
        """Logits `[1, vocab]` of the last position."""
        for hidden in self._forward(tokens, start):
            mx.eval(hidden)
        logits = self._logits(hidden[-1:])
        mx.eval(logits)
        return logits

    def decode(self, token: int, position: int) -> mx.array:
        """Logits `[1, vocab]`, computed when they are read."""
        return self._logits(self._chunk([token], position))

    def pick(self, logits: mx.array) -> int:
        """The first of the largest."""
        return mx.argmax(logits).item()

    def row(self, logits: mx.array) -> np.ndarray:
        """The logits on the host."""
        return np.array(logits[0].astype(mx.float32))

    def sync(self) -> None:
        """Waits for every stream."""
        mx.synchronize()

    def score(self, tokens: list[int], first: int):
        """Logits of positions `first`…, some rows at a time."""
        for i, hidden in enumerate(self._forward(tokens, 0)):
            if (wanted := hidden[max(first - i * CHUNK, 0) :]).shape[0]:
                yield np.array(self._logits(wanted).astype(mx.float32))

    def _logits(self, x: mx.array) -> mx.array:
        return self.head(mx.fast.rms_norm(x, self.output_norm, self.config.eps))

    def _forward(self, tokens: list[int], start: int):
        """Yields hidden states `[positions, dim]`, chunk by chunk."""
        for first in range(0, len(tokens), CHUNK):
            yield self._chunk(tokens[first : first + CHUNK], start + first)

    def _chunk(self, tokens: list[int], start: int) -> mx.array:
        c, t, end = self.config, self.embedding, start + len(tokens)
        x = mx.array(dequantize(Tensor(t.name, t.type, len(tokens), t.cols, t.raw[tokens]))).astype(self.dtype)
        heads = [c.heads, c.heads + c.kv_heads]
        for cache, (attn_norm, ffn_norm, qkv, attn_output, gate_up, down) in zip(self.cache, self.layers):
            h = qkv(mx.fast.rms_norm(x, attn_norm, c.eps))
            q, k, v = mx.split(h.reshape(1, len(tokens), -1, c.head_dim).swapaxes(1, 2), heads, axis=1)
            for i, new in enumerate((self._rotate(k, start), v)):
                cache[i][:, :, start:end] = new
            keys, values = (a[:, :, :end] for a in cache)
            q, mask = self._rotate(q, start), None if len(tokens) == 1 else "causal"
            h = mx.fast.scaled_dot_product_attention(q, keys, values, scale=c.head_dim**-0.5, mask=mask)
            x = x + attn_output(h.swapaxes(1, 2).reshape(len(tokens), -1))
            gate, up = mx.split(gate_up(mx.fast.rms_norm(x, ffn_norm, c.eps)), 2, axis=-1)
            x = x + down(gate * mx.sigmoid(gate) * up)
        return x

    def _rotate(self, x: mx.array, start: int) -> mx.array:
        """Rotates the pairs (2i, 2i + 1) of each head, the row order of a GGUF."""
        return mx.fast.rope(x, self.config.head_dim, traditional=True, base=None, scale=1.0, offset=start, freqs=self.periods)


serve(harness, Mlx, Bert)
