"""Which runs a runtime can still be asked for."""

from __future__ import annotations

from collections.abc import Iterator

from asyncflow.graph.names import nearest
from asyncflow.run import Run

__all__ = ["OwnedRuns"]


class OwnedRuns:
    """The runs in progress, and the last of its own that ended.

    Whoever awaited ``pipeline.run()`` has the result; kept here as well, its values would
    stay in memory.

    Args:
        max_finished: how many that have ended are kept.
    """

    def __init__(self, max_finished: int) -> None:
        self._max_finished = max_finished
        self._runs: dict[str, Run] = {}
        self._owned: dict[str, None] = {}
        self._ended: dict[str, None] = {}

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __getitem__(self, run_id: str) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            raise KeyError(f"this runtime has no run {run_id!r}{nearest(run_id, self._runs)}")
        return run

    def add(self, run: Run) -> None:
        """Keep a run while it is in progress."""
        self._ended.pop(run.id, None)
        self._owned.pop(run.id, None)  # the id was used before
        self._runs.pop(run.id, None)
        self._runs[run.id] = run
        run.call_at_end(self._forget)

    def own(self, run: Run) -> None:
        """Keep a run when it has ended, too."""
        self._owned[run.id] = None

    def _forget(self, run_id: str) -> None:
        if run_id not in self._owned:
            self._runs.pop(run_id, None)
            return
        self._ended[run_id] = None
        while len(self._ended) > self._max_finished:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._owned[oldest], self._runs[oldest]
