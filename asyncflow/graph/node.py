"""A step placed in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from asyncflow.graph.scope import Scope
from asyncflow.step import Step

__all__ = ["MISSING", "Node"]


class _Missing:
    """The value of an asset that was not produced; ``None`` is a value like any other."""

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final = _Missing()


class Node(msgspec.Struct, frozen=True):
    """One use of a step in a pipeline, under its own name and with its own wiring.

    ``inputs`` and ``outputs`` replace those of the step where they are not None; ``map``
    names the asset for each of whose elements it runs once. A node of an inlined pipeline has
    a ``scope``, in which ``inputs``, ``outputs`` and ``map`` are to be understood; ``name`` and
    ``after`` are full names.
    """

    name: str
    step: Step[..., Any]
    params: Mapping[str, Any] | None = None
    after: tuple[str, ...] = ()
    inputs: tuple[str, ...] | Mapping[str, str | tuple[str, ...]] | None = None
    outputs: tuple[str, ...] | None = None
    map: str | None = None
    scope: Scope | None = None

    @property
    def own_name(self) -> str:
        """Its name in the pipeline it was added to."""
        return self.name if self.scope is None else self.name[len(self.scope.path) + 1 :]

    @property
    def output_names(self) -> tuple[str, ...]:
        """What its function calls its outputs; one named after the node if none are declared."""
        return self.outputs or self.step.outputs or (self.own_name,)

    @property
    def asset_names(self) -> tuple[str, ...]:
        """The assets it produces, by their names in the outermost pipeline."""
        if self.scope is None:
            return self.outputs or self.step.outputs or (self.name,)
        return tuple(map(self.scope.name_outside, self.output_names))

    @property
    def execution_group(self) -> str | None:
        """The label of its group, which is another one in every inlining of a pipeline."""
        label = self.step.execution_group
        return label if label is None or self.scope is None else f"{self.scope.path}/{label}"

    @property
    def declared_inputs(self) -> tuple[str, ...] | Mapping[str, str | tuple[str, ...]] | None:
        declared = self.step.inputs if self.inputs is None else self.inputs
        if self.map is None or isinstance(declared, Mapping) or self.map in (declared or ()):
            return declared
        return (self.map, *(declared or ()))
