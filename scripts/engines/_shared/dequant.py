"""Turns GGUF blocks into numbers: integers with their scales (`unpack`), or float weights (`dequantize`).

Every block format of ggml is a group of small integers with w = q * scale + offset, with one scale and
at most one offset per group. Packed kernels use that form directly; the rest multiplies it out.
Everything is vectorised over rows, without a loop over blocks. `unpack` and `multiply_out` accept numpy
arrays and torch tensors alike and import neither: `xp` is the library that the bytes came from.
"""

import sys
from typing import Any, NamedTuple

import numpy as np

from .gguf_reader import Tensor

FOUR_BIT = ("Q4_0", "Q4_1", "Q4_K")  # types whose integers are 0…15 in the file
WITH_OFFSET = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")
CHUNK = 1 << 21  # weights dequantized at a time: temporaries stay in cache
# The values of an IQ4_NL weight's four bits.
IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


class Unpacked(NamedTuple):
    """w = q * scale + offset, by groups along a row."""

    q: Any  # int8 or uint8 [rows, cols]
    scale: Any  # float32 [rows, cols / group]
    offset: Any  # float32 [rows, cols / group], or None
    group: int  # weights that share a scale


def unpack(kind: str, raw) -> Unpacked:
    """Integers and scales of quantized rows. `raw`: uint8 `[rows, bytes of a row]`."""
    size, read = _FORMATS[kind]
    q, scale, offset = read(sys.modules[type(raw).__module__], raw.reshape(raw.shape[0], -1, size))
    flat = lambda a: a.reshape(raw.shape[0], -1)
    return Unpacked(flat(q), flat(scale), None if offset is None else flat(offset), 16 if kind == "Q6_K" else 32)


def multiply_out(kind: str, raw, out):
    """Weights of quantized rows, computed in float32 and rounded once, when stored in `out` `[rows, cols]`."""
    step = max(1, CHUNK // out.shape[1])
    for first in range(0, out.shape[0], step):
        part = unpack(kind, raw[first : first + step])
        w = _float(part.q.reshape(part.q.shape[0], -1, part.group))
        w *= part.scale[..., None]
        if part.offset is not None:
            w += part.offset[..., None]
        out[first : first + step] = w.reshape(part.q.shape)
    return out


def dequantize(tensor: Tensor) -> np.ndarray:
    """Weights as a float32 array `[rows, cols]`; a view of the file if it stores them that way."""
    if tensor.type == "BF16":
        return (tensor.raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if tensor.type in ("F32", "F16"):
        return tensor.raw.view({"F32": np.float32, "F16": np.float16}[tensor.type]).astype(np.float32, copy=False)
    return multiply_out(tensor.type, tensor.raw, np.empty((tensor.rows, tensor.cols), np.float32))


def _float(a):
    return a.astype(np.float32) if isinstance(a, np.ndarray) else a.float()


def _f16(xp, b, at: int):
    """The float16 at byte `at` of each block, as float32 `[..., blocks, 1]`."""
    return _float(xp.concat([b[..., at : at + 2]], -1).view(xp.float16))


def _nibbles(xp, qs):
    """`[..., n]` bytes to `[..., 2, n]`: low nibbles, then high ones."""
    return xp.stack((qs & 15, qs >> 4), -2)


def _fifth_bits(xp, qh):
    """4 bytes of bit field to `[..., 2, 16]` of 0 or 16: bit i belongs to weight i."""
    bits = xp.arange(8, dtype=xp.uint8)
    return (((qh[..., None] >> bits) & 1) << 4).reshape(*qh.shape[:-1], 2, 16)


def _q4_0(xp, b):
    return _nibbles(xp, b[..., 2:]).view(xp.int8) - 8, _f16(xp, b, 0), None


def _iq4_nl(xp, b):
    return xp.asarray(IQ4_NL, dtype=xp.int8)[xp.asarray(_nibbles(xp, b[..., 2:]), dtype=xp.int32)], _f16(xp, b, 0), None


def _q4_1(xp, b):
    return _nibbles(xp, b[..., 4:]), _f16(xp, b, 0), _f16(xp, b, 2)


def _q5_0(xp, b):
    q = _nibbles(xp, b[..., 6:]) | _fifth_bits(xp, b[..., 2:6])
    return q.view(xp.int8) - 16, _f16(xp, b, 0), None


def _q5_1(xp, b):
    return _nibbles(xp, b[..., 8:]) | _fifth_bits(xp, b[..., 4:8]), _f16(xp, b, 0), _f16(xp, b, 2)


def _q8_0(xp, b):
    return b[..., 2:].view(xp.int8), _f16(xp, b, 0), None


def _scales_k(xp, b):
    """Scales and offsets of Q4_K and Q5_K: eight 6-bit pairs in 12 bytes, times two float16."""
    low, mid, high = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    scale = xp.concat((low & 63, (high & 15) | ((low >> 6) << 4)), -1)
    least = xp.concat((mid & 63, (high >> 4) | ((mid >> 6) << 4)), -1)
    return _f16(xp, b, 0) * scale, -(_f16(xp, b, 2) * least)


def _q4_k(xp, b):
    return _nibbles(xp, b[..., 16:].reshape(*b.shape[:2], 4, 32)), *_scales_k(xp, b)


def _q5_k(xp, b):
    bits = xp.arange(8, dtype=xp.uint8).reshape(8, 1)
    high = ((b[..., 16:48][..., None, :] >> bits) & 1) << 4
    low = _nibbles(xp, b[..., 48:].reshape(*b.shape[:2], 4, 32)).reshape(high.shape)
    return low | high, *_scales_k(xp, b)


def _q6_k(xp, b):
    low = _nibbles(xp, b[..., :128].reshape(*b.shape[:2], 2, 64))  # [.., 2, 2, 64]
    shifts = xp.arange(0, 8, 2, dtype=xp.uint8).reshape(4, 1)
    high = ((b[..., 128:192].reshape(*b.shape[:2], 2, 1, 32) >> shifts) & 3) << 4  # [.., 2, 4, 32]
    q = (low.reshape(high.shape) | high).view(xp.int8) - 32
    return q, _f16(xp, b, 208) * b[..., 192:208].view(xp.int8), None


# Type: bytes in a block, and the function that reads `[rows, blocks, bytes]`.
_FORMATS = {
    "Q4_0": (18, _q4_0),
    "Q4_1": (20, _q4_1),
    "Q5_0": (22, _q5_0),
    "Q5_1": (24, _q5_1),
    "Q8_0": (34, _q8_0),
    "Q4_K": (144, _q4_k),
    "Q5_K": (176, _q5_k),
    "Q6_K": (210, _q6_k),
    "IQ4_NL": (18, _iq4_nl),
}
