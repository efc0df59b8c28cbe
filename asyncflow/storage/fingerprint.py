"""Fingerprints: whether a function, or a node of a graph, is still what it was.

The fingerprint of a function covers its tokens (so comments, layout and the version of Python do
not matter), and the plain values in its defaults and its closure; functions found there count
with their own code. So do the names of the fields of the classes that its return annotation names.
What a function changes itself (a list that it appends to, a ``nonlocal`` counter) is its state,
and counts by its type only. It does not look into what a function calls by a global name.

Where there is no source the compiled code stands in for it: exact, but it changes with the version
of Python. What is neither has the fingerprint of its name.

The fingerprint of a node covers the code of its step and its condition, its params, its wiring,
and the run inputs and context values it reads. Services and secrets never count.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from asyncflow.errors import NotRecordable
from asyncflow.graph.binding import CallTemplate, FromAsset, FromAssets, Source
from asyncflow.graph.graph import Graph
from asyncflow.graph.node import Node
from asyncflow.secret import Secret
from asyncflow.step import Step
from asyncflow.storage.codec import Codec
from asyncflow.storage.digests import digest_of, hashed
from asyncflow.storage.mutations import changed_attributes, changed_names
from asyncflow.storage.sources import tokens_of
from asyncflow.storage.typed import annotation_of, reachable

__all__ = ["Fingerprints", "code_fingerprint"]

_CODE: Final = (
    Step, functools.partial, types.FunctionType, types.MethodType, types.BuiltinFunctionType,
)  # fmt: skip
_MUTABLE: Final = (list, dict, set, bytearray)
_MAKING: Final = frozenset({"__init__", "__new__", "__post_init__", "__setstate__"})
_CODE_FLAGS: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def code_fingerprint(func: Callable[..., Any]) -> str:
    """The fingerprint of a callable's code, as a hexadecimal text.

    Functions, methods, partials, wrapped functions, steps, classes and callable objects; a
    callable written in C counts by its name.

    Example:
        >>> code_fingerprint(lambda: 1) == code_fingerprint(lambda: 2)
        False
    """
    code = _Code().of(func)
    layouts = _layouts(func)
    return (hashed(code, *layouts) if layouts else code).hex()


def _layouts(func: Callable[..., Any]) -> list[bytes]:
    """The fields of the classes that a function says it returns: what was recorded of other
    fields could not be read."""
    kinds = reachable(annotation_of(func)).by_type.values()
    said = [f"{kind.name}: {', '.join(kind.fields)}" for kind in kinds if kind.fields]
    return [layout.encode("utf-8", "surrogatepass") for layout in sorted(said)]


class _Code:
    """One look at a callable and the callables it holds, which may hold each other."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}

    def of(self, func: Any) -> bytes:
        key = id(func)
        if key in self._open:
            return hashed(b"again", str(self._open[key]).encode())
        self._open[key] = len(self._open)
        try:
            return hashed(*self._parts(func))
        finally:
            del self._open[key]

    def _parts(self, func: Any) -> Iterator[bytes]:
        if isinstance(func, Step):
            yield from self._parts(func.func)
        elif isinstance(func, functools.partial):
            yield b"partial"
            yield self.of(func.func)
            yield from map(self._value, func.args)
            yield from self._named(func.keywords)
        elif isinstance(func, types.MethodType):
            yield b"method"
            yield self.of(func.__func__)
            yield self._holder(func.__self__)
        elif isinstance(func, types.FunctionType):
            yield from self._function(func)
        elif isinstance(func, type):
            yield b"class"
            yield from self._class(func)
        else:
            yield from self._object(func)

    def _function(self, func: types.FunctionType) -> Iterator[bytes]:
        yield b"function"
        yield _code_digest(func.__code__)
        changed = self._changed_by(func)
        for name, value in _positional_defaults(func):
            yield self._default(value, name in changed)
        for name, value in sorted((func.__kwdefaults__ or {}).items()):
            yield name.encode()
            yield self._default(value, name in changed)
        for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
            yield name.encode()
            yield self._cell(cell, is_state=name in changed)

    def _changed_by(self, func: types.FunctionType) -> frozenset[str]:
        holds = func.__closure__ or func.__defaults__ or func.__kwdefaults__
        return changed_names(func.__code__) if holds else frozenset()

    def _default(self, value: Any, is_changed: bool) -> bytes:
        # What is assigned to a parameter leaves its default as it was.
        return _opaque(value) if is_changed and isinstance(value, _MUTABLE) else self._value(value)

    def _cell(self, cell: types.CellType, is_state: bool) -> bytes:
        try:
            value = cell.cell_contents
        except ValueError:
            return b"empty"
        return _opaque(value) if is_state else self._value(value)

    def _class(self, cls: type) -> Iterator[bytes]:
        yield _name_of(cls)
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, types.FunctionType):
                yield name.encode()
                yield self.of(member)

    def _object(self, func: Any) -> Iterator[bytes]:
        say = getattr(type(func), "code_parts", None)
        if say is not None:
            yield b"parts"
            for name, value in say(func):
                yield name.encode("utf-8", "surrogatepass")
                yield self._value(value)
            return
        call = inspect.getattr_static(type(func), "__call__", None)
        if isinstance(call, types.FunctionType):
            yield b"object"
            yield self.of(call)
            yield self._holder(func)
            return
        yield b"named"
        yield _name_of(func if hasattr(func, "__qualname__") else type(func))

    def _holder(self, instance: Any) -> bytes:
        """What a method or a callable object finds in ``self``."""
        if isinstance(instance, type):
            return _name_of(instance)
        # The module's name depends on how the program is started.
        kind = type(instance).__qualname__.encode("utf-8", "surrogatepass")
        state = _state_of(type(instance))
        held = {name: held for name, held in _attributes(instance).items() if name not in state}
        return hashed(kind, *self._named(held))

    def _named(self, values: Mapping[str, Any]) -> Iterator[bytes]:
        for name, value in sorted(values.items()):
            yield name.encode()
            yield self._value(value)

    def _value(self, value: Any) -> bytes:
        """A plain value; a function's code; of anything else only what it is."""
        if isinstance(value, Secret):
            return b"secret"
        if _is_code(value):
            return self.of(value)
        if isinstance(value, type | types.ModuleType):
            return _name_of(value)
        try:
            return digest_of(value)
        except NotRecordable:
            return _opaque(value)


def _opaque(value: Any) -> bytes:
    return hashed(b"opaque", _name_of(type(value)))


def _state_of(cls: type) -> set[str]:
    """The attributes that the methods of a class change, those that make an instance apart."""
    return {
        attribute
        for base in cls.__mro__
        for name, method in vars(base).items()
        if isinstance(method, types.FunctionType) and name not in _MAKING
        for attribute in changed_attributes(method.__code__)
    }


def _positional_defaults(func: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code, defaults = func.__code__, func.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    return zip(names, defaults, strict=True)


def _is_code(value: Any) -> bool:
    return isinstance(value, _CODE)


def _attributes(instance: Any) -> dict[str, Any]:
    held = dict(getattr(instance, "__dict__", {}))
    for cls in type(instance).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(instance, slot) and slot not in ("__dict__", "__weakref__"):
                held[slot] = getattr(instance, slot)
    return held


def _name_of(named: Any) -> bytes:
    module = getattr(named, "__module__", "") or ""
    return f"{module}:{getattr(named, '__qualname__', getattr(named, '__name__', ''))}".encode()


# -- code objects ----------------------------------------------------------------------

_digests: weakref.WeakKeyDictionary[types.CodeType, dict[tuple[str, int], bytes]] = (
    weakref.WeakKeyDictionary()
)


def _code_digest(code: types.CodeType) -> bytes:
    """Cached; equal code objects may stand in several files."""
    known = _digests.setdefault(code, {})
    place = (code.co_filename, code.co_firstlineno)
    if place not in known:
        known[place] = _make_code_digest(code)
    return known[place]


def _make_code_digest(code: types.CodeType) -> bytes:
    tokens = tokens_of(code)
    if tokens is None:
        return hashed(b"compiled", *_compiled(code))
    texts = [token.encode("utf-8", "surrogatepass") for token in tokens]
    # The tokens of a lambda are those of its body alone.
    parameters = repr((code.co_varnames, code.co_argcount, code.co_kwonlyargcount)).encode()
    return hashed(b"source", parameters if code.co_name == "<lambda>" else b"", *texts)


def _compiled(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield str(code.co_flags & _CODE_FLAGS).encode()
    for names in (code.co_varnames, code.co_names, code.co_freevars, code.co_cellvars):
        yield repr(names).encode()
    yield from map(_constant, code.co_consts)


def _constant(constant: Any) -> bytes:
    if isinstance(constant, types.CodeType):
        return hashed(b"code", *_compiled(constant))
    return digest_of(constant)


# -- nodes -----------------------------------------------------------------------------


class Fingerprints:
    """The fingerprints of the nodes of one run.

    Args:
        graph: it may grow; nodes added later have fingerprints too.
        values: run inputs and context values by name, without services.
        codecs: those of the user.

    Attributes:
        opaque: values that no codec takes, by what they are; only their type counts.
    """

    def __init__(
        self, graph: Graph, values: Mapping[str, Any], codecs: Sequence[Codec] = ()
    ) -> None:
        self._graph = graph
        self._values = values
        self._codecs = codecs
        self._outside: dict[str, bytes] = {}
        self._shared: dict[tuple[int, str], bytes] = {}
        self._kept: list[Any] = []  # an id is only good while its object lives
        self._assets: dict[int, str] = {}
        self.opaque: dict[str, NotRecordable] = {}

    def of(self, index: int) -> bytes:
        """The fingerprint of a node."""
        graph = self._graph
        node = graph.nodes[index]
        wiring = "\0".join(map(self._asset, graph.slots[index])).encode("utf-8", "surrogatepass")
        shared = self._shared_by_step(index, node)
        if node.params or node.after or node.outputs or node.map:
            return hashed(shared, wiring, *self._own(node))
        return hashed(shared, wiring)

    def _asset(self, number: int) -> str:
        name = self._assets.get(number)
        if name is None:
            self._assets = {number: name for name, number in self._graph.assets.items()}
            name = self._assets.setdefault(number, f"[{number}]")
        return name

    def _shared_by_step(self, index: int, node: Node) -> bytes:
        """What all nodes of one step and one shape of inputs have in common."""
        template = self._graph.templates[index]
        condition = self._graph.conditions.get(index)
        shape = _shape(template) if condition is None else _shape(template) + _shape(condition)
        key = (id(node.step), shape)
        known = self._shared.get(key)
        if known is None:
            self._kept.append(node.step)
            read = (*template.outside(), *(condition.outside() if condition else ()))
            parts = self._step_parts(node.step, sorted({source.name for source in read}))
            known = self._shared[key] = hashed(shape.encode("utf-8", "surrogatepass"), *parts)
        return known

    def _step_parts(self, step: Step[..., Any], read: Iterable[str]) -> Iterator[bytes]:
        yield bytes.fromhex(code_fingerprint(step.func))
        yield b"" if step.condition is None else bytes.fromhex(code_fingerprint(step.condition))
        yield f"{step.outputs}{step.when}".encode("utf-8", "surrogatepass")
        for name in read:
            yield name.encode("utf-8", "surrogatepass")
            yield self._outside_value(name)

    def _outside_value(self, name: str) -> bytes:
        if name not in self._values:
            return b""  # a service, or the default, which counts as a part of the code
        known = self._outside.get(name)
        if known is None:
            known = self._outside[name] = self._value(self._values[name], f"run input {name!r}")
        return known

    def _own(self, node: Node) -> Iterable[bytes]:
        yield repr((node.after, node.outputs, node.map)).encode("utf-8", "surrogatepass")
        for name, value in sorted((node.params or {}).items()):
            yield name.encode("utf-8", "surrogatepass")
            yield self._value(value, f"params[{name!r}] of {node.name!r}")

    def _value(self, value: Any, where: str) -> bytes:
        if isinstance(value, Secret):
            return b"secret"
        if _is_code(value):
            return bytes.fromhex(code_fingerprint(value))
        try:
            return digest_of(value, self._codecs)
        except NotRecordable as refused:
            self.opaque[where] = refused
            return hashed(b"opaque", _name_of(type(value)))


def _shape(template: CallTemplate) -> str:
    """Where each argument of a call comes from, as a text."""
    if template.plain:
        return f"plain {len(template.args)};"
    args = ",".join(map(_source, template.args))
    return f"{args};{','.join(f'{name}={_source(source)}' for name, source in template.kwargs)};"


def _source(source: Source) -> str:
    if isinstance(source, FromAsset):
        return str(source.position)
    if isinstance(source, FromAssets):
        return str(source.positions)
    return f"{type(source).__name__}:{getattr(source, 'name', '')}"
