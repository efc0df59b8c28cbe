"""Whatever the graph and whatever happens: every node ends once, and every account closes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import event as note
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Pipeline, Retry, Run, Runtime, step
from asyncflow.events import (
    Event,
    NodeFinished,
    NodeStarted,
    RunFinished,
    RunStarted,
    UnitFinished,
    UnitStarted,
)
from asyncflow.graph.graph import Graph
from asyncflow.states import NodeState
from tests.engine.holding import assert_nothing_is_held
from tests.virtual_time import run_virtually

DEFAULT = "<default>"
Verdict = Literal["true", "false", "raises"] | None


class Plan(msgspec.Struct, frozen=True):
    """One random node.

    ``needs`` and ``takes`` are parents by data, without and with a default; ``after`` are
    parents by order only. It fails ``failures`` times and may be tried ``retries`` times more.
    """

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    after: tuple[str, ...]
    label: str | None
    condition: Verdict
    failures: int
    retries: int
    seconds: float
    timeout: float | None
    cpu: float | None
    memory: int | None
    thread: bool

    @property
    def parents(self) -> set[str]:
        return {*self.needs, *self.takes, *self.after}

    @property
    def outcome(self) -> str:
        """How it ends if it runs."""
        overdue = self.timeout is not None and self.timeout < self.seconds
        if overdue:
            return "timed_out"
        return "failed" if self.failures > self.retries else "succeeded"


@st.composite
def plans(draw: st.DrawFn, *, threads: bool = False) -> list[Plan]:
    size = draw(st.integers(1, 10))
    labels = draw(st.sampled_from([(None,), ("g",), (None, "g", "h", "g_0")]))
    nodes: list[Plan] = []
    for number in range(size):
        kinds: dict[str, list[str]] = {"needs": [], "takes": [], "after": []}
        above = [node.name for node in nodes]
        for parent in (
            draw(st.lists(st.sampled_from(above), unique=True, max_size=4)) if above else ()
        ):
            kinds[draw(st.sampled_from(sorted(kinds)))].append(parent)
        nodes.append(
            Plan(
                name=f"n{number}",
                needs=tuple(kinds["needs"]),
                takes=tuple(kinds["takes"]),
                after=tuple(kinds["after"]),
                label=draw(st.sampled_from(labels)),
                condition=draw(st.sampled_from([None, None, None, "true", "false", "raises"])),
                failures=draw(st.sampled_from([0, 0, 0, 1, 3])),
                retries=draw(st.sampled_from([0, 1, 2])),
                seconds=draw(st.sampled_from([0, 0, 1, 2, 5])),
                # Never in the very moment in which the step ends.
                timeout=draw(st.sampled_from([None, None, 1.5, 3.5])),
                cpu=draw(st.sampled_from([None, None, 0.5, 1, 2, 8])),
                memory=draw(st.sampled_from([None, None, 400, 1000])),
                thread=threads and draw(st.sampled_from([False, False, True])),
            )
        )
    return nodes


# --------------------------------------------------------------------- model


def expected_states(nodes: Iterable[Plan]) -> dict[str, str]:
    """What collect_all comes to when nobody cancels: worked out node by node, in a dict."""
    states: dict[str, str] = {}
    for node in nodes:
        above = {states[parent] for parent in node.parents}
        if above & {"failed", "timed_out", "upstream_failed"}:
            states[node.name] = "upstream_failed"
        elif any(states[parent] == "skipped" for parent in node.needs):
            states[node.name] = "skipped"
        elif node.condition in ("false", "raises"):
            states[node.name] = "skipped" if node.condition == "false" else "failed"
        else:
            states[node.name] = node.outcome
    return states


def expected_arguments(node: Plan, states: dict[str, str]) -> dict[str, str]:
    return {
        parent: f"value of {parent}" if states[parent] == "succeeded" else DEFAULT
        for parent in (*node.needs, *node.takes)
    }


# ------------------------------------------------------------------- pipeline


class Ledger:
    """What the steps of one run saw."""

    def __init__(self) -> None:
        self.arguments: dict[str, dict[str, str]] = {}
        self.tries: dict[str, int] = {}
        self.running: set[str] = set()

    def enter(self, node: Plan, arguments: dict[str, str]) -> None:
        assert node.name not in self.running, f"{node.name} runs twice at once"
        self.running.add(node.name)
        self.arguments[node.name] = arguments
        self.tries[node.name] = self.tries.get(node.name, 0) + 1

    def leave(self, node: Plan) -> str:
        if self.tries[node.name] <= node.failures:
            raise OSError(f"{node.name} fails at try {self.tries[node.name]}")
        return f"value of {node.name}"


def function_of(node: Plan, ledger: Ledger) -> Callable[..., Any]:
    """A function with one parameter for each parent by data."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        *(inspect.Parameter(name, kind) for name in node.needs),
        *(inspect.Parameter(name, kind, default=DEFAULT) for name in node.takes),
    ]
    names = [*node.needs, *node.takes]

    async def coroutine(*args: str) -> str:
        ledger.enter(node, dict(zip(names, args, strict=True)))
        try:
            await asyncio.sleep(node.seconds)
            return ledger.leave(node)
        finally:
            ledger.running.discard(node.name)

    def function(*args: str) -> str:
        ledger.enter(node, dict(zip(names, args, strict=True)))
        try:
            return ledger.leave(node)
        finally:
            ledger.running.discard(node.name)

    chosen: Any = function if node.thread else coroutine
    chosen.__signature__ = inspect.Signature(parameters)
    return chosen  # type: ignore[no-any-return]


def condition_of(verdict: Verdict) -> Callable[[], Any] | None:
    async def slow() -> bool:
        await asyncio.sleep(1)
        return verdict == "true"

    def broken() -> bool:
        raise LookupError("the condition itself is broken")

    if verdict is None:
        return None
    return broken if verdict == "raises" else slow


def pipeline_of(nodes: Iterable[Plan], ledger: Ledger) -> Pipeline:
    pipeline = Pipeline("random")
    for node in nodes:
        wanted = {"cpu": node.cpu, "memory": node.memory}
        asked = {key: amount for key, amount in wanted.items() if amount is not None}
        placed = step(
            function_of(node, ledger),
            name=node.name,
            execution_group=node.label,
            condition=condition_of(node.condition),
            retry=Retry(node.retries, wait_initial=1, wait_jitter=0.5),
            timeout=node.timeout,
            resources=asked or None,
        )
        pipeline.add_step(placed, after=node.after)
    return pipeline


# --------------------------------------------------------------------- checks


def validate_at_every_event(run: Run, runtime: Runtime) -> None:
    """Check frontier and limiter whenever something is published."""
    bus, frontier = run._record.bus, run._record.frontier
    publish, limiter = bus.publish, runtime._get_limiter()

    def checked(kind: type[Event], **fields: Any) -> None:
        frontier.validate()
        limiter.validate()
        scheduler = runtime._entered()
        assert 0 <= scheduler.in_flight <= scheduler.max_concurrency
        publish(kind, **fields)

    bus.publish = checked  # type: ignore[method-assign]


def assert_events_in_order(events: list[Event], graph: Graph) -> None:
    sequences = [event.sequence for event in events]
    assert sequences == list(range(1, len(events) + 1))
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    names = [node.name for node in graph.nodes]
    ends = [event.node for event in events if isinstance(event, NodeFinished)]
    assert sorted(ends) == sorted(names), "a node finished twice, or never"
    ended: set[str] = set()
    open_units: dict[str, set[str]] = {}
    for event in events:
        if isinstance(event, UnitStarted):
            assert event.node not in open_units
            outside = {p for member in event.members for p in parents_of(graph, member)}
            assert outside - set(event.members) <= ended, f"{event.node} began too early"
            open_units[event.node] = set(event.members)
        elif isinstance(event, UnitFinished):
            assert open_units.pop(event.node) <= ended | late_ends(events), (
                "ended without its nodes"
            )
        elif isinstance(event, NodeStarted):
            assert any(event.node in members for members in open_units.values())
            assert event.node not in ended
            assert parents_of(graph, event.node) <= ended
        elif isinstance(event, NodeFinished):
            ended.add(event.node)
    assert not open_units, f"units never ended: {open_units}"


def parents_of(graph: Graph, name: str) -> set[str]:
    return {graph.nodes[parent].name for parent in graph.parents[graph.index[name]]}


def late_ends(events: list[Event]) -> set[str]:
    """Nodes that a stopped run never came to; they end when all units have ended."""
    dropped = {NodeState.CANCELLED, NodeState.UPSTREAM_FAILED}
    return {e.node for e in events if isinstance(e, NodeFinished) and e.state in dropped}


async def run_and_watch(
    nodes: list[Plan],
    ledger: Ledger,
    *,
    policy: Literal["fail_fast", "collect_all"] = "collect_all",
    window: int = 1000,
    cancel_after: float | None = None,
) -> tuple[dict[str, str], str]:
    """Run once with all checks on; the states by name, and that of the run."""
    pipeline = pipeline_of(nodes, ledger)
    graph = pipeline.build()
    runtime = Runtime(max_cpus=2, max_memory=1000, max_concurrency=window, max_threads=2)
    async with runtime, pipeline.start(runtime=runtime, failure_policy=policy) as run:
        validate_at_every_event(run, runtime)
        stream = run.events(buffer=100_000)
        if cancel_after is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(cancel_after, run.cancel_nowait, "at a random moment")
        result = await run.result()
        events = [event async for event in stream]
        if cancel_after is not None:
            await asyncio.sleep(100)  # a cancel that comes after the end
        assert_nothing_is_held(runtime)
    assert not ledger.running
    assert_events_in_order(events, graph)
    return {name: str(s.status) for name, s in result.step_results.items()}, str(result.state)


# ----------------------------------------------------------------- properties


@given(plans())
def test_groups_never_wait_for_each_other_in_a_circle(nodes: list[Plan]) -> None:
    graph = pipeline_of(nodes, Ledger()).build()
    above: list[set[int]] = [set() for _ in range(len(graph.units))]
    for index, parents in enumerate(graph.parents):
        own = graph.units.of_node[index]
        above[own].update(graph.units.of_node[parent] for parent in parents)
    placed: set[int] = set()
    while more := {u for u in range(len(above)) if above[u] - {u} <= placed} - placed:
        placed |= more
    assert len(placed) == len(above), "these units wait for each other"


@given(plans(), st.integers(1, 5))
def test_states_and_arguments_agree_with_the_model(nodes: list[Plan], window: int) -> None:
    ledger = Ledger()
    states, state = run_virtually(run_and_watch(nodes, ledger, window=window))
    expected = expected_states(nodes)
    assert states == expected
    succeeded = set(expected.values()) <= {"succeeded", "skipped"}
    assert state == ("succeeded" if succeeded else "failed")
    for node in nodes:
        if node.name in ledger.arguments:
            assert ledger.arguments[node.name] == expected_arguments(node, expected)
    for kind in sorted(set(expected.values())):
        note(kind)


@given(plans(threads=True))
def test_threads_change_nothing_about_that(nodes: list[Plan]) -> None:
    # A function takes no virtual time in a thread, so it is never late.
    nodes = [msgspec.structs.replace(n, seconds=0) if n.thread else n for n in nodes]
    states, _ = run_virtually(run_and_watch(nodes, Ledger()))
    assert states == expected_states(nodes)


@given(plans(), st.integers(1, 5))
def test_fail_fast_ends_whatever_fails(nodes: list[Plan], window: int) -> None:
    states, state = run_virtually(run_and_watch(nodes, Ledger(), policy="fail_fast", window=window))
    broken = {"failed", "timed_out"}
    expected = set(expected_states(nodes).values())
    assert (state == "failed") == bool(expected & broken)
    assert bool(set(states.values()) & broken) == bool(expected & broken)
    if state == "succeeded":
        assert states == expected_states(nodes)


@given(
    plans(threads=True),
    st.sampled_from(["fail_fast", "collect_all"]),
    st.integers(1, 5),
    # Also in the very moment in which something else ends.
    st.sampled_from([0, 0.5, 1, 1.5, 2, 3.25, 5, 10]),
)
def test_a_cancel_at_any_moment_ends_every_node_once(
    nodes: list[Plan],
    policy: Literal["fail_fast", "collect_all"],
    window: int,
    cancel_after: float,
) -> None:
    nodes = [msgspec.structs.replace(n, seconds=0) if n.thread else n for n in nodes]
    states, state = run_virtually(
        run_and_watch(nodes, Ledger(), policy=policy, window=window, cancel_after=cancel_after)
    )
    expected = expected_states(nodes)
    if state == "cancelled":
        for node in nodes:
            # What fails after the cancel is not tried again.
            usual = {expected[node.name], "cancelled", "upstream_failed"}
            assert states[node.name] in usual | ({"failed"} if node.failures else set()), node.name
    else:
        assert "cancelled" not in states.values() or policy == "fail_fast"


@given(st.lists(plans(), min_size=2, max_size=4), st.integers(1, 4))
def test_runs_that_share_a_runtime_do_not_disturb_each_other(
    many: list[list[Plan]], window: int
) -> None:
    async def run_all() -> list[dict[str, str]]:
        async with Runtime(max_cpus=2, max_memory=1000, max_concurrency=window) as runtime:
            results = await asyncio.gather(
                *(
                    pipeline_of(nodes, Ledger()).run(runtime=runtime, failure_policy="collect_all")
                    for nodes in many
                )
            )
            assert_nothing_is_held(runtime)
        return [{n: str(s.status) for n, s in r.step_results.items()} for r in results]

    assert run_virtually(run_all()) == [expected_states(nodes) for nodes in many]


@pytest.mark.parametrize("size", [1, 2])
def test_the_model_itself_knows_a_skip_from_a_failure(size: int) -> None:
    plain = Plan("a", (), (), (), None, None, 0, 0, 0, None, None, None, False)
    condition: Verdict = "false" if size == 1 else "raises"
    first = msgspec.structs.replace(plain, condition=condition)
    second = msgspec.structs.replace(plain, name="b", needs=("a",))
    third = msgspec.structs.replace(plain, name="c", takes=("a",))
    assert expected_states([first, second, third]) == (
        {"a": "skipped", "b": "skipped", "c": "succeeded"}
        if size == 1
        else {"a": "failed", "b": "upstream_failed", "c": "upstream_failed"}
    )
