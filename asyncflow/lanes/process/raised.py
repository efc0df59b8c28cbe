"""Exceptions on their way from a worker: the objects where they can travel, else their text.

Pickle loses ``__cause__``, ``__context__`` and the traceback, and an exception with an
``__init__`` of its own may pickle and then not unpickle. So every exception of a tree (causes,
contexts, members of groups) goes on its own, tried out first; what cannot travel arrives as a
:class:`~asyncflow.errors.RemoteError` that names its type and says its text.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import msgspec

from asyncflow.errors import RemoteError, text_of

__all__ = ["Raised", "flatten", "rebuild"]

_MOST_ERRORS = 200
_LARGEST_BYTES = 1 << 20
_LONGEST_TRACEBACK = 20_000


class Raised(msgspec.Struct, array_like=True):
    """One exception; ``cause``, ``context`` and ``members`` are places in the list it is in.

    ``pickled`` is empty for one that cannot travel. Of a group it has the class and the message.
    """

    type_name: str
    text: str
    pickled: bytes
    notes: list[str]
    suppress_context: bool
    cause: int | None = None
    context: int | None = None
    members: list[int] | None = None
    traceback: str = ""


# -- in the worker ---------------------------------------------------------------------------


def flatten(error: BaseException, dumps: Callable[[Any], bytes]) -> list[Raised]:
    """An exception and all that hangs on it, the exception itself first."""
    found: list[BaseException] = [error]
    places = {id(error): 0}

    def place_of(other: BaseException | None) -> int | None:
        if other is None:
            return None
        if id(other) not in places:
            if len(found) >= _MOST_ERRORS:
                return None
            places[id(other)] = len(found)
            found.append(other)
        return places[id(other)]

    records = []
    for each in found:  # it grows meanwhile
        record = _record(each, dumps)
        record.cause = place_of(each.__cause__)
        record.context = place_of(each.__context__)
        if isinstance(each, BaseExceptionGroup):
            places_of_members = [place_of(member) for member in each.exceptions]
            record.members = [place for place in places_of_members if place is not None]
        records.append(record)
    records[0].traceback = _traceback_of(error)
    return records


def _record(error: BaseException, dumps: Callable[[Any], bytes]) -> Raised:
    kind = type(error)
    in_builtins = kind.__module__ == "builtins"
    notes = getattr(error, "__notes__", ())
    return Raised(
        type_name=kind.__qualname__ if in_builtins else f"{kind.__module__}.{kind.__qualname__}",
        text=text_of(error),
        pickled=_pickled(error, dumps),
        notes=[str(note)[:_LONGEST_TRACEBACK] for note in notes] if isinstance(notes, list) else [],
        suppress_context=error.__suppress_context__,
    )


def _pickled(error: BaseException, dumps: Callable[[Any], bytes]) -> bytes:
    try:
        if isinstance(error, BaseExceptionGroup):
            return dumps((type(error), error.message))
        body = dumps(error)
        if len(body) > _LARGEST_BYTES or type(pickle.loads(body)) is not type(error):
            return b""
    except BaseException:  # noqa: BLE001 - the exception's own methods run here
        return b""
    return body


def _traceback_of(error: BaseException) -> str:
    import traceback

    try:
        text = "".join(traceback.format_exception(error))
    except Exception as unprintable:  # noqa: BLE001 - the exception's own methods run here
        return f"(the traceback cannot be shown: {type(unprintable).__name__})"
    if len(text) > _LONGEST_TRACEBACK:
        half = _LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text


# -- in the host -----------------------------------------------------------------------------


def rebuild(records: list[Raised], worker: str) -> BaseException:
    """The exception, with its notes, causes and contexts, and the worker's traceback as a note."""
    errors: list[BaseException | None] = [None] * len(records)
    for place in reversed(range(len(records))):
        _revive(records, errors, place)
    made = [error for error in errors if error is not None]
    for record, error in zip(records, made, strict=True):
        _link(record, error, made)
    if records[0].traceback:
        made[0].add_note(f"raised in worker {worker}:\n{records[0].traceback.rstrip()}")
    return made[0]


def _revive(records: list[Raised], errors: list[BaseException | None], place: int) -> BaseException:
    found = errors[place]
    if found is None:
        record = records[place]
        if record.members is None:
            found = _loaded(record)
        else:
            # A group that is its own member, by way of another one, cannot be made.
            errors[place] = RemoteError(record.text, type_name=record.type_name, text=record.text)
            members = [_revive(records, errors, member) for member in record.members]
            found = _group(record, members)
        errors[place] = found
    return found


def _loaded(record: Raised) -> BaseException:
    if record.pickled:
        try:
            error = pickle.loads(record.pickled)
        except Exception:  # noqa: BLE001 - a class that only the worker can import
            error = None
        if isinstance(error, BaseException):
            return error
    return RemoteError(
        f"{record.text} (a {record.type_name} that cannot be pickled)",
        type_name=record.type_name,
        text=record.text,
    )


def _group(record: Raised, members: list[BaseException]) -> BaseException:
    try:
        kind, message = pickle.loads(record.pickled)
        group: BaseException = kind(message, members)
    except Exception:  # noqa: BLE001 - a class of the user's, or one that is not here
        group = BaseExceptionGroup(record.text, members)
    return group


def _link(record: Raised, error: BaseException, errors: list[BaseException]) -> None:
    if record.cause is not None:
        error.__cause__ = errors[record.cause]
    if record.context is not None:
        error.__context__ = errors[record.context]
    error.__suppress_context__ = record.suppress_context
    if getattr(error, "__notes__", None) != record.notes:
        error.__notes__ = []
        for note in record.notes:
            error.add_note(note)
    if not record.notes and not getattr(error, "__notes__", True):
        del error.__notes__
