"""The plan: a table for people, and the same as plain values."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given

from asyncflow.context import StepContext
from asyncflow.graph.graph import Graph
from asyncflow.graph.node import Node
from asyncflow.graph.plan import make_plan
from asyncflow.resources import GPUConfig
from asyncflow.step import step
from tests.graph.building import build, graphs, node, placed


def train(clean: str, context: StepContext) -> None: ...


def training() -> Graph:
    devices = GPUConfig("nvidia-v100", count=2)
    used = step(train, resources={"cpu": 8, "memory": "16Gi", "gpu": devices})
    return build(
        node("load"),
        node("clean", "load", execution_group="prep", resources={"cpu": "500m"}),
        node("stats", "clean", execution_group="prep"),
        placed(used),
    )


TRAINING = """\
p: 4 steps in 3 units, 3 levels deep
  unit   lane     resources                             steps          waits for
  load   inline
  prep   inline   cpu=500m                              clean → stats  load
  train  process  cpu=8 memory=16Gi gpu=2x nvidia-v100                 prep"""


def test_a_plan_is_a_table_in_the_order_of_execution() -> None:
    plan = make_plan(training())
    assert str(plan) == plan.to_text() == TRAINING


def test_columns_that_say_nothing_are_left_out() -> None:
    assert str(make_plan(build(node("a"), node("b")))).splitlines() == [
        "p: 2 steps in 2 units, 1 level deep",
        "  unit  lane",
        "  a     inline",
        "  b     inline",
    ]


def test_a_pipeline_without_steps_has_a_plan_as_well() -> None:
    assert str(make_plan(build())) == "p: 0 steps in 0 units, 0 levels deep"


def test_a_plan_keeps_the_spelling_of_amounts() -> None:
    _, prep, own = make_plan(training()).units
    assert (prep.cpu, prep.memory, prep.storage, prep.gpu) == ("500m", None, None, None)
    assert (own.cpu, own.memory, own.gpu) == (8, "16Gi", "2x nvidia-v100")
    assert (prep.group, own.group) == ("prep", None)


@pytest.mark.parametrize(
    "gpu, shown",
    [
        (1, "gpu=1"),
        (0.5, "gpu=0.5"),
        ("nvidia-a100", "gpu=1x nvidia-a100"),
        (GPUConfig(memory="40Gi"), "gpu=1 of 40Gi"),
        (GPUConfig("A100", count=2, memory="40Gi"), "gpu=2x A100 of 40Gi"),
    ],
)
def test_devices_are_shown_as_they_were_asked_for(gpu: object, shown: str) -> None:
    def use(context: StepContext) -> None: ...

    (unit,) = make_plan(build(placed(step(use, resources={"gpu": gpu})))).units
    assert unit.resources == shown


def test_levels_count_the_longest_chain_of_units() -> None:
    assert make_plan(build(node("a"), node("b", "a"), node("c", "b"), node("d"))).levels == 3


@given(graphs())
def test_every_unit_stands_behind_those_it_waits_for(nodes: list[Node]) -> None:
    graph = build(*nodes)
    plan = make_plan(graph)
    assert [name for unit in plan.units for name in unit.members] == [
        graph.nodes[index].name for index in graph.order
    ]
    seen: set[str] = set()
    for unit in plan.units:
        assert set(unit.waits_for) <= seen
        seen.add(unit.name)


def test_advice_and_refusals_stand_below_the_table() -> None:
    graph = build(node("a", execution_group="g"), node("b", execution_group="g"))
    plan = make_plan(
        graph,
        clamped={"g": "asks for 64 CPUs and gets the machine's 2"},
        refusals={"a": "step 'a' asks for a GPU, and this machine has none"},
    )
    assert str(plan).splitlines()[-3:] == [
        "warning: " + graph.warnings[0],
        "warning: 'g': asks for 64 CPUs and gets the machine's 2",
        "problem: step 'a' asks for a GPU, and this machine has none",
    ]
    assert plan.problems == ("step 'a' asks for a GPU, and this machine has none",)


def test_a_large_plan_is_cut_in_the_middle() -> None:
    lines = str(make_plan(build(*(node(f"n{i}") for i in range(1000))))).splitlines()
    assert len(lines) == 2 + 100 + 1 + 20
    assert lines[2].split() == ["n0", "inline"]
    assert lines[101].split() == ["n99", "inline"]
    assert lines[102] == "  … 880 units left out; to_dict() has them all …"
    assert lines[103].split() == ["n980", "inline"]
    assert lines[-1].split() == ["n999", "inline"]


def test_200_units_are_shown_in_full() -> None:
    assert len(str(make_plan(build(*(node(f"n{i}") for i in range(200))))).splitlines()) == 202


def test_a_long_list_of_names_is_cut_in_the_middle() -> None:
    sources = [f"n{i}" for i in range(150)]
    last = str(make_plan(build(*map(node, sources), node("join", *sources)))).splitlines()[-1]
    assert last == "  join  inline  n0, n1, n2, n3, … 145 more …, n149"


def test_a_plan_as_values_has_every_unit() -> None:
    plan = make_plan(build(*(node(f"n{i}") for i in range(1000))))
    found = plan.to_dict()
    assert json.loads(json.dumps(found)) == json.loads(msgspec.json.encode(plan))
    assert len(found["units"]) == 1000
    assert found["units"][999]["name"] == "n999"
    assert (found["pipeline"], found["levels"]) == ("p", 1)
