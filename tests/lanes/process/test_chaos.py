"""Workers are killed, crash and abort at random: every unit ends, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pytest

from asyncflow import NodeState, WorkerDied
from tests.lanes.process import chaos

ROOT = Path(__file__).resolve().parents[3]
SHARED_MEMORY = Path("/dev/shm")
KILLS_FROM_OUTSIDE = 20
PATIENCE_SECONDS = 30.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc and /dev/shm"),
]


def shared_memory() -> list[str]:
    """What of our shared memory this process maps, and what of it has a name in the system."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    named = [str(path) for path in SHARED_MEMORY.iterdir() if "asyncflow" in path.name]
    return [line for line in maps if "memfd:asyncflow" in line] + named


@pytest.fixture
def leaves_no_shared_memory() -> Iterator[None]:
    yield
    gc.collect()
    assert shared_memory() == []


async def kill_at_random(random: Random) -> list[int]:
    """Kill workers from outside, whatever they are doing, idle and starting ones too."""
    killed: list[int] = []
    while len(killed) < KILLS_FROM_OUTSIDE:
        await asyncio.sleep(random.uniform(0.02, 0.25))
        workers = await asyncio.to_thread(lambda: list(chaos.workers_of(os.getpid())))
        if workers:
            victim = random.choice(workers)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                killed.append(victim.pid)
    return killed


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1])
async def test_every_unit_ends_and_the_innocent_never_fail(
    seed: int, tmp_path: Path, leaves_no_shared_memory: None
) -> None:
    killer = asyncio.create_task(kill_at_random(Random(seed)))
    result = await chaos.run(seed, str(tmp_path))
    killer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await killer
    culprits = {f"unit{number}": fate for number, fate in chaos.fates(seed).items()}
    for number in range(chaos.UNITS):
        name = f"unit{number}"
        fate = culprits.get(name)
        if fate is None or not fate[1]:
            assert result[name][0] == number * number, name
            continue
        failed = result.step_results[name]
        assert failed.status is NodeState.FAILED
        assert isinstance(failed.error, WorkerDied), failed.error
        assert failed.error.signal in (fate[0], signal.SIGKILL)  # or the killer was faster
        assert failed.attempts == 3  # a unit that has killed three workers is not tried again


def processes_with(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("ASYNCFLOW_CHAOS") == marker:
                found.append(process)
    return found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("after_seconds", [0.0, 0.4, 1.5])
def test_nothing_outlives_a_host_that_is_killed(
    after_seconds: float, tmp_path: Path, leaves_no_shared_memory: None
) -> None:
    marker = f"{os.getpid()}-{after_seconds}"
    host = subprocess.Popen(
        [sys.executable, "-m", "tests.lanes.process.chaos", "1", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "ASYNCFLOW_CHAOS": marker},
    )
    assert host.stdout is not None
    assert host.stdout.readline() == b"ready\n"
    while not list(chaos.workers_of(host.pid)):
        time.sleep(0.01)
    time.sleep(after_seconds)
    host.kill()
    host.wait()
    host.stdout.close()
    until = time.monotonic() + PATIENCE_SECONDS
    while (left := processes_with(marker)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
