"""BERT in plain numpy and float32, one text at a time: correctness before speed, and short enough to check by reading."""

import math

import numpy as np

from _shared import Encoder
from _shared.bert import PRECISION, BertConfig, normalized
from _shared.dequant import dequantize
from _shared.gguf_reader import Gguf, Tensor
from _shared.spans import Spans

# erf between its values at these points: 1e-8 off at most. Beyond them it is 1 in float32.
POINTS = np.linspace(-6, 6, 1 << 15)
ERF = np.array([math.erf(point) for point in POINTS])


class Bert(Encoder):
    """Float32 weights `[rows, cols]`."""

    def __init__(self, path: str, device: str, n_ctx: int, options: dict):
        stages = Spans(lambda: None)
        file = Gguf(path)
        self.config = c = BertConfig.from_gguf(file)
        self.n_ctx, self.vocab, self.mapped_bytes, self.private_bytes = min(n_ctx, c.context), c.vocab, 0, 0
        stages.end("parse")
        load = lambda tensors: {name: self._weight(tensor) for name, tensor in tensors.items()}
        self.embeddings, self.classifier = load(c.embeddings(file)), load(c.classifier(file))
        self.layers = [load(c.block(file, i)) for i in range(c.layers)]
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
        """Everything is float32."""
        return {"precision": PRECISION}

    def memory(self) -> dict[str, int | None]:
        """Bytes held."""
        return {"weights_mapped_bytes": self.mapped_bytes, "weights_private_bytes": self.private_bytes}

    def encode(self, texts: list[list[int]]) -> np.ndarray:
        """The texts one after the other."""
        return np.stack([self._vector(self._states(text)[-1]) for text in texts])

    def hidden(self, texts: list[list[int]]) -> np.ndarray:
        """The texts one after the other."""
        return np.concatenate([self._states(text) for text in texts], axis=1)

    def _vector(self, x: np.ndarray) -> np.ndarray:
        """The result `[columns]` of a text's last hidden states."""
        w, c = self.classifier, self.config
        if c.labels:
            pooled = self._linear(x[:1], w, "cls")
            return self._linear(np.tanh(pooled) if c.activation == "tanh" else np.maximum(pooled, 0), w, "cls.output")[0]
        return normalized({"mean": x.mean(0), "cls": x[0], "last": x[-1]}[c.pooling])

    def _states(self, text: list[int]) -> np.ndarray:
        """Hidden states `[layers + 1, tokens, dim]` of one text."""
        e, c = self.embeddings, self.config
        heads = lambda x: x.reshape(len(text), -1, c.head_dim).swapaxes(0, 1)  # [heads, tokens, head_dim]
        x = e["token_embd"][text] + e["position_embd"][: len(text)] + (e["token_types"][0] if c.types else 0)
        states = [self._norm(x, e, "token_embd_norm")]
        for w in self.layers:
            x = states[-1]
            q, k, v = (heads(self._linear(x, w, name)) for name in ("attn_q", "attn_k", "attn_v"))
            scores = q * np.float32(c.head_dim**-0.5) @ k.swapaxes(-1, -2)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            attended = (scores @ v).swapaxes(0, 1).reshape(x.shape)
            x = self._norm(x + self._linear(attended, w, "attn_output"), w, "attn_output_norm")
            up = self._linear(x, w, "ffn_up")
            up = (up * 0.5 * (1 + np.interp(up * 0.5**0.5, POINTS, ERF))).astype(np.float32)
            states.append(self._norm(x + self._linear(up, w, "ffn_down"), w, "layer_output_norm"))
        return np.stack(states)

    @staticmethod
    def _linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
        return x @ w[name].T + w[f"{name}.bias"]

    def _norm(self, x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(self.config.eps)) * w[name] + w[f"{name}.bias"]
