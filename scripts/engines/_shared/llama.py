"""The sizes of a LLaMA and the angles of its rotary embedding, from the metadata of a GGUF."""

from dataclasses import dataclass

import numpy as np

from .dequant import dequantize
from .gguf_reader import Gguf, Tensor
from .protocol import BadModel


@dataclass
class Config:
    """All counts are numbers of elements."""

    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool  # the embedding is also the output head
    eps: float
    inv_freq: np.ndarray  # float64 [head_dim / 2], divided by `rope_freqs.weight` if the file has it

    @classmethod
    def from_gguf(cls, file: Gguf) -> "Config":
        """Reads the `llama.*` keys; BadModel if one is missing or they contradict each other."""
        if (found := file.metadata.get("general.architecture")) != "llama":
            raise BadModel(f"{file.path}: expected general.architecture 'llama', found {found!r}")
        dim, heads = file.require("llama.embedding_length"), file.require("llama.attention.head_count")
        kv_heads = file.metadata.get("llama.attention.head_count_kv", heads)
        head_dim = file.metadata.get("llama.attention.key_length", dim // heads if heads else 0)
        rotated = file.metadata.get("llama.rope.dimension_count", head_dim)
        layers = file.require("llama.block_count")
        if not (dim > 0 and heads > 0 and layers > 0 and kv_heads > 0 and head_dim > 0) or heads % kv_heads:
            raise BadModel(
                f"{file.path}: expected positive sizes and heads divisible by kv heads, found "
                f"{layers} layers, width {dim}, {heads} heads, {kv_heads} kv heads"
            )
        if rotated != head_dim or head_dim % 2:
            raise BadModel(f"{file.path}: expected rope over a whole, even head of {head_dim}, found {rotated}")
        embedding = file.tensor("token_embd.weight")
        if embedding.cols != dim:
            raise BadModel(f"{file.path}: expected rows of {dim} in token_embd.weight, found {embedding.cols}")
        half = head_dim // 2
        inv_freq = file.metadata.get("llama.rope.freq_base", 10000.0) ** -(np.arange(half) / half)
        if "rope_freqs.weight" in file.tensors:
            inv_freq = inv_freq / dequantize(file.tensor("rope_freqs.weight", (1, half)))[0]
        ffn, tied = file.tensor("blk.0.ffn_gate.weight").rows, "output.weight" not in file.tensors
        eps = file.require("llama.attention.layer_norm_rms_epsilon", float)
        return cls(layers, dim, heads, kv_heads, head_dim, ffn, embedding.rows, tied, eps, inv_freq)

    def block(self, file: Gguf, i: int) -> dict[str, Tensor]:
        """The tensors of block `i` by name, without `blk.` and `.weight`; BadModel if a shape is wrong."""
        dim, q, kv = self.dim, self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {"attn_norm": (1, dim), "attn_q": (q, dim), "attn_k": (kv, dim), "attn_v": (kv, dim), "attn_output": (dim, q)}
        shapes |= {"ffn_norm": (1, dim), "ffn_gate": (self.ffn, dim), "ffn_up": (self.ffn, dim), "ffn_down": (dim, self.ffn)}
        return {name: file.tensor(f"blk.{i}.{name}.weight", shape) for name, shape in shapes.items()}

    def rope(self, n_ctx: int) -> np.ndarray:
        """cos and sin, float32 `[n_ctx, 2, head_dim / 2]`."""
        angle = np.outer(np.arange(n_ctx), self.inv_freq)
        return np.stack((np.cos(angle), np.sin(angle)), axis=1).astype(np.float32)
