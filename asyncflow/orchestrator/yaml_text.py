"""YAML to knots, from the events of the parser: nothing is built that was not looked at first.

The loaders of PyYAML recurse in C, where 25,000 brackets end the process, and share what aliases
repeat, so that 300 bytes grow to gigabytes. Here depth and number of values are counted as they
come, and what a pipeline has no use for is refused: anchors and aliases, tags, merge keys, keys
that stand twice, further documents.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from asyncflow.orchestrator.knots import MAX_DEPTH, MAX_KNOTS, REFUSED, Knot, Mark, Problems
from asyncflow.orchestrator.scalars import scalar_of

__all__ = ["parse_yaml"]

# What YAML allows in a text; the parser itself says of others neither line nor column.
_UNPRINTABLE = re.compile(
    "[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def parse_yaml(text: str, source: str, problems: Problems) -> Knot | None:
    """The tree of a YAML text; None, and a fault is noted, where it has none."""
    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - (text.rfind("\n", 0, bad.start()) + 1) + 1
        problems.add(
            Mark(source, line, column),
            f"holds the character {bad[0]!r}, which no text file has; is it a text file?",
        )
        return None
    return _Reader(source, problems).read(text)


class _Open(msgspec.Struct):
    """A mapping or list that is being read; ``key`` is the mapping's key that waits for a value."""

    knot: Knot
    key: str | None = None
    key_mark: Mark | None = None
    skips_next: bool = False


class _Reader:
    def __init__(self, source: str, problems: Problems) -> None:
        self._source = source
        self._problems = problems
        self._open: list[_Open] = []
        self._root: Knot | None = None
        self._count = 0

    def read(self, text: str) -> Knot | None:
        import yaml  # not while asyncflow is imported: few programs read YAML

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            for event in yaml.parse(text, Loader=loader):
                if not self._take(event, yaml):
                    return None
        except yaml.YAMLError as error:
            self._problems.add(_mark_of_error(error, self._source), _sentence(error))
            return None
        if self._root is None and not self._problems:
            self._problems.add(Mark(self._source), "is empty; write 'pipeline:' and what it has")
        return self._root

    def _take(self, event: Any, yaml: Any) -> bool:
        """Take one event; False ends the reading."""
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"uses the alias *{event.anchor}; write the value out")
            return self._place(Knot(REFUSED, self._mark(event)))
        if isinstance(event, yaml.DocumentStartEvent):
            return self._begin_document(event)
        if isinstance(event, yaml.ScalarEvent):
            self._check(event)
            return self._take_scalar(event)
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._check(event)
            return self._descend(event, {} if isinstance(event, yaml.MappingStartEvent) else [])
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
        return True

    def _begin_document(self, event: Any) -> bool:
        if self._root is None:
            return True
        self._refuse(event, "begins a second document; a file holds one pipeline")
        return False

    def _check(self, event: Any) -> None:
        """Note what a pipeline has no use for; the reading goes on without it."""
        if event.anchor is not None:
            self._refuse(
                event, f"has the anchor &{event.anchor}; aliases are refused: leave it out"
            )
        if event.tag is not None:
            self._refuse(event, f"has the tag {event.tag!r}; tags are refused: write plain values")

    def _take_scalar(self, event: Any) -> bool:
        mark = self._mark(event)
        top = self._open[-1] if self._open else None
        if top is not None and top.knot.is_mapping and top.key is None and not top.skips_next:
            return self._take_key(top, event, mark)
        is_plain = event.tag is None and not event.style
        return self._place(Knot(scalar_of(event.value) if is_plain else event.value, mark))

    def _take_key(self, top: _Open, event: Any, mark: Mark) -> bool:
        """Keys are text as it was written: ``on:`` and ``1:`` are the keys "on" and "1"."""
        key = event.value
        if not event.style and key == "<<":
            self._problems.add(mark, "has the merge key '<<'; merging is refused: write it out")
        elif not event.style and key in ("", "~"):
            self._problems.add(mark, "has an entry without a key; write one before the colon")
        elif key in top.knot.value:
            first = top.knot.value[key].key_mark
            self._problems.add(
                mark, f"has the key {key!r} twice; it stands in line {first.line} too"
            )
        else:
            top.key, top.key_mark = key, mark
            return self._counts(event)
        top.skips_next = True
        return self._counts(event)

    def _descend(self, event: Any, value: Any) -> bool:
        top = self._open[-1] if self._open else None
        if top is not None and top.knot.is_mapping and top.key is None and not top.skips_next:
            self._refuse(event, "has a list or a mapping for a key; a key is a word")
            return False
        if len(self._open) >= MAX_DEPTH:
            self._refuse(event, f"nests deeper than {MAX_DEPTH} levels; no pipeline needs that")
            return False
        knot = Knot(value, self._mark(event))
        if not self._place(knot):
            return False
        self._open.append(_Open(knot))
        return True

    def _place(self, knot: Knot) -> bool:
        """Put a value where it belongs."""
        if not self._open:
            self._root = knot
            return True
        top = self._open[-1]
        if top.knot.is_list:
            top.knot.value.append(knot)
        elif top.skips_next:
            top.skips_next = False  # the value of a key that was refused
        elif top.key is None:
            top.skips_next = True  # an alias for a key, which was refused
        else:
            knot.key_mark = top.key_mark
            top.knot.value[top.key] = knot
            top.key = None
        return self._counts(knot)

    def _counts(self, where: Any) -> bool:
        self._count += 1
        if self._count <= MAX_KNOTS:
            return True
        mark = where.mark if isinstance(where, Knot) else self._mark(where)
        self._problems.add(mark, f"holds more than {MAX_KNOTS:,} values; split the pipeline up")
        return False

    def _refuse(self, event: Any, sentence: str) -> None:
        self._problems.add(self._mark(event), sentence)

    def _mark(self, event: Any) -> Mark:
        return Mark(self._source, event.start_mark.line + 1, event.start_mark.column + 1)


def _mark_of_error(error: Any, source: str) -> Mark:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return Mark(source) if mark is None else Mark(source, mark.line + 1, mark.column + 1)


def _sentence(error: Any) -> str:
    """What the parser says, without the places it repeats."""
    said = ", ".join(part for part in (getattr(error, "context", ""), error.problem) if part)
    return f"is not YAML: {said}"
