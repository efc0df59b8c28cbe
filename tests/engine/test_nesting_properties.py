"""Whatever the tree of nested work and however little there is: it ends, and accounts close."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Pipeline, Runtime, StepContext, step
from tests.virtual_time import run_virtually


class Tree(msgspec.Struct, frozen=True):
    """One nested call: what it asks for, and the calls that it makes."""

    cpus: int
    thread: bool
    mapped: bool
    below: tuple[Tree, ...] = ()

    @property
    def size(self) -> int:
        return 1 + sum(tree.size for tree in self.below)


def trees() -> st.SearchStrategy[Tree]:
    def grown(below: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        children = st.lists(below, max_size=3).map(tuple)
        return st.builds(Tree, st.integers(0, 2), st.booleans(), st.booleans(), children)

    return st.recursive(
        st.builds(Tree, st.integers(0, 2), st.booleans(), st.booleans()), grown, max_leaves=12
    )


class Account:
    """Looks at the limiter each time that a step begins or goes on."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def check(self) -> None:
        if self._runtime._limiter is not None:
            self._runtime._limiter.validate()

    def check_end(self) -> None:
        self.check()
        limiter, scheduler = self._runtime._limiter, self._runtime._scheduler
        assert scheduler is not None
        assert (scheduler.in_flight, scheduler.nesting.waiting) == (0, 0)
        if limiter is not None:
            assert not limiter.waiting()
            assert limiter.statistics().leases == 0


def make(tree: Tree, account: Account) -> Any:
    """A step that counts the calls of its tree by making them."""

    async def of_coroutine(tree: Tree, context: StepContext) -> int:
        account.check()
        await asyncio.sleep(1)
        calls = [make(below, account) for below in tree.below]
        pairs = list(enumerate(zip(calls, tree.below, strict=True)))
        if tree.mapped:
            found = [
                await context.map(call, [below], key=partial(_always, k))
                for k, (call, below) in pairs
            ]
            values = [value for values in found for value in values]
        else:
            values = await asyncio.gather(
                *(context.call(call, below, key=k) for k, (call, below) in pairs)
            )
        account.check()
        return 1 + int(sum(values))

    def of_thread(tree: Tree, context: StepContext) -> int:
        return 1 + sum(
            int(context.call_sync(make(below, account), below, key=k))
            for k, below in enumerate(tree.below)
        )

    resources = {"cpu": tree.cpus} if tree.cpus else None
    return step(of_thread if tree.thread else of_coroutine, name="call", resources=resources)


@given(tree=trees(), cpus=st.integers(1, 3), threads=st.integers(1, 2), window=st.integers(1, 3))
def test_every_tree_of_nested_work_ends(tree: Tree, cpus: int, threads: int, window: int) -> None:
    async def main() -> None:
        limits = {"max_cpus": cpus, "max_threads": threads, "max_concurrency": window}
        async with Runtime(**limits) as runtime:  # type: ignore[arg-type]
            account = Account(runtime)
            pipeline = Pipeline("p").add_step(make(tree, account), "root", params={"tree": tree})
            result = await pipeline.run(runtime=runtime)
            assert result["root"] == tree.size
            account.check_end()

    run_virtually(main())


def _always(key: int, _: object) -> int:
    return key
