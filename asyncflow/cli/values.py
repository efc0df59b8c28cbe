"""The values of a run, each in a line that fits the terminal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from reprlib import Repr
from typing import Any

from asyncflow.progress import shown

__all__ = ["lines_of_values"]

_MOST_VALUES = 50
_COLUMNS_ELSEWHERE = 120


def lines_of_values(values: Mapping[str, Any]) -> Iterator[str]:
    """``name: value`` for each, cut where it is too long; a secret shows as one."""
    columns = shutil.get_terminal_size((_COLUMNS_ELSEWHERE, 0)).columns
    short = _Short(columns)
    for name, value in islice(values.items(), _MOST_VALUES):
        line = f"  {shown(name)}: {short.in_a_line(value)}"
        yield line if len(line) <= columns else f"{line[: columns - 1]}…"
    if len(values) > _MOST_VALUES:
        yield f"  and {len(values) - _MOST_VALUES:,} more"


class _Short(Repr):
    """Looks no further into a value than there is room for."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.fillvalue = "…"
        self.maxstring = self.maxother = self.maxlong = columns
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = columns // 3

    def in_a_line(self, value: Any) -> str:
        text = self.repr(value)
        return shown(" ".join(text.split()) if "\n" in text else text)

    def repr_dict(self, mapping: dict[Any, Any], level: int) -> str:
        """In the dictionary's own order; the class sorts."""
        if level <= 0 and mapping:
            return f"{{{self.fillvalue}}}"
        pieces = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(mapping.items(), self.maxdict)
        ]
        more = [self.fillvalue] if len(mapping) > self.maxdict else []
        return f"{{{', '.join([*pieces, *more])}}}"
