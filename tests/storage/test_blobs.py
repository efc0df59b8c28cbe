"""Large values: whole or not there, and what is read is what was written."""

from __future__ import annotations

import os
from random import Random

import pytest

from asyncflow import StorageError
from asyncflow.storage.blobs import clear_temporary, read_blob, write_blob
from asyncflow.storage.fs import open_root
from asyncflow.storage.records import Blob
from asyncflow.testing import FaultyDirectory


def test_a_value_is_read_back() -> None:
    directory = FaultyDirectory()
    blob = write_blob(directory, [b"abc", memoryview(b"def")])
    assert blob.length == 6
    assert directory.names() == [blob.hash]
    assert read_blob(directory, blob) == b"abcdef"


def test_a_value_of_many_chunks_is_read_back(tmp_path: os.PathLike[str]) -> None:
    value = os.urandom(1 << 20) * 17
    with open_root(tmp_path, create=True) as directory:
        assert read_blob(directory, write_blob(directory, [value])) == value


def test_the_same_value_is_kept_once() -> None:
    directory = FaultyDirectory()
    assert write_blob(directory, [b"abc"]) == write_blob(directory, [b"a", b"bc"])
    assert len(directory.names()) == 1


def test_a_changed_value_is_refused() -> None:
    directory = FaultyDirectory()
    blob = write_blob(directory, [b"abc"])
    directory.remove(blob.hash)
    directory.create(blob.hash).write(b"abd")
    with pytest.raises(StorageError, match="does not fit its name"):
        read_blob(directory, blob)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(StorageError, match="/faulty/cafe is missing"):
        read_blob(FaultyDirectory(), Blob("cafe", 3))


def test_short_writes_are_completed() -> None:
    directory = FaultyDirectory()
    directory.disk.short = 2
    assert read_blob(directory, write_blob(directory, [b"abcdefg"])) == b"abcdefg"


@pytest.mark.parametrize("operation", range(1, 7))
def test_a_failure_leaves_nothing_under_the_name(operation: int) -> None:
    directory = FaultyDirectory()
    directory.disk.fail_at = operation
    with pytest.raises(OSError, match="Input/output"):
        write_blob(directory, [b"abc"])
    assert all(name.startswith(".tmp-") or operation == 6 for name in directory.names())


def test_a_crash_leaves_all_of_it_or_nothing() -> None:
    for seed in range(300):
        random = Random(seed)
        directory = FaultyDirectory()
        directory.disk.fail_at = random.randint(1, 8)
        try:
            blob: Blob | None = write_blob(directory, [b"abc" * 50])
        except OSError:
            blob = None
        survivor = directory.crash(random)
        for name in survivor.names():
            if not name.startswith(".tmp-"):
                assert survivor.read(name) == b"abc" * 50
        if blob is not None:
            assert read_blob(survivor, blob) == b"abc" * 50


def test_what_a_dead_writer_left_is_cleared() -> None:
    directory = FaultyDirectory()
    blob = write_blob(directory, [b"abc"])
    directory.create(".tmp-0123")
    clear_temporary(directory)
    assert directory.names() == [blob.hash]
