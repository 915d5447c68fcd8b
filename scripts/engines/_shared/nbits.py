"""GGUF blocks as plain n-bit integers with float32 scales: what ONNX Runtime and OpenVINO multiply.

Nothing is rounded. A weight is (q - zero) * scale, plus an offset for the types that have one; `zero` is the middle
of the unsigned integers, 8 or 128.
"""

from typing import NamedTuple

import numpy as np

from .dequant import FOUR_BIT, WITH_OFFSET, unpack
from .gguf_reader import Tensor

CHUNK = 1 << 18  # weights packed at a time: temporaries stay in cache


def notes_on_offsets(kinds) -> list[str]:
    """What a record says of weights of these types."""
    if {*WITH_OFFSET}.isdisjoint(kinds):
        return []
    return ["Offsets of groups are float32 too: they meet the sums of the activations in a product of their own."]


class Layout(NamedTuple):
    """How the rows of some tensors of one type are stored, one tensor after the other."""

    rows: int
    groups: int  # in a row
    group: int  # weights with one scale
    bits: int  # of an integer; of the two in a byte the low one comes first
    offset: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of the integers of a row."""
        return self.groups * self.group * self.bits // 8


def layout(tensors: tuple[Tensor, ...]) -> Layout:
    """The layout of quantized tensors."""
    kind, cols = tensors[0].type, tensors[0].cols
    group = 16 if kind == "Q6_K" else 32
    return Layout(sum(t.rows for t in tensors), cols // group, group, 4 if kind in FOUR_BIT else 8, kind in WITH_OFFSET)


def pack(tensors, q: np.ndarray, scale: np.ndarray, offset: np.ndarray | None, orders=None) -> None:
    """Fills uint8 `q` `[rows, row_bytes]` and float32 `scale` and `offset` `[rows, groups]`.

    `orders` has for each tensor an order of its rows, or None.
    """
    at, fill = 0, {"Q4_0": _q4_0, "Q8_0": _q8_0, "Q6_K": _q6_k}.get(tensors[0].type, _any)
    for tensor, order in zip(tensors, orders or [None] * len(tensors)):
        step = max(1, CHUNK // tensor.cols)
        for first in range(0, tensor.rows, step):
            rows = slice(first, first + step) if order is None else order[first : first + step]
            raw = tensor.raw[rows]
            part = slice(at, at := at + len(raw))
            fill(tensor.type, raw, q[part], scale[part], None if offset is None else offset[part])
        tensor.release()


def _halves(blocks, at: int) -> np.ndarray:
    """The float16 at byte `at` of each block, `[rows, blocks]`."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0]


def _q4_0(_kind, raw, q, scale, _offset) -> None:
    """A block has weight i and weight i + 16 in one byte; here it is i and i + 1."""
    blocks = raw.reshape(len(raw), -1, 18)
    q = q.reshape(*blocks.shape[:2], 16)
    pairs = np.ascontiguousarray(blocks[..., 2:]).view(np.uint16)
    q[..., :8] = (pairs & 15) | (pairs >> 4 & 0xF0)
    q[..., 8:] = (pairs >> 4 & 15) | (pairs >> 8 & 0xF0)
    scale[...] = _halves(blocks, 0)


def _q8_0(_kind, raw, q, scale, _offset) -> None:
    blocks = raw.reshape(len(raw), -1, 34)
    np.bitwise_xor(blocks[..., 2:], 0x80, out=q.reshape(*blocks.shape[:2], 32))
    scale[...] = _halves(blocks, 0)


def _q6_k(_kind, raw, q, scale, _offset) -> None:
    """256 weights: their four low bits in 128 bytes, their two high bits in 64. q - 32 is stored as q + 96."""
    blocks = raw.reshape(len(raw), -1, 210)
    out = q.reshape(*blocks.shape[:2], 2, 4, 32)
    low = np.ascontiguousarray(blocks[..., :128]).reshape(*blocks.shape[:2], 2, 2, 32)
    high = np.ascontiguousarray(blocks[..., 128:192]).reshape(*blocks.shape[:2], 2, 32)
    for i, bits in enumerate((high << 4, high << 2, high, high >> 2)):
        nibbles = low[..., i, :] & 15 if i < 2 else low[..., i - 2, :] >> 4
        np.add(nibbles | (bits & 0x30), 96, out=out[..., i, :])
    scales = blocks[..., 192:208].view(np.int8).astype(np.float32)
    scale.reshape(scales.shape)[...] = scales * _halves(blocks, 208).astype(np.float32)[..., None]


def _any(kind, raw, q, scale, offset) -> None:
    """Every other type, through `unpack`."""
    part = unpack(kind, raw)
    scale[...] = part.scale
    if kind in FOUR_BIT:  # these are 0…15, and the middle of the integers moves into the offset
        pairs = np.ascontiguousarray(part.q).view(np.uint16)
        q[...] = pairs | pairs >> 4
        offset[...] = part.offset + 8 * part.scale
    elif offset is not None:  # 0…31
        q[...] = part.q + 112
        offset[...] = part.offset + 16 * part.scale
    else:
        q[...] = part.q.view(np.uint8) ^ 0x80
