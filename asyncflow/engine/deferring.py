"""Values that are encoded and kept beside the event loop, because they may be large."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import NoneType
from typing import Any, Final

from asyncflow.errors import StorageError
from asyncflow.storage.blobs import INLINE_BYTES, write_blob
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.fs import Buffer, Directory
from asyncflow.storage.records import Blob
from asyncflow.storage.writer import explain

__all__ = ["DeferredValues", "is_light", "keep"]

_SCALARS: Final = frozenset({NoneType, bool, int, float})
_TEXTS: Final = frozenset({str, bytes})
_LIGHT_ELEMENTS: Final = 64
_LIGHT_BYTES: Final = 4096
# A large value must not keep the small ones waiting.
_THREADS: Final = 3
_TOGETHER: Final = 32

Kept = bytes | Blob | Exception
Waiting = tuple[Any, Any, Callable[[Kept], None]]


def is_light(value: Any) -> bool:
    """Whether a value is certainly encoded in a moment and small enough to stand in a record.

    Example:
        >>> is_light({"a": 1}), is_light([[1]]), is_light("x" * 10_000)
        (True, False, False)
    """
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind in _TEXTS:
        return len(value) <= _LIGHT_BYTES
    if kind is dict:
        return len(value) <= _LIGHT_ELEMENTS and _are_flat(value) and _are_flat(value.values())
    if kind is list or kind is tuple:
        return len(value) <= _LIGHT_ELEMENTS and _are_flat(value)
    return False


def _are_flat(values: Any) -> bool:
    for value in values:
        kind = type(value)
        if kind not in _SCALARS and (kind not in _TEXTS or len(value) > _LIGHT_ELEMENTS):
            return False
    return True


def keep(codecs: Codecs, blobs: Directory, value: Any, annotation: Any) -> bytes | Blob:
    """A value as it stands in a record: its bytes, or where they are; called in a thread.

    Raises:
        NotRecordable: no codec takes it.
        StorageError: there is no room for it, or the disk fails.
    """
    parts = codecs.encode_parts(value, annotation)
    length = sum(memoryview(part).nbytes for part in parts)
    if length <= INLINE_BYTES:
        return b"".join(parts)
    return _as_blob(blobs, parts, length)


def _as_blob(blobs: Directory, parts: Sequence[Buffer], length: int) -> Blob:
    try:
        return write_blob(blobs, parts)
    except OSError as error:
        path = blobs.path
        raise explain(error, f"a value in {path}", path, length, blobs.free_bytes) from error


class DeferredValues:
    """The values of one run that are being encoded and kept.

    Args:
        codecs: turn them into bytes.
        blobs: the directory of those that stand in no record.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, codecs: Codecs, blobs: Directory) -> None:
        self._loop = loop
        self._codecs = codecs
        self._blobs = blobs
        self._pool = ThreadPoolExecutor(_THREADS, "asyncflow-values")
        self._waiting: deque[Waiting] = deque()
        self._at_work = 0

    def add(self, value: Any, annotation: Any, done: Callable[[Kept], None]) -> None:
        """Have a value kept.

        Args:
            done: told on the loop what stands for it in a record, or why nothing does.
        """
        self._waiting.append((value, annotation, done))
        if self._at_work < _THREADS:
            self._start()

    def close(self) -> None:
        """Let go of the threads; nothing may be waiting."""
        self._pool.shutdown(wait=False)

    def _start(self) -> None:
        count = min(_TOGETHER, len(self._waiting))
        batch = [self._waiting.popleft() for _ in range(count)]
        self._at_work += 1
        working = self._loop.run_in_executor(self._pool, self._keep_all, batch)
        working.add_done_callback(lambda done: self._done(batch, done))

    def _keep_all(self, batch: list[Waiting]) -> list[Kept]:
        return [self._keep(value, annotation) for value, annotation, _ in batch]

    def _keep(self, value: Any, annotation: Any) -> Kept:
        try:
            return keep(self._codecs, self._blobs, value, annotation)
        except Exception as error:  # noqa: BLE001 - codecs may be the user's
            return error

    def _done(self, batch: list[Waiting], working: asyncio.Future[list[Kept]]) -> None:
        self._at_work -= 1
        if self._waiting:
            self._start()
        if working.cancelled():
            lost: Kept = StorageError("the event loop ended before a value was recorded")
            kept = [lost] * len(batch)
        else:
            kept = working.result()
        for (_, _, done), found in zip(batch, kept, strict=True):
            done(found)
