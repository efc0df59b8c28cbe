"""The writer of a journal: one task, its own thread, everything that waits in one write.

The event loop never waits for the disk. Records are framed on the loop and stand in a buffer;
the writer task takes all of them at once and hands them to a thread that does nothing else.
While that writes, the next ones gather. The task is never cancelled by us: a write that goes on
in its thread while the next one begins would tear both.

``durability="process"``: a batch is acknowledged once it is written, and synced a moment
later by another thread. ``"power"``: it is synced first.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
from collections.abc import Callable
from typing import Any, Final, Literal

from aiofiles.threadpool.binary import AsyncFileIO

from asyncflow.errors import StorageError
from asyncflow.storage.faultpoints import is_armed, point
from asyncflow.storage.framing import Chain
from asyncflow.storage.fs import AppendFile
from asyncflow.storage.threads import thread_for

__all__ = ["Durability", "JournalWriter", "explain"]

Durability = Literal["process", "power"]

_SYNC_SECONDS: Final = 0.25
# What nobody waits for goes with the next record that somebody waits for, or alone after this.
_LAZY_SECONDS: Final = 0.005
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalWriter:
    """Appends records to one file and tells when they are safe.

    Args:
        file: open at the end of what ``chain`` knows of.
        chain: makes the frames.
        path: of the file, for messages.
        durability: what "safe" means.
        acknowledge: told the tickets of records that are safe, in their order.
        failed: told once, when nothing more can be made safe.
        gather: called before what waits is taken, so that it can still be added to.
        free_bytes: how much space is left, for messages.
        release: called in the writer's thread when the file is closed.

    Attributes:
        error: why nothing more can be written, once that is so.
    """

    def __init__(
        self,
        file: AppendFile,
        chain: Chain,
        *,
        path: str,
        durability: Durability,
        acknowledge: Callable[[list[Any]], None],
        failed: Callable[[StorageError], None],
        gather: Callable[[], None] = lambda: None,
        free_bytes: Callable[[], int],
        release: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._raw = file
        self._thread = thread_for(self._loop, "asyncflow-journal")
        self._syncing = thread_for(self._loop, "asyncflow-sync")
        unbuffered: Any = file
        asked: Any = self._thread
        self._file: Any = AsyncFileIO(unbuffered, loop=asked, executor=asked)
        self._chain = chain
        self._path = path
        self._power = durability == "power"
        self._acknowledge, self._failed = acknowledge, failed
        self._gather, self._free_bytes, self._release = gather, free_bytes, release
        self.error: StorageError | None = None
        self._frames: list[bytes] = []
        self._tickets: list[Any] = []
        # Whether records wait; marks alone are no reason to write.
        self._waiting = False
        self._wanted = asyncio.Event()
        self._closing = False
        self._written = self._synced = chain.offset
        self._written_records = self._synced_records = chain.records
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._sync: asyncio.Future[None] | None = None
        self._task = self._loop.create_task(
            self._write_on(), name=f"journal {path}", context=contextvars.Context()
        )

    def append(self, payload: bytes, ticket: Any = None, *, lazily: bool = False) -> None:
        """Have a record written after those before it.

        Args:
            payload: the encoded record.
            ticket: given back by ``acknowledge`` once the record is safe; None for none.
            lazily: it may wait a few milliseconds for others to go with it.
        """
        self._frames.append(self._chain.frame(payload))
        if ticket is not None:
            self._tickets.append(ticket)
        self.want(lazily=lazily)

    def want(self, *, lazily: bool = False) -> None:
        """Have ``gather`` called and what waits written, at once or a few milliseconds later."""
        if self._waiting:
            return
        if not lazily:
            self._waiting = True
            self._wanted.set()
        elif self._later is None:
            self._later = self._loop.call_later(_LAZY_SECONDS, self._want_now)

    def _want_now(self) -> None:
        self._later = None
        self.want()

    async def close(self) -> None:
        """Write and sync what waits, and let go of the file; waits for that however often the
        caller is cancelled."""
        self._closing = True
        self._wanted.set()
        cancelled: asyncio.CancelledError | None = None
        while not self._task.done():
            try:
                # Without the shield a cancelled caller would cancel the write.
                await asyncio.shield(self._task)
            except asyncio.CancelledError as error:
                if not self._task.done():
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    # -- the task ------------------------------------------------------------------------

    async def _write_on(self) -> None:
        try:
            while self.error is None:
                if self._waiting:
                    await self._write_batch()
                elif self._closing:
                    await self._finish()
                    break
                else:
                    self._wanted.clear()
                    await self._wanted.wait()
        except OSError as error:
            self._poison(error)
        finally:
            await self._let_go()

    async def _write_batch(self) -> None:
        self._gather()
        if not self._frames:
            self._waiting = False  # it has gone with others meanwhile
            return
        batch = self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)
        tickets = self._tickets
        self._frames, self._tickets, self._waiting = [], [], False
        end, records = self._chain.offset, self._chain.records
        point("before-write")
        await self._put(batch)
        point("after-write")
        self._written, self._written_records = end, records
        if self._power:
            await self._sync_now(end, records)
        elif self._timer is None and self._sync is None:
            self._timer = self._loop.call_later(_SYNC_SECONDS, self._sync_in_background)
        if tickets:
            self._acknowledge(tickets)
            point("after-acknowledge")

    async def _put(self, batch: bytes) -> None:
        view = memoryview(batch)
        if is_armed("mid-write"):
            half = len(view) // 2
            await self._file.write(view[:half])
            point("mid-write")
            view = view[half:]
        done = await self._file.write(view)
        while done < len(view):
            done += await self._file.write(view[done:])

    # -- syncing -------------------------------------------------------------------------

    async def _sync_now(self, end: int, records: int) -> None:
        """Sync what stands before ``end``, and note that in a mark that goes with what follows.

        A sync that failed is never tried again: the system may have marked the lost pages as
        clean, and a second one would succeed without writing anything.
        """
        point("before-sync")
        try:
            await self._thread.run_in_executor(None, self._raw.sync)
        except OSError as error:
            raise _SyncFailed from error
        point("after-sync")
        self._mark(end, records)

    def _mark(self, end: int, records: int) -> None:
        self._synced, self._synced_records = end, records
        self._frames.append(self._chain.mark(end))

    def _sync_in_background(self) -> None:
        self._timer = None
        if self._sync is not None or self.error is not None or self._closing:
            return
        if self._written == self._synced:
            return
        end, records = self._written, self._written_records
        point("before-sync")
        self._sync = self._syncing.run_in_executor(None, self._raw.sync)
        self._sync.add_done_callback(lambda done: self._synced_in_background(done, end, records))

    def _synced_in_background(self, done: asyncio.Future[None], end: int, records: int) -> None:
        self._sync = None
        if done.cancelled() or self.error is not None:
            return
        error = done.exception()
        if error is None:
            point("after-sync")
            self._mark(end, records)
        elif isinstance(error, OSError):
            self._poison(_SyncFailed.of(error))
            self._wanted.set()
        else:
            raise error

    # -- the end -------------------------------------------------------------------------

    async def _finish(self) -> None:
        point("before-close")
        if self._sync is not None:
            await asyncio.wait([self._sync])
        if self.error is not None:
            return
        if self._written != self._synced:
            await self._sync_now(self._written, self._written_records)
        if self._frames:
            await self._put(b"".join(self._frames))

    async def _let_go(self) -> None:
        for timer in (self._timer, self._later):
            if timer is not None:
                timer.cancel()
        # In the writer's thread: whatever is still being written there comes first.
        closing = self._thread.run_in_executor(None, self._close_file)
        self._thread.close()
        self._syncing.close()
        await asyncio.shield(closing)

    def _close_file(self) -> None:
        try:
            self._raw.close()
        finally:
            self._release()

    def _poison(self, error: OSError) -> None:
        """Nothing more is written or acknowledged."""
        if self.error is None:
            self.error = self._explained(error)
            self._failed(self.error)

    def _explained(self, error: OSError) -> StorageError:
        if isinstance(error, _SyncFailed):
            return StorageError(
                f"the journal {self._path} could not be synced ({error.reason}): the state on "
                f"disk is unknown after record {self._synced_records}; nothing more is recorded, "
                "look at the disk, then resume the run",
                path=self._path,
            )
        waiting = self._chain.offset - self._written
        return explain(error, f"the journal {self._path}", self._path, waiting, self._free_bytes)


class _SyncFailed(OSError):
    """A sync reported an error."""

    @classmethod
    def of(cls, error: OSError) -> _SyncFailed:
        failed = cls()
        failed.__cause__ = error
        return failed

    @property
    def reason(self) -> str:
        cause = self.__cause__
        return str(cause.strerror or cause) if isinstance(cause, OSError) else "unknown"


def explain(
    error: OSError, what: str, path: str, needed: int, free_bytes: Callable[[], int]
) -> StorageError:
    """Why something could not be written, in words."""
    reason = error.strerror or os.strerror(error.errno or 0)
    if error.errno not in _NO_SPACE:
        said = f"{what} could not be written: {reason}; mend that, then resume the run"
    else:
        said = (
            f"{what} could not be written: {reason}; {needed:,} bytes were needed and "
            f"{free_bytes():,} are free; make room, then resume the run"
        )
    explained = StorageError(said, path=path)
    explained.__cause__ = error
    return explained
