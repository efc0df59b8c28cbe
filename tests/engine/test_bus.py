"""Every subscriber has a cursor of its own; one that does not read costs its buffer only."""

from __future__ import annotations

import asyncio
import sys

import pytest

from asyncflow import Pipeline, step
from asyncflow.engine.bus import EventBus, Overflow, Subscription
from asyncflow.events import Event, Gap, RunFinished, Warned
from tests.virtual_time import virtual_time


def a_bus() -> EventBus:
    return EventBus("run", clock=lambda: 7.0)


def warn(bus: EventBus, count: int = 1) -> None:
    for number in range(count):
        bus.publish(Warned, message=str(number))


def listen(
    bus: EventBus, since: int = 0, buffer: int = 100, overflow: Overflow = "drop_oldest"
) -> Subscription:
    return bus.subscribe(since, buffer, overflow)


async def read_all(subscription: Subscription) -> list[Event]:
    return [event async for event in subscription]


def sequences(events: list[Event]) -> list[int]:
    return [event.sequence for event in events]


async def test_events_are_numbered_from_one_and_say_when_they_happened() -> None:
    bus = a_bus()
    subscription = listen(bus)
    warn(bus, 3)
    bus.close()
    events = await read_all(subscription)
    assert sequences(events) == [1, 2, 3]
    assert {(event.run_id, event.monotonic_seconds, event.kind) for event in events} == {
        ("run", 7.0, "Warned")
    }
    assert all(event.wall_time > 1_700_000_000 for event in events)


async def test_a_record_is_built_only_while_somebody_listens() -> None:
    bus = a_bus()
    bus.publish(Warned, nonsense=True)
    assert bus.sequence == 1
    subscription = listen(bus)
    with pytest.raises(TypeError, match="nonsense"):
        bus.publish(Warned, nonsense=True)
    await subscription.aclose()
    bus.publish(Warned, nonsense=True)
    assert bus.sequence == 3


async def test_one_who_comes_late_is_told_how_much_was_missed() -> None:
    bus = a_bus()
    warn(bus, 5)
    bus.count(10)
    subscription = listen(bus)
    warn(bus, 2)
    bus.close()
    gap, *rest = await read_all(subscription)
    assert isinstance(gap, Gap)
    assert (gap.missed, gap.sequence) == (15, 15)
    assert sequences(rest) == [16, 17]


async def test_one_who_comes_back_misses_only_what_came_meanwhile() -> None:
    bus = a_bus()
    warn(bus, 5)
    subscription = listen(bus, since=3)
    warn(bus)
    bus.close()
    gap, event = await read_all(subscription)
    assert isinstance(gap, Gap)
    assert (gap.missed, event.sequence) == (2, 6)


async def test_events_up_to_since_are_left_out() -> None:
    bus = a_bus()
    subscription = listen(bus, since=3)
    warn(bus, 5)
    bus.close()
    assert sequences(await read_all(subscription)) == [4, 5]


async def test_one_who_comes_after_the_end_gets_the_gap_and_the_end() -> None:
    bus = a_bus()
    warn(bus, 4)
    bus.close()
    (gap,) = await read_all(listen(bus))
    assert isinstance(gap, Gap)
    assert gap.missed == 4
    assert await read_all(listen(bus, since=4)) == []
    assert not bus.listening


async def test_the_oldest_are_dropped_for_a_slow_reader_and_counted() -> None:
    bus = a_bus()
    subscription = listen(bus, buffer=3)
    warn(bus, 10)
    bus.close()
    gap, *rest = await read_all(subscription)
    assert isinstance(gap, Gap)
    assert gap.missed == 7
    assert sequences(rest) == [8, 9, 10]


async def test_a_gap_stands_in_order_among_the_events() -> None:
    bus = a_bus()
    warn(bus, 2)
    subscription = listen(bus, buffer=2)
    seen = [await anext(subscription)]
    for _ in range(4):
        warn(bus, 3)
        seen += [await anext(subscription), await anext(subscription)]
    bus.close()
    seen += await read_all(subscription)
    assert sequences(seen) == sorted(set(sequences(seen)))
    missed = sum(event.missed for event in seen if isinstance(event, Gap))
    assert missed + sum(not isinstance(event, Gap) for event in seen) == bus.sequence


async def test_overflow_close_gives_what_is_buffered_then_a_gap_and_ends() -> None:
    bus = a_bus()
    warn(bus, 2)
    subscription = listen(bus, buffer=3, overflow="close")
    warn(bus, 10)
    first, *events, last = await read_all(subscription)
    assert isinstance(first, Gap)
    assert first.missed == 2
    assert sequences(events) == [3, 4, 5]
    assert isinstance(last, Gap)
    assert (last.missed, last.sequence) == (7, 12)


async def test_one_that_overflowed_does_not_keep_records_being_built() -> None:
    bus = a_bus()
    cut_off = listen(bus, buffer=1, overflow="close")
    other = listen(bus, buffer=10)
    warn(bus, 3)
    assert sequences([await anext(other) for _ in range(3)]) == [1, 2, 3]
    await other.aclose()
    assert not bus.listening
    assert [type(event) for event in await read_all(cut_off)] == [Warned, Gap]


async def test_one_who_never_reads_costs_its_buffer_only() -> None:
    bus = a_bus()
    subscription = listen(bus, buffer=8)
    warn(bus, 100)
    before = sys.getallocatedblocks()
    warn(bus, 10_000)
    assert sys.getallocatedblocks() - before < 500
    bus.close()
    gap, *rest = await read_all(subscription)
    assert isinstance(gap, Gap)
    assert (gap.missed, len(rest)) == (10_092, 8)


async def test_a_slow_reader_takes_nothing_from_a_fast_one() -> None:
    bus = a_bus()
    slow, fast = listen(bus, buffer=1), listen(bus)
    warn(bus, 50)
    bus.close()
    assert sequences(await read_all(fast)) == list(range(1, 51))
    assert [type(event) for event in await read_all(slow)] == [Gap, Warned]


@pytest.mark.both_loops
async def test_a_reader_waits_for_the_next_event_and_for_the_end() -> None:
    bus = a_bus()
    reader = asyncio.create_task(read_all(listen(bus)))
    for _ in range(3):
        await asyncio.sleep(0)
        warn(bus)
    await asyncio.sleep(0)
    bus.close()
    assert sequences(await reader) == [1, 2, 3]


async def test_an_event_is_not_lost_with_a_reader_that_is_cancelled() -> None:
    bus = a_bus()
    subscription = listen(bus)
    reader = asyncio.create_task(subscription.__anext__())
    await asyncio.sleep(0)
    warn(bus)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert (await anext(subscription)).sequence == 1


async def test_closing_a_cursor_ends_it_any_number_of_times() -> None:
    bus = a_bus()
    subscription, other = listen(bus), listen(bus)
    warn(bus)
    await subscription.aclose()
    await subscription.aclose()
    warn(bus)
    assert await read_all(subscription) == []
    assert bus.listening
    bus.close()
    await subscription.aclose()
    assert sequences(await read_all(other)) == [1, 2]


async def test_closing_a_cursor_wakes_whoever_waits_for_it() -> None:
    subscription = listen(a_bus())
    reader = asyncio.create_task(read_all(subscription))
    await asyncio.sleep(0)
    await subscription.aclose()
    assert await reader == []


async def test_two_tasks_cannot_wait_for_one_cursor() -> None:
    subscription = listen(a_bus())
    reader = asyncio.create_task(read_all(subscription))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="two tasks read one stream of events"):
        await anext(subscription)
    await subscription.aclose()
    assert await reader == []


@pytest.mark.parametrize("buffer", [0, -1, True, 1.5, "10"])
async def test_a_buffer_is_a_whole_number_of_one_or_more(buffer: int) -> None:
    with pytest.raises(ValueError, match=r"events\(buffer=…\) takes a whole number of 1 or more"):
        listen(a_bus(), buffer=buffer)


async def test_an_overflow_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'drop_oldest' or 'close', not 'drop'"):
        listen(a_bus(), overflow="drop")  # type: ignore[arg-type]


# ----------------------------------------------------------------- in a run


@step
async def tick() -> None:
    await asyncio.sleep(1)


def ticking(count: int) -> Pipeline:
    pipeline = Pipeline("ticking")
    for number in range(count):
        pipeline.add_step(tick, f"tick {number}")
    return pipeline


@virtual_time
async def test_a_subscriber_that_raises_in_its_loop_hurts_only_itself() -> None:
    async def broken(events: Subscription) -> None:
        async for event in events:
            raise RuntimeError(f"no liking for {event.kind}")

    async with ticking(3).start() as run:
        reader = asyncio.create_task(broken(run.events()))
        others = asyncio.create_task(read_all(run.events()))
    with pytest.raises(RuntimeError, match="no liking for RunStarted"):
        await reader
    assert run.result_now().success
    assert isinstance((await others)[-1], RunFinished)


@virtual_time
async def test_a_subscriber_that_never_reads_does_not_hold_up_the_run() -> None:
    async with ticking(500).start() as run:
        unread = run.events(buffer=10)
    events = await read_all(unread)
    assert run.result_now().success
    assert isinstance(events[0], Gap)
    assert isinstance(events[-1], RunFinished)
    assert len(events) == 11
    assert events[0].missed + 10 == events[-1].sequence


@virtual_time
async def test_one_may_subscribe_while_reading_events() -> None:
    late: list[Subscription] = []
    async with ticking(2).start() as run:
        async for _ in run.events():
            late.append(run.events())
    tails = [await read_all(subscription) for subscription in late]
    assert len(tails) == 10
    assert isinstance(tails[0][-1], RunFinished)
    assert {tail[-1].sequence for tail in tails} == {10}
