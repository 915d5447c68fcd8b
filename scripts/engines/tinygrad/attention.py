"""Attention over the cache: kernels in UOps with a symbolic position.

Of the same in tensors tinygrad makes products with four lanes on one thread, which take several times as long; a search of
its own (BEAM=2) takes half a minute and finds kernels that are as fast as these.
"""

from tinygrad import Tensor, UOp
from tinygrad.codegen.opt import Opt, OptOps
from tinygrad.uop.ops import AxisType, KernelInfo, Ops

from _shared.tinygrad_tiles import threaded

LANES = 16  # positions in a block of the keys, which are side by side
LOG2_E = 1.4426950408889634


def attend(q: Tensor, keys: Tensor, values: Tensor, position: UOp, positions: int) -> Tensor:
    """Queries `[kv_heads, heads per kv_head * positions, head_dim]`, scaled, over keys `[kv_heads, blocks, head_dim, 16]` and
    values `[kv_heads, n, head_dim]`: those up to its own for each query. The first query is at `position`, which is bound."""
    heads, rows, dim = q.shape
    end, at = position + positions, position.unbind()[0]
    group = rows // positions

    def scores(out: UOp, q: UOp, keys: UOp) -> UOp:
        h, r, m, lane = UOp.range(heads, 0), UOp.range(group, 1), UOp.range(positions, 2), UOp.range(LANES, 4)
        block, d = UOp.range((at + positions + LANES - 1) // LANES, 3), UOp.range(dim, 5, AxisType.REDUCE)
        row, place = r * positions + m, block * LANES + lane
        y = (q[h, row, d] * keys[h, block, d, lane]).reduce(d, arg=Ops.ADD)
        if positions > 1:
            y = (place <= at + m).where(y, float("-inf"))
        # A range of one is no axis.
        axis = (heads > 1) + (group > 1)
        together = (axis, most(positions)) if positions > 1 else (axis - 1, most(group))
        return kernel("scores", out[h, row, place].store(y), (h, r, m, block, lane), (axis + (positions > 1) + 1, LANES), together)

    def exponents(out: UOp, scores: UOp, largest: UOp) -> UOp:
        h, r, place = UOp.range(heads, 0), UOp.range(rows, 1), UOp.range(at + positions, 2)
        y = ((scores[h, r, place] - largest[h, r]) * LOG2_E).exp2()
        return kernel("exponents", out[h, r, place].store(y), (h, r, place))

    def mixed(out: UOp, weights: UOp, sums: UOp, values: UOp) -> UOp:
        h, r, d, place = UOp.range(heads, 0), UOp.range(rows, 1), UOp.range(dim, 2), UOp.range(at + positions, 3, AxisType.REDUCE)
        y = (weights[h, r, place] * values[h, place, d]).reduce(place, arg=Ops.ADD) / sums[h, r]
        axis = (heads > 1) + (rows > 1)
        return kernel("values", out[h, r, d].store(y), (h, r, d), (axis, most(dim, LANES)), (axis - 1, most(rows)))

    def kernel(name: str, store: UOp, ranges: tuple, *side_by_side: tuple[int, int]) -> UOp:
        opts = [Opt(OptOps.UPCAST, axis, n) for axis, n in side_by_side if n > 1]
        body = store.end(*(r for r in ranges if r.op is Ops.RANGE))
        return body.sink(arg=KernelInfo(name=f"attention_{name}", opts_to_apply=(*opts, *threaded(heads))))

    def run(function, shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
        """`Tensor.custom_kernel` for a kernel that reads the position."""
        held = [t.uop if t.uop.op is Ops.AFTER else t.uop.contiguous() for t in (Tensor.empty(*shape, device="CPU"), *inputs)]
        called = function(*(UOp.placeholder_like(u, slot=i) for i, u in enumerate(held))).call(*held, position)
        return Tensor(held[0].after(called))

    n = values.shape[1]
    found = run(scores, (heads, rows, n), q, keys)
    weights = run(exponents, (heads, rows, n), found, found[:, :, :end].max(-1))
    return run(mixed, (heads, rows, dim), weights, weights[:, :, :end].sum(-1), values)


def most(n: int, limit: int = 4) -> int:
    """The largest power of two that divides n, up to a limit."""
    return min(n & -n, limit)
