"""From a value to a tree, exactly or not at all."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import Any, Final

from asyncflow.errors import NotRecordable
from asyncflow.secret import Secret
from asyncflow.storage.codec import Codec
from asyncflow.storage.leaves import LEAVES
from asyncflow.storage.typed import NO_CLASSES, TypedClasses, describable
from asyncflow.storage.wire import LARGE_BYTES, MAX_DEPTH, Tag

__all__ = ["TreeEncoder", "key_part", "refusal"]

_AS_IS: Final = frozenset({NoneType, bool, float})


class TreeEncoder:
    """Encodes one value; ``buffers`` are the large binary parts of it, in order."""

    def __init__(self, codecs: Sequence[Codec], typed: TypedClasses) -> None:
        self.buffers: list[Any] = []
        self._codecs = codecs
        self._typed = typed
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is only good while its object lives
        self._open: set[int] = set()
        self._in_codec = 0

    def encode(self, value: Any) -> Any:
        """The tree of a value.

        Raises:
            NotRecordable: some part of it would not come back as it is.
        """
        kind = type(value)
        if kind in _AS_IS:
            return value
        leaf = LEAVES.get(kind)
        if leaf is not None:
            return leaf(value)
        if kind is bytes and len(value) < LARGE_BYTES:
            return value
        return self._compound(value, kind)

    def _compound(self, value: Any, kind: type) -> Any:
        key = id(value)
        number = self._numbers.get(key)
        if number is not None:
            return [Tag.SAME, number]
        if key in self._open:
            raise NotRecordable(kind, "it holds itself; cut the circle")
        if len(self._open) >= MAX_DEPTH:
            raise NotRecordable(kind, f"it is nested deeper than {MAX_DEPTH} levels; flatten it")
        self._open.add(key)
        tree = self._shape(value, kind)
        self._open.discard(key)
        self._numbers[key] = len(self._numbers)
        self._kept.append(value)
        return tree

    def _shape(self, value: Any, kind: type) -> list[Any]:
        shape = _SHAPES.get(kind)
        if shape is not None:
            return shape(self, value)
        typed = self._typed.by_type.get(kind)
        if typed is not None:
            return [Tag.TYPED, typed.name, *self.pairs(typed.take_apart(value), ".{}".format)]
        for codec in self._codecs:
            if codec.takes(value):
                return self._by_codec(codec, value)
        if kind is memoryview and self._in_codec:
            return self._view(value)
        raise refusal(kind, self._typed)

    # -- parts -------------------------------------------------------------------------

    def items(self, values: Iterable[Any], part: str = "[{}]") -> list[Any]:
        trees: list[Any] = []
        for index, value in enumerate(values):
            try:
                trees.append(self.encode(value))
            except NotRecordable as refused:
                refused.within(part.format(index))
                raise
        return trees

    def pairs(self, pairs: Iterable[tuple[Any, Any]], part: Callable[[Any], str]) -> list[Any]:
        trees: list[Any] = []
        for key, value in pairs:
            try:
                trees.append(self.encode(key))
            except NotRecordable as refused:
                refused.within(".keys()")
                raise
            try:
                trees.append(self.encode(value))
            except NotRecordable as refused:
                refused.within(part(key))
                raise
        return trees

    def buffer(self, value: Any, tag: int) -> list[Any]:
        self.buffers.append(value)
        return [Tag.BUFFER, len(self.buffers) - 1, tag]

    def _view(self, value: memoryview) -> list[Any]:
        if not value.c_contiguous:
            raise NotRecordable(memoryview, "a codec gives memoryviews that are C-contiguous")
        flat = value.cast("B") if value.nbytes else memoryview(b"")
        if len(flat) < LARGE_BYTES:
            return [Tag.VIEW, bytes(flat)]
        return self.buffer(flat, Tag.VIEW)

    def _by_codec(self, codec: Codec, value: Any) -> list[Any]:
        self._in_codec += 1
        try:
            encoded = codec.encode(value)
            return [Tag.CODEC, codec.tag, self.encode(encoded)]
        except (NotRecordable, RecursionError, MemoryError):
            raise
        except Exception as error:
            hint = f"its codec {codec.tag!r} raised {type(error).__name__}: {error}"
            raise NotRecordable(type(value), hint) from error
        finally:
            self._in_codec -= 1


def _bytes(encoder: TreeEncoder, value: bytes) -> list[Any]:
    return encoder.buffer(value, 0)


def _bytearray(encoder: TreeEncoder, value: bytearray) -> list[Any]:
    if len(value) < LARGE_BYTES:
        return [Tag.BYTEARRAY, bytes(value)]
    return encoder.buffer(value, Tag.BYTEARRAY)


def _dict(encoder: TreeEncoder, value: dict[Any, Any]) -> list[Any]:
    return [Tag.DICT, *encoder.pairs(value.items(), key_part)]


def key_part(key: Any) -> str:
    """How a path goes on to the value of a key."""
    return f"[{reprlib.repr(key)}]"


def _slice(encoder: TreeEncoder, value: slice) -> list[Any]:
    return [Tag.SLICE, *encoder.items((value.start, value.stop, value.step), ".args[{}]")]


_SHAPES: Final[dict[type, Callable[[TreeEncoder, Any], list[Any]]]] = {
    list: lambda encoder, value: [Tag.LIST, *encoder.items(value)],
    tuple: lambda encoder, value: [Tag.TUPLE, *encoder.items(value)],
    set: lambda encoder, value: [Tag.SET, *encoder.items(value, ".pop()")],
    frozenset: lambda encoder, value: [Tag.FROZENSET, *encoder.items(value, ".pop()")],
    dict: _dict,
    bytes: _bytes,
    bytearray: _bytearray,
    slice: _slice,
}


def refusal(kind: type, typed: TypedClasses = NO_CLASSES) -> NotRecordable:
    """The error for a value of a type that nothing takes, with the way out."""
    return NotRecordable(kind, _hint_for(kind, typed))


def _hint_for(kind: type, typed: TypedClasses) -> str:
    if kind is Secret:
        return "a secret is never written down; return what was made with its help"
    if kind is memoryview:
        return "return bytes(view)"
    if kind in typed.refused:
        return typed.refused[kind]
    if describable(kind):
        return (
            f"say so in the step's return annotation, such as `-> {kind.__name__}` or "
            f"`-> list[{kind.__name__}]`"
        )
    for base in (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex):
        if issubclass(kind, base):
            return (
                f"convert it with {base.__name__}(…), or give a codec for it to Runtime(codecs=…)"
            )
    return (
        "return builtin values or a dataclass named in the return annotation, give a codec to "
        "Runtime(codecs=…), or opt in to pickle with Runtime(pickle_key=…)"
    )
