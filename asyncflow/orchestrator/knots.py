"""A configuration as a tree that remembers where each of its values was written.

Whatever a file was written in (YAML, TOML, JSON) or a program handed over (a mapping), it is a
tree of :class:`Knot`, so that one check serves all, and each fault names file, line and path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from asyncflow.errors import ConfigError

__all__ = [
    "MAX_DEPTH",
    "MAX_KNOTS",
    "REFUSED",
    "Knot",
    "Mark",
    "Path",
    "Problems",
    "knots_of",
    "shown_path",
]

MAX_DEPTH = 100
MAX_KNOTS = 100_000
# A file that is wrong all over would bury the fault that caused the others.
_MOST_PROBLEMS = 100
_MOST_HINTS = 20

Path = tuple[str | int, ...]


class _Refused:
    """In the place of a value that was refused already: no further fault is found in it."""

    def __repr__(self) -> str:
        return "<refused>"


REFUSED: Final = _Refused()


class Mark(msgspec.Struct, frozen=True, gc=False):
    """Where something was written: a file (or what stands for one), and from 1 line and column.

    Both are 0 where they are not known.
    """

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Knot(msgspec.Struct):
    """One value: a mapping or a list of knots, or a plain value.

    ``key_mark`` is where its key stands, if it has one.
    """

    value: Any
    mark: Mark
    key_mark: Mark | None = None

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list)

    def plain(self) -> Any:
        """The value itself, of dicts and lists; never deeper than :data:`MAX_DEPTH`."""
        if isinstance(self.value, dict):
            return {key: knot.plain() for key, knot in self.value.items()}
        if isinstance(self.value, list):
            return [knot.plain() for knot in self.value]
        return self.value

    def at(self, path: Path) -> Knot | None:
        """The knot below this one; None where there is none."""
        found: Knot = self
        for part in path:
            following = found._below(part)
            if following is None:
                return None
            found = following
        return found

    def _below(self, part: str | int) -> Knot | None:
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            below: Knot = self.value[part]
            return below
        return None


class Problems:
    """The faults found in a configuration, in the order in which they were written."""

    def __init__(self) -> None:
        self._found: list[tuple[Mark, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    @property
    def are_many(self) -> bool:
        """Whether so many are found that hints no longer help."""
        return len(self._found) >= _MOST_HINTS

    def add(self, mark: Mark, sentence: str, path: Path | None = None) -> None:
        """One fault: where, at which path, and what it is and what to do."""
        where = "" if path is None else f"{shown_path(path)}: "
        self._found.append((mark, f"{mark}: {where}{sentence}"))

    def sentences(self) -> tuple[str, ...]:
        """All of them by file and line; of very many the first hundred."""
        sources = dict.fromkeys(mark.source for mark, _ in self._found)
        files = {source: place for place, source in enumerate(sources)}
        ordered = sorted(
            self._found, key=lambda one: (files[one[0].source], one[0].line, one[0].column)
        )
        said = list(dict.fromkeys(sentence for _, sentence in ordered))
        if len(said) > _MOST_PROBLEMS:
            said[_MOST_PROBLEMS:] = [f"… and {len(said) - _MOST_PROBLEMS} more faults"]
        return tuple(said)

    def raise_if_any(self) -> None:
        """Do nothing where there is no fault.

        Raises:
            ConfigError: there are faults; ``problems`` has them all.
        """
        if self._found:
            raise ConfigError(self.sentences())


def shown_path(path: Path) -> str:
    """``$.pipeline.modules[2].resources``; keys that are no plain words stand in brackets."""
    parts = ["$"]
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif part.replace("-", "_").isidentifier():
            parts.append(f".{part}")
        else:
            parts.append(f"[{part!r}]")
    return "".join(parts)


def knots_of(value: Any, source: str, problems: Problems) -> Knot:
    """The tree of a program's mapping; what is neither mapping nor list is a plain value.

    Keys that are no text, values deeper than :data:`MAX_DEPTH` and trees of more than
    :data:`MAX_KNOTS` values are faults.
    """
    return _Grafting(Mark(source), problems).knot(value, ())


class _Grafting:
    def __init__(self, mark: Mark, problems: Problems) -> None:
        self._mark = mark
        self._problems = problems
        self._count = 0

    def knot(self, value: Any, path: Path) -> Knot:
        self._count += 1
        if len(path) > MAX_DEPTH or self._count > MAX_KNOTS:
            self._problems.add(
                self._mark,
                f"nests deeper than {MAX_DEPTH} levels or holds more than {MAX_KNOTS:,} values; "
                "a pipeline needs neither",
                path[:5],
            )
            self._problems.raise_if_any()
        if isinstance(value, Mapping):
            return Knot(dict(self._entries(value, path)), self._mark)
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
            return Knot([self.knot(item, (*path, at)) for at, item in enumerate(value)], self._mark)
        return Knot(value, self._mark)

    def _entries(self, value: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, Knot]]:
        for key, item in value.items():
            if isinstance(key, str):
                yield key, self.knot(item, (*path, key))
            else:
                self._problems.add(
                    self._mark, f"has the key {key!r}, which is no text; write {str(key)!r}", path
                )
