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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from asyncflow.context import StepContext
from asyncflow.flow.aggregates import Aggregate
from asyncflow.flow.working import Errand, Member, Report, hooked, next_of, threads_environment
from asyncflow.lanes.process.guardian import Guardian

__all__ = [
    "Command",
    "CommandTask",
    "exec_command",
    "run_command",
    "run_group_command",
    "show_output",
]

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


class Command(NamedTuple):
    """An operation that is executed by running a shell command.

    Args:
        member: the operation.
        text_of: gives the command for the jobs.
        cwd_of: gives the directory to run it in; None for the current one.
        ranks: how many processes of MPI it is; 0 for a command without MPI.
    """

    member: Member
    text_of: Callable[..., str]
    cwd_of: Callable[[Aggregate], str | None]
    ranks: int = 0

    def text(self, jobs: Aggregate) -> str:
        text = self.text_of(*jobs)
        # What is no text is refused by whoever runs it.
        return f"mpiexec -n {self.ranks} {text}" if self.ranks and isinstance(text, str) else text


class CommandTask:
    """Executes the operations of a group by commands; the function of a step on the loop.

    Args:
        commands: of the group's operations, in order.
        guardian: kills what runs should this program be killed.
    """

    def __init__(self, commands: Sequence[Command], guardian: Guardian) -> None:
        self._commands = {command.member.name: command for command in commands}
        self._guardian = guardian

    async def __call__(
        self, context: StepContext, errands: tuple[Errand, ...], ignore: int
    ) -> Report:
        began, done = time.perf_counter(), list[str]()
        (errand,) = errands
        members = [command.member for command in self._commands.values()]
        while (member := next_of(members, errand, errand.jobs, done, ignore)) is not None:
            with hooked(member, errand.jobs):
                await self._run(self._commands[member.name], errand.jobs, context)
            done.append(member.name)
        return Report([tuple(done)], time.perf_counter() - began)

    async def _run(self, command: Command, jobs: Aggregate, context: StepContext) -> None:
        environment = {**os.environ, **threads_environment(command.member.omp_num_threads)}
        if context.lease.gpu_ids:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(context.lease.gpu_ids)
        await run_command(command.text(jobs), command.cwd_of(jobs), environment, self._guardian)


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
    echoing = asyncio.ensure_future(show_output(process, last))
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


async def show_output(process: asyncio.subprocess.Process, last: deque[str]) -> None:
    """Show what a process writes as it comes, and keep the last lines."""
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
