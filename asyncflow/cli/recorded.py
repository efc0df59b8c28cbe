"""The commands that look at recorded runs: runs, show, export; and resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncflow.cli.endings import CommandError, sentences
from asyncflow.cli.options import AsJson, Directory, RunName, Traceback
from asyncflow.errors import StorageError
from asyncflow.progress import shown
from asyncflow.storage.layout import RUNS

if TYPE_CHECKING:
    from asyncflow.storage.accounts import RunAccount

__all__ = ["add_recorded_commands", "check_recorded", "runs"]


class ExportFormat(StrEnum):
    """The values of export's --format."""

    JSON = "json"
    MERMAID = "mermaid"


runs = typer.Typer(
    name="runs",
    help="List recorded runs, and look after them.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


def add_recorded_commands(app: typer.Typer) -> None:
    """Add the commands to those of the program."""
    app.add_typer(runs)
    app.command()(show)
    app.command()(export)


@runs.callback()
def list_runs(
    context: typer.Context,
    directory: Directory = ".asyncflow",
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """List recorded runs, also those that are being written and those that are damaged."""
    if context.invoked_subcommand is not None:
        # What stands before "prune" counts for it, too.
        said = {"directory": directory, "as_json": as_json, "traceback": traceback}
        context.default_map = {context.invoked_subcommand: said}
        return
    from asyncflow.storage.accounts import accounts_in

    with sentences(traceback):
        found = list(accounts_in(directory))
    if as_json:
        typer.echo(json.dumps([account.summary() for account in found], indent=2))
        return
    if not found:
        typer.echo(shown(f"no runs are recorded in {directory}{_elsewhere(directory)}"))
        return
    for line in _table(_rows(found)):
        typer.echo(shown(line))


def _elsewhere(directory: str) -> str:
    """Where else runs may be recorded."""
    of_files = ".checkpoints"
    if directory != of_files and (Path(of_files) / RUNS).is_dir():
        return f"; there are some in {of_files}: --directory {of_files}"
    return "" if Path(directory).is_dir() else ", which is not there; --directory names another"


def show(
    run: RunName,
    directory: Directory = ".asyncflow",
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Show what is recorded of a run: its nodes in the order in which they began, with their
    attempts, lanes, durations and errors."""
    with sentences(traceback):
        account = _account(directory, run)
    if as_json:
        typer.echo(json.dumps(account.as_dict(), indent=2))
        return
    for line in _story(account):
        typer.echo(shown(line))


def export(
    run: RunName,
    format: Annotated[ExportFormat, typer.Option(help="As what.")] = ExportFormat.JSON,
    directory: Directory = ".asyncflow",
    traceback: Traceback = False,
) -> None:
    """Write what is recorded of a run: all of it as JSON, or its graph with the states."""
    with sentences(traceback):
        account = _account(directory, run)
    if format is ExportFormat.JSON:
        typer.echo(json.dumps(account.as_dict(events=True), indent=2))
    else:
        typer.echo(shown(account.mermaid(), lines=True))


def check_recorded(directory: str, run_id: str) -> None:
    """See that there is such a run: resuming must not begin one.

    Raises:
        CommandError: there is none.
    """
    _account(directory, run_id)


def _account(directory: str, run_id: str) -> RunAccount:
    from asyncflow.storage.accounts import account_of

    try:
        return account_of(directory, run_id)
    except FileNotFoundError:
        raise CommandError(
            f"no run {run_id!r} is recorded in {directory}{_elsewhere(directory)}; "
            "'asyncflow runs' lists those that are"
        ) from None
    except StorageError as error:
        raise CommandError(str(error)) from error


# -- text --------------------------------------------------------------------------------------


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds else "-"


def _rows(found: list[RunAccount]) -> Iterator[tuple[str, ...]]:
    yield ("RUN", "PIPELINE", "STATE", "STEPS", "STARTED (UTC)", "")
    for account in found:
        summary = account.summary()
        remark = ""
        if summary["held_by"] is not None:
            remark = f"held by process {summary['held_by']['pid']} on {summary['held_by']['host']}"
        elif summary["damage"]:
            remark = summary["damage"]
        elif summary["parent"]:
            remark = f"nested in {summary['parent']}"
        yield (
            summary["run_id"],
            summary["pipeline"],
            summary["state"],
            f"{summary['done']}/{summary['steps']}",
            _moment(summary["started"]),
            remark,
        )


def _table(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _story(account: RunAccount) -> Iterator[str]:
    told = account.as_dict()
    yield f"{told['run_id']}: {told['pipeline']}, {told['state']}"
    for life in told["lives"]:
        yield (
            f"  life {life['number']}: {_moment(life['started'])} UTC, process {life['pid']} on "
            f"{life['host']}"
        )
    if told["held_by"] is not None:
        yield f"  held by process {told['held_by']['pid']} since {told['held_by']['since']} UTC"
    if told["reason"]:
        yield f"  reason: {told['reason']}"
    if told["damage"]:
        yield f"  damaged: {told['damage']}"
    if told["ending"] in ("torn", "tail"):
        yield "  the last record is not whole: it is being written, or its host died meanwhile"
    yield ""
    yield from _table(_node_rows(told["nodes"]))


def _node_rows(nodes: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield ("STEP", "STATE", "ATTEMPTS", "LANE", "DURATION", "ERROR")
    for node in nodes:
        seconds = node["duration_seconds"]
        yield (
            node["name"],
            node["state"] + (" (cached)" if node["cached"] else ""),
            str(node["attempts"]),
            node["lane"] or "-",
            "-" if seconds is None else f"{seconds:.3f} s",
            node["error"].splitlines()[0] if node["error"] else "",
        )
