"""``{from_env: NAME}`` in parameters: read when the run starts, and secret from then on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncflow.graph.names import nearest
from asyncflow.orchestrator.checks import from_env_of
from asyncflow.orchestrator.config import Loaded
from asyncflow.orchestrator.knots import Path, Problems
from asyncflow.secret import Secret

__all__ = ["params_with_secrets"]


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
