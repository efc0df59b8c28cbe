"""stream_map: any stream in, results out, so many at once, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import (
    GraphError,
    Pipeline,
    Retry,
    RetryAfter,
    Runtime,
    StepCancelled,
    StepContext,
    StepTimeout,
    step,
    stream_map,
)
from tests.virtual_time import Gate, now, run_virtually, turns, virtual_time


async def collect(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


async def collect_until_error(results: AsyncIterator[Any]) -> tuple[list[Any], BaseException]:
    """What came before the error, and the error."""
    found = []
    try:
        async for result in results:
            found.append(result)
    except Exception as error:  # noqa: BLE001 - the tests say which
        return found, error
    raise AssertionError(f"no error came after {found}")


async def double(number: int) -> int:
    return 2 * number


async def sleep_so_long(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def double_in_thread(number: int) -> int:
    return 2 * number


async def counting(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0)
        yield number


class Watched:
    """A source that knows how many items were taken and whether it was closed."""

    def __init__(self, items: Iterable[Any], *, error: BaseException | None = None) -> None:
        self.taken = 0
        self.closed = 0
        self._items = iter(items)
        self._error = error

    def __aiter__(self) -> Watched:
        return self

    async def __anext__(self) -> Any:
        for item in self._items:
            self.taken += 1
            return item
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


class Load:
    """Counts how many calls are in progress, and how many there were at most."""

    def __init__(self) -> None:
        self.present = 0
        self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.present += 1
            self.most = max(self.most, self.present)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.present -= 1


# -- results ---------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_values_come_in_the_order_of_the_source() -> None:
    assert await collect(stream_map(double, range(1000), concurrency=7)) == [
        2 * number for number in range(1000)
    ]


@pytest.mark.both_loops
async def test_an_async_source_is_as_good_as_any() -> None:
    found = await collect(stream_map(double, counting(100), concurrency=7))
    assert found == [2 * number for number in range(100)]


@virtual_time
async def test_unordered_pairs_come_as_calls_end() -> None:
    found = await collect(stream_map(sleep_so_long, [3, 1, 2], concurrency=3, ordered=False))
    assert found == [(1, 1), (2, 2), (3, 3)]
    assert now() == 3


@virtual_time
async def test_calls_overlap_and_no_more_than_allowed() -> None:
    await collect(stream_map(sleep_so_long, [1.0] * 10, concurrency=5))
    assert now() == 2


@pytest.mark.parametrize("source", [[], range(0), counting(0)], ids=["list", "range", "async"])
async def test_an_empty_source_gives_nothing(source: Any) -> None:
    assert await collect(stream_map(double, source, concurrency=3)) == []


@pytest.mark.both_loops
async def test_plain_functions_run_in_threads() -> None:
    async def of_thread(results: AsyncIterator[tuple[int, int]]) -> set[int]:
        return {ident async for _, ident in results}

    idents = await of_thread(
        stream_map(lambda _: threading.get_ident(), range(50), concurrency=3, ordered=False)
    )
    assert threading.get_ident() not in idents
    assert 1 <= len(idents) <= 3


async def test_threads_are_no_more_than_those_of_the_runtime() -> None:
    load, meeting = Load(), threading.Barrier(2)

    def meet(number: int) -> int:
        with load:
            meeting.wait(10)
        return number

    async with Runtime(max_threads=2):
        assert await collect(stream_map(meet, range(10), concurrency=9)) == list(range(10))
    async with Runtime(max_threads=2) as runtime:
        results = stream_map(meet, range(10), concurrency=9, runtime=runtime)
        assert await collect(results) == list(range(10))
    assert load.most == 2


async def test_a_step_brings_its_lane() -> None:
    @step(lane="inline")
    def where(_: int) -> int:
        return threading.get_ident()

    assert await collect(stream_map(where, range(3), concurrency=2)) == [threading.get_ident()] * 3


async def test_builtins_partials_and_callable_objects_are_functions() -> None:
    class Doubling:
        async def __call__(self, number: int) -> int:
            return 2 * number

    assert await collect(stream_map(str.upper, ["a", "b"], concurrency=2)) == ["A", "B"]
    assert await collect(stream_map(int, ["1", "2"], concurrency=2)) == [1, 2]
    assert await collect(stream_map(Doubling(), range(3), concurrency=2)) == [0, 2, 4]


async def test_each_call_has_its_own_copy_of_the_context() -> None:
    setting: contextvars.ContextVar[int] = contextvars.ContextVar("setting", default=-1)

    async def look_and_set(number: int) -> int:
        seen = setting.get()
        setting.set(number)
        await asyncio.sleep(0)
        assert setting.get() == number
        return seen

    results = stream_map(look_and_set, range(20), concurrency=3)
    setting.set(7)
    assert await collect(results) == [7] * 20
    assert setting.get() == 7


async def test_each_call_runs_in_a_task_of_its_own() -> None:
    tasks: list[Any] = []

    async def remember(_: int) -> None:
        tasks.append(asyncio.current_task())

    await collect(stream_map(remember, range(20), concurrency=2))
    assert len(set(tasks)) == 20


# -- bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered, most_ahead", [(True, 6), (False, 3)])
@virtual_time
async def test_a_slow_consumer_holds_back_the_source(ordered: bool, most_ahead: int) -> None:
    source = Watched(range(100))
    ahead = []
    async with aclosing(stream_map(double, source, concurrency=3, ordered=ordered)) as results:
        yielded = 0
        async for _ in results:
            yielded += 1
            await asyncio.sleep(1)
            ahead.append(source.taken - yielded)
    assert max(ahead) == most_ahead
    assert yielded == 100


@virtual_time
async def test_a_slow_first_item_lets_only_so_many_pass() -> None:
    source = Watched([100.0, *[0.0] * 50])
    async with aclosing(stream_map(sleep_so_long, source, concurrency=4)) as results:
        assert await anext(results) == 100
        assert source.taken == 8
    assert now() == 100


@virtual_time
async def test_nothing_is_taken_before_it_is_iterated() -> None:
    source = Watched(range(3))
    results = stream_map(double, source, concurrency=3)
    await asyncio.sleep(1)
    await results.aclose()
    assert (source.taken, source.closed) == (0, 0)


async def test_a_value_that_was_yielded_is_let_go() -> None:
    class Heavy:
        pass

    seen: list[weakref.ref[Heavy]] = []

    async def make(_: int) -> Heavy:
        return Heavy()

    async for heavy in stream_map(make, range(50), concurrency=5):
        seen.append(weakref.ref(heavy))
    del heavy
    gc.collect()
    assert [ref() for ref in seen] == [None] * 50


async def test_a_consumer_that_never_waits_leaves_the_loop_free() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    async for _ in stream_map(double, range(20_000), concurrency=20_000):
        pass
    ticking.cancel()
    assert ticks > 5


# -- errors ----------------------------------------------------------------------------------


async def refuse_five(number: int) -> int:
    if number == 5:
        raise ValueError("five")
    return number


@pytest.mark.parametrize("concurrency", [1, 3, 100])
async def test_the_first_error_is_raised_after_the_values_before_it(concurrency: int) -> None:
    found, error = await collect_until_error(
        stream_map(refuse_five, range(10), concurrency=concurrency)
    )
    assert found == [0, 1, 2, 3, 4]
    assert isinstance(error, ValueError)


@virtual_time
async def test_an_error_does_not_wait_for_slower_items_before_it() -> None:
    cancelled = []

    async def work(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled.append(seconds)
            raise
        if seconds == 1:
            raise ValueError("one")

    source = Watched([50.0, 60.0, 1.0, *[70.0] * 10])
    found, error = await collect_until_error(stream_map(work, source, concurrency=4))
    assert (found, str(error)) == ([], "one")
    assert now() == 1
    assert sorted(cancelled) == [50, 60, 70]
    assert (source.taken, source.closed) == (4, 1)


@virtual_time
async def test_an_error_is_raised_once_the_others_have_cleaned_up() -> None:
    async def work(number: int) -> None:
        if number == 3:
            await asyncio.sleep(1)
            raise ValueError("three")
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1.5)

    _, error = await collect_until_error(stream_map(work, range(10), concurrency=4))
    assert str(error) == "three"
    assert now() == 2.5


async def test_errors_can_take_the_place_of_values() -> None:
    found = await collect(stream_map(refuse_five, range(8), concurrency=3, on_error="yield"))
    assert [item for item, _ in found] == list(range(8))
    assert [value for _, value in found if not isinstance(value, ValueError)] == [
        0, 1, 2, 3, 4, 6, 7,
    ]  # fmt: skip


async def test_errors_of_threads_are_as_those_of_tasks() -> None:
    def refuse(number: int) -> int:
        raise LookupError(number)

    found, error = await collect_until_error(stream_map(refuse, range(9), concurrency=2))
    assert (found, type(error)) == ([], LookupError)
    pairs = await collect(stream_map(refuse, range(9), concurrency=2, on_error="yield"))
    assert [(item, type(value)) for item, value in pairs] == [(n, LookupError) for n in range(9)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_ends_programs_is_raised_and_never_yielded(kind: type[BaseException]) -> None:
    async def leave(_: int) -> None:
        raise kind

    with pytest.raises(kind):
        await collect(stream_map(leave, range(3), concurrency=2, on_error="yield"))


async def test_a_task_that_somebody_else_cancels_is_told_apart_from_a_cancelled_consumer() -> None:
    async def cancel_itself(number: int) -> int:
        if number == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return number

    _, error = await collect_until_error(stream_map(cancel_itself, range(3), concurrency=1))
    assert isinstance(error, StepCancelled)
    assert "cancel_itself" in str(error)
    pairs = await collect(stream_map(cancel_itself, range(3), concurrency=1, on_error="yield"))
    assert [type(value) for _, value in pairs] == [int, StepCancelled, int]


async def test_a_task_cancelled_before_its_first_step_is_an_error_and_no_hang() -> None:
    before = asyncio.all_tasks()

    def cancel_the_others() -> None:
        for task in asyncio.all_tasks() - before:
            if task.get_name() == "never":
                task.cancel()

    async def never(_: int) -> None:
        await asyncio.Event().wait()

    def items() -> Iterator[int]:
        yield 0
        asyncio.get_running_loop().call_soon(cancel_the_others)
        # Where tasks start lazily, this item's is cancelled before its first step.
        yield 1

    results = stream_map(never, items(), concurrency=2, on_error="yield")
    assert [type(value) for _, value in await collect(results)] == [StepCancelled] * 2


async def test_a_sync_function_that_gives_a_coroutine_is_told_so() -> None:
    _, error = await collect_until_error(stream_map(lambda n: double(n), [1], concurrency=1))
    assert "async def" in str(error)


async def test_the_traceback_begins_with_the_caller_and_the_function() -> None:
    _, error = await collect_until_error(stream_map(refuse_five, [5], concurrency=1))
    names = []
    traceback = error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names == ["collect_until_error", "stream", "raise_failure", "refuse_five"]


# -- retries and timeouts --------------------------------------------------------------------


class Flaky:
    """A function that fails so many times for each item."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.calls: dict[int, int] = {}
        self._failures = failures
        self._error = error or ConnectionError("flaky")

    async def __call__(self, item: int) -> int:
        self.calls[item] = self.calls.get(item, 0) + 1
        if self.calls[item] <= self._failures:
            raise self._error
        return item


WITHOUT_JITTER = Retry(3, wait_initial=1, wait_jitter=0)


@virtual_time
async def test_failed_items_are_tried_again_after_a_back_off() -> None:
    flaky = Flaky(2)
    results = stream_map(flaky, range(4), concurrency=2, retry=WITHOUT_JITTER)
    assert await collect(results) == [0, 1, 2, 3]
    assert flaky.calls == dict.fromkeys(range(4), 3)
    assert now() == 6  # two at once, and each holds its place for 1 + 2 s


@virtual_time
async def test_retry_after_says_how_long() -> None:
    flaky = Flaky(1, RetryAfter(40))
    assert await collect(stream_map(flaky, [1], concurrency=1, retry=1)) == [1]
    assert now() == 40


@virtual_time
async def test_the_last_error_counts_when_tries_run_out() -> None:
    _, error = await collect_until_error(
        stream_map(Flaky(5), range(4), concurrency=1, retry=WITHOUT_JITTER)
    )
    assert isinstance(error, ConnectionError)
    assert now() == 7


@virtual_time
async def test_a_retry_predicate_that_raises_ends_the_item() -> None:
    def broken(_: BaseException) -> bool:
        raise LookupError("broken predicate")

    results = stream_map(Flaky(1), [1], concurrency=1, retry=Retry(3, on=broken))
    _, error = await collect_until_error(results)
    assert isinstance(error, ConnectionError)
    assert "broken predicate" in error.__notes__[0]


@virtual_time
async def test_a_step_brings_its_retry_and_timeout_unless_others_are_given() -> None:
    tries = []

    @step(retry=Retry(2, wait_initial=0, wait_jitter=0), timeout=10)
    async def hang(item: int) -> None:
        tries.append(item)
        await asyncio.sleep(1000)

    _, error = await collect_until_error(stream_map(hang, [1], concurrency=1))
    assert isinstance(error, StepTimeout)
    assert (len(tries), now(), error.attempt, error.timeout_seconds) == (3, 30, 3, 10)

    results = stream_map(hang, [1], concurrency=1, retry=Retry(0), timeout=timedelta(minutes=1))
    _, error = await collect_until_error(results)
    assert (len(tries), now()) == (4, 90)


@virtual_time
async def test_a_timeout_is_for_each_try_and_not_for_the_wait() -> None:
    results = stream_map(sleep_so_long, [0.9] * 4 + [1.1], concurrency=1, timeout=1)
    found, error = await collect_until_error(results)
    assert found == [0.9] * 4
    assert isinstance(error, StepTimeout)
    assert "timeout of 1 s" in str(error)


@virtual_time
async def test_a_hanging_thread_is_abandoned_after_its_timeout_and_grace() -> None:
    with Gate() as gate:

        def hang_at_one(item: int) -> int:
            if item == 1:
                gate.wait()
            return item

        async with Runtime(grace_seconds=3):
            results = stream_map(hang_at_one, range(4), concurrency=1, timeout=5, on_error="yield")
            pairs = await collect(results)
        assert [type(value) for _, value in pairs] == [int, StepTimeout, int, int]
        assert now() == 8


class Deaf:
    """Calls that ignore their cancel until it is enough."""

    def __init__(self) -> None:
        self.enough = asyncio.Event()

    async def call(self, _: int) -> None:
        while not self.enough.is_set():
            try:
                await self.enough.wait()
            except asyncio.CancelledError:
                continue


@virtual_time
async def test_too_many_abandoned_calls_end_the_stream() -> None:
    deaf = Deaf()
    results = stream_map(deaf.call, range(99), concurrency=1, timeout=1, on_error="yield")
    found, error = await collect_until_error(results)
    deaf.enough.set()
    assert len(found) == 32
    assert isinstance(error, StepTimeout)
    assert "33 tries that ignored their cancel" in error.__notes__[0]


@virtual_time
async def test_a_stream_that_is_left_during_a_back_off_is_over_at_once() -> None:
    async with aclosing(
        stream_map(Flaky(9), range(3), concurrency=3, retry=Retry(3, wait_initial=50, wait_max=50))
    ) as results:
        waiting = asyncio.ensure_future(anext(results))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert now() == 1


# -- leaving early ---------------------------------------------------------------------------


class Rooms:
    """Calls that hang until cancelled, and are counted in and out."""

    def __init__(self, cleanup_seconds: float = 0) -> None:
        self.entered = self.left = 0
        self._cleanup_seconds = cleanup_seconds

    async def enter(self, seconds: float) -> float:
        self.entered += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.sleep(self._cleanup_seconds)
            self.left += 1
        return seconds


@virtual_time
async def test_leaving_the_block_cancels_what_is_in_progress_and_closes_the_source() -> None:
    rooms, source = Rooms(cleanup_seconds=1), Watched([1.0, *[100.0] * 9])
    async with aclosing(stream_map(rooms.enter, source, concurrency=4)) as results:
        async for _ in results:
            break
    assert rooms.entered == rooms.left >= 4
    assert source.closed == 1
    assert now() == 3  # 1 s for the first and its clean-up each, and one more clean-up


@virtual_time
async def test_an_exception_of_the_consumer_cleans_up_too() -> None:
    rooms, source = Rooms(), Watched([0.0, *[100.0] * 9])

    async def consume() -> None:
        async with aclosing(stream_map(rooms.enter, source, concurrency=4)) as results:
            async for _ in results:
                raise LookupError("of the consumer")

    with pytest.raises(LookupError):
        await consume()
    assert rooms.entered == rooms.left
    assert source.closed == 1


@virtual_time
async def test_a_bare_break_is_cleaned_up_soon_after() -> None:
    rooms, source = Rooms(), Watched([0.0, *[100.0] * 9])
    async for _ in stream_map(rooms.enter, source, concurrency=4):
        break
    await asyncio.sleep(1)
    assert rooms.entered == rooms.left
    assert source.closed == 1


@virtual_time
async def test_a_cancelled_consumer_leaves_nothing() -> None:
    rooms, source = Rooms(cleanup_seconds=1), Watched([100.0] * 9)
    task = asyncio.create_task(collect(stream_map(rooms.enter, source, concurrency=4)))
    await asyncio.sleep(5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (rooms.entered, rooms.left, source.closed, now()) == (4, 4, 1, 6)


@virtual_time
async def test_a_second_cancel_does_not_cut_the_clean_up_short() -> None:
    rooms = Rooms(cleanup_seconds=1)
    task = asyncio.create_task(collect(stream_map(rooms.enter, [100.0] * 9, concurrency=4)))
    for _ in range(3):
        await asyncio.sleep(0.3)
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert rooms.left == 4
    assert now() == pytest.approx(1.3)


@virtual_time
async def test_a_scope_of_anyio_that_cancels_does_not_burn_the_loop() -> None:
    rooms = Rooms(cleanup_seconds=1)
    with anyio.move_on_after(5) as scope:
        async with aclosing(stream_map(rooms.enter, [100.0] * 9, concurrency=2)) as results:
            await anext(results)
    assert scope.cancelled_caught
    assert rooms.left == 2
    assert now() == 6  # a loop that is never idle would not let the virtual clock go on


@pytest.mark.parametrize("failures", [0, 9])
@virtual_time
async def test_very_many_calls_are_cancelled_in_several_turns(failures: int) -> None:
    rooms, flaky = Rooms(), Flaky(failures)

    async def work(item: int) -> float:
        await flaky(item)
        return await rooms.enter(100)

    async with aclosing(
        stream_map(work, range(5000), concurrency=2000, retry=Retry(9, wait_initial=50))
    ) as results:
        waiting = asyncio.ensure_future(anext(results))
        await asyncio.sleep(1)
        assert len(flaky.calls) == 2000
        before = turns()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert turns() - before > 5
    assert rooms.entered == rooms.left == (0 if failures else 2000)
    assert now() == 1


@virtual_time
async def test_a_call_that_ignores_its_cancel_is_waited_for_no_longer_than_its_grace() -> None:
    deaf = Deaf()
    async with Runtime(grace_seconds=7):
        async with aclosing(stream_map(deaf.call, range(3), concurrency=2)) as results:
            waiting = asyncio.ensure_future(anext(results))
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert now() == 8
        deaf.enough.set()


async def test_threads_end_with_the_stream() -> None:
    before = set(threading.enumerate())
    async with aclosing(stream_map(double_in_thread, range(99), concurrency=4)) as results:
        await anext(results)
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before


# -- sources ---------------------------------------------------------------------------------


def raising(items: Iterable[Any], error: BaseException) -> Iterator[Any]:
    yield from items
    raise error


@pytest.mark.parametrize("on_error", ["raise", "yield"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@virtual_time
async def test_a_source_that_raises_is_heard_after_the_items_before_it(
    kind: str, on_error: Any
) -> None:
    error = LookupError("no more pages")
    source: Any = Watched([3, 2, 1], error=error)
    if kind == "sync":
        source = raising([3, 2, 1], error)
    found, raised = await collect_until_error(
        stream_map(sleep_so_long, source, concurrency=5, ordered=False, on_error=on_error)
    )
    assert found == [(1, 1), (2, 2), (3, 3)]
    assert raised is error


@virtual_time
async def test_a_source_that_hangs_ends_with_the_consumer() -> None:
    closed = []

    async def hang_after_two() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await asyncio.Event().wait()
        finally:
            closed.append(now())

    found = []

    async def consume() -> None:
        async for value in stream_map(double, hang_after_two(), concurrency=5):
            found.append(value)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(consume(), 30)
    assert found == [2, 4]
    assert closed == [30]


@virtual_time
async def test_a_source_that_ignores_its_cancel_is_given_up_after_the_grace() -> None:
    enough = asyncio.Event()

    class Stubborn(Watched):
        async def __anext__(self) -> Any:
            while not enough.is_set():
                try:
                    await enough.wait()
                except asyncio.CancelledError:
                    continue
            raise StopAsyncIteration

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await collect(stream_map(double, Stubborn([]), concurrency=5))
    assert now() == 32
    enough.set()


async def test_an_async_source_is_closed_at_its_end() -> None:
    source = Watched(range(5))
    assert await collect(stream_map(double, source, concurrency=2)) == [0, 2, 4, 6, 8]
    assert source.closed == 1


async def test_a_source_that_raises_when_it_is_closed_early_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def source() -> AsyncIterator[int]:
        try:
            for number in range(99):
                yield number
        finally:
            raise LookupError("cannot close")

    async with aclosing(stream_map(double, source(), concurrency=2)) as results:
        await anext(results)
    assert "raised when it was stopped" in caplog.text
    assert "cannot close" in caplog.text


async def test_an_async_source_runs_in_one_task() -> None:
    tasks = set()

    async def source() -> AsyncIterator[int]:
        try:
            for number in range(20):
                async with asyncio.timeout(10):
                    tasks.add(asyncio.current_task())
                    yield number
        finally:
            tasks.add(asyncio.current_task())

    await collect(stream_map(double, source(), concurrency=3))
    assert len(tasks) == 1


# -- streams and runs ------------------------------------------------------------------------


async def test_it_streams_inside_a_step() -> None:
    @step(retry=0)
    async def total(count: int) -> int:
        results = stream_map(double, range(count), concurrency=10)
        return sum([value async for value in results])

    result = await Pipeline("streaming", steps=[total]).run({"count": 100})
    assert result["total"] == 9900


@virtual_time
async def test_a_cancelled_run_ends_the_stream_of_its_step() -> None:
    rooms = Rooms()

    @step
    async def stream_on() -> None:
        async with aclosing(stream_map(rooms.enter, [100.0] * 99, concurrency=3)) as results:
            async for _ in results:
                pass

    async with Runtime() as runtime:
        run = await runtime.start(Pipeline("streaming", steps=[stream_on]))
        await asyncio.sleep(1)
        await run.cancel("enough")
    assert rooms.entered == rooms.left == 3


async def test_streams_nest() -> None:
    async def inner(number: int) -> int:
        results = stream_map(double, range(number), concurrency=2)
        return sum([value async for value in results])

    assert await collect(stream_map(inner, range(5), concurrency=3)) == [0, 0, 2, 6, 12]


async def test_a_runtime_that_is_not_open_is_refused() -> None:
    with pytest.raises(RuntimeError, match="async with Runtime"):
        await collect(stream_map(double, range(3), concurrency=2, runtime=Runtime()))


# -- wrong arguments -------------------------------------------------------------------------


@step
async def with_context(item: int, context: StepContext) -> int:
    return item


async def generating(item: int) -> AsyncIterator[int]:
    yield item


@pytest.mark.parametrize(
    "fn, source, options, kind, words",
    [
        (double, [1], {"concurrency": 0}, ValueError, "concurrency"),
        (double, 5, {}, TypeError, "got int"),
        (double, counting, {}, TypeError, "call it"),
        ("double", [1], {}, TypeError, "'double'"),
        (double, [1], {"on_error": "log"}, ValueError, "'log'"),
        (double, [1], {"retry": -1}, GraphError, "retry"),
        (double, [1], {"timeout": 0}, ValueError, "timeout"),
        (with_context, [1], {}, TypeError, "'context'"),
        (generating, [1], {}, TypeError, "generator"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    fn: Any, source: Any, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        stream_map(fn, source, **{"concurrency": 1, **options})


# -- properties ------------------------------------------------------------------------------


class Item:
    """What one item does: a time for each try, and how many tries fail."""

    def __init__(self, seconds: list[float], failures: int) -> None:
        self.seconds = seconds
        self.failures = failures
        self.tries = 0


items_of_any_kind = st.builds(
    Item,
    st.lists(st.sampled_from([0.0, 0.1, 1.0, 3.0]), min_size=3, max_size=3),
    st.sampled_from([0, 0, 0, 1, 2, 9]),
)


async def _as_async(items: list[Item], seconds: float) -> AsyncIterator[Item]:
    for item in items:
        await asyncio.sleep(seconds)
        yield item


def _check(
    items: list[Item], concurrency: int, ordered: bool, on_error: Any, source_seconds: float | None
) -> None:
    load = Load()

    async def work(item: Item) -> Item:
        with load:
            item.tries += 1
            await asyncio.sleep(item.seconds[min(item.tries, 3) - 1])
            if item.tries <= item.failures:
                raise ConnectionError("no luck")
            return item

    async def main() -> None:
        source = items if source_seconds is None else _as_async(items, source_seconds)
        results = stream_map(
            work,
            source,
            concurrency=concurrency,
            ordered=ordered,
            on_error=on_error,
            retry=Retry(2, wait_initial=0.5, wait_jitter=0.5),
        )
        found: list[Any] = []
        failed = False
        try:
            async for result in results:
                found.append(result if ordered and on_error == "raise" else result[0])
                if on_error == "yield":
                    hopeless = result[0].failures > 2
                    assert isinstance(result[1], ConnectionError) is hopeless
                    assert hopeless or result[1] is result[0]
        except ConnectionError:
            failed = True
        assert load.present == 0
        assert load.most <= concurrency
        hopeless_ones = any(item.failures > 2 for item in items)
        assert failed == (hopeless_ones and on_error == "raise")
        if ordered:
            assert found == items[: len(found)]
        if not failed:
            assert sorted(map(id, found)) == sorted(map(id, items))
        assert len(set(map(id, found))) == len(found)

    run_virtually(main())


@given(
    items=st.lists(items_of_any_kind, max_size=30),
    concurrency=st.integers(1, 8),
    ordered=st.booleans(),
    on_error=st.sampled_from(["raise", "yield"]),
    source_seconds=st.sampled_from([None, 0.0, 0.7]),
)
def test_every_item_gives_one_result_and_never_too_many_run_at_once(
    items: list[Item], concurrency: int, ordered: bool, on_error: str, source_seconds: float | None
) -> None:
    _check(items, concurrency, ordered, on_error, source_seconds)


@given(
    items=st.lists(items_of_any_kind, min_size=1, max_size=30),
    concurrency=st.integers(1, 8),
    ordered=st.booleans(),
    source_seconds=st.sampled_from([None, 0.0, 0.7]),
    cancel_after_seconds=st.floats(0, 20),
)
def test_wherever_it_is_cancelled_nothing_runs_on(
    items: list[Item],
    concurrency: int,
    ordered: bool,
    source_seconds: float | None,
    cancel_after_seconds: float,
) -> None:
    load = Load()

    async def work(item: Item) -> None:
        with load:
            item.tries += 1
            await asyncio.sleep(item.seconds[min(item.tries, 3) - 1])
            if item.tries <= item.failures:
                raise ConnectionError("no luck")

    async def main() -> None:
        source = items if source_seconds is None else _as_async(items, source_seconds)
        results = stream_map(
            work, source, concurrency=concurrency, ordered=ordered, on_error="yield", retry=2
        )
        task: Awaitable[Any] = asyncio.ensure_future(collect(results))
        try:
            async with asyncio.timeout(cancel_after_seconds):
                await task
        except TimeoutError:
            pass
        assert load.present == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtually(main())
