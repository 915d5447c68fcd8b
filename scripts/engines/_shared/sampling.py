"""Draws token ids from logits as docs/PROTOCOL.md defines, so that equal logits give equal text in every engine."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """The settings of a generation; ValueError if a value is outside its range."""

    temperature: float
    top_p: float
    seed: int

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: expected a number above 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: expected above 0 and at most 1")

    def draw(self, logits: np.ndarray, step: int) -> int:
        """The id for generation step `step`, from 0, from float32 logits `[vocab]`."""
        top = int(np.where(np.isnan(logits), -np.inf, logits).argmax())
        if not np.isfinite(logits[top]):
            return top
        ids = np.flatnonzero(logits > -np.inf)
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        sums = np.cumsum(np.exp((logits[ids].astype(np.float64) - float(logits[top])) / self.temperature))
        kept = sums[: np.searchsorted(sums, self.top_p * sums[-1], side="left") + 1]
        drawn = np.searchsorted(kept, uniform(self.seed, step) * kept[-1], side="right")
        return int(ids[min(drawn, len(kept) - 1)])


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) with 53 bits: SplitMix64 at this step of this seed."""
    mask = (1 << 64) - 1
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)
