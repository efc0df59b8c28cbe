"""The order of execution: parents first, declaration next, cycles shown as paths."""

from __future__ import annotations

import graphlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.graph.node import Node
from asyncflow.graph.order import find_cycles
from tests.graph.building import build, graphs, names, node, problems_of
from tests.programs import outputs_of_hash_seeds


def smallest_order(parents: list[tuple[int, ...]]) -> list[int]:
    """The lexicographically smallest topological order, by trying every node each time.

    What is on a cycle, or below one, is left out.
    """
    order: list[int] = []
    while True:
        free = (
            index
            for index, above in enumerate(parents)
            if index not in order and set(above) <= set(order)
        )
        found = next(free, None)
        if found is None:
            return order
        order.append(found)


@given(graphs())
def test_the_order_is_one_that_graphlib_allows(nodes: list[Node]) -> None:
    graph = build(*nodes)
    sorter = graphlib.TopologicalSorter(dict(enumerate(graph.parents)))
    sorter.prepare()
    ready: set[int] = set()
    for index in graph.order:
        ready.update(sorter.get_ready())
        assert index in ready
        sorter.done(index)
    assert not sorter.is_active()


@given(graphs(labels=[None]))
def test_without_groups_the_order_stays_as_close_to_the_declaration_as_it_can(
    nodes: list[Node],
) -> None:
    graph = build(*nodes)
    assert list(graph.order) == smallest_order(list(graph.parents))


def test_a_step_may_be_declared_before_what_it_needs() -> None:
    graph = build(node("c", "b"), node("b", "a"), node("a"))
    assert names(graph, graph.order) == ["a", "b", "c"]


def test_among_what_is_ready_the_group_just_placed_comes_first() -> None:
    graph = build(
        node("a", execution_group="g"), node("x"), node("b", execution_group="g"), node("y")
    )
    assert names(graph, graph.order) == ["a", "b", "x", "y"]


def test_after_only_says_what_comes_first() -> None:
    graph = build(node("late", after=["early"]), node("early"))
    assert names(graph, graph.order) == ["early", "late"]
    assert graph.slots[0] == ()


ORDER_OF_A_FIXED_GRAPH = """
from tests.graph.building import build, names, node
labels = ["g", "h", None]
nodes = [
    node(f"n{i}", *{f"n{(i * 7) % 40}"} - {f"n{i}"} if i * 7 > 40 and (i * 7) % 40 < i else (),
         execution_group=labels[i % 3])
    for i in range(40)
]
graph = build(*reversed(nodes))
print(names(graph, graph.order), [graph.unit_name(unit) for unit in range(len(graph.units))])
"""


def test_the_order_does_not_depend_on_how_python_hashes() -> None:
    (order,) = outputs_of_hash_seeds(ORDER_OF_A_FIXED_GRAPH)
    assert order


# -- size ----------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["forwards", "backwards"])
def test_a_chain_of_100_000_steps_needs_no_recursion(declared: str) -> None:
    size = 100_000
    nodes = [node("n0"), *(node(f"n{i}", f"n{i - 1}") for i in range(1, size))]
    graph = build(*(nodes if declared == "forwards" else reversed(nodes)))
    assert names(graph, [graph.order[0], graph.order[-1]]) == ["n0", f"n{size - 1}"]
    assert sum(graph.wait) == size - 1


def test_a_step_may_wait_for_100_000_others() -> None:
    size = 100_000
    sources = [f"n{i}" for i in range(size)]
    graph = build(node("join", *sources), *map(node, sources))
    assert graph.wait[0] == size
    assert graph.order[-1] == 0


# -- cycles --------------------------------------------------------------------------


def ring(size: int) -> list[Node]:
    return [node(f"n{i}", f"n{(i - 1) % size}") for i in range(size)]


def test_a_step_that_needs_its_own_output_is_refused() -> None:
    assert problems_of(node("a", "a")) == (
        "step 'a' depends on itself; rename its output or its input",
    )


@pytest.mark.parametrize(
    "size, path", [(2, "n1 → n0 → n1"), (3, "n1 → n2 → n0 → n1"), (8, None), (9, None)]
)
def test_a_cycle_is_shown_as_a_path(size: int, path: str | None) -> None:
    (problem,) = problems_of(*ring(size))
    assert problem.startswith("these steps wait for each other: ")
    assert problem.endswith("; cut one of the links")
    assert path is None or path in problem
    assert ("more …" in problem) == (size > 8)


def test_the_path_of_a_long_cycle_is_shortened_but_says_how_long_it_is() -> None:
    (problem,) = problems_of(*ring(10_000))
    assert "n1 → n2 → n3 → n4 → … 9993 more … → n9998 → n9999 → n0 → n1;" in problem


def test_cycles_through_after_count_as_well() -> None:
    (problem,) = problems_of(node("a", after=["b"]), node("b", "a"))
    assert "a → b → a" in problem or "b → a → b" in problem


def test_every_cycle_is_reported_and_what_is_below_is_not() -> None:
    problems = problems_of(
        node("below", "a"), node("a", "b"), node("b", "a"), node("c", "d"), node("d", "c")
    )
    assert len(problems) == 2
    assert not any("below" in problem for problem in problems)


@given(graphs(labels=[None]), st.data())
def test_a_reported_cycle_follows_real_edges(nodes: list[Node], data: st.DataObject) -> None:
    above = [set(parents) for parents in build(*nodes).parents]
    child = data.draw(st.integers(0, len(nodes) - 1))
    above[child].add(data.draw(st.integers(0, len(nodes) - 1)))
    parents = [tuple(sorted(own)) for own in above]
    cycles = find_cycles(parents, placed=smallest_order(parents))
    assert bool(cycles) == is_circular(above)
    for cycle in cycles:
        for parent, below in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            assert parent in above[below]


def is_circular(above: list[set[int]]) -> bool:
    try:
        graphlib.TopologicalSorter(dict(enumerate(above))).prepare()
    except graphlib.CycleError:
        return True
    return False


def test_a_cycle_with_100_000_steps_below_it_is_found_at_once() -> None:
    (problem,) = problems_of(
        node("a", "b"), node("b", "a"), *(node(f"n{i}", "a") for i in range(100_000))
    )
    assert "wait for each other" in problem
