"""The cache: results of steps by a key made of code and inputs, shared by runs and processes.

::

    <directory>/cache/<2 digits>/<38 digits>    one entry for each key

An entry is written under a temporary name and renamed: under its name there is the whole of it or
nothing. Two writers of one key both write, and the later one stays; as both have the same code
and inputs, either will do. An entry begins with a mark, its key and a checksum of the rest, and
is read only if all three are right.

Nothing is synced to the disk. A loss of power may lose or damage entries; the checksum tells, and
a damaged entry is one that is not there: its step runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from asyncflow.errors import NotReadable, StorageError
from asyncflow.storage.codecs import Buffer, Codecs
from asyncflow.storage.digests import DIGEST_BYTES
from asyncflow.storage.fs import AppendFile, RealDirectory, open_root

__all__ = ["CACHE", "CacheStatistics", "CacheStore", "Hit", "Pruned"]

CACHE: Final = "cache"
_MARK: Final = b"afcache1"
_HEAD_BYTES: Final = len(_MARK) + 2 * DIGEST_BYTES
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_ENTRY: Final = re.compile(r"[0-9a-f]{38}")
_TEMPORARY: Final = ".tmp-"
# What a writer that died has left; a living one takes less.
_STALE_SECONDS: Final = 3600


class Hit(msgspec.Struct, frozen=True):
    """A value that was found."""

    value: Any


class CacheStatistics(msgspec.Struct, frozen=True):
    """What a cache holds: how many entries, how many bytes, and when (UTC seconds since the
    epoch) the ones that were longest and shortest not used were last written or found."""

    entries: int
    total_bytes: int
    oldest: float | None
    newest: float | None


class Pruned(msgspec.Struct, frozen=True):
    """What was removed, and what is left."""

    removed: int
    removed_bytes: int
    left: int
    left_bytes: int


class _Entry(msgspec.Struct, frozen=True, order=True):
    used: float
    shard: str
    name: str
    length: int


class CacheStore:
    """The cache under one directory. All methods block; call them in a thread.

    Args:
        directory: that of the runtime.
        codecs: turn values into bytes.
    """

    def __init__(self, directory: str | os.PathLike[str], codecs: Codecs) -> None:
        self.directory = os.fspath(directory)
        self._codecs = codecs

    def load(self, key: bytes, annotation: Any) -> Hit | None:
        """The value of a key; None if there is none.

        Raises:
            NotReadable: its entry is damaged, or what reads it is not there; the entry is
                removed, so the next result takes its place.
            StorageError, OSError: the directory cannot be read.
        """
        name = key.hex()
        try:
            with self._shard(name, create=False) as shard:
                data = shard.read(name[2:])
                try:
                    value = self._codecs.decode(_body(data, key), annotation)
                except NotReadable:
                    shard.remove(name[2:])
                    raise
                with contextlib.suppress(OSError):  # a cache that may only be read is one, too
                    os.utime(name[2:], dir_fd=shard.descriptor, follow_symlinks=False)
                return Hit(value)
        except FileNotFoundError:
            return None

    def save(self, key: bytes, value: Any, annotation: Any) -> None:
        """Keep a value.

        Raises:
            NotRecordable: no codec takes it.
            StorageError, OSError: it cannot be written; what was there stays.
        """
        parts = self._codecs.encode_parts(value, annotation)
        name = key.hex()
        with self._shard(name, create=True) as shard:
            temporary = _TEMPORARY + os.urandom(8).hex()
            file = shard.create(temporary)
            try:
                try:
                    _write(file, [_MARK + key + _checksum(parts), *parts])
                finally:
                    file.close()
                shard.rename(temporary, name[2:])
            except BaseException:
                shard.remove(temporary)
                raise

    @contextmanager
    def _shard(self, name: str, *, create: bool) -> Iterator[RealDirectory]:
        with (
            open_root(self.directory, create=create) as root,
            root.child(CACHE, create=create) as cache,
            cache.child(name[:2], create=create) as shard,
        ):
            yield shard

    # -- housekeeping ------------------------------------------------------------------

    def statistics(self) -> CacheStatistics:
        """What there is."""
        entries = self._entries()
        used = [entry.used for entry in entries]
        total = sum(entry.length for entry in entries)
        return CacheStatistics(
            len(entries), total, min(used, default=None), max(used, default=None)
        )

    def prune(self, max_bytes: int) -> Pruned:
        """Remove entries, those first that were longest not used, until they fit.

        Args:
            max_bytes: how many bytes may stay; 0 removes all.
        """
        entries = sorted(self._entries())
        left, total = len(entries), sum(entry.length for entry in entries)
        removed_bytes = 0
        for entry in entries:
            if total - removed_bytes <= max_bytes:
                break
            self._remove(entry)
            removed_bytes += entry.length
            left -= 1
        return Pruned(len(entries) - left, removed_bytes, left, total - removed_bytes)

    def _entries(self) -> list[_Entry]:
        found: list[_Entry] = []
        try:
            with (
                open_root(self.directory, create=False) as root,
                root.child(CACHE) as cache,
            ):
                for name in filter(_SHARD.fullmatch, cache.names()):
                    with cache.child(name) as shard:
                        found.extend(_entries_of(shard, name))
        except FileNotFoundError:
            return found
        return found

    def _remove(self, entry: _Entry) -> None:
        try:
            with self._shard(entry.shard, create=False) as shard:
                shard.remove(entry.name)
        except FileNotFoundError:
            return  # another process prunes as well


def _entries_of(shard: RealDirectory, name: str) -> Iterator[_Entry]:
    stale = time.time() - _STALE_SECONDS
    for file in shard.names():
        try:
            status = os.stat(file, dir_fd=shard.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        if _ENTRY.fullmatch(file):
            yield _Entry(status.st_mtime, name, file, status.st_size)
        elif file.startswith(_TEMPORARY) and status.st_mtime < stale:
            shard.remove(file)


def _body(data: bytes, key: bytes) -> memoryview:
    """What stands behind the head of an entry, if the head is right."""
    head, body = data[:_HEAD_BYTES], memoryview(data)[_HEAD_BYTES:]
    if head[: len(_MARK)] != _MARK:
        raise NotReadable("it does not begin as an entry of the cache does")
    if head[len(_MARK) : -DIGEST_BYTES] != key:
        raise NotReadable("it is the entry of another key")
    if head[-DIGEST_BYTES:] != _checksum([body]):
        raise NotReadable("its checksum is wrong")
    return body


def _checksum(parts: Sequence[Buffer]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _write(file: AppendFile, parts: Sequence[Buffer]) -> None:
    for part in parts:
        rest = memoryview(part).cast("B")
        while rest:
            written = file.write(rest)
            if not written:
                raise StorageError("nothing more of a cache entry can be written")
            rest = rest[written:]
