"""Cached steps: found by code and inputs, and never in the way of a run."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncflow import (
    GraphError,
    Pipeline,
    PipelineResult,
    Retry,
    Runtime,
    Secret,
    StepContext,
    step,
)
from asyncflow.events import Event, NodeFinished, NodeStarted, Warned
from asyncflow.step import Step
from asyncflow.storage.cache import CacheStore
from asyncflow.storage.journal import read_events
from asyncflow.testing import VirtualRuntime


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    async with Runtime(directory=tmp_path / "kept") as runtime:
        yield runtime


def counting(calls: list[Any], offset: int = 0, **options: Any) -> Step[..., Any]:
    """A cached step that notes its calls."""

    def add(x: Any) -> Any:
        calls.append(x)
        return (x, offset)

    return step(add, **{"cache": "code_hash", **options})


async def run(
    pipeline: Pipeline, runtime: Runtime, **inputs: Any
) -> tuple[PipelineResult, list[Event]]:
    async with pipeline.start(inputs, runtime=runtime, checkpoint=False) as running:
        events = [event async for event in running.events()]
        return await running.result(), events


def warnings_of(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


async def test_a_second_call_with_the_same_inputs_is_not_made(runtime: Runtime) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", steps=[counting(calls)])
    first, _ = await run(pipeline, runtime, x=1)
    again, events = await run(pipeline, runtime, x=1)
    assert (calls, first["add"], again["add"]) == ([1], (1, 0), (1, 0))
    assert not first.step_results["add"].cached
    found = again.step_results["add"]
    assert (found.cached, found.success, found.attempts) == (True, True, 0)
    assert not [event for event in events if isinstance(event, NodeStarted)]
    (finished,) = [event for event in events if isinstance(event, NodeFinished)]
    assert (finished.cached, finished.state) == (True, "succeeded")


async def test_other_inputs_or_other_code_are_another_call(runtime: Runtime) -> None:
    calls: list[Any] = []
    for x, offset in ((1, 0), (2, 0), (1, 5)):
        result, _ = await run(Pipeline("p", steps=[counting(calls, offset)]), runtime, x=x)
        assert result["add"] == (x, offset)
    assert calls == [1, 2, 1]


async def test_the_input_hash_leaves_the_code_out(runtime: Runtime) -> None:
    calls: list[Any] = []
    for offset in (0, 5):
        step_ = counting(calls, offset, cache="input_hash")
        result, _ = await run(Pipeline("p", steps=[step_]), runtime, x=1)
        assert result["add"] == (1, 0)
    assert calls == [1]


async def test_a_function_makes_the_key(runtime: Runtime) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", steps=[counting(calls, cache=lambda x: x % 10)])
    assert [(await run(pipeline, runtime, x=x))[0]["add"][0] for x in (1, 11, 2)] == [1, 1, 2]
    assert calls == [1, 2]


async def test_other_runtimes_with_that_directory_find_it_too(tmp_path: Path) -> None:
    calls: list[Any] = []
    for _ in range(2):
        async with Runtime(directory=tmp_path) as runtime:
            await run(Pipeline("p", steps=[counting(calls)]), runtime, x=1)
    assert calls == [1]


async def test_without_a_directory_it_lies_under_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[Any] = []
    with caplog.at_level("INFO", logger="asyncflow"):
        for _ in range(2):
            await Pipeline("p", steps=[counting(calls)]).run({"x": 1})
    assert calls == [1]
    assert (tmp_path / ".asyncflow" / "cache").is_dir()
    said = [text for text in caplog.messages if "results are cached in" in text]
    assert len(said) == 1
    assert str(tmp_path / ".asyncflow") in said[0]


async def test_a_step_without_cache_touches_no_disk(tmp_path: Path) -> None:
    calls: list[Any] = []
    async with Runtime(directory=tmp_path / "kept") as runtime:
        for _ in range(2):
            await run(Pipeline("p", steps=[counting(calls, cache=False)]), runtime, x=1)
    assert calls == [1, 1]
    assert not (tmp_path / "kept").exists()


async def test_members_of_a_group_are_passed_over_one_by_one(runtime: Runtime) -> None:
    calls: list[Any] = []
    cached = counting(calls, execution_group="g")

    @step(execution_group="g")
    def first(x: int) -> int:
        calls.append("first")
        return x

    @step(execution_group="g")
    async def last(add: Any) -> Any:
        calls.append("last")
        return add

    pipeline = Pipeline("p", steps=[first]).add_step(cached, inputs={"x": "first"}).add_step(last)
    assert [len(group.steps) for group in pipeline.step_groups] == [3]
    for expected in (["first", 1, "last"], ["first", "last"]):
        result, _ = await run(pipeline, runtime, x=1)
        assert (calls, result["last"]) == (expected, (1, 0))
        calls.clear()


async def test_elements_of_a_map_are_found_one_by_one(runtime: Runtime) -> None:
    calls: list[Any] = []

    @step(outputs=["numbers"])
    async def count(wanted: list[int]) -> list[int]:
        return wanted

    pipeline = Pipeline("p", steps=[count]).add_step(
        counting(calls), inputs={"x": "numbers"}, map="numbers"
    )
    await run(pipeline, runtime, wanted=[1, 2])
    again, _ = await run(pipeline, runtime, wanted=[2, 3, 1])
    assert sorted(calls) == [1, 2, 3]
    assert again["add"] == [(2, 0), (3, 0), (1, 0)]


async def test_nested_calls_are_found_too(runtime: Runtime) -> None:
    calls: list[Any] = []
    cached = counting(calls)

    @step
    async def outer(ctx: StepContext) -> Any:
        return await ctx.call(cached, 7)

    for _ in range(2):
        result, _ = await run(Pipeline("p", steps=[outer]), runtime)
        assert result["outer"] == (7, 0)
    assert calls == [7]


async def test_a_result_of_a_later_try_is_kept(runtime: Runtime) -> None:
    calls: list[Any] = []

    def flaky(x: int) -> int:
        calls.append(x)
        if len(calls) == 1:
            raise ConnectionError
        return x

    pipeline = Pipeline(
        "p", steps=[step(flaky, cache="input_hash", retry=Retry(1, wait_initial=0.001))]
    )
    for _ in range(2):
        result, _ = await run(pipeline, runtime, x=3)
        assert result["flaky"] == 3
    assert calls == [3, 3]


async def test_a_failure_is_never_kept(runtime: Runtime) -> None:
    calls: list[Any] = []

    def fail(x: int) -> int:
        calls.append(x)
        raise ValueError("no")

    pipeline = Pipeline("p", steps=[step(fail, cache="input_hash")])
    for _ in range(2):
        result, _ = await run(pipeline, runtime, x=1)
        assert not result.success
    assert calls == [1, 1]


@dataclass
class Point:
    x: int


async def test_typed_values_come_back_by_the_annotation(runtime: Runtime) -> None:
    calls: list[int] = []

    @step(cache="input_hash")
    async def point(x: int) -> list[Point]:
        calls.append(x)
        return [Point(x)]

    for _ in range(2):
        result, _ = await run(Pipeline("p", steps=[point]), runtime, x=4)
        assert result["point"] == [Point(4)]
    assert calls == [4]


async def test_several_outputs_and_none_come_back(runtime: Runtime) -> None:
    calls: list[int] = []

    @step(cache="input_hash", outputs=["a", "b"])
    def both(x: int) -> tuple[int, None]:
        calls.append(x)
        return x, None

    @step(cache="input_hash")
    def nothing(b: None) -> None:
        calls.append(0)

    for _ in range(2):
        result, _ = await run(Pipeline("p", steps=[both, nothing]), runtime, x=4)
        assert (result["a"], result["b"], result["nothing"]) == (4, None, None)
    assert calls == [4, 0]


# -- what does not count ---------------------------------------------------------------


async def test_services_contexts_and_secrets_do_not_count(runtime: Runtime) -> None:
    calls: list[Any] = []

    @step(cache="input_hash")
    async def fetch(url: str, client: Any, ctx: StepContext, token: Any = None) -> str:
        calls.append(url)
        return url

    pipeline = Pipeline("p", steps=[fetch])
    for number in range(2):
        async with pipeline.start(
            {"url": "u", "token": Secret(number)}, services={"client": object()}, runtime=runtime
        ) as running:
            await running.result()
    assert calls == ["u"]


async def test_nothing_that_is_secret_is_written(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "canary-of-the-environment")

    @step(cache="code_hash")
    async def fetch(url: str, token: Any, client: Any) -> dict[str, int]:
        return {"length": len(token.reveal()) + len(client)}

    async with Pipeline("p", steps=[fetch]).start(
        {"url": "u", "token": Secret("canary-of-a-secret")},
        services={"client": "canary-of-a-service"},
        runtime=runtime,
    ) as running:
        assert (await running.result()).success
    written = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert any("cache" in path.parts for path in written)
    assert not [path for path in written if b"canary" in path.read_bytes()]


# -- faults of the cache ---------------------------------------------------------------


async def test_a_damaged_entry_is_a_miss_with_a_warning(runtime: Runtime, tmp_path: Path) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", steps=[counting(calls)])
    await run(pipeline, runtime, x=1)
    (entry,) = [path for path in (tmp_path / "kept" / "cache").rglob("*") if path.is_file()]
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    result, events = await run(pipeline, runtime, x=1)
    assert (result["add"], calls) == ((1, 0), [1, 1])
    (warning,) = warnings_of(events)
    assert "step 'add'" in warning
    assert "damaged" in warning
    result, events = await run(pipeline, runtime, x=1)
    assert result.step_results["add"].cached
    assert not warnings_of(events)


async def test_an_input_that_cannot_be_hashed_is_a_warning(runtime: Runtime) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", steps=[counting(calls)])
    for _ in range(2):
        result, events = await run(pipeline, runtime, x=[threading.Lock()])
        assert result.success
        (warning,) = warnings_of(events)
        assert "x[0] is of type _thread.lock" in warning
    assert len(calls) == 2


async def test_a_result_that_no_codec_takes_is_a_warning(runtime: Runtime) -> None:
    calls: list[Any] = []

    @step(cache="input_hash")
    def lock(x: int) -> Any:
        calls.append(x)
        return {"lock": threading.Lock()}

    for _ in range(2):
        result, events = await run(Pipeline("p", steps=[lock]), runtime, x=1)
        assert result.success
        (warning,) = warnings_of(events)
        assert "not cached: result['lock'] is of type _thread.lock" in warning
    assert calls == [1, 1]


async def test_a_key_function_that_raises_is_a_warning(runtime: Runtime) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", steps=[counting(calls, cache=lambda x: x / 0)])
    result, events = await run(pipeline, runtime, x=1)
    assert result.success
    assert "its cache= callable raised ZeroDivisionError" in warnings_of(events)[0]


async def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file is in the way")
    calls: list[Any] = []
    async with Runtime(directory=tmp_path / "kept") as runtime:
        result, events = await run(Pipeline("p", steps=[counting(calls)]), runtime, x=1)
    assert result["add"] == (1, 0)
    assert len(warnings_of(events)) == 2


# -- time ------------------------------------------------------------------------------


class Held:
    """A store whose calls wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        real = getattr(CacheStore, name)

        def held(*args: Any) -> Any:
            self.entered.set()
            assert self.released.wait(20)
            return real(*args)

        monkeypatch.setattr(CacheStore, name, held)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 20)


@pytest.mark.parametrize("name, told", [("load", "looked up"), ("save", "being saved")])
async def test_the_loop_never_waits_for_the_disk(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    held = Held(monkeypatch, name)
    calls: list[Any] = []
    other_ran = asyncio.Event()

    @step
    async def other() -> None:
        other_ran.set()

    pipeline = Pipeline("p", steps=[counting(calls, lane="inline"), other])
    async with pipeline.start({"x": 1}, runtime=runtime) as running:
        await held.wait_entered()
        await other_ran.wait()
        assert told in running.explain("add")
        held.released.set()
        assert (await running.result())["add"] == (1, 0)


@pytest.mark.parametrize("name", ["load", "save"])
async def test_a_run_can_be_cancelled_while_the_disk_is_slow(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    held = Held(monkeypatch, name)
    calls: list[Any] = []
    run_ = await runtime.start(Pipeline("p", steps=[counting(calls)]), {"x": 1})
    await held.wait_entered()
    await run_.cancel()
    result = await run_.result()
    assert str(result.state) == "cancelled"
    assert str(result.step_results["add"].status) == (
        "cancelled" if name == "load" else "succeeded"
    )
    held.released.set()


async def test_closing_the_runtime_waits_for_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, "save")
    calls: list[Any] = []
    async with Runtime(directory=tmp_path / "kept", grace_seconds=0.05) as runtime:
        run_ = await runtime.start(Pipeline("p", steps=[counting(calls)]), {"x": 1})
        await held.wait_entered()
        await run_.cancel()
        asyncio.get_running_loop().call_soon(held.released.set)
    async with Runtime(directory=tmp_path / "kept") as runtime:
        await run(Pipeline("p", steps=[counting(calls)]), runtime, x=1)
    assert calls == [1]


async def test_being_cancelled_while_closing_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, "save")
    calls: list[Any] = []
    runtime = Runtime(directory=tmp_path / "kept")
    await runtime.__aenter__()
    run_ = await runtime.start(Pipeline("p", steps=[counting(calls)]), {"x": 1})
    await held.wait_entered()
    await run_.cancel()
    closing = asyncio.create_task(runtime.aclose(drain_seconds=0))
    for _ in range(3):
        await asyncio.sleep(0)
        closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    held.released.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not [t for t in threading.enumerate() if t.name.startswith("asyncflow-cache")]


async def test_two_runs_at_once_may_both_make_the_call(runtime: Runtime) -> None:
    calls: list[Any] = []
    pipeline = Pipeline("p", steps=[counting(calls)])
    results = await asyncio.gather(*(pipeline.run({"x": 1}, runtime=runtime) for _ in range(8)))
    assert {result["add"] for result in results} == {(1, 0)}
    assert 1 <= len(calls) <= 8


def test_in_virtual_time_nothing_is_cached(tmp_path: Path) -> None:
    calls: list[Any] = []
    virtual = VirtualRuntime(directory=tmp_path / "kept")
    for _ in range(2):
        virtual.run(Pipeline("p", steps=[counting(calls)]), {"x": 1})
    assert calls == [1, 1]
    assert not (tmp_path / "kept").exists()


# -- wrong options ---------------------------------------------------------------------


async def key_of_coroutine(x: Any) -> Any: ...


@pytest.mark.parametrize(
    "wrong, why",
    [
        (True, "'code_hash', 'input_hash', False"),
        ("code", "'code_hash', 'input_hash', False"),
        (None, "'code_hash', 'input_hash', False"),
        (key_of_coroutine, "plain function"),
        (lambda y: y, "'y', which is no parameter"),
    ],
)
def test_wrong_values_of_cache_are_refused(wrong: Any, why: str) -> None:
    with pytest.raises(GraphError) as refused:
        counting([], cache=wrong)
    assert "step 'add': cache: " in str(refused.value)
    assert why in str(refused.value)


# -- runs that record ------------------------------------------------------------------


async def test_a_run_that_records_tells_of_hits_now_and_when_it_is_read_again(
    tmp_path: Path,
) -> None:
    calls: list[Any] = []

    @step
    def after(add: Any) -> Any:
        calls.append("after")
        return add

    pipeline = Pipeline("p", steps=[counting(calls), after])
    async with Runtime(directory=tmp_path) as runtime:
        for run_id in ("first", "second", "second"):
            result = await pipeline.run({"x": 1}, runtime=runtime, run_id=run_id)
            assert result["after"] == (1, 0)
            assert result.step_results["add"].cached == (run_id == "second")
        assert result.resumed
    seen = list(read_events(tmp_path, "second"))
    assert calls == [1, "after", "after"]
    ends = {event.node: event.cached for event in seen if isinstance(event, NodeFinished)}
    assert ends == {"add": True, "after": False}


async def test_warnings_of_the_cache_are_recorded_too(tmp_path: Path) -> None:
    calls: list[Any] = []
    async with Runtime(directory=tmp_path) as runtime:
        pipeline = Pipeline("p", steps=[counting(calls, cache=lambda x: x / 0)])
        async with pipeline.start({"x": 1}, runtime=runtime, run_id="r") as running:
            live = warnings_of([event async for event in running.events()])
    read = warnings_of(list(read_events(tmp_path, "r")))
    assert live == read
    assert len(read) == 1


# -- worker processes ------------------------------------------------------------------


def _pid_and(x: Any) -> list[Any]:
    return [os.getpid(), x]


def _both(make: list[Any], extend: list[Any]) -> list[Any]:
    return [os.getpid(), make, extend]


async def test_members_of_a_group_in_a_process_are_found_one_by_one(runtime: Runtime) -> None:
    in_process: dict[str, Any] = {"lane": "process", "execution_group": "g"}
    pipeline = (
        Pipeline("p")
        .add_step(step(_pid_and, name="make", **in_process))
        .add_step(
            step(_pid_and, name="extend", cache=lambda x: x[1], **in_process), inputs={"x": "make"}
        )
        .add_step(step(_both, name="both", **in_process))
    )
    first, events = await run(pipeline, runtime, x=5)
    assert not warnings_of(events)
    made, extended = first["make"], first["extend"]
    assert extended[1] == made
    again, events = await run(pipeline, runtime, x=5)
    assert not warnings_of(events)
    assert again.step_results["extend"].cached
    assert not again.step_results["make"].cached
    assert again["both"][2] == extended
