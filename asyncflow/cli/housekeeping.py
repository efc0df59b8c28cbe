"""The commands that keep the directory small: cache stats, cache prune and runs prune."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from asyncflow.cli.endings import CommandError, ExitCode, end, sentences
from asyncflow.cli.options import AsJson, Directory, Traceback
from asyncflow.errors import StorageError
from asyncflow.progress import shown
from asyncflow.quantities import format_bytes, parse_bytes

if TYPE_CHECKING:
    from asyncflow.storage.cache import CacheStore
    from asyncflow.storage.pruning import PrunedRun

__all__ = ["cache", "prune_runs"]

_AGE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

cache = typer.Typer(
    name="cache",
    help="Look at the results that are cached, and remove some.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@cache.command()
def stats(
    directory: Directory = ".asyncflow", as_json: AsJson = False, traceback: Traceback = False
) -> None:
    """Show how much is cached, and when it was last used."""
    with sentences(traceback), _stored():
        found = _cache_in(directory).statistics()
    if as_json:
        typer.echo(json.dumps(_fields(found)))
        return
    typer.echo(shown(f"{_entries(found.entries)}, {format_bytes(found.total_bytes)}"))
    if found.oldest is not None and found.newest is not None:
        typer.echo(f"last used between {_moment(found.oldest)} and {_moment(found.newest)}")


@cache.command("prune")
def prune_cache(
    max_bytes: Annotated[
        str,
        typer.Option(
            metavar="SIZE", help="How much may stay, such as 500Mi or 10GB.", show_default=False
        ),
    ],
    directory: Directory = ".asyncflow",
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Remove cached results, those first that were longest not used, until the rest fits."""
    with sentences(traceback), _stored():
        pruned = _cache_in(directory).prune(_size(max_bytes))
    if as_json:
        typer.echo(json.dumps(_fields(pruned)))
        return
    typer.echo(
        f"removed {_entries(pruned.removed)}, {format_bytes(pruned.removed_bytes)}; "
        f"{pruned.left} are left, {format_bytes(pruned.left_bytes)}"
    )


def prune_runs(
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="How long nothing happened in a run: 90m, 12h, 30d or 8w.",
            show_default=False,
        ),
    ],
    directory: Directory = ".asyncflow",
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="Remove runs that could be resumed or are damaged, too."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Remove the records of runs that are finished and old.

    A run that a process holds is never removed. The exit code is 1 if an old run was left.
    """
    from asyncflow.storage import pruning

    with sentences(traceback), _stored():
        seconds = _seconds(older_than)
        try:
            found = list(
                pruning.prune_runs(directory, seconds, unfinished=unfinished, dry_run=dry_run)
            )
        except FileNotFoundError:
            found = []
    if as_json:
        typer.echo(json.dumps([_fields(run) for run in found]))
    else:
        for line in _lines(found, dry_run=dry_run):
            typer.echo(shown(line))
    end(ExitCode.FAILED if any(run.why_not for run in found) else ExitCode.SUCCESS)


def _lines(found: Iterable[PrunedRun], *, dry_run: bool) -> Iterable[str]:
    verb, count, total = "would remove" if dry_run else "removed", 0, 0
    for run in found:
        what = f"{run.run_id}, {format_bytes(run.length_bytes)}, last used {_moment(run.last_used)}"
        if run.why_not:
            yield f"left {what}: {run.why_not}"
        else:
            count, total = count + 1, total + run.length_bytes
            yield f"{verb} {what}"
    yield f"{verb} {count} run{'' if count == 1 else 's'}, {format_bytes(total)}"


def _cache_in(directory: str) -> CacheStore:
    from asyncflow.storage.cache import CacheStore
    from asyncflow.storage.codecs import Codecs

    return CacheStore(directory, Codecs())


@contextmanager
def _stored() -> Iterator[None]:
    """Errors of the directory are the caller's, and told in a sentence."""
    try:
        yield
    except (StorageError, OSError) as error:
        raise CommandError(str(error)) from error


def _entries(count: int) -> str:
    return f"{count} entr{'y' if count == 1 else 'ies'}"


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except (TypeError, ValueError) as error:
        raise CommandError(f"--max-bytes: {error}") from error


def _seconds(text: str) -> float:
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise CommandError(f"--older-than takes an age such as 90m, 12h, 30d or 8w, got {text!r}")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
