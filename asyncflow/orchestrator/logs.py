"""What modules print and log, kept in one file for each module.

A module's output goes where it always went, and to its log as well. Whose output it is is kept in
a context variable, so that modules which run at the same time do not mix; that works the same in
threads, on the event loop and in worker processes.
"""

from __future__ import annotations

import contextvars
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, unquote

import msgspec

__all__ = [
    "LOGS",
    "LogPlan",
    "backups_of",
    "file_name_of",
    "keeping",
    "kept",
    "logs_in",
    "module_of",
]

LOGS = "logs"
_LONGEST_NAME = 200
# A line that does not end is written in pieces of this size, in characters.
_LONGEST_LINE = 65_536
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_SINK: contextvars.ContextVar[_Sink | None] = contextvars.ContextVar("asyncflow_log", default=None)
_LOCK = threading.RLock()
_LOGGER = logging.getLogger("asyncflow")
# Above the loggers of all modules.
_STEPS = "asyncflow.step"
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


def file_name_of(module: str) -> str:
    """The name of a module's log: the module's own, in letters that no file system minds.

    Example:
        >>> file_name_of("train"), file_name_of("a b"), file_name_of("..")
        ('train.log', 'a%20b.log', '%2E..log')
    """
    encoded = quote(module, safe="", errors="surrogatepass")
    if encoded.startswith((".", "-")):
        encoded = f"%{ord(encoded[0]):02X}{encoded[1:]}"
    if len(encoded) <= _LONGEST_NAME:
        return f"{encoded}.log"
    return f"~{blake2b(encoded.encode(), digest_size=8).hexdigest()}.log"


def module_of(log: Path) -> str:
    """The module whose log a file is."""
    return unquote(log.stem)


class LogPlan(msgspec.Struct, frozen=True):
    """Where logs are kept, and what of them.

    Args:
        folder: of all logs of a run; None keeps none.
        level: of log records; below it they are not kept.
        size_bytes: a log of this size is set aside.
        backups: how many that were set aside are kept, as ``name.log.1`` and so on.
    """

    folder: str | None = None
    level: str = "INFO"
    size_bytes: int = 10 * 1024**2
    backups: int = 3

    @property
    def level_number(self) -> int:
        return logging.getLevelNamesMapping()[self.level]


# -- writing -----------------------------------------------------------------------------


@contextmanager
def kept(plan: LogPlan, module: str) -> Iterator[None]:
    """Keep what is printed and logged in a block, by this thread or task and those it begins."""
    if plan.folder is None:
        yield
        return
    sink = _Sink(plan, module)
    _see_to_streams()
    token = _SINK.set(sink)
    try:
        yield
    finally:
        _SINK.reset(token)
        sink.finish()


class _Sink:
    """The log of one module, for one try of it or one of its nested tasks."""

    def __init__(self, plan: LogPlan, module: str) -> None:
        assert plan.folder is not None
        self._plan = plan
        self._folder = plan.folder
        self._path = os.path.join(plan.folder, file_name_of(module))
        self._module = module
        self._begun: dict[str, str] = {}
        self._is_lost = False
        # The warning that a log is lost comes back to it.
        self._lock = threading.RLock()

    def write(self, stream: str, text: str) -> None:
        """Take what was printed; whole lines are written, the rest waits for its end."""
        with self._lock:
            lines = self._begun.pop(stream, "") + text
            whole, newline, rest = lines.rpartition("\n")
            if len(rest) > _LONGEST_LINE:
                whole, newline, rest = lines, "\n", ""
            if rest:
                self._begun[stream] = rest
            if newline:
                self._append(f"{whole}\n")

    def log(self, record: logging.LogRecord) -> None:
        if record.levelno >= self._plan.level_number:
            with self._lock:
                self._append(f"{_FORMATTER.format(record)}\n")

    def finish(self) -> None:
        """Write lines that were begun."""
        with self._lock:
            for rest in self._begun.values():
                self._append(f"{rest}\n")
            self._begun.clear()

    def _append(self, text: str) -> None:
        if self._is_lost:
            return
        try:
            self._append_to_file(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            # A full disk is no reason for print() to raise in somebody's module.
            self._is_lost = True
            _LOGGER.warning("the log of module %r is not written any more: %s", self._module, error)

    def _append_to_file(self, content: bytes) -> None:
        with _locked(self._folder):
            if _length_of(self._path) + len(content) > self._plan.size_bytes:
                _set_aside(self._path, self._plan.backups)
            descriptor = os.open(self._path, _APPENDING, 0o600)
            with open(descriptor, "ab") as file:
                file.write(content)


_FORMATTER = logging.Formatter(_FORMAT)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Nested tasks of one module write its log from several processes."""
    try:
        import fcntl
    except ImportError:  # no such locks here, and no process lane either
        os.makedirs(folder, mode=0o700, exist_ok=True)
        yield
        return
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _length_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _set_aside(path: str, backups: int) -> None:
    """``name.log`` becomes ``name.log.1``, that ``name.log.2``, and the last one goes."""
    names = [path, *(f"{path}.{number}" for number in range(1, backups + 1))]
    if backups == 0:
        _unlink(path)
        return
    for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
        if os.path.exists(newer):
            os.replace(newer, older)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


# -- catching ----------------------------------------------------------------------------


class _Tee(io.TextIOBase):
    """A stream that tells the log of whoever prints."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream = stream
        self._name = name

    def write(self, text: str) -> int:
        sink = _SINK.get()
        if sink is not None:
            sink.write(self._name, text)
        self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        """Nothing: the stream is not ours, and may be closed by the time this is collected."""

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.stream.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Handler(logging.Handler):
    """Gives each log record to the log of the module that logged it."""

    def emit(self, record: logging.LogRecord) -> None:
        sink = _SINK.get()
        if sink is None:
            return
        try:
            sink.log(record)
        except Exception:  # noqa: BLE001 - as every handler does with what it cannot write
            self.handleError(record)


class _Catching:
    """What this process does for the logs while any module of it runs."""

    def __init__(self) -> None:
        self._handler = _Handler()
        self._users = 0
        # Levels as they were, to be put back.
        self._root_level = logging.WARNING
        self._step_level = logging.NOTSET

    def begin(self, level: int, *, in_worker: bool) -> None:
        root, steps = logging.getLogger(), logging.getLogger(_STEPS)
        with _LOCK:
            if not self._users:
                self._root_level, self._step_level = root.level, steps.level
                root.addHandler(self._handler)
            self._users += 1
            if level < (steps.level or logging.CRITICAL):
                steps.setLevel(level)
            if level < root.level and (in_worker or self._nobody_minds(root)):
                root.setLevel(level)

    def _nobody_minds(self, root: logging.Logger) -> bool:
        """Whether records of any level may be made without showing more to anybody."""
        others = (handler for handler in root.handlers if handler is not self._handler)
        return all(handler.level >= self._root_level for handler in others)

    def end(self) -> None:
        root, steps = logging.getLogger(), logging.getLogger(_STEPS)
        with _LOCK:
            self._users -= 1
            if not self._users:
                root.removeHandler(self._handler)
                root.setLevel(self._root_level)
                steps.setLevel(self._step_level)
                _put_streams_back()


_CATCHING = _Catching()


@contextmanager
def keeping(plan: LogPlan, *, in_worker: bool = False) -> Iterator[None]:
    """Catch log records, and put streams back in the end, while modules run in this process.

    Args:
        in_worker: whether the process has no program of its own, whose loggers would mind.
    """
    if plan.folder is None:
        yield
        return
    _CATCHING.begin(plan.level_number, in_worker=in_worker)
    try:
        yield
    finally:
        _CATCHING.end()


def _see_to_streams() -> None:
    """Stand in front of the streams; a display may have put itself there since the last time."""
    with _LOCK:
        # A program without a terminal may have no streams.
        if sys.stdout is not None and not isinstance(sys.stdout, _Tee):
            sys.stdout = _Tee(sys.stdout, "stdout")
        if sys.stderr is not None and not isinstance(sys.stderr, _Tee):
            sys.stderr = _Tee(sys.stderr, "stderr")


def _put_streams_back() -> None:
    if isinstance(sys.stdout, _Tee):
        sys.stdout = sys.stdout.stream
    if isinstance(sys.stderr, _Tee):
        sys.stderr = sys.stderr.stream


# -- reading -----------------------------------------------------------------------------


def logs_in(folder: Path) -> list[Path]:
    """The logs of a run that are being written, one for each module that said something."""
    return sorted(folder.glob("*.log"))


def backups_of(log: Path) -> list[Path]:
    """What of a log was set aside, the oldest first."""
    numbered = [
        (int(path.suffix[1:]), path)
        for path in log.parent.glob(f"{log.name}.*")
        if path.suffix[1:].isdigit()
    ]
    return [path for _, path in sorted(numbered, reverse=True)]
