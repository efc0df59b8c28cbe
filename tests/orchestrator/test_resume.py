"""A second start goes on where the first one ended, however that was."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncflow.errors import RunLocked
from asyncflow.orchestrator import PipelineOrchestrator
from tests.orchestrator.projects import Project
from tests.programs import ROOT, run_program
from tests.test_seed_orchestrator import GPU, with_worker_type

# Every module says that it ran, in a file that no crash takes back.
MODULES = """
import os
from asyncflow.orchestrator import BaseModule

FACTOR = 2

def ran(context):
    descriptor = os.open(context.params["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{context.module_name} ".encode())
    os.close(descriptor)

def double(number):
    return FACTOR * number

class Load(BaseModule):
    def run(self, context):
        ran(context)
        return [1, 2, 3]

class Double(BaseModule):
    def run(self, context):
        ran(context)  # and now the work
        return [double(number) for number in context.get_result("load")]

class Sum(BaseModule):
    def run(self, context):
        ran(context)
        if os.path.exists(context.params["file"] + ".fail"):
            raise OSError("no sum today")
        return sum(context.get_result("double"))
"""


@pytest.fixture
def ran(project: Project) -> Path:
    project.write("steps.py", MODULES)
    return project.folder / "ran.txt"


def pipeline(file: Path, worker_type: str = "thread", **params: str) -> str:
    extra = {name: params.get(name, "") for name in ("load", "double", "sum")}
    modules = "".join(
        f"    - name: {name}\n"
        f'      path: "steps:{name.capitalize()}"\n'
        f"      depends_on: [{above}]\n"
        f'      params: {{file: "{file}"{extra[name]}}}\n'
        for name, above in (("load", ""), ("double", "load"), ("sum", "double"))
    )
    return (
        f"pipeline:\n  name: resumed\n  execution: {{worker_type: {worker_type}}}\n"
        f"  checkpoint: {{enabled: true, directory: ./checkpoints}}\n  modules:\n{modules}"
    )


def test_completed_modules_are_skipped(project: Project, ran: Path, worker_type: str) -> None:
    text = pipeline(ran, worker_type)
    first = project.execute(text)
    assert project.execute(text) == first == {"load": [1, 2, 3], "double": [2, 4, 6], "sum": 12}
    assert ran.read_text().split() == ["load", "double", "sum"]


def test_a_failed_module_is_tried_again_with_what_is_below(
    project: Project, ran: Path, worker_type: str
) -> None:
    text = pipeline(ran, worker_type)
    fail = Path(f"{ran}.fail")
    fail.touch()
    assert isinstance(project.execute(text)["sum"], OSError)
    fail.unlink()
    assert project.execute(text)["sum"] == 12
    assert ran.read_text().split() == ["load", "double", "sum", "sum"]


def test_restart_runs_everything_again(project: Project, ran: Path) -> None:
    orchestrator = project.orchestrator(pipeline(ran))

    async def five_times() -> None:
        await orchestrator.execute()
        await orchestrator.execute(force_restart=True)
        await orchestrator.restart()
        orchestrator.restart()
        await orchestrator.execute()
        await orchestrator.execute()

    asyncio.run(five_times())
    assert ran.read_text().split() == ["load", "double", "sum"] * 4


@pytest.mark.parametrize(
    "old, new, again",
    [
        ("# and now the work", "# the work, said in other words", ""),
        ("return [double(number) for", "return [double(-number) for", "double sum"),
        ("return FACTOR * number", "return FACTOR * number + 0", "double sum"),
        ("FACTOR = 2", "FACTOR = 3", "double sum"),
        ("return [1, 2, 3]", "return [1, 2, 4]", "load double sum"),
        ("return sum(context", "return -sum(context", "sum"),
    ],
)
def test_a_module_whose_code_changed_runs_again_with_what_is_below(
    project: Project, ran: Path, old: str, new: str, again: str
) -> None:
    project.execute(pipeline(ran))
    project.write("steps.py", MODULES.replace(old, new))
    project.execute(pipeline(ran))
    assert ran.read_text().split()[3:] == again.split()


def test_a_module_whose_parameters_changed_runs_again(project: Project, ran: Path) -> None:
    project.execute(pipeline(ran))
    project.execute(pipeline(ran, double=", x: 1"))
    assert ran.read_text().split()[3:] == ["double", "sum"]


def test_where_and_how_modules_run_is_no_part_of_what_they_are(project: Project, ran: Path) -> None:
    project.execute(pipeline(ran))
    project.execute(
        pipeline(ran),
        overrides={
            "execution.worker_type": "process",
            "execution.mode": "sequential",
            "execution.logging.level": "DEBUG",
            "modules.sum.resources.cpus": 2,
            "modules.sum.timeout": 60,
        },
    )
    assert ran.read_text().split() == ["load", "double", "sum"]


def test_a_secret_that_changed_is_not_a_reason_to_run_again(
    project: Project, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = pipeline(ran, load=", token: {from_env: ASYNCFLOW_TEST_TOKEN}")
    for value in ("canary-1", "canary-2"):
        monkeypatch.setenv("ASYNCFLOW_TEST_TOKEN", value)
        project.execute(text)
    assert ran.read_text().split() == ["load", "double", "sum"]
    written = [path.read_bytes() for path in project.folder.rglob("*") if path.is_file()]
    assert not any(b"canary" in content for content in written)


def test_without_checkpoints_everything_runs_each_time(project: Project, ran: Path) -> None:
    text = pipeline(ran).replace("enabled: true", "enabled: false")
    project.execute(text)
    project.execute(text)
    assert ran.read_text().split() == ["load", "double", "sum"] * 2
    assert not (project.folder / "checkpoints").exists()


def test_a_file_that_does_not_speak_of_checkpoints_has_them_beside_it(
    project: Project, ran: Path
) -> None:
    line = "  checkpoint: {enabled: true, directory: ./checkpoints}\n"
    text = pipeline(ran).replace(line, "")
    project.execute(text)
    project.execute(text)
    assert (project.folder / ".checkpoints" / "runs" / "resumed").is_dir()
    assert ran.read_text().split() == ["load", "double", "sum"]


def test_the_mapping_of_a_program_is_recorded_only_if_it_says_so(
    project: Project, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    described: dict[str, Any] = {
        "pipeline": {
            "name": "mapping",
            "modules": [{"name": "load", "path": "steps:Load", "params": {"file": str(ran)}}],
        }
    }
    for _ in range(2):
        PipelineOrchestrator(described).execute_sync()
    assert ran.read_text().split() == ["load"] * 2
    described["pipeline"]["checkpoint"] = {"directory": "kept"}
    for _ in range(2):
        PipelineOrchestrator(described).execute_sync()
    assert ran.read_text().split() == ["load"] * 3


def test_results_are_recorded_by_the_type_that_run_says_it_returns(project: Project) -> None:
    project.write(
        "typed.py",
        """
        from dataclasses import dataclass

        @dataclass
        class Data:
            items: tuple[int, ...]

        class Load:
            def run(self, context) -> Data:
                print("ran")
                return Data((1, 2))
        """,
    )
    text = "pipeline: {name: typed, modules: [{name: load, path: 'typed:Load'}]}"
    first = project.execute(text)["load"]
    again = project.execute(text)["load"]
    assert (again, type(again).__name__) == (first, "Data")
    assert project.read(".checkpoints/runs/typed/logs/load.log") == "ran\n"


HELD = """
import asyncio
from pathlib import Path

async def load(context):
    while not Path(context.params["release"]).exists():
        await asyncio.sleep(0.005)
"""


async def test_a_run_that_is_in_progress_is_not_started_twice(
    project: Project, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    project.write("held.py", HELD)
    text = (
        "pipeline:\n  name: held\n  checkpoint: {enabled: true, directory: ./checkpoints}\n"
        "  modules:\n"
        f"    - {{name: load, script: 'held.py:load', params: {{release: '{release}'}}}}\n"
    )
    first, second = project.orchestrator(text), project.orchestrator(text)
    async with first.start() as run:
        with pytest.raises(RunLocked):
            await second.execute()
        release.touch()
        assert (await run.result()).success


FULL_DISK = """
import resource
from asyncflow.errors import StorageError
from asyncflow.orchestrator import PipelineOrchestrator

orchestrator = PipelineOrchestrator("pipeline.yaml")
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    orchestrator.execute_sync()
except StorageError as error:
    print(type(error).__name__, "journal" in str(error), orchestrator.get_module_result("small"))
"""


def test_a_run_that_can_not_be_recorded_any_more_raises(project: Project) -> None:
    pytest.importorskip("resource", reason="the limit of file sizes is Unix's")
    project.write("m.py", "def small(c): return 1\ndef large(c): return b'x' * 40_000\n")
    project.write(
        "pipeline.yaml",
        """
        pipeline:
          name: full
          modules:
            - {name: small, script: "m.py:small"}
            - {name: large, script: "m.py:large", depends_on: [small]}
        """,
    )
    ended = run_program(FULL_DISK, cwd=project.folder)
    assert ended.stdout == "StorageError True 1\n", ended.stderr


# -- killed ----------------------------------------------------------------------------------

KILLED_MODULES = {
    "modules/data.py": """
        import os
        from asyncflow.orchestrator import BaseModule

        def ran(context):
            path = os.path.join(os.path.dirname(os.path.dirname(__file__)), "ran.txt")
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(descriptor, f"{context.module_name} ".encode())
            os.close(descriptor)

        class DataLoader(BaseModule):
            def run(self, context):
                ran(context)
                return list(range(10))
    """,
    "modules/train.py": """
        import os
        import time
        from asyncflow.orchestrator import BaseModule
        from modules.data import ran

        class Trainer(BaseModule):
            def run(self, context):
                folder = os.path.dirname(os.path.dirname(__file__))
                if context.module_name == "trainer2" and not os.path.exists(f"{folder}/go"):
                    time.sleep(60)
                ran(context)
                return sum(context.get_result("data_loader"))
    """,
}


def start(project: Project, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "asyncflow", "run", "pipeline.yaml", *options],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_example_2_goes_on_after_kill_9(project: Project, worker_type: str) -> None:
    for name, text in KILLED_MODULES.items():
        project.write(name, text)
    pipeline = with_worker_type(GPU, worker_type)
    project.write("pipeline.yaml", pipeline.replace("max_gpus: 2", "max_gpus: 2\n    max_cpus: 4"))
    first = start(project, "--events", "jsonl", "--quiet")
    assert first.stdout is not None
    # Its end is told when it is recorded; trainer2 never ends in this life.
    for line in first.stdout:
        if '"NodeFinished"' in line and '"trainer1"' in line:
            break
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=20)
    (project.folder / "go").touch()
    second = start(project)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "3 succeeded" in out
    assert project.read("ran.txt").split() == ["data_loader", "trainer1", "trainer2"]
    results = PipelineOrchestrator(project.folder / "pipeline.yaml").execute_sync()
    assert results == {"data_loader": list(range(10)), "trainer1": 45, "trainer2": 45}


def test_a_run_in_progress_elsewhere_is_a_sentence_of_the_command_line(
    project: Project,
) -> None:
    project.write("endless.py", "import asyncio\nasync def run(c): await asyncio.Event().wait()\n")
    text = "pipeline: {name: endless, modules: [{name: m, script: 'endless.py:run'}]}"
    orchestrator = project.orchestrator(text)

    async def try_meanwhile() -> subprocess.CompletedProcess[str]:
        async with orchestrator.start() as run:
            ended = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "asyncflow", "run", "pipeline.yaml"],
                cwd=project.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            await run.cancel()
            return ended

    ended = asyncio.run(try_meanwhile())
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert "error: " in ended.stderr
    assert str(os.getpid()) in ended.stderr


def test_the_command_line_resumes_and_restarts(project: Project, ran: Path) -> None:
    project.write("pipeline.yaml", pipeline(ran))
    counts = []
    for options in ([], [], ["--restart"]):
        subprocess.run(
            [sys.executable, "-m", "asyncflow", "run", "pipeline.yaml", "--quiet", *options],
            cwd=project.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            timeout=60,
        )
        counts.append(len(ran.read_text().split()))
    assert counts == [3, 3, 6]
