"""The pictures that ``asyncflow run`` writes when a run is over."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from asyncflow.cli.endings import CommandError, say
from asyncflow.orchestrator.orchestrator import PipelineOrchestrator
from asyncflow.pipeline.pipeline import Pipeline
from asyncflow.progress import shown
from asyncflow.result import PipelineResult

__all__ = ["Pictures"]


class Pictures(msgspec.Struct, frozen=True):
    """Where to write the graph with its states, and the chart of what ran when."""

    svg: Path | None
    gantt: Path | None

    def check(self) -> None:
        """Look before an hour of work whether there is a place for them.

        Raises:
            CommandError: a file cannot be written there.
        """
        for option, path in (("--svg", self.svg), ("--gantt", self.gantt)):
            if path is None:
                continue
            folder = path.parent
            if not folder.is_dir():
                raise CommandError(f"{option}: there is no folder {str(folder)!r}; make it first")
            if path.is_dir():
                raise CommandError(f"{option}: {str(path)!r} is a folder; name a file")
            if not os.access(path if path.exists() else folder, os.W_OK):
                raise CommandError(f"{option}: {str(path)!r} may not be written; choose another")

    def write(self, pipeline: Pipeline | PipelineOrchestrator, result: PipelineResult) -> bool:
        """Write those that were asked for; a warning says which could not be."""
        wanted: tuple[tuple[Path | None, Callable[[], str]], ...] = (
            (self.svg, lambda: pipeline.visualize("svg", run=result)),
            (self.gantt, result.gantt),
        )
        # Each is tried, also when an earlier one could not be written.
        written = [_write(path, draw) for path, draw in wanted if path is not None]
        return all(written)


def _write(path: Path, draw: Callable[[], str]) -> bool:
    try:
        path.write_text(draw(), encoding="utf-8")
    except OSError as error:
        say(f"warning: {shown(str(path))} could not be written: {error.strerror or error}")
        return False
    return True
