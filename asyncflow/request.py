"""What a runtime is asked to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from asyncflow.graph.graph import Graph

__all__ = ["FailurePolicy", "RunRequest", "Startable"]

FailurePolicy = Literal["fail_fast", "collect_all"]


class RunRequest(msgspec.Struct, frozen=True):
    """A built graph with values for one run.

    Args:
        graph: what to run.
        inputs, services: values that parameters find by name.
        given: values that stand in for assets of the graph that nothing produces.
        run_id: None for one that nobody has.
        failure_policy: ``"fail_fast"`` or ``"collect_all"``.
        timeout_seconds: for the whole run.
        max_workers: how many steps that name no lane may be in worker lanes at once.
        one_at_a_time: whether a unit begins only when the one before has ended, whatever there is
            room for; what a unit asks for while it runs does not wait.
        backend: the lane of sync steps that name none.
    """

    graph: Graph
    inputs: Mapping[str, Any] = {}
    services: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}
    run_id: str | None = None
    failure_policy: FailurePolicy = "fail_fast"
    timeout_seconds: float | None = None
    max_workers: int | None = None
    one_at_a_time: bool = False
    backend: str = "thread"


class Startable(Protocol):
    """What :meth:`Runtime.start` takes: a pipeline of any dialect."""

    async def request(self, *args: Any, **options: Any) -> RunRequest: ...
