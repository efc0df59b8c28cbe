"""Named limits: how a runtime defines them, and how a step asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from asyncflow.quantities import exact_number, shown

__all__ = ["Limit", "Rate", "StepLimits", "check_limits", "defined_limits", "normalise_limits"]

_MOST = 10**12
_SHORTEST_SECONDS = Fraction(1, 10**6)
_LONGEST_SECONDS = 10**9
_NANOSECONDS = 10**9
_STEP_EXAMPLES = "('api',), {'api': 2}, or a function of the inputs that returns such a value"
_RUNTIME_EXAMPLES = "{'db': 4, 'host:*': 8, 'api': Rate(200, per_seconds=1)}"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds, as a limit of somebody else's API says it.

    Two rules hold at once, exactly, whatever asks and however late timers are:

    - in any window of `per_seconds` (its end excluded) at most `n` are let through, or `burst`
      if that is more;
    - in any window of T seconds at most `burst + n * T / per_seconds` are.

    With `burst=1` they are evenly spaced. A timer that is late then costs its lateness each
    time; left out, `burst` is chosen so that nothing is lost by timers up to 20 ms late: the
    largest weight that has been asked for, and as many as fall due in 20 ms. Then what is lost
    under steady demand is at most the lateness of one timer in `per_seconds` (and a thousandth
    where `n` is above 1,000).

    Parameters:
        n: how many; 0 lets nothing through.
        per_seconds: in how many seconds, from a millionth.
        burst: how many may go at once after a pause; None leaves it to the rule above.

    Raises:
        TypeError, ValueError: if a value is not of its kind.

    Example:
        >>> print(Rate(200), Rate(5, per_seconds=60, burst=5), sep=", ")
        200 in 1 s, 5 in 60 s
    """

    n: int
    per_seconds: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        _check_whole(self.n, "The rate", "n", least=0)
        if self.burst is not None:
            _check_whole(self.burst, "The rate", "burst", least=1)
        seconds = exact_number(self.per_seconds, "a number of seconds", "1, 60 or 0.5")
        if not _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:
            raise ValueError(
                f"per_seconds={shown(self.per_seconds)} of a rate is not between a millionth "
                "and a thousand million seconds."
            )

    def __str__(self) -> str:
        return f"{self.n} in {float(self.per_seconds):.10g} s"

    @property
    def per_nanoseconds(self) -> int:
        """Nanoseconds of the window, rounded up."""
        return math.ceil(exact_number(self.per_seconds, "", "") * _NANOSECONDS)

    @property
    def most_at_once(self) -> int:
        """The largest weight that can ever be let through."""
        return self.n if self.burst is None else self.burst


Limit = int | Rate
"""What a runtime defines under one name: how many at once, or a rate."""

StepLimits = str | Iterable[str] | Mapping[str, int] | None
"""What a step asks for: one name, several, or names with weights."""


def check_limits(
    value: StepLimits | Callable[..., StepLimits],
) -> tuple[tuple[str, int], ...] | Callable[..., StepLimits]:
    """Return a step's limits as they are kept: normalised, or the function that gives them.

    Raises:
        TypeError, ValueError: as `normalise_limits`.
    """
    return value if callable(value) else normalise_limits(value)


def normalise_limits(value: StepLimits) -> tuple[tuple[str, int], ...]:
    """Return what a step asks for as pairs of a name and a weight, sorted by name.

    Parameters:
        value: one name, several names (each with weight 1), a mapping from names to weights
            (whole numbers from 1), or None.

    Raises:
        TypeError: if it is something else, a name is no text or a weight no whole number.
        ValueError: if a name is empty, a pattern or named twice, or a weight is below 1.

    Example:
        >>> normalise_limits({"db": 2, "api": 1}), normalise_limits(("api",))
        ((('api', 1), ('db', 2)), (('api', 1),))
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return ((_step_name(value), 1),)
    if isinstance(value, Mapping):
        return tuple(sorted((_step_name(name), _weight(name, w)) for name, w in value.items()))
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        names = [_step_name(name) for name in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"The limit {name!r} is named twice; write {{{name!r}: {names.count(name)}}}."
                )
        return tuple((name, 1) for name in sorted(names))
    raise TypeError(f"limits={shown(value)} names no limits; write {_STEP_EXAMPLES}.")


def defined_limits(value: Mapping[str, Limit] | None) -> dict[str, Limit]:
    """Return the limits that a runtime defines, checked.

    Parameters:
        value: from names, or patterns with shell wildcards, to how many at once or a rate;
            0 lets nothing through until the limit is changed.

    Raises:
        TypeError: if it is no mapping, a name is no text, or a limit of another kind.
        ValueError: if a name is empty or a number is negative.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"limits={shown(value)} defines no limits; write {_RUNTIME_EXAMPLES}.")
    return {_name(name): checked_limit(name, limit) for name, limit in value.items()}


def checked_limit(name: str, limit: object) -> Limit:
    """Return one limit that a runtime defines.

    Raises:
        TypeError: if it is neither a whole number nor a rate.
        ValueError: if it is negative or absurdly large.
    """
    if isinstance(limit, Rate):
        return limit
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(
            f"The limit {name!r} is {shown(limit)}; write how many at once, like 8, or a rate, "
            "like Rate(200, per_seconds=1)."
        )
    return _check_whole(limit, f"The limit {name!r}", "the number", least=0)


def _check_whole(value: Any, whose: str, what: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{whose} has {what} {shown(value)}; write a whole number from {least}.")
    if not least <= value <= _MOST:
        raise ValueError(
            f"{whose} has {what} {shown(value)}; write a whole number from {least} to {_MOST}."
        )
    return value


def _weight(name: str, weight: object) -> int:
    return _check_whole(weight, f"The limit {name!r}", "the weight", least=1)


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"The name {shown(name)} of a limit is not text; write it like 'api'.")
    if not name:
        raise ValueError("The name of a limit is empty; write it like 'api'.")
    return name


def _step_name(name: object) -> str:
    found = _name(name)
    if "*" in found:
        raise ValueError(
            f"A step cannot ask for the pattern {found!r}: patterns belong in "
            "Runtime(limits=…), and a step names one limit that they cover, for example with a "
            "function of its inputs."
        )
    return found
