"""What the types cannot say: names that belong together, one of two keys, no circles."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from asyncflow.graph.names import nearest
from asyncflow.graph.order import children_of, find_cycles, topological_order
from asyncflow.orchestrator.knots import Knot, Path, Problems

__all__ = ["FROM_ENV", "check_meaning", "from_env_of"]

FROM_ENV = "from_env"
_MODULES: Path = ("pipeline", "modules")
_NO_SUCH_MODULE = "the pipeline has no module of that name"


def check_meaning(root: Knot, problems: Problems) -> None:
    """Note what is wrong between the keys of a tree, as far as they are what they should be."""
    modules = root.at(_MODULES)
    if modules is None or not modules.is_list:
        return
    names = _names(modules, problems)
    for at, module in enumerate(modules.value):
        if module.is_mapping:
            path = (*_MODULES, at)
            _check_target(module, path, problems)
            _check_params(module.at(("params",)), (*path, "params"), problems)
            _check_gpus(module, path, problems)
    _check_cycles(modules, names, _parents(modules, names, problems), problems)


def _names(modules: Knot, problems: Problems) -> dict[str, int]:
    """Each name → its place in the list; equal ones are a fault, also if only to the eye."""
    places: dict[str, int] = {}
    seen: dict[str, Knot] = {}
    for at, module in enumerate(modules.value):
        name = module.at(("name",))
        if name is None or not isinstance(name.value, str):
            continue
        same = unicodedata.normalize("NFC", name.value)
        if same in seen:
            first = seen[same].mark
            where = f"line {first.line}" if first.line else f"modules[{places[seen[same].value]}]"
            problems.add(
                name.mark,
                f"is the name of two modules, {name.value!r}; it stands in {where} too",
                (*_MODULES, at, "name"),
            )
            continue
        seen[same] = name
        places[name.value] = at
    return places


def _check_target(module: Knot, path: Path, problems: Problems) -> None:
    there = [key for key in ("path", "script") if _is_set(module.at((key,)))]
    if len(there) == 2:
        problems.add(module.mark, "has both 'path' and 'script'; take one out", path)
    elif not there and not any(key in module.value for key in ("path", "script")):
        problems.add(
            module.mark,
            "says not what to run; write path: package.module:Class or script: file.py:function",
            path,
        )
    elif not there and all(_is_null(module.at((key,))) for key in ("path", "script")):
        problems.add(module.mark, "has neither 'path' nor 'script' with a value", path)


def _is_set(knot: Knot | None) -> bool:
    return knot is not None and knot.value is not None


def _is_null(knot: Knot | None) -> bool:
    return knot is None or knot.value is None


# -- parameters --------------------------------------------------------------------------


def from_env_of(value: Any) -> str | None:
    """The variable that ``{from_env: NAME}`` names; None for any other value."""
    if isinstance(value, Mapping) and value.keys() == {FROM_ENV}:
        name = value[FROM_ENV]
        return name if isinstance(name, str) else None
    return None


def _check_params(knot: Knot | None, path: Path, problems: Problems) -> None:
    for found, place in _mappings(knot, path):
        if FROM_ENV not in found.value:
            continue
        name = found.value[FROM_ENV]
        if len(found.value) > 1:
            problems.add(found.mark, f"has {FROM_ENV!r} beside other keys; it stands alone", place)
        elif not isinstance(name.value, str) or not name.value or "=" in name.value:
            problems.add(
                name.mark, "takes the name of a variable of the environment", (*place, FROM_ENV)
            )


def _mappings(knot: Knot | None, path: Path) -> Iterator[tuple[Knot, Path]]:
    """All mappings at and below a knot."""
    if knot is None:
        return
    if knot.is_mapping:
        yield knot, path
        for key, item in knot.value.items():
            yield from _mappings(item, (*path, key))
    elif knot.is_list:
        for at, item in enumerate(knot.value):
            yield from _mappings(item, (*path, at))


# -- amounts -----------------------------------------------------------------------------


def _check_gpus(module: Knot, path: Path, problems: Problems) -> None:
    gpus = module.at(("resources", "gpus"))
    if gpus is None or not _is_amount(gpus.value):
        return
    if gpus.value > 1 and gpus.value != int(gpus.value):
        problems.add(
            gpus.mark,
            f"takes a whole number, or a share of one GPU below 1, got {gpus.value}",
            (*path, "resources", "gpus"),
        )


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


# -- dependencies ------------------------------------------------------------------------


def _parents(modules: Knot, names: dict[str, int], problems: Problems) -> list[tuple[int, ...]]:
    """What each module depends on, by place; what names nothing is a fault."""
    return [
        tuple(_dependencies_of(module, (*_MODULES, at, "depends_on"), names, problems))
        for at, module in enumerate(modules.value)
    ]


def _dependencies_of(
    module: Knot, path: Path, names: dict[str, int], problems: Problems
) -> dict[int, None]:
    listed = module.at(("depends_on",))
    found: dict[int, None] = {}
    for number, name in enumerate(listed.value if listed is not None and listed.is_list else ()):
        if not isinstance(name.value, str):
            continue
        if name.value not in names:
            # Looking for the nearest of thousands takes its time.
            hint = "" if problems.are_many else nearest(name.value, names, _NO_SUCH_MODULE)
            sentence = f"names {name.value!r}, which is no module{hint}"
            problems.add(name.mark, sentence, (*path, number))
        elif names[name.value] in found:
            problems.add(name.mark, f"names {name.value!r} twice", (*path, number))
        else:
            found[names[name.value]] = None
    return found


def _check_cycles(
    modules: Knot, names: dict[str, int], parents: list[tuple[int, ...]], problems: Problems
) -> None:
    by_place = {at: name for name, at in names.items()}
    children = _run_through(children_of(parents))
    placed = _run_through(topological_order(parents, children, None))
    for cycle in find_cycles(parents, placed):
        path = (*_MODULES, cycle[0], "depends_on")
        mark = modules.value[cycle[0]].value["depends_on"].mark
        said = [by_place.get(at, f"modules[{at}]") for at in cycle]
        if len(said) == 1:
            problems.add(mark, f"module {said[0]!r} depends on itself", path)
            continue
        if len(said) > 8:
            said = [*said[:4], f"… {len(said) - 7} more …", *said[-3:]]
        circle = " → ".join([*said, said[0]])
        problems.add(mark, f"these modules wait for each other: {circle}; cut one link", path)


def _run_through(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
