"""Turns GGUF blocks into numbers: whole integers with their scales (`unpack`), or float weights (`dequantize`).

Every block format of ggml is a group of small integers with w = q * scale + offset, one scale and
at most one offset a group. Packed kernels take that form as it is; the rest multiplies it out.
All is vectorised over rows; there is no loop over blocks.
"""

from typing import NamedTuple

import torch

from gguf_reader import Tensor

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CHUNK = 1 << 21  # weights dequantized at a time: temporaries stay in cache
# What the four bits of an IQ4_NL weight stand for.
IQ4_NL = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.int8)


class Unpacked(NamedTuple):
    """w = q * scale + offset, by groups along a row."""

    q: torch.Tensor  # int8 or uint8 [rows, cols]
    scale: torch.Tensor  # float32 [rows, cols / group]
    offset: torch.Tensor | None  # float32 [rows, cols / group]
    group: int  # weights that share a scale


def as_torch(tensor: Tensor) -> torch.Tensor:
    """The bytes in the file, without a copy: `[rows, cols]` for float types, else uint8 `[rows, bytes]`."""
    raw = torch.from_numpy(tensor.raw)
    return raw.view(PLAIN[tensor.type]) if tensor.type in PLAIN else raw


def unpack(kind: str, raw: torch.Tensor) -> Unpacked:
    """Integers and scales of quantized rows. `raw`: uint8 `[rows, bytes of a row]`."""
    rows = raw.shape[0]
    q, scale, offset = _FORMATS[kind](raw)
    group = 16 if kind == "Q6_K" else 32
    return Unpacked(q.reshape(rows, -1), scale.reshape(rows, -1), None if offset is None else offset.reshape(rows, -1), group)


def dequantize(tensor: Tensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """Weights as `dtype` `[rows, cols]`, computed in float32 and rounded once at the end.

    A float tensor that is already of `dtype` comes back as a view of the file.
    """
    data = as_torch(tensor)
    if tensor.type in PLAIN:
        if out is None:
            return data.to(dtype)
        return out.copy_(data)
    if out is None:
        out = torch.empty(tensor.rows, tensor.cols, dtype=dtype)
    step = max(1, CHUNK // tensor.cols)
    for first in range(0, tensor.rows, step):
        part = unpack(tensor.type, data[first : first + step])
        w = part.q.view(part.q.shape[0], -1, part.group).to(torch.float32)
        w.mul_(part.scale.unsqueeze(-1))
        if part.offset is not None:
            w.add_(part.offset.unsqueeze(-1))
        out[first : first + step] = w.view(part.q.shape)
    return out


def _f16(raw: torch.Tensor, at: int) -> torch.Tensor:
    """The float16 at byte `at` of each block, as float32 `[..., blocks, 1]`."""
    return raw[..., at : at + 2].contiguous().view(torch.float16).to(torch.float32)


def _nibbles(qs: torch.Tensor) -> torch.Tensor:
    """`[..., n]` bytes to `[..., 2, n]`: low nibbles, then high ones."""
    return torch.stack((qs & 15, qs >> 4), dim=-2)


def _fifth_bits(qh: torch.Tensor) -> torch.Tensor:
    """4 bytes of bit field to `[..., 2, 16]` of 0 or 16: bit i belongs to weight i."""
    bits = torch.arange(8, dtype=torch.uint8)
    return (((qh.unsqueeze(-1) >> bits) & 1) << 4).reshape(*qh.shape[:-1], 2, 16)


def _q4_0(raw):
    b = raw.view(raw.shape[0], -1, 18)
    return _nibbles(b[..., 2:]).view(torch.int8) - 8, _f16(b, 0), None


def _iq4_nl(raw):
    b = raw.view(raw.shape[0], -1, 18)
    return IQ4_NL[_nibbles(b[..., 2:]).int()], _f16(b, 0), None


def _q4_1(raw):
    b = raw.view(raw.shape[0], -1, 20)
    return _nibbles(b[..., 4:]), _f16(b, 0), _f16(b, 2)


def _q5_0(raw):
    b = raw.view(raw.shape[0], -1, 22)
    q = _nibbles(b[..., 6:]) | _fifth_bits(b[..., 2:6])
    return q.view(torch.int8) - 16, _f16(b, 0), None


def _q5_1(raw):
    b = raw.view(raw.shape[0], -1, 24)
    return _nibbles(b[..., 8:]) | _fifth_bits(b[..., 4:8]), _f16(b, 0), _f16(b, 2)


def _q8_0(raw):
    b = raw.view(raw.shape[0], -1, 34)
    return b[..., 2:].view(torch.int8), _f16(b, 0), None


def _scales_k(b):
    """Scales and offsets of Q4_K and Q5_K: eight 6-bit pairs in 12 bytes, times two float16."""
    s = b[..., 4:16]
    low, mid, high = s[..., 0:4], s[..., 4:8], s[..., 8:12]
    scale = torch.cat((low & 63, (high & 15) | ((low >> 6) << 4)), dim=-1)
    least = torch.cat((mid & 63, (high >> 4) | ((mid >> 6) << 4)), dim=-1)
    return _f16(b, 0) * scale, -(_f16(b, 2) * least)


def _q4_k(raw):
    b = raw.view(raw.shape[0], -1, 144)
    return _nibbles(b[..., 16:].unflatten(-1, (4, 32))), *_scales_k(b)


def _q5_k(raw):
    b = raw.view(raw.shape[0], -1, 176)
    bits = torch.arange(8, dtype=torch.uint8).view(8, 1)
    high = ((b[..., 16:48].unsqueeze(-2) >> bits) & 1) << 4
    low = _nibbles(b[..., 48:].unflatten(-1, (4, 32))).flatten(-3, -2)
    return low | high, *_scales_k(b)


def _q6_k(raw):
    b = raw.view(raw.shape[0], -1, 210)
    low = _nibbles(b[..., :128].unflatten(-1, (2, 2, 32)).flatten(-2))  # [.., 2, 2, 64]
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8).view(4, 1)
    high = ((b[..., 128:192].unflatten(-1, (2, 1, 32)) >> shifts) & 3) << 4  # [.., 2, 4, 32]
    q = (low.reshape(high.shape) | high).view(torch.int8) - 32
    return q, _f16(b, 208) * b[..., 192:208].view(torch.int8), None


_FORMATS = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
}
