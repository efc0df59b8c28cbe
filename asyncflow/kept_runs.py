"""Which runs of a runtime are recorded, and where; loads what recording takes when it is used.

Most programs record nothing, and ``import asyncflow`` must stay quick for them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncflow.engine.stored import StorageSettings
from asyncflow.engine.surroundings import clock_of, surroundings_of
from asyncflow.request import RunRequest

if TYPE_CHECKING:
    from asyncflow.checkpoints import Checkpoint, Checkpoints
    from asyncflow.storage.listing import UnfinishedRun
    from asyncflow.storage.writer import Durability

__all__ = ["KeptRuns"]


class KeptRuns:
    """What a runtime was told about recording.

    Args:
        storage: where and with which codecs.
        durability: what a record has to survive before it counts.

    Raises:
        ValueError: there is no such durability.
    """

    def __init__(self, storage: StorageSettings, durability: Durability) -> None:
        if durability not in ("process", "power"):
            raise ValueError(f"durability is 'process' or 'power', not {durability!r}")
        self._storage = storage
        self._durability: Durability = durability
        self._checkpoints: Checkpoints | None = None

    def _load(self) -> Checkpoints:
        from asyncflow.checkpoints import Checkpoints

        return Checkpoints(self._storage, self._durability)

    def unfinished(self) -> list[UnfinishedRun]:
        """The runs that were interrupted and that nobody is at work on, oldest first."""
        from asyncflow.storage.layout import DEFAULT_DIRECTORY
        from asyncflow.storage.listing import unfinished_runs

        return unfinished_runs(self._storage.directory or DEFAULT_DIRECTORY)

    async def open(self, request: RunRequest) -> Checkpoint | None:
        """Open the journal of a run, if it is to be recorded.

        Raises:
            RunLocked, RunConflict, StorageError: see :meth:`Pipeline.run`.
        """
        asked = request.checkpoint
        wanted = self._storage.directory if asked is None else asked
        if wanted is None or wanted is False:
            return None
        loop = asyncio.get_running_loop()
        surroundings = surroundings_of(loop)
        if asked is None and not surroundings.has_cache:
            return None  # nor are runs recorded there, unless one asks for it
        run_id = request.run_id or surroundings.new_run_id()
        if self._checkpoints is None:
            # Importing it would hold the loop for a while.
            self._checkpoints = await loop.run_in_executor(None, self._load)
        return await self._checkpoints.open(request, run_id, clock_of(loop))
