"""Removing the records of old runs."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from asyncflow.errors import RunLocked, StorageError
from asyncflow.storage.fs import RealDirectory
from asyncflow.storage.journal import Sight, read_memory
from asyncflow.storage.layout import JOURNAL, LOCK, open_runs
from asyncflow.storage.lock import RunLock, holder_of

__all__ = ["PrunedRun", "prune_runs"]

# Directories in a run's directory that asyncflow makes; what else lies there is not ours.
_DEEPEST: Final = 8


class PrunedRun(msgspec.Struct, frozen=True):
    """A run that was removed, or why it was not; ``finished`` is UTC seconds since the epoch."""

    run_id: str
    length_bytes: int
    last_used: float
    removed: bool
    why_not: str = ""


def prune_runs(
    directory: str | os.PathLike[str],
    older_than_seconds: float,
    *,
    unfinished: bool = False,
    dry_run: bool = False,
) -> Iterator[PrunedRun]:
    """Remove runs that nothing was written to for so long; blocks.

    A run that is held by somebody is never removed, and one that is not finished (or whose record
    is damaged, so that nobody can tell) only if asked for. Links are never followed.

    Args:
        directory: that of the runtime.
        older_than_seconds: how long nothing was written to it.
        unfinished: whether runs that could be resumed are removed, too.
        dry_run: only tell what would be removed.

    Raises:
        FileNotFoundError: nothing was ever recorded there.
        StorageError: the directory is not ours.
    """
    before = time.time() - older_than_seconds
    with open_runs(directory) as runs:
        for name in runs.names():
            found = _look(runs, name, before, unfinished=unfinished, dry_run=dry_run)
            if found is not None:
                yield found


def _look(
    runs: RealDirectory, name: str, before: float, *, unfinished: bool, dry_run: bool
) -> PrunedRun | None:
    """What becomes of a run; None if it is no run, or too young."""
    if not stat.S_ISDIR(_status(runs, name).st_mode):
        return None
    try:
        run = runs.child(name)
    except (StorageError, FileNotFoundError):
        return None  # somebody else's, or gone meanwhile
    with run:
        try:
            used = _status(run, JOURNAL).st_mtime
            sight = read_memory(run)
        except (FileNotFoundError, StorageError):
            return None
        if used >= before:
            return None
        run_id = sight.memory.run_id or name
        length = _length(run)
        why_not = _why_kept(sight, unfinished=unfinished)
        if not why_not and dry_run:
            why_not = _held(run)
        elif not why_not:
            why_not = _remove(runs, run, name, run_id, used)
        return PrunedRun(run_id, length, used, not why_not and not dry_run, why_not)


def _why_kept(sight: Sight, *, unfinished: bool) -> str:
    if unfinished or (sight.damage is None and sight.memory.finished is not None):
        return ""
    what = "its record is damaged" if sight.damage is not None else "it is not finished"
    return f"{what}; --unfinished removes such runs, too"


def _held(run: RealDirectory) -> str:
    holder = holder_of(run)
    return "" if holder is None else f"it is held by process {holder.pid} on {holder.host}"


def _remove(runs: RealDirectory, run: RealDirectory, name: str, run_id: str, used: float) -> str:
    """Remove a run that nobody holds; why not, if somebody does."""
    try:
        lock = RunLock(run, run_id)
    except RunLocked as held:
        return str(held)
    try:
        if _status(run, JOURNAL).st_mtime != used:
            return "it went on meanwhile"
        # The lock goes last: until then nobody else begins a run here.
        _empty(run, keep=LOCK)
        run.remove(LOCK)
    finally:
        lock.release()
    os.rmdir(name, dir_fd=runs.descriptor)
    runs.sync()
    return ""


def _empty(folder: RealDirectory, keep: str = "", depth: int = 0) -> None:
    """Remove what is in a folder, links as links."""
    for name in folder.names():
        if name == keep:
            continue
        if stat.S_ISDIR(_status(folder, name).st_mode):
            if depth >= _DEEPEST:
                raise StorageError(f"{folder.path}/{name} lies too deep to be asyncflow's")
            with folder.child(name) as inner:
                _empty(inner, depth=depth + 1)
            os.rmdir(name, dir_fd=folder.descriptor)
        else:
            folder.remove(name)


def _length(folder: RealDirectory, depth: int = 0) -> int:
    total = 0
    for name in folder.names():
        status = _status(folder, name)
        if stat.S_ISREG(status.st_mode):
            total += status.st_size
        elif stat.S_ISDIR(status.st_mode) and depth < _DEEPEST:
            with folder.child(name) as inner:
                total += _length(inner, depth + 1)
    return total


def _status(folder: RealDirectory, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False)
