"""The reference: the same graph run by hand with a task group, and nothing slower."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

__all__ = ["by_hand"]


async def by_hand(deps: Sequence[Sequence[int]], fn: Callable[..., Awaitable[Any]]) -> list[Any]:
    """Run ``fn`` once for each step, on its parents' values, in a task each.

    Args:
        deps: for each step the numbers of its parents.
        fn: called with the parents' values, in that order.
    """
    child: list[list[int]] = [[] for _ in deps]
    wait, res = [len(d) for d in deps], [None] * len(deps)
    for i, d in enumerate(deps):
        for j in d:
            child[j].append(i)
    async with asyncio.TaskGroup() as tg:

        async def one(i: int) -> None:
            res[i] = await fn(*[res[j] for j in deps[i]])
            for c in child[i]:
                wait[c] -= 1
                if not wait[c]:
                    tg.create_task(one(c))

        for i, w in enumerate(wait):
            if not w:
                tg.create_task(one(i))
    return res
