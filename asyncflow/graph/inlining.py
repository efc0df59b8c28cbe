"""What can be wrong with the way a pipeline is inlined into another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from asyncflow.graph.names import Names, nearest
from asyncflow.graph.node import Node
from asyncflow.graph.scope import Scope, scopes_of
from asyncflow.graph.wiring import Wiring

__all__ = ["check_pipelines"]


def check_pipelines(nodes: Sequence[Node], wiring: Wiring, problems: list[str]) -> None:
    """Look at the names of all inlined pipelines and at what is mapped to what."""
    made: dict[Scope, dict[str, None]] = {}
    for node in nodes:
        if node.scope is not None:
            _note_names(node, made)
            problems.extend(_made_twice(node))
    problems.extend(_clashes(made, wiring))
    for scope, assets in made.items():
        problems.extend(_unknown_inputs(scope, wiring.names, assets))
        problems.extend(_unknown_outputs(scope, assets))


def _note_names(node: Node, made: dict[Scope, dict[str, None]]) -> None:
    """Under what names a node and its assets are known, scope by scope."""
    names = [node.own_name, *node.output_names]
    for scope in scopes_of(node.scope):
        made.setdefault(scope, {}).update(dict.fromkeys(names))
        names = [f"{scope.name}/{names[0]}", *map(scope.name_around, names[1:])]


def _made_twice(node: Node) -> Iterator[str]:
    for name, count in Counter(node.asset_names).items():
        if count > 1:
            yield f"step {node.name!r} has two outputs that outputs= calls {name!r}; rename one"


def _clashes(scopes: Iterable[Scope], wiring: Wiring) -> Iterator[str]:
    for path, count in Counter(scope.path for scope in scopes).items():
        if count > 1:
            yield (
                f"{count} pipelines are inlined as {path!r}; give each a name of its own: "
                f"add_pipeline(…, '{path.rpartition('/')[2]}_2')"
            )
        if path in wiring.index:
            yield f"a step and an inlined pipeline are both called {path!r}; rename one"


def _unknown_inputs(scope: Scope, names: Names, assets: dict[str, None]) -> Iterator[str]:
    asked = names.asked.get(scope, {})
    known = [*asked, *(scope.declared or ())]
    for name in scope.inputs:
        if name in known:
            continue
        why = f"which nothing in {scope.pipeline!r} takes"
        if name in assets:
            why = f"which {scope.pipeline!r} makes itself"
        yield f"pipeline {scope.path!r}: inputs= names {name!r}, {why}" + nearest(
            name, known, "leave it out"
        )


def _unknown_outputs(scope: Scope, assets: dict[str, None]) -> Iterator[str]:
    said = [("outputs=", scope.outputs), (f"the outputs= of {scope.pipeline!r}", scope.keeps or ())]
    for where, names in said:
        for name in names:
            if name not in assets:
                yield (
                    f"pipeline {scope.path!r}: {where} names {name!r}, which is no asset of "
                    f"{scope.pipeline!r}" + nearest(name, assets, "leave it out")
                )
