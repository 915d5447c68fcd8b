"""Tests that MLX's packed form holds the file's weights. It needs no MLX: words are read as MLX reads them."""

import numpy as np
import pytest

from _shared.dequant import dequantize
from _shared.gguf_reader import Tensor
from _shared.test_support import random_blocks
from affine import BITS, GROUP, affine


@pytest.mark.parametrize("kind", BITS)
def test_packed_integers_are_the_weights_of_the_file(kind):
    tensor = Tensor("t", kind, 24, 512, random_blocks(kind, 24, 512))
    words, scales, offsets = affine(tensor)
    shifts = np.arange(0, 32, BITS[kind], dtype=np.uint32)
    q = ((words[..., None] >> shifts) & ((1 << BITS[kind]) - 1)).reshape(24, 512 // GROUP, GROUP)
    w = q * scales[..., None].astype(np.float64) + offsets[..., None]
    np.testing.assert_allclose(w.reshape(24, 512), dequantize(tensor), rtol=1e-5, atol=1e-5)
