"""How a value is laid out in bytes.

The first byte says which of the forms follows::

    1  plain    msgpack of values that msgpack itself keeps: None, bool, int of 64 bits, float,
                text, bytes, list, and dict with such keys
    2  tree     msgpack of a tree (below)
    3  buffers  8 bytes length of a tree, the tree as ``[lengths of the buffers, tree]``, then the
                buffers one after the other
    4  pickle   32 bytes HMAC-SHA256, then a pickle; read only if the HMAC is right

In a tree a scalar stands for itself and everything else is an array that begins with a
:class:`Tag`. Containers and other compound values are numbered as they are completed;
``[SAME, n]`` stands for number n once more, so that what was one object is one object again,
and a value that shares its parts many times stays small.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, Final

import msgspec

__all__ = ["BUFFERS", "LARGE_BYTES", "MAX_DEPTH", "PICKLE", "PLAIN", "TREE", "Tag", "is_plain"]

PLAIN: Final = b"\x01"
TREE: Final = b"\x02"
BUFFERS: Final = b"\x03"
PICKLE: Final = b"\x04"

# Deeper values are refused: encoding, repr and == of them are recursive.
MAX_DEPTH: Final = 100
# From this size on bytes are written as they are, beside the tree, and never copied into it.
LARGE_BYTES: Final = 64 * 1024


class Tag:
    """What an array in a tree stands for. Permanent: recorded values hold these numbers."""

    SAME: Final = 0
    LIST: Final = 1
    TUPLE: Final = 2
    SET: Final = 3
    FROZENSET: Final = 4
    DICT: Final = 5
    BYTEARRAY: Final = 6
    BUFFER: Final = 7
    VIEW: Final = 8
    TYPED: Final = 9
    CODEC: Final = 10
    BIG_INT: Final = 20
    SURROGATES: Final = 21
    COMPLEX: Final = 22
    ELLIPSIS: Final = 23
    RANGE: Final = 24
    SLICE: Final = 25
    DATETIME: Final = 30
    DATE: Final = 31
    TIME: Final = 32
    TIMEDELTA: Final = 33
    TIMEZONE: Final = 34
    ZONE: Final = 35
    DECIMAL: Final = 36
    FRACTION: Final = 37
    UUID: Final = 38
    PATH: Final = 39


_FLAT: Final = frozenset({NoneType, bool, int, float, str})
_SCALARS: Final = _FLAT | {bytes}
_TEXT: Final = frozenset({str})


def is_plain(value: Any) -> bool:
    """Whether msgpack itself gives an equal value of the same types back.

    It does not look at how large numbers are or at surrogates in texts: packing those fails.
    """
    kind = type(value)
    if kind in _FLAT:
        return True
    if kind is dict and _TEXT.issuperset(map(type, value)):
        if _FLAT.issuperset(map(type, value.values())):
            return True
    elif kind is bytes:
        return len(value) < LARGE_BYTES
    elif kind is list:
        if _FLAT.issuperset(map(type, value)):
            return True
    elif kind is not dict:
        return False
    return _is_plain_throughout(value)


def _is_plain_throughout(value: Any) -> bool:
    """Level by level, so that depth costs no stack; false where a container stands twice."""
    seen: set[int] = set()
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            if id(container) in seen:
                return False
            seen.add(id(container))
            if type(container) is dict:
                if not _SCALARS.issuperset(map(type, container)):
                    return False
                parts: Any = container.values()
            else:
                parts = container
            for part in parts:
                kind = type(part)
                if kind is list or kind is dict:
                    below.append(part)
                elif kind not in _FLAT and (kind is not bytes or len(part) >= LARGE_BYTES):
                    return False
        if not below:
            return True
        level = below
    return False


def refuse_extension(code: int, data: memoryview) -> Any:
    """The hook for msgpack's extension types: nothing that is written here has any."""
    raise ValueError(f"it holds a msgpack extension of type {code}, which is never written")


def decoder() -> msgspec.msgpack.Decoder[Any]:
    """A decoder for both forms."""
    return msgspec.msgpack.Decoder(ext_hook=refuse_extension)
