"""Execution groups: what runs as one, under which name, where, and holding what."""

from __future__ import annotations

import graphlib
import itertools

import pytest
from hypothesis import given

from asyncflow.context import StepContext
from asyncflow.errors import GraphError
from asyncflow.graph.graph import Graph
from asyncflow.graph.grouping import Group, group_names
from asyncflow.graph.node import Node
from asyncflow.resources import GPUConfig, ResourceRequirements
from asyncflow.step import Step, step
from tests.graph.building import build, graphs, node, placed, problems_of


def groups_of(graph: Graph) -> dict[str, list[str]]:
    return {group.group_name: group.execution_order for group in graph.step_groups}


def test_neighbours_of_one_label_are_one_group() -> None:
    graph = build(
        node("a", execution_group="g"),
        node("b", "a", execution_group="g"),
        node("c", "b", execution_group="g"),
    )
    assert groups_of(graph) == {"g": ["a", "b", "c"]}
    assert len(graph.units) == 1


def test_a_step_between_splits_a_group() -> None:
    graph = build(
        node("a", execution_group="g"), node("x", "a"), node("b", "x", execution_group="g")
    )
    assert groups_of(graph) == {"g_0": ["a"], "g_1": ["b"]}
    assert {group.label for group in graph.step_groups} == {"g"}


def test_steps_without_a_label_are_in_no_group() -> None:
    graph = build(node("a"), node("b", "a"))
    assert graph.step_groups == []
    assert len(graph.units) == 2


def test_the_number_of_a_part_is_never_the_label_of_another_group() -> None:
    assert group_names(["g", "g_0", "g", "g_1_0", "g", "solo"]) == [
        "g_1",
        "g_0",
        "g_2",
        "g_1_0",
        "g_3",
        "solo",
    ]


# -- what holds for all of them ------------------------------------------------------


@given(graphs())
def test_groups_are_the_longest_runs_of_one_label_in_the_order(nodes: list[Node]) -> None:
    graph = build(*nodes)
    expected = [
        [graph.nodes[index].name for index in run]
        for label, run in itertools.groupby(
            graph.order, key=lambda index: graph.nodes[index].step.execution_group
        )
        if label is not None
    ]
    assert [group.execution_order for group in graph.step_groups] == expected


@given(graphs())
def test_every_node_is_in_exactly_one_unit(nodes: list[Node]) -> None:
    graph = build(*nodes)
    members = [graph.units.members_of(unit) for unit in range(len(graph.units))]
    assert sorted(itertools.chain(*members)) == list(range(len(nodes)))
    assert all(graph.units.of_node[index] == at for at, own in enumerate(members) for index in own)


@given(graphs())
def test_units_never_wait_for_each_other_in_a_circle(nodes: list[Node]) -> None:
    graph = build(*nodes)
    above: dict[int, set[int]] = {unit: set() for unit in range(len(graph.units))}
    for index, parents in enumerate(graph.parents):
        unit = graph.units.of_node[index]
        above[unit].update(graph.units.of_node[parent] for parent in parents)
        above[unit].discard(unit)
    graphlib.TopologicalSorter(above).prepare()  # raises CycleError


@given(graphs())
def test_each_unit_is_unlocked_as_often_as_it_waits(nodes: list[Node]) -> None:
    graph = build(*nodes)
    unlocked = [0] * len(graph.units)
    for below in graph.unlocks:
        for unit in below:
            unlocked[unit] += 1
    assert unlocked == list(graph.wait)


@given(graphs())
def test_names_of_groups_are_unique_and_none_is_the_label_of_others(nodes: list[Node]) -> None:
    found = build(*nodes).step_groups
    assert len({group.group_name for group in found}) == len(found)
    for group in found:
        assert all(group.group_name != other.label for other in found if other.label != group.label)


# -- resources -----------------------------------------------------------------------


def test_a_group_holds_the_most_that_any_member_asks_for_in_its_own_spelling() -> None:
    graph = build(
        node("a", execution_group="g", resources={"cpu": "500m", "memory": "16Gi"}),
        node("b", execution_group="g"),
        node("c", execution_group="g", resources={"cpu": 2, "memory": "512Mi", "storage": "1GB"}),
    )
    held = graph.step_groups[0].aggregated_resources
    assert held == ResourceRequirements(cpu=2, memory="16Gi", storage="1GB")
    assert graph.units.resources == {0: held}


def test_a_group_holds_the_best_devices_of_its_members() -> None:
    def train(context: StepContext) -> None: ...

    graph = build(
        placed(Step(train, name="a", execution_group="g", resources={"gpu": "nvidia-t4"})),
        placed(
            Step(
                train,
                name="b",
                execution_group="g",
                resources={"gpu": GPUConfig("nvidia-a100", count=1, memory="40Gi")},
            )
        ),
        placed(Step(train, name="c", execution_group="g", resources={"gpu": 2})),
    )
    held = graph.step_groups[0].aggregated_resources
    assert held is not None
    assert held.gpu == GPUConfig("nvidia-a100", count=2, memory="40Gi")


def test_members_that_need_different_machines_are_refused() -> None:
    north = {"node_affinity": {"required": {"zone": "north"}}}
    south = {"node_affinity": {"required": {"zone": "south"}}}
    (problem,) = problems_of(
        node("a", execution_group="g", resources=north),
        node("b", execution_group="g", resources=south),
    )
    assert "'zone'" in problem
    assert "'north'" in problem
    assert "'south'" in problem


def test_what_is_said_about_a_group_replaces_the_sum_of_its_members() -> None:
    said = ResourceRequirements(cpu=8)
    graph = build(
        node("a", execution_group="g", resources={"cpu": 2}),
        groups={"g": Group(lane="thread", resources=said)},
    )
    assert graph.step_groups[0].aggregated_resources == said
    assert graph.step_groups[0].lane == "thread"


def test_a_label_that_is_split_says_the_same_for_each_part() -> None:
    graph = build(
        node("a", execution_group="g"),
        node("x", "a"),
        node("b", "x", execution_group="g"),
        groups={"g": Group(resources=ResourceRequirements(cpu=8))},
    )
    assert [group.aggregated_resources for group in graph.step_groups] == [
        ResourceRequirements(cpu=8)
    ] * 2


def test_something_said_about_a_group_that_is_not_there_is_refused() -> None:
    (problem,) = problems_of(node("a", execution_group="train"), groups={"trian": Group()})
    assert problem == (
        "groups= names 'trian', but no step has that execution_group; did you mean 'train'?"
    )


def test_a_group_in_a_lane_that_is_not_there_is_refused() -> None:
    with pytest.raises(GraphError, match="there is no lane 'gpu'"):
        Group(lane="gpu")  # type: ignore[arg-type]


# -- lanes ---------------------------------------------------------------------------


async def coroutine() -> None: ...
def function() -> None: ...


@pytest.mark.parametrize(
    "members, lane",
    [
        ([step(coroutine), step(coroutine)], "inline"),
        ([step(coroutine), step(function)], "thread"),
        ([step(coroutine), step(coroutine, lane="thread")], "thread"),
        ([step(function), step(coroutine, lane="inline")], "inline"),
    ],
)
def test_a_group_runs_where_its_members_can(members: list[Step[[], None]], lane: str) -> None:
    nodes = [
        placed(member.with_options(execution_group="g"), f"n{at}")
        for at, member in enumerate(members)
    ]
    graph = build(*nodes)
    assert graph.units.lanes == [lane]
    assert graph.step_groups[0].lane == lane


@pytest.mark.parametrize("used, lane", [(step(coroutine), "inline"), (step(function), "thread")])
def test_a_step_alone_runs_where_its_function_can(used: Step[[], None], lane: str) -> None:
    assert build(placed(used)).units.lanes == [lane]


def test_members_that_want_different_lanes_are_refused() -> None:
    (problem,) = problems_of(
        node("a", execution_group="g", lane="inline"), node("b", execution_group="g", lane="thread")
    )
    assert problem == (
        "group 'g' has one worker but 'a' wants the inline lane and 'b' the thread lane; "
        "make them agree or take one out of the group"
    )


def test_a_member_and_its_group_that_want_different_lanes_are_refused() -> None:
    (problem,) = problems_of(
        node("a", execution_group="g", lane="inline"), groups={"g": Group(lane="thread")}
    )
    assert "'a' wants the inline lane and \"Group(lane='thread')\" the thread lane" in problem


# -- advice --------------------------------------------------------------------------


def test_an_order_of_declaration_that_splits_a_group_is_pointed_out() -> None:
    graph = build(
        node("load_model", execution_group="g"),
        node("load_data"),
        node("infer", "load_model", "load_data", execution_group="g"),
    )
    assert graph.warnings == (
        "'infer' left group g because 'load_data' is declared after 'load_model'; declare it first",
    )


def test_following_that_advice_mends_the_group() -> None:
    graph = build(
        node("load_data"),
        node("load_model", execution_group="g"),
        node("infer", "load_model", "load_data", execution_group="g"),
    )
    assert groups_of(graph) == {"g": ["load_model", "infer"]}
    assert graph.warnings == ()


def test_the_advice_names_what_really_is_declared_too_late() -> None:
    graph = build(
        node("tidy", "load_data"),
        node("load_model", execution_group="g"),
        node("load_data"),
        node("infer", "load_model", "tidy", execution_group="g"),
    )
    assert graph.warnings == (
        "'infer' left group g because 'load_data' is declared after 'load_model'; declare it first",
    )


@given(graphs())
def test_the_advice_never_says_what_is_not_so(nodes: list[Node]) -> None:
    graph = build(*nodes)
    declared = {one.name: at for at, one in enumerate(nodes)}
    for warning in graph.warnings:
        if " is declared after " in warning:
            _, _, _, blocker, _, first, _ = warning.split("'")
            assert declared[blocker] > declared[first]


def test_a_split_that_no_order_could_avoid_is_not_pointed_out() -> None:
    graph = build(
        node("a", execution_group="g"), node("x", "a"), node("b", "x", execution_group="g")
    )
    assert graph.warnings == ()


def test_a_group_that_keeps_steps_from_running_at_once_is_pointed_out() -> None:
    graph = build(
        node("left", execution_group="g"),
        node("right", execution_group="g"),
        node("join", "left", "right", execution_group="g"),
    )
    assert graph.warnings == (
        "group 'g' runs 'left' and 'right' one after the other although they could run at the "
        "same time; take one out of the group if that costs time",
    )


def test_advice_that_many_groups_deserve_is_given_ten_times_and_counted() -> None:
    graph = build(
        *(node(f"{side} {g}", execution_group=f"g{g}") for g in range(13) for side in ("l", "r"))
    )
    assert len(graph.warnings) == 11
    assert graph.warnings[-1] == "3 more groups serialise steps, too"


def test_a_step_that_could_not_know_its_device_is_pointed_out_or_refused() -> None:
    def train() -> None: ...

    (problem,) = problems_of(placed(step(train, resources={"gpu": 1}, lane="thread")))
    assert "step 'train' asks for a GPU in the thread lane" in problem
    threads = {"g": Group(lane="thread")}
    in_group = placed(step(train, resources={"gpu": 1}, execution_group="g"))
    assert build(in_group, groups=threads).warnings == (problem,)


def test_a_step_that_asks_for_a_device_runs_in_a_process_that_sees_no_other() -> None:
    def train() -> None: ...

    graph = build(placed(step(train, resources={"gpu": 1})))
    assert (list(graph.units.lanes), graph.warnings) == (["process"], ())


def test_a_step_that_takes_a_context_knows_its_device() -> None:
    def train(context: StepContext) -> None: ...

    assert build(placed(step(train, resources={"gpu": 1}))).warnings == ()
