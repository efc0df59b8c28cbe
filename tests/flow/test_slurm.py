"""A real SLURM: submitted, queued, run in order, done."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.flow import slurm_node
from tests.flow.scripts import Script
from tests.flow.slurm_node import SlurmNode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(slurm_node.missing()), reason=slurm_node.missing() or "it is there"),
]

PROJECT = """
    import os
    from asyncflow.flow import FlowProject

    class Project(FlowProject):
        pass

    first = Project.make_group("first")
    second = Project.make_group("second")

    @first(directives={"walltime": 0.1})
    @Project.post.isfile("one")
    @Project.operation
    def op1(job):
        with open(job.fn("one"), "w") as file:
            file.write(os.environ["SLURM_JOB_ID"])

    @second(directives={"walltime": 0.1})
    @Project.pre.after(op1)
    @Project.post.isfile("two")
    @Project.operation(cmd=True, with_job=True)
    def op2(job):
        return "cat one > two; echo \\" $SLURM_JOB_ID $SLURM_JOB_GPUS\\" >> two"

    if __name__ == "__main__":
        Project().main()
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmNode]:
    made = SlurmNode(tmp_path_factory.mktemp("slurm"))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def states(script: Script, variables: dict[str, Any]) -> dict[str, list[str]]:
    """By group, what the scheduler says of each job."""
    rows = json.loads(script.alone("status", "--json", **variables).out)["aggregates"]
    return {
        name: [row["groups"][name]["scheduler_status"] for row in rows]
        for name in ("first", "second")
        if all(name in row["groups"] for row in rows)
    }


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "SLURM took too long"
        time.sleep(0.5)  # another program's queue


def test_groups_run_in_order_on_a_real_slurm(
    node: SlurmNode, data_space: Callable[..., str]
) -> None:
    script = Script(Path(data_space(2)), PROJECT)
    slurm: dict[str, Any] = {"SLURM_CONF": str(node.configuration)}
    # Submitted held, so that what is queued can be looked at.
    answer = script.alone("submit", "-o", "first", "second", "--hold", "--", "--gpus=1", **slurm)
    assert answer.code == 0, answer
    assert len(answer.lines) == 4
    assert states(script, slurm) == {"first": ["held"] * 2, "second": ["held"] * 2}
    numbers = [line.rsplit(" ", 1)[1] for line in answer.lines]
    subprocess.run(["scontrol", "release", ",".join(numbers)], env=node.environment, check=True)

    files = [path / "two" for path in (script.directory / "workspace").iterdir()]
    wait_until(lambda: all(file.exists() and file.read_text().count("\n") for file in files))
    for file in files:
        first, second, device = file.read_text().split()
        assert int(first) < int(second)
        assert device in ("0", "1")
    wait_until(lambda: {"active"}.isdisjoint(chain(*states(script, slurm).values())))
    status = json.loads(script.alone("status", "--json", **slurm).out)
    assert all(row["groups"]["op2"]["completed"] for row in status["aggregates"])
    assert script.alone("submit", "-o", "first", "second", **slurm).lines == []


def test_a_controller_that_is_down_is_told_within_seconds(
    node: SlurmNode, data_space: Callable[..., str], tmp_path: Path
) -> None:
    script = Script(Path(data_space(1)), PROJECT)
    text = node.configuration.read_text()
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort="))
    down = tmp_path / "slurm.conf"
    down.write_text(text.replace(port, "SlurmctldPort=1"))
    answer = script.alone("submit", seconds=20, SLURM_CONF=str(down))
    assert answer.code == 1
    assert "squeue" in answer.err
    assert "Traceback" not in answer.err
