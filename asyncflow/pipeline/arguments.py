"""What people pass to pipelines, checked, with a sentence for each mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asyncflow.errors import GraphError
from asyncflow.graph.grouping import Group
from asyncflow.graph.node import Node
from asyncflow.pipeline.executor import ParallelExecutor
from asyncflow.quantities import seconds_of
from asyncflow.runtime import FailurePolicy, Runtime
from asyncflow.step import Step, check_name, names_of

POLICIES = ("fail_fast", "collect_all")


def target_names(targets: Any) -> list[str]:
    if isinstance(targets, str | Step):
        raise GraphError(
            f"run(targets=…) takes a list of names, got {targets!r}; write [{targets!r}]"
        )
    names = [target.name if isinstance(target, Step) else target for target in targets]
    for name in names:
        if not isinstance(name, str):
            raise GraphError(f"run(targets=…) takes names of steps or assets, got {name!r}")
    if not names:
        raise GraphError("run(targets=…) names nothing; leave it out to run everything")
    return names


def replaced_steps(given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise GraphError(f"with_steps() takes a mapping, got {given!r}; write {{'fetch': fake}}")
    others = {name.name if isinstance(name, Step) else name: given[name] for name in given}
    for name in others:
        if not isinstance(name, str):
            raise GraphError(f"with_steps() has the key {name!r}; name a step")
    return others


def policy_of(value: Any) -> FailurePolicy:
    if value not in POLICIES:
        raise GraphError(f"failure_policy is 'fail_fast' or 'collect_all', not {value!r}")
    policy: FailurePolicy = value
    return policy


def declared_inputs(inputs: Any) -> dict[str, Any] | None:
    if inputs is None:
        return None
    if isinstance(inputs, Mapping):
        return {check_name(name, "input"): wanted for name, wanted in inputs.items()}
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise GraphError(f"Pipeline(inputs=…) takes names or a mapping to types, got {inputs!r}")
    return {check_name(name, "input"): object for name in inputs}


def values_by_name(where: str, given: Any) -> dict[str, Any]:
    """A mapping from names to values; None gives an empty one."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise GraphError(f"{where} takes a mapping, got {given!r}; write {{'name': value}}")
    for name in given:
        if not isinstance(name, str):
            raise GraphError(f"{where} has the key {name!r}, which is no name; write it as text")
    return dict(given)


def items_of(where: str, given: Any) -> Iterable[Any]:
    if isinstance(given, Iterable):
        return given
    raise GraphError(f"{where} takes a list of steps, got {given!r}; write [{given!r}]")


def kept_outputs(given: Any) -> tuple[str, ...]:
    try:
        names = names_of(given, "['model']")
    except TypeError as error:
        raise GraphError(f"Pipeline(outputs=…) {error}") from error
    if not names:
        raise GraphError("Pipeline(outputs=…) takes at least one name; leave it out to keep all")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise GraphError(f"Pipeline(outputs=…) names {repeated!r} twice")
    return tuple(asset_name("Pipeline(outputs=…)", name) for name in names)


def asset_name(where: str, name: Any) -> str:
    """The name of an asset as it is used; one of an inlined pipeline holds slashes."""
    if not isinstance(name, str):
        raise GraphError(f"{where} takes the name of an asset, got {name!r}; write it as text")
    for part in name.split("/"):
        check_name(part, "asset")
    return name


def check_kinds(executor: Any, runtime: Any) -> None:
    if not isinstance(executor, ParallelExecutor | None):
        raise GraphError(
            f"run(executor=…) takes a ParallelExecutor, got {executor!r}; write "
            "ParallelExecutor(max_workers=4)"
        )
    if not isinstance(runtime, Runtime | None):
        raise GraphError(
            f"run(runtime=…) takes a Runtime, got {runtime!r}; enter one with "
            "'async with Runtime() as runtime'"
        )


def group_of(label: str, said: Any) -> Group:
    if not isinstance(said, Group):
        raise GraphError(
            f"groups[{label!r}] takes a Group, got {said!r}; write Group(lane='thread')"
        )
    return said


def name_of_step(step: Any) -> str:
    if isinstance(step, Step):
        return step.name
    remedy = (
        "decorate the function with @step"
        if callable(step)
        else "pass the step itself, without calling it"
    )
    raise GraphError(f"add_step() takes a step, got {getattr(step, '__name__', step)!r}; {remedy}")


def names_before(name: str, after: Any, what: str = "step") -> tuple[str, ...]:
    if isinstance(after, str | Step):
        raise GraphError(
            f"{what} {name!r}: after takes a list of steps, got {after!r}; write [{after!r}]"
        )
    listed = items_of(f"{what} {name!r}: after", after)
    names = [before.name if isinstance(before, Step) else before for before in listed]
    for before in names:
        if not isinstance(before, str):
            raise GraphError(
                f"{what} {name!r}: after takes names or steps, got {before!r}; name the step"
            )
    return tuple(names)


def converted(name: str, option: str, convert: Any, value: Any) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise GraphError(f"step {name!r}: {option}: {error}") from error


def run_seconds(timeout: Any) -> float | None:
    try:
        return seconds_of(timeout)
    except ValueError as error:
        raise GraphError(f"run(timeout=…) {error}") from error


# -- inlined pipelines -------------------------------------------------------------------


def nodes_of(sub: Any, name: Any) -> tuple[Node, ...]:
    """The nodes of what is to be inlined."""
    check_name(name, "pipeline")
    nodes = getattr(sub, "steps", None)
    if not isinstance(nodes, tuple) or not all(isinstance(node, Node) for node in nodes):
        raise GraphError(
            f"add_pipeline(…, {name!r}) takes a Pipeline, got {sub!r}; add_step() takes a step"
        )
    if not nodes:
        raise GraphError(f"add_pipeline(…, {name!r}): pipeline {sub.name!r} has no steps yet")
    return nodes


def renamed(name: str, option: str, given: Any) -> dict[str, str]:
    """What ``add_pipeline`` maps to what; names alone stay as they are."""
    where = f"add_pipeline(…, {name!r}, {option}=…)"
    if isinstance(given, Mapping):
        names = dict(given)
    elif isinstance(given, str) or not isinstance(given, Iterable | None):
        raise GraphError(f"{where} takes a mapping from names to names, got {given!r}")
    else:
        names = {each: each for each in given or ()}
    check = asset_name if option == "inputs" else _new_name
    return {asset_name(where, own): check(where, outer) for own, outer in names.items()}


def _new_name(where: str, name: Any) -> str:
    if not isinstance(name, str):
        raise GraphError(f"{where} takes names, got {name!r}; write it as text")
    return check_name(name, "asset")


def by_asset(nodes: Sequence[Node], outputs: Mapping[str, str]) -> dict[str, str]:
    """The outputs of a pipeline by asset, where they may name the only output of a node."""
    assets = {asset for node in nodes for asset in node.asset_names}
    only = {node.name: node.asset_names[0] for node in nodes if len(node.asset_names) == 1}
    return {
        name if name in assets else only.get(name, name): outer for name, outer in outputs.items()
    }
