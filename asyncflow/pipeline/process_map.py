"""The blocking map over worker processes of its own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from asyncflow.lanes.lane import Call
from asyncflow.lanes.process.lane import ProcessLane

__all__ = ["map_in_processes"]

T = TypeVar("T")
R = TypeVar("R")


class _ItemCall(Call, eq=False):
    """A call on one item; ``run`` is the map, for which what ``fn`` captures does not change."""

    place: int = 0
    run: Any = None


def map_in_processes(fn: Callable[[T], R], items: Iterable[T], workers: int) -> list[R]:
    """Call ``fn`` on every item in so many processes; blocks, on an event loop of its own.

    Raises:
        Exception: the first error of a call, once the other processes have been killed.
    """

    async def run() -> list[R]:
        return await _Map(fn, items, workers).run()

    return asyncio.run(run())


class _Map:
    """One map: items are read one by one, as workers come free."""

    def __init__(self, fn: Callable[..., Any], items: Iterable[Any], workers: int) -> None:
        loop = asyncio.get_running_loop()
        self._fn = fn
        self._items: Iterator[tuple[int, Any]] = enumerate(items)
        self._workers = workers
        self._lane = ProcessLane(loop, loop.time, max_workers=workers, worker_name="parallel_map")
        self._results: dict[int, Any] = {}
        self._in_progress = 0
        self._name = getattr(fn, "__name__", "parallel_map")
        self._over: asyncio.Future[None] = loop.create_future()

    async def run(self) -> list[Any]:
        try:
            self._start_some()
            await self._over
            await self._lane.finish()
        finally:
            self._lane.close()
        return [self._results[place] for place in sorted(self._results)]

    def _start_some(self) -> None:
        """Begin on as many items as there are workers for; at the end of them all, end."""
        while self._in_progress < self._workers and not self._over.done():
            try:
                taken = next(self._items, None)
            except BaseException as error:  # noqa: BLE001 - the items are the user's
                self._fail(error)
                return
            if taken is None:
                if not self._in_progress:
                    self._over.set_result(None)
                return
            self._in_progress += 1
            self._lane.start(self._call(*taken))

    def _call(self, place: int, item: Any) -> _ItemCall:
        return _ItemCall(
            self._fn,
            [item],
            None,
            contextvars.Context(),
            self._name,
            self._done,
            place=place,
            run=self,
        )

    def _done(self, call: _ItemCall) -> None:
        self._in_progress -= 1
        if call.error is not None:
            self._fail(call.error)
        else:
            self._results[call.place] = call.value
            if not self._over.done():
                # In a turn of its own: a call that cannot be sent ends while it is started.
                asyncio.get_running_loop().call_soon(self._start_some)

    def _fail(self, error: BaseException) -> None:
        if not self._over.done():
            self._over.set_exception(error)
