"""The runs in a directory, looked at without holding any of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import msgspec

from asyncflow.errors import StorageError
from asyncflow.storage.framing import HEADER_BYTES, Chain, WrongHeader, read_header, synced_by
from asyncflow.storage.fs import RealDirectory
from asyncflow.storage.layout import JOURNAL, open_runs
from asyncflow.storage.lock import holder_of
from asyncflow.storage.records import Happened, Life, decode

__all__ = ["UnfinishedRun", "run_directories", "unfinished_runs"]

_BEGIN_BYTES: Final = 4096
_END_BYTES: Final = 64 * 1024
_FINISHED: Final = b"RunFinished"


class UnfinishedRun(msgspec.Struct, frozen=True):
    """A recorded run that was interrupted: the same call with its ``run_id`` resumes it.

    ``started_at`` is UTC, in seconds since the epoch, of its first life.
    """

    run_id: str
    pipeline_name: str
    started_at: float
    directory: str


def run_directories(directory: str | os.PathLike[str]) -> Iterator[RealDirectory]:
    """The directories of the runs that are there, one after the other; each is closed after."""
    try:
        runs = open_runs(directory)
    except FileNotFoundError:
        return
    with runs:
        for name in runs.names():
            try:
                found = runs.child(name)
            except (StorageError, FileNotFoundError):
                continue  # not a directory of ours, or removed just now
            with found:
                yield found


def unfinished_runs(directory: str | os.PathLike[str]) -> list[UnfinishedRun]:
    """The runs that were interrupted and that nobody is at work on, oldest first.

    Nested runs are left out: resuming the run that they are part of resumes them. It looks at
    the beginning and at the end of each journal only.
    """
    found = []
    for run in run_directories(directory):
        life = _first_life_of_unfinished(run)
        if life is not None and not life.parent and holder_of(run) is None:
            where = os.fspath(directory)
            found.append(UnfinishedRun(life.run_id, life.pipeline, life.wall, where))
    return sorted(found, key=lambda run: run.started_at)


def _first_life_of_unfinished(run: RealDirectory) -> Life | None:
    try:
        descriptor = run.open(JOURNAL, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        length = os.fstat(descriptor).st_size
        begin = os.pread(descriptor, _BEGIN_BYTES, 0)
        end = os.pread(descriptor, _END_BYTES, max(0, length - _END_BYTES))
    finally:
        os.close(descriptor)
    try:
        nonce = read_header(begin)
    except WrongHeader:
        return None
    if nonce is None or ends_finished(end, nonce):
        return None
    return _first_life(begin, nonce)


def _first_life(begin: bytes, nonce: bytes) -> Life | None:
    payload = Chain(nonce).peek(begin, HEADER_BYTES)
    if payload is None:
        return None
    try:
        record = decode(payload)
    except msgspec.MsgspecError:
        return None
    return record if isinstance(record, Life) else None


def ends_finished(end: bytes, nonce: bytes) -> bool:
    """Whether the last record of a journal, marks apart, says that the run is over.

    Args:
        end: the last bytes of the file.
    """
    chain = Chain(nonce)
    found = end.rfind(_FINISHED)
    while found >= 0:
        for start in range(found, max(-1, found - 128), -1):
            payload = chain.peek(end, start)
            if payload is not None and _is_finish(payload):
                return _only_marks(chain, end, start + 12 + len(payload))
        found = end.rfind(_FINISHED, 0, found)
    return False


def _is_finish(payload: bytes) -> bool:
    try:
        record = decode(payload)
    except msgspec.MsgspecError:
        return False
    return isinstance(record, Happened) and record.event.get("kind") == "RunFinished"


def _only_marks(chain: Chain, end: bytes, offset: int) -> bool:
    while offset < len(end):
        payload = chain.peek(end, offset)
        if payload is None or synced_by(payload, chain.nonce) is None:
            return False
        offset += 12 + len(payload)
    return True
