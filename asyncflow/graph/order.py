"""Topological order: stable in declaration order, group by group, free of recursion."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Sequence

__all__ = ["children_of", "find_cycles", "topological_order"]

NO_CHILDREN: tuple[int, ...] = ()
_CHUNK = 1024


def children_of(parents: Sequence[tuple[int, ...]]) -> Generator[None, None, list[Sequence[int]]]:
    """Who depends on each node; leaves share one empty tuple."""
    children: list[Sequence[int]] = [NO_CHILDREN] * len(parents)
    for index, above in enumerate(parents):
        if not index % _CHUNK:
            yield
        for parent in above:
            known = children[parent]
            if isinstance(known, list):
                known.append(index)
            else:
                children[parent] = [index]
    return children


def topological_order(
    parents: Sequence[tuple[int, ...]],
    children: Sequence[Sequence[int]],
    labels: Sequence[str | None] | None,
) -> Generator[None, None, Sequence[int]]:
    """Declaration order among what is ready, but first what is of the group just placed.

    Nodes on a cycle, and those below one, are left out.

    Args:
        parents, children: by node, without duplicates.
        labels: each node's execution group; None where no node has one.
    """
    if labels is None and (yield from _is_declared_in_order(parents)):
        return range(len(parents))
    placer = _Placer(parents, children, labels)
    for count in iter(placer.place_next, 0):
        if not count % _CHUNK:
            yield
    return placer.order


def _is_declared_in_order(parents: Sequence[tuple[int, ...]]) -> Generator[None, None, bool]:
    for index, above in enumerate(parents):
        if above and max(above) >= index:
            return False
        if not index % _CHUNK:
            yield
    return True


class _Placer:
    def __init__(
        self,
        parents: Sequence[tuple[int, ...]],
        children: Sequence[Sequence[int]],
        labels: Sequence[str | None] | None,
    ) -> None:
        self.children = children
        self.labels = labels or [None] * len(parents)
        self.unplaced = [len(above) for above in parents]
        self.order: list[int] = []
        self.placed = bytearray(len(parents))
        self.ready = [index for index, count in enumerate(self.unplaced) if not count]
        self.ready_by_label: dict[str, list[int]] = {}
        for index in self.ready:
            self._file(index)

    def _file(self, index: int) -> None:
        label = self.labels[index]
        if label is not None:
            heapq.heappush(self.ready_by_label.setdefault(label, []), index)

    def place_next(self) -> int:
        """Place one node; returns how many are placed, 0 when nothing is left."""
        index = self._pick()
        if index is None:
            return 0
        self.placed[index] = True
        self.order.append(index)
        for child in self.children[index]:
            self.unplaced[child] -= 1
            if not self.unplaced[child]:
                heapq.heappush(self.ready, child)
                self._file(child)
        return len(self.order)

    def _pick(self) -> int | None:
        label = self.labels[self.order[-1]] if self.order else None
        if label is not None and (found := self._pop(self.ready_by_label[label])) is not None:
            return found
        return self._pop(self.ready)

    def _pop(self, heap: list[int]) -> int | None:
        # A node stands in two heaps; the one it was not taken from is cleaned here.
        while heap:
            index = heapq.heappop(heap)
            if not self.placed[index]:
                return index
        return None


def find_cycles(
    parents: Sequence[tuple[int, ...]], placed: Sequence[int], *, at_most: int = 5
) -> list[list[int]]:
    """Some cycles among the nodes that could not be placed, each in the order of its edges."""
    left = set(range(len(parents))) - set(placed)
    cycles: list[list[int]] = []
    for start in sorted(left):
        if len(cycles) == at_most:
            break
        path = _walk_up(start, parents, left)
        left.difference_update(path)
        if cycle := _loop_of(parents, path):
            cycles.append(cycle)
    return cycles


def _walk_up(start: int, parents: Sequence[tuple[int, ...]], left: set[int]) -> list[int]:
    """Parents of parents that are left, until one repeats."""
    node = start
    seen: dict[int, None] = {}
    while node in left and node not in seen:
        seen[node] = None
        above = next((parent for parent in parents[node] if parent in left), None)
        if above is None:
            break
        node = above
    return list(seen)


def _loop_of(parents: Sequence[tuple[int, ...]], path: list[int]) -> list[int]:
    if not path:
        return []
    back = next((place for place, node in enumerate(path) if node in parents[path[-1]]), None)
    return [] if back is None else path[back:][::-1]
