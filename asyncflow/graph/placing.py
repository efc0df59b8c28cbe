"""Who waits for whom beyond values: ``after`` with inlined pipelines, and clean-up steps.

Running after a pipeline is running after its ends, and a pipeline that runs after something
has its roots wait for that: a thousand steps after a thousand others are no million edges.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence

from asyncflow.graph.names import nearest
from asyncflow.graph.node import Node
from asyncflow.graph.scope import Scope, scopes_of
from asyncflow.graph.wiring import CHUNK, Wiring

__all__ = ["place_cleanup", "place_pipelines"]


def place_pipelines(
    nodes: Sequence[Node], wiring: Wiring, problems: list[str], absent: Collection[str]
) -> Generator[None, None, None]:
    """Add the edges of ``after`` where either side is an inlined pipeline.

    Args:
        nodes, wiring: what is built.
        problems: gets a sentence for each name that is neither step nor pipeline.
        absent: nodes that may be named though they do not run.
    """
    members = yield from _members_by_scope(nodes)
    if members or wiring.after:
        _Placing(nodes, wiring, problems, absent, members).place()


def _members_by_scope(nodes: Sequence[Node]) -> Generator[None, None, dict[Scope, list[int]]]:
    members: dict[Scope, list[int]] = {}
    for index, node in enumerate(nodes):
        if not index % CHUNK:
            yield
        for scope in scopes_of(node.scope):
            members.setdefault(scope, []).append(index)
    return members


class _Placing:
    def __init__(
        self,
        nodes: Sequence[Node],
        wiring: Wiring,
        problems: list[str],
        absent: Collection[str],
        members: Mapping[Scope, list[int]],
    ) -> None:
        self.nodes = nodes
        self.wiring = wiring
        self.problems = problems
        self.absent = absent
        self.members = {scope.path: chosen for scope, chosen in members.items()}
        self.scopes = list(members)

    def place(self) -> None:
        for index, names in self.wiring.after.items():
            step = f"step {self.nodes[index].name!r}"
            self._have_wait([index], self._all_before(step, names))
        for scope in self.scopes:
            if scope.after:
                before = list(self._all_before(f"pipeline {scope.path!r}", scope.after))
                self._have_wait(self._roots(self.members[scope.path]), before)

    def _have_wait(self, waiting: Iterable[int], before: Iterable[int]) -> None:
        more = tuple(before)
        for index in waiting:
            known = self.wiring.parents[index]
            self.wiring.parents[index] = tuple(dict.fromkeys((*known, *more)))
            if index in self.wiring.awaited:
                self.wiring.awaited[index].update(more)

    def _all_before(self, who: str, names: Iterable[str]) -> Iterator[int]:
        for name in names:
            if name in self.wiring.index:
                yield self.wiring.index[name]
            elif who == f"pipeline {name!r}":
                self.problems.append(f"{who} runs after itself; take it out of after=")
            elif name in self.members:
                yield from self._ends(self.members[name])
            elif not self._is_absent(name):
                self.problems.append(
                    f"{who} runs after {name!r}, which is no step of this pipeline"
                    + nearest(
                        name,
                        [*self.wiring.index, *self.members],
                        "add that step, or take it out of after=",
                    )
                )

    def _is_absent(self, name: str) -> bool:
        return name in self.absent or any(other.startswith(f"{name}/") for other in self.absent)

    def _ends(self, members: Sequence[int]) -> list[int]:
        """Those whose end is the end of all; a failure may pass by clean-up, so that ends none."""
        usual = [index for index in members if self.nodes[index].step.when == "success"]
        followed = {parent for index in usual for parent in self.wiring.parents[index]}
        return [
            index
            for index in members
            if index not in followed or self.nodes[index].step.when != "success"
        ]

    def _roots(self, members: Sequence[int]) -> list[int]:
        """Those that wait for no other member; clean-up that waits for all of them does."""
        own = set(members)
        return [
            index
            for index in members
            if own.isdisjoint(self.wiring.parents[index])
            and (self.wiring.parents[index] or self.nodes[index].step.when == "success")
        ]


# -- clean-up ----------------------------------------------------------------------------


def place_cleanup(nodes: Sequence[Node], wiring: Wiring) -> Generator[None, None, dict[int, bool]]:
    """Have clean-up steps that wait for nothing wait for the end of everything else.

    In an inlined pipeline that is everything else in there.

    Returns:
        The nodes with a ``when``, and whether that was done for them.
    """
    cleanup: dict[int, bool] = {}
    by_scope: dict[Scope | None, list[int]] = {}
    for index, node in enumerate(nodes):
        if not index % CHUNK:
            yield
        if node.step.when != "success":
            cleanup[index] = not wiring.parents[index]
            if cleanup[index]:
                by_scope.setdefault(node.scope, []).append(index)
    # From the inside out: clean-up of a pipeline is a part of the one around it.
    for scope in sorted(by_scope, key=lambda scope: -len(list(scopes_of(scope)))):
        yield from _wait_for_the_rest(nodes, wiring, cleanup, scope, by_scope[scope])
    return cleanup


def _wait_for_the_rest(
    nodes: Sequence[Node],
    wiring: Wiring,
    cleanup: Mapping[int, bool],
    scope: Scope | None,
    at_end: list[int],
) -> Generator[None, None, None]:
    below = yield from _below(wiring, at_end)
    everything = range(len(nodes))
    among = (
        everything
        if scope is None
        else [index for index in everything if scope in scopes_of(nodes[index].scope)]
    )
    followed = {
        parent
        for index in among
        if index not in cleanup and index not in below
        for parent in wiring.parents[index]
    }
    left_out = cleanup.keys() | below
    ends = tuple(index for index in among if index not in followed and index not in left_out)
    for index in at_end:
        wiring.parents[index] = ends


def _below(wiring: Wiring, above: list[int]) -> Generator[None, None, frozenset[int]]:
    """What waits for clean-up that waits for everything else: it is not part of that."""
    children: dict[int, list[int]] = {}
    for index, parents in enumerate(wiring.parents):
        if not index % CHUNK:
            yield
        for parent in parents:
            children.setdefault(parent, []).append(index)
    found: set[int] = set()
    to_follow = list(above)
    while to_follow:
        for child in children.get(to_follow.pop(), ()):
            if child not in found:
                found.add(child)
                to_follow.append(child)
    return frozenset(found)
