"""Many nested calls at once: what ``StepContext.map`` gives."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from typing import Any, Literal, Protocol

from asyncflow.errors import GraphError

__all__ = ["NestedMap", "OnError"]

OnError = Literal["raise", "yield"]
_CONCURRENCY = 100
_Task = asyncio.Task[tuple[int, Any, Any]]


class Caller(Protocol):
    """What makes the calls: a step's context."""

    @property
    def cancelled(self) -> bool: ...

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
        async with aclosing(self._results(ordered=False)) as results:
            found = {index: value async for index, _, value in results}
        return [found[index] for index in sorted(found)]

    async def __aiter__(self) -> AsyncIterator[tuple[Any, Any]]:
        async with aclosing(self._results(ordered=self._ordered)) as results:
            async for _, key, value in results:
                yield key, value

    async def _results(self, *, ordered: bool) -> AsyncGenerator[tuple[int, Any, Any]]:
        """Index, key and value of each item, at most ``concurrency`` of them under way."""
        items = self._keyed()
        under_way: dict[_Task, None] = {}
        ended: asyncio.Queue[_Task] = asyncio.Queue()
        try:
            while True:
                for index, key, item in items:
                    task = asyncio.ensure_future(self._one(index, key, item))
                    task.add_done_callback(ended.put_nowait)
                    under_way[task] = None
                    if len(under_way) >= self._concurrency:
                        break
                if not under_way:
                    return
                task = next(iter(under_way)) if ordered else await ended.get()
                result = await task
                del under_way[task]
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
            value = await self._value_of(key, item)
        except Exception as error:
            if self._on_error == "raise" or self._caller.cancelled:
                raise
            value = error
        return index, key, value

    async def _value_of(self, key: Any, item: Any) -> Any:
        if not hasattr(self._step, "request"):
            return await self._caller.call(self._step, item, key=key, **self._constant)
        if not isinstance(item, Mapping):
            raise TypeError(
                f"map() gives each item to pipeline {self._step.name!r} as its inputs, a mapping; "
                f"item {key!r} is of type {type(item).__name__}"
            )
        result = await self._caller.run(self._step, {**self._constant, **item}, key=key)
        result.raise_for_failure()
        return result


async def _cancel_all(under_way: Iterable[_Task]) -> None:
    """Cancel them and wait for their ends; what else failed meanwhile is not told any more."""
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
