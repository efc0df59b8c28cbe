"""A directory that forgets what was not synced, and fails when it is told to.

It stands in for the file system under everything in :mod:`asyncflow.storage`. What was written
and what is on the disk are kept apart; a *crash* gives one of the states that the disk may then
be in: unsynced writes there, gone, torn or out of order, new names there or not.
"""

from __future__ import annotations

import errno
import os
from random import Random

from asyncflow.storage.fs import Buffer

__all__ = ["FaultyDirectory"]


class _Inode:
    """A file: what is on the disk, and the writes since, each with its offset.

    A cut (``None``) is at once on the disk in what it means for later reads.
    """

    def __init__(self, synced: bytes = b"") -> None:
        self.synced = synced
        self.pending: list[tuple[int, bytes]] = []
        self.length = len(synced)

    def content(self) -> bytes:
        return _applied(self.synced, self.pending, self.length)

    def survivor(self, random: Random) -> _Inode:
        """What may be left of it after a crash."""
        kept: list[tuple[int, bytes]] = []
        length = len(self.synced)
        fate = random.choice(["none", "all", "prefix", "any"])
        count = len(self.pending) if fate != "prefix" else random.randint(0, len(self.pending))
        for offset, data in self.pending[:count] if fate != "none" else ():
            if fate == "any" and random.random() < 0.5:
                continue  # out of order: a later one may be there all the same
            kept.append((offset, data))
            length = max(length, offset + len(data))
        if kept and fate != "all" and random.random() < 0.7:
            offset, data = kept.pop()
            kept.append((offset, data[: random.randint(0, len(data))]))
            length = max([len(self.synced), *(o + len(d) for o, d in kept)])
        return _Inode(_applied(self.synced, kept, length))


def _applied(synced: bytes, writes: list[tuple[int, bytes]], length: int) -> bytes:
    content = bytearray(synced[:length].ljust(length, b"\0"))
    for offset, data in writes:
        content[offset : offset + len(data)] = data
    return bytes(content)


class _Disk:
    """What all directories of one tree share: the count of operations, and which one fails.

    ``fail_at`` counts operations from 1; ``short`` limits how much one write takes;
    ``log`` has the name of each operation.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.fail_at = 0
        self.fail_with = errno.EIO
        self.fail_on: str | None = None
        self.short: int | None = None
        self.free = 1 << 40
        self.log: list[str] = []

    def step(self, name: str) -> None:
        self.log.append(name)
        if self.fail_on is not None and name != self.fail_on:
            return
        self.operations += 1
        if self.operations == self.fail_at:
            raise OSError(self.fail_with, os.strerror(self.fail_with))


class FaultyFile:
    """A file of a :class:`FaultyDirectory`, open for appending."""

    def __init__(self, disk: _Disk, inode: _Inode) -> None:
        self._disk, self._inode = disk, inode

    def write(self, data: Buffer) -> int:
        self._disk.step("write")
        part = bytes(memoryview(data)[: self._disk.short])
        if len(part) > self._disk.free:
            part = part[: self._disk.free]
            if not part:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.free -= len(part)
        inode = self._inode
        inode.pending.append((inode.length, part))
        inode.length += len(part)
        return len(part)

    def sync(self) -> None:
        try:
            self._disk.step("sync")
        except OSError:
            # As Linux does: the pages count as clean, and the next sync would succeed.
            self._inode.pending = []
            raise
        self._inode.synced = self._inode.content()
        self._inode.pending = []

    def truncate(self, length: int) -> None:
        self._disk.step("truncate")
        inode = self._inode
        inode.synced, inode.pending, inode.length = inode.content()[:length], [], length

    def close(self) -> None:
        self._disk.step("close")


class FaultyDirectory:
    """An empty directory in memory.

    Attributes:
        disk: set ``fail_at`` (and ``fail_with``, ``fail_on``) to have one operation fail,
            ``short`` to have writes take only so many bytes, ``free`` to have space run out.

    Example:
        >>> directory = FaultyDirectory()
        >>> file = directory.create("journal")
        >>> file.write(b"lost")
        4
        >>> directory.crash(Random(3)).names()
        []
    """

    def __init__(self, disk: _Disk | None = None, path: str = "/faulty") -> None:
        self.path = path
        self.disk = disk or _Disk()
        self._synced: dict[str, _Inode | FaultyDirectory] = {}
        self._now: dict[str, _Inode | FaultyDirectory] = {}
        # The names after each change since the last sync.
        self._changes: list[dict[str, _Inode | FaultyDirectory]] = []

    def child(self, name: str, *, create: bool = False) -> FaultyDirectory:
        found = self._now.get(name)
        if isinstance(found, FaultyDirectory):
            return found
        if not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        made = FaultyDirectory(self.disk, f"{self.path}/{name}")
        self._now[name] = self._synced[name] = made  # as the real one: synced when made
        return made

    def append_to(self, name: str) -> FaultyFile:
        self.disk.step("open")
        return FaultyFile(self.disk, self._inode(name))

    def create(self, name: str) -> FaultyFile:
        self.disk.step("create")
        if name in self._now:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        inode = _Inode()
        self._change({**self._now, name: inode})
        return FaultyFile(self.disk, inode)

    def read(self, name: str) -> bytes:
        return self._inode(name).content()

    def rename(self, old: str, new: str) -> None:
        self.disk.step("rename")
        inode = self._inode(old)
        self._change({**{n: i for n, i in self._now.items() if n != old}, new: inode})

    def remove(self, name: str) -> None:
        self.disk.step("remove")
        self._inode(name)
        self._change({n: i for n, i in self._now.items() if n != name})

    def names(self) -> list[str]:
        return sorted(self._now)

    def sync(self) -> None:
        self.disk.step("sync_directory")
        self._synced, self._changes = dict(self._now), []

    def free_bytes(self) -> int:
        return self.disk.free

    def close(self) -> None:
        """Nothing is held open."""

    def crash(self, random: Random) -> FaultyDirectory:
        """One of the states in which this directory may be found after a loss of power."""
        after = FaultyDirectory(path=self.path)
        known = random.choice([self._synced, *self._changes])
        for name, entry in known.items():
            left = entry.crash(random) if isinstance(entry, FaultyDirectory) else None
            after._now[name] = left if left is not None else entry.survivor(random)  # type: ignore[union-attr]
        after._synced = dict(after._now)
        return after

    def _change(self, names: dict[str, _Inode | FaultyDirectory]) -> None:
        self._now = names
        self._changes.append(names)

    def _inode(self, name: str) -> _Inode:
        found = self._now.get(name)
        if not isinstance(found, _Inode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return found
