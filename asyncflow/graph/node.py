"""A step placed in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

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
    names the asset for each of whose elements it runs once.
    """

    name: str
    step: Step[..., Any]
    params: Mapping[str, Any] | None = None
    after: tuple[str, ...] = ()
    inputs: tuple[str, ...] | Mapping[str, str | tuple[str, ...]] | None = None
    outputs: tuple[str, ...] | None = None
    map: str | None = None

    @property
    def asset_names(self) -> tuple[str, ...]:
        """The assets it produces; one named after the node where none are declared."""
        return self.outputs or self.step.outputs or (self.name,)

    @property
    def declared_inputs(self) -> tuple[str, ...] | Mapping[str, str | tuple[str, ...]] | None:
        declared = self.step.inputs if self.inputs is None else self.inputs
        if self.map is None or isinstance(declared, Mapping) or self.map in (declared or ()):
            return declared
        return (self.map, *(declared or ()))
