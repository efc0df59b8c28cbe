"""Where in a value the part sits that cannot be pickled: ``result["x"][3]``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asyncflow.errors import text_of

__all__ = ["unsendable", "where_it_fails"]

_DEEPEST = 20
_MOST_LOOKS = 1000


def unsendable(value: Any, path: str, dumps: Callable[[Any], bytes], error: Exception) -> str:
    """What of a value cannot be sent, in words; ``error`` is what pickling it raised."""
    return where_it_fails(value, path, dumps) or f"{path} ({text_of(error)})"


def where_it_fails(value: Any, path: str, dumps: Callable[[Any], bytes]) -> str | None:
    """The innermost part that cannot be pickled, its type and why; None if all can."""
    looks = iter(range(_MOST_LOOKS))
    error = _fault(value, dumps)
    if error is None:
        return None
    for _ in range(_DEEPEST):
        inner = _first_faulty(value, path, dumps, looks)
        if inner is None:
            break
        value, path, error = inner
    kind = type(value)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    return f"{path}, a {name} ({text_of(error)})"


def _first_faulty(
    value: Any, path: str, dumps: Callable[[Any], bytes], looks: Iterator[int]
) -> tuple[Any, str, Exception] | None:
    for part, place in _parts(value, path):
        if next(looks, None) is None:
            return None
        error = _fault(part, dumps)
        if error is not None:
            return part, place, error
    return None


def _fault(value: Any, dumps: Callable[[Any], bytes]) -> Exception | None:
    try:
        dumps(value)
    except Exception as error:  # noqa: BLE001 - pickling calls the user's code
        return error
    return None


def _shown(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) else repr(key)


def _parts(value: Any, path: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield part, f"{path}[{_shown(key)}]" if path else str(key)
    elif isinstance(value, list | tuple):
        yield from ((part, f"{path}[{index}]") for index, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((part, f"an element of {path}") for part in value)
    else:
        for name, part in getattr(value, "__dict__", {}).items():
            yield part, f"{path}.{name}"
