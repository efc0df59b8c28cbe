"""What the program that this dialect takes after got wrong, and what happens here instead."""

from __future__ import annotations

import time
from typing import Any

import pytest

from asyncflow import CapacityError, DependencyError
from tests.orchestrator.projects import Project


def pipeline(worker_type: str, modules: str, execution: str = "", resources: str = "") -> str:
    return (
        "pipeline:\n"
        "  name: faults\n"
        f"  execution: {{worker_type: {worker_type}{execution}}}\n"
        f"  resources: {{{resources}}}\n"
        "  checkpoint: {enabled: false}\n"
        f"  modules: [{modules}]\n"
    )


@pytest.mark.parametrize("policy", ["fail_fast", "collect_all"])
def test_a_failed_module_with_dependents_does_not_hang_the_run(
    project: Project, worker_type: str, policy: str
) -> None:
    project.write("m.py", "def bad(context): raise OSError('disk')\ndef good(context): return 1\n")
    results = project.execute(
        pipeline(
            worker_type,
            '{name: bad, script: "m.py:bad"},'
            '{name: below, script: "m.py:good", depends_on: [bad]},'
            '{name: last, script: "m.py:good", depends_on: [below, bad]}',
            f", failure_policy: {policy}",
        )
    )
    assert isinstance(results["bad"], OSError)
    assert isinstance(results["below"], DependencyError)
    assert isinstance(results["last"], DependencyError)


def test_a_request_above_max_cpus_gets_what_there_is(project: Project, worker_type: str) -> None:
    project.write("m.py", "def run(context): return context.resources.cpus\n")
    results = project.execute(
        pipeline(
            worker_type,
            '{name: big, script: "m.py:run", resources: {cpus: 64}}',
            resources="max_cpus: 2",
        )
    )
    assert results == {"big": 2}


def test_a_module_in_process_mode_is_in_another_process_with_its_device(project: Project) -> None:
    project.write(
        "m.py",
        """
        import os

        def run(context):
            return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], context.resources.gpu_ids
        """,
    )
    results = project.execute(
        pipeline(
            "process",
            '{name: a, script: "m.py:run", resources: {gpus: 1}},'
            '{name: b, script: "m.py:run", resources: {gpus: 2}, depends_on: [a]}',
            resources="max_gpus: 2",
        )
    )
    import os

    for process, visible, gpu_ids in results.values():
        assert process != os.getpid()
        assert visible == ",".join(gpu_ids)
    assert results["b"][1] == "0,1"


def test_50_modules_that_do_nothing_take_no_time(project: Project) -> None:
    project.write("m.py", "def run(context): return context.module_name\n")
    modules = ", ".join(f'{{name: m{number}, script: "m.py:run"}}' for number in range(50))
    orchestrator = project.orchestrator(pipeline("thread", modules))
    took = []
    for _ in range(5):
        began = time.process_time()
        results = orchestrator.execute_sync()
        took.append(time.process_time() - began)
        assert len(results) == 50
    # Processor time, and the best of several: the machine may be busy with something else, and
    # there is nothing to wait for.
    assert min(took) < 0.1


def test_nested_tasks_work(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        import os

        def run(context):
            mine = os.getpid()
            return context.execute_tasks([lambda n=n: (n, os.getpid() == mine) for n in range(4)])
        """,
    )
    results = project.execute(pipeline(worker_type, '{name: a, script: "m.py:run"}'))
    assert [number for number, _ in results["a"]] == [0, 1, 2, 3]
    assert {here for _, here in results["a"]} == {worker_type == "thread"}


def test_no_gpus_means_none(project: Project, worker_type: str) -> None:
    project.write("m.py", "def run(context): return context.resources.gpu_ids\n")
    without = '{name: a, script: "m.py:run"}'
    assert project.execute(pipeline(worker_type, without, resources="max_gpus: 0")) == {"a": []}
    with pytest.raises(CapacityError, match="'b': 1 GPU asked for, but there are no GPUs"):
        project.execute(
            pipeline(
                worker_type,
                '{name: b, script: "m.py:run", resources: {gpus: 1}}',
                resources="max_gpus: 0",
            )
        )


def test_no_cpus_means_none(project: Project) -> None:
    project.write("m.py", "def run(context): return context.resources.cpus\n")
    module = '{name: a, script: "m.py:run", resources: {cpus: 0}}'
    assert project.execute(pipeline("thread", module, resources="max_cpus: 0")) == {"a": 0}


def test_a_type_error_inside_run_runs_it_once(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        from pathlib import Path

        class Module:
            def run(self, context):
                with open(context.params["file"], "a") as file:
                    file.write("ran ")
                raise TypeError("run() takes 1 positional argument but 2 were given")
        """,
    )
    file = project.folder / "runs.txt"
    results: Any = project.execute(
        pipeline(worker_type, f'{{name: a, path: "m:Module", params: {{file: "{file}"}}}}')
    )
    assert isinstance(results["a"], TypeError)
    assert project.read("runs.txt") == "ran "
