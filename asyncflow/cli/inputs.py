"""Run inputs from the command line: ``--input name=value``."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from asyncflow.cli.endings import CommandError
from asyncflow.orchestrator.orchestrator import PipelineOrchestrator
from asyncflow.pipeline.pipeline import Pipeline
from asyncflow.secret import Secret

__all__ = ["parse_inputs"]

_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def parse_inputs(pipeline: Pipeline | PipelineOrchestrator, given: Iterable[str]) -> dict[str, Any]:
    """The values of ``name=value`` arguments, converted to what the pipeline wants.

    The type is the declared one, or that of the parameter a step takes it by. Text stays
    text for ``str``; ``int``, ``float``, ``bool`` and ``Path`` are converted; for ``Secret`` it
    becomes one, which is never recorded; otherwise the value is JSON if it is JSON, else text.

    Raises:
        CommandError: an argument has no ``=``, comes twice, or does not convert; or the
            pipeline is one of a file, which takes none.
    """
    values: dict[str, Any] = {}
    if isinstance(pipeline, PipelineOrchestrator):
        if list(given):
            raise CommandError(
                "--input is for pipelines in Python; a file takes --set modules.NAME.params.KEY="
            )
        return values
    for argument in given:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise CommandError(f"--input {argument!r} is not name=value")
        if name in values:
            raise CommandError(f"--input {name}=… is given twice; give it once")
        values[name] = _converted(name, text, _type_of(pipeline, name))
    return values


def _type_of(pipeline: Pipeline, name: str) -> Any:
    if pipeline.inputs is not None and pipeline.inputs.get(name, object) is not object:
        return _without_none(pipeline.inputs[name])
    for node in pipeline.steps:
        if name in node.step.parameter_names:
            wanted = _without_none(_annotation(node.step.func, name))
            if _is_secret(wanted) or wanted in _CONVERSIONS:
                return wanted
    return object


def _annotation(func: Callable[..., Any], name: str) -> Any:
    try:
        signature = inspect.signature(func, eval_str=True)
    except Exception:  # noqa: BLE001 - evaluating somebody's annotations may raise anything
        return object
    parameter = signature.parameters.get(name)
    return object if parameter is None else parameter.annotation


def _without_none(wanted: Any) -> Any:
    """``int`` for ``int | None``; other types stay."""
    if typing.get_origin(wanted) not in (typing.Union, types.UnionType):
        return wanted
    kinds = [kind for kind in typing.get_args(wanted) if kind is not types.NoneType]
    return kinds[0] if len(kinds) == 1 else wanted


def _is_secret(wanted: Any) -> bool:
    return wanted is Secret or typing.get_origin(wanted) is Secret


def _secret(name: str, text: str, wanted: Any) -> Secret[Any]:
    inside = next(iter(typing.get_args(wanted)), str)
    try:
        return Secret(_converted(name, text, inside))
    except CommandError:
        raise CommandError(f"--input {name}=…: the secret is no {inside.__name__}") from None


def _converted(name: str, text: str, wanted: Any) -> Any:
    if _is_secret(wanted):
        return _secret(name, text, wanted)
    convert = _CONVERSIONS.get(wanted, _from_json) if _is_hashable(wanted) else _from_json
    try:
        return convert(text)
    except ValueError:
        raise CommandError(
            f"--input {name}={text}: {text!r} is no {wanted.__name__}{_HINTS.get(wanted, '')}"
        ) from None


def _is_hashable(wanted: Any) -> bool:
    try:
        hash(wanted)
    except TypeError:
        return False
    return True


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Any:
    """``NaN`` and ``Infinity`` are words that only Python takes for JSON."""
    raise ValueError(constant)


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError(text)
    return _TRUTH[text.lower()]


_CONVERSIONS: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: _truth,
    Path: Path,
}
_HINTS: Mapping[Any, str] = {bool: "; write true or false"}
