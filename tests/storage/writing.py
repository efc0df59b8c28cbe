"""A journal writer over a directory that keeps synced and unsynced bytes apart."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from asyncflow.errors import StorageError
from asyncflow.storage.framing import Chain, Scan, header_of, read_header
from asyncflow.storage.fs import AppendFile, Directory
from asyncflow.storage.writer import Durability, JournalWriter

NONCE = bytes(16)
_PATIENCE_SECONDS = 30.0


class Written:
    """A writer, and what it told."""

    def __init__(
        self, directory: Directory, durability: Durability = "process", file: Any = None
    ) -> None:
        self.acknowledged: list[Any] = []
        self.failures: list[StorageError] = []
        self.released = False
        self._news = asyncio.Event()
        if file is None:
            file = directory.create("journal")
            file.write(header_of(NONCE))
            file.sync()
            directory.sync()
        self.writer = JournalWriter(
            file,
            Chain(NONCE),
            path="journal",
            durability=durability,
            acknowledge=self._acknowledge,
            failed=self._failed,
            free_bytes=directory.free_bytes,
            release=self._release,
        )

    def _acknowledge(self, tickets: list[Any]) -> None:
        self.acknowledged += tickets
        self._news.set()

    def _failed(self, error: StorageError) -> None:
        self.failures.append(error)
        self._news.set()

    def _release(self) -> None:
        self.released = True

    async def until_acknowledged(self, count: int) -> None:
        while len(self.acknowledged) < count and not self.failures:
            self._news.clear()
            await self._news.wait()

    async def until_failed(self) -> StorageError:
        while not self.failures:
            self._news.clear()
            await self._news.wait()
        return self.failures[0]


def records_in(content: bytes) -> tuple[list[bytes], str]:
    """The records of a journal's file, and how it ends."""
    nonce = read_header(content)
    if nonce is None:
        return [], "no header"
    scan = Scan(content, nonce)
    records = [payload for _, payload in scan]
    assert scan.ending is not None
    return records, scan.ending.kind


class SlowFile:
    """A file whose syncs wait until they are let go on."""

    def __init__(self, file: AppendFile) -> None:
        self._file = file
        self.syncing = threading.Event()
        self.go_on = threading.Event()

    async def wait_syncing(self) -> None:
        assert await asyncio.to_thread(self.syncing.wait, _PATIENCE_SECONDS)

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def sync(self) -> None:
        self.syncing.set()
        assert self.go_on.wait(_PATIENCE_SECONDS)
        self._file.sync()

    def truncate(self, length: int) -> None:
        self._file.truncate(length)

    def close(self) -> None:
        self._file.close()
