"""Typed values: those whose class the step's return annotation names.

An annotation is a permission, not a layout: every class that can be reached from it (through
unions, containers, type aliases and the fields of its classes) may appear anywhere in the value.
What is written names a class by its qualified name, and reading looks that name up among the
classes reached from the annotation of today. Nothing is ever imported.

Instances are put together field by field, without running ``__init__`` or ``__post_init__``
(msgspec's, which cannot be made otherwise, get their recorded fields afterwards).
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from asyncflow.errors import NotRecordable
from asyncflow.graph.node import MISSING
from asyncflow.storage.kinds import Kind, describe

__all__ = ["NO_CLASSES", "TypedClasses", "annotation_of", "describable", "reachable"]


class TypedClasses:
    """The classes that may appear in a value.

    ``refused`` are those that could be named but not recorded, with the reason.
    """

    def __init__(self, kinds: Iterable[Kind], refused: Mapping[type, str]) -> None:
        self.by_type: dict[type, Kind] = {kind.cls: kind for kind in kinds}
        self.by_name: dict[str, Kind] = {}
        self.refused = dict(refused)
        for kind in list(self.by_type.values()):
            namesake = self.by_name.setdefault(kind.name, kind)
            if namesake is not kind:
                self._refuse_namesakes(namesake, kind)

    def _refuse_namesakes(self, *namesakes: Kind) -> None:
        for kind in namesakes:
            self.by_type.pop(kind.cls, None)
            self.refused[kind.cls] = (
                f"the return annotation reaches several classes named {kind.name!r}; rename one"
            )


NO_CLASSES: Final = TypedClasses((), {})


def describable(cls: type) -> bool:
    """Whether values of a class could be recorded if an annotation named it."""
    try:
        return describe(cls) is not None
    except NotRecordable:
        return False


def reachable(annotation: Any) -> TypedClasses:
    """The classes that an annotation permits."""
    if annotation is MISSING or annotation is None:
        return NO_CLASSES
    try:
        return _reachable(annotation)
    except TypeError:  # it cannot be hashed, as Annotated with a list can not
        return _reachable.__wrapped__(annotation)


@functools.lru_cache(maxsize=512)
def _reachable(annotation: Any) -> TypedClasses:
    kinds: dict[type, Kind] = {}
    refused: dict[type, str] = {}
    for cls in _classes_in(annotation):
        try:
            kind = describe(cls)
        except NotRecordable as error:
            refused[cls] = error.hint
            continue
        if kind is not None:
            kinds[cls] = kind
    return TypedClasses(kinds.values(), refused) if kinds or refused else NO_CLASSES


def _classes_in(annotation: Any) -> Iterator[type]:
    waiting: list[Any] = [annotation]
    seen: set[int] = set()
    kept: list[Any] = []
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        kept.append(found)
        if isinstance(found, type) and typing.get_origin(found) is None:
            yield found
            waiting.extend(_field_annotations(found))
        else:
            waiting.extend(_parts(found))


def _parts(annotation: Any) -> list[Any]:
    """What an annotation that is no class is made of."""
    if isinstance(annotation, list | tuple):  # the parameters of a Callable
        return list(annotation)
    if isinstance(annotation, typing.TypeVar):
        return [annotation.__bound__, *annotation.__constraints__]
    if isinstance(annotation, typing.NewType):
        return [annotation.__supertype__]
    if type(annotation).__name__ == "TypeAliasType":
        return [annotation.__value__, *typing.get_args(annotation)]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return [type(value) for value in typing.get_args(annotation)]
    return [] if origin is None else [origin, *typing.get_args(annotation)]


def _field_annotations(cls: type) -> list[Any]:
    if cls.__module__ == "builtins" or not getattr(cls, "__annotations__", None):
        return list(getattr(cls, "__orig_bases__", ()))
    try:
        hints = typing.get_type_hints(cls)
    except Exception:  # noqa: BLE001 - an annotation is the user's, and may be any expression
        hints = dict(cls.__annotations__)
    return list(hints.values())


# -- the annotation of a function ------------------------------------------------------


def annotation_of(func: Callable[..., Any]) -> Any:
    """A function's return annotation, with names in text looked up; MISSING where that fails.

    Names are looked up where the function was defined, its closure included. A callable object
    that stands for another function has that one's as ``result_annotation``.
    """
    while isinstance(func, functools.partial):
        func = func.func
    if not inspect.isroutine(func) and not inspect.isclass(func):
        if hasattr(func, "result_annotation"):
            return func.result_annotation
        func = type(func).__call__
    func = inspect.unwrap(func)
    annotation = getattr(func, "__annotations__", {}).get("return", MISSING)
    return _looked_up(annotation, func) if _holds_text(annotation) else annotation


def _holds_text(annotation: Any) -> bool:
    if isinstance(annotation, str | typing.ForwardRef):
        return True
    return any(_holds_text(part) for part in typing.get_args(annotation))


def _looked_up(annotation: Any, func: Any) -> Any:
    func = getattr(func, "__func__", func)
    carrier = types.SimpleNamespace(__annotations__={"return": annotation})
    try:
        names = _closure_of(func)
        hints = typing.get_type_hints(carrier, getattr(func, "__globals__", {}), names)
    except Exception:  # noqa: BLE001 - an annotation is the user's, and may be any expression
        return MISSING
    return hints["return"]


def _closure_of(func: Any) -> dict[str, Any]:
    code, cells = getattr(func, "__code__", None), getattr(func, "__closure__", None)
    names: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return names
