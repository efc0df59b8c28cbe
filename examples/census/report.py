"""The report: what the census found, in words, tables and charts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from examples.census.totals import Census

__all__ = ["as_markdown"]

_CAPTIONS = {
    "lines-by-package.svg": "The largest packages",
    "map-of-lines.svg": "Every file, by lines and comments",
    "function-lengths.svg": "How long functions are",
    "branching.svg": "Where the branches are",
    "most-imported.svg": "What is imported most",
}


def as_markdown(census: Census, charts: Sequence[str]) -> str:
    """The report as a page that shows the charts lying beside it."""
    sections = [
        f"# A census of {census.about}",
        _overview(census),
        *(f"## {_CAPTIONS[name]}\n\n![{_CAPTIONS[name]}]({name})" for name in charts),
        "## Packages",
        _packages(census),
    ]
    if census.parsed is not None:
        sections += ["## The longest functions", _longest_functions(census)]
    if census.refused:
        sections += ["## Refused by the parser", _refused(census)]
    return "\n\n".join(sections) + "\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns of numbers stand to the right."""
    body = list(rows)
    numeric = [all(isinstance(row[at], int) for row in body) for at in range(len(headings))]
    lines = [headings, ["---:" if number else "---" for number in numeric]]
    lines += [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _overview(census: Census) -> str:
    comments = sum(package.comments for package in census.packages)
    words = (
        f"{census.lines:,} lines in {census.files:,} files of {len(census.packages)} packages; "
        f"{comments / (census.lines or 1):.1%} of the lines are comments."
    )
    if census.parsed is None:
        return words + " This was a quick census: nothing was parsed."
    return f"{words} {_overview_of_functions(census)}"


def _overview_of_functions(census: Census) -> str:
    classes = sum(found.classes for found in census.parsed or ())
    lengths = [f.lines for tests in (False, True) for f in census.functions(tests=tests)]
    words = f"They define {len(lengths):,} functions and {classes:,} classes."
    if lengths:
        words += f" The median function has {statistics.median(lengths):g} lines."
    return words


def _packages(census: Census) -> str:
    return _table(
        ["package", "files", "lines", "code", "comments", "blank"],
        ([p.name, len(p.files), p.lines, p.code, p.comments, p.blank] for p in census.packages),
    )


def _longest_functions(census: Census) -> str:
    functions = [
        (function, found.module)
        for found in census.parsed or ()
        if not found.is_test
        for function in found.functions
    ]
    functions.sort(key=lambda pair: pair[0].lines, reverse=True)
    return _table(
        ["function", "lines", "branches"],
        ([f"`{module}.{f.name}`", f.lines, f.branches] for f, module in functions[:15]),
    )


def _refused(census: Census) -> str:
    """Most are there to test what reads Python."""
    return _table(
        ["file", "why"],
        ([f"`{found.path}`", found.fault.replace("|", "\\|")] for found in census.refused),
    )
