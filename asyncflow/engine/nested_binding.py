"""How a nested step is called: with what it was given, the rest found by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from asyncflow.errors import GraphError
from asyncflow.functions import Parameter
from asyncflow.graph.binding import (
    CallTemplate,
    FromContext,
    FromOutside,
    FromValue,
    Source,
    make_template,
)
from asyncflow.graph.grouping import lane_of
from asyncflow.step import Step

__all__ = ["bind_nested", "check_callable"]


def check_callable(step: Any) -> None:
    """Refuse what makes sense only in a graph, or would be an error there too.

    Raises:
        GraphError: the step cannot be called by another one.
    """
    if not isinstance(step, Step):
        remedy = "use run() for a pipeline" if hasattr(step, "request") else "put @step on it"
        raise GraphError(
            f"call() takes a step, and {getattr(step, '__name__', step)!r} is none: {remedy}"
        )
    if step.is_generator:
        raise GraphError(f"nested step {step.name!r} is a generator; return a list instead")
    for option, is_set in (
        ("execution_group", step.execution_group is not None),
        ("when", step.when != "success"),
    ):
        if is_set:
            raise GraphError(
                f"nested step {step.name!r} has {option}=, which only a pipeline can heed; call "
                f"step.with_options({option}={'None' if option != 'when' else repr('success')})"
            )
    asks_gpu = step.resources is not None and step.resources.gpu is not None
    blind = not any(parameter.wants_context for parameter in step.parameters)
    if asks_gpu and blind and (step.is_coroutine or step.lane in ("inline", "thread")):
        raise GraphError(
            f"nested step {step.name!r} asks for a GPU in the {lane_of(step)} lane, where nothing "
            "tells it which device is its own; take a StepContext parameter and use its "
            "lease.gpu_ids"
        )


def bind_nested(
    name: str,
    step: Step[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    outside: Mapping[str, Any],
) -> tuple[CallTemplate, CallTemplate | None, CallTemplate | None]:
    """How a nested step, its condition and its limits get their arguments.

    Those given, the rest by name.

    Raises:
        GraphError: there are too many arguments, or too few.
    """
    named: dict[str, Source] = {}
    left = list(args)
    for parameter in step.parameters:
        if parameter.is_variadic:
            continue
        if parameter.name in kwargs:
            named[parameter.name] = FromValue(kwargs[parameter.name])
        else:
            named[parameter.name] = _source(name, step, parameter, left, outside)
    spare = {key: FromValue(value) for key, value in kwargs.items() if key not in named}
    kinds = {parameter.kind for parameter in step.parameters}
    if left and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise GraphError(
            f"nested step {name!r} was given {len(args)} arguments, {len(left)} more than its "
            "function takes"
        )
    if spare and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise GraphError(f"nested step {name!r} has no parameter {next(iter(spare))!r}")
    template = make_template(step.parameters, named, [FromValue(value) for value in left], spare)
    condition = limits = None
    if step.condition is not None:
        condition = _by_name(name, step, step.condition_parameters, {**spare, **named}, outside)
    if callable(step.limits):
        limits = _by_name(name, step, step.limits_parameters, {**spare, **named}, outside)
    return template, condition, limits


def _by_name(
    name: str,
    step: Step[..., Any],
    parameters: Sequence[Parameter],
    named: Mapping[str, Source],
    outside: Mapping[str, Any],
) -> CallTemplate:
    sources = {
        parameter.name: named.get(parameter.name) or _source(name, step, parameter, [], outside)
        for parameter in parameters
    }
    return make_template(parameters, sources, (), {})


def _source(
    name: str,
    step: Step[..., Any],
    parameter: Parameter,
    left: list[Any],
    outside: Mapping[str, Any],
) -> Source:
    if parameter.wants_context:
        return FromContext()
    if left and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        return FromValue(left.pop(0))
    if not parameter.has_default and parameter.name not in outside:
        raise GraphError(
            f"nested step {name!r} has no value for its parameter {parameter.name!r}; pass it to "
            "call()"
        )
    return FromOutside(parameter.name, parameter.default)
