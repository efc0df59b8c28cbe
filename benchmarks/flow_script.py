"""One run of a project of trivial operations, in a process of its own: prints seconds as JSON.

``python -m benchmarks.flow_script ours plain 1000 1``: which library, which kind of operations,
how many jobs, how many at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from typing import Any

import signac

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


def project_class(library: str, kind: str) -> Any:
    """A project with two operations."""
    if library == "ours":
        from asyncflow.flow import FlowProject
    else:
        from flow import FlowProject

    class Project(FlowProject):
        pass

    {
        "plain": _plain,
        "conditions": _conditions,
        "coroutines": _coroutines,
        "stragglers": _stragglers,
    }[kind](Project)
    return Project


def _plain(project: Any) -> None:
    @project.operation
    def op1(job: Any) -> None: ...

    @project.operation
    def op2(job: Any) -> None: ...


def _conditions(project: Any) -> None:
    @project.post.isfile("one")
    @project.operation
    def op1(job: Any) -> None:
        open(job.fn("one"), "w").close()

    @project.pre.after(op1)
    @project.post.isfile("two")
    @project.operation
    def op2(job: Any) -> None:
        open(job.fn("two"), "w").close()


def _coroutines(project: Any) -> None:
    @project.operation
    async def op1(job: Any) -> None: ...

    @project.operation
    async def op2(job: Any) -> None: ...


def _stragglers(project: Any) -> None:
    """Job 0 is slow in the first stage, job 1 in the second."""

    @project.post.isfile("one")
    @project.operation
    def op1(job: Any) -> None:
        time.sleep(2.0 if job.sp.i == 0 else 0.1)
        open(job.fn("one"), "w").close()

    @project.pre.after(op1)
    @project.post.isfile("two")
    @project.operation
    def op2(job: Any) -> None:
        time.sleep(2.0 if job.sp.i == 1 else 0.1)
        open(job.fn("two"), "w").close()


def _memory() -> str | None:
    """Where files are made at once; how long a disk takes says nothing of either library."""
    return next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)


def main(library: str, kind: str, jobs: int, np: int) -> dict[str, float]:
    """Seconds of a run and of a status before it."""
    cls = project_class(library, kind)
    with tempfile.TemporaryDirectory(dir=_memory()) as directory, contextlib.chdir(directory):
        project = signac.init_project()
        for index in range(jobs):
            project.open_job({"i": index}).init()
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cls().print_status(ignore_errors=True)
        status = time.perf_counter() - began
        run = getattr(cls(), "run_sync" if library == "ours" else "run")
        began = time.perf_counter()
        run(np=None if np == 1 else np)
        return {"run": time.perf_counter() - began, "status": status}


if __name__ == "__main__":
    os.environ["PATH"] = "/nonexistent"  # no scheduler is asked, by either library
    _, library, kind, jobs, np = sys.argv
    print(json.dumps(main(library, kind, int(jobs), int(np))))
