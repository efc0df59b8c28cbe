"""The face of the dialect: executing, results, exceptions as values, starting, cleaning up."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from asyncflow import (
    DependencyError,
    GraphError,
    Run,
    Runtime,
    StepCancelled,
    StepFailed,
    StepTimeout,
    WorkerDied,
)
from asyncflow.errors import ConfigError
from asyncflow.orchestrator import PipelineOrchestrator
from asyncflow.orchestrator.knots import Problems
from asyncflow.orchestrator.orchestrator import Cleanup
from asyncflow.orchestrator.sources import look_at_sources
from tests.orchestrator.projects import Project


def pipeline(modules: str, worker_type: str = "thread", **sections: str) -> str:
    more = "".join(f"  {key}: {value}\n" for key, value in sections.items())
    if "checkpoint" not in sections:
        more += "  checkpoint: {enabled: false}\n"
    if "execution" not in sections:
        more += f"  execution: {{worker_type: {worker_type}}}\n"
    return f"pipeline:\n  name: p\n{more}  modules: [{modules}]\n"


# -- what modules are ------------------------------------------------------------------------


def test_classes_functions_and_coroutines(project: Project, worker_type: str) -> None:
    project.write(
        "kinds.py",
        """
        import asyncio
        from asyncflow.orchestrator import BaseModule

        class Sync(BaseModule):
            def run(self, context):
                return "sync"

        class Coroutine(BaseModule):
            async def run(self, context):
                await asyncio.sleep(0)
                return "coroutine of " + context.get_result("sync")

        class Plain:
            @staticmethod
            def run(context):
                return "plain"

        class Outer:
            class Inner:
                @classmethod
                def run(cls, context):
                    return cls.__name__
        """,
    )
    project.write("async_script.py", "async def run(context): return context.module_name\n")
    results = project.execute(
        pipeline(
            '{name: sync, path: "kinds:Sync"},'
            '{name: coroutine, path: "kinds:Coroutine", depends_on: [sync]},'
            '{name: plain, path: "kinds:Plain"},'
            '{name: inner, path: "kinds:Outer.Inner"},'
            '{name: script, script: "async_script.py:run"}',
            worker_type,
        )
    )
    assert results == {
        "sync": "sync",
        "coroutine": "coroutine of sync",
        "plain": "plain",
        "inner": "Inner",
        "script": "script",
    }


async def test_coroutines_run_on_the_caller_s_loop_with_its_context(project: Project) -> None:
    import asyncio

    project.write(
        "m.py",
        """
        import asyncio, threading

        async def run(context):
            return id(asyncio.get_running_loop()), threading.get_ident()

        def sync(context):
            return threading.get_ident()
        """,
    )
    results = await project.orchestrator(
        pipeline('{name: a, script: "m.py:run"}, {name: b, script: "m.py:sync"}')
    ).execute()
    import threading

    assert results["a"] == (id(asyncio.get_running_loop()), threading.get_ident())
    assert results["b"] != threading.get_ident()


def test_a_plan_knows_coroutines_from_their_source(project: Project) -> None:
    project.write("m.py", "async def run(context): ...\n\n\ndef sync(context): ...\n")
    orchestrator = project.orchestrator(
        pipeline('{name: a, script: "m.py:run"}, {name: b, script: "m.py:sync"}')
    )
    assert {unit.name: unit.lane for unit in orchestrator.plan().units} == {
        "a": "inline",
        "b": "thread",
    }
    assert "m" not in sys.modules


WRONG_TARGETS = {
    "absent.thing:A": "there is no module 'absent'",
    "things.more:A": "there is no module 'things.more'",
    "things:God": "things has no 'God'; did you mean 'Good'?",
    "things:function": "things:function is a function, and path takes a class; name a function by "
    "script: file.py:function",
    "things:number": "things:number is of type int, and path takes a class",
    "things:Runless": "class things:Runless has no method run(self, context)",
    "things:Abstract": "class things:Abstract is abstract: it does not define run",
    "things:Needy": "class things:Needy is made without arguments, and its signature is (value)",
    "things:Contextless": "things:Contextless.run takes one argument, the context, and its "
    "signature is (self)",
    "things:Generator": "things:Generator.run is a generator, which has no one result; return a "
    "list",
    "raising:A": "importing 'raising' raised ZeroDivisionError: division by zero (raising.py, "
    "line 2)",
    "exiting:A": "importing 'exiting' raised SystemExit: 3 (exiting.py, line 1)",
    "importing:A": "importing 'importing' raised ModuleNotFoundError: No module named 'nowhere' "
    "(importing.py, line 1)",
}
WRONG_SCRIPTS = {
    "script.py:f": "there is no file 'script.py'; did you mean 'scripts.py'?",
    "scripts.py:g": "scripts.py has no 'g'",
    "scripts.py:Klass": "scripts.py:Klass is a class, and script takes a function; name a class by "
    "path: package.module:Class",
    "scripts.py:two": "function scripts.py:two takes one argument, the context, and its signature "
    "is (a, b)",
    "scripts.py:number": "scripts.py:number is of type int, and script takes a function",
}


def test_what_cannot_be_run_is_told_at_once_and_before_anything_runs(project: Project) -> None:
    project.write(
        "things.py",
        """
        from asyncflow.orchestrator import BaseModule

        number = 3

        def function(context): ...

        class Good:
            def run(self, context): open("ran", "w")

        class Runless: ...

        class Abstract(BaseModule): ...

        class Needy:
            def __init__(self, value): ...
            def run(self, context): ...

        class Contextless:
            def run(self): ...

        class Generator:
            def run(self, context): yield
        """,
    )
    project.write("raising.py", "\n1 / 0\n")
    project.write("exiting.py", "raise SystemExit(3)\n")
    project.write("importing.py", "import nowhere\n")
    project.write("scripts.py", "number = 3\ndef f(c): ...\ndef two(a, b): ...\nclass Klass: ...\n")
    targets = [*WRONG_TARGETS.items(), *WRONG_SCRIPTS.items()]
    modules = ['{name: good, path: "things:Good"}']
    for number, (target, _) in enumerate(targets):
        key = "script" if ".py:" in target else "path"
        modules.append(f'{{name: m{number}, {key}: "{target}"}}')
    orchestrator = project.orchestrator(pipeline(", ".join(modules)))
    with pytest.raises(ConfigError) as caught:
        orchestrator.execute_sync()
    said = [problem.split(": ", 2)[2] for problem in caught.value.problems]
    assert said == [sentence for _, sentence in targets]
    assert project.read("ran") == ""


def test_a_script_that_runs_its_own_pipeline_on_import_is_told_so(project: Project) -> None:
    project.write(
        "program.py",
        """
        from pathlib import Path
        from asyncflow.orchestrator import PipelineOrchestrator

        def f(context): ...

        PipelineOrchestrator(Path(__file__).parent / "pipeline.yaml").execute_sync()
        """,
    )
    with pytest.raises(ConfigError, match="below: if __name__ == '__main__'"):
        project.execute(pipeline('{name: m, script: "program.py:f"}'))


def test_two_pipelines_may_have_a_package_of_the_same_name(project: Project) -> None:
    for name in ("one", "two"):
        project.write(f"{name}/modules/__init__.py", "")
        project.write(
            f"{name}/modules/m.py",
            f"class M:\n    def run(self, context):\n        return '{name}'\n",
        )
        project.write(f"{name}/p.yaml", pipeline('{name: m, path: "modules.m:M"}'))
    both = [PipelineOrchestrator(project.folder / name / "p.yaml") for name in ("one", "two")]
    assert [one.execute_sync()["m"] for one in both] == ["one", "two"]
    assert [one.execute_sync()["m"] for one in both] == ["one", "two"]


def test_a_module_that_was_changed_is_imported_anew(project: Project) -> None:
    source = "class M:\n    def run(self, context):\n        return {}\n"
    project.write("m.py", source.format(1))
    orchestrator = project.orchestrator(pipeline('{name: m, path: "m:M"}'))
    assert orchestrator.execute_sync() == {"m": 1}
    project.write("m.py", source.format("'another'"))
    assert orchestrator.execute_sync() == {"m": "another"}


async def test_workers_of_a_shared_runtime_see_the_change_too(project: Project) -> None:
    project.write("m.py", "from helper import value\n\ndef run(context):\n    return value()\n")
    project.write("helper.py", "def value(): return 1\n")
    async with Runtime(max_cpus=1) as runtime:
        orchestrator = project.orchestrator(
            pipeline('{name: m, script: "m.py:run"}', "process"), runtime=runtime
        )
        assert await orchestrator.execute() == {"m": 1}
        project.write("helper.py", "def value(): return 'another'\n")
        assert await orchestrator.execute() == {"m": "another"}


def test_a_name_that_is_in_use_already_is_not_taken_for_the_pipeline_s(project: Project) -> None:
    project.write("json.py", "class M:\n    def run(self, context): ...\n")
    with pytest.raises(ConfigError, match="another one of that name is in use already"):
        project.execute(pipeline('{name: m, path: "json:M"}'))


# -- results ---------------------------------------------------------------------------------


def test_all_results_so_far(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        def one(context): return 1
        def all_of(context):
            return context.get_all_results()
        """,
    )
    results = project.execute(
        pipeline(
            '{name: a, script: "m.py:one"}, {name: b, script: "m.py:one", depends_on: [a]},'
            '{name: c, script: "m.py:all_of", depends_on: [b]}',
            worker_type,
        )
    )
    assert results["c"] == {"a": 1, "b": 1}


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_what_is_no_exception_is_made_one(project: Project, worker_type: str, raised: str) -> None:
    project.write("m.py", f"def run(context): raise {raised}\n")
    error = project.execute(pipeline('{name: m, script: "m.py:run"}', worker_type))["m"]
    assert isinstance(error, StepFailed)
    assert f"module 'm' raised {raised.partition('(')[0]}" in str(error)


def test_a_worker_that_dies_fails_its_module_or_task_only(project: Project) -> None:
    project.write(
        "m.py",
        """
        import os

        def dies(context):
            print("last words")
            os._exit(3)

        def task_dies(context):
            results = context.execute_tasks([lambda: 1, lambda: os._exit(4), lambda: 3])
            return [result if isinstance(result, int) else result.exit_code for result in results]
        """,
    )
    results = project.execute(
        pipeline(
            '{name: dies, script: "m.py:dies"}, {name: task, script: "m.py:task_dies"},'
            '{name: below, script: "m.py:task_dies", depends_on: [dies]}',
            execution="{worker_type: process, failure_policy: collect_all}",
        )
    )
    assert isinstance(results["dies"], WorkerDied)
    assert results["dies"].exit_code == 3
    assert isinstance(results["below"], DependencyError)
    assert results["task"] == [1, 4, 3]


def test_none_is_a_result_like_any_other(project: Project, worker_type: str) -> None:
    project.write("m.py", "def run(context): return context.dependency_results.get('a', 'none')\n")
    results = project.execute(
        pipeline(
            '{name: a, script: "m.py:run", params: {x: 1}},'
            '{name: b, script: "m.py:run", depends_on: [a]}',
            worker_type,
        )
    )
    assert results == {"a": "none", "b": "none"}


def test_what_fail_fast_stops_is_cancelled_and_what_is_below_names_its_ancestor(
    project: Project,
) -> None:
    project.write(
        "m.py",
        """
        import asyncio

        async def bad(context):
            await asyncio.sleep(0)
            raise ValueError("bad")

        async def slow(context):
            await asyncio.Event().wait()
        """,
    )
    results = project.execute(
        pipeline(
            '{name: bad, script: "m.py:bad"}, {name: slow, script: "m.py:slow"},'
            '{name: below, script: "m.py:slow", depends_on: [bad]},'
            '{name: beside, script: "m.py:slow", depends_on: [slow]}',
            resources="{max_cpus: 4}",
        )
    )
    assert isinstance(results["bad"], ValueError)
    assert isinstance(results["slow"], StepCancelled)
    assert isinstance(results["beside"], StepCancelled)
    assert isinstance(results["below"], DependencyError)
    assert results["below"].ancestor == "bad"


def test_retry_and_timeout_of_a_module(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        import time

        def flaky(context):
            if context.attempt < 3:
                raise OSError("not yet")
            return context.attempt

        def slow(context):
            until = time.monotonic() + 30
            while not context.cancelled and time.monotonic() < until:
                time.sleep(0.01)
        """,
    )
    results = project.execute(
        pipeline(
            '{name: flaky, script: "m.py:flaky", retry: {retries: 2, wait_initial: 0, '
            'wait_jitter: 0}}, {name: slow, script: "m.py:slow", timeout: 0.2}',
            worker_type,
            execution=f"{{worker_type: {worker_type}, failure_policy: collect_all}}",
        )
    )
    assert results["flaky"] == 3
    assert isinstance(results["slow"], StepTimeout)


def test_modules_of_one_group_share_a_worker(project: Project, worker_type: str) -> None:
    project.write(
        "m.py",
        """
        import os, threading

        def make(context):
            return [threading.get_ident(), os.getpid()]

        def same(context):
            return context.get_result("a") == [threading.get_ident(), os.getpid()]
        """,
    )
    results = project.execute(
        pipeline(
            '{name: a, script: "m.py:make", execution_group: g},'
            '{name: b, script: "m.py:same", execution_group: g, depends_on: [a]}',
            worker_type,
        )
    )
    assert results["b"] is True
    assert len(results["a"]) == 2  # it comes back, though only its own group needs it


# -- methods ---------------------------------------------------------------------------------


def test_results_can_be_asked_for_afterwards(project: Project) -> None:
    project.write("m.py", "def run(context): return 1\n")
    orchestrator = project.orchestrator(pipeline('{name: module1, script: "m.py:run"}'))
    assert orchestrator.get_results() == {}
    with pytest.raises(KeyError, match=r"has no result yet; execute\(\)"):
        orchestrator.get_module_result("module1")
    orchestrator.execute_sync()
    assert orchestrator.get_results() == {"module1": 1}
    with pytest.raises(KeyError, match="did you mean 'module1'"):
        orchestrator.get_module_result("modul1")


async def test_execute_sync_inside_a_loop_says_to_await(project: Project) -> None:
    orchestrator = project.orchestrator(pipeline('{name: a, script: "m.py:run"}'))
    with pytest.raises(RuntimeError, match=r"await orchestrator\.execute"):
        orchestrator.execute_sync()


async def test_restart_may_be_awaited_or_not(project: Project) -> None:
    project.write("m.py", "def run(context): return 1\n")
    orchestrator = project.orchestrator(pipeline('{name: a, script: "m.py:run"}'))
    orchestrator.restart()
    assert await orchestrator.restart() == {"a": 1}
    assert await orchestrator.execute(force_restart=True) == {"a": 1}


async def test_cleanup_ends_what_is_in_progress(project: Project) -> None:
    project.write(
        "m.py",
        """
        import asyncio

        async def run(context):
            await asyncio.Event().wait()
        """,
    )
    orchestrator = project.orchestrator(pipeline('{name: a, script: "m.py:run"}'))
    async with orchestrator.start() as run:
        async for event in run.events():
            if event.kind == "NodeStarted":
                break
        cleanup = orchestrator.cleanup()
        assert isinstance(cleanup, Cleanup)
        await cleanup
        assert run.state == "cancelled"
    orchestrator.cleanup()
    assert orchestrator.get_results() == {}


async def test_a_run_can_be_watched_and_a_runtime_can_own_it(project: Project) -> None:
    project.write(
        "m.py", "def run(context):\n    context.report(1, 2)\n    return context.run_id\n"
    )
    orchestrator = project.orchestrator(pipeline('{name: a, script: "m.py:run"}'))
    async with orchestrator.start(run_id="mine") as run:
        assert isinstance(run, Run)
        assert run.id == "mine"
    async with Runtime() as runtime:
        owned = await runtime.start(orchestrator, run_id="owned")
        assert (await owned.result())["a"] == "owned"


async def test_a_shared_runtime_says_that_the_limits_of_a_file_do_not_count(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.write("m.py", "def run(context): return 1\n")
    async with Runtime() as runtime:
        orchestrator = project.orchestrator(
            pipeline('{name: a, script: "m.py:run"}', resources="{max_cpus: 1}"), runtime=runtime
        )
        assert await orchestrator.execute() == {"a": 1}
    assert "do not count in a runtime that is shared" in caplog.text


async def test_the_runtime_around_the_caller_is_used(project: Project) -> None:
    project.write(
        "inner.py", "def run(context): return context.resources.cpus, context.params['x']\n"
    )
    project.write(
        "outer.py",
        """
        import os
        from asyncflow.orchestrator import PipelineOrchestrator

        async def run(context):
            path = os.path.join(os.path.dirname(__file__), "inner.yaml")
            return await PipelineOrchestrator(path).execute()
        """,
    )
    project.write(
        "inner.yaml",
        pipeline('{name: i, script: "inner.py:run", params: {x: 1}, resources: {cpus: 99}}'),
    )
    orchestrator = project.orchestrator(pipeline('{name: o, script: "outer.py:run"}'))
    async with Runtime(max_cpus=3):
        assert await orchestrator.execute() == {"o": {"i": (3, 1)}}


async def test_run_inputs_are_refused(project: Project) -> None:
    orchestrator = project.orchestrator(pipeline('{name: a, script: "m.py:run"}'))
    with pytest.raises(GraphError, match="takes no run inputs"):
        async with orchestrator.start({"x": 1}):
            pass


def test_pictures(project: Project) -> None:
    orchestrator = project.orchestrator(
        pipeline('{name: a, path: "m:A"}, {name: b, path: "m:A", depends_on: [a]}')
    )
    assert "n0 --> n1" in orchestrator.visualize("mermaid")
    assert repr(orchestrator) == "<PipelineOrchestrator 'p' of 2 modules>"
    another = a_result_of_another()
    with pytest.raises(GraphError, match="not its own"):
        orchestrator.visualize("svg", run=another)


def a_result_of_another() -> Any:
    from asyncflow import Pipeline, step

    @step
    def elsewhere() -> int:
        return 1

    return Pipeline("other", steps=[elsewhere]).run_sync()


# -- one at a time ---------------------------------------------------------------------------

OVERLAP = """
import asyncio
import threading

lock, at_work, most = threading.Lock(), 0, 0

class Sync:
    def run(self, context):
        global at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        results = context.execute_tasks([lambda n=n: threading.Event().wait(0.005) for n in (1, 2)])
        with lock:
            at_work -= 1
        if context.params.get("fails") and context.attempt == 1:
            raise OSError("once")
        return most

class Coroutine:
    async def run(self, context):
        global at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.005)
        at_work -= 1
        return most
"""


def test_in_sequential_mode_one_module_runs_at_a_time_whatever_its_kind(project: Project) -> None:
    project.write("m.py", OVERLAP)
    modules = [f'{{name: s{n}, path: "m:Sync", resources: {{cpus: 0}}}}' for n in range(3)]
    modules += [f'{{name: c{n}, path: "m:Coroutine"}}' for n in range(3)]
    modules.append(
        '{name: retried, path: "m:Sync", params: {fails: true}, retry: {retries: 1, '
        "wait_initial: 0.01, wait_jitter: 0}}"
    )
    text = pipeline(", ".join(modules), execution="{mode: sequential}", resources="{max_cpus: 8}")
    assert set(project.execute(text).values()) == {1}


@pytest.mark.parametrize("policy", ["fail_fast", "collect_all"])
def test_sequential_mode_keeps_the_order_and_the_failure_policy(
    project: Project, worker_type: str, policy: str
) -> None:
    project.write(
        "m.py",
        """
        def run(context):
            with open(context.params["file"], "a") as file:
                file.write(context.module_name)
            if context.module_name == "b":
                raise ValueError("b")
        """,
    )
    file = project.folder / "order.txt"
    modules = ", ".join(
        f'{{name: {name}, script: "m.py:run", params: {{file: "{file}"}}{more}}}'
        for name, more in {"a": "", "b": "", "c": ", depends_on: [b]", "d": ""}.items()
    )
    results = project.execute(
        pipeline(
            modules,
            execution=f"{{mode: sequential, failure_policy: {policy}, worker_type: {worker_type}}}",
        )
    )
    assert project.read("order.txt") == ("ab" if policy == "fail_fast" else "abd")
    assert isinstance(results["c"], DependencyError)


# -- what is known of source that is not run -------------------------------------------------

SOURCES = {
    "import os\nif os.name:\n    class A:\n        def run(self, c): ...\n": True,
    "try:\n    from nowhere import A\nexcept ImportError:\n    A = None\n": True,
    "for A in (1,): pass\n": True,
    "def decorate(c): return c\n@decorate\nclass A: ...\n": True,
    "from nowhere import *\n": True,
    "def __getattr__(name): ...\n": True,
    "globals()['A'] = 1\n": True,
    "def make():\n    setattr(make, 'A', 1)\n": False,
    "class B:\n    A = 1\n": False,
    "": False,
}


@pytest.mark.parametrize("source, expected", SOURCES.items())
def test_only_what_cannot_be_there_is_said_to_be_missing(
    project: Project, source: str, expected: bool
) -> None:
    project.write("looked_at.py", source)
    orchestrator = project.orchestrator(pipeline('{name: m, path: "looked_at:A"}'))
    problems = Problems()
    look_at_sources(orchestrator.loaded, problems)
    assert (not problems) is expected
