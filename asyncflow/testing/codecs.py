"""What every codec has to do, as a test for those of your own."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from asyncflow.errors import NotReadable
from asyncflow.storage.codec import Codec

if TYPE_CHECKING:
    from asyncflow.storage.codecs import Codecs

__all__ = ["check_codec"]

_BUILTIN_VALUES = (None, True, 1, 1.5, "a", b"a", [1], (1,), {1}, {"a": 1}, bytearray(b"a"))
# So many places of what was written are damaged, one at a time.
_DAMAGES = 100


def check_codec(
    codec: Codec, values: Iterable[Any], *, same: Callable[[Any, Any], Any] = operator.eq
) -> None:
    """Check that a codec gives values back as they were, and reads damaged ones or refuses them.

    Args:
        codec: the codec.
        values: examples of what it takes, the odd ones above all.
        same: whether two values are equal; for types whose ``==`` says something else.

    Raises:
        AssertionError: it does not; the message names the value.
        NotRecordable: it does not take one of the values, or makes what cannot be written.

    Example:
        >>> class Halves:
        ...     tag = "halves"
        ...
        ...     def takes(self, value):
        ...         return type(value) is Half
        ...
        ...     def encode(self, value):
        ...         return value.doubled
        ...
        ...     def decode(self, encoded):
        ...         return Half(encoded)
        >>> class Half:
        ...     def __init__(self, doubled):
        ...         self.doubled = doubled
        ...
        ...     def __eq__(self, other):
        ...         return self.doubled == other.doubled
        >>> check_codec(Halves(), [Half(1), Half(-7)])
    """
    # Here, because every test session imports this module, and few check a codec.
    from asyncflow.storage.codecs import Codecs

    codecs = Codecs([codec])
    for builtin in _BUILTIN_VALUES:
        assert not codec.takes(builtin), f"{codec.tag!r} takes the builtin value {builtin!r}"
    for value in values:
        assert codec.takes(value), f"{codec.tag!r} does not take {value!r}"
        _check_value(codecs, codec, value, same)


def _check_value(codecs: Codecs, codec: Codec, value: Any, same: Callable[[Any, Any], Any]) -> None:
    from asyncflow.storage.digests import digest_of

    written = codecs.encode({"x": [value, value]})
    again = codecs.decode(written)["x"]
    what = f"{value!r} comes back from {codec.tag!r}"
    assert type(again[0]) is type(value), f"{what} as a {type(again[0]).__name__}"
    assert same(again[0], value), f"{what} as {again[0]!r}"
    assert again[0] is again[1], f"{what} twice where it was once"
    joined = b"".join(codecs.encode_parts({"x": [value, value]}))
    assert joined == written, f"{codec.tag!r} writes {value!r} now so and now otherwise"
    assert digest_of(value, [codec]) == digest_of(again[0], [codec]), f"{what} with other content"
    _check_damage(codecs, written)


def _check_damage(codecs: Codecs, written: bytes) -> None:
    """Damaged bytes give some value or NotReadable; anything else is a fault of the codec."""
    for index in range(0, len(written), max(1, len(written) // _DAMAGES)):
        changed = written[:index] + bytes([written[index] ^ 0x41]) + written[index + 1 :]
        for damaged in (written[:index], changed):
            with contextlib.suppress(NotReadable):
                codecs.decode(damaged)
