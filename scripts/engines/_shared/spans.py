"""Shows where the time of a generation goes: one clock, read between the stages of the model."""

import time


class Spans:
    """Nanoseconds by stage. `sync` waits for the device, so that each stage gets its own time."""

    def __init__(self, sync):
        self._sync, self._ns = sync, {}
        self._last = time.monotonic_ns()

    def end(self, stage: str) -> None:
        """Assigns the time since the last end to `stage`."""
        self._sync()
        now = time.monotonic_ns()
        self._ns[stage] = self._ns.get(stage, 0) + now - self._last
        self._last = now

    def resume(self) -> None:
        """Assigns the time since the last end to no stage."""
        self._last = time.monotonic_ns()

    def take(self) -> dict[str, int]:
        """The times so far; restarts from zero."""
        taken, self._ns = self._ns, {}
        return taken


class _Off:
    """Measures nothing."""

    def end(self, stage: str) -> None:
        pass

    def resume(self) -> None:
        pass

    def take(self) -> dict[str, int]:
        return {}


OFF = _Off()
