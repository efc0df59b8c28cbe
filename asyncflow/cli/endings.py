"""How a command ends: its exit code, and sentences instead of tracebacks."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import typer

from asyncflow.errors import (
    AsyncflowError,
    CapacityError,
    GraphError,
    RunConflict,
    StorageError,
)
from asyncflow.progress import shown

__all__ = ["CommandError", "ExitCode", "end", "log_to_stderr", "say", "sentences"]


class ExitCode(IntEnum):
    """What the shell is told."""

    SUCCESS = 0
    FAILED = 1
    WRONG = 2
    UNRECORDED = 3
    INTERRUPTED = 130


class CommandError(AsyncflowError):
    """The command line asks for what is not there, or cannot be read."""


# What is the caller's to mend.
_ITS_OWN = (CommandError, GraphError, CapacityError, RunConflict, StorageError)


# What messages of the library call by its name in Python, and how a command is told it.
_OPTIONS = (
    (re.compile(r"""on_existing=(['"])restart\1"""), "--restart"),
    (re.compile(r"run\(timeout=…\)"), "--timeout"),
    (
        re.compile(r"pass inputs=\{'(\w+)': …\}(?: or services=\{'\w+': …\})?"),
        r"give it with --input \1=…",
    ),
    (re.compile(r"pass it again in inputs="), "give it again with --input"),
)


def _in_options(sentence: str) -> str:
    for pattern, option in _OPTIONS:
        sentence = pattern.sub(option, sentence)
    return sentence


def say(sentence: str) -> None:
    """One remark on the error stream, safe for a terminal."""
    print(shown(sentence, lines=True), file=sys.stderr, flush=True)


@contextmanager
def sentences(with_traceback: bool) -> Iterator[None]:
    """Turn errors that are the caller's into sentences and an exit code.

    Anything else is a fault of asyncflow, and deserves its traceback.
    """
    try:
        yield
    except _ITS_OWN as error:
        if with_traceback:
            say("".join(traceback.format_exception(error)))
        problems = error.problems if isinstance(error, GraphError) else (str(error),)
        for problem in problems:
            say(f"error: {_in_options(problem)}")
        raise typer.Exit(ExitCode.WRONG) from error
    except KeyboardInterrupt as error:
        say("interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from error


def end(code: ExitCode, abandoned: tuple[str, ...] = ()) -> NoReturn:
    """Leave the program, also when an abandoned step would not let it."""
    if abandoned:
        names = ", ".join(map(repr, abandoned[:5]))
        more = f" and {len(abandoned) - 5} more" if len(abandoned) > 5 else ""
        say(f"warning: left behind, still running: {names}{more}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


# -- log records -------------------------------------------------------------------------


def log_to_stderr(*left_out: str) -> None:
    """Show warnings and errors that are logged, unless the program set up logging itself.

    Args:
        left_out: functions of asyncflow whose records the command shows in another way.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = _StderrHandler(logging.WARNING)
    handler.addFilter(lambda record: record.name != "asyncflow" or record.funcName not in left_out)
    root.addHandler(handler)


class _StderrHandler(logging.Handler):
    """Writes to what ``sys.stderr`` is at that moment: a live display takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(f"{record.levelname.lower()}: {_in_options(self.format(record))}")
        except OSError:
            self.handleError(record)
