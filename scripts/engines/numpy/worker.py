"""LLaMA in plain numpy and float32: correctness before speed, and short enough to check by reading."""

from _shared import Engine, hello, serve

harness = hello("numpy")

import os

import numpy as np

from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.llama import Config
from _shared.memory import in_memory
from _shared.spans import Spans
from bert import Bert

CHUNK = 256  # positions of a prompt that run together: limits the memory for scores and logits

np.seterr(over="ignore")  # exp of a very negative gate overflows to infinity, its correct limit


class Numpy(Engine):
    """Float32 weights `[rows, cols]` and a cache `[layers, keys and values, kv_heads, n_ctx, head_dim]`."""

    @staticmethod
    def ready() -> dict:
        """OpenBLAS has read the number of threads from the harness's environment."""
        return {"versions": {"numpy": np.__version__}, "threads": int(os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count()))}

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        stages = Spans(self.sync)
        file = Gguf(path)
        self.config = c = Config.from_gguf(file)
        self.n_ctx, self.vocab, self.mapped_bytes, self.private_bytes = n_ctx, c.vocab, 0, 0
        stages.end("parse")
        self.embedding = self._weight(file.tensor("token_embd.weight"))
        self.head = self.embedding if c.tied else self._weight(file.tensor("output.weight", (c.vocab, c.dim)))
        self.output_norm = self._weight(file.tensor("output_norm.weight", (1, c.dim)))
        self.layers = [{name: self._weight(t) for name, t in c.block(file, i).items()} for i in range(c.layers)]
        self.cache = np.zeros((c.layers, 2, c.kv_heads, n_ctx, c.head_dim), np.float32)
        self.rope = c.rope(n_ctx)
        stages.end("weights")
        self.stages = stages.take()

    def _weight(self, tensor: Tensor) -> np.ndarray:
        weight = dequantize(tensor)
        if tensor.type == "F32":
            self.mapped_bytes += weight.nbytes
        else:
            self.private_bytes += weight.nbytes
            tensor.release()
        return weight

    def facts(self) -> dict:
        """Everything is float32; a decode step reads every weight except an embedding that is only looked up."""
        looked_up = 0 if self.config.tied else self.embedding.nbytes
        return {
            "precision": {"weights": "f32", "compute": "f32", "kv": "f32"},
            "weight_bytes_per_token": self.mapped_bytes + self.private_bytes - looked_up,
        }

    def memory(self) -> dict[str, int | None]:
        """Bytes held."""
        return {
            "weights_mapped_bytes": self.mapped_bytes,
            "weights_private_bytes": self.private_bytes,
            "kv_bytes": self.cache.nbytes,
            "kv_resident_bytes": in_memory(self.cache.ctypes.data, self.cache.nbytes),
        }

    def prefill(self, tokens: list[int], start: int) -> np.ndarray:
        """Logits `[vocab]` of the last position."""
        for hidden in self._forward(tokens, start):
            last = hidden[-1:]
        return self._logits(last)[0]

    def decode(self, token: int, position: int) -> np.ndarray:
        """Runs a prompt of one token."""
        return self.prefill([token], position)

    def score(self, tokens: list[int], first: int):
        """Logits of positions `first`…, some rows at a time."""
        for i, hidden in enumerate(self._forward(tokens, 0)):
            if len(wanted := hidden[max(first - i * CHUNK, 0) :]):
                yield self._logits(wanted)

    def _logits(self, x: np.ndarray) -> np.ndarray:
        return self._norm(x, self.output_norm) @ self.head.T

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + self.config.eps) * weight

    def _forward(self, tokens: list[int], start: int):
        """Yields hidden states `[positions, dim]`, chunk by chunk."""
        for first in range(0, len(tokens), CHUNK):
            chunk = tokens[first : first + CHUNK]
            yield self._chunk(chunk, start + first, start + first + len(chunk))

    def _chunk(self, tokens: list[int], start: int, end: int) -> np.ndarray:
        heads = lambda x: x.reshape(len(tokens), -1, self.config.head_dim).swapaxes(0, 1)  # [heads, positions, head_dim]
        future = np.arange(end) > np.arange(start, end)[:, None]
        x = self.embedding[tokens]
        for w, (keys, values) in zip(self.layers, self.cache):
            h = self._norm(x, w["attn_norm"])
            q = self._rotate(heads(h @ w["attn_q"].T), start)
            keys[:, start:end] = self._rotate(heads(h @ w["attn_k"].T), start)
            values[:, start:end] = heads(h @ w["attn_v"].T)
            # Neighbouring heads share a key and value head: [kv_heads, heads per kv_head,
            # positions, head_dim].
            q = q.reshape(len(keys), -1, *q.shape[1:]) * self.config.head_dim**-0.5
            scores = q @ keys[:, None, :end].swapaxes(-1, -2)
            scores[..., future] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            attended = (scores @ values[:, None, :end]).reshape(-1, *q.shape[2:])
            x = x + attended.swapaxes(0, 1).reshape(len(tokens), -1) @ w["attn_output"].T
            h = self._norm(x, w["ffn_norm"])
            gate = h @ w["ffn_gate"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
        return x

    def _rotate(self, x: np.ndarray, start: int) -> np.ndarray:
        """Rotates the pairs (2i, 2i + 1) of each head, the row order of a GGUF."""
        cos, sin = self.rope[start : start + x.shape[1]].swapaxes(0, 1)
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out


serve(harness, Numpy, Bert)
