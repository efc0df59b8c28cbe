"""Nested tasks: in order, exceptions as values, to any depth that is allowed, on one CPU."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import ANY

import pytest

from asyncflow import NestedDepthError, Runtime, StepCancelled, StepFailed, StepTimeout
from asyncflow.orchestrator import PipelineOrchestrator
from tests.orchestrator.projects import Project

RECURSION = """
def run(context):
    def level(depth):
        if depth == 0:
            return 1
        tasks = [lambda: level(depth - 1)] + [lambda n=n: n for n in range(7)]
        results = context.execute_tasks(tasks)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return sum(results)
    return level(context.params["depth"])
"""


def pipeline(worker_type: str, script: str = "m.py:run", **settings: Any) -> str:
    execution = "".join(f", {key}: {value}" for key, value in settings.items() if key != "params")
    return f"""
pipeline:
  name: nested
  execution: {{worker_type: {worker_type}{execution}}}
  resources: {{max_cpus: 1}}
  checkpoint: {{enabled: false}}
  modules:
    - {{name: m, script: "{script}", params: {settings.get("params", "{}")}}}
"""


def the_error_of(project: Project, text: str) -> Exception:
    error = project.execute(text)["m"]
    assert isinstance(error, Exception)
    return error


def levels(worker_type: str) -> int:
    return 32 if worker_type == "thread" else 8


def test_recursion_on_one_cpu_ends_with_the_right_sum(project: Project, worker_type: str) -> None:
    project.write("m.py", RECURSION)
    depth = levels(worker_type)
    text = pipeline(worker_type, params=f"{{depth: {depth}}}", max_nested_depth=depth)
    assert project.execute(text) == {"m": 1 + depth * sum(range(7))}


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_modules_that_nest_at_the_same_time_all_end_on_one_cpu(
    project: Project, worker_type: str, mode: str
) -> None:
    project.write(
        "m.py",
        """
        def tree(context):
            def level(depth):
                if depth == 0:
                    return 1
                tasks = [lambda: level(depth - 1)] * 2 + [lambda: 1]
                return sum(context.execute_tasks(tasks))
            return level(2)

        async def coroutine(context):
            async def level(depth):
                if depth == 0:
                    return 1
                tasks = [lambda: level(depth - 1)] * 2 + [lambda: 1]
                return sum(await context.execute_tasks_async(tasks))
            return await level(2)
        """,
    )
    names = {"a": "tree", "b": "tree", "c": "coroutine", "g1": "tree", "g2": "coroutine"}
    modules = "".join(
        f'    - {{name: {name}, script: "m.py:{function}"'
        + (", execution_group: g}\n" if name.startswith("g") else "}\n")
        for name, function in names.items()
    )
    text = pipeline(worker_type, mode=mode).partition("  modules:")[0]
    assert project.execute(f"{text}  modules:\n{modules}") == dict.fromkeys(names, 7)


def test_one_level_more_is_refused(project: Project, worker_type: str) -> None:
    project.write("m.py", RECURSION)
    depth = levels(worker_type)
    error = the_error_of(
        project,
        pipeline(worker_type, params=f"{{depth: {depth + 1}}}", max_nested_depth=depth),
    )
    assert isinstance(error, NestedDepthError)
    assert f"max_nested_depth is {depth}" in str(error)


def test_without_a_limit_32_levels_are_allowed(project: Project) -> None:
    project.write("m.py", RECURSION)
    error = the_error_of(project, pipeline("thread", params="{depth: 33}"))
    assert isinstance(error, NestedDepthError)
    assert "max_nested_depth is 32" in str(error)
    assert project.execute(pipeline("thread", params="{depth: 32}")) == {"m": 1 + 32 * 21}


def test_no_nested_tasks_at_all(project: Project, worker_type: str) -> None:
    project.write("m.py", RECURSION)
    error = the_error_of(project, pipeline(worker_type, params="{depth: 1}", max_nested_depth=0))
    assert isinstance(error, NestedDepthError)


def test_what_fails_is_a_value_and_the_others_go_on(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        import sys

        class Own(Exception):
            def __init__(self, code, text):
                super().__init__(f"{code}: {text}")

        def own():
            raise Own(3, "own")

        def run(context):
            tasks = [lambda: 1, lambda: 1 / 0, own, lambda: sys.exit(3), lambda: None]
            results = context.execute_tasks(tasks)
            return [result if not isinstance(result, Exception) else
                    (type(result).__name__, str(result)) for result in results]
        """,
    )
    assert project.execute(pipeline(worker_type))["m"] == [
        1,
        ("ZeroDivisionError", "division by zero"),
        # Pickle cannot make such an exception again; its type and text come back all the same.
        ("Own", "3: own") if worker_type == "thread" else ("RemoteError", ANY),
        ("StepFailed", "the task raised SystemExit: 3"),
        None,
    ]


def test_no_tasks_give_no_results_and_what_is_no_function_is_refused(
    project: Project, worker_type: str
) -> None:
    project.write(
        "m.py",
        """
        async def later(): ...

        def run(context):
            said = [context.execute_tasks([])]
            for wrong in (3, later()):
                try:
                    context.execute_tasks([lambda: 1, wrong])
                except TypeError as error:
                    said.append(str(error))
            return said
        """,
    )
    assert project.execute(pipeline(worker_type))["m"] == [
        [],
        "a nested task is a function without arguments, got a value of type int",
        "a nested task is a function without arguments, got a value of type coroutine; pass the "
        "function itself, or a lambda",
    ]


def test_many_tasks_and_two_calls(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        def run(context):
            first = context.execute_tasks([lambda n=n: n for n in range(300)])
            return first == list(range(300)), context.execute_tasks([lambda: "again"])
        """,
    )
    assert project.execute(pipeline(worker_type))["m"] == (True, ["again"])


def test_coroutine_tasks_run_on_the_event_loop_and_lambdas_may_give_coroutines(
    project: Project,
) -> None:
    project.write(
        "m.py",
        """
        import asyncio
        import threading

        async def where(n):
            await asyncio.sleep(0)
            return n, threading.current_thread() is threading.main_thread()

        class Module:
            async def run(self, context):
                async def closure():
                    return await context.execute_tasks_async([lambda: "inner"])
                return await context.execute_tasks_async([
                    closure,
                    lambda: where(1),
                    lambda: threading.current_thread() is threading.main_thread(),
                ])

        def run(context):
            async def two():
                return await where(2)
            return context.execute_tasks([two, lambda: where(3)])
        """,
    )
    text = pipeline("thread").replace('script: "m.py:run"', 'path: "m:Module"')
    assert project.execute(text)["m"] == [["inner"], (1, True), False]
    assert project.execute(pipeline("thread"))["m"] == [(2, True), (3, True)]


def test_coroutine_tasks_in_processes(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        import asyncio

        async def later(n):
            await asyncio.sleep(0)
            return n

        async def run(context):
            async def deeper():
                return await context.execute_tasks_async([lambda: later(2), lambda: 3])
            return await context.execute_tasks_async([lambda: later(1), deeper])
        """,
    )
    assert project.execute(pipeline(worker_type))["m"] == [1, [2, 3]]


def test_a_coroutine_is_told_to_await_its_tasks(project: Project, worker_type: str) -> None:
    project.write("m.py", "async def run(context): return context.execute_tasks([lambda: 1])\n")
    error = the_error_of(project, pipeline(worker_type))
    assert isinstance(error, RuntimeError)
    assert "await context.execute_tasks_async(tasks)" in str(error)


def test_when_a_module_times_out_its_tasks_are_cancelled(
    project: Project, worker_type: str
) -> None:
    project.write(
        "m.py",
        """
        import time

        def run(context):
            def task():
                until = time.monotonic() + 30
                while not context.cancelled and time.monotonic() < until:
                    time.sleep(0.01)
                return "ended"
            return context.execute_tasks([task, task])
        """,
    )
    text = pipeline(worker_type).replace("params: {}", "params: {}, timeout: 0.3")
    assert isinstance(the_error_of(project, text), StepTimeout)


async def test_cancelling_a_run_cancels_the_nest(project: Project) -> None:
    project.write(
        "m.py",
        """
        import asyncio

        started = asyncio.Event()
        ended = []

        async def endless():
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("task")

        async def run(context):
            try:
                await context.execute_tasks_async([endless])
            finally:
                ended.append("module")
        """,
    )
    orchestrator = project.orchestrator(pipeline("thread"))
    async with orchestrator.start() as run:
        async for event in run.events():
            if event.kind == "NodeStarted" and event.node == "m/task[0]":
                break
        await run.cancel("enough")
        result = await run.result()
    assert isinstance(result.step_results["m"].error, StepCancelled)


def test_tasks_see_the_devices_of_their_module(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        import os

        def run(context):
            def task():
                return context.resources.gpu_ids, os.environ.get("CUDA_VISIBLE_DEVICES")
            return context.execute_tasks([task])
        """,
    )
    text = pipeline(worker_type).replace("max_cpus: 1", "max_cpus: 1, max_gpus: 2")
    text = text.replace("params: {}", "params: {}, resources: {gpus: 1}")
    [(gpu_ids, visible)] = project.execute(text)["m"]
    assert len(gpu_ids) == 1
    if worker_type == "process":
        assert visible == gpu_ids[0]


def test_what_tasks_give_is_neither_recorded_nor_complained_of(
    project: Project, worker_type: str
) -> None:
    project.write(
        "m.py",
        """
        class Own:
            pass

        def run(context):
            tasks = [Own, lambda: b"canary" * 20_000]
            return len(context.execute_tasks(tasks)) + len(context.get_all_results())
        """,
    )
    orchestrator = project.orchestrator(pipeline(worker_type).replace("enabled: false", ""))

    async def warnings() -> list[str]:
        async with orchestrator.start() as run:
            events = [event async for event in run.events()]
            assert (await run.result())["m"] == 2
        return [repr(event) for event in events if event.kind == "Warned"]

    assert asyncio.run(warnings()) == []
    written = [path.read_bytes() for path in project.folder.rglob("*") if path.is_file()]
    assert not any(b"canary" * 100 in content for content in written)


async def test_a_shared_runtime_bounds_all_nests_together(project: Project) -> None:
    project.write(
        "m.py",
        """
        import threading

        lock, at_work, most = threading.Lock(), 0, 0

        def run(context):
            def task():
                global at_work, most
                with lock:
                    at_work += 1
                    most = max(most, at_work)
                threading.Event().wait(0.01)
                with lock:
                    at_work -= 1
            context.execute_tasks([task] * 6)
            return most
        """,
    )
    described = {
        "pipeline": {
            "name": "shared",
            "modules": [{"name": f"m{n}", "script": "m.py:run"} for n in range(3)],
        }
    }
    project.write("pipeline.json", __import__("json").dumps(described))
    async with Runtime(max_cpus=2) as runtime:
        orchestrator = PipelineOrchestrator(project.folder / "pipeline.json", runtime=runtime)
        results = await asyncio.wait_for(orchestrator.execute(), 30)
    assert max(results.values()) <= 2


def test_the_module_s_own_error_names_what_its_task_raised(
    project: Project, worker_type: str
) -> None:
    project.write(
        "m.py",
        """
        def run(context):
            [failed] = context.execute_tasks([lambda: {}["missing"]])
            raise RuntimeError("the task failed") from failed
        """,
    )
    error = the_error_of(project, pipeline(worker_type))
    assert isinstance(error, RuntimeError)
    if worker_type == "thread":
        assert isinstance(error.__cause__, KeyError)


def test_a_context_is_of_no_use_outside_of_a_run(project: Project) -> None:
    project.write("m.py", "def run(context): return [context]\n")
    [context] = project.execute(pipeline("thread"))["m"]
    assert context.module_name == "m"
    import pickle

    again = pickle.loads(pickle.dumps(context))
    with pytest.raises(RuntimeError, match="used outside of a run"):
        again.execute_tasks([print])


def test_errors_of_tasks_are_exceptions_of_asyncflow_where_python_would_end(
    project: Project,
) -> None:
    project.write(
        "m.py",
        """
        def stop():
            raise KeyboardInterrupt

        def run(context):
            return context.execute_tasks([stop])
        """,
    )
    [error] = project.execute(pipeline("thread"))["m"]
    assert isinstance(error, StepFailed)
    assert isinstance(error.__cause__, KeyboardInterrupt)
