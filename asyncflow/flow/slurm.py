"""SLURM: what is in its queue, and how a script gets there; every call has a time limit."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from asyncflow.flow.errors import NoSchedulerError, SubmitError

__all__ = ["JobState", "QueuedJob", "Slurm"]

# Without a controller squeue tries for about 9 seconds before it says so.
_SECONDS = 5.0
# A busy controller may take its time to accept a script.
_SUBMIT_SECONDS = 30.0


class JobState(StrEnum):
    """What a scheduler says of a submission; ``unknown`` where it says nothing."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    HELD = "held"
    ACTIVE = "active"
    ERROR = "error"


_STATES = {
    "PENDING": JobState.QUEUED,
    "CONFIGURING": JobState.QUEUED,
    "REQUEUED": JobState.QUEUED,
    "RUNNING": JobState.ACTIVE,
    "COMPLETING": JobState.ACTIVE,
    "SUSPENDED": JobState.ACTIVE,
    "STOPPED": JobState.ACTIVE,
    "FAILED": JobState.ERROR,
    "NODE_FAIL": JobState.ERROR,
    "TIMEOUT": JobState.ERROR,
    "OUT_OF_MEMORY": JobState.ERROR,
    "BOOT_FAIL": JobState.ERROR,
    "DEADLINE": JobState.ERROR,
}


class QueuedJob(msgspec.Struct, frozen=True):
    """One job of the queue: the scheduler's number for it, and the name it was given."""

    number: str
    name: str
    state: JobState


class Slurm:
    """The SLURM commands of this machine."""

    @staticmethod
    def is_there() -> bool:
        """Whether scripts could be submitted from here."""
        return shutil.which("sbatch") is not None

    def queue(self) -> list[QueuedJob]:
        """The jobs of this user that have not ended.

        Raises:
            NoSchedulerError: there is no SLURM on this machine.
            SubmitError: it did not answer in time, or with an error.
        """
        user = getpass.getuser()
        text = _call(["squeue", "--noheader", f"--user={user}", "--format=%A|%T|%r|%j"], _SECONDS)
        return [_queued(line) for line in text.splitlines() if line.count("|") >= 3]

    def submit(self, script: str, flags: Sequence[str] = (), *, directory: str) -> str:
        """Submit a script from a directory; returns the scheduler's number for it.

        Raises:
            NoSchedulerError, SubmitError: as :meth:`queue`.
        """
        command = ["sbatch", "--parsable", f"--chdir={directory}", *flags]
        answer = _call(command, _SUBMIT_SECONDS, script)
        return answer.strip().split(";")[0]


def _queued(line: str) -> QueuedJob:
    number, state, reason, name = line.split("|", 3)
    known = _STATES.get(state, JobState.UNKNOWN)
    if known is JobState.QUEUED and reason.startswith("JobHeld"):
        known = JobState.HELD
    return QueuedJob(number, name, known)


def _call(command: list[str], seconds: float, script: str | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            input=script,
            stdin=subprocess.DEVNULL if script is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise NoSchedulerError(
            f"there is no {command[0]} on this machine; submit from a login node of a cluster "
            "with SLURM, or look at the scripts with --pretend"
        ) from None
    except subprocess.TimeoutExpired:
        raise SubmitError(
            f"{command[0]} did not answer within {seconds:g} s; is the controller up? "
            "(scontrol ping)"
        ) from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or "nothing"
        raise SubmitError(f"{command[0]} ended with code {done.returncode} and said: {said}")
    return done.stdout
