"""Tests attention over a part of a cache against plain numpy, for prompts and single tokens, wherever they begin."""

import os
import tempfile

os.environ |= {"XDG_CACHE_HOME": tempfile.mkdtemp(), "DEV": "CPU", "NUM_CPU_THREADS": "2", "PARALLEL": "0"}

import numpy as np
import pytest
from tinygrad import Tensor, TinyJit, UOp

from _shared.test_support import nmse
from _shared.tinygrad_compiler import use_ziglang
from attention import LANES, attend

DIM, N = 64, 64
use_ziglang()


def plain(q, keys, values, position, positions):
    scores = np.einsum("hrd,hnd->hrn", q.astype(np.float64), keys)
    row = np.arange(q.shape[1]) % positions
    scores[:, np.arange(N) > position + row[:, None]] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ values


@pytest.mark.parametrize("heads, group", [(2, 4), (3, 3), (1, 2), (2, 1)])
@pytest.mark.parametrize("positions", [1, 16])
def test_attention_sees_the_cache_up_to_each_position(heads, group, positions):
    rng = np.random.default_rng(0)
    random = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    keys, values, q = random(heads, N, DIM), random(heads, N, DIM), random(heads, group * positions, DIM)
    blocks = np.ascontiguousarray(keys.reshape(heads, N // LANES, LANES, DIM).swapaxes(2, 3))
    tensors = [Tensor(a).realize() for a in (q, blocks, values)]
    run = TinyJit(lambda *given: attend(*given, positions).realize())
    variable = UOp.variable("position", 0, N - positions)
    for position in (0, 1, 15, 16, 33, N - positions):
        assert nmse(run(*tensors, variable.bind(position)).numpy(), plain(q, keys, values, position, positions)) < 1e-11
