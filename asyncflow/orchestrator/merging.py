"""Overlays and overrides: a file with another one laid over it, and single values set on top."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from asyncflow.orchestrator.knots import Knot, Mark, Path, Problems, knots_of
from asyncflow.orchestrator.scalars import scalar_of

__all__ = ["apply_overrides", "merge", "parse_set"]

_MODULES: Path = ("pipeline", "modules")


def merge(base: Knot, over: Knot, path: Path = ()) -> Knot:
    """What stands in ``over`` replaces what stands in ``base``.

    Mappings are merged key by key and modules by their names; any other list is replaced.
    """
    if base.is_mapping and over.is_mapping:
        merged = dict(base.value)
        for key, item in over.value.items():
            merged[key] = merge(merged[key], item, (*path, key)) if key in merged else item
        return Knot(merged, base.mark, base.key_mark)
    if path == _MODULES and base.is_list and over.is_list:
        return Knot(_merged_modules(base, over), base.mark, base.key_mark)
    return over


def _merged_modules(base: Knot, over: Knot) -> list[Knot]:
    merged = list(base.value)
    places = {_name_of(module): at for at, module in enumerate(merged)}
    for module in over.value:
        name = _name_of(module)
        if name is not None and name in places:
            merged[places[name]] = merge(merged[places[name]], module)
        else:
            merged.append(module)
    return merged


def _name_of(module: Knot) -> str | None:
    name = module.at(("name",))
    return name.value if name is not None and isinstance(name.value, str) else None


def parse_set(argument: str) -> tuple[str, Any]:
    """Key and value of ``--set key=value``: what YAML makes of the word, JSON in brackets.

    Raises:
        ValueError: it has no ``=``, or what stands in brackets is no JSON.
    """
    key, equals, text = argument.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{argument!r} is not key=value")
    if text[:1] in ("[", "{", '"'):
        try:
            return key.strip(), json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{argument!r}: {text!r} is no JSON: {error}") from error
    return key.strip(), scalar_of(text)


def apply_overrides(root: Knot, overrides: Mapping[str, Any], problems: Problems) -> None:
    """Set values by dotted keys, below ``pipeline`` or from the top.

    ``modules.NAME`` is the module of that name: ``modules.train.resources.gpus``.
    """
    for key, value in overrides.items():
        if not isinstance(key, str):
            raise TypeError(
                f"overrides has the key {key!r}; keys are text such as 'execution.mode'"
            )
        source = f"override {key}"
        knot = knots_of(value, source, problems)
        pipeline = root.at(("pipeline",))
        if pipeline is None or not pipeline.is_mapping:
            continue  # a fault of its own
        said = key.removeprefix("pipeline.")
        if not all(said.split(".")):
            problems.add(Mark(source), "is no dotted key; write one such as execution.mode")
            continue
        _set(pipeline, said, knot, Mark(source), problems)


def _set(pipeline: Knot, key: str, knot: Knot, mark: Mark, problems: Problems) -> None:
    place, rest = pipeline, key
    if key.startswith("modules."):
        found = _module_of(pipeline, key.removeprefix("modules."))
        if found is None:
            problems.add(mark, "names no module and a key of it; write modules.NAME.key")
            return
        place, rest = found
    *above, last = rest.split(".")
    for part in above:
        following = place.value.get(part)
        if following is None or following.value is None:
            following = place.value[part] = Knot({}, mark, mark)
        if not following.is_mapping:
            problems.add(mark, f"goes through {part!r}, which has no keys")
            return
        place = following
    knot.key_mark = mark
    place.value[last] = knot


def _module_of(pipeline: Knot, key: str) -> tuple[Knot, str] | None:
    """The module whose name a key begins with, the longest of them, and the rest of the key."""
    modules = pipeline.at(("modules",))
    if modules is None or not modules.is_list:
        return None
    fitting = [
        module
        for module in modules.value
        if (name := _name_of(module)) is not None and key.startswith(f"{name}.")
    ]
    if not fitting:
        return None
    longest = max(fitting, key=lambda module: len(_name_of(module) or ""))
    return longest, key.removeprefix(f"{_name_of(longest)}.")
