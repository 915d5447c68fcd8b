"""BERT on MLX: the layers of linear.py with their biases, MLX's fused norm and attention."""

import math

import mlx.core as mx
import numpy as np

from _shared import Encoder, MissingDependency
from _shared.bert import BertConfig, normalized, padded
from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.spans import Spans
from linear import BLOCK, Linear


class Bert(Encoder):
    """float32 on the CPU, float16 on Metal."""

    devices = ("cpu", "metal")
    options = {"packed": False}

    @classmethod
    def prepare(cls, threads: int, options: dict) -> bool:
        """Makes the streams. The default one is the first."""
        cls.streams = [mx.default_stream(mx.cpu), *(mx.new_stream(mx.cpu) for _ in range(threads - 1))]
        return False

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        self.metal = device != "cpu"
        if self.metal and not mx.metal.is_available():
            raise MissingDependency(f"device '{device}': this MLX has no Metal; use --device cpu")
        mx.set_default_device(mx.gpu if self.metal else mx.cpu)
        self.dtype = mx.float16 if self.metal else mx.float32
        streams = [mx.default_stream(mx.gpu)] if self.metal else self.streams
        stages = Spans(mx.synchronize)
        file = Gguf(path)
        self.config = c = BertConfig.from_gguf(file)
        self.n_ctx, self.vocab = min(n_ctx, c.context), c.vocab
        stages.end("parse")
        packed, block = options["packed"] or self.metal, 1 << 30 if self.metal else BLOCK
        make = lambda *tensors: Linear(list(tensors), packed, self.dtype, streams, block, len(self.streams))
        vector = lambda *tensors: mx.array(np.concatenate([dequantize(t)[0] for t in tensors])).astype(self.dtype)
        linear = lambda t, *names: (make(*(t[n] for n in names)), vector(*(t[f"{n}.bias"] for n in names)))
        norm = lambda t, name: (vector(t[name]), vector(t[f"{name}.bias"]))
        found, t = c.embeddings(file), c.classifier(file)
        self.tokens, self.first = found["token_embd"], c.first(file, self.n_ctx)
        self.norm = norm(found, "token_embd_norm")
        self.classifier = [linear(t, name) for name in ("cls", "cls.output")] if t else []
        self.layers = []
        for t in (c.block(file, i) for i in range(c.layers)):
            attention = linear(t, "attn_q", "attn_k", "attn_v"), linear(t, "attn_output"), norm(t, "attn_output_norm")
            self.layers.append((*attention, linear(t, "ffn_up"), linear(t, "ffn_down"), norm(t, "layer_output_norm")))
        stages.end("weights")
        self.stages = stages.take()

    def _linears(self) -> list[Linear]:
        return [part[0] for layer in (*self.layers, self.classifier) for part in layer if isinstance(part[0], Linear)]

    def facts(self) -> dict:
        """Types of the weights, as they are held."""
        name = "f16" if self.metal else "f32"
        labels = dict.fromkeys(label for linear in self._linears() for label in linear.labels)
        how = ["MLX's CPU backend is unoptimized on Linux: a plain BLAS, one thread a stream. Layers are split among streams."]
        return {
            "precision": {"weights": "+".join(labels), "compute": name, "kv": "none"},
            "settings": {"streams": len(self.streams), "compile": False},
            "notes": ["The Metal device of this engine is unverified."] if self.metal else how,
        }

    def memory(self) -> dict[str, int | None]:
        """Bytes held. Rows of the embedding are read from the file."""
        return {
            "weights_mapped_bytes": self.tokens.raw.nbytes,
            "weights_private_bytes": sum(linear.nbytes for linear in self._linears()) + self.first.nbytes,
        }

    def _layer_norm(self, x: mx.array, norm: tuple) -> mx.array:
        return mx.fast.layer_norm(x, *norm, self.config.eps)

    def _states(self, batch):
        """Yields the hidden states `[texts * tokens, dim]` behind the embeddings and behind each layer."""
        c, t, (rows, length) = self.config, self.tokens, batch.ids.shape
        raw = t.raw[batch.ids.ravel()]
        x = dequantize(Tensor(t.name, t.type, len(raw), t.cols, raw)).reshape(rows, length, -1) + self.first[:length]
        x = self._layer_norm(mx.array(x.reshape(-1, c.dim)).astype(self.dtype), self.norm)
        yield x
        mask = None if batch.even else mx.array(np.where(batch.real, 0, -1e9)[:, None, None]).astype(self.dtype)
        apply = lambda linear, x: linear[0](x) + linear[1]
        for qkv, out, out_norm, up, down, norm in self.layers:
            parts = apply(qkv, x).reshape(rows, length, 3 * c.heads, c.head_dim).swapaxes(1, 2)
            q, k, v = mx.split(parts, 3, axis=1)
            y = mx.fast.scaled_dot_product_attention(q, k, v, scale=c.head_dim**-0.5, mask=mask)
            x = self._layer_norm(x + apply(out, y.swapaxes(1, 2).reshape(-1, c.dim)), out_norm)
            h = apply(up, x)
            h = h * (1 + mx.erf(h * math.sqrt(0.5))) * 0.5
            x = self._layer_norm(x + apply(down, h), norm)
            yield x

    def encode(self, texts: list[list[int]]) -> np.ndarray:
        """The texts side by side."""
        batch = padded(texts)
        for x in self._states(batch):
            last = x
        pool = mx.array(batch.pool(self.config.pooling)).astype(self.dtype)[:, None]
        y = (pool @ last.reshape(*batch.ids.shape, -1))[:, 0]
        if self.classifier:
            (inner, inner_bias), (outer, outer_bias) = self.classifier
            y = inner(y) + inner_bias
            y = outer(mx.tanh(y) if self.config.activation == "tanh" else mx.maximum(y, 0)) + outer_bias
        vectors = np.array(y.astype(mx.float32))
        return vectors if self.classifier else normalized(vectors)

    def hidden(self, texts: list[list[int]]) -> np.ndarray:
        """The states of the tokens, without those of padding."""
        batch = padded(texts)
        states = [np.array(x.astype(mx.float32)) for x in self._states(batch)]
        return np.stack(states)[:, batch.real.ravel()]
