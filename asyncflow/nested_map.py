"""Many nested calls at once: what ``StepContext.map`` gives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from asyncflow.errors import GraphError

__all__ = ["NestedMap", "OnError"]

OnError = Literal["raise", "yield"]
_CONCURRENCY = 100


class Caller(Protocol):
    """What makes the calls: a step's context."""

    async def call(self, step: Any, *args: Any, key: Any = None, **kwargs: Any) -> Any: ...

    async def run(self, pipeline: Any, inputs: Any = None, *, key: Any = None) -> Any: ...


class NestedMap:
    """Await it for the values in input order, or iterate over it for ``(key, value)``."""

    def __init__(
        self,
        caller: Caller,
        step: Any,
        items: Iterable[Any],
        key: Callable[[Any], Any] | None,
        concurrency: int | None,
        ordered: bool,
        on_error: OnError,
        constant: Mapping[str, Any],
    ) -> None:
        if on_error not in ("raise", "yield"):
            raise ValueError(f"on_error is 'raise' or 'yield', not {on_error!r}")
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency takes a whole number of 1 or more, got {concurrency!r}")
        self._caller = caller
        self._step = step
        self._items = items
        self._key = key
        self._concurrency = concurrency or _CONCURRENCY
        self._ordered = ordered
        self._on_error = on_error
        self._constant = constant

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.values().__await__()

    async def values(self) -> list[Any]:
        """The values in input order."""
        found = {index: value async for index, _, value in self._results(ordered=False)}
        return [found[index] for index in sorted(found)]

    async def __aiter__(self) -> AsyncIterator[tuple[Any, Any]]:
        async for _, key, value in self._results(ordered=self._ordered):
            yield key, value

    async def _results(self, *, ordered: bool) -> AsyncIterator[tuple[int, Any, Any]]:
        """Index, key and value of each item, at most ``concurrency`` of them under way."""
        items = self._keyed()
        under_way: deque[asyncio.Task[tuple[int, Any, Any]]] = deque()
        try:
            while True:
                for index, key, item in items:
                    under_way.append(asyncio.ensure_future(self._one(index, key, item)))
                    if len(under_way) >= self._concurrency:
                        break
                if not under_way:
                    return
                task = under_way[0] if ordered else await _first(under_way)
                result = await task
                under_way.remove(task)
                yield result
        finally:
            await _cancel_all(under_way)

    def _keyed(self) -> Iterator[tuple[int, Any, Any]]:
        for index, item in enumerate(self._items):
            if self._key is not None:
                yield index, self._key(item), item
            elif isinstance(item, str | int):
                yield index, item, item
            else:
                raise GraphError(
                    f"map() has no key for an item of type {type(item).__name__}; pass key=, a "
                    "function that tells items apart"
                )

    async def _one(self, index: int, key: Any, item: Any) -> tuple[int, Any, Any]:
        try:
            if hasattr(self._step, "request"):
                value = await self._caller.run(self._step, item, key=key)
            else:
                value = await self._caller.call(self._step, item, key=key, **self._constant)
        except Exception as error:
            if self._on_error == "raise":
                raise
            value = error
        return index, key, value


async def _first(under_way: Iterable[asyncio.Task[Any]]) -> asyncio.Task[Any]:
    done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    return next(iter(done))


async def _cancel_all(under_way: Iterable[asyncio.Task[Any]]) -> None:
    tasks = [task for task in under_way if not task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
