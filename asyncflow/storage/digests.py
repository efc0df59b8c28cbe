"""Digests of values: equal for equal values of the same types, in every process.

Order counts in lists, tuples and dicts, and not in sets. The digest of a compound value is made
of those of its parts, each worked out once, so that shared parts cost nothing. Whatever codecs
take has a digest, and so have dataclasses and their like, here without an annotation.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any, Final

import msgspec

from asyncflow.errors import NotRecordable
from asyncflow.storage.codec import Codec
from asyncflow.storage.encoding import key_part, refusal
from asyncflow.storage.kinds import Kind, describe
from asyncflow.storage.leaves import LEAVES
from asyncflow.storage.libraries import imported_codecs
from asyncflow.storage.wire import MAX_DEPTH, is_plain

__all__ = ["DIGEST_BYTES", "digest_of", "hashed"]

DIGEST_BYTES: Final = 20
_pack: Final = msgspec.msgpack.Encoder().encode


def hashed(*parts: bytes | memoryview) -> bytes:
    """The digest of some bytes, each part told apart from the next."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(b"%d:" % memoryview(part).nbytes)
        digest.update(part)
    return digest.digest()


def digest_of(value: Any, extra: Sequence[Codec] = ()) -> bytes:
    """The digest of a value.

    Args:
        extra: codecs of the user's, asked before the others.

    Raises:
        NotRecordable: some part of it has no codec; the message has the path to it.
    """
    try:
        return _Digester(extra).of(value)
    except RecursionError as error:
        raise NotRecordable(type(value), "it is nested too deeply; flatten it") from error


class _Digester:
    def __init__(self, extra: Sequence[Codec]) -> None:
        self._codecs = (*extra, *imported_codecs())
        self._known: dict[int, bytes] = {}
        self._kept: list[Any] = []  # an id is only good while its object lives
        self._open: set[int] = set()

    def of(self, value: Any) -> bytes:
        if is_plain(value):
            try:
                return hashed(b"plain", _pack(value))
            except (OverflowError, UnicodeEncodeError):
                pass
        kind = type(value)
        leaf = LEAVES.get(kind)
        if leaf is not None:
            return hashed(b"leaf", _pack(leaf(value)))
        if kind in (NoneType, bool, float):
            return hashed(b"plain", _pack(value))
        return self._compound(value, kind)

    def _compound(self, value: Any, kind: type) -> bytes:
        key = id(value)
        known = self._known.get(key)
        if known is not None:
            return known
        if key in self._open or len(self._open) >= MAX_DEPTH:
            raise NotRecordable(kind, "it holds itself, or is nested too deeply; flatten it")
        self._open.add(key)
        made = self._known[key] = self._of_parts(value, kind)
        self._open.discard(key)
        self._kept.append(value)
        return made

    def _of_parts(self, value: Any, kind: type) -> bytes:
        if kind in (bytes, bytearray, memoryview):
            return hashed(kind.__name__.encode(), memoryview(value).cast("B"))
        if kind in (list, tuple):
            return hashed(kind.__name__.encode(), *self._each(value))
        if kind in (set, frozenset):
            return hashed(kind.__name__.encode(), *sorted(self._each(value)))
        if kind is dict:
            return hashed(b"dict", *self._pairs(value.items(), key_part))
        if kind is slice:
            return hashed(b"slice", *self._each((value.start, value.stop, value.step)))
        return self._of_object(value, kind)

    def _of_object(self, value: Any, kind: type) -> bytes:
        for codec in self._codecs:
            if codec.takes(value):
                return hashed(b"codec", codec.tag.encode(), self.of(_encoded(codec, value)))
        described = _described(kind)
        if described is None:
            raise refusal(kind)
        name = f"{kind.__module__}:{kind.__qualname__}".encode()
        return hashed(b"typed", name, *self._pairs(described.take_apart(value), ".{}".format))

    def _each(self, values: Iterable[Any]) -> list[bytes]:
        digests: list[bytes] = []
        for index, value in enumerate(values):
            try:
                digests.append(self.of(value))
            except NotRecordable as refused:
                refused.within(f"[{index}]")
                raise
        return digests

    def _pairs(self, pairs: Iterable[tuple[Any, Any]], part: Callable[[Any], str]) -> list[bytes]:
        digests: list[bytes] = []
        for key, value in pairs:
            digests.append(self.of(key))
            try:
                digests.append(self.of(value))
            except NotRecordable as refused:
                refused.within(part(key))
                raise
        return digests


def _encoded(codec: Codec, value: Any) -> Any:
    try:
        return codec.encode(value)
    except NotRecordable:
        raise
    except Exception as error:
        hint = f"its codec {codec.tag!r} raised {type(error).__name__}: {error}"
        raise NotRecordable(type(value), hint) from error


@functools.lru_cache(maxsize=1024)
def _described(kind: type) -> Kind | None:
    return describe(kind)
