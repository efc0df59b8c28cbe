"""Large values, each in a file of its own that is named by the hash of its content.

A value is written under a temporary name, synced, renamed, and its directory synced: under its
name there is the whole value or nothing. Reading checks the hash.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Final

from asyncflow.errors import StorageError
from asyncflow.storage.faultpoints import point
from asyncflow.storage.fs import AppendFile, Buffer, Directory
from asyncflow.storage.records import Blob

__all__ = ["INLINE_BYTES", "clear_temporary", "read_blob", "write_all", "write_blob"]

# Larger values are blobs.
INLINE_BYTES: Final = 64 * 1024
_HASH_BYTES: Final = 20
_CHUNK: Final = 4 << 20
_TEMPORARY: Final = ".tmp-"
# Below this, a thread that hashes costs more than it saves.
_HASH_APART: Final = 8 << 20


def write_blob(directory: Directory, parts: Sequence[Buffer]) -> Blob:
    """Keep a value; called in a thread. The buffers are written as they are, not copied.

    Args:
        directory: where.
        parts: the value's bytes, in this order.

    Raises:
        OSError: it cannot be written; nothing stands under its name then.
    """
    point("before-blob")
    temporary = _TEMPORARY + os.urandom(8).hex()
    file = directory.create(temporary)
    try:
        try:
            blob = _write_parts(file, parts)
            file.sync()
        finally:
            file.close()
        point("before-blob-rename")
        directory.rename(temporary, blob.hash)
    except BaseException:
        directory.remove(temporary)
        raise
    point("after-blob-rename")
    directory.sync()
    point("after-blob")
    return blob


def _write_parts(file: AppendFile, parts: Sequence[Buffer]) -> Blob:
    views = [memoryview(part).cast("B") for part in parts]
    length = sum(view.nbytes for view in views)
    hashing = _Hashing(apart=length >= _HASH_APART)
    written = 0
    try:
        for view in views:
            for start in range(0, view.nbytes, _CHUNK):
                chunk = view[start : start + _CHUNK]
                hashing.put(chunk)
                write_all(file, chunk)
                if written <= length // 2 < written + chunk.nbytes:
                    point("mid-blob")
                written += chunk.nbytes
    finally:
        hashed = hashing.finish()
    return Blob(hashed, length)


class _Hashing:
    """The hash of what is put in; a large value is hashed beside being written."""

    def __init__(self, *, apart: bool) -> None:
        self._hash = hashlib.blake2b(digest_size=_HASH_BYTES)
        self._queue: SimpleQueue[memoryview | None] | None = SimpleQueue() if apart else None
        if self._queue is not None:
            self._thread = Thread(target=self._work, name="asyncflow-hash", daemon=True)
            self._thread.start()

    def put(self, chunk: memoryview) -> None:
        if self._queue is None:
            self._hash.update(chunk)
        else:
            self._queue.put(chunk)

    def _work(self) -> None:
        assert self._queue is not None
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)

    def finish(self) -> str:
        if self._queue is not None:
            self._queue.put(None)
            self._thread.join()
        return self._hash.hexdigest()


def write_all(file: AppendFile, data: Buffer) -> None:
    """Append all of it, however often the file takes only a part."""
    view = memoryview(data).cast("B")
    done = file.write(view)
    while done < view.nbytes:
        done += file.write(view[done:])


def read_blob(directory: Directory, blob: Blob) -> bytes:
    """The value's bytes.

    Raises:
        StorageError: it is not there, or not what was written.
    """
    path = os.path.join(directory.path, blob.hash)
    try:
        content = directory.read(blob.hash)
    except FileNotFoundError:
        raise StorageError(f"the value {path} is missing", path=path) from None
    found = hashlib.blake2b(content, digest_size=_HASH_BYTES).hexdigest()
    if found != blob.hash or len(content) != blob.length:
        raise StorageError(
            f"the value {path} is not what was written: its content does not fit its name",
            path=path,
        )
    return content


def clear_temporary(directory: Directory) -> None:
    """Remove what a process that died while it wrote left behind; only its successor may."""
    for name in directory.names():
        if name.startswith(_TEMPORARY):
            directory.remove(name)
