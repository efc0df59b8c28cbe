"""What one step does to its task, its context or its process never reaches another step."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import sys
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from asyncflow import (
    NodeState,
    Pipeline,
    PipelineResult,
    Retry,
    RunState,
    Step,
    StepFailed,
    step,
)
from tests.programs import output_of

SIBLINGS = 5
FOLLOWERS = 10
LONG_MESSAGE_CHARACTERS = 10_000_000

pytestmark = pytest.mark.both_loops
# Where tasks start eagerly, a step that does not wait is over before its task is ever scheduled.
waiting_or_not = pytest.mark.parametrize("waits", [False, True], ids=["at_once", "waits"])
grouped_or_not = pytest.mark.parametrize("group", [None, "g"], ids=["alone", "grouped"])


async def take_turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@step
async def sibling() -> int:
    await take_turns(8)
    return pending_cancels()


def pending_cancels() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def odd_one_among_others(
    func: Callable[[], Awaitable[Any]], *, waits: bool, group: str | None
) -> Pipeline:
    """The odd step with others beside it and a chain of others below it."""

    @step(execution_group=group)
    async def odd() -> Any:
        if waits:
            await take_turns()
        return await func()

    @step(execution_group=group)
    async def follower(before: Any) -> int:
        if waits:
            await take_turns()
        return pending_cancels()

    pipeline = Pipeline("odd", failure_policy="collect_all")
    for number in range(SIBLINGS):
        pipeline.add_step(sibling, name=f"sibling_{number}")
    pipeline.add_step(odd)
    above = "odd"
    for number in range(FOLLOWERS):
        name = f"follower_{number}"
        pipeline.add_step(follower, name=name, inputs=[above])
        above = name
    return pipeline


def assert_others_are_untouched(result: PipelineResult) -> None:
    for name, found in result.step_results.items():
        if name != "odd":
            assert (name, found.status, found.output) == (name, NodeState.SUCCEEDED, 0)


# -- the task ----------------------------------------------------------------------------


async def cancel_own_task_and_return() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "returned"


async def enter_a_timeout_and_leave_it_open() -> str:
    await asyncio.timeout(0).__aenter__()
    return "returned"


async def enter_a_cancelled_scope_and_leave_it_open() -> str:
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()
    return "returned"


async def enter_an_expired_scope_and_leave_it_open() -> str:
    anyio.move_on_after(0).__enter__()
    return "returned"


async def enter_a_shielded_scope_and_leave_it_open() -> str:
    anyio.CancelScope(shield=True).__enter__()
    return "returned"


async def open_a_task_group_and_leave_it_open() -> str:
    group = anyio.create_task_group()
    await group.__aenter__()
    group.start_soon(take_turns)
    return "returned"


async def cancel_a_task_group_and_leave_it_open() -> str:
    group = anyio.create_task_group()
    await group.__aenter__()
    group.start_soon(take_turns)
    group.cancel_scope.cancel()
    return "returned"


@waiting_or_not
@grouped_or_not
@pytest.mark.parametrize(
    "func",
    [
        cancel_own_task_and_return,
        enter_a_timeout_and_leave_it_open,
        enter_a_cancelled_scope_and_leave_it_open,
        enter_an_expired_scope_and_leave_it_open,
        enter_a_shielded_scope_and_leave_it_open,
        open_a_task_group_and_leave_it_open,
        cancel_a_task_group_and_leave_it_open,
    ],
)
async def test_what_a_step_leaves_open_in_its_task_ends_with_it(
    func: Callable[[], Awaitable[str]], waits: bool, group: str | None
) -> None:
    result = await odd_one_among_others(func, waits=waits, group=group).run()
    result.raise_for_failure()
    assert result["odd"] == "returned"
    assert_others_are_untouched(result)
    assert pending_cancels() == 0


@waiting_or_not
async def test_scopes_closed_in_the_wrong_order_fail_only_their_step(waits: bool) -> None:
    async def close_the_outer_one_first() -> None:
        outer, inner = anyio.CancelScope(), anyio.CancelScope()
        outer.__enter__()
        inner.__enter__()
        outer.__exit__(None, None, None)

    @step
    async def odd() -> None:
        if waits:
            await take_turns()
        await close_the_outer_one_first()

    pipeline = Pipeline("p", steps=[odd, sibling], failure_policy="collect_all")
    result = await pipeline.run()
    assert isinstance(result.step_results["odd"].error, RuntimeError)
    assert result["sibling"] == 0


@waiting_or_not
@grouped_or_not
async def test_a_scope_cannot_be_closed_by_another_step(waits: bool, group: str | None) -> None:
    @step(outputs=["scope"], execution_group=group)
    async def enter() -> anyio.CancelScope:
        if waits:
            await take_turns()
        return anyio.CancelScope().__enter__()

    @step(execution_group=group)
    async def leave(scope: anyio.CancelScope) -> None:
        scope.__exit__(None, None, None)

    @step(execution_group=group)
    async def after(scope: anyio.CancelScope) -> int:
        return pending_cancels()

    pipeline = Pipeline("p", steps=[enter, leave, after], failure_policy="collect_all")
    result = await pipeline.run()
    assert "different task" in str(result.step_results["leave"].error)
    assert result["after"] == 0


@waiting_or_not
@grouped_or_not
async def test_every_step_has_a_task_of_its_own(waits: bool, group: str | None) -> None:
    tasks: list[asyncio.Task[Any] | None] = []
    state: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()

    async def note() -> bool:
        task = asyncio.current_task()
        tasks.append(task)
        assert task is not None
        known = task in state
        state[task] = "known"
        return known

    @step(name="step_0", execution_group=group)
    async def first() -> bool:
        if waits:
            await take_turns()
        return await note()

    @step(execution_group=group)
    async def following(before: bool) -> bool:
        if waits:
            await take_turns()
        return await note()

    pipeline = Pipeline("p", steps=[first])
    for number in range(1, 20):
        pipeline.add_step(following, name=f"step_{number}", inputs=[f"step_{number - 1}"])
    result = await pipeline.run()
    assert not any(result[f"step_{number}"] for number in range(20))
    assert len(set(tasks)) == 20
    assert asyncio.current_task() not in tasks


async def test_every_attempt_has_a_task_of_its_own() -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    @step(retry=Retry(1, wait_initial=0, wait_jitter=0))
    async def fails_once() -> int:
        tasks.append(asyncio.current_task())
        if len(tasks) == 1:
            await cancel_own_task_and_return()
            raise OSError("first try")
        return pending_cancels()

    result = await Pipeline("p", steps=[fails_once]).run()
    assert result["fails_once"] == 0
    assert tasks[0] is not tasks[1]


def own_task_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


@pytest.mark.parametrize("factory", [None, own_task_factory])
async def test_a_foreign_cancel_before_the_first_step_of_a_task_does_not_hang_the_run(
    factory: Any,
) -> None:
    @step
    async def cancels_its_neighbours() -> int:
        victims = [task for task in asyncio.all_tasks() if task.get_name().startswith("victim")]
        for task in victims:
            task.cancel()
        return len(victims)

    @step
    async def victim() -> int:
        await take_turns()
        return 1

    pipeline = Pipeline("p", failure_policy="collect_all")
    for number in range(3):
        pipeline.add_step(victim, name=f"victim_{number}")
    pipeline.add_step(cancels_its_neighbours)
    for number in range(3, 6):
        pipeline.add_step(victim, name=f"victim_{number}")
    asyncio.get_running_loop().set_task_factory(factory)
    result = await pipeline.run()
    states = [result.step_results[f"victim_{number}"].status for number in range(6)]
    assert states.count(NodeState.FAILED) == result["cancels_its_neighbours"] >= 3
    assert states.count(NodeState.SUCCEEDED) == 6 - states.count(NodeState.FAILED)


# -- context variables -------------------------------------------------------------------

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")


@step(lane="inline")
async def tenant_of_a_coroutine() -> str:
    return TENANT.get()


@step(lane="inline")
def tenant_of_an_inline_function() -> str:
    return TENANT.get()


@step(lane="thread")
def tenant_in_a_thread() -> str:
    return TENANT.get()


@step(condition=lambda: TENANT.get() == "north")
async def only_in_the_north() -> str:
    return TENANT.get()


async def test_steps_see_the_caller_s_context_variables() -> None:
    steps: list[Step[..., Any]] = [
        tenant_of_a_coroutine,
        tenant_of_an_inline_function,
        tenant_in_a_thread,
        only_in_the_north,
    ]
    TENANT.set("north")
    result = await Pipeline("p", steps=steps).run()
    assert {result[used] for used in steps} == {"north"}


async def test_runs_at_the_same_time_see_each_its_own_caller() -> None:
    pipeline = Pipeline("p", steps=[tenant_of_a_coroutine, tenant_in_a_thread])

    async def run_for(tenant: str) -> set[Any]:
        TENANT.set(tenant)
        result = await pipeline.run()
        return {result[tenant_of_a_coroutine], result[tenant_in_a_thread]}

    assert await asyncio.gather(*map(run_for, ["a", "b", "c"])) == [{"a"}, {"b"}, {"c"}]


async def change_in_a_coroutine() -> str:
    found = TENANT.get()
    TENANT.set("changed")
    return found


async def change_and_wait() -> str:
    found = await change_in_a_coroutine()
    await take_turns()
    return found


def change_in_a_function() -> str:
    found = TENANT.get()
    TENANT.set("changed")
    return found


async def change_below(before: str) -> str:
    return await change_in_a_coroutine()


def change_in_a_function_below(before: str) -> str:
    return change_in_a_function()


async def change_with_keywords(*, before: str = "") -> str:
    return await change_and_wait()


@grouped_or_not
@pytest.mark.parametrize(
    "first, below, lane",
    [
        (change_in_a_coroutine, change_below, "inline"),
        (change_and_wait, change_below, "inline"),
        (change_with_keywords, change_with_keywords, "inline"),
        (change_in_a_function, change_in_a_function_below, "inline"),
        (change_in_a_function, change_in_a_function_below, "thread"),
    ],
)
async def test_a_step_s_changes_to_them_stay_with_it(
    first: Callable[..., Any], below: Callable[..., Any], lane: Any, group: str | None
) -> None:
    beside = step(first, name="beside", execution_group=group, lane=lane)
    after = step(below, name="after", execution_group=group, lane=lane)
    pipeline = Pipeline("p")
    for number in range(10):
        pipeline.add_step(beside, name=f"step_{number}")
    for number in range(10, 20):
        pipeline.add_step(after, name=f"step_{number}", inputs={"before": f"step_{number - 1}"})
    TENANT.set("caller")
    result = await pipeline.run()
    assert {result[f"step_{number}"] for number in range(20)} == {"caller"}
    assert TENANT.get() == "caller"


# -- what a step raises ------------------------------------------------------------------


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words for it")

    __repr__ = __str__


RAISED: list[Callable[[], BaseException]] = [
    lambda: SystemExit("bye"),
    lambda: SystemExit(0),
    lambda: GeneratorExit(),
    lambda: asyncio.CancelledError("mine"),
    lambda: ExceptionGroup("two", [OSError("a"), ValueError("b")]),
    lambda: BaseExceptionGroup("two", [SystemExit(3), ValueError("b")]),
    lambda: StopAsyncIteration(),
    lambda: TimeoutError("mine too"),
    lambda: MemoryError(),
    UnpicklableError,
    UnprintableError,
    lambda: ValueError("x" * LONG_MESSAGE_CHARACTERS),
]


def raiser(error: BaseException, lane: str, *, waits: bool) -> Step[..., Any]:
    """A step called ``bad`` that raises the error in that kind of place."""

    async def bad_coroutine() -> None:
        if waits:
            await take_turns()
        raise error

    def bad_function() -> None:
        raise error

    if lane == "coroutine":
        return step(bad_coroutine, name="bad")
    return step(bad_function, name="bad", lane="inline" if lane == "inline" else "thread")


async def run_beside_others(bad: Step[..., Any]) -> PipelineResult:
    @step
    def other_thread() -> str:
        return "fine"

    @step(inputs=["bad"])
    async def below(value: None) -> None: ...

    steps = [bad, sibling, other_thread, below]
    return await Pipeline("p", steps=steps, failure_policy="collect_all").run()


PLACES = [("coroutine", False), ("coroutine", True), ("inline", False), ("thread", False)]


@pytest.mark.parametrize("make", RAISED)
@pytest.mark.parametrize("lane, waits", PLACES)
async def test_whatever_a_step_raises_fails_that_step_and_no_more(
    make: Callable[[], BaseException], lane: str, waits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    error = make()
    with caplog.at_level(logging.ERROR, "asyncflow"):
        result = await run_beside_others(raiser(error, lane, waits=waits))
    bad = result.step_results["bad"]
    assert (bad.status, bad.attempts) == (NodeState.FAILED, 1)
    assert bad.error is error
    assert result.state is RunState.FAILED
    assert (result["sibling"], result["other_thread"]) == (0, "fine")
    assert result.step_results["below"].status is NodeState.UPSTREAM_FAILED
    (record,) = caplog.records
    shown = [record.getMessage(), result.summary(), result.to_dict()["steps"]["bad"]["error"]]
    for text in shown:
        assert type(error).__name__ in text
        assert len(text) < 5000
    with pytest.raises(StepFailed, match="'bad' failed at attempt 1") as caught:
        result.raise_for_failure()
    assert caught.value.__cause__ is error


async def test_the_error_of_an_unpicklable_exception_says_more_than_its_type() -> None:
    result = await run_beside_others(raiser(UnpicklableError(), "thread", waits=False))
    with pytest.raises(TypeError):
        pickle.dumps(result.step_results["bad"].error)
    assert result.to_dict()["steps"]["bad"]["error"] == "UnpicklableError: holds a lock"


async def test_an_interrupt_raised_in_an_inline_step_cancels_the_run_as_interrupted() -> None:
    for lane in ("coroutine", "inline"):
        error = KeyboardInterrupt()
        result = await run_beside_others(raiser(error, lane, waits=lane == "coroutine"))
        assert result.state is RunState.CANCELLED
        assert result.reason == "interrupted"
        assert result.step_results["bad"].status is NodeState.FAILED
        assert result.step_results["bad"].error is error
        assert not result.step_results["below"].success


async def test_an_interrupt_raised_in_a_thread_is_that_step_s_error() -> None:
    error = KeyboardInterrupt()
    result = await run_beside_others(raiser(error, "thread", waits=False))
    assert result.state is RunState.FAILED
    assert result.step_results["bad"].error is error
    assert (result["sibling"], result["other_thread"]) == (0, "fine")


async def test_a_condition_that_exits_fails_its_step_and_no_more() -> None:
    def leave() -> bool:
        sys.exit("from a condition")

    @step(name="bad", condition=leave)
    async def never_runs() -> None: ...

    result = await run_beside_others(never_runs)
    assert result.step_results["bad"].status is NodeState.FAILED
    assert isinstance(result.step_results["bad"].error, StepFailed)
    assert "SystemExit: from a condition" in str(result.step_results["bad"].error)
    assert result["sibling"] == 0


@pytest.mark.parametrize("lane", ["coroutine", "inline", "thread"])
async def test_the_traceback_of_an_error_begins_in_the_step_itself(lane: str) -> None:
    result = await run_beside_others(raiser(OSError("broken"), lane, waits=False))
    error = result.step_results["bad"].error
    assert error is not None
    (frame,) = traceback.extract_tb(error.__traceback__)
    assert frame.name in ("bad_coroutine", "bad_function")


# -- the process -------------------------------------------------------------------------

QUIET = """
import asyncio, signal, sys, threading
from asyncflow import Pipeline, Runtime, step

heard = []
sys.addaudithook(lambda event, args: heard.append(event) if recording else None)
recording = False

def handlers():
    return {number: signal.getsignal(number) for number in signal.valid_signals()}

@step(outputs=["seen"])
async def inline():
    await asyncio.sleep(0)
    return threading.active_count(), handlers()

@step
def threaded(seen):
    return threading.active_count()

async def main():
    global recording
    before = handlers()
    recording = True
    first = await Pipeline("inline", steps=[inline]).run()
    async with Runtime() as runtime:
        again = await Pipeline("inline", steps=[inline]).run(runtime=runtime)
        inside = threading.active_count()
    recording = False
    assert first["seen"] == again["seen"] == (1, before), first["seen"][0]
    assert inside == 1, threading.enumerate()
    opened = [event for event in heard if event.startswith(("socket.", "subprocess.", "os.fork"))]
    assert not opened, opened
    both = await Pipeline("both", steps=[inline, threaded]).run()
    assert both["seen"] == (1, before)
    assert both["threaded"] == 2
    assert threading.active_count() == 1, threading.enumerate()
    assert handlers() == before

asyncio.run(main())
before = handlers()
count, during = Pipeline("blocking", steps=[inline]).run_sync()["seen"]
assert count == 1
assert during == before == handlers()
assert signal.set_wakeup_fd(-1) == -1
print("quiet")
"""


def test_a_run_takes_no_signal_no_socket_and_no_thread_before_it_needs_one() -> None:
    assert output_of(QUIET) == "quiet"


FORGOTTEN = """
import asyncio, threading
from asyncflow import Pipeline, Runtime, step

@step(timeout=0.05)
def never_ends():
    threading.Event().wait()

async def main():
    async with Runtime(grace_seconds=0.05) as runtime:
        result = await Pipeline("stuck", steps=[never_ends]).run(runtime=runtime)
    print(result.step_results["never_ends"].status)

asyncio.run(main())
"""


def test_a_thread_that_never_ends_does_not_keep_the_program_from_ending() -> None:
    assert output_of(FORGOTTEN) == "abandoned"
