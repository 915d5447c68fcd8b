"""Compiles kernels.cu with NVRTC: machine code for each kind of card, and portable code for the others.

    compile.py FOLDER-OF-PACKAGES FOLDER-OF-SOURCES [--check]
"""

import ctypes
import sys
from pathlib import Path

# File → architecture; NVRTC makes machine code for sm_…, text (PTX) for compute_….
IMAGES = {"kernels.sm_90.cubin": "sm_90", "kernels.compute_80.ptx": "compute_80"}
OTHERS = ["sm_80", "sm_100"]


def main(packages, sources, check):
    library = next(Path(packages).glob("nvidia/**/libnvrtc.so.*"))
    # The compiler opens its companion by name, so it must be loaded already.
    for companion in library.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(companion), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(library))
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    failed = 0
    for name, architecture in IMAGES.items():
        made = compiled(nvrtc, sources, architecture)
        path = Path(sources) / "built" / name
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(made)
            print(f"{path}: {len(made)} bytes")
        elif not path.is_file() or path.read_bytes() != made:
            print(f"error: {path} is not what the source gives; run scripts/cuda/kernels", file=sys.stderr)
            failed = 1
        else:
            print(f"{path}: as the source gives it")
    if check:
        # Cards that are given the portable form: it must compile for them too.
        for architecture in OTHERS:
            print(f"{architecture}: compiles, {len(compiled(nvrtc, sources, architecture))} bytes")
    return failed


def compiled(nvrtc, sources, architecture):
    """The image of kernels.cu for one architecture."""

    def call(what, *arguments):
        code = getattr(nvrtc, what)(*arguments)
        if code != 0 and what != "nvrtcCompileProgram":
            raise SystemExit(f"error: {what}: {nvrtc.nvrtcGetErrorString(code).decode()}")
        return code

    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text = (Path(sources) / "kernels.cu").read_bytes()
    call("nvrtcCreateProgram", ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={architecture}", f"--include-path={sources}", "--std=c++17", "--no-source-include"]
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    if call("nvrtcCompileProgram", program, len(options), given) != 0:
        call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        call("nvrtcGetProgramLog", program, log)
        raise SystemExit(f"error: kernels.cu for {architecture}:\n{log.value.decode()}")
    kind = "CUBIN" if architecture.startswith("sm_") else "PTX"
    call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
    image = ctypes.create_string_buffer(size.value)
    call(f"nvrtcGet{kind}", program, image)
    # The text ends with a zero, which a file does not need.
    return image.raw.rstrip(b"\0") if kind == "PTX" else image.raw


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], "--check" in sys.argv[3:]))
