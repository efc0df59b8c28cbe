"""Scripts for a scheduler, and what is read back from its queue; against a scripted stand-in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asyncflow.flow import FlowProject, NoSchedulerError, SubmitError, slurm
from asyncflow.flow.status import StatusView
from asyncflow.flow.submission import SubmitOptions, submission_id
from tests.flow.fake_slurm import FakeSlurm

MakeSpace = Callable[..., str]
MakeProject = Callable[..., FlowProject]


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    directory = tmp_path / "slurm"
    directory.mkdir()
    fake = FakeSlurm(directory)
    monkeypatch.setenv("PATH", f"{fake.bin}:{os.environ['PATH']}")
    monkeypatch.setattr("asyncflow.flow.submission.Slurm", slurm.Slurm)
    return fake


@pytest.fixture
def no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))
    monkeypatch.setattr("asyncflow.flow.submission.Slurm", slurm.Slurm)


@pytest.fixture
def two_stages(Project: type[FlowProject], data_space: MakeSpace) -> MakeProject:
    """Makes a project of so many jobs with two operations, each also in the group ``ex``."""
    ex = Project.make_group("ex", submit_options="--progress")

    @ex(directives={"np": 4, "walltime": 1.5, "memory": "2g"})
    @Project.post.true("one")
    @Project.operation(directives={"ngpu": 1, "np": 2})
    def op1(job: Any) -> None: ...

    @ex
    @Project.pre.after(op1)
    @Project.post.true("two")
    @Project.operation(directives={"nranks": 2, "omp_num_threads": 3, "walltime": 0.5})
    def op2(job: Any) -> None: ...

    return lambda jobs, **options: Project(data_space(jobs), **options)


def test_a_script_asks_for_what_the_directives_say(
    two_stages: MakeProject,
    no_scheduler: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = two_stages(1, entrypoint="project.py")
    (job,) = project
    options = SubmitOptions(pretend=True, partition="gpu", job_output="out-%j", hold=True)
    assert project.submit(names=["ex"], options=options) == 1
    script = capsys.readouterr().out
    for line in (
        "#SBATCH --ntasks=2",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --mem=2048M",
        "#SBATCH --time=02:00:00",
        "#SBATCH --partition=gpu",
        "#SBATCH --output=out-%j",
        "#SBATCH --hold",
    ):
        assert line in script.splitlines(), script
    assert "--gpus" not in script
    assert f"project.py run -o ex -j {job.id} --progress" in script


def test_gpus_are_asked_for(
    two_stages: MakeProject,
    no_scheduler: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two_stages(1).submit(names=["op1"], options=SubmitOptions(pretend=True))
    assert "#SBATCH --gpus=1" in capsys.readouterr().out.splitlines()


def test_pretending_leaves_no_trace(two_stages: MakeProject, scheduler: FakeSlurm) -> None:
    project = two_stages(2)
    before = sorted(Path(project.path).rglob("*"))
    project.submit(options=SubmitOptions(pretend=True, bundle_size=0))
    assert sorted(Path(project.path).rglob("*")) == before
    assert scheduler.jobs == []


def test_what_comes_after_is_submitted_with_a_dependency(
    two_stages: MakeProject, scheduler: FakeSlurm
) -> None:
    project = two_stages(2)
    assert project.submit() == 4
    of_group: dict[str, list[Any]] = {job["name"].split("/")[2]: [] for job in scheduler.jobs}
    for number, job in enumerate(scheduler.jobs, 1):
        of_group[job["name"].split("/")[2]].append((number, job))
    for number, job in of_group["op2"]:
        (line,) = [each for each in job["directives"] if "--dependency" in each]
        needed = int(line.split(":")[1])
        before = scheduler.jobs[needed - 1]
        assert before["name"].split("/")[1:3] == [job["name"].split("/")[1], "op1"]
        assert needed < number


def test_what_was_submitted_before_counts_for_what_comes_after(
    two_stages: MakeProject, scheduler: FakeSlurm
) -> None:
    project = two_stages(1)
    assert project.submit(names=["op1"]) == 1
    assert project.submit(names=["op1", "op2"]) == 1
    assert "--dependency=afterok:1" in scheduler.jobs[1]["directives"]


def test_nothing_is_submitted_twice_unless_forced(
    two_stages: MakeProject,
    scheduler: FakeSlurm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = two_stages(2)
    assert project.submit(names=["op1"]) == 2
    assert project.submit(names=["op1"]) == 0
    assert "nothing to submit" in capsys.readouterr().err
    assert project.submit(names=["op1"], options=SubmitOptions(force=True)) == 2


def test_after_flags_and_number_are_passed_on(
    two_stages: MakeProject, scheduler: FakeSlurm
) -> None:
    options = SubmitOptions(after="77", flags=("--qos=high",))
    assert two_stages(3).submit(names=["op1"], num=1, options=options) == 1
    (job,) = scheduler.jobs
    assert "--dependency=afterok:77" in job["directives"]
    assert "--qos=high" in job["flags"]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_bundle_is_one_script(
    parallel: bool, Project: type[FlowProject], data_space: MakeSpace, scheduler: FakeSlurm
) -> None:
    @Project.operation(directives={"np": 2, "walltime": timedelta(hours=1)})
    def op(job: Any) -> None: ...

    project = Project(data_space(5))
    assert project.submit(options=SubmitOptions(bundle_size=3, parallel=parallel)) == 5
    first, second = scheduler.jobs
    assert first["script"].count("run -o op") == 3
    assert second["script"].count("run -o op") == 2
    assert f"--cpus-per-task={6 if parallel else 2}" in first["directives"]
    assert f"--time={'01' if parallel else '03'}:00:00" in first["directives"]


def test_status_is_read_back_from_the_queue(
    two_stages: MakeProject,
    scheduler: FakeSlurm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = two_stages(3)
    project.submit(names=["ex"], options=SubmitOptions(bundle_size=2))
    scheduler.set_state(1, "RUNNING")
    capsys.readouterr()
    project.print_status(view=StatusView(as_json=True))
    rows = json.loads(capsys.readouterr().out)["aggregates"]
    states = [row["groups"]["ex"]["scheduler_status"] for row in rows]
    assert sorted(states) == ["active", "active", "queued"]
    assert {row["groups"]["op1"]["scheduler_status"] for row in rows} == {"unknown"}


def test_ids_of_groups_with_the_same_operations_differ(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    project = Project(data_space(1))
    (job,) = project
    assert submission_id(project, "a", job.id) != submission_id(project, "b", job.id)


def test_a_missing_scheduler_is_told(two_stages: MakeProject, no_scheduler: None) -> None:
    with pytest.raises(NoSchedulerError, match="no squeue on this machine"):
        two_stages(1).submit()


def test_a_scheduler_that_is_down_is_told_with_its_words(
    two_stages: MakeProject, scheduler: FakeSlurm
) -> None:
    scheduler.set_command("squeue", "import sys; sys.exit('Unable to contact slurm controller')")
    with pytest.raises(SubmitError, match=r"squeue ended with code 1.*Unable to contact"):
        two_stages(1).submit()


def test_a_scheduler_that_does_not_answer_is_given_up(
    two_stages: MakeProject,
    scheduler: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scheduler.set_command("squeue", "import signal; signal.pause()")
    monkeypatch.setattr(slurm, "_SECONDS", 0.3)
    project = two_stages(1)
    with pytest.raises(SubmitError, match=r"did not answer within 0\.3 s") as caught:
        project.print_status()
    assert "--ignore-errors" in caught.value.__notes__[0]
    project.print_status(ignore_errors=True)
    assert "did not answer" in capsys.readouterr().err


def test_a_project_may_bring_its_own_template(
    two_stages: MakeProject,
    no_scheduler: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = two_stages(1)
    templates = Path(project.path, "templates")
    templates.mkdir()
    (templates / "script.sh").write_text(
        "{% extends base_script %}\n"
        "{% block header %}{{ super() }}#SBATCH --account=mine\n{% endblock %}\n"
        "{% block body %}module load gpu\n{{ super() }}{% endblock %}\n"
    )
    project.submit(names=["op1"], options=SubmitOptions(pretend=True))
    script = capsys.readouterr().out
    assert "#SBATCH --account=mine" in script
    assert script.index("module load gpu") < script.index("run -o op1")
