"""A status as people read it: tables for a terminal, in markdown or in HTML; or JSON."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import msgspec

from asyncflow.flow.status import AggregateStatus, GroupStatus, ProjectStatus, StatusView

__all__ = ["render"]


class _Sheet(msgspec.Struct, frozen=True):
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def render(status: ProjectStatus, view: StatusView, out: TextIO | None = None) -> None:
    """Write a status; to standard output, unless told otherwise."""
    out = out or sys.stdout
    if view.as_json:
        out.write(msgspec.json.format(msgspec.json.encode(status)).decode() + "\n")
        return
    write = {"terminal": _terminal, "markdown": _markdown, "html": _html}[view.output_format]
    jobs = "1 job" if status.jobs == 1 else f"{status.jobs} jobs"
    write(f"{status.project} in {status.path}: {jobs}", list(_sheets(status, view)), out)


def _sheets(status: ProjectStatus, view: StatusView) -> Iterator[_Sheet]:
    total = max(status.jobs, 1)
    labels = list(status.labels.items())[: view.overview_max_lines]
    if labels:
        shares = [(name, str(count), _bar(count / total)) for name, count in labels]
        yield _Sheet("Labels", ("label", "jobs", "share"), shares)
    eligible = [(name, str(count)) for name, count in status.eligible.items()]
    yield _Sheet("Eligible", ("operation or group", "jobs"), eligible)
    if view.detailed:
        yield from _details(status, view)


def _details(status: ProjectStatus, view: StatusView) -> Iterator[_Sheet]:
    parameters = tuple(dict.fromkeys(key for row in status.aggregates for key in row.parameters))
    rows, of_labels = [], []
    for aggregate in status.aggregates:
        values = tuple(str(aggregate.parameters.get(key, "")) for key in parameters)
        labels = ", ".join(aggregate.labels)
        of_labels.append((aggregate.aggregate_id, labels))
        for name, group in _shown(aggregate, view):
            row = (aggregate.aggregate_id, *values, name, _mark(group))
            rows.append(row if view.expand else (*row, labels))
    columns = ("job", *parameters, "operation", "status")
    if view.expand:
        yield _Sheet("Jobs and labels", ("job", "labels"), of_labels)
        yield _Sheet("Jobs and operations", columns, rows)
    else:
        yield _Sheet("Jobs", (*columns, "labels"), rows)


def _shown(aggregate: AggregateStatus, view: StatusView) -> Iterator[tuple[str, GroupStatus]]:
    for name, group in aggregate.groups.items():
        if view.only_incomplete and group.completed:
            continue
        if view.all_operations or view.only_incomplete or group.is_active:
            yield name, group


def _mark(group: GroupStatus) -> str:
    words = []
    if group.scheduler_status != "unknown":
        words.append(group.scheduler_status)
    words.append("eligible" if group.eligible else "complete" if group.completed else "waits")
    return ", ".join(words)


def _bar(share: float, width: int = 20) -> str:
    full = round(share * width)
    return f"{'█' * full}{'░' * (width - full)} {share:.0%}"


def _terminal(title: str, sheets: Sequence[_Sheet], out: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, soft_wrap=not out.isatty(), highlight=False)
    console.print(Text(title, "bold"))
    for sheet in sheets:
        if not sheet.rows:
            console.print(Text(f"\n{sheet.title}: none"))
            continue
        table = Table(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD)
        for column in sheet.columns:
            table.add_column(column, justify="right" if column == "jobs" else "left")
        for row in sheet.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def _markdown(title: str, sheets: Sequence[_Sheet], out: TextIO) -> None:
    def line(cells: Sequence[str]) -> str:
        escaped = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
        return "| " + " | ".join(" ".join(cell.split()) for cell in escaped) + " |\n"

    out.write(f"# {title}\n")
    for sheet in sheets:
        out.write(f"\n## {sheet.title}\n\n")
        if sheet.rows:
            out.write(line(sheet.columns) + line(["---"] * len(sheet.columns)))
            out.writelines(line(row) for row in sheet.rows)
        else:
            out.write("none\n")


# A page that needs nothing beside it, and stays readable where a mail or a wiki cuts the style.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem }}
body {{ margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse }}
th, td {{ border-bottom: 1px solid #8884; padding: .25rem 1.5rem .25rem 0; text-align: left }}
td {{ font-variant-numeric: tabular-nums; white-space: nowrap }}
</style>
"""


def _html(title: str, sheets: Sequence[_Sheet], out: TextIO) -> None:
    def cells(tag: str, values: Sequence[Any]) -> str:
        inside = "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)
        return f"<tr>{inside}</tr>\n"

    out.write(_PAGE.format(title=html.escape(title)))
    out.write(f"<h1>{html.escape(title)}</h1>\n")
    for sheet in sheets:
        out.write(f"<h2>{html.escape(sheet.title)}</h2>\n")
        if not sheet.rows:
            out.write("<p>none</p>\n")
            continue
        out.write(f'<div class="wide"><table>\n{cells("th", sheet.columns)}')
        out.writelines(cells("td", row) for row in sheet.rows)
        out.write("</table></div>\n")
    out.write("</html>\n")
