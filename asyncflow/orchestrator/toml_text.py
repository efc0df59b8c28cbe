"""TOML to knots: read by the standard library, with lines found by a second look at the text.

That reader says where it stumbled, and not where a value stood that it read well. So once it has
found a text to be TOML, the text is gone through again for its keys.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

from asyncflow.orchestrator.knots import MAX_DEPTH, Knot, Mark, Path, Problems, knots_of

__all__ = ["parse_toml"]

# The standard library takes memory with the square of a key's length.
_LONG_KEY = re.compile(rf"(?<![\w-])[\w-]++(?:\s*+\.\s*+[\w-]++){{{MAX_DEPTH},}}")
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*+")
_PART = re.compile(r"""[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[\[\]{}\n]"
    r"|[^\"'\#\[\]{}\n]+",
    re.DOTALL,
)


def parse_toml(text: str, source: str, problems: Problems) -> Knot | None:
    """The tree of a TOML text; None, and a fault is noted, where it has none."""
    if _LONG_KEY.search(text):
        problems.add(Mark(source), f"has a key of more than {MAX_DEPTH} parts; no pipeline does")
        return None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        mark = Mark(source) if place is None else Mark(source, int(place[1]), int(place[2]))
        problems.add(mark, f"is not TOML: {_PLACE.sub('', str(error))}")
        return None
    except RecursionError:
        problems.add(Mark(source), "nests so deep that it cannot be read; no pipeline needs that")
        return None
    except ValueError as error:  # a number of thousands of digits
        problems.add(Mark(source), f"cannot be read: {error}")
        return None
    root = knots_of(values, source, problems)
    keys: dict[Path, _Key] = {}
    for found in _Keys(text, source).found():
        keys.setdefault(found.path, found)
    _place(root, (), keys, root.mark)
    return root


def _place(knot: Knot, path: Path, keys: dict[Path, _Key], above: Mark) -> None:
    """Tell a tree its lines; what stands in an inline table has that of its key."""
    found = keys.get(path)
    if found is not None:
        knot.key_mark, knot.mark = found.key, found.value
    else:
        knot.mark = above
    if isinstance(knot.value, dict):
        for name, item in knot.value.items():
            _place(item, (*path, name), keys, knot.mark)
    elif isinstance(knot.value, list):
        for at, item in enumerate(knot.value):
            _place(item, (*path, at), keys, knot.mark)


class _Key(msgspec.Struct, frozen=True):
    """A key of a text: where it stands, and where its value does."""

    path: Path
    key: Mark
    value: Mark


class _Keys:
    """Goes through a text that is known to be TOML."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._table: Path = ()
        self._elements: dict[Path, int] = {}  # how many tables an array has so far

    def found(self) -> Iterator[_Key]:
        """Every key at the beginning of a line, and every table."""
        at = self._skip(0)
        while at < len(self._text):
            begin = at
            if self._text[at] == "[":
                at = self._header(at)
                yield self._at(self._table, begin, begin)
            else:
                parts, at = self._key(at)
                at = self._skip_spaces(at + 1)  # behind the equals sign
                for depth in range(1, len(parts)):
                    yield self._at((*self._table, *parts[:depth]), begin, begin)
                yield self._at((*self._table, *parts), begin, at)
                at = self._end_of_value(at)
            at = self._skip(at)

    def _at(self, path: Path, key: int, value: int) -> _Key:
        return _Key(path, self._mark(key), self._mark(value))

    def _mark(self, at: int) -> Mark:
        line = bisect_right(self._line_starts, at)
        return Mark(self._source, line, at - self._line_starts[line - 1] + 1)

    def _skip(self, at: int) -> int:
        space = _SPACE.match(self._text, at)
        return at if space is None else space.end()

    def _skip_spaces(self, at: int) -> int:
        while self._text[at : at + 1] in (" ", "\t"):
            at += 1
        return at

    def _header(self, at: int) -> int:
        is_element = self._text.startswith("[[", at)
        parts, at = self._key(at + (2 if is_element else 1))
        path: Path = ()
        for part in parts[:-1]:
            path = self._inside((*path, part))
        path = (*path, parts[-1])
        if is_element:
            self._elements[path] = self._elements.get(path, 0) + 1
        self._table = self._inside(path)
        return at + (2 if is_element else 1)

    def _inside(self, path: Path) -> Path:
        """A path as it goes on: through the last table of an array."""
        return (*path, self._elements[path] - 1) if path in self._elements else path

    def _key(self, at: int) -> tuple[tuple[str, ...], int]:
        parts: list[str] = []
        while (part := _PART.match(self._text, at)) is not None:
            parts.append(next(text for text in part.groups() if text is not None))
            at = part.end()
            if self._text[at : at + 1] != ".":
                break
            at += 1
        return tuple(parts), at

    def _end_of_value(self, at: int) -> int:
        depth = 0
        while at < len(self._text):
            token = _TOKEN.match(self._text, at)
            if token is None:
                return len(self._text)
            at, said = token.end(), token[0]
            if said in ("[", "{"):
                depth += 1
            elif said in ("]", "}"):
                depth -= 1
            elif said == "\n" and depth <= 0:
                return at
        return at
