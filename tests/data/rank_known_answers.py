"""Writes rank_known_answers.json: rank tests by enumeration, by scipy and by R's definitions.

    python3 -m venv venv && venv/bin/pip install scipy==1.17.1
    venv/bin/python tests/data/rank_known_answers.py > tests/data/rank_known_answers.json

Everything is on the values as given: `shift` is subtracted from `a`, then `a` is tested against `b`.
`above` is P(rank sum of a >= observed) and `below` is P(... <= observed), over all deals of the
midranks (exact), over all deals within blocks (blocks), or Brunner and Munzel's t (brunner_munzel).
"""

import itertools
import json
import random
from fractions import Fraction

import numpy as np
import scipy
from scipy import stats

rng = random.Random(20261127)


def midranks(values):
    # Rounded, so that a difference that is an exact decimal ties although its floats do not.
    return stats.rankdata(np.round(values, 9))


def deals(ranks, blocks, n_of):
    """All sums of ranks of side a, with every deal within a block equally likely."""
    sums = {0: 1}
    for block in sorted(set(blocks)):
        own = [int(round(2 * r)) for r, b in zip(ranks, blocks) if b == block]
        new = {}
        for chosen in itertools.combinations(own, n_of[block]):
            for s, ways in sums.items():
                new[s + sum(chosen)] = new.get(s + sum(chosen), 0) + ways
        sums = new
    return sums


def tails(a, b, shift, blocks_a=None, blocks_b=None):
    moved = [x - shift for x in a]
    ranks = midranks(moved + list(b))
    blocks = (blocks_a + blocks_b) if blocks_a else [0] * len(ranks)
    n_of = {k: blocks[: len(a)].count(k) for k in set(blocks)}
    sums = deals(ranks, blocks, n_of)
    observed = int(round(2 * sum(ranks[: len(a)])))
    total = sum(sums.values())
    above = Fraction(sum(w for s, w in sums.items() if s >= observed), total)
    below = Fraction(sum(w for s, w in sums.items() if s <= observed), total)
    return float(above), float(below)


def case(name, a, b, shift):
    a, b = [round(x, 6) for x in a], [round(x, 6) for x in b]
    out = {"name": name, "a": a, "b": b, "shift": shift}
    above, below = tails(a, b, shift)
    moved = np.round(np.array(a) - shift, 9)
    if len(set(moved) | set(b)) == len(a) + len(b):
        for side, expected in (("greater", above), ("less", below)):
            p = stats.mannwhitneyu(moved, b, alternative=side, method="exact").pvalue
            assert abs(p / expected - 1) < 1e-9, (name, side, p, expected)
    out["above"], out["below"] = above, below
    differences = sorted(round(x - y, 9) for x in a for y in b)
    out["hodges_lehmann"] = float(np.median(differences))
    lopsided = stats.brunnermunzel(b, moved, alternative="less", distribution="t")
    other = stats.brunnermunzel(b, moved, alternative="greater", distribution="t")
    if np.isfinite(lopsided.statistic):
        out["brunner_munzel"] = [float(lopsided.pvalue), float(other.pvalue)]
    # R's wilcox.test(conf.int = TRUE): order statistics of the differences by the exact quantile.
    n, m = len(a), len(b)
    counts = deals(range(1, n + m + 1), [0] * (n + m), {0: n})
    total, cumulative, k = sum(counts.values()), 0, 0
    for s in sorted(counts):
        cumulative += counts[s]
        if Fraction(cumulative, total) >= Fraction(1, 20):
            break
        k += 1
    if k:
        out["interval90"] = [differences[k - 1], differences[n * m - k]]
    return out


def blocked(name, pattern, a, b, shift):
    blocks_a = [i for i, (n, _) in enumerate(pattern) for _ in range(n)]
    blocks_b = [i for i, (_, m) in enumerate(pattern) for _ in range(m)]
    a, b = [round(x, 6) for x in a], [round(x, 6) for x in b]
    above, below = tails(a, b, shift, blocks_a, blocks_b)
    return {"name": name, "a": a, "b": b, "blocks_a": blocks_a, "blocks_b": blocks_b,
            "shift": shift, "above": above, "below": below}


def normal(n, mean=0.0, sd=1.0):
    return [rng.gauss(mean, sd) for _ in range(n)]


def coarse(n, high):
    return [rng.randint(0, high) / 10 for _ in range(n)]


cases = [
    case("R: depression scale", [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30],
         [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29], 0.0),
    case("R: permeability", [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46],
         [1.15, 0.88, 0.90, 0.74, 1.21], 0.0),
]
for n, m in [(2, 2), (3, 4), (4, 4), (5, 5), (3, 9), (8, 3), (8, 8), (10, 10)]:
    cases.append(case(f"normal {n} and {m}", normal(n, 0.7), normal(m), 0.25))
    cases.append(case(f"ties {n} and {m}", coarse(n, 6), coarse(m, 4), 0.1))
cases.append(case("apart", [3.0, 3.1, 3.2, 3.3, 3.4], [1.0, 1.1, 1.2, 1.3], 0.0))
cases.append(case("scatters differ", normal(8, 0.5, 3.0), normal(8), 0.0))

blocks = []
for name, pattern in [("one ABBA", [(2, 2)]), ("three ABBA", [(2, 2)] * 3),
                      ("six ABBA", [(2, 2)] * 6), ("AB left over", [(2, 2)] * 3 + [(1, 1)]),
                      ("failed launches", [(2, 1), (2, 2), (1, 2), (2, 2)])]:
    n, m = sum(p[0] for p in pattern), sum(p[1] for p in pattern)
    blocks.append(blocked(f"{name}, normal", pattern, normal(n, 0.5), normal(m), 0.2))
    blocks.append(blocked(f"{name}, ties", pattern, coarse(n, 6), coarse(m, 4), 0.1))

note = f"rank_known_answers.py with scipy {scipy.__version__}"
parts = [f'"{name}": [\n' + ",\n".join(json.dumps(c) for c in group) + "\n]"
         for name, group in (("independent", cases), ("blocks", blocks))]
print("{" + f'"note": {json.dumps(note)},\n' + ",\n".join(parts) + "}")
