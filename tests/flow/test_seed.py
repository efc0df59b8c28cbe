"""Both project scripts of the documentation of FlowGroups, unchanged but for their imports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.flow.scripts import Script

FIRST = """\
# project.py
from asyncflow.flow import FlowProject


class Project(FlowProject):
    pass


ex = Project.make_group(name="ex")


@ex
@Project.operation
def op1(job):
    pass


@ex
@Project.operation
def op2(job):
    pass


if __name__ == "__main__":
    Project().main()
"""

SECOND = """\
# project.py
from asyncflow.flow import FlowProject


class Project(FlowProject):
    pass


ex = Project.make_group(name="ex")


@ex(directives={"ngpu": 2})
@Project.operation(directives={"ngpu": 1})
def op1(job):
    pass


if __name__ == "__main__":
    Project().main()
"""


def test_the_first_script(data_space: Callable[..., str]) -> None:
    script = Script(Path(data_space(2)), FIRST)
    for words in (["run"], ["run", "-o", "ex"], ["exec", "op1"], ["exec", "ex"]):
        answer = script.alone(*words) if words == ["run"] else script(*words)
        assert answer.code == 0, answer
        assert answer.out == ""
    status = script("status", "--ignore-errors")
    assert all(name in status.out for name in ("op1", "op2", "ex"))
    submitted = script("submit", "--pretend", "-o", "ex")
    assert submitted.code == 0, submitted
    assert submitted.out.count("run -o ex") == 2


def test_the_second_script_asks_for_one_gpu_alone_and_two_through_the_group(
    data_space: Callable[..., str],
) -> None:
    script = Script(Path(data_space(1)), SECOND)
    assert "#SBATCH --gpus=1" in script("submit", "--pretend", "-o", "op1").out
    assert "#SBATCH --gpus=2" in script("submit", "--pretend", "-o", "ex").out
    # A machine without GPUs says so, before anything starts.
    answer = script.alone("run", CUDA_VISIBLE_DEVICES="")
    assert answer.code != 0
    assert "GPU" in answer.err
