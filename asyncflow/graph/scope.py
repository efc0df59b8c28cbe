"""Pipelines inlined into pipelines: where their nodes stand, and what is said about them.

The nodes of an inlined pipeline are nodes of the outer one, called ``prefix/node``. What
their functions and their wiring call by name keeps the meaning it had in the pipeline they
come from; :mod:`asyncflow.graph.names` follows such a name outwards, scope by scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from asyncflow.graph.node import Node

__all__ = ["Scope", "inlined", "kept_of_scopes", "scopes_of"]


class Scope(msgspec.Struct, frozen=True, eq=False):
    """One inlining of a pipeline.

    Args:
        name: the prefix, without those around it.
        pipeline: the name of what was inlined.
        inputs: what its steps ask for → an asset or a run input of the pipeline around it.
        outputs: its assets → what they are called around it, instead of ``prefix/asset``.
        declared: its declared run inputs with their types; None where it declares none, and
            whatever it lacks is looked for around it.
        context: values that its steps find by name.
        keeps: the assets and nodes whose values a result keeps; None for all.
        after: nodes and inlined pipelines, by full name, that must be done first.
        around: the scope it stands in; None for the outermost pipeline.
    """

    name: str
    pipeline: str
    inputs: Mapping[str, str] = {}
    outputs: Mapping[str, str] = {}
    declared: Mapping[str, Any] | None = None
    context: Mapping[str, Any] = {}
    keeps: tuple[str, ...] | None = None
    after: tuple[str, ...] = ()
    around: Scope | None = None

    @property
    def path(self) -> str:
        """The whole prefix, such as ``outer/inner``."""
        return self.name if self.around is None else f"{self.around.path}/{self.name}"

    def name_around(self, asset: str) -> str:
        """What an asset of this scope is called in the scope around it."""
        return self.outputs.get(asset) or f"{self.name}/{asset}"

    def name_outside(self, asset: str) -> str:
        """What an asset of this scope is called in the outermost pipeline."""
        name = self.name_around(asset)
        return name if self.around is None else self.around.name_outside(name)


def scopes_of(scope: Scope | None) -> Iterator[Scope]:
    """A scope and those around it, from the inside out."""
    while scope is not None:
        yield scope
        scope = scope.around


def inlined(nodes: Iterable[Node], scope: Scope) -> list[Node]:
    """The nodes of a pipeline as they stand in another one."""
    scopes: dict[Scope | None, Scope] = {None: scope}
    return [
        msgspec.structs.replace(
            node,
            name=f"{scope.name}/{node.name}",
            after=_prefixed(scope, node.after),
            scope=_moved(node.scope, scope, scopes),
        )
        for node in nodes
    ]


def _prefixed(scope: Scope, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{scope.name}/{name}" for name in names)


def _moved(inner: Scope | None, scope: Scope, moved: dict[Scope | None, Scope]) -> Scope:
    """The scope of a node that stood in an inlined pipeline already: it goes along."""
    if inner not in moved:
        assert inner is not None
        moved[inner] = msgspec.structs.replace(
            inner, after=_prefixed(scope, inner.after), around=_moved(inner.around, scope, moved)
        )
    return moved[inner]


def kept_of_scopes(nodes: Sequence[Node]) -> tuple[str, ...] | None:
    """The assets whose values are kept where only inlined pipelines have something to say."""
    if all(scope.keeps is None for node in nodes for scope in scopes_of(node.scope)):
        return None
    return tuple(dict.fromkeys(name for node in nodes for name in _kept_of(node)))


def _kept_of(node: Node) -> Iterator[str]:
    for asset, outside in zip(node.output_names, node.asset_names, strict=True):
        name, own_name = asset, node.own_name
        for scope in scopes_of(node.scope):
            shown = name in scope.outputs or scope.keeps is None
            if not shown and not {name, own_name} & set(scope.keeps or ()):
                break
            name, own_name = scope.name_around(name), f"{scope.name}/{own_name}"
        else:
            yield outside
