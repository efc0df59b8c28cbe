"""Which charts there are, and for which of them a census has figures."""

from __future__ import annotations

from collections.abc import Callable

from examples.census.bars import lines_by_package, most_imported
from examples.census.distributions import branching, function_lengths
from examples.census.map_of_lines import map_of_lines
from examples.census.svg import Drawing
from examples.census.totals import Census

__all__ = ["CHARTS", "draw_all"]

_OF_LINES: dict[str, Callable[[Census], Drawing]] = {
    "lines-by-package.svg": lines_by_package,
    "map-of-lines.svg": map_of_lines,
}
_OF_PARSED: dict[str, Callable[[Census], Drawing]] = {
    "function-lengths.svg": function_lengths,
    "branching.svg": branching,
    "most-imported.svg": most_imported,
}
CHARTS = (*_OF_LINES, *_OF_PARSED)


def draw_all(census: Census) -> dict[str, str]:
    """SVG texts by file name; those about functions and imports only where files were parsed."""
    charts = _OF_LINES if census.parsed is None else {**_OF_LINES, **_OF_PARSED}
    return {name: str(draw(census)) for name, draw in charts.items()}
