"""Whatever stands in recorded bytes, reading them runs no code and takes no memory to speak of."""

from __future__ import annotations

import contextlib
import pickle
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncflow.errors import NotReadable
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.wire import BUFFERS, PLAIN, TREE, Tag
from tests.programs import ROOT, output_of
from tests.storage.values import BUILTIN_VALUES, builtin_values

CODECS = Codecs()
pack = msgspec.msgpack.encode


@dataclass
class Point:
    x: int


def _array(length: int) -> bytes:
    return b"\xdd" + struct.pack(">I", length)


def _same_tuples(levels: int) -> list[Any]:
    """A key that stands for two to the power of ``levels`` texts."""
    tree: Any = [Tag.TUPLE, "lol"]
    for level in range(levels):
        tree = [Tag.TUPLE, tree, [Tag.SAME, level]]
    return [Tag.SET, tree]


def _deep(levels: int) -> Any:
    tree: Any = []
    for _ in range(levels):
        tree = [Tag.LIST, tree]
    return tree


def _with_buffer(tree: Any) -> bytes:
    packed = pack([[1], tree])
    return BUFFERS + struct.pack("<Q", len(packed)) + packed + b"x"


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "unknown form": b"\x00abc",
    "newer form": b"\x7f",
    "a pickle": pickle.dumps({"x": 1}),
    "plain without anything": PLAIN,
    "plain with more behind": PLAIN + b"\x01\x01",
    "huge array": PLAIN + _array(2**32 - 1),
    "huge map": PLAIN + b"\xdf\xff\xff\xff\xff",
    "huge text": PLAIN + b"\xdb\xff\xff\xff\xff",
    "huge bytes": PLAIN + b"\xc6\xff\xff\xff\xff",
    "huge arrays in each other": PLAIN + _array(900_000) * 900 + bytes(900_000),
    "deep arrays": PLAIN + b"\x91" * 100_000,
    "extension": PLAIN + b"\xd6\x05" + b"\x00" * 4,
    "extension in a tree": TREE + pack([Tag.LIST, msgspec.msgpack.Ext(7, b"os.system")]),
    "map in a tree": TREE + pack({"a": 1}),
    "map inside a tree": TREE + pack([Tag.LIST, {"__class__": "os.system"}]),
    "time in a tree": TREE + pack([Tag.LIST, msgspec.msgpack.Ext(-1, b"\x00" * 4)]),
    "tree without a tag": TREE + pack([]),
    "unknown tag": TREE + pack([99]),
    "tag that is text": TREE + pack(["os.system", "true"]),
    "tag that is a list": TREE + pack([[1], 2]),
    "deep tree": TREE + pack(_deep(300)),
    "same of nothing": TREE + pack([Tag.SAME, 0]),
    "same counted from the end": TREE + pack([Tag.LIST, [Tag.LIST], [Tag.SAME, -1]]),
    "same that is no number": TREE + pack([Tag.SAME, "a"]),
    "key that shares its parts very often": TREE + pack(_same_tuples(60)),
    "unhashable key": TREE + pack([Tag.DICT, [Tag.LIST], 1]),
    "key twice": TREE + pack([Tag.DICT, 1, 2, 1, 3]),
    "member twice": TREE + pack([Tag.SET, 1, 1]),
    "key without a value": TREE + pack([Tag.DICT, 1]),
    "bytearray of a length": TREE + pack([Tag.BYTEARRAY, 10**12]),
    "view of a length": TREE + pack([Tag.VIEW, 10**12]),
    "fraction of nothing": TREE + pack([Tag.FRACTION, 1, 0]),
    "fraction not in lowest terms": TREE + pack([Tag.FRACTION, 2, 4]),
    "wrong date": TREE + pack([Tag.DATE, 0]),
    "wrong time": TREE + pack([Tag.TIME, 25, 0, 0, 0, 0, None]),
    "wrong decimal": TREE + pack([Tag.DECIMAL, "x"]),
    "zone outside": TREE + pack([Tag.ZONE, "../../etc/passwd"]),
    "zone that names a module": TREE + pack([Tag.ZONE, "os.path"]),
    "zone that is absolute": TREE + pack([Tag.ZONE, "/etc/passwd"]),
    "path of no kind": TREE + pack([Tag.PATH, "os.system", "true"]),
    "class that no annotation names": TREE + pack([Tag.TYPED, "subprocess.Popen", "args", "true"]),
    "class with other fields": TREE + pack([Tag.TYPED, "Point", "y", 1]),
    "unknown codec": TREE + pack([Tag.CODEC, "os.system", "true"]),
    "codec that is a list": TREE + pack([Tag.CODEC, ["numpy"], 1]),
    "no buffers": BUFFERS,
    "tree longer than all": BUFFERS + struct.pack("<Q", 2**63) + pack([[], 1]),
    "buffer longer than all": BUFFERS + struct.pack("<Q", 8) + pack([[2**40], 1]),
    "buffers of negative length": BUFFERS + struct.pack("<Q", 6) + pack([[-1, 1], 1]),
    "buffer that is not there": _with_buffer([Tag.BUFFER, 1, 0]),
    "buffer from the end": _with_buffer([Tag.BUFFER, -1, 0]),
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bytes_are_refused_in_little_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(NotReadable):
            CODECS.decode(data, Point)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000 + 20 * len(data) or b"\xdd" in data[:2]


@given(st.binary(max_size=200), st.sampled_from([b"", PLAIN, TREE, BUFFERS]))
@example(b"\xc0", TREE)
def test_any_bytes_are_read_or_refused(data: bytes, form: bytes) -> None:
    reading(form + data)


trees = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=8),
    lambda inner: st.builds(lambda tag, parts: [tag, *parts], st.integers(0, 40), st.lists(inner)),
    max_leaves=20,
)


@given(trees)
def test_any_tree_is_read_or_refused(tree: Any) -> None:
    reading(TREE + pack(tree))


@given(builtin_values, st.data())
def test_a_value_cut_anywhere_is_refused(value: Any, data: st.DataObject) -> None:
    encoded = CODECS.encode(value)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(NotReadable):
        CODECS.decode(encoded[:length])


def _recorded() -> Iterator[bytes]:
    yield from (CODECS.encode(value) for value in BUILTIN_VALUES)
    yield CODECS.encode([Point(1)], list[Point])
    yield from MALFORMED.values()


WATCHED_PROGRAM = """
import sys
from tests.storage import test_hostile_values as hostile
from asyncflow.errors import NotReadable

recorded = list(hostile._recorded())
hostile.CODECS.decode(recorded[0])
for data in recorded:
    hostile.reading(data)  # what reading loads once, such as the data of a time zone

FORBIDDEN = ("import", "exec", "compile", "pickle.find_class", "os.system", "os.exec",
             "os.posix_spawn", "os.fork", "subprocess.Popen", "ctypes.dlopen", "socket.connect")
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)) if event in FORBIDDEN else None)
for data in recorded:
    hostile.reading(data)
    for index in range(0, min(len(data), 300)):
        hostile.reading(data[:index] + bytes([data[index] ^ 0x55]) + data[index + 1:])
print(seen)
"""


def reading(data: bytes) -> None:
    with contextlib.suppress(NotReadable):
        CODECS.decode(data, Point)


def test_reading_imports_executes_and_unpickles_nothing() -> None:
    assert output_of(WATCHED_PROGRAM) == "[]"


def test_no_code_of_the_storage_imports_by_a_name_that_is_data() -> None:
    """Where modules are imported by name, the name stands in a table of the source."""
    importing = {
        path.name
        for path in (ROOT / "asyncflow" / "storage").glob("*.py")
        if "import_module" in path.read_text() or "__import__" in path.read_text()
    }
    unpickling = {
        path.name
        for path in (ROOT / "asyncflow" / "storage").glob("*.py")
        if "pickle.load" in path.read_text() or "Unpickler" in path.read_text()
    }
    assert importing == {"libraries.py"}
    assert unpickling == {"pickling.py"}
