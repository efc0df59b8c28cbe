"""Kill a host at any moment, resume the run, and look whether all is as it should be.

    python -m tests.killing --kills 200              # over five graphs and all lanes

A child process runs a recorded workflow. Each step notes in a file that it ran, and a subscriber
notes which steps were acknowledged; both files survive any death. The child is killed after a
seeded delay, or at a fault point, and started again until the run is over. Then

- the digest over all values is the expected one,
- no step ran in a life that began after it was acknowledged,
- no step ran more often than once for each life, and each time as a higher attempt.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from asyncflow import NodeState, Pipeline, Runtime, StepContext, step
from asyncflow.events import NodeFinished
from asyncflow.storage.faultpoints import VARIABLE
from examples.replay import digest, expected_digest, load_graph, value_of

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT.parent / "shared" / "workflows"
GRAPHS = (
    "montage-2mass-005d.json",
    "rnaseq-nextflow.json",
    "airrflow-nextflow.json",
    "soykb-50fastq-20ch.json",
    "seismology-1100p.json",
)
LANES = ("inline", "thread", "process")
RUN_ID = "killed"


class Story(msgspec.Struct):
    """What came of one run and its deaths.

    ``ran`` has for each life the steps that ran in it, ``acknowledged`` those whose end was told
    before it was over; ``faults`` are sentences about what should not be.
    """

    kills: int
    ran: list[list[str]]
    acknowledged: list[list[str]]
    faults: list[str]


# -- the child -----------------------------------------------------------------------------------


def _note(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@step(lane="inline")
async def run_plainly(*parents: bytes, task_id: str, log: str, seconds: float) -> bytes:
    """Takes the shortest way through the engine, and does not know which attempt it is."""
    _note(log, f"{task_id} 0")
    await asyncio.sleep(seconds)
    return value_of(task_id, parents)


@step(lane="inline")
async def run_inline(
    *parents: bytes, task_id: str, log: str, seconds: float, context: StepContext
) -> bytes:
    _note(log, f"{task_id} {context.attempt}")
    await asyncio.sleep(seconds)
    return value_of(task_id, parents)


@step(lane="thread")
def run_in_thread(
    *parents: bytes, task_id: str, log: str, seconds: float, context: StepContext
) -> bytes:
    _note(log, f"{task_id} {context.attempt}")
    time.sleep(seconds)
    return value_of(task_id, parents)


@step(lane="process")
def run_in_process(
    *parents: bytes, task_id: str, log: str, seconds: float, context: StepContext
) -> bytes:
    _note(log, f"{task_id} {context.attempt}")
    time.sleep(seconds)
    return value_of(task_id, parents)


STEPS: dict[str, Any] = {
    "inline": run_inline,
    "thread": run_in_thread,
    "process": run_in_process,
}


def pipeline_of(graph: Path, lane: str, directory: Path, seconds: float, grouped: bool) -> Pipeline:
    """The workflow; its steps note in the directory that they ran.

    Args:
        grouped: whether four tasks each, in the order of the file, make a group.
    """
    pipeline = Pipeline("killed")
    for number, task in enumerate(load_graph(graph).tasks):
        label = f"g{number // 4}" if grouped else None
        plain = lane == "inline" and number % 2 == 0
        pipeline.add_step(
            (run_plainly if plain else STEPS[lane]).with_options(execution_group=label),
            name=task.id,
            params={"task_id": task.id, "log": str(directory / "ran"), "seconds": seconds},
            inputs=task.parents,
        )
    return pipeline


async def _live(
    graph: Path, lane: str, directory: Path, durability: Any, seconds: float, grouped: bool
) -> None:
    _note(str(directory / "ran"), "life")
    _note(str(directory / "acknowledged"), "life")
    pipeline = pipeline_of(graph, lane, directory, seconds, grouped)
    async with Runtime(directory=directory / "kept", durability=durability, max_cpus=2) as runtime:
        print("began", flush=True)
        run = await runtime.start(pipeline, run_id=RUN_ID)
        async for event in run.events(since=run._record.bus.sequence):
            if isinstance(event, NodeFinished) and event.state is NodeState.SUCCEEDED:
                _note(str(directory / "acknowledged"), event.node)
        result = await run.result()
    assert result.success, result.summary()
    values = {task.id: result[task.id] for task in load_graph(graph).tasks}
    (directory / "digest").write_text(digest(values))


# -- the parent ----------------------------------------------------------------------------------


def kill_and_resume(
    graph: Path,
    lane: str,
    directory: Path,
    *,
    delays: Sequence[float] = (),
    faults: Sequence[str] = (),
    durability: str = "process",
    seconds: float = 0.0,
    grouped: bool = False,
    under: Sequence[str] = (),
) -> Story:
    """Run a workflow to its end, over the deaths of its hosts.

    Args:
        delays: after so many seconds of its work each host is killed, as long as there are any.
        faults: or at this fault point.
        grouped: whether tasks make groups.
        under: the command that runs the first host, such as strace with what it injects.
    """
    kills = 0
    child = [str(graph), lane, str(directory), durability, str(seconds), "grouped"]
    if not grouped:
        child[-1] = "alone"
    for number in range(max(len(delays), len(faults), bool(under)) + 1):
        fault = faults[number] if number < len(faults) else ""
        delay = delays[number] if number < len(delays) else None
        first = under if number == 0 else ()
        code = _one_life(child, fault, delay, first)
        if code == 0:
            break
        assert code in (-signal.SIGKILL, 128 + signal.SIGKILL), f"the child ended with {code}"
        kills += 1
    return _judge(graph, directory, kills)


def _one_life(
    child: Sequence[str], fault: str = "", delay: float | None = None, under: Sequence[str] = ()
) -> int:
    command = [*under, sys.executable, "-m", "tests.killing", "--child", *child]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, VARIABLE: fault}
    ) as host:
        assert host.stdout is not None
        host.stdout.readline()
        try:
            return host.wait(delay if delay is not None else 120)
        except subprocess.TimeoutExpired:
            host.kill()
            return host.wait()


def _lives(path: Path) -> list[list[str]]:
    lives: list[list[str]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        if line == "life":
            lives.append([])
        else:
            lives[-1].append(line)
    return lives


def _judge(graph: Path, directory: Path, kills: int) -> Story:
    begun, acknowledged = _lives(directory / "ran"), _lives(directory / "acknowledged")
    ran = [[line.split()[0] for line in life] for life in begun]
    faults: list[str] = []
    highest: dict[str, int] = {}
    for line in (line for life in begun for line in life):
        name, attempt = line.split()
        if attempt != "0" and int(attempt) <= highest.get(name, 0):
            faults.append(f"{name} ran as attempt {attempt} after attempt {highest[name]}")
        highest[name] = int(attempt)
    known: set[str] = set()
    for number, (steps, told) in enumerate(zip(ran, acknowledged, strict=True), 1):
        faults += [
            f"{name} ran in life {number}, though it was acknowledged before"
            for name in sorted(known.intersection(steps))
        ]
        faults += [
            f"{name} ran {count} times in life {number}"
            for name, count in Counter(steps).items()
            if count > 1
        ]
        known.update(told)
    found = (directory / "digest").read_text() if (directory / "digest").exists() else "none"
    if found != expected_digest(graph):
        faults.append(f"the digest is {found}, not {expected_digest(graph)}")
    return Story(kills, ran, acknowledged, faults)


def _duration(graph: Path, lane: str) -> float:
    """How long a run that nobody kills takes after it has begun, in seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        _one_life([str(graph), lane, scratch, "process", "0.0", "alone"])
        return time.monotonic() - began


def _many(kills: int, seed: int) -> int:
    random = Random(seed)
    done, failed = 0, 0
    durations: dict[tuple[str, str], float] = {}
    counts: defaultdict[str, int] = defaultdict(int)
    while done < kills:
        name, lane = random.choice(GRAPHS), random.choice(LANES)
        durability = random.choice(["process", "power"])
        grouped = random.random() < 0.3
        graph = WORKFLOWS / name
        if (name, lane) not in durations:
            durations[name, lane] = _duration(graph, lane)
        delays = [random.uniform(0, durations[name, lane]) for _ in range(random.randint(1, 2))]
        with tempfile.TemporaryDirectory() as scratch:
            story = kill_and_resume(
                graph,
                lane,
                Path(scratch),
                delays=delays,
                durability=durability,
                grouped=grouped,
            )
        done += story.kills
        counts[lane] += story.kills
        if story.faults:
            failed += 1
            print(f"{name} {lane} {durability} {grouped=} {delays}:", *story.faults[:5], sep="\n  ")
    print(f"{done} kills ({dict(counts)}), {failed} runs with faults")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill hosts and look what becomes of their runs.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        graph, lane, directory, durability, seconds, kind = options.child
        asyncio.run(
            _live(Path(graph), lane, Path(directory), durability, float(seconds), kind == "grouped")
        )
        return 0
    return _many(options.kills, options.seed)


if __name__ == "__main__":
    sys.exit(main())
