"""The run lock: one host for each run, and it says who that is.

It is a ``flock`` on the file ``lock`` in the run's directory, freed by the system when its
holder dies, however it dies. Programs that are started do not inherit it, and children that a
step forks let go of it. A stopped process (SIGSTOP) keeps it: it may go on.

On NFS, Linux turns ``flock`` into a lock of the server's, which works between hosts as well as
the server's lock daemon does; a file system without locks is refused.
"""

from __future__ import annotations

import errno
import os
import socket
import time
import weakref
from datetime import UTC, datetime
from typing import Final

import msgspec

from asyncflow.errors import RunLocked, StorageError
from asyncflow.storage.fs import RealDirectory
from asyncflow.storage.layout import LOCK

__all__ = ["Holder", "RunLock", "holder_of"]

# Between taking the lock and writing the name into it lies a moment, and who only looks whether
# a run is held (holder_of) holds it for an instant.
_LOOKS: Final = 50
_LOOK_SECONDS: Final = 0.002
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Holder(msgspec.Struct, frozen=True):
    """Who holds a run; ``since`` is UTC, as text."""

    pid: int
    host: str
    since: str


class RunLock:
    """The lock of one run, once it was taken.

    Raises:
        RunLocked: somebody else has it.
        StorageError: the file system has no locks, or the file is not ours.
    """

    def __init__(self, directory: RealDirectory, run_id: str) -> None:
        self._descriptor = _take(directory, run_id)
        _HELD.add(self)
        said = Holder(os.getpid(), socket.gethostname(), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(said) + b"\n", 0)

    def release(self) -> None:
        """Let others have it; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _HELD.discard(self)
            os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def let_go_in_child(self) -> None:
        """Close a forked child's copy, which would keep the lock when the parent dies."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


# Those of this process, for children that are forked from it.
_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_HELD):
        lock.let_go_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def _take(directory: RealDirectory, run_id: str) -> int:
    path = os.path.join(directory.path, LOCK)
    looks = 0
    while True:
        descriptor = directory.open(LOCK, os.O_RDWR | os.O_CREAT)
        try:
            if not _try(descriptor, path):
                holder = _read(descriptor)
                looks += 1
                if looks > _LOOKS or (holder is not None and _lives(holder)):
                    raise _locked(holder, path, run_id)
            # Whoever removes a run removes the file that it has locked.
            elif os.fstat(descriptor).st_nlink:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if looks:
            time.sleep(_LOOK_SECONDS)


def _try(descriptor: int, path: str) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise StorageError(
                f"the file system of {path} has no locks ({error.strerror}), so nothing would "
                "keep two hosts from one run; keep runs on another one",
                path=path,
            ) from error
        raise
    return True


def _lives(holder: Holder) -> bool:
    """Whether the named holder may be the one; a name that was left behind is not."""
    if holder.host != socket.gethostname():
        return True
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _locked(holder: Holder | None, path: str, run_id: str) -> RunLocked:
    if holder is None:
        return RunLocked(f"run {run_id!r} is held by another process", path=path, run_id=run_id)
    return RunLocked(
        f"run {run_id!r} is held by process {holder.pid} on {holder.host} since {holder.since} "
        "UTC; wait for its end, or end it",
        path=path,
        run_id=run_id,
        pid=holder.pid,
        host=holder.host,
        since=holder.since,
    )


def _read(descriptor: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 4096, 0), type=Holder)
    except msgspec.MsgspecError:
        return None  # nothing yet, or a part of it


def holder_of(directory: RealDirectory) -> Holder | None:
    """Who holds a run at this moment; None if nobody does.

    It takes a shared lock for an instant, which two who look do not mind.
    """
    import fcntl

    try:
        descriptor = directory.open(LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor) or Holder(0, "", "")
    finally:
        os.close(descriptor)
    return None
