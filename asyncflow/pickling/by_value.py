"""Pickling by value, with cloudpickle, of what another process cannot import."""

from __future__ import annotations

import functools
import io
import sys
import types
from collections.abc import Callable
from typing import Any

__all__ = ["dumps_by_value"]

BufferCallback = Callable[[Any], bool]


def dumps_by_value(value: Any, take: BufferCallback | None = None) -> bytes:
    """Pickle with functions and classes that cannot be imported taken along.

    Raises:
        Exception: it cannot be pickled.
    """
    stream = io.BytesIO()
    _pickler_type()(stream, protocol=5, buffer_callback=take).dump(value)
    return stream.getvalue()


@functools.cache
def _pickler_type() -> Any:
    # Here: programs without a process step need not pay for it.
    import cloudpickle

    class ByValue(cloudpickle.Pickler):  # type: ignore[misc]
        """Knows steps, and the functions that stand behind one."""

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, io.IOBase) and not isinstance(value, io.BytesIO | io.StringIO):
                # Otherwise an open file would go as what is in it.
                raise TypeError(f"cannot pickle {type(value).__name__!r} object")
            if isinstance(value, types.CodeType):
                make, arguments = self.dispatch_table[types.CodeType](value)
                return _code_of_file, (value.co_filename, make, arguments)
            reduced = _reduced(value)
            return super().reducer_override(value) if reduced is None else reduced

    return ByValue


def _reduced(value: Any) -> tuple[Any, ...] | None:
    steps = sys.modules.get("asyncflow.step")
    if steps is None:
        return None
    if isinstance(value, steps.Step):
        reduced: tuple[Any, ...] = steps.reduced_by_value(value)
        return reduced
    if isinstance(value, types.FunctionType):
        place = steps.place_behind_a_step(value)
        return None if place is None else (steps.func_at, place)
    return None


def _code_of_file(
    filename: str, make: Callable[..., types.CodeType], arguments: tuple[Any, ...]
) -> types.CodeType:
    """Code that says where it was written: new versions of cloudpickle leave that out, and
    then no traceback shows a line of it."""
    return make(*arguments).replace(co_filename=filename)
