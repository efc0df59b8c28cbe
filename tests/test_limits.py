"""Named limits, from ``@step(limits=…)`` to the last start: held, counted, told, given back."""

from __future__ import annotations

import asyncio
import pickle
from bisect import bisect_right
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow import (
    CapacityError,
    GraphError,
    NodeState,
    Pipeline,
    Rate,
    ResourceRequirements,
    Retry,
    RetryAfter,
    RunState,
    Runtime,
    Step,
    StepContext,
    StepFailed,
    events,
    step,
)
from asyncflow.limits import Definitions, keys_of
from asyncflow.testing import VirtualRuntime
from tests.virtual_time import now, virtual_time


class Watch:
    """Counts who is inside, and when each went in."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.starts: list[float] = []

    async def spend(self, seconds: float, key: str = "") -> None:
        self.starts.append(now())
        self.inside[key] += 1
        self.most[key] = max(self.most[key], self.inside[key])
        try:
            await asyncio.sleep(seconds)
        finally:
            self.inside[key] -= 1

    def most_in_a_window(self, seconds: float) -> int:
        return max(
            bisect_right(self.starts, begin + seconds) - place
            for place, begin in enumerate(self.starts)
        )


def fan_out(one: Step[..., Any], count: int, name: str = "p") -> Pipeline:
    pipeline = Pipeline(name)
    for number in range(count):
        pipeline.add_step(one, name=f"{one.name}{number}", params={"number": number})
    return pipeline


def host_of(url: str) -> str:
    return f"host:{url.split('/')[2]}"


# ------------------------------------------------------------------------ held


@virtual_time
async def test_no_more_attempts_run_at_once_than_a_key_has() -> None:
    watch = Watch()

    @step(limits=["api"])
    async def fetch(number: int) -> int:
        await watch.spend(1)
        return number

    async with Runtime(limits={"api": 3}) as runtime:
        result = await fan_out(fetch, 10).run(runtime=runtime)
        assert runtime._supply.limiter.statistics().keys == {}
    assert result.success
    assert watch.most[""] == 3
    assert now() == 4


@virtual_time
async def test_a_function_of_the_inputs_says_which_host() -> None:
    watch = Watch()

    @step(limits=host_of)
    async def fetch(url: str) -> None:
        await watch.spend(1, host_of(url))

    pipeline = Pipeline("crawl")
    for number in range(20):
        url = f"http://{number % 4}.example.org/{number}"
        pipeline.add_step(fetch, name=f"f{number}", params={"url": url})
    async with Runtime(limits={"host:*": 2}) as runtime:
        assert (await pipeline.run(runtime=runtime)).success
    assert set(watch.most.values()) == {2}
    assert len(watch.most) == 4
    assert now() == 3


@virtual_time
async def test_a_function_may_take_an_asset_that_the_step_does_not_take() -> None:
    @step
    async def region() -> str:
        return "north"

    @step(limits=lambda region: {f"region:{region}": 2})
    async def fetch(context: StepContext) -> str:
        return "fetched"

    async with Runtime(limits={"region:*": 2}) as runtime:
        pipeline = Pipeline("p", steps=[region, fetch])
        assert (await pipeline.run(runtime=runtime))[fetch] == "fetched"


@virtual_time
async def test_weights_count() -> None:
    watch = Watch()

    @step(limits={"disk": 2})
    async def write(number: int) -> None:
        await watch.spend(1)

    async with Runtime(limits={"disk": 5}) as runtime:
        assert (await fan_out(write, 4).run(runtime=runtime)).success
    assert watch.most[""] == 2


@virtual_time
async def test_keys_are_granted_together_with_cpus_or_not_at_all() -> None:
    order: list[str] = []

    @step(resources=ResourceRequirements(cpu=1))
    async def busy() -> None:
        order.append("busy")
        await asyncio.sleep(10)

    @step(resources=ResourceRequirements(cpu=1), limits=["api"])
    async def both() -> None:
        order.append("both")

    @step(limits=["api"])
    async def api() -> None:
        order.append("api")
        await asyncio.sleep(1)

    async with Runtime(max_cpus=1, limits={"api": 1}) as runtime:
        result = await Pipeline("p", steps=[busy, both, api]).run(runtime=runtime)
    assert result.success
    assert order == ["busy", "api", "both"]
    assert now() == 10


def test_threads_hold_keys_as_well() -> None:
    running = Counter[str]()

    @step(limits=["api"])
    def fetch(number: int) -> int:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        running["now"] -= 1
        return number

    virtual = VirtualRuntime(limits={"api": 1}, durations={"fetch": 1})
    assert virtual.run(fan_out(fetch, 5)).success
    assert running["most"] == 1
    assert virtual.clock == pytest.approx(5)


@virtual_time
async def test_what_needs_no_key_is_not_held_up() -> None:
    @step(limits=["api"])
    async def slow(number: int) -> None:
        await asyncio.sleep(100)

    @step
    async def quick() -> float:
        return now()

    pipeline = fan_out(slow, 50).add_step(quick)
    async with Runtime(limits={"api": 1}) as runtime:
        run = await runtime.start(pipeline)
        await asyncio.sleep(1)
        assert run.snapshot().counts[NodeState.SUCCEEDED] == 1
        await run.cancel()
        await run.wait()


# ------------------------------------------------------------------------ rates


@virtual_time
async def test_a_rate_is_exact_and_wastes_nothing() -> None:
    watch = Watch()

    @step(limits=["api"])
    async def call(number: int) -> None:
        await watch.spend(0.3)

    async with Runtime(limits={"api": Rate(20, per_seconds=1)}) as runtime:
        assert (await fan_out(call, 1000).run(runtime=runtime)).success
    assert watch.most_in_a_window(1) == 20
    assert watch.starts[-1] - watch.starts[0] == pytest.approx(49, rel=1e-6)


@pytest.mark.parametrize("burst", [1, 7, None])
def test_at_most_two_percent_of_the_allowance_are_wasted_under_load(burst: int | None) -> None:
    @step(limits=["api"])
    async def call(number: int) -> None:
        await asyncio.sleep(0.01)

    virtual = VirtualRuntime(seed=3, limits={"api": Rate(50, per_seconds=2, burst=burst)})
    assert virtual.run(fan_out(call, 2000)).success
    assert virtual.clock <= 2000 / 25 * 1.02


@given(
    rate=st.builds(
        Rate,
        st.integers(1, 9),
        st.sampled_from([0.5, 1.0, 10.0]),
        st.one_of(st.none(), st.integers(1, 9)),
    ),
    seconds=st.lists(st.floats(0, 5), min_size=2, max_size=30),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_whatever_arrives_when_no_window_sees_too_many_starts(
    rate: Rate, seconds: list[float], seed: int
) -> None:
    starts: list[float] = []

    @step
    async def wait(number: int) -> int:
        await asyncio.sleep(seconds[number])
        return number

    @step(limits=["api"])
    async def call(number: int) -> None:
        starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.25)

    pipeline = Pipeline("p")
    for number in range(len(seconds)):
        pipeline.add_step(wait, name=f"wait{number}", params={"number": number})
        pipeline.add_step(call, name=f"call{number}", inputs={"number": f"wait{number}"})
    virtual = VirtualRuntime(seed=seed, limits={"api": rate})
    assert virtual.run(pipeline).success
    assert len(starts) == len(seconds)
    for place, begin in enumerate(starts):
        assert bisect_right(starts, begin + rate.window_seconds) - place <= rate.most


@virtual_time
async def test_each_try_takes_a_token_of_its_own() -> None:
    watch = Watch()

    @step(limits=["api"], retry=Retry(3, wait_initial=0, wait_jitter=0))
    async def call(context: StepContext) -> int:
        await watch.spend(0)
        if context.attempt < 4:
            raise ConnectionError
        return context.attempt

    async with Runtime(limits={"api": Rate(1, per_seconds=10)}) as runtime:
        result = await Pipeline("p", steps=[call]).run(runtime=runtime)
    assert result[call] == 4
    assert watch.starts == pytest.approx([0, 10, 20, 30])


@virtual_time
async def test_a_try_that_waits_to_be_repeated_holds_no_key() -> None:
    order: list[str] = []

    @step(limits=["api"], retry=1)
    async def refused(context: StepContext) -> None:
        order.append(f"refused {context.attempt}")
        if context.attempt == 1:
            raise RetryAfter(10)

    @step(limits=["api"])
    async def other() -> None:
        order.append("other")

    async with Runtime(limits={"api": 1}) as runtime:
        assert (await Pipeline("p", steps=[refused, other]).run(runtime=runtime)).success
    assert order == ["refused 1", "other", "refused 2"]


@virtual_time
async def test_a_timeout_counts_from_the_start_and_not_from_the_wait_for_a_token() -> None:
    @step(limits=["api"], timeout=2)
    async def call(number: int) -> None:
        await asyncio.sleep(1)

    async with Runtime(limits={"api": Rate(1, per_seconds=60)}) as runtime:
        assert (await fan_out(call, 3).run(runtime=runtime)).success
    assert now() > 120


@virtual_time
async def test_a_skipped_step_takes_no_token() -> None:
    @step(limits=["api"], condition=lambda number: number == 2)
    async def call(number: int) -> float:
        return now()

    async with Runtime(limits={"api": Rate(1, per_seconds=60)}) as runtime:
        result = await fan_out(call, 3).run(runtime=runtime)
    assert result["call2"] == 0


@virtual_time
async def test_who_is_cancelled_while_it_waits_for_a_token_gives_nothing_away() -> None:
    @step(limits=["api"])
    async def call(number: int) -> float:
        return now()

    async with Runtime(limits={"api": Rate(1, per_seconds=10)}) as runtime:
        first = await runtime.start(fan_out(call, 50))
        await asyncio.sleep(1)
        await first.cancel()
        await first.wait()
        assert first.snapshot().counts == {"succeeded": 1, "cancelled": 49}
        result = await fan_out(call, 1).run(runtime=runtime)
        assert result["call0"] == pytest.approx(10)
        runtime._supply.limiter.validate()


@virtual_time
async def test_thousands_that_wait_are_cancelled_and_none_of_them_starts_meanwhile() -> None:
    started: list[int] = []

    @step(limits=["api", "rate"])
    async def call(number: int) -> None:
        started.append(number)
        await asyncio.sleep(10)

    limits: dict[str, int | Rate] = {"api": 3, "rate": Rate(1000, per_seconds=1)}
    async with Runtime(limits=limits, max_concurrency=5000) as runtime:
        run = await runtime.start(fan_out(call, 3000))
        await asyncio.sleep(1)
        await run.cancel()
        await run.wait()
        assert run.snapshot().counts == {NodeState.CANCELLED: 3000}
        limiter = runtime._supply.limiter
        assert limiter.waiting() == []
        assert limiter.statistics().leases == 0
        limiter.validate()
    assert len(started) == 3


def test_steps_in_processes_take_keys_as_well() -> None:
    @step(limits=["licence"], lane="process")
    def solve(number: int) -> tuple[float, float]:
        import time

        began = time.monotonic()
        time.sleep(0.05)
        return began, time.monotonic()

    async def main() -> list[tuple[float, float]]:
        async with Runtime(limits={"licence": 1}) as runtime:
            result = await fan_out(solve, 3).run(runtime=runtime)
            runtime._supply.limiter.validate()
        return sorted(result.outputs.values())

    spans = asyncio.run(main())
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@virtual_time
async def test_a_run_that_waits_for_tokens_only_is_not_stuck() -> None:
    @step(limits=["api"])
    async def call(number: int) -> None: ...

    async with Runtime(limits={"api": Rate(1, per_seconds=timedelta(days=1))}) as runtime:
        assert (await fan_out(call, 10).run(runtime=runtime)).success
    assert now() == pytest.approx(9 * 86_400)


async def test_a_rate_is_exact_in_real_time_as_well() -> None:
    @step(limits=["api"])
    async def call(number: int) -> None: ...

    @step(limits=["api"])
    def call_in_thread(number: int) -> None: ...

    async with Runtime(limits={"api": Rate(10, per_seconds=0.05)}) as runtime:
        runs = [await runtime.start(fan_out(one, 30)) for one in (call, call_in_thread)]
        for run in runs:
            assert (await run.result()).success
    # As the lanes noted them right before they called the functions.
    starts = sorted(began for run in runs for began in run._record.started)
    assert len(starts) == 60
    for early, late in zip(starts, starts[10:], strict=False):
        assert late - early > 0.05


# ----------------------------------------------------------------- changed limits


@virtual_time
async def test_a_rate_of_zero_for_a_while_makes_steps_wait() -> None:
    @step(limits=["api"])
    async def call(number: int) -> float:
        return now()

    async with Runtime(limits={"api": Rate(5, per_seconds=1)}) as runtime:
        runtime.set_limit("api", Rate(0))
        run = await runtime.start(fan_out(call, 10))
        await asyncio.sleep(1000)
        assert run.state is RunState.RUNNING
        assert "nothing until the limit is set to more than 0" in run.explain("call0")
        runtime.set_limit("api", Rate(5, per_seconds=1))
        result = await run.result()
    assert sorted(result.outputs.values()) == pytest.approx([1000] * 5 + [1001] * 5)


@virtual_time
async def test_who_waits_for_a_limit_of_zero_is_warned_of_it_once() -> None:
    @step(limits=["api"])
    async def call(number: int) -> None: ...

    async with Runtime(limits={"api": 0}) as runtime:
        run = await runtime.start(fan_out(call, 3))
        told = run.events()
        await asyncio.sleep(10)
        runtime.set_limit("api", 1)
        await run.wait()
        seen = [event.message async for event in told if isinstance(event, events.Warned)]
    assert len(seen) == 1
    assert "waits for the limit 'api', which is 0 until Runtime.set_limit() changes it" in seen[0]


@virtual_time
async def test_a_limit_can_be_raised_while_steps_wait() -> None:
    watch = Watch()

    @step(limits=["api"])
    async def call(number: int) -> None:
        await watch.spend(10)

    async with Runtime(limits={"api": 1}) as runtime:
        run = await runtime.start(fan_out(call, 4))
        await asyncio.sleep(1)
        runtime.set_limit("api", 3)
        await run.wait()
    assert watch.starts == pytest.approx([0, 1, 1, 10])


def test_a_limit_can_be_changed_before_the_runtime_is_entered() -> None:
    runtime = Runtime(limits={"api": 1})
    runtime.set_limit("api", 2)
    assert runtime._supply.limiter.refusal_of_keys((("api", 2),)) is None
    with pytest.raises(KeyError, match="did you mean 'api'"):
        runtime.set_limit("apo", 1)


# ------------------------------------------------------------------------ sharing


@virtual_time
async def test_runs_share_a_key_fairly() -> None:
    order: list[str] = []

    def calls(name: str) -> Step[..., Any]:
        @step(name=name, limits=["api"])
        async def call(number: int) -> None:
            order.append(name)
            await asyncio.sleep(1)

        return call

    async with Runtime(limits={"api": 1}) as runtime:
        long = await runtime.start(fan_out(calls("long"), 100, "long"))
        await asyncio.sleep(10.5)
        short = await runtime.start(fan_out(calls("short"), 10, "short"))
        await short.wait()
        assert now() < 32
        await long.cancel()
        await long.wait()
    assert Counter(order[11:31])["short"] >= 9


# ------------------------------------------------------------------------ groups


@virtual_time
async def test_each_member_of_a_group_takes_its_own_keys_while_it_runs() -> None:
    watch = Watch()

    @step(execution_group="g", limits=["api"])
    async def fetch(number: int) -> int:
        await watch.spend(1, "fetch")
        return number

    @step(execution_group="g", resources={"cpu": 1})
    async def parse(fetched: int) -> None:
        await watch.spend(10, "parse")

    pipeline = Pipeline("p")
    for number in range(4):
        own = {"execution_group": f"g{number}"}
        pipeline.add_step(
            fetch.with_options(**own),  # type: ignore[arg-type]
            name=f"fetch{number}",
            params={"number": number},
        )
        pipeline.add_step(
            parse.with_options(**own),  # type: ignore[arg-type]
            name=f"parse{number}",
            inputs={"fetched": f"fetch{number}"},
        )
    async with Runtime(max_cpus=4, limits={"api": 1}) as runtime:
        assert (await pipeline.run(runtime=runtime)).success
        runtime._supply.limiter.validate()
    assert watch.most == {"fetch": 1, "parse": 4}
    assert now() == 14


@virtual_time
async def test_a_group_that_waits_for_a_key_lends_its_cpus() -> None:
    order: list[str] = []

    @step(execution_group="g", resources={"cpu": 1})
    async def load() -> int:
        order.append("load")
        return 1

    @step(execution_group="g", limits=["api"])
    async def send(load: int) -> None:
        order.append(f"send at {now():g}")

    @step(limits=["api"])
    async def holds() -> None:
        await asyncio.sleep(10)

    @step(resources={"cpu": 1})
    async def other() -> None:
        order.append(f"other at {now():g}")
        await asyncio.sleep(1)

    async with Runtime(max_cpus=1, limits={"api": 1}) as runtime:
        result = await Pipeline("p", steps=[holds, load, send, other]).run(runtime=runtime)
    assert result.success
    assert order == ["load", "other at 0", "send at 10"]


@virtual_time
async def test_a_member_that_is_tried_again_takes_another_token() -> None:
    starts: list[float] = []

    @step(execution_group="g", resources={"cpu": 1}, limits=["api"], retry=2)
    async def first(context: StepContext) -> int:
        starts.append(now())
        if context.attempt < 3:
            raise RetryAfter(1)
        return 1

    @step(execution_group="g", limits=["api"])
    async def second(first: int) -> int:
        starts.append(now())
        return first

    async with Runtime(max_cpus=1, limits={"api": Rate(1, per_seconds=5)}) as runtime:
        result = await Pipeline("p", steps=[first, second]).run(runtime=runtime)
        runtime._supply.limiter.validate()
    assert result.success
    assert starts == pytest.approx([0, 5, 10, 15])


# ------------------------------------------------------------------------ nests, maps


@virtual_time
async def test_nested_calls_take_keys() -> None:
    watch = Watch()

    @step(limits=host_of)
    async def fetch(url: str) -> str:
        await watch.spend(1, host_of(url))
        return url

    @step
    async def crawl(context: StepContext) -> list[str]:
        urls = [f"http://{number % 2}/{number}" for number in range(12)]
        return list(await context.map(fetch, urls))

    async with Runtime(limits={"host:*": 2}) as runtime:
        result = await Pipeline("p", steps=[crawl]).run(runtime=runtime)
    assert len(result[crawl]) == 12
    assert watch.most == {"host:0": 2, "host:1": 2}
    assert now() == 3


@virtual_time
async def test_mapped_elements_take_keys() -> None:
    watch = Watch()

    @step
    async def urls() -> list[str]:
        return [f"http://{number % 3}/{number}" for number in range(9)]

    @step(limits=host_of)
    async def fetch(url: str) -> str:
        await watch.spend(1, host_of(url))
        return url

    pipeline = Pipeline("p", steps=[urls]).add_step(fetch, inputs={"url": "urls"}, map="urls")
    async with Runtime(limits={"host:*": 1}) as runtime:
        assert len((await pipeline.run(runtime=runtime))[fetch]) == 9
    assert set(watch.most.values()) == {1}
    assert now() == 3


@virtual_time
async def test_a_step_keeps_its_keys_while_it_waits_for_its_nest() -> None:
    order: list[str] = []

    @step
    async def below() -> None:
        order.append("below")
        await asyncio.sleep(5)

    @step(limits=["api"])
    async def above(context: StepContext) -> None:
        await context.call(below)

    @step(limits=["api"])
    async def other() -> None:
        order.append("other")

    async with Runtime(limits={"api": 1}) as runtime:
        assert (await Pipeline("p", steps=[above, other]).run(runtime=runtime)).success
    assert order == ["below", "other"]


@virtual_time
async def test_a_nest_that_needs_what_its_own_parent_holds_is_refused_at_once() -> None:
    @step(limits=["api"])
    async def below() -> None: ...

    @step(limits=["api"])
    async def above(context: StepContext) -> None:
        await context.call(below)

    async with Runtime(limits={"api": 1}) as runtime:
        result = await Pipeline("p", steps=[above]).run(runtime=runtime)
    assert not result.success
    error = result.step_results["above"].error
    assert isinstance(error, CapacityError)
    assert "of 1 the work that it is nested in holds 1 ('above') and waits for it" in str(error)
    assert now() == 0


@virtual_time
async def test_two_parents_whose_nests_wait_for_each_other_s_keys_are_told_so() -> None:
    @step(limits=["api"])
    async def below() -> None: ...

    @step(limits=["api"])
    async def above(context: StepContext, number: int) -> None:
        await asyncio.sleep(1)
        await context.call(below)

    async with Runtime(limits={"api": 2}) as runtime:
        result = await fan_out(above, 2).run(runtime=runtime, failure_policy="collect_all")
        runtime._supply.limiter.validate()
    failed = [found.error for found in result.step_results.values() if not found.success]
    assert failed
    assert "can never start" in str(failed[0])
    assert "held by 'above0', 'above1'" in str(failed[0])


# ------------------------------------------------------------------------ refusals


async def test_an_unknown_key_is_refused_before_the_first_step_starts() -> None:
    ran: list[str] = []

    @step
    async def first() -> None:
        ran.append("first")

    @step(limits=["apj"])
    async def call(first: None) -> None: ...

    pipeline = Pipeline("p", steps=[first, call])
    async with Runtime(limits={"api": 1, "host:*": 2}) as runtime:
        with pytest.raises(CapacityError, match=r"step 'call': there is no limit 'apj'.*'api'"):
            await pipeline.run(runtime=runtime)
        assert "did you mean 'api'" in pipeline.plan(runtime).problems[0]
    with pytest.raises(CapacityError, match=r"defines none; write Runtime\(limits="):
        await pipeline.run()
    assert ran == []


async def test_a_weight_above_the_key_is_refused_before_the_first_step_starts() -> None:
    @step(limits={"api": 3})
    async def call() -> None: ...

    async with Runtime(limits={"api": 2}) as runtime:
        with pytest.raises(CapacityError, match="3 of the limit 'api' asked for at once"):
            await Pipeline("p", steps=[call]).run(runtime=runtime)


@pytest.mark.parametrize(
    "limits, told",
    [
        (lambda number: "nope", "there is no limit 'nope'"),
        (lambda number: {"api": 9}, "9 of the limit 'api' asked for at once, but there are 2"),
        (lambda number: 1 // 0, "the limits of step 'call' raised ZeroDivisionError"),
        (lambda number: 7, "the limits of step 'call' raised TypeError: takes keys such as"),
        (lambda number: {"api": 0}, "raised ValueError: the weight of 'api' takes a whole number"),
    ],
)
async def test_a_computed_key_that_makes_no_sense_fails_its_node(limits: Any, told: str) -> None:
    @step(limits=limits)
    async def call(number: int = 1) -> None: ...

    @step(execution_group="g")
    async def calm() -> str:
        return "calm"

    async with Runtime(limits={"api": 2}) as runtime:
        pipeline = Pipeline("p", steps=[call, calm], failure_policy="collect_all")
        result = await pipeline.run(runtime=runtime)
        runtime._supply.limiter.validate()
    assert result[calm] == "calm"
    error = result.step_results["call"].error
    assert told in str(error)
    assert isinstance(error, StepFailed | CapacityError)


async def test_a_function_may_say_that_nothing_is_needed() -> None:
    @step(limits=lambda number: None)
    async def call(number: int = 1) -> str:
        return "called"

    assert (await Pipeline("p", steps=[call]).run())[call] == "called"


@pytest.mark.parametrize(
    "limits, told",
    [
        (5, "takes keys such as"),
        ({"api": 0}, "the weight of 'api' takes a whole number of 1 or more"),
        ({"api": 1.5}, "whole number, got 1.5"),
        ({"api": Rate(1)}, "a step says how much it takes"),
        (["api", "api"], "names 'api' twice"),
        ([""], "takes keys that are texts"),
        ([3], "takes keys that are texts"),
    ],
)
def test_senseless_limits_of_a_step_are_refused(limits: Any, told: str) -> None:
    with pytest.raises(GraphError, match=told):
        step(limits=limits, name="call")(lambda: None)


async def _coroutine() -> None: ...


def test_a_coroutine_function_cannot_say_which_key() -> None:
    with pytest.raises(GraphError, match="no coroutine function"):
        step(limits=_coroutine, name="call")(lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: Rate(-1), "0 or more"),
        (lambda: Rate(1.5), "whole number"),  # type: ignore[arg-type]
        (lambda: Rate(True), "whole number"),
        (lambda: Rate(1, per_seconds=0), "above 0"),
        (lambda: Rate(1, per_seconds=float("nan")), "above 0"),
        (lambda: Rate(1, per_seconds=float("inf")), "above 0"),
        (lambda: Rate(1, per_seconds="s"), "seconds or a timedelta"),  # type: ignore[arg-type]
        (lambda: Rate(1, burst=0), "1 or more"),
        (lambda: Runtime(limits={"api": -1}), "0 or more"),
        (lambda: Runtime(limits={"api": "8"}), "whole number"),  # type: ignore[dict-item]
        (lambda: Runtime(limits=["api"]), "takes a mapping"),  # type: ignore[arg-type]
        (lambda: Runtime(limits={"": 1}), "texts"),
    ],
)
def test_senseless_limits_of_a_runtime_are_refused(make: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        make()


def test_the_pattern_with_the_most_text_fits_best() -> None:
    found = Definitions({"*": 1, "host:*": 2, "host:*.org": 3, "host:a.org": 4})
    assert [found.defined_as(key) for key in ("x", "host:x", "host:x.org", "host:a.org")] == [
        "*",
        "host:*",
        "host:*.org",
        "host:a.org",
    ]


@pytest.mark.parametrize("given", ["api", ("api",), ["api"], {"api": 1}])
def test_keys_can_be_written_in_several_ways(given: Any) -> None:
    assert keys_of(given) == (("api", 1),)


@step(limits={"api": 2})
async def importable() -> None: ...


def test_a_step_with_limits_can_be_pickled_and_changed() -> None:
    assert pickle.loads(pickle.dumps(importable)) is importable
    changed = importable.with_options(timeout=3)
    assert changed.limits == {"api": 2}
    again = pickle.loads(pickle.dumps(importable.with_options(limits=["b"])))
    assert again.limits == {"b": 1}


def test_a_rate_can_be_pickled_and_says_what_it_is() -> None:
    rate = Rate(10, per_seconds=60, burst=2)
    assert pickle.loads(pickle.dumps(rate)) == rate
    assert str(rate) == "10 per 60 s, 2 at once"
    assert str(Rate(5)) == "5 per second"


# ------------------------------------------------------------------------ in words


@virtual_time
async def test_explain_names_the_key_and_who_holds_it() -> None:
    @step(limits=["api"])
    async def call(number: int) -> None:
        await asyncio.sleep(10)

    async with Runtime(limits={"api": 2}) as runtime:
        run = await runtime.start(fan_out(call, 4))
        await asyncio.sleep(1)
        assert run.explain("call3") == (
            "'call3' waits for 1 of the limit 'api' (0 free of 2, held by 'call0', 'call1'). "
            "1 other waits for it as well."
        )
        await run.wait()


@virtual_time
async def test_explain_says_when_the_next_token_is_there() -> None:
    @step(limits=["api"])
    async def call(number: int) -> None: ...

    async with Runtime(limits={"api": Rate(1, per_seconds=10)}) as runtime:
        run = await runtime.start(fan_out(call, 3))
        await asyncio.sleep(4)
        assert "(1 per 10 s, there in 6 s)" in run.explain("call1")
        await run.cancel()
        await run.wait()


def test_a_plan_shows_the_keys() -> None:
    @step(limits={"api": 2, "disk": 1})
    async def fixed() -> None: ...

    @step(limits=lambda fixed: "x", resources={"cpu": 1})
    async def computed(fixed: None) -> None: ...

    plan = Pipeline("p", steps=[fixed, computed]).plan()
    assert [unit.limits for unit in plan.units] == [("2x api", "disk"), ("…",)]
    assert "limits=2x api,disk" in str(plan)
    assert "cpu=1 limits=…" in str(plan)


# -------------------------------------------------------------------- the same again


def test_the_same_seed_gives_the_same_events_with_limits() -> None:
    @step(limits=lambda number: [f"host:{number % 3}", "api"], retry=2)
    async def call(number: int) -> None:
        await asyncio.sleep(0.1 * (number % 5))

    def play(seed: int) -> bytes:
        virtual = VirtualRuntime(
            seed,
            limits={"host:*": 2, "api": Rate(7, per_seconds=1)},
            failures={"call": [OSError()]},
        )
        virtual.run(fan_out(call, 40))
        return virtual.event_log()

    assert play(1) == play(1)
    assert play(1) != play(2)


# ------------------------------------------------------------------- whatever happens


TAKES = st.sampled_from(
    [
        None,
        ["a"],
        {"a": 2},
        ["a", "b"],
        ["rate"],
        {"rate": 2, "b": 1},
        lambda number: f"host:{number % 3}",
        lambda number: [f"host:{number % 2}", "rate"],
        lambda number: {"a": 1 + number % 2},
    ]
)
NODES = st.lists(
    st.tuples(TAKES, st.integers(0, 3), st.sampled_from([0, 0.1, 1.5]), st.integers(0, 2)),
    min_size=1,
    max_size=14,
)


@given(
    nodes=NODES,
    cpus=st.integers(1, 2),
    window=st.integers(1, 5),
    seed=st.integers(0, 99),
    cancel_after=st.one_of(st.none(), st.floats(0, 5)),
)
@settings(max_examples=60)
def test_any_graph_with_any_limits_ends_within_them(
    nodes: list[Any], cpus: int, window: int, seed: int, cancel_after: float | None
) -> None:
    """Groups, tries, CPUs, nests and cancels: never too many, nothing lost, nobody forgotten."""
    inside, starts = Counter[str](), list[float]()
    most = {"a": 2, "b": 1, "host:0": 1, "host:1": 1, "host:2": 1}

    async def work(limits: Any, number: int, seconds: float) -> None:
        keys = keys_of(limits(number) if callable(limits) else limits)
        for key, weight in keys:
            inside[key] += weight
            starts.extend([asyncio.get_running_loop().time()] * (weight if key == "rate" else 0))
            assert key == "rate" or inside[key] <= most[key]
        try:
            await asyncio.sleep(seconds)
        finally:
            inside.subtract(dict(keys))

    pipeline = Pipeline("p", failure_policy="collect_all")
    for place, (limits, group, seconds, fails) in enumerate(nodes):

        async def body(
            context: StepContext, number: int, limits: Any, seconds: float, fails: int
        ) -> None:
            await work(limits, number, seconds)
            if context.attempt <= fails:
                raise ConnectionError

        one = step(
            limits=limits,
            retry=Retry(2, wait_initial=0.1),
            name=f"n{place}",
            resources={"cpu": 1} if place % 2 else None,
            execution_group=f"g{group}" if group else None,
        )(body)
        params = {"number": place, "limits": limits, "seconds": seconds, "fails": fails}
        pipeline.add_step(one, params=params, after=[f"n{place - 3}"] if place > 2 else [])

    async def main(runtime: Runtime) -> None:
        run = await runtime.start(pipeline)
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            await run.cancel()
        await run.wait()
        assert cancel_after is not None or (await run.result()).success
        limiter = runtime._supply.limiter
        limiter.validate()
        assert limiter.waiting() == []
        assert limiter.statistics().leases == 0

    VirtualRuntime(
        seed,
        cpus=cpus,
        max_concurrency=window,
        limits={"a": 2, "b": 1, "host:*": 1, "rate": Rate(3, per_seconds=2, burst=2)},
    ).run_async(main)
    for place, begin in enumerate(starts):
        assert bisect_right(starts, begin + 2) - place <= 3
