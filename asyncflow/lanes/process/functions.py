"""The functions that workers know, by number: each is sent to a worker once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from asyncflow.pickling.sending import dumps

__all__ = ["Function", "FunctionTable"]

_MOST = 1000


class Function(NamedTuple):
    """A function as it is sent: its pickle, and the number that stands for it from then on."""

    number: int
    body: bytes


class FunctionTable:
    """Numbers for functions.

    A function that goes by value is pickled once for each run: what it captures is what it was
    when its first step of that run began. The same bytes have the same number.
    """

    def __init__(self) -> None:
        self._by_body: dict[bytes, Function] = {}
        self._by_scope: weakref.WeakKeyDictionary[Any, dict[Callable[..., Any], Function]]
        self._by_scope = weakref.WeakKeyDictionary()
        self._latest: weakref.ref[Any] | None = None
        self._known: dict[Callable[..., Any], Function] = {}
        self._last = 0

    def find(self, func: Callable[..., Any], scope: Any) -> Function:
        """The number of a function.

        Args:
            scope: for how long what it captures counts as unchanged: a run; None pickles anew.

        Raises:
            Exception: it cannot be pickled.
        """
        if scope is None:
            return self._number(dumps(func))
        known = self._known_in(scope)
        try:
            return known[func]
        except KeyError:
            found = known[func] = self._number(dumps(func))
            return found
        except TypeError:  # a callable that has no hash
            return self._number(dumps(func))

    def _known_in(self, scope: Any) -> dict[Callable[..., Any], Function]:
        """What is known of one run; most calls are of the same run as the one before."""
        if self._latest is not None and self._latest() is scope:
            return self._known
        known = self._by_scope.get(scope)
        if known is None:
            known = self._by_scope[scope] = {}
        self._latest, self._known = weakref.ref(scope), known
        return known

    def _number(self, body: bytes) -> Function:
        found = self._by_body.get(body)
        if found is None:
            if len(self._by_body) >= _MOST:
                self._by_body.clear()
            self._last += 1
            found = self._by_body[body] = Function(self._last, body)
        return found
