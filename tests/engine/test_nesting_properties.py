"""Whatever the tree of nested work and however little there is: it ends, and accounts close."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Pipeline, Runtime
from asyncflow.errors import CapacityError
from asyncflow.testing import VirtualRuntime
from tests.engine.nest_trees import (
    UNIT,
    Account,
    Boom,
    Machine,
    Tree,
    fitted,
    make_step,
    trees,
)
from tests.virtual_time import run_virtually

MACHINES = st.builds(
    Machine,
    cpus=st.integers(1, 3),
    threads=st.integers(1, 2),
    window=st.integers(1, 3),
    memory=st.integers(1, 4),
    gpus=st.integers(1, 2),
)
CPUS, MEMORY, HALVES = st.integers(0, 2), st.integers(0, 4), st.integers(0, 2)
SLOTS = st.integers(0, 2)


def check_that_it_gives_its_value(tree: Tree, machine: Machine) -> None:
    async def main() -> None:
        async with machine.runtime() as runtime:
            account = Account(runtime)
            pipeline = Pipeline("p").add_step(make_step(tree, account), "root", {"tree": tree})
            result = await pipeline.run(runtime=runtime)
            if tree.fails:
                assert isinstance(result.step_results["root"].error, Boom)
            else:
                assert result["root"] == tree.value
            account.check_end()

    run_virtually(main())


@given(tree=trees(cpus=CPUS), machine=MACHINES)
def test_every_tree_of_nested_work_ends_with_its_value(tree: Tree, machine: Machine) -> None:
    check_that_it_gives_its_value(tree, machine)


@given(tree=trees(cpus=CPUS, memory=MEMORY), machine=MACHINES)
def test_nests_that_fit_into_the_memory_of_those_above_end(tree: Tree, machine: Machine) -> None:
    check_that_it_gives_its_value(fitted(tree, machine), machine)


@given(tree=trees(cpus=CPUS, gpu=HALVES), machine=MACHINES)
def test_nests_that_fit_into_the_devices_of_those_above_end(tree: Tree, machine: Machine) -> None:
    check_that_it_gives_its_value(fitted(tree, machine), machine)


@given(tree=trees(cpus=CPUS, memory=MEMORY, gpu=HALVES, slots=SLOTS), machine=MACHINES)
def test_nests_that_wait_for_each_other_end_all_the_same(tree: Tree, machine: Machine) -> None:
    """One that holds memory may wait for a device while another holds that and waits for memory:
    then a request is failed, and all accounts close."""

    async def main() -> None:
        async with machine.runtime() as runtime:
            account = Account(runtime)
            pipeline = Pipeline("p").add_step(make_step(tree, account), "root", {"tree": tree})
            result = await pipeline.run(runtime=runtime)
            error = result.step_results["root"].error
            assert error is None or isinstance(error, Boom | CapacityError)
            account.check_end()

    run_virtually(main())


@given(
    tree=trees(cpus=CPUS, memory=MEMORY, gpu=HALVES, slots=SLOTS),
    machine=MACHINES,
    seconds=st.floats(0, 8, allow_nan=False),
)
def test_a_tree_that_is_cancelled_midway_leaves_nothing(
    tree: Tree, machine: Machine, seconds: float
) -> None:
    async def main() -> None:
        async with machine.runtime() as runtime:
            account = Account(runtime)
            pipeline = Pipeline("p").add_step(make_step(tree, account), "root", {"tree": tree})
            run = await runtime.start(pipeline)
            await asyncio.sleep(seconds)
            await run.cancel("enough")
            assert not run.abandoned
            account.check_end()

    run_virtually(main())


@given(
    tree=trees(cpus=CPUS, memory=MEMORY, gpu=HALVES),
    seed=st.integers(0, 1_000),
    seconds=st.none() | st.floats(0, 8, allow_nan=False),
)
def test_the_same_seed_gives_the_same_log_also_of_nests_and_of_cancels(
    tree: Tree, seed: int, seconds: float | None
) -> None:
    def log() -> bytes:
        virtual = VirtualRuntime(seed, cpus=2, gpus=2, memory=4 * UNIT, max_threads=2)

        async def main(runtime: Runtime) -> None:
            root = make_step(tree, Account(runtime))
            run = await runtime.start(Pipeline("p").add_step(root, "root", {"tree": tree}))
            if seconds is not None:
                await asyncio.sleep(seconds)
                await run.cancel()
            await run.result()

        virtual.run_async(main)
        return virtual.event_log()

    assert log() == log()


@given(
    tree=trees(cpus=CPUS, memory=MEMORY),
    machine=MACHINES,
    seconds=st.floats(0.5, 8, allow_nan=False),
)
def test_a_tree_that_takes_too_long_is_stopped_and_leaves_nothing(
    tree: Tree, machine: Machine, seconds: float
) -> None:
    async def main() -> None:
        async with machine.runtime() as runtime:
            account = Account(runtime)
            root = make_step(tree, account).with_options(timeout=seconds, retry=1)
            result = await Pipeline("p").add_step(root, "root", {"tree": tree}).run(runtime=runtime)
            assert result.step_results["root"].status in ("succeeded", "failed", "timed_out")
            account.check_end()

    run_virtually(main())
