"""Where the time of a generation goes: one clock, read where one stage of the model ends and the next begins."""

import time


class Spans:
    """Nanoseconds by stage. `sync` waits for the device, so that a stage gets the time of its own work."""

    def __init__(self, sync):
        self._sync, self._ns = sync, {}
        self._last = time.monotonic_ns()

    def end(self, stage: str) -> None:
        """What passed since the last end belongs to `stage`."""
        self._sync()
        now = time.monotonic_ns()
        self._ns[stage] = self._ns.get(stage, 0) + now - self._last
        self._last = now

    def resume(self) -> None:
        """What passed since the last end belongs to no stage."""
        self._last = time.monotonic_ns()

    def take(self) -> dict[str, int]:
        """The times so far; starts again from zero."""
        taken, self._ns = self._ns, {}
        return taken


class _Off:
    """Takes no time."""

    def end(self, stage: str) -> None:
        pass

    def resume(self) -> None:
        pass

    def take(self) -> dict[str, int]:
        return {}


OFF = _Off()
