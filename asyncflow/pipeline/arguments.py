"""What people pass to pipelines, checked, with a sentence for each mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from asyncflow.errors import GraphError
from asyncflow.graph.grouping import Group
from asyncflow.pipeline.executor import ParallelExecutor
from asyncflow.runtime import FailurePolicy, Runtime
from asyncflow.step import Step, check_name, outputs_of, seconds_of

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


def kept_outputs(given: Any) -> tuple[str, ...] | None:
    try:
        return outputs_of(given)
    except (TypeError, ValueError) as error:
        raise GraphError(f"Pipeline(outputs=…) {error}") from error


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


def names_before(name: str, after: Any) -> tuple[str, ...]:
    if isinstance(after, str | Step):
        raise GraphError(
            f"step {name!r}: after takes a list of steps, got {after!r}; write [{after!r}]"
        )
    listed = items_of(f"step {name!r}: after", after)
    names = [before.name if isinstance(before, Step) else before for before in listed]
    for before in names:
        if not isinstance(before, str):
            raise GraphError(
                f"step {name!r}: after takes names or steps, got {before!r}; name the step"
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
