"""Rows of figures, what they are held against, and the table they make."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from rich.table import Table

__all__ = ["Goal", "Row", "as_json", "as_table"]

EAGER_TASKS = sys.version_info >= (3, 12)
_SECOND_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


class Goal(msgspec.Struct, frozen=True):
    """What a figure must not exceed.

    Args:
        kind: ``"ratio"`` (ours by the reference), ``"extra"`` (ours above the reference, in
            the row's unit) or ``"limit"`` (ours, in the row's unit).
        most: the figure that is still good.
        most_with_eager_tasks: the same on Python 3.12 and later; None if it does not differ.
    """

    kind: Literal["ratio", "extra", "limit"]
    most: float
    most_with_eager_tasks: float | None = None

    @property
    def here(self) -> float:
        """The goal for the Python that runs."""
        if EAGER_TASKS and self.most_with_eager_tasks is not None:
            return self.most_with_eager_tasks
        return self.most


class Row(msgspec.Struct, frozen=True):
    """One measured figure.

    Args:
        measure: what was measured.
        ours: the median, in ``unit``.
        reference: the same for what it is compared with; None where there is nothing.
        unit: ``"s"`` or ``"B"``.
        goal: None for a figure that only informs.
    """

    measure: str
    ours: float
    reference: float | None = None
    unit: Literal["s", "B"] = "s"
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """Ours by the reference."""
        return None if self.reference is None else self.ours / self.reference

    @property
    def judged(self) -> float:
        """The figure that the goal speaks of."""
        if self.goal is None or self.goal.kind == "limit" or self.reference is None:
            return self.ours
        return self.ours / self.reference if self.goal.kind == "ratio" else self.extra

    @property
    def extra(self) -> float:
        """Ours above the reference."""
        return self.ours - (self.reference or 0.0)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.judged <= self.goal.here


def shown(value: float, unit: str) -> str:
    """A figure with three digits and its unit.

    Example:
        >>> shown(0.0123, "s"), shown(812.3, "B")
        ('12.3 ms', '812 B')
    """
    if unit == "B":
        return f"{value:,.0f} B"
    scale, name = next((s for s in _SECOND_UNITS if abs(value) >= s[0]), _SECOND_UNITS[-1])
    return (
        f"{value / scale:.3g} {name}"
        if abs(value) < 999.5 * scale
        else f"{value / scale:,.0f} {name}"
    )


def _comparison(row: Row) -> str:
    if row.goal is not None and row.goal.kind == "extra":
        return f"+ {shown(row.extra, row.unit)}"
    return "–" if row.ratio is None else f"{row.ratio:.3g}×"


def _goal(row: Row) -> str:
    goal = row.goal
    if goal is None:
        return "–"
    if goal.kind == "ratio":
        return f"≤ {goal.here:g}×"
    return f"{'+ ' if goal.kind == 'extra' else ''}≤ {shown(goal.here, row.unit)}"


def _verdict(row: Row, judge: bool) -> str:
    if row.met is None or not judge:
        return "–"
    return "[green]met[/]" if row.met else "[bold red]missed[/]"


def as_table(rows: Sequence[Row], *, quick: bool) -> Table:
    """The rows as a table for the terminal; sizes that are too small are not judged."""
    table = Table(
        title=f"{platform.python_implementation()} {platform.python_version()}, "
        f"{os.cpu_count()} CPUs" + (", sizes too small to judge" if quick else "")
    )
    table.add_column("measure")
    for heading in ("ours", "reference", "ratio", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        reference = "–" if row.reference is None else shown(row.reference, row.unit)
        table.add_row(
            row.measure,
            shown(row.ours, row.unit),
            reference,
            _comparison(row),
            _goal(row),
            _verdict(row, not quick),
        )
    return table


def as_json(rows: Sequence[Row], *, quick: bool) -> dict[str, Any]:
    """The rows as plain values, with what they were measured on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "quick": quick,
        "rows": [
            {
                **msgspec.to_builtins(row),
                "ratio": row.ratio,
                "goal_here": row.goal.here if row.goal else None,
                "met": None if quick else row.met,
            }
            for row in rows
        ],
    }
