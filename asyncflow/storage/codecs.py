"""Values to bytes and back: lossless, or refused.

``decode(encode(value)) == value`` and every part has the type it had, or ``encode`` raises
:class:`NotRecordable`. What reads it never runs code: it makes builtin values, instances of the
classes that the step's return annotation names, and what registered codecs make. The layout of
the bytes is in :mod:`asyncflow.storage.wire`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from asyncflow.errors import NotReadable, NotRecordable
from asyncflow.graph.node import MISSING
from asyncflow.storage.codec import Codec
from asyncflow.storage.decoding import TreeDecoder
from asyncflow.storage.encoding import TreeEncoder
from asyncflow.storage.libraries import LIBRARIES, imported_codecs, library_codec
from asyncflow.storage.pickling import PickleKey
from asyncflow.storage.typed import reachable
from asyncflow.storage.wire import BUFFERS, PICKLE, PLAIN, TREE, decoder, is_plain

__all__ = ["Buffer", "Codecs"]

Buffer = bytes | bytearray | memoryview

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = decoder().decode
_LENGTH: Final = struct.Struct("<Q")


class Codecs:
    """All codecs of a runtime.

    Args:
        extra: codecs of your own, asked before those for numpy, Arrow, pandas and polars.
        pickle_key: at least 16 random bytes, or the path of a file that holds them; with it,
            values that no codec takes are pickled.
        directory: the run directory, which must not hold the key file.

    Raises:
        TypeError: an extra codec lacks a method or its tag.
        ValueError: two codecs have one tag, or the key file can be read by others.

    Example:
        >>> codecs = Codecs()
        >>> codecs.decode(codecs.encode({1: (2.5, {"a"})}))
        {1: (2.5, {'a'})}
    """

    def __init__(
        self,
        extra: Iterable[Codec] = (),
        pickle_key: bytes | str | os.PathLike[str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        self._extra = tuple(extra)
        self._by_tag = _tagged(self._extra)
        self._pickle = None if pickle_key is None else PickleKey.of(pickle_key, directory)

    # -- to bytes ----------------------------------------------------------------------

    def encode(self, value: Any, annotation: Any = MISSING) -> bytes:
        """The bytes of a value.

        Args:
            annotation: what the step says it returns; classes that can be reached from it are
                recorded field by field.

        Raises:
            NotRecordable: some part of the value would not come back as it is; the message has
                the path to it.
        """
        if is_plain(value):
            try:
                return PLAIN + _pack(value)
            except (OverflowError, UnicodeEncodeError):
                pass  # a large number or a lone surrogate: the tree has forms for them
        return b"".join(self._tree_parts(value, annotation))

    def encode_parts(self, value: Any, annotation: Any = MISSING) -> list[Buffer]:
        """As :meth:`encode`, in parts to be written one after the other.

        Large binary parts of the value are not copied: they are views of it, so the value must
        not change until they are written.
        """
        if is_plain(value):
            return [self.encode(value, annotation)]
        return self._tree_parts(value, annotation)

    def _tree_parts(self, value: Any, annotation: Any) -> list[Buffer]:
        try:
            return self._parts_of_tree(value, annotation)
        except NotRecordable:
            if self._pickle is None:
                raise
            return [*self._pickle.seal(value, PICKLE)]

    def _parts_of_tree(self, value: Any, annotation: Any) -> list[Buffer]:
        encoder = TreeEncoder(self._all(), reachable(annotation))
        try:
            packed = _pack(tree := encoder.encode(value))
        except RecursionError as error:
            raise NotRecordable(type(value), "it is nested too deeply; flatten it") from error
        if not encoder.buffers:
            return [TREE + packed]
        packed = _pack([[len(buffer) for buffer in encoder.buffers], tree])
        return [BUFFERS + _LENGTH.pack(len(packed)) + packed, *encoder.buffers]

    # -- and back ----------------------------------------------------------------------

    def decode(self, data: Buffer, annotation: Any = MISSING) -> Any:
        """The value that was encoded.

        Args:
            annotation: the return annotation of the step as it is now.

        Raises:
            NotReadable: the bytes are damaged, or name a codec or a class that is not there.
        """
        try:
            form, body = bytes(data[:1]), memoryview(data)[1:]
            if form == PLAIN:
                return _unpack(body)
            if form == TREE:
                return self._decoder(annotation).decode(_unpack(body))
            if form == BUFFERS:
                return self._decode_with_buffers(body, annotation)
        except NotReadable:
            raise
        except Exception as error:
            raise NotReadable(f"a recorded value is damaged: {_why(error)}") from error
        if form == PICKLE:
            return self._unpickled(body)
        raise NotReadable(
            f"a recorded value begins with {form!r}: it is damaged, or was written by a newer "
            "version of asyncflow"
        )

    def _decode_with_buffers(self, body: memoryview, annotation: Any) -> Any:
        (length,) = _LENGTH.unpack(body[: _LENGTH.size])
        start = _LENGTH.size + length
        lengths, tree = _unpack(body[_LENGTH.size : start])
        if min(lengths) < 0 or start + sum(lengths) != len(body):
            raise ValueError(f"it should have {start + sum(lengths)} bytes and has {len(body)}")
        buffers = []
        for length in lengths:
            buffers.append(body[start : start + length].toreadonly())
            start += length
        return self._decoder(annotation, buffers).decode(tree)

    def _decoder(self, annotation: Any, buffers: Iterable[memoryview] = ()) -> TreeDecoder:
        return TreeDecoder(self._find, reachable(annotation), tuple(buffers))

    def _unpickled(self, body: memoryview) -> Any:
        if self._pickle is None:
            raise NotReadable(
                "a recorded value is a pickle, and this runtime reads none; give it the same "
                "pickle_key again"
            )
        return self._pickle.unseal(body)

    # -- the codecs --------------------------------------------------------------------

    def _all(self) -> tuple[Codec, ...]:
        return (*self._extra, *imported_codecs())

    def _find(self, tag: str) -> Codec | None:
        return self._by_tag.get(tag) or library_codec(tag)


def _tagged(codecs: Iterable[Any]) -> dict[str, Codec]:
    by_tag: dict[str, Codec] = {}
    for codec in codecs:
        tag = getattr(codec, "tag", None)
        if isinstance(codec, type) or not isinstance(codec, Codec) or not isinstance(tag, str):
            raise TypeError(
                f"a codec is an object with tag, takes, encode and decode, got {codec!r}"
            )
        if tag in by_tag or tag in LIBRARIES:
            raise ValueError(f"there are two codecs with the tag {tag!r}; rename yours")
        by_tag[tag] = codec
    return by_tag


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
