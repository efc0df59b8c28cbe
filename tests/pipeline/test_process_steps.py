"""Steps in processes, from end to end."""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow import (
    GraphError,
    NodeState,
    ParallelExecutor,
    Pipeline,
    RemoteError,
    Runtime,
    StepContext,
    StepTimeout,
    WorkerDied,
    step,
)
from asyncflow.events import NodeOutput, NodeProgress

PATIENCE_SECONDS = 30.0


@step(lane="process")
def double(number: int) -> int:
    return 2 * number


async def test_a_value_goes_to_a_process_and_comes_back() -> None:
    result = await Pipeline("p", steps=[double]).run(inputs={"number": 21})
    assert result["double"] == 42
    found = result.step_results["double"]
    assert (found.lane, found.worker, found.attempts) == ("process", "process-1", 1)
    assert found.duration_seconds > 0


@pytest.mark.parametrize(
    "imports",
    [
        "from asyncflow import step",
        "from asyncflow import *",
        "import asyncflow; step = asyncflow.step",
        "from asyncflow.step import Step; from asyncflow import step",
    ],
)
async def test_a_worker_finds_the_decorator_however_a_module_imports_it(
    imports: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user_steps.py").write_text(
        f"{imports}\n"
        "@step(lane='process')\n"
        "def triple(number: int) -> int:\n"
        "    return 3 * number\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_steps", raising=False)
    triple = importlib.import_module("user_steps").triple
    result = await Pipeline("p", steps=[triple]).run(inputs={"number": 5})
    result.raise_for_failure()
    assert result["triple"] == 15


async def test_closures_lambdas_and_local_classes_go_by_value() -> None:
    offset = 5

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    @step(lane="process")
    def move(point: Point) -> Point:
        return Point((lambda x: x + offset)(point.x))

    result = await Pipeline("p", steps=[move]).run(inputs={"point": Point(1)})
    assert isinstance(result["move"], Point)
    assert result["move"].x == 6


async def test_a_coroutine_step_runs_on_the_worker_s_own_loop() -> None:
    @step(lane="process")
    async def where() -> int:
        return os.getpid()

    result = await Pipeline("p", steps=[where]).run()
    assert result["where"] != os.getpid()
    assert result.step_results["where"].lane == "process"


async def test_what_a_step_prints_is_captured_told_and_echoed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    @step(lane="process")
    def talk(word: str) -> None:
        print(word)
        os.write(1, b"raw")
        print("aside", file=sys.stderr)

    pipeline = Pipeline("p")
    for number in range(3):
        pipeline.add_step(talk, f"talk {number}", params={"word": f"word {number}"})
    told = []
    async with pipeline.start(executor=ParallelExecutor(max_workers=1)) as run:
        async for event in run.events():
            if isinstance(event, NodeOutput):
                told.append((event.node, event.stream, event.lines))
        result = await run.result()
    for number in range(3):
        assert result.step_results[f"talk {number}"].stdout == f"word {number}\nraw\n"
        mine = [(stream, lines) for node, stream, lines in told if node == f"talk {number}"]
        assert ("stderr", ("aside",)) in mine
    out, err = capfd.readouterr()
    assert "word 2" in out
    assert "aside" in err


async def test_log_records_reach_the_host_s_loggers(caplog: pytest.LogCaptureFixture) -> None:
    @step(lane="process")
    def log(context: StepContext) -> None:
        context.logger.warning("%s is odd", "this")

    with caplog.at_level(logging.INFO):
        await Pipeline("p", steps=[log]).run()
    (record,) = [r for r in caplog.records if r.name == "asyncflow.step.p.log"]
    assert (record.getMessage(), record.levelno) == ("this is odd", logging.WARNING)


async def test_progress_is_told_while_the_step_runs() -> None:
    @step(lane="process")
    def work(context: StepContext) -> tuple[str, int, str]:
        context.report(1, total=2, message="half")
        return context.run_id, context.attempt, context.idempotency_key

    async with Pipeline("p", steps=[work]).start(run_id="r") as run:
        events = [event async for event in run.events()]
        result = await run.result()
    (progress,) = [event for event in events if isinstance(event, NodeProgress)]
    assert (progress.done, progress.total, progress.message) == (1, 2, "half")
    assert result["work"] == ("r", 1, "r/work")


# -- what goes wrong -----------------------------------------------------------------------


class Peculiar(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


async def outcome_of(func: Any, **options: Any) -> Any:
    result = await Pipeline("p", steps=[step(func, name="it", lane="process", **options)]).run()
    return result.step_results["it"]


async def test_an_exception_comes_with_its_causes_its_notes_and_the_worker_s_traceback() -> None:
    def fail() -> None:
        error = ValueError("wrong")
        error.add_note("a note")
        try:
            raise KeyError("before")
        except KeyError as before:
            raise error from before

    error = (await outcome_of(fail)).error
    assert repr(error) == "ValueError('wrong')"
    assert repr(error.__cause__) == "KeyError('before')"
    assert error.__notes__[0] == "a note"
    assert "in fail" in error.__notes__[1]


async def test_an_exception_that_cannot_travel_comes_as_a_remote_error() -> None:
    def fail() -> None:
        raise Peculiar("a", "b")

    error = (await outcome_of(fail)).error
    assert isinstance(error, RemoteError)
    assert error.type_name.endswith("test_process_steps.Peculiar")
    assert error.text == "Peculiar: ab"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_what_would_end_a_program_fails_the_step(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind(3)

    found = await outcome_of(fail)
    assert found.status is NodeState.FAILED
    assert type(found.error) is kind


async def test_a_dead_worker_is_retried_by_the_step_s_policy(tmp_path: Path) -> None:
    mark = tmp_path / "died"

    def die_once() -> str:
        if not mark.exists():
            mark.touch()
            os._exit(7)
        return "second try"

    found = await outcome_of(die_once, retry=1)
    assert (found.output, found.attempts) == ("second try", 2)


async def test_a_step_that_has_killed_three_workers_is_blamed() -> None:
    found = await outcome_of(lambda: os._exit(7), retry=100)
    assert isinstance(found.error, WorkerDied)
    assert found.attempts == 3
    assert "it has killed 3 workers and is not tried again" in found.error.__notes__


async def outcome_of_hanging(func: Any, grace_seconds: float) -> Any:
    async with Runtime(grace_seconds=grace_seconds):
        found = await outcome_of(func, timeout=0.2, retry=0)
    assert found.status is NodeState.TIMED_OUT
    assert isinstance(found.error, StepTimeout)
    return found


async def test_a_timeout_asks_first() -> None:
    def polite(context: StepContext) -> str:
        import time

        while not context.cancelled:
            time.sleep(0.001)
        raise RuntimeError("was told")

    found = await outcome_of_hanging(polite, grace_seconds=PATIENCE_SECONDS)
    assert repr(found.error.__cause__) == "RuntimeError('was told')"


async def test_after_a_timeout_who_does_not_listen_is_killed() -> None:
    def stubborn() -> None:
        import time

        time.sleep(2 * PATIENCE_SECONDS)

    await outcome_of_hanging(stubborn, grace_seconds=0.2)


async def test_a_cancelled_run_leaves_nothing_behind() -> None:
    def forever() -> None:
        import time

        time.sleep(PATIENCE_SECONDS)

    async with (
        Runtime(grace_seconds=0.05) as runtime,
        Pipeline("p", steps=[step(forever, lane="process")]).start(runtime=runtime) as run,
    ):
        async for event in run.events():
            if event.kind == "NodeStarted":
                break
        await run.cancel()
        assert run.abandoned == ()
        result = await run.result()
    assert result.step_results["forever"].status is NodeState.CANCELLED


# -- what is refused -----------------------------------------------------------------------


def test_a_function_that_cannot_be_sent_is_refused_when_built() -> None:
    import threading

    lock = threading.Lock()

    @step(lane="process")
    def locked() -> None:
        with lock:
            pass

    with pytest.raises(GraphError, match=r"step 'locked' runs in a process.*it holds lock"):
        Pipeline("p", steps=[locked]).build()


async def test_a_service_does_not_go_to_a_process() -> None:
    @step(lane="process")
    def fetch(client: Any) -> None: ...

    with pytest.raises(GraphError, match="step 'fetch' runs in a process and wants the service"):
        await Pipeline("p", steps=[fetch]).run(services={"client": object()})


def endless() -> Iterator[int]:
    yield from itertools.count()


UNSENDABLE: list[tuple[Any, str]] = [
    ({"x": [1, 2, 3, sys.stdout]}, 'page["x"][3], a '),
    ((0, {endless()}), "an element of page[1], a generator"),
    ([1, endless()], "page[1], a generator"),
]


@pytest.mark.parametrize("value, path", UNSENDABLE)
async def test_an_argument_that_cannot_be_sent_is_named(value: Any, path: str) -> None:
    @step(lane="process")
    def read(page: Any) -> None: ...

    result = await Pipeline("p", steps=[read]).run(inputs={"page": value})
    assert f"step 'read' cannot be sent its arguments: {path}" in str(
        result.step_results["read"].error
    )


async def test_a_result_that_cannot_be_sent_is_named() -> None:
    found = await outcome_of(lambda: {"x": [0, 1, 2, endless()]})
    assert 'cannot be sent back from its worker: result["x"][3], a generator' in str(found.error)


# -- scripts -------------------------------------------------------------------------------

SCRIPT = """
from asyncflow import Pipeline, ParallelExecutor, step

class Point:
    def __init__(self, x): self.x = x

@step
def make(x): return Point(x + 1)

pipeline = Pipeline("p", steps=[make])
result = pipeline.run_sync({"x": 1}, executor=ParallelExecutor(max_workers=2))
print(type(result["make"]) is Point, result["make"].x)
"""


@pytest.mark.parametrize("form", ["file", "stdin", "-c"])
def test_a_script_needs_no_guard(form: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    arguments = {"file": [str(path)], "stdin": ["-"], "-c": ["-c", SCRIPT]}[form]
    ended = subprocess.run(
        [sys.executable, *arguments],
        input=SCRIPT if form == "stdin" else None,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("True 2\n", "")


# -- workers ahead of need ------------------------------------------------------------


async def test_workers_can_be_started_before_a_step_needs_one() -> None:
    async with Runtime() as runtime:
        runtime.start_workers(2)
        children = {child.pid for child in psutil.Process().children()}
        run = await runtime.start(Pipeline("p", steps=[step(os.getpid, name="x", lane="process")]))
        assert (await run.result())["x"] in children


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 1.5}, {"cpus": -1}], ids=str)
async def test_no_wrong_number_of_workers_is_started(wrong: dict[str, Any]) -> None:
    async with Runtime() as runtime:
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            runtime.start_workers(**wrong)
    with pytest.raises(RuntimeError):
        runtime.start_workers()
