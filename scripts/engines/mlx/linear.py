"""Linear layers over GGUF weights in MLX: dense, or the file's integers for `mx.quantized_matmul`.

On Linux MLX multiplies on one thread a stream, with a plain BLAS, so each layer is split by rows among streams. One
8192x2048 product, one thread of a Zen 5, timed once with a script that was not kept:

                                                        1 position    each of 16 or more
    f32 weights [cols, rows], as here                       4.7 ms                4.2 ms
    f32 weights [rows, cols], as in the file                8.3                   8.1
    bf16 weights [rows, cols]                                10                   4.8
    f16 weights [rows, cols]                                 21                   6.2
    4 bits, f32 scales, quantized_matmul                     11                    11
    4 bits, f16 scales, quantized_matmul                    460                   460
"""

from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np

from _shared.dequant import dequantize, unpack
from _shared.gguf_reader import Tensor
from affine import BITS, GROUP, affine

BLOCK = 512  # rows that are multiplied together on the CPU: 4 MB of f32 at 2048 columns, in cache for every position of a prompt
PLAIN = ("F32", "F16", "BF16")


class Dense:
    """Float weights `[blocks, cols, rows of a block]`: BLAS then reads both operands in order."""

    def __init__(self, tensor: Tensor, dtype: mx.Dtype, block: int, threads: int):
        self.rows = tensor.rows
        block = max(n for n in range(1, min(block, tensor.rows) + 1) if tensor.rows % n == 0)
        # A view of the array's memory is filled, so that no second copy exists.
        self.weight = mx.zeros((tensor.rows // block, tensor.cols, block), dtype)
        mx.eval(self.weight)
        out = np.asarray(self.weight)

        def fill(i: int) -> None:
            rows = part(tensor, i * block, block)
            if tensor.type in PLAIN:
                out[i] = dequantize(rows).T
                return
            read = unpack(tensor.type, rows.raw)  # integers are transposed: that moves a quarter of the bytes
            groups = out[i].reshape(-1, read.group, block)
            groups[:] = read.q.T.reshape(groups.shape)
            groups *= read.scale.T[:, None]
            if read.offset is not None:
                groups += read.offset.T[:, None]

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(len(out))))
        self.label = str(dtype).removeprefix("mlx.core.").replace("float", "f")
        self.arrays = [self.weight]

    def __call__(self, x, stream):
        y = mx.matmul(x[None], self.weight, stream=stream)  # [blocks, T, rows of a block]
        return mx.reshape(mx.swapaxes(y, 0, 1, stream=stream), (x.shape[0], self.rows), stream=stream)


class Packed:
    """Integers with a scale and an offset for 32 of them, w = q * scale + offset, exactly as in the file."""

    def __init__(self, tensor: Tensor, dtype: mx.Dtype, *_):
        self.bits, self.label = BITS[tensor.type], tensor.type.lower()
        packed, scales, offsets = affine(tensor)
        self.arrays = [mx.array(packed), mx.array(scales).astype(dtype), mx.array(offsets).astype(dtype)]
        mx.eval(self.arrays)

    def __call__(self, x, stream):
        return mx.quantized_matmul(x, *self.arrays, transpose=True, group_size=GROUP, bits=self.bits, stream=stream)


class Linear:
    """The layers of `tensors`, stacked by rows, each split among `streams`: `[T, cols]` to `[T, rows of all]`."""

    def __init__(self, tensors: list[Tensor], packed: bool, dtype: mx.Dtype, streams: list, block: int, threads: int):
        self.parts, self.streams = [], streams
        for tensor in tensors:
            kind = Packed if packed and tensor.type in BITS else Dense
            parts = len(streams) if tensor.rows % (len(streams) * 8) == 0 else 1
            for stream, first in zip(streams, range(0, tensor.rows, tensor.rows // parts)):
                self.parts.append((kind(part(tensor, first, tensor.rows // parts), dtype, block, threads), stream))
            tensor.release()
        self.labels = [layer.label for layer, _ in self.parts]
        self.nbytes = sum(array.nbytes for layer, _ in self.parts for array in layer.arrays)

    def __call__(self, x):
        done = [layer(x, stream) for layer, stream in self.parts]
        return done[0] if len(done) == 1 else mx.concatenate(done, axis=-1, stream=self.streams[0])


def part(tensor: Tensor, first: int, rows: int) -> Tensor:
    """Some rows of a tensor."""
    return Tensor(tensor.name, tensor.type, rows, tensor.cols, tensor.raw[first : first + rows])
