"""Operations that are shell commands: run in a process group of their own, killed as one."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from asyncflow.context import StepContext
from asyncflow.flow.judging import asking, is_eligible
from asyncflow.flow.working import Errand, Member, Report, hooked, threads_environment
from asyncflow.lanes.process.guardian import Guardian

__all__ = ["CommandTask", "exec_command", "run_command", "run_group_command"]

_TERMINATE_SECONDS = 2.0
_LAST_LINES = 20


def exec_command(
    entrypoint: str, operation: str, aggregate_id: str, executable: str | None, options: str = ""
) -> str:
    """The shell command that executes one operation on one aggregate in a process of its own."""
    return _command(executable, entrypoint, ["exec", operation, aggregate_id], options)


def run_group_command(
    entrypoint: str, group: str, aggregate_id: str, executable: str | None, options: str = ""
) -> str:
    """The shell command that runs what is eligible of a group on one aggregate."""
    return _command(executable, entrypoint, ["run", "-o", group, "-j", aggregate_id], options)


def _command(executable: str | None, entrypoint: str, words: list[str], options: str) -> str:
    # An executable may be several words, such as "mpiexec -n 2 python".
    command = f"{executable or shlex.quote(sys.executable)} {shlex.join([entrypoint, *words])}"
    return f"{command} {options}" if options else command


class CommandTask:
    """Executes an operation by running a shell command; the function of a step on the loop.

    Args:
        member: the operation; or what stands for a group that a process of its own runs.
        command_of: gives the command for the jobs.
        cwd_of: gives the directory to run it in; None for the current one.
        guardian: kills what runs should this program be killed.
    """

    def __init__(
        self,
        member: Member,
        command_of: Callable[..., str],
        cwd_of: Callable[[tuple[Any, ...]], str | None],
        guardian: Guardian,
    ) -> None:
        self._member = member
        self._command_of = command_of
        self._cwd_of = cwd_of
        self._guardian = guardian

    async def __call__(
        self, context: StepContext, errands: tuple[Errand, ...], ignore: int
    ) -> Report:
        began, member = time.perf_counter(), self._member
        (errand,) = errands
        jobs = errand.jobs
        ask = asking(member.name, jobs)
        if not is_eligible(member.pre, member.post, ask, ignore):
            return Report([()], time.perf_counter() - began)
        environment = {**os.environ, **threads_environment(member.omp_num_threads)}
        if context.lease.gpu_ids:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(context.lease.gpu_ids)
        with hooked(member, jobs):
            await run_command(
                self._command_of(*jobs), self._cwd_of(jobs), environment, self._guardian
            )
        return Report([errand.allowed], time.perf_counter() - began)


async def run_command(
    command: str, cwd: str | None, environment: Mapping[str, str], guardian: Guardian
) -> None:
    """Run a shell command, with its output echoed line by line.

    Cancelled, its whole process group is told to end, and killed if it does not.

    Raises:
        subprocess.CalledProcessError: it ended with another code than 0; notes hold the last
            lines of its output.
    """
    if not isinstance(command, str):
        raise TypeError(f"a cmd operation gives the text of a shell command, got {command!r}")
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=dict(environment),
        start_new_session=True,
    )
    guardian.watch(process.pid)
    last: deque[str] = deque(maxlen=_LAST_LINES)
    echoing = asyncio.ensure_future(_echo(process, last))
    try:
        code = await process.wait()
        _kill_group(process.pid, signal.SIGKILL)  # what it left behind would hold the pipe open
        await echoing
    except BaseException:
        await _end_group(process)
        await asyncio.wait([echoing])
        raise
    finally:
        guardian.forget(process.pid)
    if code:
        error = subprocess.CalledProcessError(code, command)
        if last:
            error.add_note("The last of its output:\n" + "\n".join(last))
        raise error


async def _echo(process: asyncio.subprocess.Process, last: deque[str]) -> None:
    assert process.stdout is not None
    decoder = getincrementaldecoder("utf-8")("replace")  # a character may come in two chunks
    rest = ""
    while chunk := await process.stdout.read(65536):
        text = decoder.decode(chunk)
        with suppress(OSError, ValueError):  # nobody reads it any more
            sys.stdout.write(text)
            sys.stdout.flush()
        *lines, rest = (rest + text).split("\n")
        last.extend(lines)
    if rest:
        last.append(rest)


async def _end_group(process: asyncio.subprocess.Process) -> None:
    _kill_group(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _TERMINATE_SECONDS)
    except TimeoutError:
        pass  # it is killed all the same
    finally:
        _kill_group(process.pid, signal.SIGKILL)
    await process.wait()


def _kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
