"""Two thousand units, some of which kill their workers, for tests and to be run as a program."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil

from asyncflow import Pipeline, PipelineResult, Retry, Runtime, step

UNITS = 2_000
WORKERS = 3
# How a unit ends: its worker dies each time it is tried, or the first time only.
KILLED, CRASHED, ABORTED = signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT
DEADLY = (KILLED, CRASHED, ABORTED)
ALWAYS_DEADLY, ONCE_DEADLY = 6, 24
# So large that it goes by a memory file.
BALLAST = bytes(300_000)


def fates(seed: int) -> dict[int, tuple[signal.Signals, bool]]:
    """Which units kill their worker: by what, and whether each time they are tried."""
    random = Random(seed)
    numbers = random.sample(range(UNITS), ALWAYS_DEADLY + ONCE_DEADLY)
    return {
        number: (DEADLY[place % len(DEADLY)], place < ALWAYS_DEADLY)
        for place, number in enumerate(numbers)
    }


def die_by(number: signal.Signals) -> None:
    """End this process: killed, crashed in native code, or aborted."""
    if number == CRASHED:
        ctypes.string_at(0)
    elif number == ABORTED:
        os.abort()
    else:
        os.kill(os.getpid(), number)


@step(lane="process", retry=Retry(8, wait_initial=0.0, wait_jitter=0.0))
def unit(
    number: int, fate: tuple[int, bool] | None, ballast: bytes, folder: str
) -> tuple[int, bytes]:
    """Return a number and what it was given, or die."""
    if fate is not None and (fate[1] or is_first_time(Path(folder, str(number)))):
        die_by(signal.Signals(fate[0]))
    return number * number, ballast


def is_first_time(flag: Path) -> bool:
    """Whether nobody has come by here before, in this or in another process."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def pipeline_of(seed: int) -> Pipeline:
    """All units, none of which waits for another; so small ones go to a worker together."""
    chosen = fates(seed)
    pipeline = Pipeline("chaos", failure_policy="collect_all")
    for number in range(UNITS):
        ballast = BALLAST if not number % 20 or number in chosen else b""
        params = {"number": number, "fate": chosen.get(number), "ballast": ballast}
        pipeline.add_step(unit, f"unit{number}", params=params)
    return pipeline


def workers_of(host: int) -> Iterator[psutil.Process]:
    """The worker processes of a host, and what they have started."""
    for child in psutil.Process(host).children(recursive=True):
        try:
            if any("asyncflow-" in word for word in child.cmdline()):
                yield child
        except psutil.Error:
            continue  # it has ended meanwhile


async def run(seed: int, folder: str) -> PipelineResult:
    """Run them all; the folder, which is empty, is where they remember that they died."""
    async with Runtime(max_cpus=WORKERS) as runtime:
        return await pipeline_of(seed).run({"folder": folder}, runtime=runtime)


if __name__ == "__main__":
    import asyncio

    print("ready", flush=True)
    asyncio.run(run(int(sys.argv[1]), sys.argv[2]))
