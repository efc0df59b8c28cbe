"""JSON to knots: the standard library's own scanners, with lines, and without last-one-wins."""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from asyncflow.orchestrator.knots import MAX_DEPTH, MAX_KNOTS, Knot, Mark, Problems

__all__ = ["parse_json"]

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,63}))(\.[0-9]{1,64})?([eE][-+]?[0-9]{1,4})?")
_WORDS: tuple[tuple[str, Any], ...] = (("true", True), ("false", False), ("null", None))


def parse_json(text: str, source: str, problems: Problems) -> Knot | None:
    """The tree of a JSON text; None, and a fault is noted, where it has none."""
    reader = _Reader(text, source, problems)
    try:
        knot, end = reader.value(reader.skip(0), 0)
        if reader.skip(end) != len(text):
            raise _Wrong("has more after its end; a file holds one pipeline", reader.skip(end))
    except _Wrong as wrong:
        problems.add(reader.mark(wrong.at), wrong.sentence)
        return None
    except JSONDecodeError as error:
        problems.add(reader.mark(error.pos), f"is not JSON: {error.msg}")
        return None
    return knot


class _Wrong(Exception):
    def __init__(self, sentence: str, at: int) -> None:
        self.sentence = sentence
        self.at = at


class _Reader:
    def __init__(self, text: str, source: str, problems: Problems) -> None:
        self._text = text
        self._source = source
        self._problems = problems
        self._count = 0
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def mark(self, at: int) -> Mark:
        line = bisect_right(self._line_starts, at)
        return Mark(self._source, line, at - self._line_starts[line - 1] + 1)

    def skip(self, at: int) -> int:
        """The place of what comes after white space."""
        space = _SPACE.match(self._text, at)
        return at if space is None else space.end()

    def value(self, at: int, depth: int) -> tuple[Knot, int]:
        """The value that begins here, and where it ends."""
        self._count += 1
        if depth > MAX_DEPTH:
            raise _Wrong(f"nests deeper than {MAX_DEPTH} levels; no pipeline needs that", at)
        if self._count > MAX_KNOTS:
            raise _Wrong(f"holds more than {MAX_KNOTS:,} values; split the pipeline up", at)
        char = self._text[at : at + 1]
        if char == "{":
            return self._mapping(at, depth)
        if char == "[":
            return self._list(at, depth)
        if char == '"':
            said, end = self._string(at)
            return Knot(said, self.mark(at)), end
        return self._word(at)

    def _string(self, at: int) -> tuple[str, int]:
        said, end = scanstring(self._text, at + 1, True)
        if any("\ud800" <= char <= "\udfff" for char in said):
            raise _Wrong("holds one half of a surrogate pair, which is no character", at)
        return said, end

    def _word(self, at: int) -> tuple[Knot, int]:
        for word, meaning in _WORDS:
            if self._text.startswith(word, at):
                return Knot(meaning, self.mark(at)), at + len(word)
        number = _NUMBER.match(self._text, at)
        if number is None:
            raise _Wrong("is not JSON: here should be a value", at)
        whole = number[2] is None and number[3] is None
        return Knot((int if whole else float)(number[0]), self.mark(at)), number.end()

    def _list(self, at: int, depth: int) -> tuple[Knot, int]:
        items: list[Knot] = []
        knot, at = Knot(items, self.mark(at)), self.skip(at + 1)
        while self._text[at : at + 1] != "]":
            item, at = self.value(at, depth + 1)
            items.append(item)
            at = self._after_comma(at, "]")
        return knot, at + 1

    def _mapping(self, at: int, depth: int) -> tuple[Knot, int]:
        entries: dict[str, Knot] = {}
        knot, at = Knot(entries, self.mark(at)), self.skip(at + 1)
        while self._text[at : at + 1] != "}":
            if self._text[at : at + 1] != '"':
                raise _Wrong("is not JSON: here should be a key in double quotes", at)
            key_mark, (key, end) = self.mark(at), self._string(at)
            at = self.skip(end)
            if self._text[at : at + 1] != ":":
                raise _Wrong("is not JSON: here should be a colon", at)
            item, at = self.value(self.skip(at + 1), depth + 1)
            self._enter(entries, key, item, key_mark)
            at = self._after_comma(at, "}")
        return knot, at + 1

    def _enter(self, entries: dict[str, Knot], key: str, item: Knot, mark: Mark) -> None:
        if key in entries:
            first = entries[key].key_mark
            line = 0 if first is None else first.line
            self._problems.add(mark, f"has the key {key!r} twice; it stands in line {line} too")
            return
        item.key_mark = mark
        entries[key] = item

    def _after_comma(self, at: int, closing: str) -> int:
        """The place of the next item, or of the bracket that ends them."""
        at = self.skip(at)
        char = self._text[at : at + 1]
        if char == closing:
            return at
        if char != ",":
            raise _Wrong(f"is not JSON: here should be a comma or {closing!r}", at)
        following = self.skip(at + 1)
        if self._text[following : following + 1] == closing:
            raise _Wrong("is not JSON: a comma stands before the end", at)
        return following
