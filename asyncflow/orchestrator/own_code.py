"""Which code a module is made of, for telling whether it changed since it was last run.

That is the class (or function) that the file of the pipeline names, and of the same source file
what it makes use of: helper functions, other classes, constants. What it imports from elsewhere
does not count, as with any step.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

__all__ = ["code_parts"]


def code_parts(found: Any) -> list[tuple[str, Any]]:
    """Names with functions and values, in an order that only the code decides.

    Args:
        found: a class, or a function.
    """
    parts: dict[str, Any] = {}
    _collect(found, getattr(found, "__module__", ""), parts, "")
    return sorted(parts.items(), key=lambda part: part[0])


def _collect(found: Any, module: str, parts: dict[str, Any], name: str) -> None:
    """Add a thing, and what of its module it refers to."""
    label = name or getattr(found, "__qualname__", "")
    if label in parts:
        return
    if isinstance(found, type):
        parts[label] = [base.__qualname__ for base in found.__mro__]
        for cls in found.__mro__:
            if cls.__module__ == module:
                _collect_members(cls, module, parts)
        return
    func = _function_in(found)
    if func is None:
        parts[label] = found
        return
    parts[label] = func
    for global_name in _names_in(func.__code__):
        if global_name in func.__globals__:
            _collect_global(global_name, func.__globals__[global_name], module, parts)


def _collect_members(cls: type, module: str, parts: dict[str, Any]) -> None:
    for name, member in vars(cls).items():
        label = f"{cls.__qualname__}.{name}"
        counts = _function_in(member) is not None or _is_constant(member)
        if counts and (not name.startswith("__") or name in ("__init__", "__call__")):
            _collect(member, module, parts, label)


def _collect_global(name: str, value: Any, module: str, parts: dict[str, Any]) -> None:
    own = getattr(value, "__module__", None) == module
    if own and (isinstance(value, type) or _function_in(value) is not None):
        _collect(value, module, parts, "")
    elif _is_constant(value):
        parts[f"{name} ="] = value


def _function_in(member: Any) -> types.FunctionType | None:
    """The function that a member of a class, or something of a module, comes down to."""
    if isinstance(member, property):
        member = member.fget
    member = getattr(member, "__func__", member)
    member = getattr(member, "__wrapped__", member)
    return member if isinstance(member, types.FunctionType) else None


def _names_in(code: types.CodeType) -> Iterator[str]:
    """The global names that code uses, that of functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)
