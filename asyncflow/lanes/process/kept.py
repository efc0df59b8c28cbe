"""Values that stay in a worker: what members of a group hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["VALUES", "RemoteValue", "parts_of"]

# In the worker: the values it keeps, by number.
VALUES: dict[int, Any] = {}


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
        return _fetch, (self.number,)


def _fetch(number: int) -> Any:
    return VALUES[number]


class WrongParts(TypeError):
    """A step with several outputs returned something else."""


def parts_of(value: Any, names: list[str], step: str) -> list[Any]:
    """The parts of a return value with several outputs, in their order.

    Raises:
        WrongParts: it is no tuple or list of that length and no mapping with these keys.
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
        found = f"a {type(value).__name__}"
    raise WrongParts(
        f"step {step!r} declares the outputs {', '.join(names)} but returned {found}; return a "
        f"tuple or list of {len(names)} values, or a mapping with these keys"
    )
