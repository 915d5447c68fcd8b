"""Measures which path of linear.py is fastest on this processor for each type of weights, and remembers it.

The largest tensor of each type in the file is multiplied through every path that takes it: by one position with
weights out of cache (decode), and by 128 positions through every type of products (prefill). A path that fails,
or whose product is farther from float32 than its arithmetic explains, is out. Among the rest, the path is taken
that needs the least time for 128 positions of prefill and 128 steps; an earlier one in PATHS is kept if no other
is a tenth faster, so that noise does not decide.

Not among the paths, because they round the file's weights anew, to one scale for a whole row:
`_weight_int8pack_mm`, FBGEMM and oneDNN in int8.
"""

import copy
import hashlib
import json
import os
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from _shared import Unsupported
from _shared.gguf_reader import Gguf, Tensor
from linear import PATHS, Choice, dense, dense_tiles, fits, short, tune_inductor

ROWS, POSITIONS, STEPS = 8192, 128, 128
BEYOND_CACHE, MOST_COPIES = 256 << 20, 16  # bytes of weights that a round of products reads; of copies at most
SMALL = 1 << 20  # weights of a tensor below which nothing is measured: they stay in the cache
CLEARLY = 1.1  # how many times faster a later path must be
# Limits of the NMSE of a product by its arithmetic: those of METHODOLOGY.md for a whole model.
LIMITS = {"f32": 1e-9, "f16": 1e-5, "bf16": 1e-3}
BF16, F32 = torch.bfloat16, torch.float32
PRODUCTS = {"int4pack": (None,), "tiles": (BF16, F32), "bf16": (BF16, F32), "f16": (BF16, F32), "f32": (F32,)}
# Variables that change which kernels run.
KERNELS = ("ATEN_", "DNNL_", "ONEDNN_", "MKL_", "OMP_", "KMP_", "GOMP_", "TORCHINDUCTOR_CPP_", "CXX")


class Found:
    """What is known about the types of one file; measures what is not known yet. `forced` names a path for all
    types that have it."""

    def __init__(self, path: str, compiled: bool, forced: str | None = None):
        if forced is not None and forced not in PATHS:
            raise Unsupported(f"path: expected one of {', '.join(PATHS)}, found '{forced}'")
        self.compiled, self.forced, self.seconds, self.unkept = compiled, forced, None, None
        self.taken: dict[str, set[str]] = {}  # by type: the paths of its layers and their products
        store, stat = _store(compiled), os.stat(path)
        known, name = _read(store), f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}"
        of_file = known["files"].get(name)
        if of_file is None or not all(_whole(known["types"].get(entry)) for entry in of_file.values()):
            begin = time.monotonic()
            of_file = known["files"][name] = self._measure(path, known["types"])
            try:
                if of_file:
                    self.seconds = time.monotonic() - begin
                    _write(store, known)
            except OSError as error:
                self.unkept = f"{store}: {error.strerror}"
        self.entries = of_file
        self.measured = {kind: known["types"][entry] for kind, entry in of_file.items()}

    def _measure(self, path: str, types: dict) -> dict[str, str]:
        largest: dict[str, Tensor] = {}
        for tensor in Gguf(path).tensors.values():
            seen = largest.get(tensor.type)
            if tensor.rows * tensor.cols >= SMALL and (seen is None or tensor.raw.nbytes > seen.raw.nbytes):
                largest[tensor.type] = tensor
        entries = {}
        for kind, t in largest.items():
            rows = min(t.rows, ROWS)
            entries[kind] = f"{kind} {rows}x{t.cols}"
            if not _whole(types.get(entries[kind])):
                types[entries[kind]] = measure(Tensor(t.name, kind, rows, t.cols, t.raw[:rows]), self.compiled)
                t.release()
        return entries

    def choice(self, kind: str, rows: int, lookup: bool = False) -> Choice | None:
        """For layers of this type and number of rows; None if nothing was measured."""
        paths = [path for path in PATHS if fits(path, kind, rows, lookup, self.compiled)]
        found = decide(self.measured.get(kind), paths, self.forced)
        taken = self.taken.setdefault(kind, set())
        if found:
            how = found.path if found.products is None else f"{found.path}, prefill {short(found.products)}"
            taken.add(how)
        return found

    def check(self):
        """Raises if a forced path served no layer of the model."""
        if self.forced and not any(how.split(",")[0] == self.forced for taken in self.taken.values() for how in taken):
            suits = [p for p in PATHS if any(fits(p, kind, 64, compiled=self.compiled) for kind in self.taken)]
            raise Unsupported(f"path '{self.forced}': no layer of this file can take it here; there are {', '.join(suits)}")

    def settings(self) -> dict[str, str]:
        """The path of each type."""
        return {f"path of {kind}": " and ".join(sorted(taken)) for kind, taken in self.taken.items() if taken}

    def notes(self) -> list[str]:
        """Why: the times of all paths."""
        notes = []
        for kind, m in self.measured.items():
            if not self.taken.get(kind):
                continue
            times = lambda of: ", ".join(f"{name} {ms:.3g}" for name, ms in m[of].items())
            why = "forced" if self.forced else "fastest here"
            notes.append(
                f"{kind}: {' and '.join(sorted(self.taken[kind]))} ({why}). Measured ms of a {self.entries[kind].split()[1]} product: "
                f"decode {times('decode')}; prefill of {POSITIONS} {times('prefill')}."
                + "".join(f" Out: {path}, {reason}." for path, reason in m["wrong"].items())
            )
        if self.seconds is not None:
            kept = f"not kept: {self.unkept}" if self.unkept else "kept for later processes"
            notes.append(f"The paths were measured in this process, {self.seconds:.1f} s before the load; {kept}.")
        return notes


def decide(measured: dict | None, paths: list[str], forced: str | None = None) -> Choice | None:
    """The fastest of `paths`, with the fastest type of products in prefill."""
    if measured is None or forced in paths:
        return Choice(forced, _products(forced, measured)) if forced in paths else None
    right = [path for path in paths if path in measured["decode"]]
    if not right:
        return None
    whole = {path: STEPS * measured["decode"][path] + _prefill(path, measured)[0] for path in right}
    least = min(whole.values())
    path = next(path for path in right if whole[path] <= CLEARLY * least)
    return Choice(path, _products(path, measured))


def _prefill(path: str, measured: dict) -> tuple[float, torch.dtype | None]:
    times = {kind: measured["prefill"].get(_name(path, kind)) for kind in PRODUCTS[path]}
    return min(((ms, kind) for kind, ms in times.items() if ms is not None), key=lambda pair: pair[0])


def _products(path: str, measured: dict | None) -> torch.dtype | None:
    if measured is None or path not in measured["decode"]:
        return PRODUCTS[path][0]
    return _prefill(path, measured)[1]


def _name(path: str, products: torch.dtype | None) -> str:
    return path if products is None else f"{path}/{short(products)}"


def measure(tensor: Tensor, compiled: bool) -> dict:
    """Milliseconds of each right path, `decode` by path and `prefill` by path and products; `wrong` with reasons."""
    found: dict = {"decode": {}, "prefill": {}, "wrong": {}}
    x = torch.randn(POSITIONS, tensor.cols, generator=torch.Generator().manual_seed(0))
    expected = F.linear(x, dense(tensor, torch.float32))
    wrap = lambda f: f
    if compiled:
        tune_inductor()
        wrap = lambda f: torch.compile(f, fullgraph=True, dynamic=False)
    with torch.inference_mode():
        for path, make in PATHS.items():
            if not fits(path, tensor.type, tensor.rows, compiled=compiled):
                continue
            if compiled:
                torch._dynamo.reset()  # what was compiled for the paths before counts towards a limit
            try:
                layer = make([tensor], Choice(path, PRODUCTS[path][-1]))
                gemv, to_dense = wrap(lambda layer, x: layer.gemv(x)), wrap(dense_tiles)
                if reason := _wrong(gemv(layer, x[:1]), expected[:1], layer.compute):
                    found["wrong"][path] = reason
                    continue
                prefill = {}
                for products in PRODUCTS[path]:
                    typed = copy.copy(layer)
                    typed.products, typed.to_dense = products, to_dense
                    if not _wrong(typed.gemm(x), expected, "bf16" if products == BF16 else layer.compute):
                        prefill[_name(path, products)] = _fastest([lambda: typed.gemm(x)])
                if not prefill:
                    found["wrong"][path] = "its prefill is far from float32"
                    continue
                size = layer.private_bytes + layer.mapped_bytes
                copies = min(MOST_COPIES, -(-BEYOND_CACHE // size))
                layers = [layer, *(_copied(layer) for _ in range(copies - 1))]
                found["decode"][path] = _fastest([lambda layer=layer: gemv(layer, x[:1]) for layer in layers])
                found["prefill"] |= prefill
            except MemoryError:
                raise
            except Exception as error:  # a compiler or an operator that this machine lacks
                found["wrong"][path] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    return found


def _wrong(y: torch.Tensor, expected: torch.Tensor, compute: str) -> str | None:
    error = float((y.double() - expected).square().sum() / expected.double().square().sum())
    return None if error <= LIMITS[compute] else f"NMSE of its product {error:.1e}, limit {LIMITS[compute]:.0e} for {compute}"


def _copied(layer):
    other = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, torch.Tensor):
            setattr(other, name, value.clone())
    return other


def _fastest(calls: list, least: float = 0.1, most: float = 1.5) -> float:
    """Milliseconds of one call: the least mean of a round over all. Other programs make rounds slower, so it ends
    when the three fastest agree, or after `most` seconds."""
    rounds, begin = [], time.perf_counter()
    for call in calls:
        call()
    while (spent := time.perf_counter() - begin) < most:
        start = time.perf_counter()
        for call in calls:
            call()
        rounds = sorted([*rounds, (time.perf_counter() - start) / len(calls)])
        if spent > least and len(rounds) > 2 and rounds[2] < 1.05 * rounds[0]:
            break
    return round(1e3 * rounds[0], 4)


def _store(compiled: bool) -> Path:
    """The file for this processor, its instructions in use, threads, library and code."""
    cpu = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        same = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "CPU part")
        cpu = [line for line in lines if line.split(":")[0].strip() in same] or cpu
    except OSError:
        pass
    code = [(Path(__file__).parent / name).read_text() for name in ("linear.py", "probe.py")]
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(KERNELS))
    isa = torch.backends.cpu.get_cpu_capability()
    key = [cpu, isa, variables, torch.get_num_threads(), torch.__version__, compiled, code]
    cache = os.environ.get("LLM_BENCH_CACHE") or Path.home() / ".cache" / "llm-bench"
    return Path(cache) / "probe" / f"pytorch-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"


def _read(store: Path) -> dict:
    """What was kept; nothing if the file is not there or damaged."""
    try:
        known = json.loads(store.read_text())
        if isinstance(known["types"], dict) and all(isinstance(entries, dict) for entries in known["files"].values()):
            return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {"types": {}, "files": {}}


def _whole(entry) -> bool:
    """Whether these are measurements as `measure` gives them."""
    try:
        times = [*entry["decode"].values(), *entry["prefill"].values()]
        return all(ms > 0 for ms in times) and all(_prefill(path, entry) for path in entry["decode"]) and isinstance(entry["wrong"], dict)
    except (TypeError, KeyError, ValueError, AttributeError):
        return False


def _write(store: Path, known: dict) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    part = store.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(known, indent=1))
    part.replace(store)
