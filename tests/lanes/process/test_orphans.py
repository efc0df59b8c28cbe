"""Nothing outlives its host: no worker, and no process that a step has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 30.0

HOST = """
import asyncio, contextvars, os, subprocess, sys, time
from asyncflow.lanes.lane import Call
from asyncflow.lanes.process.lane import ProcessLane

def busy():
    child = subprocess.Popen(["sleep", "1000"])
    print("at work", os.getpid(), child.pid, flush=True)
    {how}

async def main():
    loop = asyncio.get_running_loop()
    lane = ProcessLane(loop, loop.time, max_workers=2)
    for _ in range(2):
        lane.start(Call(busy, [], None, contextvars.copy_context(), "busy", print))
    await asyncio.sleep(1000)

asyncio.run(main())
"""
AT_WORK = {
    "sleeping": "time.sleep(1000)",
    "computing": "while True: pass",
    # Native code that never lets another thread of the worker run.
    "holding the interpreter": "sum(range(10 ** 18))",
}


def _pids(host: subprocess.Popen[str]) -> list[int]:
    assert host.stdout is not None
    lines = [host.stdout.readline().split() for _ in range(2)]
    return [int(pid) for line in lines for pid in line[2:]]


@pytest.mark.parametrize("how", AT_WORK.values(), ids=AT_WORK.keys())
def test_a_host_that_is_killed_takes_everything_along(how: str) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST.format(how=how)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with host:
        processes = [psutil.Process(pid) for pid in _pids(host)]
        assert len(processes) == 4
        host.kill()
        host.wait(PATIENCE_SECONDS)
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    # Where nobody reaps orphans, a zombie is what is left of one.
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


FORKING = """
import os
from asyncflow import Pipeline, Runtime, step
import asyncio

@step(lane="process")
def work():
    return 1

async def main():
    async with Runtime(max_cpus=1) as runtime:
        pipeline = Pipeline("p", steps=[work])
        await pipeline.run(runtime=runtime)
        reading, writing = os.pipe()
        child = os.fork()  # it has all that is open here, and lives on
        if not child:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        await pipeline.run(runtime=runtime)
    os.close(writing)
    os.waitpid(child, 0)
    print("closed")

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_program_that_has_forked_can_close_its_runtime() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("closed\n", "")
