"""With durations known, what has the longest path still to go starts first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from asyncflow import Pipeline, ResourceRequirements, Runtime, step
from asyncflow.engine.limiter import Capacity, Demand, Lease, Limiter
from asyncflow.engine.ranked import RankedQueue
from asyncflow.engine.remaining import remaining_seconds
from tests.virtual_time import now, virtual_time

ONE, TWO, HALF = Demand(1000), Demand(2000), Demand(500)


# -- the queue -------------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(st.tuples(st.integers(0, 3), st.integers()), st.sampled_from(["pop", "remove"]))
    )
)
def test_a_ranked_queue_gives_what_a_stable_sort_would(moves: list[Any]) -> None:
    queue: RankedQueue[tuple[int, int, object]] = RankedQueue(lambda item: item[0])
    model: list[tuple[int, int, object]] = []
    for move in moves:
        if isinstance(move, tuple):
            item = (*move, object())
            queue.append(item)
            model.append(item)
            model.sort(key=lambda item: item[0])
        elif model and move == "pop":
            assert queue.popleft() is model.pop(0)
        elif model:
            queue.remove(model.pop(len(model) // 2))
        assert list(queue) == model
        assert len(queue) == len(model)
        assert not model or queue[0] is model[0]


def test_equals_leave_in_the_order_of_their_arrival() -> None:
    queue: RankedQueue[str] = RankedQueue(lambda _: 0)
    queue.extend("abc")
    queue.append("d")
    assert [queue.popleft() for _ in range(4)] == list("abcd")


def test_what_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(ValueError, match="'a' is not in this queue"):
        RankedQueue(len).remove("a")


def test_a_queue_can_be_emptied() -> None:
    queue = RankedQueue(len)
    queue.extend(["a", "b"])
    queue.clear()
    assert not queue


# -- the limiter -----------------------------------------------------------------------------


def a_limiter(cpus: int = 1, *, max_overtakes: int = 64) -> Limiter:
    return Limiter(Capacity(1000 * cpus, 1000), max_overtakes=max_overtakes)


def drain(limiter: Limiter, count: int | None = None) -> list[Hashable]:
    order: list[Hashable] = []
    while count is None or len(order) < count:
        granted = limiter.grant()
        limiter.validate()
        if granted is None:
            break
        order.append(granted[0])
        limiter.release(granted[1])
    return order


def ask(limiter: Limiter, *ranks: float, owner: str = "run", demand: Demand = ONE) -> None:
    for rank in ranks:
        limiter.request((owner, rank), demand, owner=owner, rank=rank)
        limiter.validate()


def ranks_of(order: list[Hashable], owner: str = "run") -> list[float]:
    return [ticket[1] for ticket in order if isinstance(ticket, tuple) and ticket[0] == owner]


@given(st.lists(st.tuples(st.integers(-50, 50), st.sampled_from([ONE, HALF, Demand(1000, 5)]))))
def test_requests_of_one_owner_are_granted_by_rank_whatever_they_ask_for(
    asked: list[tuple[int, Demand]],
) -> None:
    limiter = a_limiter()
    for number, (rank, demand) in enumerate(asked):
        limiter.request((number, rank), demand, owner="run", rank=rank)
    order = drain(limiter)
    assert order == sorted(((n, rank) for n, (rank, _) in enumerate(asked)), key=lambda t: t[1])


def test_one_who_comes_later_and_ranks_before_is_granted_first() -> None:
    limiter = a_limiter()
    ask(limiter, -5, -1, -9)
    assert ranks_of(drain(limiter, 1)) == [-9]
    ask(limiter, -7, -3)
    assert ranks_of(drain(limiter)) == [-7, -5, -3, -1]


def test_a_request_that_is_withdrawn_leaves_the_others_in_their_order() -> None:
    limiter = a_limiter()
    ask(limiter, -5, -1, -9, -7)
    for gone in (-9, -1):
        limiter.withdraw(("run", gone))
        limiter.validate()
    ask(limiter, -9)
    assert ranks_of(drain(limiter)) == [-9, -7, -5]


@pytest.mark.parametrize("ranked", ["a", "b", "ab"])
def test_ranks_change_nothing_between_owners(ranked: str) -> None:
    limiter = a_limiter()
    for number in range(50):
        for owner in "ab":
            rank = float(-number) if owner in ranked else None
            limiter.request((owner, number), ONE, owner=owner, rank=rank)
    owners = "".join(str(ticket[0]) for ticket in drain(limiter) if isinstance(ticket, tuple))
    for served in range(0, 100, 2):
        assert sorted(owners[served : served + 2]) == ["a", "b"]


def test_an_owner_that_comes_later_is_served_in_turn_with_a_ranked_one() -> None:
    limiter = a_limiter()
    ask(limiter, *range(1000))
    drain(limiter, 100)
    for number in range(10):
        limiter.request(("late", number), ONE, owner="late")
    served = [ticket[0] for ticket in drain(limiter, 22) if isinstance(ticket, tuple)]
    assert served.count("late") == 10


def test_a_large_request_is_not_starved_by_its_own_run() -> None:
    limiter = a_limiter(2, max_overtakes=3)
    limiter.request("held", ONE, owner="other")
    held = limiter.grant()
    assert held is not None
    limiter.request("large", TWO, owner="run", rank=-1000.0)
    ask(limiter, *range(10))
    assert ranks_of(drain(limiter)) == [0, 1, 2], "no more than so many pass it"
    limiter.release(held[1])
    assert drain(limiter, 1) == ["large"]


def test_a_stream_of_better_ranks_does_not_starve_another_owner_s_large_request() -> None:
    limiter = a_limiter(2, max_overtakes=8)
    running: deque[Lease] = deque()
    order: list[Hashable] = []

    def grant() -> None:
        while (granted := limiter.grant()) is not None:
            order.append(granted[0])
            running.append(granted[1])

    ask(limiter, 0, -1)
    grant()
    limiter.request("large", TWO, owner="other")
    for number in range(2, 100):
        ask(limiter, -number)
        limiter.release(running.popleft())
        grant()
        if "large" in order:
            break
    # Two ran already, and one had its turn in the round that both joined.
    assert order.index("large") <= 2 + 1 + 8


def test_nested_requests_of_a_ranked_owner_come_before_its_others() -> None:
    limiter = a_limiter()
    ask(limiter, *range(10))
    granted = limiter.grant()
    assert granted is not None
    limiter.lend_cpus(granted[1])
    for number in range(3):
        limiter.request(("nested", number), ONE, owner="run", under=granted[1], rank=99.0)
    assert drain(limiter, 3) == [("nested", number) for number in range(3)]
    assert ranks_of(drain(limiter)) == list(range(1, 10))


class RankedLimiter(RuleBasedStateMachine):
    """Ranked and other owners, nests, lent CPUs: the account adds up and everybody is served."""

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.limiter = a_limiter(3, max_overtakes=2)
        self.number = 0

    @rule(
        owner=st.sampled_from("abc"),
        demand=st.sampled_from([ONE, TWO, HALF, Demand(1000, 400)]),
        rank=st.integers(-5, 5),
    )
    def ask(self, owner: str, demand: Demand, rank: int) -> None:
        self.number += 1
        given = None if owner == "c" else float(rank)
        self.limiter.request(self.number, demand, owner=owner, rank=given)

    @rule(lease=running, demand=st.sampled_from([ONE, HALF]))
    def nest(self, lease: Lease, demand: Demand) -> None:
        if not lease.released:
            self.number += 1
            self.limiter.request(self.number, demand, owner=lease.owner, under=lease)

    @rule(target=running)
    def grant(self) -> Any:
        granted = self.limiter.grant()
        return granted[1] if granted is not None else Lease(0, "a", 0, 0, (), (), released=True)

    @rule(lease=consumes(running))
    def release(self, lease: Lease) -> None:
        if not lease.released:
            self.limiter.release(lease)

    @rule(pick=st.randoms(use_true_random=False))
    def withdraw(self, pick: Any) -> None:
        waiting = self.limiter.waiting()
        if waiting:
            self.limiter.withdraw(pick.choice(waiting))

    @invariant()
    def adds_up(self) -> None:
        self.limiter.validate()

    def teardown(self) -> None:
        for lease in list(self.limiter._leases):
            self.limiter.release(lease)
        waiting = len(self.limiter.waiting())
        assert len(drain(self.limiter)) == waiting


RankedLimiter.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestRankedLimiter = RankedLimiter.TestCase


# -- the longest path ------------------------------------------------------------------------


@step
async def work() -> None: ...


def a_diamond() -> Pipeline:
    """Top, then a short and a long way, then bottom."""
    pipeline = Pipeline("diamond").add_step(work, name="top")
    pipeline.add_step(work, name="short", after=["top"])
    pipeline.add_step(work, name="long", after=["top"])
    return pipeline.add_step(work, name="bottom", after=["short", "long"])


def remaining(pipeline: Pipeline, expected: dict[str, float]) -> dict[str, float]:
    graph = pipeline.build()
    steps = remaining_seconds(graph, expected)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return {graph.unit_name(unit): seconds for unit, seconds in enumerate(done.value)}


def test_the_longest_path_is_counted_to_the_end_of_the_graph() -> None:
    expected = {"top": 1.0, "short": 2.0, "long": 30.0, "bottom": 400.0}
    assert remaining(a_diamond(), expected) == {
        "top": 431.0,
        "short": 402.0,
        "long": 430.0,
        "bottom": 400.0,
    }


def test_what_is_not_named_counts_by_its_step_or_not_at_all() -> None:
    assert remaining(a_diamond(), {"work": 1.0, "long": 5.0})["top"] == 7.0
    assert set(remaining(a_diamond(), {"nobody": 1.0}).values()) == {0.0}


def test_the_members_of_a_group_follow_each_other() -> None:
    pipeline = Pipeline("p")
    for name in "abc":
        pipeline.add_step(work.with_options(execution_group="g"), name=name)
    pipeline.add_step(work, name="after a", after=["a"])
    expected = {"a": 1.0, "b": 2.0, "c": 4.0, "after a": 100.0}
    assert remaining(pipeline, expected) == {"g": 101.0, "after a": 100.0}
    assert remaining(pipeline, {**expected, "after a": 1.0})["g"] == 7.0


# -- runs ------------------------------------------------------------------------------------

SECONDS = {"n0": 1.0, "n1": 5.0, "n2": 3.0, "n3": 9.0}


async def started_order(order: list[str], options: dict[str, Any], **runtime: Any) -> list[str]:
    """The order in which four steps of different expected lengths start."""

    async def inline(name: str) -> None:
        order.append(name)
        await asyncio.sleep(1)

    def thread(name: str) -> None:
        order.append(name)

    function = thread if options.get("lane") == "thread" else inline
    pipeline = Pipeline("p")
    for name in SECONDS:
        pipeline.add_step(step(function, **options), name=name, params={"name": name})
    async with Runtime(**runtime) as r:
        assert (await pipeline.run(runtime=r)).success
    return order


ONE_AT_A_TIME = [
    pytest.param({}, {"max_concurrency": 1}, id="window"),
    pytest.param({"resources": {"cpu": 1}}, {"max_cpus": 1}, id="CPUs"),
    pytest.param({"lane": "thread"}, {"max_threads": 1}, id="threads"),
]


@pytest.mark.parametrize("options, runtime", ONE_AT_A_TIME)
@virtual_time
async def test_the_longest_start_first_wherever_they_wait(
    options: dict[str, Any], runtime: dict[str, Any]
) -> None:
    order = await started_order([], options, expected_seconds=SECONDS, **runtime)
    assert order == ["n3", "n1", "n2", "n0"]


@pytest.mark.parametrize("options, runtime", ONE_AT_A_TIME)
@virtual_time
async def test_without_durations_the_order_of_arrival_holds(
    options: dict[str, Any], runtime: dict[str, Any]
) -> None:
    assert await started_order([], options, **runtime) == list(SECONDS)


@virtual_time
async def test_what_becomes_ready_later_may_start_before_what_waits() -> None:
    order: list[str] = []

    async def one(name: str) -> None:
        order.append(name)
        await asyncio.sleep(1)

    asks = step(one, resources=ResourceRequirements(cpu=1))
    pipeline = Pipeline("p")
    for name, after in {"first": [], "w1": [], "w2": [], "child": ["first"]}.items():
        pipeline.add_step(asks, name=name, params={"name": name}, after=after)
    expected = {"first": 10.0, "w1": 5.0, "w2": 1.0, "child": 8.0}
    async with Runtime(max_cpus=1, expected_seconds=expected) as runtime:
        await pipeline.run(runtime=runtime)
    assert order == ["first", "child", "w1", "w2"]
    assert now() == 4


async def test_working_out_the_order_of_a_large_graph_gives_others_their_turns() -> None:
    pipeline = Pipeline("p")
    for number in range(20_000):
        pipeline.add_step(work, name=f"n{number}")
    pipeline.build()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with Runtime(expected_seconds={"work": 1.0}) as runtime:
        run = await runtime.start(pipeline)
        counter = asyncio.create_task(count_turns())
        # The run begins when the order is known; it tells nobody else.
        while run.snapshot().elapsed_seconds == 0:  # noqa: ASYNC110
            await asyncio.sleep(0)
        before_the_run_began = turns
        result = await run.result()
        counter.cancel()
        await asyncio.wait([counter])
    assert result.success
    assert before_the_run_began > 3


@virtual_time
async def test_a_run_that_is_cancelled_before_its_order_is_known_ends() -> None:
    pipeline = Pipeline("p")
    for number in range(3000):
        pipeline.add_step(work, name=f"n{number}")
    async with Runtime(expected_seconds={"work": 1.0}) as runtime:
        run = await runtime.start(pipeline)
        await run.cancel("changed my mind")
        assert (await run.result()).state == "cancelled"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_an_impossible_duration_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"'a'.*finite seconds"):
        Runtime(expected_seconds={"a": seconds})
