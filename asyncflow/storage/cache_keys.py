"""The key of a step's result in the cache."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from asyncflow.errors import NotRecordable
from asyncflow.secret import Secret
from asyncflow.step import Step
from asyncflow.storage.codec import Codec
from asyncflow.storage.digests import digest_of, hashed
from asyncflow.storage.fingerprint import code_fingerprint

__all__ = ["Argument", "key_of"]

# Another layout of keys or entries gets another number, and finds none of the old ones.
_VERSION: Final = b"1"


class Argument(msgspec.Struct, frozen=True):
    """One argument of a call, as far as it counts; ``name`` is that of its parameter."""

    name: str
    value: Any


def key_of(step: Step[..., Any], arguments: Sequence[Argument], codecs: Sequence[Codec]) -> bytes:
    """The key of a call of a step, by its strategy. Secrets never count.

    Raises:
        NotRecordable: an argument, or what the step's own callable gave, cannot be hashed; the
            path begins with the name of the parameter.
        Exception: whatever the step's own callable raises.
    """
    parts = [_VERSION, _identity(step)]
    if callable(step.cache):
        made = step.cache(**_taken_by(step.cache, arguments))
        return hashed(*parts, b"key", _digest("key", made, codecs))
    if step.cache == "code_hash":
        parts += [b"code", bytes.fromhex(code_fingerprint(step.func))]
    for argument in arguments:
        parts += [_text(argument.name), _digest(argument.name, argument.value, codecs)]
    return hashed(*parts)


def _identity(step: Step[..., Any]) -> bytes:
    """Two steps that take the same inputs are two steps."""
    func: Any = step.func
    while isinstance(func, functools.partial):
        func = func.func
    named = func if hasattr(func, "__qualname__") else type(func)
    return _text(f"{step.name}\0{named.__module__}\0{named.__qualname__}")


def _digest(name: str, value: Any, codecs: Sequence[Codec]) -> bytes:
    if isinstance(value, Secret):
        return b"secret"
    try:
        return digest_of(value, codecs)
    except NotRecordable as refused:
        refused.path = name + refused.path.removeprefix("result")
        raise


def _taken_by(func: Callable[..., Any], arguments: Iterable[Argument]) -> Mapping[str, Any]:
    """Those of the arguments that a callable takes by name; all of them as ``inputs``."""
    given = {argument.name: argument.value for argument in arguments}
    parameters = inspect.signature(func).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return given
    offered = {"inputs": given, **given}
    names = [parameter.name for parameter in parameters if parameter.name in offered]
    return {name: offered[name] for name in names}


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
