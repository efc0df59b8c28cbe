"""What the host sends: functions and arguments, by reference where the worker can import them.

What lives in ``__main__``, in a notebook, in a closure or in a lambda goes by value, with
cloudpickle: a worker never imports the host's ``__main__``, so a script needs no guard.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from typing import Any

from asyncflow.errors import text_of
from asyncflow.pickling.by_value import BufferCallback, dumps_by_value
from asyncflow.pickling.unsendable import where_it_fails

__all__ = ["dumps", "unsendable_function"]


def dumps(value: Any, take: BufferCallback | None = None) -> bytes:
    """Pickle something for a worker.

    Raises:
        Exception: it cannot be pickled.
    """
    try:
        body = pickle.dumps(value, 5, buffer_callback=take)
    except Exception:  # noqa: BLE001 - cloudpickle says what is wrong, if anything is
        return dumps_by_value(value, take)
    # What pickle refers to in __main__ is not there in a worker.
    return dumps_by_value(value, take) if b"__main__" in body else body


def unsendable_function(func: Callable[..., Any], what: str) -> str | None:
    """Why a function cannot be sent to a worker, in a sentence; None if it can.

    Args:
        what: how to call it, such as ``"step 'load'"``.
    """
    try:
        dumps(func)
    except Exception as error:  # noqa: BLE001 - pickling calls the user's code
        captured = _captured(func)
        failed = where_it_fails(captured, "", dumps) if captured else None
        held = f"it holds {failed}" if failed else text_of(error)
        return (
            f"{what} runs in a process, and its function cannot be sent there: {held}; pass such a "
            "thing as an argument that can be pickled, make it inside the function, or use "
            "lane='thread'"
        )
    return None


def _captured(func: Any) -> dict[str, Any]:
    """What a function brings along, by name."""
    if not isinstance(func, types.FunctionType):
        return {}
    cells: dict[str, Any] = {}
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=False):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    outer = func.__globals__
    named = {name: outer[name] for name in func.__code__.co_names if name in outer}
    return {**named, **cells}
