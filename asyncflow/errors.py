"""The exceptions asyncflow raises, and when.

::

    AsyncflowError
    ├── GraphError          a pipeline, its inputs or its wiring is wrong (also a ValueError)
    │   └── ConfigError     the file of a pipeline is wrong
    ├── CapacityError       the machine or runtime cannot give what a step asks for
    ├── NestedDepthError    a nest is deeper than ``max_nested_depth``
    ├── NotRecordable       a value would not come back as it is (also a TypeError)
    ├── RunTimeout          a run took longer than ``run(timeout=…)``
    ├── RunConflict         a run id stands for something else than what was asked for
    ├── StorageError        what is kept on disk cannot be read, written or trusted
    │   ├── NotReadable     a recorded value is damaged, or what reads it is not there
    │   ├── RunLocked       another process or runtime holds the run
    │   └── JournalDamaged  the record of a run is damaged
    ├── RemoteError         stands for an exception that could not leave its worker
    └── StepFailed          a step raised
        ├── StepTimeout     an attempt ran longer than the step's timeout (also a TimeoutError)
        ├── StepSkipped     a value was asked of a step that was skipped
        ├── StepCancelled   a value was asked of a step that was cancelled
        ├── ResourceLost    a device that a step held was lost while it ran
        ├── WorkerDied      the process that ran a step died
        └── DependencyError a step could not run because one above it failed

Every error pickles and keeps its fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = [
    "AsyncflowError",
    "CapacityError",
    "ConfigError",
    "DependencyError",
    "GraphError",
    "JournalDamaged",
    "NestedDepthError",
    "NotReadable",
    "NotRecordable",
    "RemoteError",
    "ResourceLost",
    "RunConflict",
    "RunLocked",
    "RunTimeout",
    "StepCancelled",
    "StepFailed",
    "StepSkipped",
    "StepTimeout",
    "StorageError",
    "WorkerDied",
]


def _rebuild(cls: type[AsyncflowError], args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class AsyncflowError(Exception):
    """The root of every error that asyncflow itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class GraphError(AsyncflowError, ValueError):
    """A pipeline is wrong: wiring, names, parameters or inputs (also a ValueError).

    ``problems`` lists every fault that was found, one sentence each, so that all of
    them can be mended at once.
    """

    problems: tuple[str, ...]

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(GraphError):
    """The file (or mapping) that describes a pipeline is wrong.

    Each of ``problems`` begins with file, line and column, and names the path of what is wrong.
    """


class CapacityError(AsyncflowError):
    """What a step asks for can never be granted here; the message names both sides."""


class RunTimeout(AsyncflowError, TimeoutError):
    """A run was cancelled because it took longer than ``timeout`` seconds.

    ``result`` is the :class:`PipelineResult` of what was done until then.
    """

    result: Any = None

    def __init__(self, message: str, *, run_id: str = "", timeout_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.timeout_seconds = timeout_seconds


class RunConflict(AsyncflowError):
    """A recorded run of that id is there, and it is not what was asked for.

    ``run_id`` names it; ``steps`` are those that changed, where that is what stands in the way.
    """

    def __init__(self, message: str, *, run_id: str = "", steps: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.steps = tuple(steps)


class StorageError(AsyncflowError):
    """What is kept on disk cannot be read, written or trusted; ``path`` is where."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class NotReadable(StorageError, ValueError):
    """A recorded value cannot be read: it is damaged, or its codec or class is not there."""


class RunLocked(StorageError):
    """A run is in progress elsewhere: ``pid`` on ``host`` holds it since ``since`` (UTC text)."""

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        run_id: str = "",
        pid: int = 0,
        host: str = "",
        since: str = "",
    ) -> None:
        super().__init__(message, path=path)
        self.run_id = run_id
        self.pid = pid
        self.host = host
        self.since = since


class JournalDamaged(StorageError):
    """A journal is damaged where it was known to be on the disk.

    ``offset`` (in bytes) and ``record`` (from 1) say where; ``step`` names the step whose
    record it is, or the last one before it.
    """

    def __init__(
        self, message: str, *, path: str = "", offset: int = 0, record: int = 0, step: str = ""
    ) -> None:
        super().__init__(message, path=path)
        self.offset = offset
        self.record = record
        self.step = step


class NestedDepthError(AsyncflowError):
    """A step nested deeper than the runtime's ``max_nested_depth``."""


class NotRecordable(AsyncflowError, TypeError):
    """A value that no codec takes without loss, so it is not written down (also a TypeError).

    ``path`` leads to the part that is to blame, such as ``result["x"][3]``; ``type_name`` is
    that part's type and ``hint`` the way out.
    """

    def __init__(self, kind: type | str, hint: str, path: str = "result") -> None:
        self.type_name = kind if isinstance(kind, str) else _full_name(kind)
        self.hint = hint
        self.path = path
        super().__init__()

    def within(self, part: str, name: str = "result") -> None:
        """Say that the fault lies one part deeper than the caller's own value."""
        self.path = f"{name}{part}{self.path.removeprefix(name)}"

    def __str__(self) -> str:
        return f"{self.path} is of type {self.type_name}, which cannot be recorded: {self.hint}"


class RemoteError(AsyncflowError):
    """Stands for an exception that a step raised in a worker and that could not be pickled.

    ``type_name`` is the full name of its class, ``text`` its type and message. Its causes, its
    notes and the worker's traceback are there as of any other.
    """

    def __init__(self, message: str, *, type_name: str = "", text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.text = text


class StepFailed(AsyncflowError):
    """A step failed; ``__cause__`` is what it raised, ``step`` its name in the pipeline."""

    def __init__(self, message: str, *, step: str = "", attempt: int = 0) -> None:
        super().__init__(message)
        self.step = step
        self.attempt = attempt


class StepTimeout(StepFailed, TimeoutError):
    """An attempt ran longer than its step's ``timeout``."""

    def __init__(
        self, message: str, *, step: str = "", attempt: int = 0, timeout_seconds: float = 0.0
    ) -> None:
        super().__init__(message, step=step, attempt=attempt)
        self.timeout_seconds = timeout_seconds


class StepSkipped(StepFailed):
    """The value of a skipped step was asked for."""


class StepCancelled(StepFailed):
    """The value of a cancelled or abandoned step was asked for, or it was told to stop."""


class ResourceLost(StepFailed):
    """A device that a step held was lost while it ran; ``devices`` are the ids of those.

    The step is tried again elsewhere, whatever its ``retry``, as long as another device will do.
    """

    def __init__(
        self, message: str, *, step: str = "", attempt: int = 0, devices: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, step=step, attempt=attempt)
        self.devices = devices


class WorkerDied(StepFailed):
    """The worker process that ran a step died, and the step with it; others are not affected.

    ``signal`` is the number of the signal that killed it (0 for none) and ``exit_code`` what it
    exited with (None where a signal killed it). ``peak_memory_bytes`` is the most it held, 0
    where that is not known; ``last_output`` is what it wrote last, faulthandler's traceback of
    a crash included.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str = "",
        attempt: int = 0,
        signal: int = 0,
        exit_code: int | None = None,
        peak_memory_bytes: int = 0,
        last_output: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, step=step, attempt=attempt)
        self.signal = signal
        self.exit_code = exit_code
        self.peak_memory_bytes = peak_memory_bytes
        self.last_output = last_output


class DependencyError(StepFailed):
    """A step did not run because ``ancestor`` above it failed."""

    def __init__(
        self, message: str, *, step: str = "", attempt: int = 0, ancestor: str = ""
    ) -> None:
        super().__init__(message, step=step, attempt=attempt)
        self.ancestor = ancestor


def _full_name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


# A step may raise an exception that carries megabytes of text.
_LONGEST_TEXT = 2000


def text_of(error: BaseException | None) -> str:
    """Type and message of an exception, also of one that cannot be printed."""
    if error is None:
        return ""
    try:
        message = str(error)
    except Exception as unprintable:  # noqa: BLE001 - str() is the user's
        message = f"(its text cannot be shown: str() raised {type(unprintable).__name__})"
    if len(message) > _LONGEST_TEXT:
        message = f"{message[:_LONGEST_TEXT]}… ({len(message) - _LONGEST_TEXT} more characters)"
    name = type(error).__name__
    return f"{name}: {message}" if message else name
