"""GGUF blocks in the form that MLX multiplies: packed unsigned integers with w = q * scale + offset, nothing rounded."""

import numpy as np

from _shared.dequant import unpack
from _shared.gguf_reader import Tensor

GROUP = 32  # weights with one scale: that of every type below
BITS = {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q5_0": 8, "Q5_1": 8, "Q5_K": 8, "Q8_0": 8, "IQ4_NL": 8}


def affine(tensor: Tensor):
    """Words uint32 `[rows, cols * bits / 32]`, the first weight in the lowest bits, with scales and offsets float32
    `[rows, cols / 32]` for unsigned integers."""
    read = unpack(tensor.type, tensor.raw)
    bits, q, offsets = BITS[tensor.type], read.q.view(np.uint8), read.offset
    if offsets is None:
        half = 1 << (bits - 1)
        q, offsets = q + np.uint8(half), -half * read.scale  # modulo 256
    if bits == 4:
        q = q[:, 0::2] | (q[:, 1::2] << 4)
    return np.ascontiguousarray(q).view("<u4"), read.scale, offsets
