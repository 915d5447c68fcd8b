"""How tinygrad compiles for the CPU here: with Clang, which the package ziglang carries on every platform, and which is
left to find the vectors."""

import os
import subprocess
from importlib.metadata import version
from types import SimpleNamespace

import ziglang
from tinygrad.renderer.cstyle import ClangRenderer
from tinygrad.runtime.support import compiler_cpu

ZIG = os.path.join(os.path.dirname(ziglang.__file__), "zig")


def use_ziglang() -> str:
    """Lets tinygrad compile with it; returns its version. tinygrad calls one program, and zig needs one word more."""
    run = lambda command, **options: subprocess.check_output([ZIG, "clang", *command[1:]], **options)
    compiler_cpu.subprocess = SimpleNamespace(check_output=run)
    # tinygrad writes vectors of four, which Clang does not join. From plain statements it makes vectors of sixteen.
    ClangRenderer.supports_float4 = False
    return version("ziglang")
