"""What each kind of class is made of, and how an instance is made of it again."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from asyncflow.errors import NotReadable, NotRecordable

__all__ = ["Kind", "describe"]

Parts = Iterable[tuple[Any, Any]]


class Kind(msgspec.Struct, frozen=True):
    """A class that may be recorded: how it is taken apart and put together.

    ``fields`` are the names that its instances are made of; none where that is not fixed.
    """

    cls: type
    name: str
    fields: tuple[str, ...]
    take_apart: Callable[[Any], Parts]
    put_together: Callable[[dict[Any, Any]], Any]


# An instance of one of these holds more than its fields say.
_WITH_CONTENTS: Final = (
    dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, BaseException,
)  # fmt: skip
_NO_FIELDS: Final = frozenset({"__dict__", "__weakref__", "_attrs_cached_hash"})


def describe(cls: type) -> Kind | None:
    """How instances of a class are recorded; None for a class of no known kind.

    Raises:
        NotRecordable: it is of a known kind, but its instances hold more than its fields.
    """
    for matches, make in _MAKERS:
        if matches(cls):
            return Kind(cls, cls.__qualname__, *make(cls))
    return None


Maker = Callable[
    [type], tuple[tuple[str, ...], Callable[[Any], Parts], Callable[[dict[Any, Any]], Any]]
]


def _check_names(cls: type, names: Iterable[str], found: Mapping[Any, Any]) -> None:
    wanted = set(names)
    if found.keys() != wanted:
        raise NotReadable(
            f"it is a {cls.__qualname__} with the fields {sorted(map(str, found))}; the class now "
            f"has {sorted(wanted)}; give it back what it had, or begin the run anew with "
            'on_existing="restart"'
        )


# -- enums -----------------------------------------------------------------------------


def _enum(cls: Any) -> Any:
    is_flag = issubclass(cls, enum.Flag)

    def take_apart(value: Any) -> Parts:
        # A flag that combines members has no name of its own that could be looked up.
        return [("value", value._value_)] if is_flag else [("name", value._name_)]

    def put_together(parts: dict[Any, Any]) -> Any:
        _check_names(cls, ("value",) if is_flag else ("name",), parts)
        if is_flag:
            return cls(parts["value"])
        member = cls.__members__.get(parts["name"])
        if member is None:
            raise NotReadable(
                f"{cls.__qualname__} has no member {parts['name']!r} any more; give it back, or "
                'begin the run anew with on_existing="restart"'
            )
        return member

    return (), take_apart, put_together


# -- tuples with names -----------------------------------------------------------------


def _named_tuple(cls: Any) -> Any:
    def take_apart(value: Any) -> Parts:
        _refuse_extras(value, ())
        return list(zip(cls._fields, tuple.__iter__(value), strict=True))

    def put_together(parts: dict[Any, Any]) -> Any:
        _check_names(cls, cls._fields, parts)
        return tuple.__new__(cls, [parts[name] for name in cls._fields])

    return cls._fields, take_apart, put_together


# -- classes with fields ---------------------------------------------------------------


def _fields_of(names: tuple[str, ...], cls: Any) -> Any:
    """Dataclasses and attrs: plain objects whose attributes are their fields."""
    _refuse_contents(cls, names)
    caches_hash = any("_attrs_cached_hash" in _slots(base) for base in cls.__mro__)

    def take_apart(value: Any) -> Parts:
        _refuse_extras(value, names)
        return _read(value, names)

    def put_together(parts: dict[Any, Any]) -> Any:
        _check_names(cls, names, parts)
        made = object.__new__(cls)
        for name in names:
            object.__setattr__(made, name, parts[name])
        if caches_hash:
            object.__setattr__(made, "_attrs_cached_hash", None)
        return made

    return names, take_apart, put_together


def _read(value: Any, names: tuple[str, ...]) -> Parts:
    try:
        return [(name, getattr(value, name)) for name in names]
    except AttributeError as error:
        raise NotRecordable(type(value), f"one of its fields is not set: {error}") from error


def _refuse_contents(cls: type, names: tuple[str, ...]) -> None:
    base = next((base for base in _WITH_CONTENTS if issubclass(cls, base)), None)
    if base is not None:
        raise NotRecordable(cls, f"it is also a {base.__name__}; keep that in a field instead")
    unseen = {slot for base in cls.__mro__ for slot in _slots(base)} - set(names) - _NO_FIELDS
    if unseen:
        raise NotRecordable(cls, f"it has the slot {min(unseen)!r}, which is no field; make it one")


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _refuse_extras(value: Any, names: tuple[str, ...]) -> None:
    """Attributes beside the fields would be lost; cached properties are worked out again."""
    extras = getattr(value, "__dict__", {}).keys() - set(names) - _NO_FIELDS
    lost = [name for name in extras if not _is_cached(type(value), name)]
    if lost:
        raise NotRecordable(
            type(value), f"its attribute {min(lost)!r} is no field and would be lost; make it one"
        )


def _is_cached(cls: type, name: str) -> bool:
    return any(
        isinstance(base.__dict__.get(name), functools.cached_property) for base in cls.__mro__
    )


def _dataclass(cls: Any) -> Any:
    return _fields_of(tuple(field.name for field in dataclasses.fields(cls)), cls)


def _attrs(cls: Any) -> Any:
    return _fields_of(tuple(field.name for field in cls.__attrs_attrs__), cls)


def _struct(cls: Any) -> Any:
    names: tuple[str, ...] = cls.__struct_fields__

    def take_apart(value: Any) -> Parts:
        _refuse_extras(value, names)
        return _read(value, names)

    def put_together(parts: dict[Any, Any]) -> Any:
        _check_names(cls, names, parts)
        made = cls(**parts)
        for name in names:
            msgspec.structs.force_setattr(made, name, parts[name])
        return made

    return names, take_apart, put_together


# -- pydantic --------------------------------------------------------------------------

_STATE: Final = (
    "__dict__",
    "__pydantic_extra__",
    "__pydantic_fields_set__",
    "__pydantic_private__",
)


def _is_pydantic(cls: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def _model(cls: Any) -> Any:
    def take_apart(value: Any) -> Parts:
        state = dict(value.__getstate__())
        fields = {
            name: kept for name, kept in state["__dict__"].items() if name in cls.model_fields
        }
        lost = [n for n in state["__dict__"] if n not in fields and not _is_cached(cls, n)]
        if lost or len(fields) != len(cls.model_fields) or state.keys() != set(_STATE):
            raise NotRecordable(cls, "it holds more or less than its fields; make it again whole")
        return [(name, fields if name == "__dict__" else state[name]) for name in _STATE]

    def put_together(parts: dict[Any, Any]) -> Any:
        _check_names(cls, _STATE, parts)
        _check_names(cls, cls.model_fields, parts["__dict__"])
        made = cls.__new__(cls)
        made.__setstate__(parts)
        return made

    return tuple(cls.model_fields), take_apart, put_together


# -- containers of the standard library ------------------------------------------------


def _ordered_dict(cls: Any) -> Any:
    def take_apart(value: Any) -> Parts:
        _refuse_extras(value, ())
        return list(value.items())

    return (), take_apart, cls


def _deque(cls: Any) -> Any:
    def take_apart(value: Any) -> Parts:
        return [("items", list(value)), ("maxlen", value.maxlen)]

    def put_together(parts: dict[Any, Any]) -> Any:
        _check_names(cls, ("items", "maxlen"), parts)
        return cls(parts["items"], parts["maxlen"])

    return (), take_apart, put_together


_MAKERS: Final[tuple[tuple[Callable[[type], bool], Maker], ...]] = (
    (lambda cls: issubclass(cls, enum.Enum), _enum),
    (lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"), _named_tuple),
    (lambda cls: issubclass(cls, msgspec.Struct), _struct),
    (_is_pydantic, _model),
    (lambda cls: dataclasses.is_dataclass(cls), _dataclass),
    (lambda cls: hasattr(cls, "__attrs_attrs__"), _attrs),
    (lambda cls: cls in (collections.OrderedDict, collections.Counter), _ordered_dict),
    (lambda cls: cls is collections.deque, _deque),
)
