"""What becomes of the values of a group's members in a worker that keeps some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from asyncflow.errors import StepFailed

__all__ = [
    "GIVE",
    "GIVE_IF_POSSIBLE",
    "STAY",
    "VALUES",
    "Flow",
    "RemoteValue",
    "Stayed",
    "parts_of",
    "sending_to_workers",
]

# In a worker: the values it keeps, by number.
VALUES: dict[int, Any] = {}


STAY, GIVE, GIVE_IF_POSSIBLE = range(3)


class Stayed:
    """In the place of a value that could not be sent, and need not."""


class Flow(msgspec.Struct, array_like=True, frozen=True):
    """What becomes of the value of one member.

    ``parts`` names its outputs where it has several. For each output, ``keep`` is the number
    under which the worker keeps it (0: it does not), and ``back`` whether the host gets it:
    :data:`STAY`, :data:`GIVE`, or :data:`GIVE_IF_POSSIBLE`, as far as it can be pickled.
    ``drop`` lists kept values that this member is the last to need.
    """

    parts: list[str] | None
    keep: list[int]
    back: list[int]
    drop: list[int] = []


class RemoteValue:
    """In the host, the stand-in for a value that a worker keeps.

    Pickled as an argument for that worker it becomes the value itself there: no copy.
    """

    __slots__ = ("holder", "number")

    def __init__(self, holder: Any, number: int) -> None:
        self.holder = holder
        self.number = number

    def __repr__(self) -> str:
        return "<a value that stayed in its worker>"

    def __reduce__(self) -> tuple[Any, ...]:
        if not _sending:
            raise TypeError("a value that stayed in its worker cannot be pickled")
        return _fetch, (self.number,)


_sending = False


@contextmanager
def sending_to_workers() -> Iterator[None]:
    """Meanwhile, stand-ins may be pickled: for the workers that have what they stand for."""
    global _sending
    _sending = True
    try:
        yield
    finally:
        _sending = False


def _fetch(number: int) -> Any:
    return VALUES[number]


def parts_of(value: Any, names: list[str] | tuple[str, ...], step: str) -> list[Any]:
    """The parts of a return value with several outputs, in their order.

    Raises:
        StepFailed: it is no tuple or list of that length and no mapping with these keys.
    """
    if isinstance(value, Mapping):
        if set(value) == set(names):
            return [value[name] for name in names]
        found = f"a mapping with the keys {', '.join(map(str, value)) or 'none'}"
    elif isinstance(value, tuple | list):
        if len(value) == len(names):
            return list(value)
        found = f"{len(value)} values"
    else:
        found = f"a value of type {type(value).__name__}"
    raise StepFailed(
        f"step {step!r} declares the outputs {', '.join(names)} but returned {found}; return a "
        f"tuple or list of {len(names)} values, or a mapping with these keys",
        step=step,
    )
