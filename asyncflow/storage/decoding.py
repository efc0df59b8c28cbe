"""From a tree to a value; nothing in a tree names code."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from types import NoneType
from typing import Any, Final

from asyncflow.errors import NotReadable
from asyncflow.storage.codec import Codec
from asyncflow.storage.leaves import MADE
from asyncflow.storage.typed import TypedClasses
from asyncflow.storage.wire import MAX_DEPTH, Tag

__all__ = ["TreeDecoder"]

_SCALARS: Final = frozenset({NoneType, bool, int, float, str, bytes})
# A key that shares its parts may stand for very many; hashing it would visit every one.
_MOST_PARTS_OF_A_KEY: Final = 1_000_000


class TreeDecoder:
    """Makes one value; whatever is wrong with the tree raises some error, never a wrong value."""

    def __init__(
        self,
        find_codec: Callable[[str], Codec | None],
        typed: TypedClasses,
        buffers: Sequence[memoryview] = (),
    ) -> None:
        self._find_codec = find_codec
        self._typed = typed
        self._buffers = buffers
        self._made: list[Any] = []
        self._parts: list[int] = []  # how many parts each of them has, sharing undone
        self._count = 0
        self._depth = 0

    def decode(self, tree: Any) -> Any:
        """The value of a tree."""
        if type(tree) is not list:
            if type(tree) not in _SCALARS:
                raise ValueError(f"a tree holds no {type(tree).__name__}")
            return tree
        self._count += 1
        tag = tree[0]
        made = MADE.get(tag)
        if made is not None:
            return made(*map(self.decode, tree[1:]))
        if tag == Tag.SAME:
            return self._same(tree[1])
        return self._compound(_SHAPES[tag], tree)

    def _compound(self, shape: Callable[[TreeDecoder, list[Any]], Any], tree: list[Any]) -> Any:
        if self._depth > 2 * MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        self._depth += 1
        before = self._count
        value = shape(self, tree)
        self._depth -= 1
        self._made.append(value)
        self._parts.append(self._count - before + 1)
        return value

    def _same(self, number: int) -> Any:
        if number < 0:
            raise ValueError(f"there is no part number {number}")
        self._count += self._parts[number]
        return self._made[number]

    # -- parts -------------------------------------------------------------------------

    def items(self, tree: list[Any], start: int = 1) -> list[Any]:
        return [self.decode(tree[index]) for index in range(start, len(tree))]

    def keys(self, trees: list[Any]) -> list[Any]:
        """Values that are about to be hashed."""
        keys = []
        for tree in trees:
            before = self._count
            keys.append(self.decode(tree))
            if self._count - before > _MOST_PARTS_OF_A_KEY:
                raise ValueError("a key of it has too many parts")
        return keys

    def pairs(self, tree: list[Any], start: int = 1) -> list[tuple[Any, Any]]:
        pairs = []
        for index in range(start, len(tree), 2):
            (key,) = self.keys(tree[index : index + 1])
            pairs.append((key, self.decode(tree[index + 1])))
        return pairs

    def view(self, number: int) -> memoryview:
        if number < 0:
            raise ValueError(f"there is no buffer number {number}")
        return self._buffers[number]

    def by_codec(self, tag: str, tree: Any) -> Any:
        codec = self._find_codec(tag)
        if codec is None:
            raise NotReadable(
                f"it was written by the codec {tag!r}, which this runtime does not have; give it "
                "to Runtime(codecs=…) again, or install the package it is for"
            )
        encoded = self.decode(tree)
        try:
            return codec.decode(encoded)
        except NotReadable:
            raise
        except Exception as error:
            raise NotReadable(
                f"the codec {tag!r} cannot read it: {type(error).__name__}: {error}"
            ) from error

    def typed(self, name: str, tree: list[Any]) -> Any:
        typed = self._typed.by_name.get(name)
        if typed is None:
            raise NotReadable(
                f"it is a {name!r}, which the step's return annotation does not name (any more)"
            )
        return typed.put_together(dict(self.pairs(tree, 2)))


def _dict(decoder: TreeDecoder, tree: list[Any]) -> dict[Any, Any]:
    pairs = decoder.pairs(tree)
    made = dict(pairs)
    _check_whole(made, len(pairs))
    return made


def _set(decoder: TreeDecoder, tree: list[Any]) -> set[Any]:
    made = set(decoder.keys(tree[1:]))
    _check_whole(made, len(tree) - 1)
    return made


def _check_whole(made: Sized, length: int) -> None:
    if len(made) != length:
        raise ValueError(f"of {length} keys only {len(made)} differ")


def _packed(part: Any) -> bytes:
    """Bytes: a number in their place would ask for that much memory."""
    if type(part) is not bytes:
        raise ValueError(f"there is {type(part).__name__} in the place of bytes")
    return part


def _buffer(decoder: TreeDecoder, tree: list[Any]) -> Any:
    _, number, tag = tree
    view = decoder.view(number)
    if tag == Tag.VIEW:
        return view
    return bytearray(view) if tag == Tag.BYTEARRAY else bytes(view)


_SHAPES: Final[dict[int, Callable[[TreeDecoder, list[Any]], Any]]] = {
    Tag.LIST: lambda decoder, tree: decoder.items(tree),
    Tag.TUPLE: lambda decoder, tree: tuple(decoder.items(tree)),
    Tag.SET: _set,
    Tag.FROZENSET: lambda decoder, tree: frozenset(_set(decoder, tree)),
    Tag.DICT: _dict,
    Tag.BYTEARRAY: lambda decoder, tree: bytearray(_packed(tree[1])),
    Tag.BUFFER: _buffer,
    Tag.VIEW: lambda decoder, tree: memoryview(_packed(tree[1])),
    Tag.SLICE: lambda decoder, tree: slice(*decoder.items(tree)),
    Tag.TYPED: lambda decoder, tree: decoder.typed(tree[1], tree),
    Tag.CODEC: lambda decoder, tree: decoder.by_codec(tree[1], tree[2]),
}
