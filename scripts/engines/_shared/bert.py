"""A BERT from the metadata and tensors of a GGUF: sizes, tensors, and what engines do with a batch of texts.

x = norm(token + position + type 0), then per layer x = norm(x + attention(x)) and x = norm(x + down(gelu(up(x)))).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .dequant import dequantize
from .gguf_reader import Gguf, Tensor
from .protocol import BadModel

POOLING = {1: "mean", 2: "cls", 3: "last"}
ACTIVATIONS = ("tanh", "relu")
PRECISION = {"weights": "f32", "compute": "f32", "kv": "none"}


@dataclass
class BertConfig:
    """All counts are numbers of elements."""

    layers: int
    dim: int
    heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int  # positions that the file has embeddings for
    types: int  # rows of token_types.weight, 0 without it
    eps: float
    pooling: str  # mean, cls or last; cls with a classifier
    labels: int  # of the classifier, 0 without one
    activation: str | None  # between the two layers of the classifier

    @classmethod
    def from_gguf(cls, file: Gguf) -> "BertConfig":
        """Reads the `bert.*` keys; BadModel if one is missing or they contradict each other."""
        if (found := file.metadata.get("general.architecture")) != "bert":
            raise BadModel(f"{file.path}: expected general.architecture 'bert', found {found!r}")
        if file.metadata.get("bert.attention.causal", False):
            raise BadModel(f"{file.path}: expected bert.attention.causal false, found true")
        dim, heads = file.require("bert.embedding_length"), file.require("bert.attention.head_count")
        layers, ffn = file.require("bert.block_count"), file.require("bert.feed_forward_length")
        context, eps = file.require("bert.context_length"), file.require("bert.attention.layer_norm_epsilon", float)
        if min(dim, heads, layers, ffn, context) < 1 or dim % heads:
            raise BadModel(
                f"{file.path}: expected positive sizes and a width divisible by the heads, found "
                f"{layers} layers, width {dim}, {heads} heads, {ffn} hidden, {context} positions"
            )
        embedding = file.tensor("token_embd.weight")
        types, head = file.tensors.get("token_types.weight"), file.tensors.get("cls.output.weight")
        pooling, activation = "cls", None
        if head:
            activation = file.require("llm_bench.classifier_activation", str)
            if activation not in ACTIVATIONS:
                raise BadModel(f"{file.path}: expected a classifier_activation of {', '.join(ACTIVATIONS)}, found '{activation}'")
        elif (pooling := POOLING.get(file.require("bert.pooling_type"))) is None:
            raise BadModel(f"{file.path}: expected bert.pooling_type of 1 to 3, found {file.metadata['bert.pooling_type']}")
        labels = head.rows if head else 0
        sizes = layers, dim, heads, dim // heads, ffn, embedding.rows, context, types.rows if types else 0
        return cls(*sizes, eps, pooling, labels, activation)

    def embeddings(self, file: Gguf) -> dict[str, Tensor]:
        """`token_embd`, `position_embd`, `token_types` if there are any, `token_embd_norm` and `token_embd_norm.bias`."""
        shapes = {"token_embd": (self.vocab, self.dim), "position_embd": (self.context, self.dim)}
        if self.types:
            shapes["token_types"] = (self.types, self.dim)
        return _tensors(file, "", shapes, {"token_embd_norm": (1, self.dim)})

    def block(self, file: Gguf, i: int) -> dict[str, Tensor]:
        """The tensors of layer `i` by name: `attn_q` is its weight, `attn_q.bias` its bias."""
        dim, square = self.dim, (self.dim, self.dim)
        names = ("attn_q", "attn_k", "attn_v", "attn_output")
        shapes = {**dict.fromkeys(names, square), "ffn_up": (self.ffn, dim), "ffn_down": (dim, self.ffn)}
        norms = dict.fromkeys(("attn_output_norm", "layer_output_norm"), (1, dim))
        return _tensors(file, f"blk.{i}.", {}, shapes | norms)

    def classifier(self, file: Gguf) -> dict[str, Tensor]:
        """`cls`, `cls.output` and their biases; nothing without a classifier."""
        if not self.labels:
            return {}
        return _tensors(file, "", {}, {"cls": (self.dim, self.dim), "cls.output": (self.labels, self.dim)})

    def first(self, file: Gguf, n_ctx: int) -> np.ndarray:
        """What every text adds to its tokens: position embeddings with those of type 0, float32 `[n_ctx, dim]`."""
        found = self.embeddings(file)
        added = dequantize(found["position_embd"])[:n_ctx]
        return added + dequantize(found["token_types"])[0] if self.types else added

    def weights(self, file: Gguf) -> list[Tensor]:
        """Every tensor that is multiplied with hidden states."""
        found = [tensor for i in range(self.layers) for tensor in self.block(file, i).values()]
        found += self.classifier(file).values()
        return [tensor for tensor in found if tensor.name.endswith(".weight") and not tensor.name.endswith("norm.weight")]


def _tensors(file: Gguf, prefix: str, weights: dict[str, tuple], biased: dict[str, tuple]) -> dict[str, Tensor]:
    """Tensors by name, without `prefix` and `.weight`; `biased` ones have a bias for each row, or for each column of a
    norm."""
    found = {name: file.tensor(f"{prefix}{name}.weight", shape) for name, shape in (weights | biased).items()}
    for name, (rows, cols) in biased.items():
        found[f"{name}.bias"] = file.tensor(f"{prefix}{name}.bias", (1, cols if name.endswith("norm") else rows))
    return found


class Batch(NamedTuple):
    """Texts side by side, padded to the longest one with id 0."""

    ids: np.ndarray  # int64 [texts, tokens]
    lengths: np.ndarray  # int64 [texts]
    real: np.ndarray  # bool [texts, tokens]: False in padding

    @property
    def even(self) -> bool:
        """Whether no text is padded."""
        return bool(self.real.all())

    def pool(self, pooling: str) -> np.ndarray:
        """Float32 weights `[texts, tokens]` whose products with the hidden states are the pooled vectors."""
        if pooling == "mean":
            return (self.real / self.lengths[:, None]).astype(np.float32)
        at = self.lengths - 1 if pooling == "last" else np.zeros_like(self.lengths)
        return (np.arange(self.ids.shape[1]) == at[:, None]).astype(np.float32)


def padded(texts: list[list[int]]) -> Batch:
    """The batch of some texts."""
    lengths = np.array([len(text) for text in texts])
    ids = np.zeros((len(texts), lengths.max()), np.int64)
    real = np.arange(ids.shape[1]) < lengths[:, None]
    ids[real] = np.concatenate(texts)
    return Batch(ids, lengths, real)


def normalized(x: np.ndarray) -> np.ndarray:
    """Rows divided by their length."""
    return x / np.maximum(np.sqrt(np.square(x).sum(-1, keepdims=True)), 1e-12)
