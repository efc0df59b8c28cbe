"""Building a graph: every fault at once, in small bites, and what the graph then knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from asyncflow.errors import GraphError
from asyncflow.graph.compile import Blueprint, building
from asyncflow.graph.node import MISSING
from asyncflow.states import (
    ABANDONED,
    CANCELLED,
    FAILED,
    SKIPPED,
    SUCCEEDED,
    TIMED_OUT,
    UPSTREAM_FAILED,
    WAITING,
)
from asyncflow.step import step
from tests.graph.building import build, node, placed, problems_of


def test_an_empty_pipeline_is_a_graph_without_nodes() -> None:
    graph = build()
    assert len(graph) == 0
    assert list(graph.order) == []
    assert graph.wait == []


def test_every_fault_is_reported_at_once() -> None:
    problems = problems_of(
        node("twice"),
        node("twice"),
        node("lost", "nowhere"),
        node("a", "b"),
        node("b", "a"),
        outputs=("twcie",),
    )
    words = ["two nodes are called", "'nowhere'", "wait for each other", "'twcie'"]
    assert len(problems) == len(words)
    assert all(any(word in problem for problem in problems) for word in words)


def test_every_fault_names_the_pipeline() -> None:
    with pytest.raises(GraphError) as caught:
        build(node("a", "b"), node("c", "d"))
    assert len(caught.value.problems) == 2
    assert all(problem.startswith("pipeline 'p': ") for problem in caught.value.problems)
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_building_pauses_often_enough_to_leave_an_event_loop_free() -> None:
    nodes = [node("n0"), *(node(f"n{i}", "n0") for i in range(1, 5000))]
    assert sum(1 for _ in building(Blueprint("p", tuple(nodes)))) > 20


def generate() -> Iterator[int]:
    yield 1


async def generate_later() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("func", [generate, generate_later])
def test_a_generator_function_is_refused(func: object) -> None:
    (problem,) = problems_of(placed(step(func, name="numbers")))  # type: ignore[call-overload]
    assert problem == (
        "step 'numbers' is a generator function, which cannot be a step; return a list, or "
        "yield inside a function that the step calls"
    )


# -- outputs -------------------------------------------------------------------------


def test_outputs_that_are_not_there_are_refused_with_the_nearest_name() -> None:
    assert problems_of(node("model"), outputs=("modle",)) == (
        "outputs= names 'modle', which is no asset and no step; did you mean 'model'?",
    )


def test_outputs_name_assets_or_steps() -> None:
    graph = build(
        node("load", outputs=["raw", "config"]),
        node("use", "raw"),
        node("last", "use", "raw"),
        outputs=("load", "last"),
    )
    assert graph.kept is not None
    assert sorted(graph.kept) == sorted(graph.assets[name] for name in ("raw", "config", "last"))


def test_a_value_is_consumed_once_by_each_node_that_takes_it() -> None:
    graph = build(node("raw"), node("a", "raw", "raw"), node("b", "raw"), outputs=("b",))
    assert [graph.consumers[graph.assets[name]] for name in ("raw", "a", "b")] == [2, 0, 0]


def test_without_outputs_every_value_is_kept() -> None:
    assert build(node("raw")).kept is None


# -- verdicts ------------------------------------------------------------------------


def test_a_node_whose_parents_succeeded_may_run() -> None:
    graph = build(node("a"), node("b", "a"))
    assert graph.verdict(1, [SUCCEEDED, WAITING], [None, MISSING]) == WAITING


@pytest.mark.parametrize("state", [FAILED, TIMED_OUT, CANCELLED, ABANDONED, UPSTREAM_FAILED])
def test_a_failure_passes_along_values_and_along_after(state: int) -> None:
    graph = build(node("a"), node("b", "a"), node("c", after=["a"]))
    states, values = [state, WAITING, WAITING], [MISSING] * 3
    assert graph.verdict(1, states, values) == UPSTREAM_FAILED
    assert graph.verdict(2, states, values) == UPSTREAM_FAILED


def test_a_skip_passes_along_values_but_not_along_after() -> None:
    graph = build(node("a"), node("b", "a"), node("c", after=["a"]))
    states, values = [SKIPPED, WAITING, WAITING], [MISSING] * 3
    assert graph.verdict(1, states, values) == SKIPPED
    assert graph.verdict(2, states, values) == WAITING


def test_a_skip_does_not_reach_a_parameter_with_a_default() -> None:
    def use(a: str = "none") -> None: ...

    graph = build(node("a"), placed(step(use)))
    assert graph.verdict(1, [SKIPPED, WAITING], [MISSING, MISSING]) == WAITING


def test_a_condition_without_its_value_skips_as_well() -> None:
    def use(b: str = "none") -> None: ...

    graph = build(node("a"), placed(step(use, condition=lambda a: True)))
    assert graph.verdict(1, [SKIPPED, WAITING], [MISSING, MISSING]) == SKIPPED


def test_none_is_a_value_like_any_other() -> None:
    graph = build(node("a"), node("b", "a"))
    assert graph.verdict(1, [SUCCEEDED, WAITING], [None, MISSING]) == WAITING


def test_the_nearest_failure_above_is_the_one_that_failed_itself() -> None:
    graph = build(node("a"), node("b", "a"), node("c", "b"), node("ok"), node("d", "ok", "c"))
    states = [FAILED, UPSTREAM_FAILED, UPSTREAM_FAILED, SUCCEEDED, UPSTREAM_FAILED]
    assert graph.failed_above(4, states) == 0
    assert graph.failed_above(3, states) is None
