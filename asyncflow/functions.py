"""What can be told of a function before it is called: its parameters, and whether it is async."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from asyncflow.context import StepContext
from asyncflow.failure import RunFailure

__all__ = ["Parameter", "innermost", "is_coroutine_function", "parameters_of"]


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of a step's function, as binding needs it."""

    name: str
    kind: Any
    default: Any
    wants_context: bool
    wants_failure: bool = False

    @property
    def has_default(self) -> bool:
        return self.default is not inspect.Parameter.empty

    @property
    def is_variadic(self) -> bool:
        return self.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def innermost(func: Any) -> Any:
    """The function that runs in the end: that of a partial, or of a callable object."""
    while isinstance(func, functools.partial):
        func = func.func
    return func if inspect.isroutine(func) or inspect.isclass(func) else type(func).__call__


def is_coroutine_function(func: Any) -> bool:
    """Whether calling ``func`` (a function, partial or callable object) gives a coroutine."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(innermost(func))


def parameters_of(func: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a callable; builtins without a signature count as ``*args``."""
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        return (
            Parameter("args", inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.empty, False),
        )
    known = getattr(inspect.unwrap(innermost(func)), "__globals__", {})
    return tuple(
        Parameter(
            p.name,
            p.kind,
            p.default,
            _is(StepContext, p.annotation, known),
            _is(RunFailure, p.annotation, known),
        )
        for p in signature.parameters.values()
    )


def _is(wanted: type[Any], annotation: Any, known: Mapping[str, Any]) -> bool:
    """Whether an annotation says ``wanted``, or that or None.

    Args:
        known: what the names in a text mean, where the function was defined.
    """
    if isinstance(annotation, str):
        # Written as text, or under ``from __future__ import annotations``.
        name = annotation.replace(" ", "").removesuffix("|None").removeprefix("None|")
        if name.endswith("]") and "Optional[" in name:
            name = name.partition("Optional[")[2][:-1]
        found = _named(name, known)
        # Imported for type checkers only, say: then its name has to do.
        return name.split(".")[-1] == wanted.__name__ if found is None else found is wanted
    return bool(annotation is wanted or annotation == (wanted | None))


def _named(name: str, known: Mapping[str, Any]) -> Any:
    """What a dotted name means; None if that cannot be told. No code of the text runs."""
    first, *rest = name.split(".")
    found = known.get(first)
    for part in rest:
        found = inspect.getattr_static(found, part, None)
    return found
