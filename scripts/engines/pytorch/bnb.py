"""Layers that bitsandbytes quantizes from the file's 16-bit weights at load: nf4, and int8 as LLM.int8() does it.

They are set up as Hugging Face's loaders set them up for inference. Nothing imports bitsandbytes until a variant
asks for it: that takes about a second.
"""

import logging
import sys

import torch

from _shared import MissingDependency, Unsupported, UnsupportedQuant
from _shared.gguf_reader import Tensor
from linear import PLAIN, as_torch

BLOCK = 64  # weights with one scale in nf4: the library's default
THRESHOLD = 6.0  # LLM.int8()'s, and the default of Hugging Face's loaders


def load_library():
    """Imports bitsandbytes.

    With AVX512-BF16 it looks for a package `kernels`, to fetch a kernel from a hub. An engine fetches nothing, and
    the name is that of our Triton kernels: bitsandbytes finds no such package and uses the kernel that it carries.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it would log that the package is missing
    ours = sys.modules.get("kernels")
    sys.modules["kernels"] = None
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingDependency(f"{error}; install bitsandbytes there, or leave --python out") from error
    finally:
        del sys.modules["kernels"]
        if ours is not None:
            sys.modules["kernels"] = ours
    return bitsandbytes


class Quantized:
    """Weights `[rows, cols]` in a module of bitsandbytes; `input` is the type that it multiplies."""

    mapped_bytes = 0

    def __init__(self, tensors: list[Tensor], dtype: torch.dtype, device: str):
        if wrong := next((t for t in tensors if t.type not in PLAIN), None):
            found = f"{wrong.name} is {wrong.type}"
            raise UnsupportedQuant(f"bitsandbytes quantizes 16-bit weights itself: expected an F16, BF16 or F32 file, found {found}")
        weights = torch.cat([as_torch(tensor) for tensor in tensors])
        self.module = self._module(load_library().nn, weights, dtype).to(device).eval()
        for tensor in tensors:
            tensor.release()
        # The first product brings the weights into their last form.
        with torch.no_grad():
            self.module(torch.ones(1, weights.shape[1], dtype=self.input, device=device))
        self.private_bytes = sum(t.nbytes for t in self._held())
        self.settings = {"bitsandbytes": load_library().__version__}
        self.notes = [
            f"Quantized at load by bitsandbytes, in attention and MLP: {self._how()}. Embedding and output head keep 16 bits."
        ]

    @torch.no_grad()
    def gemm(self, x):
        """`[T, cols]` to `[T, rows]` of the same type."""
        return self.module(x.to(self.input)).to(x.dtype)

    gemv = gemm


class Nf4(Quantized):
    """Four bits with a scale for 64 weights, multiplied in the model's 16-bit type."""

    label = "nf4"

    def _module(self, nn, weights, dtype):
        self.input, (rows, cols) = dtype, weights.shape
        if cols % BLOCK:
            # Its blocks would span rows; its CPU kernels then multiply by wrong scales.
            raise Unsupported(f"nf4 in blocks of {BLOCK}: expected rows of a multiple of it, found {cols} weights in a row")
        module = nn.Linear4bit(cols, rows, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
        # Scales as they are: quantizing them too is off by default in Hugging Face's loaders.
        module.weight = nn.Params4bit(weights, requires_grad=False, compress_statistics=False, quant_type="nf4", module=module)
        self.packs = bool(module.support_avx512bf16_for_cpu) and rows % 32 == 0  # its kernel takes 32 rows at a time
        module.support_avx512bf16_for_cpu = self.packs
        return module

    def _held(self):
        return self.module.weight.data, self.module.weight.quant_state.absmax

    def _how(self) -> str:
        if self.input == torch.bfloat16 and self.module.weight.device.type == "cpu":
            how = "its own kernel for AVX512-BF16, scales rounded to bf16" if self.packs else "each product makes the matrix bf16 first"
        else:
            how = "its own kernel"
        return f"nf4, blocks of {BLOCK}, scales not quantized: {how}"


class Int8(Quantized):
    """Eight bits with a scale for a row. Activations are int8 too, but columns with one beyond the threshold f16."""

    label, input = "int8", torch.float16

    def _module(self, nn, weights, _dtype):
        rows, cols = weights.shape
        module = nn.Linear8bitLt(cols, rows, bias=False, has_fp16_weights=False, threshold=THRESHOLD, device="meta")
        module.weight = nn.Int8Params(weights, requires_grad=False, has_fp16_weights=False)
        return module

    def _held(self):
        return self.module.state.CB, self.module.state.SCB

    def _how(self) -> str:
        slow = self.module.weight.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"
        how = "each product makes the matrix f32 first, for lack of AVX-512" if slow else "int8 products"
        return f"int8, a scale for a row, activations int8 but for columns beyond {THRESHOLD:g}, which are f16: {how}"


KINDS = {"nf4": Nf4, "int8": Int8}
