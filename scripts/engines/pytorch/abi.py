"""The C library of candle's kernels (crates/candle-abi), which lies beside the program of llm-bench."""

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

from _shared import MissingDependency

ABI = 1  # the version of the C functions that this file calls
SIZE, HANDLE, ADDRESS = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p
FUNCTIONS = {  # results and arguments, as in crates/candle-abi/src/lib.rs
    "last_error": (ctypes.c_char_p,),
    "kernels_new": (HANDLE, SIZE),
    "kernels_isa": (ctypes.c_char_p, HANDLE),
    "kernels_note": (ctypes.c_char_p, HANDLE),
    "rounds": (ctypes.c_int32, HANDLE, ctypes.c_uint32),
    "layer_new": (HANDLE, ADDRESS, SIZE),
    "layer_free": (None, HANDLE),
    "multiply": (ctypes.c_bool, HANDLE, HANDLE, *(ADDRESS, SIZE) * 2),
    "attend": (ctypes.c_bool, HANDLE, *(SIZE,) * 3, ADDRESS, ADDRESS, SIZE, SIZE, *(ADDRESS, SIZE) * 3),
}


class Weights(ctypes.Structure):
    """`Tensor` of the library."""

    _fields_ = [("kind", ctypes.c_uint32), ("rows", SIZE), ("columns", SIZE), ("bytes", ADDRESS), ("len", SIZE)]


class Kernels:
    """The library with threads of its own."""

    def __init__(self, path: Path, threads: int):
        build = "cargo build" if path.parent.name == "debug" else "cargo build --release"
        advice = f"run `{build}` in the source folder of llm-bench, which makes it beside the program"
        if not path.is_absolute():
            raise MissingDependency(f"expected the path of candle's kernels in LLM_BENCH_KERNELS, found '{path}'")
        try:
            library = ctypes.CDLL(str(path))
            found = library.llm_bench_abi()
        except (OSError, AttributeError) as error:
            raise MissingDependency(f"cannot load candle's kernels: {error}; {advice}") from error
        if found != ABI:
            raise MissingDependency(f"{path}: expected version {ABI} of candle's kernels, found {found}; {advice}")
        for name, (result, *arguments) in FUNCTIONS.items():
            function = getattr(library, f"llm_bench_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.handle = self.done(self.kernels_new(threads))
        self.isa = self.kernels_isa(self.handle).decode()
        self.note = self.kernels_note(self.handle).decode()

    def done(self, result):
        """The result of a function, unless it failed."""
        if not result:
            raise RuntimeError(self.last_error().decode())
        return result


@cache
def kernels() -> Kernels:
    """The library, on as many threads as torch has at the first call."""
    return Kernels(Path(os.environ.get("LLM_BENCH_KERNELS", "")), torch.get_num_threads())
