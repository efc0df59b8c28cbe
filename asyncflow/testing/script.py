"""What is made up for the steps of a simulated run: how long they take and how they fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from asyncflow.errors import GraphError
from asyncflow.graph.graph import Graph
from asyncflow.graph.names import nearest
from asyncflow.graph.node import Node

__all__ = ["Durations", "Failures", "Script"]

Duration = float | Callable[[str], float]
Durations = Mapping[str, Duration] | Callable[[str], float | None]

Failure = BaseException | type[BaseException] | None
FailureOf = Callable[[str, int], Failure]
Failures = Mapping[str, Sequence[Failure] | FailureOf] | FailureOf


class Script:
    """Durations and failures by the name of a node, or of its step.

    An element of a mapped node goes by its own name, ``node[key]``, or by ``node``.

    Args:
        durations: seconds, or a function of the node's name; or one function for all.
        failures: an exception or None for each attempt in turn, or a function of the node's
            name and the attempt's number (from 1); or one function for all.

    Raises:
        ValueError: a duration is negative or not finite.
        TypeError: something else stands where a number, a list or a function should.
    """

    def __init__(self, durations: Durations | None, failures: Failures | None) -> None:
        self._durations = {} if durations is None else durations
        self._failures = {} if failures is None else failures
        self._unseen = set(_names(durations)) | set(_names(failures))
        self._graph_names: dict[str, None] = {}
        for name, seconds in _items(durations):
            if not callable(seconds):
                _checked_seconds(name, seconds)
        for name, listed in _items(failures):
            _check_failures(name, listed)

    def seconds_of(self, node: Node) -> float:
        """How long an attempt of a node takes; 0 for as long as its function does."""
        self._see_node(node)
        if callable(self._durations):
            return _checked_seconds(node.name, self._durations(node.name) or 0.0)
        seconds = _look_up(self._durations, node, 0.0)
        if callable(seconds):
            return _checked_seconds(node.name, seconds(node.name))
        return float(seconds)

    def failure_of(self, node: Node, attempt: int) -> BaseException | None:
        """What an attempt (from 1) of a node raises instead of calling its function."""
        if callable(self._failures):
            failure = self._failures(node.name, attempt)
        else:
            listed = _look_up(self._failures, node, ())
            if callable(listed):
                failure = listed(node.name, attempt)
            else:
                failure = listed[attempt - 1] if attempt <= len(listed) else None
        return failure() if isinstance(failure, type) else failure

    # -- names that fit nothing ----------------------------------------------------------

    def see(self, graph: Graph) -> None:
        """Learn the names of a graph that runs."""
        if not self._unseen:
            return
        for node in graph.nodes:
            self._see_node(node)

    def _see_node(self, node: Node) -> None:
        # Nodes that come while the graph runs are first seen when they start.
        if self._unseen:
            names = dict.fromkeys(_names_of(node))
            self._unseen -= names.keys()
            self._graph_names.update(names)

    def check_names(self) -> None:
        """Refuse a name that no graph had: it was meant for a step and did nothing.

        Raises:
            GraphError: there is one.
        """
        for name in sorted(self._unseen):
            raise GraphError(
                f"durations= or failures= names {name!r}, and no step that ran is called that"
                + nearest(name, self._graph_names)
            )


def _names_of(node: Node) -> Iterable[str]:
    return node.name, node.name.partition("[")[0], node.step.name


def _look_up(table: Mapping[str, Any], node: Node, otherwise: Any) -> Any:
    if table:
        for name in _names_of(node):
            if name in table:
                return table[name]
    return otherwise


def _items(given: Any) -> Iterable[tuple[str, Any]]:
    return given.items() if isinstance(given, Mapping) else ()


def _names(given: Any) -> Iterable[str]:
    return given if isinstance(given, Mapping) else ()


def _checked_seconds(name: str, seconds: Any) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"durations={{{name!r}: …}} takes seconds or a function, got {seconds!r}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"step {name!r} takes finite seconds of 0 or more, got {seconds!r}")
    return float(seconds)


def _check_failures(name: str, listed: Any) -> None:
    if callable(listed) and not isinstance(listed, type):
        return
    if not isinstance(listed, list | tuple):
        raise TypeError(
            f"failures={{{name!r}: …}} takes a list with an exception or None for each attempt, "
            f"or a function of node and attempt; got {listed!r}"
        )
    for failure in listed:
        kind = failure if isinstance(failure, type) else type(failure)
        if failure is not None and not issubclass(kind, BaseException):
            raise TypeError(f"failures={{{name!r}: …}} lists exceptions and None, got {failure!r}")
