"""Whatever the groups in worker processes and whatever dies: what comes of it is as anywhere."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Pipeline, PipelineResult, Retry, Runtime, StepContext, step
from tests.engine.holding import assert_nothing_is_held

PATIENCE_SECONDS = 30.0
DEFAULT = "<default>"
KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD


class Member(msgspec.Struct, frozen=True):
    """One random step.

    ``needs`` and ``takes`` are parents by data, without and with a default, ``after`` by order
    only. The first ``failures`` tries fail, by an error or by the death of the worker.
    """

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    after: tuple[str, ...]
    group: str | None
    condition: bool | None
    failures: int
    dies: bool
    retries: int
    is_coroutine: bool
    takes_context: bool
    nests: bool

    @property
    def parents(self) -> set[str]:
        return {*self.needs, *self.takes, *self.after}

    @property
    def signature(self) -> inspect.Signature:
        parameters = [inspect.Parameter(name, KIND) for name in self.needs]
        if self.takes_context or self.nests:
            parameters.append(inspect.Parameter("context", KIND, annotation=StepContext))
        parameters += [inspect.Parameter(name, KIND, default=DEFAULT) for name in self.takes]
        return inspect.Signature(parameters)


@st.composite
def member_lists(draw: st.DrawFn) -> list[Member]:
    groups = st.sampled_from(draw(st.sampled_from([("g",), (None, "g", "h")])))
    seldom = st.sampled_from([False, False, False, True])
    found: list[Member] = []
    for number in range(draw(st.integers(1, 8))):
        kinds: dict[str, list[str]] = {"needs": [], "takes": [], "after": []}
        above = [member.name for member in found]
        parents = st.lists(st.sampled_from(above), unique=True, max_size=3)
        for parent in draw(parents) if above else ():
            kinds[draw(st.sampled_from(sorted(kinds)))].append(parent)
        found.append(
            Member(
                name=f"n{number}",
                needs=tuple(kinds["needs"]),
                takes=tuple(kinds["takes"]),
                after=tuple(kinds["after"]),
                group=draw(groups),
                condition=draw(st.sampled_from([None, None, None, None, True, False])),
                failures=draw(st.sampled_from([0, 0, 0, 0, 1, 2])),
                dies=draw(seldom),
                retries=draw(st.integers(0, 2)),
                is_coroutine=draw(seldom),
                takes_context=draw(st.booleans()),
                nests=draw(seldom),
            )
        )
    return found


# --------------------------------------------------------------------- model


def expected_states(members: Iterable[Member]) -> dict[str, str]:
    states: dict[str, str] = {}
    for member in members:
        above = {states[parent] for parent in member.parents}
        if above & {"failed", "upstream_failed"}:
            states[member.name] = "upstream_failed"
        elif member.condition is False or "skipped" in {states[name] for name in member.needs}:
            states[member.name] = "skipped"
        else:
            failed = member.failures > member.retries
            states[member.name] = "failed" if failed else "succeeded"
    return states


def expected_values(members: Iterable[Member], states: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for member in members:
        if states[member.name] == "succeeded":
            taken = {name: values.get(name, DEFAULT) for name in (*member.needs, *member.takes)}
            values[member.name] = digest(member.name, taken)
    return values


def digest(name: str, taken: Mapping[str, str]) -> str:
    return hashlib.sha256(repr((name, sorted(taken.items()))).encode()).hexdigest()


# ------------------------------------------------------------------- pipeline


@step
def double(number: int) -> int:
    return 2 * number


def function_of(member: Member, tries: str) -> Callable[..., Any]:
    """A function that notes each try in a file of its own, in whichever process it is."""
    names = list(member.signature.parameters)

    def end(taken: Mapping[str, str]) -> str:
        with open(os.path.join(tries, member.name), "a", encoding="utf-8") as file:
            file.write("x")
            file.flush()
            number = file.tell()
        if number <= member.failures:
            if member.dies:
                os._exit(9)
            raise OSError(f"{member.name} fails at try {number}")
        return digest(member.name, taken)

    async def coroutine(*args: Any) -> str:
        taken = dict(zip(names, args, strict=True))
        context = taken.pop("context", None)
        if member.nests:
            assert await context.call(double, 21) == 42
        return end(taken)

    def function(*args: Any) -> str:
        taken = dict(zip(names, args, strict=True))
        context = taken.pop("context", None)
        if member.nests:
            assert context.call_sync(double, 21) == 42
        return end(taken)

    chosen: Any = coroutine if member.is_coroutine else function
    chosen.__signature__ = member.signature
    return chosen  # type: ignore[no-any-return]


def pipeline_of(members: Iterable[Member], tries: str) -> Pipeline:
    pipeline = Pipeline("random", failure_policy="collect_all")
    for member in members:
        verdict = member.condition
        placed = step(
            function_of(member, tries),
            name=member.name,
            lane="process",
            execution_group=member.group,
            condition=None if verdict is None else (lambda verdict=verdict: verdict),
            retry=Retry(member.retries, wait_initial=0, wait_jitter=0),
        )
        pipeline.add_step(placed, after=member.after)
    return pipeline


def states_of(result: PipelineResult) -> dict[str, str]:
    """Of the members; what they called is named below them."""
    found = result.step_results.items()
    return {name: str(one.status) for name, one in found if "/" not in name}


def assert_values(
    result: PipelineResult, members: Iterable[Member], states: Mapping[str, str]
) -> None:
    """Of those that came back: what only members of a group take stays in their worker."""
    expected = expected_values(members, states)
    there = {name: result[name] for name in expected if name in result.outputs}
    taken = {name for member in members for name in (*member.needs, *member.takes)}
    assert expected.keys() - taken <= there.keys()
    assert there == {name: expected[name] for name in there}


# ----------------------------------------------------------------- properties

Case = Callable[[Runtime, str], Awaitable[None]]


@contextmanager
def one_runtime() -> Iterator[Callable[[Case], None]]:
    """Runs cases, each in the workers that the one before has left; after each nothing is held."""

    async def run(runtime: Runtime, case: Case) -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await case(runtime, directory)
        assert_nothing_is_held(runtime)

    with asyncio.Runner() as runner:
        runtime = Runtime(max_cpus=2)
        runner.run(runtime.__aenter__())
        try:
            yield lambda case: runner.run(run(runtime, case))
        finally:
            runner.run(runtime.aclose())


def test_states_and_values_are_those_of_any_other_lane() -> None:
    @given(members=member_lists(), recorded=st.booleans())
    def holds(members: list[Member], recorded: bool) -> None:
        async def case(runtime: Runtime, tries: str) -> None:
            options: Any = {"checkpoint": os.path.join(tries, "kept")} if recorded else {}
            result = await pipeline_of(members, tries).run(runtime=runtime, **options)
            assert states_of(result) == expected_states(members)
            assert_values(result, members, states_of(result))

        run_case(case)

    with one_runtime() as run_case:
        holds()


def test_a_run_that_is_cancelled_midway_leaves_nothing_and_goes_on_when_resumed() -> None:
    @given(members=member_lists(), seconds=st.floats(0, 0.04, allow_nan=False))
    def holds(members: list[Member], seconds: float) -> None:
        expected = expected_states(members)

        async def case(runtime: Runtime, tries: str) -> None:
            options: Any = {"run_id": "r", "checkpoint": os.path.join(tries, "kept")}
            run = await runtime.start(pipeline_of(members, tries), **options)
            await asyncio.sleep(seconds)
            await run.cancel("enough")
            for member in members:
                state = states_of(run.result_now())[member.name]
                allowed = {expected[member.name], "cancelled", "upstream_failed"}
                assert state in allowed | ({"failed"} if member.failures else set())
            result = await pipeline_of(members, tries).run(runtime=runtime, **options)
            # What has failed before the cancel may succeed now, as has what is below it.
            succeeded = {name for name, state in expected.items() if state == "succeeded"}
            assert {states_of(result)[name] for name in succeeded} <= {"succeeded"}
            assert_values(result, members, states_of(result))

        run_case(case)

    with one_runtime() as run_case:
        holds()
