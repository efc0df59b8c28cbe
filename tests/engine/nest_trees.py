"""Random trees of nested work: what each node asks for, how it asks, and what must come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st

from asyncflow import Pipeline, Runtime, Step, StepContext, step

__all__ = ["UNIT", "Account", "Boom", "Calls", "Machine", "Tree", "fitted", "make_step", "trees"]

UNIT = 2**20


class Boom(Exception):
    """What a node raises that was told to fail."""


class Calls(msgspec.Struct, frozen=True):
    """How a node asks for those below it.

    ``how``: one after the other (``"each"``), all at once (``"gather"``), by an awaited map
    (``"map"``), by a map that is iterated over (``"iterate"``), as pipelines of their own
    (``"run"``) or as a map over these (``"map runs"``).
    """

    how: str = "gather"
    concurrency: int | None = None
    ordered: bool = True
    on_error: str = "yield"


class Tree(msgspec.Struct, frozen=True):
    """One nested call: what it asks for, and the calls that it makes.

    ``memory`` counts UNITs, ``gpu`` halves of a device, ``slots`` what it takes of a named limit
    of 3; ``fails`` raises :class:`Boom` at its
    end, ``flaky`` only at the first try, before it asks for anything.
    """

    cpus: int = 0
    memory: int = 0
    gpu: int = 0
    slots: int = 0
    thread: bool = False
    fails: bool = False
    flaky: bool = False
    calls: Calls = Calls()
    below: tuple[Tree, ...] = ()

    @property
    def value(self) -> int:
        """What it gives: 1 for itself, what those below give, 1,000 for each that fails."""
        if self.calls.how == "map" and self.calls.on_error == "raise" and self._some_fail:
            return 1
        return 1 + sum(1_000 if tree.fails else tree.value for tree in self.below)

    @property
    def _some_fail(self) -> bool:
        return any(tree.fails for tree in self.below)


class Machine(msgspec.Struct, frozen=True):
    """What there is to share; ``memory`` counts UNITs."""

    cpus: int = 1
    threads: int = 1
    window: int = 1
    memory: int = 4
    gpus: int = 1

    def runtime(self) -> Runtime:
        return Runtime(
            max_cpus=self.cpus,
            max_threads=self.threads,
            max_concurrency=self.window,
            max_memory=self.memory * UNIT,
            max_gpus=self.gpus,
            limits={"slots": 3},
        )


HOW = st.sampled_from(["each", "gather", "map", "iterate", "run", "map runs"])
CALLS = st.builds(
    Calls,
    HOW,
    st.sampled_from([None, 1, 2]),
    st.booleans(),
    st.sampled_from(["raise", "yield"]),
)


def trees(**amounts: st.SearchStrategy[int]) -> st.SearchStrategy[Tree]:
    """Trees whose nodes ask for these amounts."""

    def node(below: st.SearchStrategy[tuple[Tree, ...]]) -> st.SearchStrategy[Tree]:
        flag, rarely = st.booleans(), st.sampled_from([False, False, False, True])
        return st.builds(
            Tree, thread=flag, fails=rarely, flaky=rarely, calls=CALLS, below=below, **amounts
        )

    def grown(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        return node(st.lists(children, max_size=3).map(tuple))

    return st.recursive(node(st.just(())), grown, max_leaves=10)


def fitted(tree: Tree, machine: Machine, held: tuple[int, int] = (0, 0)) -> Tree:
    """The tree with amounts for which nobody waits who holds some: below one that holds memory
    or devices nobody asks for more of them than it does."""
    most_memory, most_gpu = held[0] or machine.memory, held[1] or 2 * machine.gpus
    memory, gpu = min(tree.memory, most_memory), min(tree.gpu, most_gpu)
    if gpu > 2:
        gpu = 2
    holds = (memory or held[0], gpu or held[1])
    below = tuple(fitted(child, machine, holds) for child in tree.below)
    return msgspec.structs.replace(
        tree, cpus=min(tree.cpus, machine.cpus), memory=memory, gpu=gpu, below=below
    )


class Account:
    """Looks at the books of a runtime: each time that a step begins or goes on, and at the end."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def check(self) -> None:
        """Free and held are the total."""
        if self._runtime._limiter is not None:
            self._runtime._limiter.validate()

    def check_end(self) -> None:
        """Nothing is held, counted or waited for any more."""
        self.check()
        limiter, scheduler = self._runtime._limiter, self._runtime._scheduler
        assert scheduler is not None
        assert (scheduler.in_flight, scheduler.nesting.waiting) == (0, 0)
        assert not any(scheduler.nesting.lent_workers.values())
        assert not scheduler.runs
        assert scheduler.lanes["thread"].statistics().busy == 0
        if limiter is not None:
            found = limiter.statistics()
            assert (found.leases, found.waiting) == (0, 0)
            assert found.cpu_millis_free == found.cpu_millis_total
            assert found.memory_bytes_free == found.memory_bytes_total
            assert found.gpu_micro_units_free == found.gpu_micro_units_total


def make_step(tree: Tree, account: Account) -> Step[..., Any]:
    """A step that gives the value of its tree by making its calls."""

    async def of_coroutine(tree: Tree, context: StepContext) -> int:
        account.check()
        await asyncio.sleep(1)
        _fail_first(tree, context)
        values = await _call_all(tree, context, account)
        account.check()
        return _ended(tree, values)

    def of_thread(tree: Tree, context: StepContext) -> int:
        _fail_first(tree, context)
        return _ended(tree, list(_call_all_sync(tree, context, account)))

    resources: dict[str, Any] = {"cpu": tree.cpus, "memory": tree.memory * UNIT}
    if tree.gpu:
        resources["gpu"] = 1 if tree.gpu >= 2 else 0.5
    function = of_thread if tree.thread else of_coroutine
    wanted = {key: amount for key, amount in resources.items() if amount}
    made: Step[..., Any] = step(function, name="call", resources=wanted or None)
    return made.with_options(
        retry=int(tree.flaky),
        lane="thread" if tree.thread else None,
        limits={"slots": tree.slots} if tree.slots else None,
    )


def _fail_first(tree: Tree, context: StepContext) -> None:
    if tree.flaky and context.attempt == 1:
        raise Boom("at the first try")


def _ended(tree: Tree, values: list[Any]) -> int:
    if tree.fails:
        raise Boom("as told")
    return 1 + sum(1_000 if isinstance(value, Exception) else value for value in values)


def _one(account: Account) -> Any:
    """The step of a map: its tree comes as its item, and it makes the call for it."""

    @step(name="item")
    async def item(tree: Tree, context: StepContext) -> int:
        return int(await context.call(make_step(tree, account), tree))

    return item


def _pipeline(tree: Tree, account: Account) -> Pipeline:
    return Pipeline("below", inputs=["tree"]).add_step(make_step(tree, account), "root")


async def _call_all(tree: Tree, context: StepContext, account: Account) -> list[Any]:
    calls, below = tree.calls, list(enumerate(tree.below))
    if calls.how == "run":
        runs = [
            await context.run(_pipeline(child, account), {"tree": child}, key=k)
            for k, child in below
        ]
        return [_value_of(result) for result in runs]
    if calls.how == "gather":
        found = [context.call(make_step(child, account), child, key=k) for k, child in below]
        return list(await asyncio.gather(*found, return_exceptions=True))
    if calls.how == "each":
        return [await _caught(context.call(make_step(c, account), c, key=k)) for k, c in below]
    return await _map_all(tree, context, account)


async def _map_all(tree: Tree, context: StepContext, account: Account) -> list[Any]:
    calls = tree.calls
    if calls.how == "map runs":
        pipeline = Pipeline("items", inputs=["tree"]).add_step(_one(account), "root")
        results = await context.map(
            pipeline,
            [{"tree": child} for child in tree.below],
            key=_counting(),
            concurrency=calls.concurrency,
            on_error="yield",
        )
        return [_value_of(result) for result in results]
    found = context.map(
        _one(account),
        tree.below,
        key=_counting(),
        concurrency=calls.concurrency,
        ordered=calls.ordered,
        on_error="yield" if calls.how == "iterate" else calls.on_error,  # type: ignore[arg-type]
    )
    if calls.how == "iterate":
        by_key = {key: value async for key, value in found}
        assert len(by_key) == len(tree.below)
        return list(by_key.values())
    try:
        return await found
    except Boom:
        return []


def _call_all_sync(tree: Tree, context: StepContext, account: Account) -> Iterator[Any]:
    calls = tree.calls
    if calls.how in ("map", "iterate"):
        try:
            yield from context.map_sync(
                _one(account),
                tree.below,
                key=_counting(),
                concurrency=calls.concurrency,
                on_error=calls.on_error if calls.how == "map" else "yield",
            )
        except Boom:
            return
    for k, child in enumerate(tree.below):
        if calls.how in ("run", "map runs"):
            yield _value_of(context.run_sync(_pipeline(child, account), {"tree": child}, key=k))
        elif calls.how in ("each", "gather"):
            try:
                yield context.call_sync(make_step(child, account), child, key=k)
            except Boom as error:
                yield error


async def _caught(call: Any) -> Any:
    try:
        return await call
    except Boom as error:
        return error


def _value_of(result: Any) -> Any:
    if isinstance(result, Exception):
        return result
    return result["root"] if result.success else Boom("a nested run failed")


def _counting() -> Any:
    """Keys for items that have none of their own: how many came before."""
    numbers = iter(range(1_000))
    return lambda _: next(numbers)
