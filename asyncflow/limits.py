"""Named capacity: what a runtime defines, and what a step takes of it.

A runtime defines keys, each with how many may hold it at once or how often it may be taken in
a time. A step names the keys it takes. A ``*`` in a defined key stands for any text, and each
text has capacity of its own.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from asyncflow.quantities import nearest

__all__ = ["Definitions", "Keys", "Limit", "Limits", "Rate", "StepLimits", "keys_of", "limits_of"]

# Keys with the weight of each, sorted by name.
Keys = tuple[tuple[str, int], ...]
Limits = str | Iterable[str] | Mapping[str, int]
StepLimits = Limits | Callable[..., Limits | None] | None

_LARGEST = 2**31


class Rate(msgspec.Struct, frozen=True):
    """So many starts in so much time: ``Rate(200, per_seconds=1)``.

    In any window of ``per_seconds``, wherever it begins, at most ``n`` attempts start; they may
    all start at its beginning. With a ``burst`` below ``n`` they are spread out: a bucket holds
    ``burst`` tokens, one drips in every ``per_seconds / n``, and each start takes one (or as
    many as its weight). With a ``burst`` above ``n`` tokens are saved up while nothing asks
    for them, and a window sees at most ``burst`` starts.

    Args:
        n: how many starts, a whole number; 0 lets nothing start until the rate is changed.
        per_seconds: the length of the window, in seconds or as a timedelta.
        burst: how many may start at one moment; None for ``n``.

    Raises:
        TypeError, ValueError: a number makes no sense.

    Example:
        >>> Rate(60, per_seconds=60).burst
        60
    """

    n: int
    per_seconds: float | timedelta = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        set_field = functools.partial(msgspec.structs.force_setattr, self)
        _check_count("Rate(n=…)", self.n, least=0)
        set_field("per_seconds", _seconds_of(self.per_seconds))
        if self.burst is not None:
            _check_count("Rate(burst=…)", self.burst, least=1)
        set_field("burst", self.n if self.burst is None else self.burst)

    @property
    def window_seconds(self) -> float:
        """``per_seconds`` as a number."""
        assert isinstance(self.per_seconds, float)
        return self.per_seconds

    @property
    def most(self) -> int:
        """How many starts a window of ``per_seconds`` sees at most."""
        assert self.burst is not None
        return max(self.n, self.burst) if self.n else 0

    @property
    def most_at_once(self) -> int:
        """How many may start at one moment."""
        return self.burst if self.n and self.burst is not None else 0

    def __str__(self) -> str:
        per = "second" if self.per_seconds == 1 else f"{self.window_seconds:g} s"
        spread = "" if self.burst == self.n else f", {self.burst} at once"
        return f"{self.n} per {per}{spread}"


# How many may hold a key at once, or how often it may be taken.
Limit = int | Rate


def _check_count(what: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} takes a whole number, got {value!r}")
    if not least <= value <= _LARGEST:
        raise ValueError(f"{what} takes a whole number of {least} or more, got {value!r}")


def _seconds_of(value: Any) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"Rate(per_seconds=…) takes seconds or a timedelta, got {value!r}")
    if not 0 < seconds <= sys.float_info.max:
        raise ValueError(f"Rate(per_seconds=…) takes finite seconds above 0, got {value!r}")
    return float(seconds)


# -- what a step takes -------------------------------------------------------------------


def limits_of(value: Any) -> dict[str, int] | Callable[..., Any] | None:
    """What ``@step(limits=…)`` was given: weights by key, or what works them out; or None.

    Raises:
        TypeError, ValueError: it is neither, or a weight makes no sense.
    """
    if value is None:
        return None
    if callable(value) and not isinstance(value, Mapping):
        if inspect.iscoroutinefunction(value):
            raise TypeError("takes a function that is no coroutine function: it is called often")
        return value  # type: ignore[no-any-return]
    return dict(keys_of(value)) or None


def keys_of(value: Any) -> Keys:
    """Keys and weights: a key, several, or a mapping from keys to weights.

    Raises:
        TypeError, ValueError: it is none of that, or a weight is no whole number of 1 or more.

    Example:
        >>> keys_of("api"), keys_of({"b": 2, "a": 1})
        ((('api', 1),), (('a', 1), ('b', 2)))
    """
    if isinstance(value, str):
        value = (value,)
    if value is None:
        return ()
    if isinstance(value, Mapping):
        weights = dict(value)
    elif isinstance(value, Iterable):
        names = list(value)
        weights = dict.fromkeys(names, 1)
        if len(weights) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"names {twice!r} twice; write {{{twice!r}: 2}} for a weight of 2")
    else:
        raise TypeError(f"takes keys such as ['api'] or {{'api': 2}}, got {value!r}")
    for name, weight in weights.items():
        _check_key(name)
        if isinstance(weight, Rate):
            raise TypeError(
                f"{name!r} has a Rate: a step says how much it takes, and Runtime(limits=…) how "
                "much there is"
            )
        _check_count(f"the weight of {name!r}", weight, least=1)
    return tuple(sorted(weights.items()))


def _check_key(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise TypeError(f"takes keys that are texts, such as 'api', got {name!r}")


# -- what a runtime has ------------------------------------------------------------------


class Definitions:
    """The keys that a runtime defines.

    Args:
        limits: key → how many may hold it at once, or a :class:`Rate`.

    Raises:
        TypeError, ValueError: it is no mapping, or a limit makes no sense.
    """

    def __init__(self, limits: Mapping[str, Limit] | None = None) -> None:
        if limits is not None and not isinstance(limits, Mapping):
            raise TypeError(
                "Runtime(limits=…) takes a mapping from keys to limits, such as "
                f"{{'api': Rate(200, per_seconds=1), 'host:*': 8}}, got {limits!r}"
            )
        self._exact: dict[str, Limit] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], Limit]] = {}
        for name, limit in (limits or {}).items():
            _check_key(name)
            self._set(name, limit)

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def _set(self, name: str, limit: Limit) -> None:
        if not isinstance(limit, Rate):
            _check_count(f"the limit {name!r}", limit, least=0)
        if "*" in name:
            self._patterns[name] = _pattern(name), limit
        else:
            self._exact[name] = limit

    def change(self, name: str, limit: Limit) -> None:
        """Give a defined key another limit of the same kind.

        Raises:
            KeyError: no such key is defined.
            TypeError, ValueError: the limit makes no sense, or is of the other kind.
        """
        before = self._exact.get(name)
        if before is None and name in self._patterns:
            before = self._patterns[name][1]
        if before is None:
            raise KeyError(self.unknown(name))
        if isinstance(before, Rate) != isinstance(limit, Rate):
            raise TypeError(
                f"the limit {name!r} is {_kind(before)} and cannot become {_kind(limit)} while "
                "it is in use"
            )
        self._set(name, limit)

    def defined_as(self, key: str) -> str | None:
        """The name under which a key is defined: its own, or the pattern that fits it best.

        That is the one with the most text besides its ``*``.
        """
        if key in self._exact:
            return key
        fitting = [name for name, (found, _) in self._patterns.items() if found.fullmatch(key)]
        return max(fitting, key=_literal, default=None)

    def limit_of(self, name: str) -> Limit:
        """The limit defined under a name."""
        found = self._exact.get(name)
        return self._patterns[name][1] if found is None else found

    def unknown(self, key: str) -> str:
        """The sentence about a key that is not defined."""
        known = [*self._exact, *self._patterns]
        if not known:
            return (
                f"there is no limit {key!r}: this runtime defines none; write "
                f"Runtime(limits={{{key!r}: …}})."
            )
        hint = nearest(key, known) or f"; there {'is' if len(known) == 1 else 'are'} " + ", ".join(
            map(repr, known[:5])
        )
        return f"there is no limit {key!r} in this runtime{hint}; define it with Runtime(limits=…)."


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, name.split("*"))), re.DOTALL)


def _literal(name: str) -> int:
    return len(name) - name.count("*")


def _kind(limit: Limit) -> str:
    return "a Rate" if isinstance(limit, Rate) else "a number of holders"
