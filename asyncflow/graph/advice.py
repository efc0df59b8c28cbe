"""Warnings about groups that cost time, and what to change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from asyncflow.graph.grouping import Units
from asyncflow.graph.node import Node

__all__ = ["advise"]

# Each split costs a walk over what stands between its halves; a graph with more of them
# has one cause, and a hundred sentences say it.
_MOST_SPLITS = 100
# Ten say it as well, and leave the reader the rest of the log.
_MOST_OF_A_KIND = 10


def advise(
    nodes: Sequence[Node],
    order: Sequence[int],
    parents: Sequence[tuple[int, ...]],
    units: Units,
) -> Iterator[str]:
    """A sentence for each group that serialises, was split needlessly, or hides its device."""
    if units.members is not None:
        yield from _some_of(_serialised(nodes, parents, units), "serialise steps, too")
        yield from _some_of(_splits(nodes, order, parents, units), "were left like that, too")


def _some_of(sentences: Iterator[str], what: str) -> Iterator[str]:
    yield from itertools.islice(sentences, _MOST_OF_A_KIND)
    if more := sum(1 for _ in sentences):
        yield f"{more:,} more group{'' if more == 1 else 's'} {what}"


def _serialised(
    nodes: Sequence[Node], parents: Sequence[tuple[int, ...]], units: Units
) -> Iterator[str]:
    for unit, group in units.groups.items():
        members = units.members_of(unit)
        for first, second in itertools.pairwise(members):
            # In an order that follows the edges, all members are forced to run one after
            # the other exactly when each depends on the one before it.
            if first not in parents[second]:
                yield (
                    f"group {group.group_name!r} runs {nodes[first].name!r} and "
                    f"{nodes[second].name!r} one after the other although they could run at the "
                    "same time; take one out of the group if that costs time"
                )
                break


def _splits(
    nodes: Sequence[Node],
    order: Sequence[int],
    parents: Sequence[tuple[int, ...]],
    units: Units,
) -> Iterator[str]:
    place = {index: at for at, index in enumerate(order)}
    previous: dict[str, int] = {}
    looked = 0
    for unit, group in units.groups.items():
        earlier = previous.get(group.label)
        previous[group.label] = unit
        if earlier is None or looked >= _MOST_SPLITS:
            continue
        looked += 1
        first, second = units.members_of(earlier), units.members_of(unit)
        between = order[place[first[-1]] + 1 : place[second[0]]]
        blocker = _avoidable_blocker(first, between, second[0], parents)
        if blocker is not None:
            yield (
                f"{nodes[second[0]].name!r} left group {group.label} because "
                f"{nodes[blocker].name!r} is declared after {nodes[first[0]].name!r}; "
                "declare it first"
            )


def _avoidable_blocker(
    first: Sequence[int],
    between: Sequence[int],
    newcomer: int,
    parents: Sequence[tuple[int, ...]],
) -> int | None:
    """What the newcomer waited for, if none of that depends on the group's first half."""
    below = set(first)
    for index in between:
        if not below.isdisjoint(parents[index]):
            below.add(index)
    stands_between = set(between)
    needed: set[int] = set()
    found = [parent for parent in parents[newcomer] if parent in stands_between]
    while found:
        index = found.pop()
        if index not in needed:
            needed.add(index)
            found.extend(parent for parent in parents[index] if parent in stands_between)
    if not needed or needed & below:
        return None
    # What waits for nothing in between was ready when the first half began, and came second
    # only because it is declared later.
    return min(index for index in needed if needed.isdisjoint(parents[index]))
