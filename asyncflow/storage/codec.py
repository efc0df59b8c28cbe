"""The one page to read for a codec of your own."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

__all__ = ["Codec"]


@runtime_checkable
class Codec(Protocol):
    """Turns values of one kind into builtin values and back, without loss.

    Given to ``Runtime(codecs=(…,))``. What is written names the codec by its ``tag`` and nothing
    else: reading never imports a class by a name that a file holds. Codecs are asked in order,
    yours before those for numpy, Arrow, pandas and polars; builtin values never come to them.

    ``takes(value)`` says whether this codec is for the value; it should look at the exact type,
    as a subclass would come back as its base class. ``encode(value)`` gives a value made of
    builtin values (or of others that have codecs); large binary parts as ``bytes`` or as a
    C-contiguous ``memoryview``, which is written without a copy. It raises
    :class:`NotRecordable` for a value that would lose something. ``decode(encoded)`` makes the
    value again; a memoryview comes back as a memoryview that can only be read.

    Example:
        >>> from ipaddress import IPv4Address
        >>> class Addresses:
        ...     tag = "ipv4"
        ...
        ...     def takes(self, value):
        ...         return type(value) is IPv4Address
        ...
        ...     def encode(self, value):
        ...         return int(value)
        ...
        ...     def decode(self, encoded):
        ...         return IPv4Address(encoded)
        >>> isinstance(Addresses(), Codec)
        True
    """

    tag: str

    def takes(self, value: Any) -> bool: ...

    def encode(self, value: Any) -> Any: ...

    def decode(self, encoded: Any) -> Any: ...
