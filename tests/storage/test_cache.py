"""The store of the cache: whole entries or none, and nothing outside its directory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow import step
from asyncflow.errors import NotReadable, NotRecordable, StorageError
from asyncflow.graph.node import MISSING
from asyncflow.secret import Secret
from asyncflow.storage.cache import CacheStore, Hit
from asyncflow.storage.cache_keys import Argument, key_of
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.digests import hashed

KEY, OTHER = hashed(b"key"), hashed(b"other")


@pytest.fixture
def store(tmp_path: Path) -> CacheStore:
    return CacheStore(tmp_path / "kept", Codecs())


def entry_of(store: CacheStore, key: bytes = KEY) -> Path:
    name = key.hex()
    return Path(store.directory) / "cache" / name[:2] / name[2:]


def load(store: CacheStore, key: bytes = KEY) -> Hit | None:
    return store.load(key, MISSING)


def test_what_was_saved_is_found_by_its_key_alone(store: CacheStore) -> None:
    assert load(store) is None
    store.save(KEY, {"a": (1, None)}, MISSING)
    assert load(store) == Hit({"a": (1, None)})
    assert load(store, OTHER) is None


def test_none_is_a_value_like_any_other(store: CacheStore) -> None:
    store.save(KEY, None, MISSING)
    assert load(store) == Hit(None)


def test_a_later_value_takes_the_place_of_an_earlier_one(store: CacheStore) -> None:
    store.save(KEY, 1, MISSING)
    store.save(KEY, 2, MISSING)
    assert load(store) == Hit(2)
    assert os.listdir(entry_of(store).parent) == [entry_of(store).name]


def test_everything_is_private(store: CacheStore) -> None:
    store.save(KEY, 1, MISSING)
    entry = entry_of(store)
    assert entry.stat().st_mode & 0o777 == 0o600
    for folder in (entry.parent, entry.parent.parent, entry.parent.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_change_of_any_byte_is_found_and_makes_room(store: CacheStore) -> None:
    store.save(KEY, "value", MISSING)
    whole = entry_of(store).read_bytes()
    for index in range(len(whole)):
        entry_of(store).write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with pytest.raises(NotReadable):
            load(store)
        assert load(store) is None
    for length in range(len(whole)):
        entry_of(store).write_bytes(whole[:length])
        with pytest.raises(NotReadable):
            load(store)


def test_the_entry_of_another_key_is_not_taken(store: CacheStore) -> None:
    store.save(KEY, 1, MISSING)
    entry_of(store, OTHER).parent.mkdir(exist_ok=True, mode=0o700)
    entry_of(store).rename(entry_of(store, OTHER))
    with pytest.raises(NotReadable, match="another key"):
        load(store, OTHER)


def test_a_value_that_no_codec_takes_leaves_nothing_behind(store: CacheStore) -> None:
    with pytest.raises(NotRecordable):
        store.save(KEY, object(), MISSING)
    assert not Path(store.directory).exists()


def test_a_write_that_fails_leaves_nothing_behind(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(KEY, 1, MISSING)

    def fail(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(OSError, match="No space"):
        store.save(KEY, 2, MISSING)
    monkeypatch.undo()
    assert load(store) == Hit(1)
    assert len(os.listdir(entry_of(store).parent)) == 1


def test_short_writes_are_gone_on_with(store: CacheStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    store.save(KEY, "x" * 100, MISSING)
    monkeypatch.undo()
    assert load(store) == Hit("x" * 100)


def test_a_cache_that_may_only_be_read_is_one_too(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(KEY, 1, MISSING)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert load(store) == Hit(1)


def test_a_planted_link_is_never_followed(store: CacheStore, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    sentinel.write_text("untouched")
    store.save(OTHER, 1, MISSING)
    entry_of(store).parent.mkdir(exist_ok=True)
    entry_of(store).symlink_to(sentinel)
    with pytest.raises(StorageError, match="link"):
        load(store)
    store.save(KEY, 2, MISSING)  # a rename replaces the link itself
    assert load(store) == Hit(2)
    assert sentinel.read_text() == "untouched"


def test_a_planted_folder_is_never_followed(store: CacheStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    Path(store.directory).mkdir(mode=0o700)
    (Path(store.directory) / "cache").symlink_to(outside)
    with pytest.raises(StorageError, match="link"):
        store.save(KEY, 1, MISSING)
    with pytest.raises(StorageError):
        store.prune(0)
    assert list(outside.iterdir()) == []


def _save_often(directory: str, number: int) -> None:
    store = CacheStore(directory, Codecs())
    for _ in range(60):
        store.save(KEY, [number] * 20_000, MISSING)


def test_writers_and_readers_in_many_processes_do_not_disturb_each_other(
    store: CacheStore,
) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_save_often, args=(store.directory, number)) for number in range(2)
    ]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        hit = load(store)
        if hit is not None:
            assert hit.value in ([0] * 20_000, [1] * 20_000)
            seen += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen
    assert len(os.listdir(entry_of(store).parent)) == 1


def test_threads_that_save_one_key_leave_one_whole_entry(store: CacheStore) -> None:
    threads = [threading.Thread(target=store.save, args=(KEY, n, MISSING)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hit = load(store)
    assert hit is not None
    assert hit.value in range(16)


# -- housekeeping ----------------------------------------------------------------------


def keys() -> Iterator[bytes]:
    yield from (hashed(str(number).encode()) for number in range(10))


def test_statistics_count_entries_and_bytes(store: CacheStore) -> None:
    assert store.statistics().entries == 0
    for key in keys():
        store.save(key, "x" * 1000, MISSING)
    found = store.statistics()
    assert found.entries == 10
    assert found.total_bytes == sum(entry_of(store, key).stat().st_size for key in keys())
    assert found.oldest is not None
    assert found.newest is not None
    assert found.oldest <= found.newest


def test_pruning_removes_what_was_longest_not_used(store: CacheStore) -> None:
    for age, key in enumerate(keys()):
        store.save(key, "x" * 1000, MISSING)
        os.utime(entry_of(store, key), (1000 + age, 1000 + age))
    oldest = next(keys())
    load(store, oldest)  # and with that it is the one used last
    length = entry_of(store, oldest).stat().st_size
    pruned = store.prune(3 * length + 5)
    assert (pruned.removed, pruned.left, pruned.left_bytes) == (7, 3, 3 * length)
    assert pruned.removed_bytes == 7 * length
    left = [number for number, key in enumerate(keys()) if load(store, key) is not None]
    assert left == [0, 8, 9]
    assert store.prune(0).left == 0
    assert store.statistics().entries == 0


def test_pruning_clears_what_writers_that_died_have_left(store: CacheStore) -> None:
    store.save(KEY, 1, MISSING)
    folder = entry_of(store).parent
    (folder / ".tmp-dead").write_bytes(b"x")
    (folder / ".tmp-alive").write_bytes(b"x")
    (folder / "strange").write_bytes(b"x")
    os.utime(folder / ".tmp-dead", (1000, 1000))
    store.prune(10**9)
    assert sorted(os.listdir(folder)) == sorted([".tmp-alive", "strange", entry_of(store).name])


def test_pruning_what_is_not_there_is_no_fault(store: CacheStore) -> None:
    assert store.prune(0).removed == 0


# -- keys ------------------------------------------------------------------------------


def made(offset: int, **options: Any) -> Any:
    def add(x: Any, y: Any = 0) -> Any:
        return (x, y, offset)

    return step(add, **options)


def key(offset: int = 0, /, strategy: Any = "code_hash", name: str = "add", **values: Any) -> bytes:
    arguments = [Argument(name, value) for name, value in values.items()]
    return key_of(made(offset, cache=strategy, name=name), arguments, ())


def test_the_code_hash_covers_code_and_inputs() -> None:
    assert key(x=1) == key(x=1)
    assert len({key(x=1), key(x=2), key(x=1.0), key(1, x=1), key(x=1, name="other")}) == 5


def test_the_input_hash_covers_inputs_only() -> None:
    assert key(0, "input_hash", x=1) == key(1, "input_hash", x=1)
    assert key(0, "input_hash", x=1) != key(0, "input_hash", x=2)
    assert key(0, "input_hash", x=1) != key(0, "input_hash", x=1, name="other")


def test_a_function_makes_the_key_of_what_it_takes() -> None:
    def by_length(x: str) -> int:
        return len(x)

    assert key(0, by_length, x="ab", y=1) == key(1, by_length, x="cd", y=2)
    assert key(0, by_length, x="ab") != key(0, by_length, x="abc")
    assert key(0, lambda inputs: inputs["x"], x=1, y=2) == key(1, lambda x: x, x=1, y=3)
    assert key(0, lambda **given: given, x=1) != key(0, lambda **given: given, x=2)


def test_secrets_do_not_count() -> None:
    assert key(x=Secret("a")) == key(x=Secret("b"))


def test_an_input_that_cannot_be_hashed_is_named() -> None:
    with pytest.raises(NotRecordable) as refused:
        key(x={"a": [object()]})
    assert refused.value.path == "x['a'][0]"


def test_sets_have_one_key_in_whatever_order() -> None:
    one, other = {"a", "b", ("c", 1)}, {("c", 1), "b", "a"}
    assert key(x=one) == key(x=other)
    assert key(x=one) != key(x=frozenset(one))
    assert key(x=[1, 2]) != key(x=[2, 1])


# -- crashes ---------------------------------------------------------------------------

WRITE_FOR_EVER = """
import sys
from asyncflow.graph.node import MISSING
from asyncflow.storage.cache import CacheStore
from asyncflow.storage.codecs import Codecs

store, number = CacheStore(sys.argv[1], Codecs()), 0
while True:
    store.save(bytes.fromhex(sys.argv[2]), [number] * 50_000, MISSING)
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("after_seconds", [0.001, 0.004, 0.009])
def test_a_writer_that_is_killed_leaves_a_whole_entry(
    store: CacheStore, after_seconds: float
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, store.directory, KEY.hex()],
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        saved = int(writer.stdout.readline())
        time.sleep(after_seconds)
        writer.kill()
        saved = max([saved, *map(int, writer.stdout.read().split())])
    hit = load(store)
    assert hit is not None
    assert hit.value in ([saved] * 50_000, [saved + 1] * 50_000)
    for left in entry_of(store).parent.iterdir():
        os.utime(left, (1000, 1000))
    store.prune(10**9)
    assert os.listdir(entry_of(store).parent) == [entry_of(store).name]
