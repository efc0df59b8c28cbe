"""``{from_env: NAME}`` in parameters: read when the run starts, and secret from then on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from asyncflow.graph.names import nearest
from asyncflow.orchestrator.checks import from_env_of
from asyncflow.orchestrator.config import Loaded
from asyncflow.orchestrator.knots import Path, Problems
from asyncflow.secret import Secret

__all__ = ["opened", "params_with_secrets", "sealed", "without_secrets"]


class _Sealed(msgspec.Struct, frozen=True):
    """A secret on its way to a worker of this host, over a socket that only the two of them have.

    It is the one way in which a secret pickles; what is recorded never holds one.
    """

    value: Any

    def __repr__(self) -> str:
        return "<sealed>"


def sealed(value: Any) -> Any:
    """Parameters that can be sent to a worker, secrets included."""
    if isinstance(value, Secret):
        return _Sealed(value.reveal())
    return _mapped(value, sealed)


def opened(value: Any) -> Any:
    """What :func:`sealed` was given."""
    return Secret(value.value) if isinstance(value, _Sealed) else _mapped(value, opened)


def without_secrets(value: Any) -> Any:
    """Parameters with a word in the place of each secret."""
    return "a secret" if isinstance(value, Secret) else _mapped(value, without_secrets)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    return [change(item) for item in value] if isinstance(value, list) else value


def params_with_secrets(loaded: Loaded, problems: Problems) -> list[dict[str, Any]]:
    """The parameters of each module; what the environment lacks is a fault."""
    found = []
    for at, module in enumerate(loaded.config.modules):
        filled = _filled(module.params, loaded, ("modules", at, "params"), problems)
        found.append(filled if isinstance(filled, dict) else dict(module.params))
    return found


def _filled(value: Any, loaded: Loaded, path: Path, problems: Problems) -> Any:
    variable = from_env_of(value)
    if variable is not None:
        return _secret(variable, loaded, path, problems)
    if isinstance(value, Mapping):
        return {key: _filled(one, loaded, (*path, key), problems) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, loaded, (*path, at), problems) for at, one in enumerate(value)]
    return value


def _secret(variable: str, loaded: Loaded, path: Path, problems: Problems) -> Secret[str] | None:
    if variable in os.environ:
        return Secret(os.environ[variable])
    hint = nearest(variable, os.environ, "set it before the run starts")
    problems.add(
        loaded.mark_of(*path),
        f"the environment has no variable {variable!r}{hint}",
        ("pipeline", *path),
    )
    return None
