"""A function with a bit of all that versions of Python read or compile differently."""

# mypy: ignore-errors
from __future__ import annotations

from typing import Any


async def everything(a: int, /, *rest: Any, key: str = "ü", **more: Any) -> Any:
    """Texts of several kinds, comprehensions, patterns and lambdas."""
    name, width = f"{a!r:>{key}}", 3
    text = f"{name} {{}} {a + 1:{width}.2f} {'nested' + f'{a}'}" rf"\d{a}"
    found = [x for x in rest if (y := x)] + [lambda b: (b + 1) * 2]
    match found:
        case [first, *_] if first:
            return first, y
        case {"a": 1 | 2}:
            pass
    try:
        async with more["m"] as m, more["n"]:
            return m, text
    except* ValueError as group:
        raise group from None
