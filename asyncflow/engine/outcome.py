"""What the end of an attempt means: its value stored, or the state and error it ends in."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from asyncflow.engine.attempt import Attempt, Stop
from asyncflow.engine.record import FREED, RunRecord
from asyncflow.errors import StepCancelled, StepFailed, StepTimeout, text_of
from asyncflow.graph.node import MISSING
from asyncflow.lanes.flow import parts_of
from asyncflow.states import (
    ABANDONED,
    CANCELLED,
    FAILED,
    PASSED_ON,
    TIMED_OUT,
    UPSTREAM_FAILED,
    WAITING,
)

__all__ = [
    "closing_states",
    "count_uses",
    "failure_of",
    "let_go",
    "let_go_of_element",
    "let_go_of_value",
    "store",
]

_CHUNK = 256


def store(run: RunRecord, node: int, value: Any) -> StepFailed | None:
    """Keep what a node returned under its assets; an error if it does not fit them."""
    outputs = run.graph.outputs[node]
    values = run.values
    if node in run.rerun:
        _restore(run, node, value)
        return None
    if not isinstance(outputs, tuple):
        if values[outputs] is MISSING:
            values[outputs] = value
            return None
        return _produced_twice(run, node, outputs)
    try:
        placed = run.graph.nodes[node]
        parts = parts_of(value, placed.output_names, placed.name)
    except StepFailed as error:
        return error
    except Exception as error:  # noqa: BLE001
        # A mapping or list of the user's own, whose methods run here.
        return _not_taken_apart(run, node, value, error)
    for asset in outputs:
        if values[asset] is not MISSING:
            return _produced_twice(run, node, asset)
    run.raw[node] = value
    for asset, part in zip(outputs, parts, strict=True):
        values[asset] = part
    return None


def _restore(run: RunRecord, node: int, value: Any) -> None:
    """Put back those values of a node that were lost; others may have been taken already."""
    outputs = run.graph.outputs_of(node)
    parts = [value] if len(outputs) == 1 else value
    for asset, part in zip(outputs, parts, strict=True):
        if run.values[asset] is MISSING:
            run.values[asset] = part
    if len(outputs) > 1:
        run.raw[node] = [run.values[asset] for asset in outputs]


def _produced_twice(run: RunRecord, node: int, asset: int) -> StepFailed:
    name = run.graph.nodes[node].name
    others = [run.graph.nodes[index].name for index in run.graph.producers_of(asset)]
    asset_name = next(key for key, number in run.graph.assets.items() if number == asset)
    return StepFailed(
        f"asset {asset_name!r} was produced by more than one of {', '.join(map(repr, others))}; "
        "let their conditions exclude each other",
        step=name,
    )


def _not_taken_apart(run: RunRecord, node: int, value: Any, error: Exception) -> StepFailed:
    name = run.graph.nodes[node].name
    failed = StepFailed(
        f"step {name!r} returned a value of type {type(value).__name__} whose parts cannot be read "
        f"({text_of(error)}); return a tuple, a list or a dict",
        step=name,
    )
    failed.__cause__ = error
    return failed


def let_go(run: RunRecord, node: int) -> None:
    """Free the values that no other node needs, once ``node`` is done with its inputs."""
    kept, consumers, graph = run.graph.kept, run.consumers, run.graph
    if kept is None or consumers is None:
        return
    for asset in set(graph.slots[node]):
        consumers[asset] -= 1
    for asset in {*graph.slots[node], *graph.outputs_of(node)}:
        if not consumers[asset] and asset not in kept and run.values[asset] is not MISSING:
            run.values[asset] = FREED
            for producer in graph.producers_of(asset):
                run.raw.pop(producer, None)


def count_uses(run: RunRecord, element: int, taken: int, mapped: int) -> None:
    """Count who takes what there is for an element, and what it will make.

    Args:
        element: a new node.
        taken: the asset that it is the element for, which counts it already.
        mapped: the node that it is an element of. Nodes that follow that one may come to this
            element late, so they count from the beginning.
    """
    graph, consumers = run.graph, run.consumers
    assert consumers is not None
    for asset in set(graph.slots[element]) - {taken}:
        consumers[asset] += 1
    outputs = graph.outputs_of(element)
    for follower in graph.maps[mapped].followers:
        consumers[outputs[graph.maps[follower].part]] += 1


def let_go_of_element(run: RunRecord, element: int, mapped: int) -> None:
    """The value of an element has gone into the list of the mapped node."""
    if run.graph.kept is not None and run.graph.kept.isdisjoint(run.graph.outputs_of(mapped)):
        let_go_of_value(run, element)


def let_go_of_value(run: RunRecord, node: int) -> None:
    """Who asked for a node that was added while the run goes on has got its value."""
    if run.consumers is None:
        return
    for asset in run.graph.outputs_of(node):
        run.consumers[asset] -= 1
        if not run.consumers[asset] and run.values[asset] is not MISSING:
            run.values[asset] = FREED
    run.raw.pop(node, None)


def failure_of(attempt: Attempt) -> tuple[int, BaseException]:
    """The state and the error of an attempt that did not succeed."""
    error = attempt.error
    if attempt.stop is Stop.TIMEOUT:
        timeout = StepTimeout(
            f"step {attempt.name!r}, attempt {attempt.number}, took longer than its timeout of "
            f"{_timeout_of(attempt):g} s; raise timeout=, or retry=",
            step=attempt.name,
            attempt=attempt.number,
            timeout_seconds=_timeout_of(attempt),
        )
        timeout.__cause__ = error
        return (ABANDONED if attempt.abandoned else TIMED_OUT), timeout
    if attempt.abandoned:
        return ABANDONED, StepCancelled(
            f"step {attempt.name!r} ignored its cancel and was abandoned; it may still be running",
            step=attempt.name,
            attempt=attempt.number,
        )
    assert error is not None
    if attempt.stop is Stop.CANCEL and isinstance(error, asyncio.CancelledError | StepCancelled):
        cancelled = StepCancelled(
            f"step {attempt.name!r} was cancelled", step=attempt.name, attempt=attempt.number
        )
        cancelled.__cause__ = error
        return CANCELLED, cancelled
    return FAILED, error


def _timeout_of(attempt: Attempt) -> float:
    return attempt.run.graph.nodes[attempt.node].step.timeout or 0.0


def closing_states(run: RunRecord) -> Generator[list[tuple[int, int]]]:
    """What becomes of the nodes that a stopped run did not come to, chunk by chunk.

    Below a failure they are ``upstream_failed``, others ``cancelled``; no failure holds back a
    clean-up node, so that is ``cancelled`` too.
    """
    chunk: list[tuple[int, int]] = []
    for node in run.graph.order if run.left else ():
        if run.states[node] == WAITING and run.bars(node):
            below = node not in run.graph.cleanup and any(
                run.states[parent] in PASSED_ON for parent in run.graph.parents[node]
            )
            run.states[node] = UPSTREAM_FAILED if below else CANCELLED
            chunk.append((node, run.states[node]))
        if len(chunk) >= _CHUNK:
            yield chunk
            chunk = []
    yield chunk
