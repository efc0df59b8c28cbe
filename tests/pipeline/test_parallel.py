"""parallel_map: many calls at once, results in input order, and the first error stops it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from asyncflow import Pipeline, parallel_map, step
from tests.virtual_time import virtual_time

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_results_stand_in_the_order_of_the_items() -> None:
    turn = threading.Event()

    def first_waits(number: int) -> int:
        if number == 0:
            turn.wait(10)
        else:
            turn.set()
        return number * number

    assert parallel_map(first_waits, range(10), max_workers=3) == [n * n for n in range(10)]


def test_it_takes_any_iterable_and_gives_a_list_for_nothing() -> None:
    assert parallel_map(str, iter((1, 2, 3))) == ["1", "2", "3"]
    assert parallel_map(str, []) == []


def test_there_is_never_a_thread_without_an_item() -> None:
    threads: set[str] = set()

    def note(number: int) -> None:
        threads.add(threading.current_thread().name)

    parallel_map(note, range(2), max_workers=1_000_000)
    assert threads <= {"parallel_map-1", "parallel_map-2"}


@pytest.mark.parametrize("workers", [1, 4])
def test_so_many_calls_are_in_progress_at_once(workers: int) -> None:
    meeting = threading.Barrier(workers, timeout=10)
    parallel_map(lambda _: meeting.wait(), range(3 * workers), max_workers=workers)


def test_the_first_error_in_input_order_is_raised_after_the_others_have_ended() -> None:
    meeting = threading.Barrier(3, timeout=10)
    ended: list[int] = []

    def call(number: int) -> None:
        meeting.wait()
        if number < 2:
            raise ValueError(f"item {number}")
        ended.append(number)

    with pytest.raises(ValueError, match="item 0"):
        parallel_map(call, range(3), max_workers=3)
    assert ended == [2]


def test_nothing_is_begun_after_an_error() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    def call(number: int) -> None:
        if number == 3:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        parallel_map(call, items(), max_workers=1)
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize("place", [0, 1, 5])
def test_an_error_of_the_items_is_raised(place: int) -> None:
    def items() -> Iterator[int]:
        yield from range(place)
        raise LookupError("no more items")

    with pytest.raises(LookupError, match="no more items"):
        parallel_map(str, items(), max_workers=2)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_call_raises_is_raised(kind: type[BaseException]) -> None:
    def call(number: int) -> None:
        raise kind

    with pytest.raises(kind):
        parallel_map(call, [1])


def test_a_coroutine_function_is_refused() -> None:
    async def later(number: int) -> int:
        return number

    for function in (later, step(later), partial(later)):
        with pytest.raises(TypeError, match=r"is a coroutine function; use context\.map"):
            parallel_map(function, [1])


def test_calls_see_the_caller_s_context_variables() -> None:
    VARIABLE.set("the caller's")
    assert parallel_map(lambda _: VARIABLE.get(), range(3)) == ["the caller's"] * 3


@virtual_time
async def test_a_sync_step_may_use_it() -> None:
    @step
    def squares() -> list[int]:
        return parallel_map(lambda number: number * number, range(4), max_workers=2)

    assert (await Pipeline("p", steps=[squares]).run())["squares"] == [0, 1, 4, 9]
