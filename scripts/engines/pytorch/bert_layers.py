"""The layers of a BERT in PyTorch: the library's own class, and one whose products can be fused and rounded.

Both take `x` `[texts, tokens, dim]` and `real` `[texts, tokens]`, True for tokens and False for padding, or None.
"""

import torch
import torch.nn.functional as F
from torch import nn

from _shared.bert import BertConfig
from _shared.gguf_reader import Tensor
from linear import dense


def weights(tensors: dict[str, Tensor], *names: str, part: str = "", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Weights `[rows, cols]` of some layers, or with `part` ".bias" their biases, one after the other."""
    found = torch.cat([dense(tensors[name + part], dtype) for name in names])
    return found.flatten() if part or names[0].endswith("norm") else found


def linear(tensors: dict[str, Tensor], *names: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A layer over float weights, stacked by rows."""
    weight = weights(tensors, *names, dtype=dtype)
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    return _filled(layer, weight=weight, bias=weights(tensors, *names, part=".bias", dtype=dtype))


def norm(tensors: dict[str, Tensor], name: str, eps: float, dtype: torch.dtype = torch.float32) -> nn.LayerNorm:
    """A layer norm."""
    weight, bias = (weights(tensors, name, part=part, dtype=dtype) for part in ("", ".bias"))
    return _filled(nn.LayerNorm(weight.shape[0], eps, device="meta"), weight=weight, bias=bias)


def _filled(module: nn.Module, **parameters: torch.Tensor) -> nn.Module:
    for name, values in parameters.items():
        setattr(module, name, nn.Parameter(values, requires_grad=False))
    return module


class Library(nn.Module):
    """`torch.nn.TransformerEncoderLayer` in float32: nothing of its forward pass is written here."""

    def __init__(self, c: BertConfig, t: dict[str, Tensor]):
        super().__init__()
        settings = {"activation": F.gelu, "layer_norm_eps": c.eps, "batch_first": True, "norm_first": False}
        self.inner = inner = nn.TransformerEncoderLayer(c.dim, c.heads, c.ffn, 0.0, **settings).eval()
        queries = ("attn_q", "attn_k", "attn_v")
        projection = {"in_proj_weight": weights(t, *queries), "in_proj_bias": weights(t, *queries, part=".bias")}
        _filled(inner.self_attn, **projection)
        parts = {inner.self_attn.out_proj: "attn_output", inner.linear1: "ffn_up", inner.linear2: "ffn_down"}
        parts |= {inner.norm1: "attn_output_norm", inner.norm2: "layer_output_norm"}
        for module, name in parts.items():
            _filled(module, weight=weights(t, name), bias=weights(t, name, part=".bias"))

    def forward(self, x, real):
        return self.inner(x, src_key_padding_mask=None if real is None else ~real)


class Fused(nn.Module):
    """One product for queries, keys and values, and the library's fused attention. `make` makes the products."""

    def __init__(self, c: BertConfig, t: dict[str, Tensor], make, dtype: torch.dtype):
        super().__init__()
        self.shape = 3, c.heads, c.head_dim
        self.qkv, self.out = make(t, "attn_q", "attn_k", "attn_v"), make(t, "attn_output")
        self.up, self.down = make(t, "ffn_up"), make(t, "ffn_down")
        self.norm, self.last = norm(t, "attn_output_norm", c.eps, dtype), norm(t, "layer_output_norm", c.eps, dtype)

    def forward(self, x, real):
        q, k, v = self.qkv(x).unflatten(-1, self.shape).permute(2, 0, 3, 1, 4)
        mask = None if real is None else real[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm(x + self.out(y.transpose(1, 2).flatten(2)))
        return self.last(x + self.down(F.gelu(self.up(x))))
