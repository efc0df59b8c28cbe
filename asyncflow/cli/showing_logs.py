"""``asyncflow logs``: from the files that a run keeps to a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TextIO

import typer

from asyncflow.cli.endings import CommandError
from asyncflow.cli.files import LaidOver, is_pipeline_file, load_orchestrator
from asyncflow.graph.names import nearest
from asyncflow.orchestrator.logs import LOGS, backups_of, file_name_of, logs_in, module_of
from asyncflow.progress import shown
from asyncflow.storage.layout import RUNS, folder_of

__all__ = ["Logs", "follow_logs", "logs_of", "show_logs"]

_PAUSE_SECONDS = 0.2


class Logs:
    """The logs to show: those of all modules of a run, or of one.

    Args:
        folder: where the run keeps them.
        module: the only one, by its name; None for all.
    """

    def __init__(self, folder: Path, module: str | None) -> None:
        self._folder = folder
        self._module = module

    def files(self) -> list[Path]:
        """The logs there are at this moment."""
        if self._module is None:
            return logs_in(self._folder)
        file = self._folder / file_name_of(self._module)
        return [file] if file.exists() else []

    def prefix(self, file: Path) -> str:
        """What lines of a log begin with."""
        return f"{module_of(file)}: " if self._module is None else ""


def logs_of(run: str, module: str | None, directory: Path) -> Logs:
    """The logs of a run.

    Args:
        run: a run id, a run's folder or a pipeline's file.

    Raises:
        CommandError: there is no such run, or the module has no log.
    """
    folder = _folder_of(run, directory) / LOGS
    if not folder.is_dir():
        raise CommandError(f"run {run!r} has no logs: no module has said anything, or none is kept")
    found = Logs(folder, module)
    if module is not None and not found.files():
        known = [module_of(file) for file in logs_in(folder)]
        there_are = f"there are those of {', '.join(map(repr, known))}"
        raise CommandError(
            f"run {run!r} has no log of module {module!r}{nearest(module, known, there_are)}"
        )
    return found


def _folder_of(run: str, directory: Path) -> Path:
    if is_pipeline_file(run) and Path(run).is_file():
        kept = load_orchestrator(run, LaidOver()).run_folder
        if kept is None:
            raise CommandError(f"{run} has checkpoint.enabled: false, and so its runs keep no logs")
        return kept
    for folder in (Path(run), directory / RUNS / folder_of(run)):
        if (folder / LOGS).is_dir():
            return folder
    runs = directory / RUNS
    known = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
    otherwise = (
        f"'asyncflow runs --directory {directory}' lists those that are recorded"
        if known
        else f"there is no run in {directory}; name its folder with --directory"
    )
    raise CommandError(f"there is no run {run!r}{nearest(run, known, otherwise)}")


def show_logs(logs: Logs) -> None:
    """Write all of them, what was set aside first."""
    for file in logs.files():
        with _Reader(file) as reader:
            _show(logs, file, reader.news())


def follow_logs(logs: Logs) -> None:
    """Write them, and go on with what is added, until interrupted."""
    with ExitStack() as open_files:
        readers: dict[Path, _Reader] = {}
        while True:
            for file in logs.files():
                if file not in readers:
                    readers[file] = open_files.enter_context(_Reader(file))
                _show(logs, file, readers[file].news())
            time.sleep(_PAUSE_SECONDS)


class _Reader:
    """Reads a log from its beginning, and goes on when it is set aside for a new one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.close()

    def news(self) -> Iterator[str]:
        """The lines written since the last time."""
        if self._open is not None:
            yield from self._open
        for part in self._parts_after():
            if self._open is not None:
                self._open.close()
            self._open = part.open(encoding="utf-8", errors="backslashreplace")
            yield from self._open

    def _parts_after(self) -> list[Path]:
        """What follows the part that was read last, the oldest first."""
        parts = [*backups_of(self._file), self._file]
        if self._open is not None:
            last = os.fstat(self._open.fileno())
            for place, part in enumerate(parts):
                if part.exists() and os.path.samestat(os.stat(part), last):
                    return parts[place + 1 :]
        return [part for part in parts if part.exists()]


def _show(logs: Logs, file: Path, lines: Iterable[str]) -> None:
    prefix = logs.prefix(file)
    for line in lines:
        typer.echo(shown(f"{prefix}{line.rstrip(chr(10))}"))
