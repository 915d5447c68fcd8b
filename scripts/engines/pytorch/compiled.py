"""Functions that torch.compile compiles in their first call, and the time that this takes."""

import time

import torch

from _shared import CompileFailed


def timed(owner, compiled):
    """Adds the time of calls that compiled something to the `compile_ns` of `owner`, and counts them in its `graphs`."""
    from torch._dynamo.utils import counters

    def call(*args):
        graphs, begin = counters["stats"]["unique_graphs"], time.monotonic_ns()
        try:
            out = compiled(*args)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton")):
                raise CompileFailed(str(error).strip()[:2000]) from error
            raise
        if counters["stats"]["unique_graphs"] != graphs:
            owner.compile_ns += time.monotonic_ns() - begin
            owner.graphs += 1
        return out

    return call
