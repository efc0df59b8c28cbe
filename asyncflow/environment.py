"""Where the worker process of a step or of a group runs: behind a command, in another Python."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

__all__ = ["Environment"]


class Environment(msgspec.Struct, frozen=True):
    """How a worker process is started; for ``@step(environment=…)`` and ``Group(environment=…)``.

    The worker talks over its standard input and output, so that it may run behind any command
    that passes these on: ``nice``, ``srun``, ``docker run -i --rm IMAGE``.

    Args:
        launch: the command that starts it, in front of the interpreter and its arguments.
        python: the interpreter, as a path or a name that is found where the worker runs; None
            takes the one that runs now. Another one needs asyncflow in the same version, and
            the same version of Python up to its second number.
        env: variables of its environment, beside those that are inherited.
        cwd: the folder it works in, as it is called where the worker runs; None leaves it.

    Raises:
        TypeError: a part of it is of another kind.
        ValueError: a part of it is empty, or a variable cannot have such a name or value.

    Example:
        >>> print(Environment(launch=("nice", "-n", "10"), env={"MODE": "slow"}))
        nice -n 10, MODE=slow
    """

    launch: tuple[str, ...] = ()
    python: str | None = None
    env: Mapping[str, str] = {}
    cwd: str | None = None

    def __post_init__(self) -> None:
        checked = {
            "launch": _words(self.launch),
            "python": _path(self.python, "python"),
            "env": _variables(self.env),
            "cwd": _path(self.cwd, "cwd"),
        }
        for field, value in checked.items():
            msgspec.structs.force_setattr(self, field, value)

    def __hash__(self) -> int:
        return hash((self.launch, self.python, frozenset(self.env.items()), self.cwd))

    def __str__(self) -> str:
        """What is particular to it, as plans show it; values of variables included."""
        parts = [shlex.join(self.launch)] if self.launch else []
        parts += [f"python {self.python}"] if self.python else []
        parts += [f"{name}={value}" for name, value in self.env.items()]
        parts += [f"in {self.cwd}"] if self.cwd else []
        return ", ".join(parts) or "a worker of its own"

    @classmethod
    def of(cls, value: Environment | Mapping[str, Any] | None) -> Environment | None:
        """The environment that a mapping of the fields stands for.

        Raises:
            TypeError: a key is unknown, or the value is of another kind.
        """
        if value is None or isinstance(value, Environment):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"takes Environment(launch=('nice',)) or a mapping, got {value!r}")
        unknown = sorted(set(map(str, value)) - set(cls.__struct_fields__))
        if unknown:
            known = ", ".join(cls.__struct_fields__)
            raise TypeError(f"has the unknown key {unknown[0]!r}; the keys are {known}")
        return cls(**value)


def _words(launch: Any) -> tuple[str, ...]:
    if isinstance(launch, str):
        written = tuple(shlex.split(launch))
        raise TypeError(f"launch takes the words of a command; write launch={written!r}")
    if not isinstance(launch, Iterable):
        raise TypeError(f"launch takes the words of a command such as ('nice',), got {launch!r}")
    words = tuple(launch)
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"launch takes words, got {word!r} among {words!r}")
        if "\0" in word:
            raise ValueError(f"launch holds {word!r}, and no command can have a NUL in it")
    if words and not words[0]:
        raise ValueError("launch begins with an empty word; begin with the command")
    return words


def _path(value: Any, field: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{field} takes a path, got {value!r}")
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"{field} takes a path as text, got {value!r}")
    return path


def _variables(env: Any) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise TypeError(f"env takes a mapping such as {{'MODE': 'slow'}}, got {env!r}")
    for name, value in env.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"env takes texts, got {name!r}: {value!r}")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"env: no variable can be {name!r} with the value {value!r}")
    return dict(env)
