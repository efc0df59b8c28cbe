"""From a tree to the typed model, with every fault at once.

Walks tree and types side by side and notes what does not fit, each fault with its place; only a
tree without faults is converted. The types are read from the model by ``msgspec.inspect``, so
that a key has one definition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from asyncflow.graph.names import nearest
from asyncflow.orchestrator.knots import REFUSED, Knot, Path, Problems

__all__ = ["check_types", "converted"]

T = TypeVar("T")
_LONGEST_SHOWN = 60


def converted(knot: Knot, wanted: type[T]) -> T:
    """The typed value of a tree that :func:`check_types` found no fault in."""
    return msgspec.convert(knot.plain(), wanted)


def check_types(knot: Knot, wanted: Any, problems: Problems) -> None:
    """Note where a tree is not of a type."""
    _Check(problems).value(knot, _type_of(wanted), ())


@cache
def _type_of(wanted: Any) -> inspect.Type:
    return inspect.type_info(wanted)


class _Check:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def value(self, knot: Knot, wanted: inspect.Type, path: Path) -> None:
        if knot.value is REFUSED:
            return
        checks, wanted = _unwrapped(wanted)
        chosen = _chosen(knot, wanted)
        if chosen is None:
            self._problems.add(knot.mark, _misfit(knot, wanted), path)
            return
        before = len(self._problems)
        self._inside(knot, chosen, path)
        if knot.value is not None and len(self._problems) == before:
            self._own_checks(knot, checks, path)

    def _inside(self, knot: Knot, wanted: inspect.Type, path: Path) -> None:
        if isinstance(wanted, inspect.StructType):
            self._fields(knot, wanted, path)
        elif isinstance(wanted, inspect.ListType):
            if wanted.min_length and len(knot.value) < wanted.min_length:
                self._problems.add(knot.mark, "is empty; it takes at least one", path)
            for at, item in enumerate(knot.value):
                self.value(item, wanted.item_type, (*path, at))
        elif isinstance(wanted, inspect.LiteralType | inspect.IntType | inspect.FloatType):
            self._amount(knot, wanted, path)
        elif isinstance(wanted, inspect.StrType) and not knot.value and wanted.min_length:
            self._problems.add(knot.mark, "is empty", path)

    def _fields(self, knot: Knot, wanted: inspect.StructType, path: Path) -> None:
        fields = {field.encode_name: field for field in wanted.fields}
        for key, item in knot.value.items():
            if key in fields:
                self.value(item, fields[key].type, (*path, key))
            else:
                hint = nearest(key, fields, f"the keys here are {_listed(fields)}")
                self._problems.add(
                    item.key_mark or item.mark, f"is no known key{hint}", (*path, key)
                )
        for key, field in fields.items():
            if field.required and key not in knot.value:
                self._problems.add(knot.mark, f"lacks the key {key!r}", path)

    def _amount(self, knot: Knot, wanted: Any, path: Path) -> None:
        """A word that is one of few, or a number within its bounds."""
        if isinstance(wanted, inspect.LiteralType):
            if knot.value not in wanted.values:
                hint = nearest(knot.value, map(str, wanted.values))
                known = _listed(wanted.values, " or ")
                said = _shown(knot)
                self._problems.add(knot.mark, f"is {known}, not {said}{hint}", path)
            return
        value = knot.value
        low, above, high = wanted.ge, wanted.gt, wanted.le
        whole = "a whole number" if isinstance(wanted, inspect.IntType) else "a number"
        if value != value or value in (float("inf"), float("-inf")):
            self._problems.add(knot.mark, f"takes {whole}, got {_shown(knot)}", path)
        elif low is not None and value < low:
            self._problems.add(knot.mark, f"takes {whole} of {low:g} or more, got {value}", path)
        elif above is not None and value <= above:
            self._problems.add(knot.mark, f"takes {whole} above {above:g}, got {value}", path)
        elif high is not None and value > high:
            self._problems.add(knot.mark, f"takes {whole} of {high:g} or less, got {value}", path)

    def _own_checks(self, knot: Knot, checks: Iterable[Any], path: Path) -> None:
        for check in checks:
            try:
                check(knot.value)
            except (TypeError, ValueError) as error:
                self._problems.add(knot.mark, str(error).rstrip("."), path)
                return


def _unwrapped(wanted: inspect.Type) -> tuple[list[Any], inspect.Type]:
    """The checks a type carries, and the type without them."""
    checks: list[Any] = []
    while isinstance(wanted, inspect.Metadata):
        if wanted.extra:
            checks.append(wanted.extra["check"])
        wanted = wanted.type
    if isinstance(wanted, inspect.UnionType):
        for one in wanted.types:
            if isinstance(one, inspect.Metadata) and one.extra:
                checks.append(one.extra["check"])
    return checks, wanted


def _chosen(knot: Knot, wanted: inspect.Type) -> inspect.Type | None:
    """The type itself, or the member of a union, that a value is of; None where it is of none."""
    if isinstance(wanted, inspect.UnionType):
        fitting = (_chosen(knot, _unwrapped(one)[1]) for one in wanted.types)
        return next((one for one in fitting if one is not None), None)
    return wanted if _fits(knot, wanted) else None


def _fits(knot: Knot, wanted: inspect.Type) -> bool:
    """Whether a value is of a kind at all; what is in it is another question."""
    value = knot.value
    if isinstance(wanted, inspect.AnyType):
        return True
    if isinstance(wanted, inspect.IntType):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(wanted, inspect.FloatType):
        return isinstance(value, int | float) and not isinstance(value, bool)
    for kind, python in _KINDS.items():
        if isinstance(wanted, kind):
            return isinstance(value, python)
    raise TypeError(f"the model has a type that no check is written for: {wanted!r}")


_KINDS: Mapping[type[inspect.Type], type] = {
    inspect.StrType: str,
    inspect.LiteralType: str,
    inspect.BoolType: bool,
    inspect.NoneType: type(None),
    inspect.ListType: list,
    inspect.DictType: dict,
    inspect.StructType: dict,
}

_WORDS: Mapping[type[inspect.Type], str] = {
    inspect.StrType: "text",
    inspect.LiteralType: "a word",
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.NoneType: "null",
    inspect.ListType: "a list",
    inspect.DictType: "a mapping",
    inspect.StructType: "a mapping",
}


def _misfit(knot: Knot, wanted: inspect.Type) -> str:
    """What a key takes, and what it got instead."""
    if isinstance(wanted, inspect.LiteralType):
        takes = f"is {_listed(wanted.values, ' or ')}"
        return f"{takes}, not {_shown(knot)}"
    kinds = wanted.types if isinstance(wanted, inspect.UnionType) else (wanted,)
    words = list(dict.fromkeys(_WORDS[type(_unwrapped(kind)[1])] for kind in kinds))
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    if len(words) > 1 and "null" in words:
        words.remove("null")
    takes = f"takes {' or '.join(words)}"
    if knot.value is None:
        return f"{takes}, and has no value; write one, or leave the key out"
    hint = ""
    if words == ["text"] and isinstance(knot.value, int | float):
        hint = "; put it in quotes"
    if words == ["a list"] and isinstance(knot.value, str):
        hint = f"; write [{knot.value}]" if len(knot.value) < _LONGEST_SHOWN else ""
    return f"{takes}, got {_shown(knot)}{hint}"


def _shown(knot: Knot) -> str:
    if knot.is_mapping:
        return "a mapping"
    if knot.is_list:
        return "a list"
    if isinstance(knot.value, bool):
        return "true" if knot.value else "false"
    if knot.value is None:
        return "null"
    said = repr(knot.value)
    if len(said) > _LONGEST_SHOWN:
        said = f"{said[:_LONGEST_SHOWN]}…"
    return f"the text {said}" if isinstance(knot.value, str) else said


def _listed(names: Iterable[Any], last: str = ", ") -> str:
    said = [repr(name) for name in names]
    return ", ".join(said[:-1]) + last + said[-1] if len(said) > 1 else said[0]
