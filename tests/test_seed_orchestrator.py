"""The YAML and Python blocks of the specification of pipelines in files, as it has them.

Only imports are changed, ``execute()`` is awaited, and what it left to the reader has stand-ins:
``process_data``, ``modules.data`` and so on.
"""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from asyncflow import CapacityError, DependencyError, StepCancelled
from asyncflow.orchestrator import PipelineOrchestrator
from tests.orchestrator.conftest import project, worker_type
from tests.orchestrator.projects import Project

__all__ = ["project", "worker_type"]

QUICK_START = """
pipeline:
  name: "example_pipeline"
  execution:
    mode: "parallel"  # parallel (default) or sequential
    worker_type: "process"  # thread or process
    failure_policy: "fail_fast"  # fail_fast or collect_all
  resources:
    max_cpus: 4
    max_gpus: 2
  checkpoint:
    enabled: true
    directory: "./checkpoints"
  modules:
    - name: "module1"
      path: "mymodules.module1:MyModule"  # Class with run() method
      depends_on: []
      resources:
        cpus: 1
        gpus: 0
    - name: "module2"
      path: "mymodules.module2:MyModule"
      depends_on: ["module1"]
      resources:
        cpus: 2
        gpus: 1
"""

STRUCTURE = """
pipeline:
  name: "pipeline_name"
  execution:
    mode: "parallel"  # "parallel" (default) or "sequential"
    worker_type: "process"  # "thread" or "process"
    failure_policy: "fail_fast"  # "fail_fast" or "collect_all"
    max_nested_depth: 3  # Optional: limit nested execution depth
  resources:
    max_cpus: 4  # Optional: defaults to system detection
    max_gpus: 2  # Optional: defaults to system detection
  checkpoint:
    enabled: true  # Enable checkpointing
    directory: "./checkpoints"  # Checkpoint directory
  modules:
    - name: "dependency1"
      script: "path/to/script.py:dependency1"
    - name: "dependency2"
      script: "path/to/script.py:dependency2"
    - name: "module_name"
      path: "module.path:ClassName"  # Class-based module
      depends_on: ["dependency1", "dependency2"]
      resources:
        cpus: 1
        gpus: 0
    - name: "module1"
      script: "path/to/script.py:function_name"  # Function-based module
      depends_on: ["dependency1", "dependency2"]
      resources:
        cpus: 1
        gpus: 0
"""

SEQUENTIAL = """
pipeline:
  name: "simple_pipeline"
  execution:
    mode: "sequential"
  modules:
    - name: "data_loader"
      path: "modules.data:DataLoader"
      depends_on: []
    - name: "processor"
      path: "modules.process:Processor"
      depends_on: ["data_loader"]
    - name: "saver"
      path: "modules.save:Saver"
      depends_on: ["processor"]
"""

GPU = """
pipeline:
  name: "gpu_pipeline"
  execution:
    mode: "parallel"
    worker_type: "process"
  resources:
    max_gpus: 2
  modules:
    - name: "data_loader"
      path: "modules.data:DataLoader"
      depends_on: []
      resources:
        cpus: 1
        gpus: 0
    - name: "trainer1"
      path: "modules.train:Trainer"
      depends_on: ["data_loader"]
      resources:
        cpus: 2
        gpus: 1
    - name: "trainer2"
      path: "modules.train:Trainer"
      depends_on: ["data_loader"]
      resources:
        cpus: 2
        gpus: 1
"""


def with_worker_type(pipeline: str, worker_type: str) -> str:
    if "worker_type:" in pipeline:
        return pipeline.replace('worker_type: "process"', f'worker_type: "{worker_type}"')
    return pipeline.replace("execution:\n", f'execution:\n    worker_type: "{worker_type}"\n')


class TestQuickStart:
    @pytest.fixture(autouse=True)
    def modules(self, project: Project) -> None:
        project.write(
            "mymodules/module1.py",
            """
            from asyncflow.orchestrator import BaseModule, ModuleContext

            class MyModule(BaseModule):
                def run(self, context: ModuleContext):
                    return [1, 2, 3]
            """,
        )
        project.write(
            "mymodules/module2.py",
            """
            from asyncflow.orchestrator import BaseModule, ModuleContext

            def process_data(data):
                return [2 * number for number in data]

            def task1(): return "one"
            def task2(): return "two"
            def task3(): raise ValueError("three")

            class MyModule(BaseModule):
                def run(self, context: ModuleContext):
                    # Access dependency results
                    data = context.get_result("module1")

                    # Process data
                    result = process_data(data)

                    # Optionally request nested parallel execution
                    sub_tasks = [task1, task2, task3]
                    sub_results = context.execute_tasks(sub_tasks)

                    return result, sub_results[:2], repr(sub_results[2])
            """,
        )

    async def test_it_runs_as_the_comments_say(
        self, project: Project, worker_type: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        project.write("pipeline.yaml", with_worker_type(QUICK_START, worker_type))

        # Initialize orchestrator
        orchestrator = PipelineOrchestrator(config_path=project.folder / "pipeline.yaml")

        # Execute pipeline
        results = await orchestrator.execute()

        # Access results
        for module_name, result in results.items():
            if isinstance(result, Exception):
                print(f"Module {module_name} failed: {result}")
            else:
                print(f"Module {module_name} succeeded: {result}")

        expected = ([2, 4, 6], ["one", "two"], "ValueError('three')")
        assert results == {"module1": [1, 2, 3], "module2": expected}
        assert "Module module2 succeeded: ([2, 4, 6], ['one', 'two']," in capsys.readouterr().out

    def test_every_method_of_the_reference_is_there(
        self, project: Project, worker_type: str
    ) -> None:
        orchestrator = project.orchestrator(with_worker_type(QUICK_START, worker_type))
        results = orchestrator.execute_sync()
        assert orchestrator.get_results() == results
        assert orchestrator.get_module_result("module1") == [1, 2, 3]
        orchestrator.cleanup()


class TestStructure:
    @pytest.fixture(autouse=True)
    def modules(self, project: Project) -> None:
        project.write(
            "module/path.py",
            """
            from asyncflow.orchestrator import BaseModule, ModuleContext

            def process(data1, data2):
                return f"{data1} and {data2}"

            class ClassName(BaseModule):
                def run(self, context: ModuleContext):
                    # Access dependency results
                    data1 = context.get_result("dependency1")
                    data2 = context.dependency_results.get("dependency2")

                    # Get all dependency results
                    all_deps = context.dependency_results

                    # Process data
                    result = process(data1, data2)

                    # Return result (automatically checkpointed)
                    return result, dict(all_deps), context.dependency_results.get("module1")
            """,
        )
        project.write(
            "path/to/script.py",
            """
            def dependency1(context): return "first"
            def dependency2(context): return "second"

            def process(data):
                return data.upper()

            def function_name(context):
                for module_name, result in context.dependency_results.items():
                    process(result)
                data = context.get_result("dependency1")
                return process(data)
            """,
        )

    def test_every_key_works(self, project: Project, worker_type: str) -> None:
        results = project.execute(with_worker_type(STRUCTURE, worker_type))
        deps = {"dependency1": "first", "dependency2": "second"}
        assert results == {
            "dependency1": "first",
            "dependency2": "second",
            "module_name": ("first and second", deps, None),
            "module1": "FIRST",
        }

    def test_what_is_not_there_raises_a_dependency_error(
        self, project: Project, worker_type: str
    ) -> None:
        project.write(
            "module/path.py",
            """
            class ClassName:
                def run(self, context):
                    return context.get_result("module1")
            """,
        )
        error = project.execute(with_worker_type(STRUCTURE, worker_type))["module_name"]
        assert isinstance(error, DependencyError)
        assert "module 'module_name' has no result of 'module1'" in str(error)

    def test_system_detection_is_the_default(self, project: Project, worker_type: str) -> None:
        text = with_worker_type(STRUCTURE, worker_type)
        for line in ("max_cpus: 4", "max_gpus: 2"):
            text = text.replace(line, line.split(":")[0] + ": null")
        assert project.execute(text)["module1"] == "FIRST"


class TestNestedExecution:
    RUN = """
        def process_item(item):
            if item == "bad":
                raise ValueError(item)
            return item.upper()

        item1, item2, item3 = "a", "bad", "c"

        def run(context):
            # Request nested parallel execution
            sub_tasks = [
                lambda: process_item(item1),
                lambda: process_item(item2),
                lambda: process_item(item3),
            ]

            # Execute tasks in parallel via orchestrator
            results = context.execute_tasks(sub_tasks)

            # Results are in same order as tasks
            # Each result can be success (data) or error (Exception)
            combined_results = []
            for i, result in enumerate(results):
                if isinstance(result, Exception):
                    combined_results.append(f"Task {i} failed: {result}")
                else:
                    combined_results.append(f"Task {i} succeeded: {result}")

            return combined_results
    """
    PIPELINE = """
        pipeline:
          name: nested
          execution: {worker_type: "process"}
          modules: [{name: m, script: "nested.py:run"}]
    """

    def test_results_are_in_the_order_of_the_tasks(
        self, project: Project, worker_type: str
    ) -> None:
        project.write("nested.py", self.RUN)
        assert project.execute(with_worker_type(self.PIPELINE, worker_type)) == {
            "m": ["Task 0 succeeded: A", "Task 1 failed: bad", "Task 2 succeeded: C"]
        }

    def test_example_3(self, project: Project, worker_type: str) -> None:
        project.write(
            "modules/data.py",
            """
            from asyncflow.orchestrator import BaseModule

            class Data:
                def __init__(self, items):
                    self.items = items

            class DataLoader(BaseModule):
                def run(self, context):
                    return Data([1, 2, 3])
            """,
        )
        project.write(
            "modules/process.py",
            """
            from asyncflow.orchestrator import BaseModule, ModuleContext

            def process_item(item):
                return item * item

            def combine_results(results):
                return sum(results)

            class DataProcessor(BaseModule):
                def run(self, context: ModuleContext):
                    # Get input data
                    data = context.get_result("data_loader")

                    # Process items in parallel
                    items = data.items
                    tasks = [lambda item=item: process_item(item) for item in items]
                    results = context.execute_tasks(tasks)

                    # Combine results
                    return combine_results(results)
            """,
        )
        results = project.execute(
            f"""
            pipeline:
              name: example3
              execution: {{worker_type: "{worker_type}"}}
              checkpoint: {{enabled: false}}
              modules:
                - {{name: data_loader, path: "modules.data:DataLoader"}}
                - name: processor
                  path: "modules.process:DataProcessor"
                  depends_on: [data_loader]
            """
        )
        assert results["processor"] == 14


STEPS = {
    "modules/data.py": """
        from asyncflow.orchestrator import BaseModule

        class DataLoader(BaseModule):
            def run(self, context):
                return list(range(10))
    """,
    "modules/process.py": """
        from asyncflow.orchestrator import BaseModule

        class Processor(BaseModule):
            def run(self, context):
                return [2 * number for number in context.get_result("data_loader")]
    """,
    "modules/save.py": """
        from asyncflow.orchestrator import BaseModule

        class Saver(BaseModule):
            def run(self, context):
                return sum(context.get_result("processor"))
    """,
    # Each trainer waits until it has seen the other at work.
    "modules/train.py": """
        import os
        import time
        from pathlib import Path

        from asyncflow.orchestrator import BaseModule

        FOLDER = Path(__file__).parent

        class Trainer(BaseModule):
            def run(self, context):
                (FOLDER / f"{context.module_name}.started").touch()
                both = [FOLDER / f"trainer{number}.started" for number in (1, 2)]
                until = time.monotonic() + 20
                while not all(path.exists() for path in both):
                    if time.monotonic() > until:
                        raise TimeoutError("the other trainer never started")
                    time.sleep(0.005)
                return {
                    "sum": sum(context.get_result("data_loader")),
                    "gpu_ids": context.resources.gpu_ids,
                    "gpus": context.resources["gpus"],
                    "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
                }
    """,
}


@pytest.fixture
def steps(project: Project) -> Project:
    for name, text in STEPS.items():
        project.write(name, text)
    return project


def test_example_1_runs_one_module_after_the_other(steps: Project, worker_type: str) -> None:
    results = steps.execute(with_worker_type(SEQUENTIAL, worker_type))
    assert results["saver"] == 90


def test_example_2_runs_both_trainers_at_once_each_with_its_own_device(
    steps: Project, worker_type: str
) -> None:
    orchestrator = steps.orchestrator(
        with_worker_type(GPU, worker_type), overrides={"resources.max_cpus": 4}
    )
    results = orchestrator.execute_sync()
    first, second = results["trainer1"], results["trainer2"]
    assert (first["sum"], second["sum"], first["gpus"], second["gpus"]) == (45, 45, 1, 1)
    assert sorted([*first["gpu_ids"], *second["gpu_ids"]]) == ["0", "1"]
    if worker_type == "process":
        assert first["visible"] == first["gpu_ids"][0]
        assert second["visible"] == second["gpu_ids"][0]


async def test_on_restart_the_pipeline_resumes_from_checkpoints(
    steps: Project, worker_type: str
) -> None:
    text = with_worker_type(SEQUENTIAL, worker_type) + (
        '  checkpoint:\n    enabled: true\n    directory: "./checkpoints"\n'
    )
    steps.write("pipeline.yaml", text)
    path = steps.folder / "pipeline.yaml"

    # Module result is automatically saved
    orchestrator = PipelineOrchestrator(config_path=path)
    result = await orchestrator.execute()

    # On restart, pipeline resumes from checkpoints
    for name in ("data", "process"):
        source = steps.read(f"modules/{name}.py")
        # A comment is no change, and what is not run again does not say anything.
        steps.write(f"modules/{name}.py", f"# restarted\n{source}")
    orchestrator = PipelineOrchestrator(config_path=path)
    async with orchestrator.start() as run:
        resumed = await run.result()  # Completed modules are skipped
    assert {name: resumed[name] for name in result} == result
    assert all(module.resumed for module in resumed.step_results.values())


@pytest.mark.parametrize("policy", ["fail_fast", "collect_all"])
def test_the_failure_policies(project: Project, worker_type: str, policy: str) -> None:
    project.write(
        "failing.py",
        """
        def good(context): return "good"
        def bad(context): raise ValueError("bad")
        """,
    )
    results = project.execute(
        f"""
        pipeline:
          name: policies
          execution: {{failure_policy: "{policy}", worker_type: "{worker_type}"}}
          resources: {{max_cpus: 1}}
          modules:
            - {{name: broken, script: "failing.py:bad"}}
            - {{name: below, script: "failing.py:good", depends_on: [broken]}}
            - {{name: further_below, script: "failing.py:good", depends_on: [below]}}
            - {{name: apart, script: "failing.py:good"}}
        """
    )
    assert isinstance(results["broken"], ValueError)
    for name in ("below", "further_below"):
        error: Any = results[name]
        assert isinstance(error, DependencyError)
        assert error.ancestor == "broken"
    if policy == "collect_all":
        assert results["apart"] == "good"
    else:
        assert isinstance(results["apart"], StepCancelled)


def test_cpus_and_gpus_of_a_module(project: Project, worker_type: str) -> None:
    project.write("ask.py", "def run(context): return dict(context.resources)\n")
    text = f"""
        pipeline:
          name: resources
          execution: {{worker_type: "{worker_type}"}}
          resources: {{max_cpus: 8, max_gpus: 4}}
          modules:
            - {{name: two, script: "ask.py:run", resources: {{cpus: 2}}}}
            - {{name: gpu, script: "ask.py:run", resources: {{gpus: 1}}}}
            - {{name: memory, script: "ask.py:run", resources: {{memory: 1Mi}}}}
    """
    results = project.execute(textwrap.dedent(text))
    assert results["two"]["cpus"] == 2
    assert results["gpu"]["gpus"] == 1
    assert len(results["gpu"]["gpu_ids"]) == 1
    assert results["memory"]["memory_bytes"] == 1024**2


def test_more_gpus_than_the_limit_are_refused_before_anything_runs(
    project: Project, worker_type: str
) -> None:
    project.write("ask.py", "def run(context): open('ran', 'w')\n")
    orchestrator = project.orchestrator(
        f"""
        pipeline:
          name: refused
          execution: {{worker_type: "{worker_type}"}}
          resources: {{max_gpus: 4}}
          modules:
            - {{name: first, script: "ask.py:run"}}
            - {{name: gpu, script: "ask.py:run", resources: {{gpus: 5}}}}
        """
    )
    with pytest.raises(CapacityError, match="'gpu'"):
        orchestrator.execute_sync()
