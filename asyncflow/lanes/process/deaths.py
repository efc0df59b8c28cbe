"""Why a worker died, in words."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from asyncflow.errors import WorkerDied
from asyncflow.resources import format_bytes

__all__ = ["Death", "Reaper", "worker_died"]

_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"})


class Death(NamedTuple):
    """How a process ended; ``signal`` is 0 where it exited, ``exit_code`` None where it did not."""

    signal: int
    exit_code: int | None
    peak_memory_bytes: int


class Reaper:
    """Looks at the end of one child process.

    Args:
        pid: the child.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # Until it runs its own program, a child counts the memory of its parent as its own.
        self._inherited_bytes = _own_peak_bytes()

    def has_ended(self) -> bool:
        """Whether it has; its number stays its own until :meth:`reap`."""
        try:
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True  # somebody else has waited for it

    def reap(self) -> Death:
        """How it ended; waits for that."""
        try:
            _, status, usage = os.wait4(self._pid, 0)
        except ChildProcessError:
            return Death(0, None, 0)
        peak = usage.ru_maxrss * _RUSAGE_UNIT
        known = peak if peak > self._inherited_bytes else 0
        code = os.waitstatus_to_exitcode(status)
        return Death(-code, None, known) if code < 0 else Death(0, code, known)


def _own_peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT


_RUSAGE_UNIT = 1 if os.uname().sysname == "Darwin" else 1024


def worker_died(
    death: Death,
    step: str,
    worker: str,
    attempt: int,
    last_output: tuple[str, ...],
    *,
    was_up: bool = True,
) -> WorkerDied:
    """The error of the call that a worker was making, or was started for, when it died."""
    how = _how(death) if was_up or death.exit_code is None else _how_it_failed_to_load(death)
    held = death.peak_memory_bytes

    peak = f"; it held {format_bytes(held)} at most" if held else ""
    error = WorkerDied(
        f"the worker {worker} that {'ran' if was_up else 'was to run'} step {step!r} {how}{peak}",
        step=step,
        attempt=attempt,
        signal=death.signal,
        exit_code=death.exit_code,
        peak_memory_bytes=held,
        last_output=last_output,
    )
    if last_output:
        error.add_note("its last output:\n" + "\n".join(last_output))
    return error


def _how(death: Death) -> str:
    if death.exit_code is not None:
        return f"exited with code {death.exit_code}: something in the step called os._exit"
    if not death.signal:
        return "is gone; how it ended is not known, as something else in this program waited for it"
    name = _signal_name(death.signal)
    if name == "SIGKILL":
        return (
            "was killed (SIGKILL): most likely there was no memory left for it; declare memory=, "
            "give it less to do at once, or retry="
        )
    if name in _CRASHES:
        return f"crashed ({name}) in native code; the last output has the traceback"
    if name == "SIGABRT":
        return "aborted (SIGABRT): a library gave up; the last output may say why"
    return f"was ended by {name}"


def _how_it_failed_to_load(death: Death) -> str:
    return (
        f"exited with code {death.exit_code} while it loaded, as those before it did; the last "
        "output says why. Does a file beside your program have the name of a module that Python "
        "or a library needs?"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
