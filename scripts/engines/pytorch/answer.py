"""Generations that are read while they come: sampled, stopped, on a kept cache. Measured ones are Model.generate."""

import time
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Sampling:
    """Draws token ids by the definition in docs/PROTOCOL.md; ValueError for values outside their range."""

    temperature: float
    top_p: float
    seed: int

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: expected a number above 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: expected above 0 and at most 1")

    def draw(self, logits: np.ndarray, step: int) -> int:
        """The id at generation step `step`, from 0, of float32 logits `[vocab]`."""
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


@torch.inference_mode()
def answer(model, prompt: list[int], n: int, sampling, stop, reuse: bool, emit, cancelled):
    """At most n ids; `emit(id, ns)` gets each as it comes, `cancelled()` is asked before each.

    Returns ids, the time the prompt's logits were there, the time of each id (ns), and how many positions of the
    prompt the cache held already.
    """
    ids = model._ids(prompt, n)
    reused = 0
    if reuse:
        same = next((i for i, (a, b) in enumerate(zip(model.held, prompt)) if a != b), min(len(model.held), len(prompt)))
        reused = min(same, len(prompt) - 1)
    logits = model.prefill(ids[reused:], reused)
    model.sync()
    prefill_end = time.monotonic_ns()
    model.held = list(prompt)
    tokens, times = [], []
    position = torch.tensor([len(prompt)], device=model.device)
    token = None if sampling else logits.argmax(-1, keepdim=True)
    while len(tokens) < n and not cancelled():
        if tokens:
            if sampling:
                logits = model.decode_logits(torch.tensor([tokens[-1]], device=model.device), position)
            else:
                token = model.decode_one_token(token, position).clone()
            model.held.append(tokens[-1])
            position += 1
        tokens.append(sampling.draw(logits.cpu().numpy(), len(tokens)) if sampling else token.item())
        times.append(time.monotonic_ns())
        emit(tokens[-1], times[-1])
        if tokens[-1] in stop:
            break
    return tokens, prefill_end, times, reused
