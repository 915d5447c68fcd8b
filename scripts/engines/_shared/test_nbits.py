"""Tests of nbits: plain integers with scales stand for exactly the weights of the file."""

import numpy as np
import pytest

from _shared.dequant import dequantize
from _shared.gguf_reader import TYPES, Tensor
from _shared.nbits import layout, pack
from _shared.test_support import random_blocks

KINDS = [name for name, per_block, _ in TYPES.values() if per_block > 1]


def unpacked(tensors, orders=None):
    """The weights that the packed integers stand for, float64 `[rows, cols]`."""
    form = layout(tensors)
    q, scale = np.empty((form.rows, form.row_bytes), np.uint8), np.empty((form.rows, form.groups), np.float32)
    offset = np.empty_like(scale) if form.offset else None
    pack(tensors, q, scale, offset, orders)
    if form.bits == 4:
        q = np.stack((q & 15, q >> 4), -1)
    w = (q.reshape(form.rows, form.groups, form.group).astype(np.float64) - (8 if form.bits == 4 else 128)) * scale[..., None]
    return (w if offset is None else w + offset[..., None]).reshape(form.rows, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_keeps_its_weights(kind):
    tensor = Tensor("w", kind, 3, 512, random_blocks(kind, 3, 512))
    np.testing.assert_allclose(unpacked((tensor,)), dequantize(tensor), rtol=0, atol=3e-7)


@pytest.mark.parametrize("kind", ["Q4_0", "Q6_K"])
def test_tensors_are_stacked_and_their_rows_ordered(kind):
    a, b = (Tensor("w", kind, 5, 512, random_blocks(kind, 5, 512, seed)) for seed in (1, 2))
    order = np.array([4, 0, 3, 1, 2])
    expected = np.concatenate((dequantize(a), dequantize(b)[order]))
    np.testing.assert_array_equal(unpacked((a, b), (None, order)), expected)


def test_a_tensor_of_many_chunks_is_packed_whole():
    tensor = Tensor("w", "Q8_0", 1000, 512, random_blocks("Q8_0", 1000, 512))
    np.testing.assert_array_equal(unpacked((tensor,)), dequantize(tensor))
