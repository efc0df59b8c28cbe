"""A project script that cannot load its project ends like any wrong request: in a line, with 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from asyncflow.flow.errors import DirectivesError, FlowProjectDefinitionError

__all__ = ["told_in_a_line"]

_COMMANDS = {"run", "exec", "next", "status", "submit", "-h", "--help"}


@contextmanager
def told_in_a_line(entrypoint: str) -> Iterator[None]:
    """Let errors that nobody catches end the project's own script without a traceback.

    ``Project().main()`` makes the project before the command line gets to know of anything.
    Whoever imports the class, and whoever catches the error, sees it as it is.
    """
    try:
        yield
    except (LookupError, DirectivesError, FlowProjectDefinitionError) as error:
        if _is_command_of(entrypoint):
            _end_with(error)
        raise


def _is_command_of(entrypoint: str) -> bool:
    script, *words = sys.argv
    is_own = os.path.realpath(script) == entrypoint
    return is_own and not _COMMANDS.isdisjoint(words) and "--debug" not in words


def _end_with(fault: Exception) -> None:
    before = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if error is not fault:
            before(kind, error, traceback)
            return
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2)

    sys.excepthook = hook
