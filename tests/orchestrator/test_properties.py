"""Random pipelines give what a few lines of plain Python say they should."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow import DependencyError, StepCancelled
from asyncflow.orchestrator import PipelineOrchestrator


class Module(NamedTuple):
    parents: frozenset[int]
    fails: bool
    kind: str
    group: str | None


@st.composite
def pipelines(draw: st.DrawFn) -> list[Module]:
    count = draw(st.integers(1, 9))
    modules = []
    for number in range(count):
        parents = draw(st.frozensets(st.integers(0, number - 1), max_size=3)) if number else ()
        modules.append(
            Module(
                frozenset(parents),
                draw(st.integers(0, 3)) == 0,
                draw(st.sampled_from(["Count", "CountLater"])),
                draw(st.sampled_from([None, None, "g", "h"])),
            )
        )
    return modules


def described(modules: list[Module], execution: dict[str, Any], order: list[int]) -> dict[str, Any]:
    entries = [
        {
            "name": f"m{number}",
            "path": f"tests.orchestrator.counting:{module.kind}",
            "depends_on": [f"m{parent}" for parent in sorted(module.parents)],
            "params": {"fails": module.fails},
            **({} if module.group is None else {"execution_group": module.group}),
        }
        for number, module in enumerate(modules)
    ]
    entries = [entries[number] for number in order]
    return {"pipeline": {"name": "random", "execution": execution, "modules": entries}}


def expected(modules: list[Module]) -> list[int | set[str]]:
    """The value of each module; or of a failed one the names of those whose fault that may be."""
    found: list[int | set[str]] = []
    for number, module in enumerate(modules):
        above = [found[parent] for parent in sorted(module.parents)]
        blamed = set[str]().union(*(value for value in above if isinstance(value, set)))
        if blamed:
            found.append(blamed)
        elif module.fails:
            found.append({f"m{number}"})
        else:
            found.append(1 + sum(value for value in above if isinstance(value, int)))
    return found


@settings(max_examples=settings().max_examples // 3)
@given(modules=pipelines(), mode=st.sampled_from(["parallel", "sequential"]), data=st.data())
def test_what_collect_all_gives(modules: list[Module], mode: str, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(modules))))
    execution = {"failure_policy": "collect_all", "mode": mode}
    results = PipelineOrchestrator(described(modules, execution, list(order))).execute_sync()
    for number, (module, value) in enumerate(zip(modules, expected(modules), strict=True)):
        result = results[f"m{number}"]
        if isinstance(value, int):
            assert result == value
        elif value == {f"m{number}"} and module.fails:
            assert isinstance(result, ValueError)
        else:
            assert isinstance(result, DependencyError)
            assert result.ancestor in value


@settings(max_examples=settings().max_examples // 3)
@given(modules=pipelines(), mode=st.sampled_from(["parallel", "sequential"]))
def test_what_fail_fast_gives(modules: list[Module], mode: str) -> None:
    execution = {"failure_policy": "fail_fast", "mode": mode}
    results = PipelineOrchestrator(
        described(modules, execution, list(range(len(modules))))
    ).execute_sync()
    failed = [name for name, result in results.items() if isinstance(result, ValueError)]
    assert bool(failed) == any(module.fails for module in modules)
    for number, value in enumerate(expected(modules)):
        result = results[f"m{number}"]
        if isinstance(result, DependencyError):
            assert isinstance(value, set)
        elif not isinstance(result, ValueError | StepCancelled):
            assert result == value
    if not failed:
        assert [results[f"m{n}"] for n in range(len(modules))] == expected(modules)
