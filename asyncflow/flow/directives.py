"""What operations say about how they want to run, and how a group adds that up.

The known directives, their defaults and how they add up for operations that run one after the
other are those of signac-flow 0.29; unlike there, what it does not know survives in a group.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from asyncflow.flow.errors import DirectivesError
from asyncflow.resources import ResourceRequirements

__all__ = ["KNOWN", "Directives", "add_up", "check_directives", "evaluate", "requirements_of"]

Directives = Mapping[str, Any]
"""By name; a value may be a function of the jobs."""

_GIGABYTE = 1024**3
_UNITS = {"": 1.0, "g": 1.0, "m": 1 / 1024, "t": 1024.0}


class _Known(msgspec.Struct, frozen=True):
    """One directive: its default, its check, and how those of several operations add up."""

    default: Any
    check: Callable[[Any], Any]
    combine: Callable[[Sequence[Any]], Any]


def _whole(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ValueError(f"takes a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"takes {least} or more, got {value!r}")
        return int(value)

    return check


def _memory(value: Any) -> float | None:
    """Gigabytes: a number, or text such as ``"512m"`` or ``"4g"``."""
    if value is None:
        return None
    if isinstance(value, str):
        amount = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([gmtGMT]?)b?\s*", value)
        if amount is None:
            raise ValueError(f"takes gigabytes, or text such as '512m' or '4g', got {value!r}")
        return _positive(float(amount[1]) * _UNITS[amount[2].lower()])
    return _positive(value)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"takes a number, got {value!r}")
    if not 0 < value < sys.float_info.max:
        raise ValueError(f"takes a finite number above 0, got {value!r}")
    return float(value)


def _walltime(value: Any) -> float | None:
    """Hours: a number, or a timedelta."""
    if value is None:
        return None
    return _positive(value.total_seconds() / 3600 if isinstance(value, timedelta) else value)


def _fraction(value: Any) -> float:
    if _positive(value) > 1:
        raise ValueError(f"takes a share between 0 and 1, got {value!r}")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"takes a command, got {value!r}")
    return value


def _given(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _first(values: Sequence[Any]) -> Any:
    return values[0]


KNOWN: dict[str, _Known] = {
    "np": _Known(1, _whole(1), max),
    "nranks": _Known(0, _whole(0), max),
    "omp_num_threads": _Known(0, _whole(0), max),
    "ngpu": _Known(0, _whole(0), max),
    "memory": _Known(None, _memory, lambda values: max(_given(values), default=None)),
    "walltime": _Known(None, _walltime, lambda values: sum(_given(values)) or None),
    "executable": _Known(None, _text, _first),
    "processor_fraction": _Known(1.0, _fraction, _first),
    "fork": _Known(False, bool, any),
}


def check_directives(directives: Any, whose: str) -> Directives:
    """The directives with every value checked; functions are checked once they are called.

    Args:
        directives: as given to a decorator; None for none.
        whose: such as ``"operation 'op1' in group 'ex'"``, for the message.

    Raises:
        DirectivesError: a value is not one it can have, or this is no mapping.
    """
    if directives is None:
        return {}
    if not isinstance(directives, Mapping):
        raise DirectivesError(f"{whose}: directives takes a mapping, got {directives!r}")
    return {name: _checked(name, value, whose) for name, value in directives.items()}


def _checked(name: str, value: Any, whose: str) -> Any:
    known = KNOWN.get(name)
    if known is None or callable(value) or (value is None and known.default is None):
        return value
    try:
        return known.check(value)
    except (TypeError, ValueError) as error:
        raise DirectivesError(f"{whose}: directive {name!r} {error}") from error


def evaluate(directives: Directives, jobs: Sequence[Any], whose: str) -> dict[str, Any]:
    """All directives for these jobs: functions called, defaults filled in, ``np`` worked out.

    ``np`` is the processors that the ranks and their threads need where that is more and it
    was not said.

    Raises:
        DirectivesError: a function raised, or gave a value that the directive cannot have.
    """
    values = {name: known.default for name, known in KNOWN.items()}
    for name, value in directives.items():
        if callable(value):
            try:
                value = value(*jobs)
            except Exception as error:
                raise DirectivesError(
                    f"{whose}: the function of directive {name!r} raised "
                    f"{type(error).__name__}: {error}"
                ) from error
        values[name] = _checked(name, value, whose)
    if values["np"] == 1:
        values["np"] = max(1, max(values["nranks"], 1) * max(values["omp_num_threads"], 1))
    return values


def add_up(of_operations: Mapping[str, Mapping[str, Any]], whose: str) -> dict[str, Any]:
    """The directives of a group whose operations run one after the other.

    Args:
        of_operations: by operation, its evaluated directives.
        whose: the group, for the message.

    Raises:
        DirectivesError: two operations give a directive of their own different values.
    """
    total = {
        name: known.combine([values[name] for values in of_operations.values()])
        for name, known in KNOWN.items()
    }
    said_by: dict[str, str] = {}
    for operation, values in of_operations.items():
        for name in values.keys() - KNOWN.keys():
            if name in total and total[name] != values[name]:
                raise DirectivesError(
                    f"{whose}: directive {name!r} is {total[name]!r} for {said_by[name]!r} and "
                    f"{values[name]!r} for {operation!r}; a group has one value for it"
                )
            total[name] = values[name]
            said_by[name] = operation
    return total


def requirements_of(values: Mapping[str, Any], *, counts_cpus: bool) -> ResourceRequirements:
    """What evaluated directives ask of the machine.

    Args:
        values: of an operation or a group.
        counts_cpus: whether it holds its ``np`` CPUs while it runs.
    """
    return ResourceRequirements(
        cpu=values["np"] if counts_cpus else 0,
        memory=None if values["memory"] is None else int(values["memory"] * _GIGABYTE),
        gpu=values["ngpu"] or None,
    )
